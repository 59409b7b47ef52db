"""Local room: a room and those of its peers that are on this replica."""

from collections.abc import Collection, Iterator
from typing import assert_never

from trio_signal.dialects import Dialect
from trio_signal.dialects.wire import type_of
from trio_signal.errors import CloseCode
from trio_signal.messages.commands import Close
from trio_signal.messages.events import (
    Audience,
    CameBack,
    Event,
    Joined,
    Left,
    Notice,
    RoomEvent,
    Signalled,
    StopCause,
    StoppedLive,
    WentAway,
    WentLive,
)
from trio_signal.messages.identity import Member
from trio_signal.metrics import Metrics
from trio_signal.pacing import DELIVERY, cost_of_delivery
from trio_signal.participant import Participant
from trio_signal.room import Room
from trio_signal.session import TOO_SLOW, Session, close_untold
from trio_signal.websocket import text_frame

#: Maximum users remembered as having signalled with one broadcast. No browser serves so many.
MAX_MET = 1000
#: What a newcomer causes by joining, perhaps in the place of a peer.
_OF_JOINING = (Joined, StoppedLive, CameBack)
#: Events of a peer after which all peers here know the same about it.
_KNOWN_TO_ALL = (Joined, Left, WentLive, WentAway)


class LocalRoom(Room):
    """A room with peers on this replica; sends events to them. Nothing blocks."""

    def __init__(self, room_id: str, replica: str, metrics: Metrics) -> None:
        """Make an empty room."""
        super().__init__(room_id, replica)
        self._metrics = metrics
        self.peers: dict[str, Participant] = {}
        #: The sessions among the peers, by dialect: each dialect encodes an event once.
        self._speakers: dict[type[Dialect], dict[str, Session]] = {}
        #: The other peers, which receive events as objects.
        self._hearers: dict[str, Participant] = {}
        #: By the peer id of a broadcaster here: the users that have exchanged signals with it in
        #: this broadcast, or that were announced to it as listeners. A user that leaves, or stops
        #: being live, is forgotten: its peer connections end.
        self._met: dict[str, set[str]] = {}
        #: By the peer id of a broadcaster here: the viewers that a media server serves. The
        #: broadcaster is not notified when they join or leave.
        self.relayed: dict[str, Collection[str]] = {}
        #: By peer id: sessions that are moving to another replica. That replica sends them the
        #: events of this one.
        self.departing: dict[str, Session] = {}
        #: By the peer id of a newcomer that is about to join, or to replace a peer: the peers here
        #: that know it from their last replica.
        self.told_elsewhere: dict[str, set[Participant]] = {}

    def meet(self, broadcaster: str, user_id: str) -> bool:
        """Note that a broadcaster here and a user have signalled; return whether that is new."""
        if broadcaster not in self._live or broadcaster not in self.peers:
            return False
        met = self._met.setdefault(broadcaster, set())
        if user_id in met or len(met) >= MAX_MET:
            return False
        if user_id in self._users:
            met.add(user_id)
        return True

    def _put(self, member: Member) -> None:
        super()._put(member)
        if member.replica != self.replica and member.peer_id in self.peers:
            if member.peer_id in self.departing:
                self.dismiss(member.peer_id)
            else:
                self.replace(member.peer_id)
        if self._met and member.live is None:
            self._met.pop(member.peer_id, None)

    def stop_live(
        self, peer_id: str, at: str, cause: StopCause = StopCause.STOPPED
    ) -> list[RoomEvent]:
        """Mark a peer as not live; broadcasters here forget a user that is live no more."""
        events = super().stop_live(peer_id, at, cause)
        for event in events:
            if isinstance(event, StoppedLive) and event.last:
                self._forget(event.member.user_id)
        return events

    def _drop(self, member: Member) -> None:
        super()._drop(member)
        if member.user_id not in self._users:
            self._forget(member.user_id)

    def _forget(self, user_id: str) -> None:
        for met in self._met.values():
            met.discard(user_id)

    def admit(self, peer_id: str, peer: Participant) -> None:
        """Send the room's events to a peer from now on."""
        self.peers[peer_id] = peer
        if isinstance(peer, Session):
            self._speakers.setdefault(type(peer.dialect), {})[peer_id] = peer
        else:
            self._hearers[peer_id] = peer
        peer.memberships[self.id] = peer_id

    def replace(self, peer_id: str) -> None:
        """Close the peer that has this id, if any; the room gets no event."""
        replaced = self.dismiss(peer_id)
        if replaced is not None:
            replaced.close(Close(CloseCode.REPLACED, "Replaced by a newer connection"))

    def depart(self, peer_id: str, session: Session) -> None:
        """Send a session that is moving only other replicas' events, and signals for it alone."""
        self._silence(peer_id, session)
        self.departing[peer_id] = session

    def dismiss(self, peer_id: str) -> Participant | None:
        """Stop sending events to a peer, and return it; None if it is not here."""
        peer = self.peers.pop(peer_id, None)
        if isinstance(peer, Session) and self.departing.pop(peer_id, None) is None:
            self._silence(peer_id, peer)
        if peer is not None:
            self._hearers.pop(peer_id, None)
            del peer.memberships[self.id]
            self._met.pop(peer_id, None)
        return peer

    def _silence(self, peer_id: str, peer: Session) -> None:
        speakers = self._speakers[type(peer.dialect)]
        del speakers[peer_id]
        if not speakers:
            del self._speakers[type(peer.dialect)]

    def tell_late(self, peers: dict[str, Session], event: RoomEvent) -> None:
        """Send an event to these peers only."""
        origin = event.sender if isinstance(event, Signalled) else event.member
        for peer_id, peer in list(peers.items()):
            for notice in peer.dialect.tell(event):
                one = {peer_id: peer}
                if self._audience(notice.audience, one, origin.user_id, origin.peer_id):
                    peer.send(notice.text)

    def tell(
        self, event: Event, user_id: str, peer_id: str = "", *, to_resuming: bool = True
    ) -> float:
        """Send an event that this user or peer caused to the peers on this replica.

        Each dialect encodes the event once. Without `to_resuming`, the dialects whose clients get
        back their rooms or broadcasts after a restart are skipped. Returns the cost in tokens,
        including that of the peers on other replicas.
        """
        cost, most = 0.0, DELIVERY
        for dialect, peers, notice in self._in_words(event):
            if dialect.resumes != "nothing" and not to_resuming:
                continue
            frame = text_frame(notice.text)
            audience = self._audience(notice.audience, peers, user_id, peer_id)
            if self.told_elsewhere and isinstance(event, _OF_JOINING):
                known = self.told_elsewhere.get(peer_id, set())
                audience = [peer for peer in audience if peer not in known]
            for peer in audience:
                peer.sent += 1
                if not peer.frames.put(frame) and peer.outbox.overflowed:
                    peer.close(TOO_SLOW)
            each = cost_of_delivery(len(frame))
            cost, most = cost + len(audience) * each, max(most, each)
            self._count(dialect, notice, len(audience))
        if isinstance(event, _KNOWN_TO_ALL):
            self.told_elsewhere.pop(peer_id, None)
        for hearer in list(self._hearers.values()):
            hearer.hear(event)
        return cost + (len(self) - len(self.peers)) * most

    def _count(self, dialect: type[Dialect], notice: Notice, peers: int) -> None:
        """Count a message once for all its receivers."""
        if peers:
            self._metrics.messages_out[dialect.name][type_of(notice.text)] += peers
            self._metrics.fan_out.observe(peers)

    def _in_words(self, event: Event) -> Iterator[tuple[type[Dialect], dict[str, Session], Notice]]:
        for dialect, peers in list(self._speakers.items()):
            try:
                notices = list(dialect.tell(event))
            except Exception:
                close_untold(peers.values(), event)
                continue
            for notice in notices:
                yield dialect, peers, notice

    def _audience(
        self, audience: Audience, peers: dict[str, Session], user_id: str, own_id: str
    ) -> Collection[Session]:
        match audience:
            case Audience.EVERYONE:
                return peers.values()
            case Audience.ITSELF:
                return [peers[own_id]] if own_id in peers else []
            case Audience.OTHER_PEERS:
                return [peer for peer_id, peer in peers.items() if peer_id != own_id]
            case Audience.OTHER_SESSIONS:
                return [
                    peer
                    for peer_id, peer in peers.items()
                    if peer_id != own_id and peer.resumption is not None
                ]
            case Audience.OTHER_USERS:
                members = self.members
                return [
                    peer for peer_id, peer in peers.items() if members[peer_id].user_id != user_id
                ]
            case Audience.BROADCASTERS:
                return [
                    peers[member.peer_id]
                    for member in self.live
                    if member.peer_id in peers
                    and member.peer_id != own_id
                    and own_id not in self.relayed.get(member.peer_id, ())
                ]
            case _:
                assert_never(audience)
