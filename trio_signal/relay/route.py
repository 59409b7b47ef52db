"""Routes: who is served directly and who by a media server, and what descriptions say. No I/O.

The broadcaster's replica alone decides, when a viewer joins. While a place is free, the viewer is
direct; otherwise it is relayed. Both stay as they are, so that no running video is interrupted. A
place that becomes free goes to the next newcomer.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, NamedTuple, TypedDict

import msgspec
from msgspec import Meta, Raw, Struct

from trio_signal.messages.identity import Member, Route

#: The dialect of WHIP publishers: their media go to the media server from the start, and no viewer
#: is served directly.
PUBLISHED = "whip"
#: Marks relay signals, in dialects that have others too.
RELAY = "relay"
#: Dialects whose unchanged clients accept a broadcast from a media server. Clients of `mesh` must
#: support it, as they also signal with the broadcaster about other things.
RELAYED_DIALECTS = frozenset({"stream", "live", "room"})
#: In these dialects, a viewer gets an offer only after it has asked for one, by an offer of its own
#: or otherwise.
ON_DEMAND = frozenset({"live", "room"})
#: In these dialects a signal is for a user: all peers of the user are served in the same way.
_BY_USER = frozenset({"live", "room"})

#: The longest candidate, in characters, and the highest number of a media section.
_LONGEST = 2048
_Text = Annotated[str, Meta(max_length=_LONGEST)]

_SESSION = re.compile(r"^o=\S+ (\S+)", re.MULTILINE)
_UFRAG = re.compile(r"^a=ice-ufrag:(\S+)", re.MULTILINE)
_SENDING = re.compile(r"^a=(sendrecv|sendonly)\s*$", re.MULTILINE)
_DIRECTION = re.compile(r"^a=(sendrecv|sendonly|recvonly|inactive)\s*$", re.MULTILINE)


# Direct or relayed


def can_be_relayed(member: Member) -> bool:
    """Whether the member's client can be served by a media server, or can offer to one."""
    return member.relays or member.dialect in RELAYED_DIALECTS


def is_viewer(member: Member, broadcaster: Member) -> bool:
    """Whether a broadcast is meant for this member."""
    return member.live is None and member.user_id != broadcaster.user_id


def is_relayed(member: Member, broadcaster: Member, route: Route) -> bool:
    """Whether a member gets a broadcast from the media server."""
    watches = is_viewer(member, broadcaster) and can_be_relayed(member)
    return watches and member.peer_id not in route.direct


def is_for_relay(member: Member, wire_type: str) -> bool:
    """Whether a relayed viewer's signal to the broadcaster is for the media server."""
    return member.dialect in RELAYED_DIALECTS or wire_type == RELAY


def has_free_place(members: Mapping[str, Member], broadcaster: Member, places: int) -> bool:
    """Whether the next newcomer may become direct, as far as other replicas know."""
    if broadcaster.dialect == PUBLISHED:
        return False
    route = broadcaster.live.route if broadcaster.live is not None else None
    direct = (members.get(peer_id) for peer_id in (route.direct if route is not None else ()))
    return sum(each is not None and is_viewer(each, broadcaster) for each in direct) < places


