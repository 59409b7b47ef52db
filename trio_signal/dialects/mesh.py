"""Dialect `mesh`: authenticated rooms with targeted messages; the native protocol.

Keyed by peer. See docs/protocols/mesh.md.

This module has all messages and their meaning, hence its length.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from trio_signal.dialects.base import Dialect
from trio_signal.dialects.rest import Route
from trio_signal.dialects.wire import Id, Reader, UnreadableError, encode
from trio_signal.errors import AuthenticationError, CloseCode
from trio_signal.messages import events
from trio_signal.messages.commands import (
    Action,
    Authenticate,
    Close,
    Confirm,
    GoLive,
    Join,
    Kick,
    LeaveCause,
    Lock,
    Malformed,
    Renew,
    ReportQuality,
    Resume,
    Send,
    Signal,
    StopLive,
    To,
)
from trio_signal.messages.events import (
    Answer,
    Audience,
    CameBack,
    Confirmed,
    Entered,
    Event,
    Expiring,
    Joined,
    Left,
    LiveNow,
    News,
    Notice,
    Refusal,
    Refused,
    RelayAsked,
    RelayDone,
    RelayFailed,
    Renewed,
    ServeDirectly,
    ServerSaid,
    Signalled,
    StoppedLive,
    WentAway,
    WentLive,
)
from trio_signal.messages.identity import Identity, MediaType, Member, ServerInfo, SignalKind

#: The version of this protocol, sent in `auth_success`.
PROTOCOL = 1
#: Marks signals between a viewer and a media server; the same two peers may exchange others.
RELAY = "relay"
#: Types, or their prefixes, of messages that a session does not count.
_UNCOUNTED = ("ping", "pong", "auth_", "token_", "resumed", "not_resumed")
_CLIENT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
#: The server information of a client that needs none.
_NOTHING = ServerInfo()

#: How many messages of a session have arrived.
Count = Annotated[int, Meta(ge=0)]
#: How many peer connections a report may be about.
Calls = Annotated[int, Meta(ge=0, le=200)]
Milliseconds = Annotated[float, Meta(ge=0, le=60_000)]

# Messages from clients


class AuthToken(Struct, tag="auth_token", rename={"client_id": "clientId"}):
    """Authenticates the client: the first message, and again before the token expires."""

    token: str | None = None
    client_id: str | None = None
    username: str | None = None
    resume: bool = False
    session: str | None = None
    received: Count = 0
    relay: bool = False

    def __repr__(self) -> str:
        """Hide the token, which is a secret."""
        return "AuthToken(...)"


class Offer(Struct, tag="offer"):
    """An offer for one peer, or for all."""

    offer: Raw
    to: Id | None = None


class AnswerTo(Struct, tag="answer"):
    """An answer for one peer, or for all."""

    answer: Raw
    to: Id | None = None
    relay: bool = False


class IceCandidate(Struct, tag="ice_candidate"):
    """A candidate for one peer, or for all."""

    candidate: Raw
    to: Id | None = None
    relay: bool = False


class Message(Struct, tag="message"):
    """Application data for one peer, or for all."""

    data: Raw
    to: Id | None = None


class BroadcastStart(Struct, tag="broadcast_start"):
    """Goes live."""

    media_type: MediaType = "video"


class BroadcastStop(Struct, tag="broadcast_stop"):
    """Stops being live."""


class KickPeer(Struct, tag="kick"):
    """Removes a peer from the room. For moderators; there are none in open mode."""

    client_id: Id
    reason: str | None = None


class BanPeer(Struct, tag="ban"):
    """Removes a peer from the room, and bans its user for `seconds`. For moderators."""

    client_id: Id
    reason: str | None = None
    seconds: Annotated[float, Meta(gt=0)] = 3600.0


class LockRoom(Struct, tag="lock"):
    """Closes the room to newcomers, or opens it. For moderators."""

    locked: bool = True


class Quality(Struct, tag="quality"):
    """Reports the client's peer connections since its last report, if the server asks for it."""

    checked: Calls = 0
    silent: Calls = 0
    connected: Calls = 0
    relayed: Calls = 0
    failed: Calls = 0
    round_trips: Annotated[list[Milliseconds], Meta(max_length=50)] = []


