"""Signals: delivers offers, answers, candidates and messages. The hot path."""

from collections.abc import Iterable

import trio
from msgspec.structs import replace

from trio_signal.bus import Bus, Undelivered
from trio_signal.clock import utc_now
from trio_signal.local_room import LocalRoom
from trio_signal.messages.commands import Signal, To
from trio_signal.messages.events import LiveNow, Refusal, Refused, Signalled
from trio_signal.messages.identity import Member
from trio_signal.negotiations import Negotiations
from trio_signal.participant import Participant
from trio_signal.rooms import Rooms
from trio_signal.session import Session

#: The signals that start a negotiation. Most other signals are candidates.
_DESCRIPTIONS = frozenset({"offer", "answer"})


class Signals:
    """Delivers signals to their targets. Nothing blocks."""

    def __init__(self, rooms: Rooms, bus: Bus) -> None:
        """Take the rooms of this replica, and the bus to the other replicas."""
        self._rooms = rooms
        self._bus = bus

    def send(self, peer: Participant, room: LocalRoom, sender: Member, command: Signal) -> None:
        """Deliver a signal of a peer here to its target, on any replica."""
        target = room.target_of(sender, command)
        relays = self._rooms.relays
        if relays is not None and relays.take(room, sender, target, command):
            return
        if isinstance(target, Refusal):
            peer.tell(Refused(command, target, utc_now()))
            return
        signal = Signalled(
            room.id, command.kind, command.payload, sender, target, command.wire_type, utc_now()
        )
        if target is None:
            self._rooms.tell(peer, room, [signal])
        elif (local := room.peers.get(target.peer_id)) is not None and (
            not self._bus.following or (room.id, target.peer_id) not in self._bus.following
        ):
            if local.negotiations is None:
                local.hear(signal)
            else:
                _tell_in_time(local, signal)
        else:
            self._bus.send(target.replica, signal)
        if target is not None and command.kind in _DESCRIPTIONS:
            if peer.negotiations is not None and target.dialect == sender.dialect:
                now = trio.current_time()
                _tell_all(peer, peer.negotiations.say(signal, now))
                peer.wake(peer.negotiations.due)
            room.meet(sender.peer_id, target.user_id)
            room.meet(target.peer_id, sender.user_id)

    def deliver(self, signal: Signalled) -> None:
        """Deliver another replica's signal to a peer here; return it if the peer has gone."""
        room, target = self._rooms.get(signal.room_id), signal.target
        peer = room.peers.get(target.peer_id) if room is not None and target is not None else None
        if room is None or peer is None or target is None:
            self._bus.send(signal.sender.replica, Undelivered(signal))
            return
        relays = self._rooms.relays
        if relays is not None and relays.intercepts(room, signal):
            return
        _tell_in_time(peer, signal)
        if signal.kind in _DESCRIPTIONS:
            room.meet(target.peer_id, signal.sender.user_id)

    def bounce(self, signal: Signalled) -> None:
        """Report to the sender, which is here, that its target has gone."""
        room = self._rooms.get(signal.room_id)
        sender = room.peers.get(signal.sender.peer_id) if room is not None else None
        if sender is None:
            known = room.members.get(signal.sender.peer_id) if room is not None else None
            if known is not None and known.joined_at == signal.sender.joined_at:
                self._bus.send(known.replica, Undelivered(replace(signal, sender=known)))
            return
        command = Signal(
            room_id=signal.room_id,
            kind=signal.kind,
            payload=signal.payload,
            addressed=To.PEER,
            target=signal.target.peer_id if signal.target else "",
            wire_type=signal.wire_type,
        )
        sender.tell(Refused(command, Refusal.TARGET_NOT_FOUND, utc_now()))

    def pass_time(self, peer: Session, negotiations: Negotiations, now: float) -> None:
        """Deliver signals that have waited long enough, and repeat requests for offers."""
        signals, unanswered = negotiations.take_due(now)
        for signal in signals:
            if self._rooms.find(peer, signal.room_id) and self._is_here(
                signal.sender, signal.room_id
            ):
                peer.hear(signal)
        for offer in unanswered:
            found = self._rooms.find(peer, offer.room_id)
            viewer = found[0].members.get(offer.peer_id) if found is not None else None
            if found is not None and found[1].live and viewer is not None and not viewer.live:
                peer.tell(LiveNow(offer.room_id, found[1], (viewer,)))
            else:
                negotiations.forget(offer)

    def _is_here(self, member: Member, room_id: str) -> bool:
        """Whether this peer, not a newer one with its id, is in the room, on any replica."""
        room = self._rooms.get(room_id)
        known = room.members.get(member.peer_id) if room is not None else None
        return known is not None and known.joined_at == member.joined_at


def _tell_in_time(peer: Participant, signal: Signalled) -> None:
    """Deliver a signal now or, if the peer's dialect needs help with negotiations, in order.

    Signals between two dialects are delivered at once: their clients negotiate without help.
    """
    negotiations, target = peer.negotiations, signal.target
    if negotiations is None or target is None or target.dialect != signal.sender.dialect:
        peer.hear(signal)
    else:
        _tell_all(peer, negotiations.hear(signal, trio.current_time()))
        peer.wake(negotiations.due)


def _tell_all(peer: Participant, signals: Iterable[Signalled]) -> None:
    for signal in signals:
        peer.hear(signal)