class Places:
    """The viewers of one broadcast, as placed by the broadcaster's replica."""

    def __init__(self, broadcaster: Member) -> None:
        """Begin empty."""
        self._broadcaster = broadcaster
        #: Direct peers in the order of joining, and the place that each uses.
        self._direct: dict[str, str] = {}
        #: Relayed peers; rooms read this.
        self.relayed: dict[str, None] = {}

    @property
    def direct(self) -> tuple[str, ...]:
        """The direct peers."""
        return tuple(self._direct)

    def keep(self, direct: Iterable[str], members: Mapping[str, Member]) -> None:
        """Take over another replica's decision: these are direct, the others relayed."""
        for peer_id in direct:
            if peer_id in members:
                self._direct[peer_id] = _place_of(members[peer_id])
        for member in members.values():
            if is_viewer(member, self._broadcaster) and member.peer_id not in self._direct:
                self._place(member, direct=not can_be_relayed(member))

    def forget_gone(self, members: Mapping[str, Member]) -> None:
        """Free the places of viewers that have left or gone live."""
        for placed in (self._direct, self.relayed):
            for peer_id in [*placed]:
                member = members.get(peer_id)
                if member is None or member.live is not None:
                    del placed[peer_id]

    def take(self, newcomer: Member, places: int) -> bool:
        """Place a newcomer; return whether it is relayed."""
        peer_id, mine = newcomer.peer_id, _place_of(newcomer)
        if not is_viewer(newcomer, self._broadcaster):
            return False
        if peer_id not in self._direct and peer_id not in self.relayed:
            taken = set(self._direct.values())
            free = mine in taken or len(taken) < places
            self._place(newcomer, direct=free or not can_be_relayed(newcomer))
        return peer_id in self.relayed

    def promote(self, member: Member, places: int) -> bool:
        """Make a relayed viewer direct, if a place is free; return whether it is direct now."""
        taken, mine = set(self._direct.values()), _place_of(member)
        if member.peer_id in self.relayed and (mine in taken or len(taken) < places):
            self._place(member, direct=True)
        return member.peer_id in self._direct

    def _place(self, member: Member, *, direct: bool) -> None:
        self.relayed.pop(member.peer_id, None)
        if direct:
            self._direct[member.peer_id] = _place_of(member)
        else:
            self.relayed[member.peer_id] = None


def _place_of(member: Member) -> str:
    by_user = member.dialect in _BY_USER
    return f"user {member.user_id}" if by_user else f"peer {member.peer_id}"


# Signals


class Description(NamedTuple):
    """An offer or an answer."""

    type: str
    sdp: str

    @property
    def session(self) -> str:
        """The id of the peer connection, from the origin line, which never changes."""
        found = _SESSION.search(self.sdp)
        return found[1] if found is not None else ""

    @property
    def sends_media(self) -> bool:
        """Whether it sends anything that a media server could pass on."""
        has_media = "\nm=audio" in self.sdp or "\nm=video" in self.sdp
        silent = _DIRECTION.search(self.sdp) and not _SENDING.search(self.sdp)
        return has_media and not silent

    def fits(self, candidate: object) -> bool:
        """Whether a candidate may belong to this description, and not to an earlier one."""
        if not isinstance(candidate, dict) or not candidate.get("usernameFragment"):
            return True
        return candidate["usernameFragment"] in _UFRAG.findall(self.sdp)


class Candidate(NamedTuple):
    """A candidate in the client's format, or None at their end."""

    candidate: object


class _Init(TypedDict, total=False):
    """The browser's `RTCIceCandidateInit`; other fields are dropped."""

    candidate: _Text
    sdpMid: _Text | None
    sdpMLineIndex: Annotated[int, Meta(ge=0, le=_LONGEST)] | None
    usernameFragment: _Text | None


class _Said(Struct):
    type: str | None = None
    sdp: str | None = None
    candidate: Raw = Raw(b"null")


_read_candidate = msgspec.json.Decoder(_Init | str | None).decode
_read_said = msgspec.json.Decoder(_Said).decode


def read_signal(kind: str, payload: Raw) -> Description | Candidate | None:
    """Decode a client's signal; None if it is nothing for a media server.

    The size of a candidate is limited, because candidates may have to wait.
    """
    try:
        if kind == "candidate":
            return _candidate(payload)
        said = _read_said(payload)
        if said.type == "ice-candidate":
            return _candidate(said.candidate)
    except (msgspec.DecodeError, RecursionError):
        return None
    type_ = said.type or kind
    if type_ in ("offer", "answer") and said.sdp is not None:
        return Description(type_, said.sdp)
    return None


def _candidate(text: Raw) -> Candidate | None:
    found = _read_candidate(text)
    return None if isinstance(found, str) and found else Candidate(found or None)


def keep_session(sdp: str, first: str) -> str:
    """A later offer of a peer connection, with the session id of its first offer.

    Janus gives each offer another one. Clients, ours as well, would take it for an offer of another
    peer connection.
    """
    found = _SESSION.search(first)
    changed = _SESSION.search(sdp)
    if found is None or changed is None:
        return sdp
    return sdp[: changed.start(1)] + found[1] + sdp[changed.end(1) :]


def write_description(type_: str, sdp: str) -> Raw:
    """Encode a description in the form that all clients accept."""
    return Raw(msgspec.json.encode({"type": type_, "sdp": sdp}))