class Ping(Struct, tag="ping"):
    """Requests a pong."""

    id: Raw | UnsetType = UNSET
    received: Count | None = None


_reader = Reader(
    (
        *(AuthToken, Offer, AnswerTo, IceCandidate, Message),
        *(BroadcastStart, BroadcastStop, KickPeer, BanPeer, LockRoom, Quality, Ping),
    )
)

# Messages to clients


class AuthRequired(Struct, tag="auth_required"):
    """Asks for `auth_token`."""

    message: str = "Send auth_token to join"


class SessionOffer(Struct):
    """The id to resume the session with, and for how many seconds it is kept."""

    id: str
    grace: float


class AuthSuccess(Struct, tag="auth_success"):
    """You joined the room; with a `session`, if you asked for one."""

    user: str
    client_id: str
    message: str
    user_id: str
    room_id: str
    ice_servers: Sequence[Mapping[str, object]]
    heartbeat: float
    protocol: int
    session: SessionOffer | UnsetType = UNSET
    quality: float | UnsetType = UNSET
    relay: bool | UnsetType = UNSET


class Resumed(Struct, tag="resumed"):
    """You resumed as the same peer: `received` of your messages had arrived; `replayed` follow."""

    received: int
    replayed: int


class NotResumed(Struct, tag="not_resumed"):
    """You cannot resume, for this reason. The handshake continues as for a new peer."""

    reason: Literal["unknown", "expired", "overflow", "owner_lost", "other_identity"]


class UserAway(Struct, tag="user_away"):
    """A peer lost its connection, and may resume."""

    client_id: str
    username: str


class UserBack(Struct, tag="user_back"):
    """A peer that was away is back."""

    client_id: str
    username: str


class User(Struct):
    """Another peer."""

    client_id: str
    username: str


class UsersInRoom(Struct, tag="users_in_room"):
    """The other peers that are already in the room."""

    users: list[User]


class Broadcaster(Struct):
    """A peer that is live."""

    client_id: str
    username: str
    media_type: MediaType
    started_at: str


class ActiveBroadcasts(Struct, tag="active_broadcasts"):
    """The running broadcasts, for late joiners."""

    broadcasters: list[Broadcaster]


class UserJoined(Struct, tag="user_joined"):
    """A peer joined."""

    room_id: str
    from_: str = field(name="from")
    client_id: str
    username: str
    connected_users: int


class UserLeft(Struct, tag="user_left"):
    """A peer left; `cause` is one of `LeaveCause`. Older servers do not send it."""

    room_id: str
    from_: str = field(name="from")
    client_id: str
    username: str
    connected_users: int
    cause: str = LeaveCause.LOST.value


class OfferFrom(Struct, tag="offer"):
    """An offer from a peer; with `relay`, from a media server with the peer's broadcast."""

    offer: Raw
    from_: str = field(name="from")
    username: str
    relay: bool | UnsetType = UNSET


class AnswerFrom(Struct, tag="answer"):
    """An answer from a peer."""

    answer: Raw
    from_: str = field(name="from")
    username: str


class IceCandidateFrom(Struct, tag="ice_candidate"):
    """A candidate from a peer."""

    candidate: Raw
    from_: str = field(name="from")
    username: str


class MessageFrom(Struct, tag="message"):
    """Application data from a peer."""

    data: Raw
    from_: str = field(name="from")
    username: str


class BroadcastStarted(Struct, tag="broadcast_started"):
    """A peer went live."""

    from_: str = field(name="from")
    client_id: str
    username: str
    media_type: MediaType
    started_at: str


class BroadcastStopped(Struct, tag="broadcast_stopped"):
    """A peer stopped being live."""

    from_: str = field(name="from")
    client_id: str
    username: str


class Relay(Struct, tag="relay"):
    """A media server serves these peers: offer once to `offer_to`. Without it, serve them."""

    for_: list[str] = field(name="for")
    offer_to: str | None = None


