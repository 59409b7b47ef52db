"""A client's view of a room: messages of the server in, events out. No I/O."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct
from msgspec.structs import replace

from trio_signal.client.events import (
    Answer,
    Candidate,
    Error,
    Event,
    Message,
    Offer,
    Peer,
    PeerAway,
    PeerBack,
    PeerJoined,
    PeerLeft,
    Pong,
    Stopped,
    TokenExpiring,
    TokenRenewed,
    WentLive,
)
from trio_signal.dialects import mesh
from trio_signal.messages.identity import Live

logger = logging.getLogger(__name__)

Peers = Mapping[str, Peer]


def snapshot(users: Iterable[mesh.User], broadcasters: Iterable[mesh.Broadcaster]) -> Peers:
    """The peers of a room, by id, from the server's message to a newcomer."""
    live = {b.client_id: Live(b.media_type, b.started_at) for b in broadcasters}
    return {u.client_id: Peer(u.client_id, u.username, live.get(u.client_id)) for u in users}


def reconcile(old: Peers, new: Peers) -> list[Event]:
    """The events that lead from one snapshot of a room to another; departures first."""
    events: list[Event] = []
    for peer in old.values():
        if not _stayed(peer, new):
            events += _departure(peer)
    for peer in new.values():
        if _stayed(peer, old):
            before = old[peer.id]
            events += [*_return(before, peer), *_live_change(before, peer)]
        else:
            events += _arrival(peer)
    return events


def _stayed(peer: Peer, others: Peers) -> bool:
    """Whether the same peer is in both; an id with another name is another peer."""
    return peer.id in others and others[peer.id].username == peer.username


def _arrival(peer: Peer) -> list[Event]:
    joined = PeerJoined(replace(peer, live=None))
    return [joined, WentLive(peer)] if peer.live else [joined]


def _departure(peer: Peer) -> list[Event]:
    gone = replace(peer, live=None, away=False)
    return [Stopped(gone), PeerLeft(gone)] if peer.live else [PeerLeft(gone)]


def _return(old: Peer, new: Peer) -> list[Event]:
    return [PeerBack(replace(old, away=False))] if old.away and not new.away else []


def _live_change(old: Peer, new: Peer) -> list[Event]:
    if old.live == new.live:
        return []
    events: list[Event] = []
    if old.live and (new.live is None or new.live.started_at != old.live.started_at):
        events.append(Stopped(replace(new, live=None)))
    if new.live:
        events.append(WentLive(new))
    return events


class View:
    """Follows a room. `peers` is the server's latest state, without this client."""

    def __init__(self) -> None:
        """Begin with an empty room."""
        self.peers: dict[str, Peer] = {}

    def enter(
        self, users: Sequence[mesh.User], broadcasters: Sequence[mesh.Broadcaster]
    ) -> list[Event]:
        """Process the snapshot for a newcomer; return the differences to before."""
        peers = snapshot(users, broadcasters)
        events = reconcile(self.peers, peers)
        self.peers = dict(peers)
        return events

    def follow(self, message: Struct) -> list[Event]:
        """Process one message; return its events."""
        match message:
            case mesh.UserJoined(client_id=id_, username=username):
                return self._replace(id_, Peer(id_, username))
            case mesh.UserLeft(client_id=id_):
                return self._replace(id_, None)
            case mesh.BroadcastStarted(client_id=id_, media_type=media_type, started_at=at):
                return self._set_live(id_, Live(media_type, at))
            case mesh.BroadcastStopped(client_id=id_):
                return self._set_live(id_, None)
            case mesh.UserAway(client_id=id_):
                return self._set_away(id_, away=True)
            case mesh.UserBack(client_id=id_):
                return self._set_away(id_, away=False)
            case _:
                return _pass_on(message)

    def _replace(self, id_: str, new: Peer | None) -> list[Event]:
        """Add or remove a peer; nobody joins twice, or leaves without having joined."""
        old = self.peers.pop(id_, None)
        if old and new and old.username == new.username:
            new = old
        if new:
            self.peers[id_] = new
        return reconcile({id_: old} if old else {}, {id_: new} if new else {})

    def _set_live(self, id_: str, live: Live | None) -> list[Event]:
        old = self.peers.get(id_)
        if old is None:
            return []
        self.peers[id_] = new = replace(old, live=live)
        return _live_change(old, new)

    def _set_away(self, id_: str, *, away: bool) -> list[Event]:
        old = self.peers.get(id_)
        if old is None or old.away == away:
            return []
        self.peers[id_] = new = replace(old, away=away)
        return [PeerAway(new)] if away else [PeerBack(new)]


def _pass_on(message: Struct) -> list[Event]:
    try:
        event = _event(message)
    except (msgspec.DecodeError, RecursionError) as error:
        # The server does not check payloads, so Python may be unable to decode one.
        logger.debug("cannot decode a payload: %s", error)
        return []
    return [] if event is None else [event]


def _event(message: Struct) -> Event | None:
    match message:
        case mesh.OfferFrom(from_=sender, username=username, offer=offer):
            return Offer(sender, username, _read(offer))
        case mesh.AnswerFrom(from_=sender, username=username, answer=answer):
            return Answer(sender, username, _read(answer))
        case mesh.IceCandidateFrom(from_=sender, username=username, candidate=candidate):
            return Candidate(sender, username, _read(candidate))
        case mesh.MessageFrom(from_=sender, username=username, data=data):
            return Message(sender, username, _read(data))
        case mesh.Error(message=text, code=code, to=to):
            return Error(text, code, to)
        case mesh.TokenExpiring(expires_in=seconds):
            return TokenExpiring(seconds)
        case mesh.TokenRenewed(expires_in=seconds):
            return TokenRenewed(seconds)
        case mesh.Pong(id=id_) if id_ is not UNSET:
            return Pong(_read(id_))
        case _:
            return None


def _read(payload: Raw) -> Any:
    return msgspec.json.decode(payload)