class RelayOver(Struct, tag="relay_over"):
    """The media server needs your broadcast no longer."""

    offer_to: str


class RoomLocked(Struct, tag="room_locked"):
    """The room was closed to newcomers, or opened."""

    room_id: str
    locked: bool


class TokenExpiring(Struct, tag="token_expiring"):
    """The token expires in `expires_in` seconds. Send a new one."""

    expires_in: int


class TokenRenewed(Struct, tag="token_renewed"):
    """The new token was accepted, and expires in `expires_in` seconds."""

    expires_in: int


class Pong(Struct, tag="pong"):
    """Answers `ping`. With a session, `received` is the number of messages that have arrived."""

    id: Raw | UnsetType = UNSET
    received: int | UnsetType = UNSET


class Error(Struct, tag="error", omit_defaults=True):
    """The client sent something wrong. Rely on `code`."""

    message: str
    code: str
    to: str | None = None


_SIGNALS: dict[SignalKind, type[OfferFrom | AnswerFrom | IceCandidateFrom | MessageFrom]] = {
    "offer": OfferFrom,
    "answer": AnswerFrom,
    "candidate": IceCandidateFrom,
    "message": MessageFrom,
}


class MeshDialect(Dialect):
    """One connection that speaks `mesh`."""

    __slots__ = ("_identity", "_peer_id", "_relays", "_resumes", "_room_id", "_server")

    name = "mesh"
    address = "/ws/{room_id}"
    reader = _reader
    samples = (BroadcastStart("audio"), UserLeft("lobby", "ann-1", "ann-1", "Ann", 1))
    asks_who = True
    uncounted = frozenset(
        {
            *(b"pong", b"auth_required", b"auth_success", b"token_expiring", b"token_renewed"),
            *(b"resumed", b"not_resumed"),
        }
    )

    def __init__(self, room_id: str) -> None:
        """Take the room; the client authenticates in its first message."""
        super().__init__()
        self._room_id = room_id
        self._peer_id = ""
        #: What the client learns when it has entered; then the secrets in it are dropped.
        self._server = _NOTHING
        self._relays = self._resumes = False
        self._identity: Identity | None = None

    @classmethod
    def routes(cls) -> Sequence[Route]:
        """The HTTP route for the list of rooms."""
        from trio_signal.dialects.rest import rooms

        return rooms.MESH_ROUTES

    @classmethod
    def at(cls, path: Sequence[str], query: Mapping[str, str]) -> Self | None:
        """A dialect for `/ws/{room_id}`; None for other paths."""
        match path:
            case ["ws", room_id]:
                return cls(room_id)
        return None

    @classmethod
    def carried_on(cls, room_id: str) -> Self:
        """A dialect that is past the handshake."""
        return cls(room_id)

    def opened(self, peer_id: str) -> Iterable[Action]:
        """Ask the client to authenticate."""
        self._peer_id = peer_id
        return [Send(encode(AuthRequired()))]

    def authenticated(self, identity: Identity, server: ServerInfo, now: str) -> Iterable[Action]:
        """Join the one room."""
        self._identity = identity
        self._server = server
        self._resumes = server.session is not None
        relays = self._relays and server.relays
        return [Join(self._room_id, self._peer_id, reserve=True, relays=relays)]

    def unreadable(self, text: bytes, error: UnreadableError) -> Iterable[Action]:
        """Send an error that says what is wrong; as the first message it ends the connection."""
        if self._identity is not None:
            return [_explain(error, counted=not (error.type or "").startswith(_UNCOUNTED))]
        if _is_about_token(error):  # not a string, so invalid in every mode
            return [self.authentication_failed(AuthenticationError("Invalid token"))]
        return [self._not_authenticated()]

    def _authenticate(self, message: Struct) -> Action:
        if not isinstance(message, AuthToken):
            return self._not_authenticated()
        if message.client_id:
            if not _CLIENT_ID.fullmatch(message.client_id):
                return Close(CloseCode.POLICY, "Invalid client id")
            self._peer_id = message.client_id
        self._relays = message.relay
        return Authenticate(
            token=message.token,
            user_id=self._peer_id,
            username=message.username or None,
            guest_name=f"Guest-{self._peer_id[:4]}",
            resume=(
                Resume(self._room_id, message.session, message.received)
                if message.resume or message.session
                else None
            ),
        )

    def _not_authenticated(self) -> Close:
        return self.authentication_failed(AuthenticationError("Authentication required"))

    def commands(self, message: Any, now: str) -> Iterable[Action]:
        """Translate a message; the first one authenticates the client."""
        if self._identity is None:
            return [self._authenticate(message)]
        match message:
            case IceCandidate(candidate=payload, to=to):
                return [self._signal("candidate", payload, to, relay=message.relay)]
            case Offer(offer=payload, to=to):
                return [self._signal("offer", payload, to)]
            case AnswerTo(answer=payload, to=to):
                return [self._signal("answer", payload, to, relay=message.relay)]
            case Message(data=payload, to=to):
                return [self._signal("message", payload, to)]
            case BroadcastStart(media_type=media_type):
                return [GoLive(self._room_id, media_type)]
            case BroadcastStop():
                return [StopLive(self._room_id)]
            case KickPeer(client_id=client_id, reason=reason):
                return [Kick(self._room_id, client_id, reason or "Kicked")]
            case BanPeer(client_id=client_id, reason=reason, seconds=seconds):
                return [Kick(self._room_id, client_id, reason or "Banned", seconds)]
            case LockRoom(locked=locked):
                return [Lock(self._room_id, locked)]
            case Ping(id=id_, received=received):
                if self._resumes:
                    return [Confirm(received, id_)]
                return [Send(encode(Pong(id_)))]
            case Quality():
                return [_report(message)]
            case AuthToken(token=token):
                return [Renew(token)]
        return []

    def _signal(
        self, kind: SignalKind, payload: Raw, to: str | None, *, relay: bool = False
    ) -> Signal:
        mark = RELAY if relay else ""
        return Signal(self._room_id, kind, payload, To.PEER if to else To.OTHERS, to or "", mark)

    def answered(self, answer: Answer) -> Iterable[Send | Close]:
        """Translate the outcome of the client's command."""
        match answer:
            case Entered():
                return self._entered(answer)
            case (
                Refused(command=Signal(target=target))
                | Refused(command=Kick(peer_id=target), reason=Refusal.TARGET_NOT_FOUND)
            ):
                error = Error(f"Target client {target} not found", "target_not_found", target)
                return [Send(encode(error))]
            case Refused(command=Join(), reason=reason):
                return [_join_refused(reason)]
            case LiveNow(me=me) if me.relays:  # viewers announced later are direct
                return [Send(encode(Relay([])))]
            case RelayAsked(relay=relay, viewers=viewers):
                return [Send(encode(Relay([m.peer_id for m in viewers], relay.peer_id)))]
            case RelayDone(relay=relay):
                return [Send(encode(RelayOver(relay.peer_id)))]
            case ServeDirectly(viewer=viewer):
                return [Send(encode(Relay([viewer.peer_id])))]
            case RelayFailed(broadcaster=member):
                failed = f"The broadcast of {member.peer_id} cannot be delivered now"
                return [Send(encode(Error(failed, "relay_failed", member.peer_id)))]
            case Refused(command=Renew()):
                return [Send(encode(Error("Invalid token", "invalid_token")))]
            case Confirmed(received=received, id=id_):
                return [Send(encode(Pong(id_, received)))]
            case events.Resumed(received=received, replayed=replayed):
                return [Send(encode(Resumed(received, replayed)))]
            case events.NotResumed(reason=why):
                return [Send(encode(NotResumed(why.value)))]
            case Renewed(expires_in=expires_in):
                return [Send(encode(TokenRenewed(expires_in)))]
            case Expiring(expires_in=expires_in):
                return [Send(encode(TokenExpiring(expires_in)))]
            case Refused(reason=Refusal.NOT_ALLOWED):
                return [Send(encode(Error("Not allowed", "not_allowed")))]
        return []

    def _entered(self, entered: Entered) -> Iterable[Send | Close]:
        me, server = entered.me, self._server
        session, self._server = server.session, _NOTHING
        users, broadcasters = [], []
        for member in entered.members:
            if (peer_id := member.peer_id) != me.peer_id:
                users.append(User(peer_id, member.username))
                if (live := member.live) is not None:
                    broadcasters.append(
                        Broadcaster(peer_id, member.username, live.media_type, live.started_at)
                    )
        success = AuthSuccess(
            me.username,
            me.peer_id,
            "Authenticated",
            me.user_id,
            entered.room_id,
            server.ice_servers,
            server.heartbeat,
            PROTOCOL,
            UNSET if session is None else SessionOffer(session.id, session.grace),
            server.quality or UNSET,
            True if me.relays else UNSET,
        )
        sends = [Send(encode(success)), Send(encode(UsersInRoom(users)))]
        if broadcasters:
            sends.append(Send(encode(ActiveBroadcasts(broadcasters))))
        return sends

    @staticmethod
    def tell(event: Event) -> Iterable[Notice]:
        """Translate a room's event."""
        match event:
            case Signalled():
                struct = _SIGNALS.get(event.kind)
                if struct is None:
                    return []
                sender = event.sender
                out: Struct = struct(event.payload, sender.peer_id, sender.username)
                if event.wire_type == RELAY and isinstance(out, OfferFrom):
                    out.relay = True
            case Joined():
                out = UserJoined(*_moved(event))
            case Left():
                out = UserLeft(*_moved(event), event.cause.value)
            case WentLive(member=Member(live=live) as member) if live and event.news != News.AGAIN:
                out = BroadcastStarted(
                    member.peer_id,
                    member.peer_id,
                    member.username,
                    live.media_type,
                    live.started_at,
                )
            case StoppedLive(member=member):
                out = BroadcastStopped(member.peer_id, member.peer_id, member.username)
            case ServerSaid(member=server):
                said = MessageFrom(event.data, server.peer_id, server.username)
                return [Notice(Audience.EVERYONE, encode(said))]
            case events.RoomLocked():
                locked = RoomLocked(event.room_id, event.locked)
                return [Notice(Audience.EVERYONE, encode(locked))]
            case WentAway(member=member):
                away = UserAway(member.peer_id, member.username)
                return [Notice(Audience.OTHER_SESSIONS, encode(away))]
            case CameBack(member=member):
                back = UserBack(member.peer_id, member.username)
                return [Notice(Audience.OTHER_SESSIONS, encode(back))]
            case _:
                return []
        return [Notice(Audience.OTHER_PEERS, encode(out))]


def _report(quality: Quality) -> ReportQuality:
    return ReportQuality(
        *(quality.checked, quality.silent, quality.connected, quality.relayed, quality.failed),
        tuple(each / 1000 for each in quality.round_trips),
    )


def _is_about_token(error: UnreadableError) -> bool:
    """Whether the only error is the type of `token` in an `auth_token`."""
    return error.type == "auth_token" and str(error).endswith("`$.token`")


def _explain(error: UnreadableError, *, counted: bool) -> Malformed:
    if error.problem == "json":
        answer = Error("Invalid JSON", "invalid_json")
    elif error.problem == "type" and error.type is not None:
        answer = Error(f"Unknown message type: {error.type}", "unknown_type")
    else:
        answer = Error(f"Invalid message: {error}", "invalid_message")
    return Malformed(encode(answer), counted)


def _join_refused(reason: Refusal) -> Close:
    match reason:
        case Refusal.PEER_ID_IN_USE:
            return Close(CloseCode.POLICY, "Client id in use")
        case Refusal.ROOM_FULL:
            return Close(CloseCode.TRY_AGAIN_LATER, "Room is full")
        case _:
            return Close(CloseCode.POLICY, "Not allowed in this room")


def _moved(event: Joined | Left) -> tuple[str, str, str, str, int]:
    """The common fields of joining and leaving: room, peer (twice), name, number of peers."""
    member = event.member
    return event.room_id, member.peer_id, member.peer_id, member.username, event.peers
