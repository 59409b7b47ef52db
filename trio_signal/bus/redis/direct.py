"""Messages to a single replica. Signals are confirmed or given up: see `receipts`."""

from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import NamedTuple, NoReturn, assert_never

import trio
from msgspec.structs import replace

from trio_signal.bus import Delivery, Direct, Undelivered
from trio_signal.bus.redis.directory import Directory
from trio_signal.bus.redis.feed import Feeds
from trio_signal.bus.redis.lease import Lease
from trio_signal.bus.redis.receipts import GIVE_UP, MAX_AGE, Incoming, Outgoing
from trio_signal.bus.redis.wire import (
    MOST_UNCONFIRMED,
    Asked,
    Confirmed,
    Numbered,
    encode,
)
from trio_signal.clock import utc_now
from trio_signal.messages.events import Signalled
from trio_signal.messages.identity import WIRE
from trio_signal.redis import OnReply, OutcomeUnknownError, Redis
from trio_signal.room import Room

#: Seconds between two confirmations to one replica. The first is sent at once, because a signal
#: that is delivered but unconfirmed when Redis fails is reported as lost.
CONFIRMING = 0.02
#: Seconds by which this task may run late before that counts as a stall of this process; and how
#: long, besides the stall's own length, nothing is given up after one. The confirmation may have
#: arrived unread, and its sender may be on the same machine.
_LATE, _READING = 0.2, 0.5
#: Seconds beyond `GIVE_UP` for which a signal is kept that may have been delivered: while Redis is
#: slow or a connection is new, because the confirmation is certain to come; and while there is no
#: connection.
_SLOW, _AWAY = 5.0, 1.5
#: Seconds without an answer after which Redis counts as slow; for a lost connection to return; and
#: from then on for the confirmation.
_UNANSWERED, _UNCONNECTED, _ANSWERED = 0.5, 2.0, 1.5
#: Seconds without signals in either direction after which a replica is forgotten.
_FORGET = 60.0
#: How many replicas may send us signals: replica names in Redis may be made up.
MOST_REPLICAS = 1000


class Following:
    """Signals to a peer that has moved, while some to its old replica are unconfirmed."""

    def __init__(self, origin: str) -> None:
        """Begin to wait for the signals in flight to `origin`."""
        self.origin = origin
        #: Signals returned by the old replica, and signals sent since the move.
        self.returned: list[Signalled] = []
        self.waiting: list[Signalled] = []


class _Held(NamedTuple):
    """A signal that is not sent yet, because we could not receive its confirmation."""

    replica: str
    at: float
    told: bytes
    check: OnReply


class DirectSignals:
    """The signals of one replica. Only `run` blocks."""

    def __init__(
        self,
        redis: Redis,
        feeds: Feeds,
        directory: Directory,
        lease: Lease,
        deliver: Callable[[Delivery], None],
    ) -> None:
        """Begin empty; `deliver` receives incoming signals, and our own that are lost."""
        self._redis = redis
        self._feeds = feeds
        self._directory = directory
        self._lease = lease
        self._deliver = deliver
        self._replica = directory.replica
        #: Signals by replica.
        self._outgoing: dict[str, Outgoing] = {}
        self._incoming: dict[str, Incoming] = {}
        #: The highest number used so far.
        self._number = 0
        self._held: deque[_Held] = deque()
        #: Whether we could send, and receive, at the last check.
        self._connected = False, False
        self._work = trio.Event()
        #: When to check the unconfirmed signals next (Trio's clock).
        self._due = float("inf")
        #: How many of our signals were returned, since the start.
        self.lost = 0
        #: By room and peer: signals that wait for those in flight to the peer's old replica.
        self.following: dict[tuple[str, str], Following] = {}

    @property
    def unconfirmed(self) -> int:
        """How many of our signals are unconfirmed."""
        return sum(map(len, self._outgoing.values()))

    # Sending

    def send(self, replica: str, delivery: Direct) -> None:
        """Send to one replica; an undelivered signal is returned."""
        target = delivery.target if isinstance(delivery, Signalled) else None
        if isinstance(delivery, Signalled) and target is not None and target.wire >= WIRE:
            following = self.following.get((delivery.room_id, target.peer_id))
            if following is not None:
                following.waiting.append(delivery)
            elif replica == self._replica:
                self._deliver(delivery)
            else:
                self._send(replica, target.peer_id, delivery)
            return

        def check(receivers: object) -> None:
            # Version 0.1 confirms nothing; only the number of subscribers is known.
            is_lost = not isinstance(receivers, int) or receivers == 0
            if is_lost and isinstance(delivery, Signalled):
                self._lose([delivery])

        channel = self._directory.key("replica", replica)
        if not self._redis.send_nowait("PUBLISH", channel, encode(delivery), on_reply=check):
            check(0)

    def _send(self, replica: str, target: str, signal: Signalled) -> None:
        now = trio.current_time()
        outgoing = self._outgoing.get(replica)
        if outgoing is None:
            self._forget_idle(now)
            outgoing = self._outgoing[replica] = Outgoing(self._number)
        number = outgoing.add(signal, now)
        self._number = max(self._number, number)
        if not number:
            self._lose([signal])
            return

        def check(receivers: object) -> None:
            # If the outcome is unknown, the receiver may still confirm the signal.
            is_lost = receivers == 0 or isinstance(receivers, Exception)
            if is_lost and not isinstance(receivers, OutcomeUnknownError):
                back = outgoing.take(number)
                if back is not None:
                    self._lose([back])
                    self._send_what_waited(replica)

        told = encode(
            Numbered(
                self._replica,
                number,
                outgoing.base,
                self._lease.clock.span(now)[0],
                signal.room_id,
                signal.kind,
                signal.payload,
                signal.sender.peer_id,
                target,
                signal.wire_type,
                signal.sender.session,
            )
        )
        held = _Held(replica, now, told, check)
        if self._held or (self._redis.can_send and not self._redis.can_hear):
            self._held.append(held)
        elif not self._publish(replica, told, check):
            check(0)
        if self._due == float("inf"):
            self._due = now + CONFIRMING
            self._work.set()

    def _send_held(self, now: float) -> None:
        """Send the held signals; those that are too old are returned."""
        redis, held = self._redis, self._held
        while held and (redis.can_hear or not redis.can_send or now > held[0].at + MAX_AGE):
            signal = held.popleft()
            is_late = now > signal.at + MAX_AGE
            if is_late or not self._publish(signal.replica, signal.told, signal.check):
                signal.check(0)

    def forget(self, replica: str) -> None:
        """A replica is gone: its unconfirmed signals are lost."""
        outgoing = self._outgoing.pop(replica, None)
        self._incoming.pop(replica, None)
        self._held = deque(held for held in self._held if held.replica != replica)
        if outgoing is not None:
            self._lose(outgoing.give_up(float("inf")))
            self._send_what_waited(replica)

    # Peers that move

    def follow(self, room_id: str, peer_id: str, origin: str) -> None:
        """A peer has moved: signals in flight to its old replica go first, then newer ones."""
        outgoing = self._outgoing.get(origin)
        is_under_way = outgoing is not None and outgoing.has(room_id, peer_id)
        if is_under_way and (room_id, peer_id) not in self.following:
            self.following[room_id, peer_id] = Following(origin)

    def has_from(self, room_id: str, peer_id: str) -> bool:
        """Whether any signal from this peer is in flight or waiting."""
        waiting = (s for each in self.following.values() for s in each.returned + each.waiting)
        sent = (s for outgoing in self._outgoing.values() for s in outgoing.signals())
        return any(
            s.room_id == room_id and s.sender.peer_id == peer_id for s in chain(sent, waiting)
        )

    def _return(self, origin: str, signals: list[Signalled]) -> None:
        """A replica did not deliver these: their targets are gone or have moved."""
        for signal in signals:
            target = signal.target
            if target is None:
                continue
            following = self.following.get((signal.room_id, target.peer_id))
            if following is not None and following.origin == origin:
                following.returned.append(signal)
                continue
            room = self._room(signal.room_id)
            known = room.members.get(target.peer_id) if room is not None else None
            if known is None or known.replica == origin or known.joined_at != target.joined_at:
                self._lose([signal])
            else:
                self.send(known.replica, replace(signal, target=known))

    def _send_what_waited(self, origin: str) -> None:
        """Send the waiting signals of peers whose old replica has none in flight any more."""
        outgoing = self._outgoing.get(origin)
        for (room_id, peer_id), following in list(self.following.items()):
            if following.origin != origin or (outgoing and outgoing.has(room_id, peer_id)):
                continue
            del self.following[room_id, peer_id]
            room = self._room(room_id)
            target = room.members.get(peer_id) if room is not None else None
            for signal in following.returned + following.waiting:
                if target is None:
                    self._lose([signal])
                else:
                    self.send(target.replica, replace(signal, target=target))

    def _lose(self, signals: list[Signalled]) -> None:
        self.lost += len(signals)
        for signal in signals:
            self._deliver(Undelivered(signal))

    # Receiving

    def take(self, direct: Numbered | Confirmed | Asked) -> bool:
        """Process a message about signals; return whether it is plausible."""
        match direct:
            case Numbered():
                if not 0 < direct.base <= direct.number <= direct.base + MOST_UNCONFIRMED:
                    return False
                return self._take_signal(direct)
            case Confirmed():
                outgoing = self._outgoing.get(direct.origin)
                if outgoing is not None:
                    self._return(
                        direct.origin, outgoing.confirm(direct.upto, frozenset(direct.refused))
                    )
                    self._send_what_waited(direct.origin)
            case Asked():
                incoming = self._incoming_of(direct.origin, max(direct.base, 1))
                if incoming is None:
                    return False
                incoming.is_unsaid = True
                self._work.set()
            case _:
                assert_never(direct)
        return True

    def _incoming_of(self, origin: str, base: int) -> Incoming | None:
        """The signals from a replica, which may be new; None if there are too many replicas."""
        incoming = self._incoming.get(origin)
        if incoming is None:
            self._forget_idle(trio.current_time())
            if len(self._incoming) >= MOST_REPLICAS:
                return None
            incoming = self._incoming[origin] = Incoming(base)
            incoming.last_heard = trio.current_time()
        return incoming

    def _forget_idle(self, now: float) -> None:
        """Forget idle replicas: only the replica that reaps a dead one is notified."""
        for replica, outgoing in list(self._outgoing.items()):
            if not outgoing and now > outgoing.used + _FORGET:
                del self._outgoing[replica]
        for replica, incoming in list(self._incoming.items()):
            if not incoming.is_waiting and now > incoming.last_heard + _FORGET:
                del self._incoming[replica]

    def _take_signal(self, came: Numbered) -> bool:
        incoming = self._incoming_of(came.origin, came.base)
        if incoming is None:
            return False
        now = trio.current_time()
        # Take the greatest possible age. A signal that counts as too old is refused; one that
        # counts as too young might be delivered and reported lost.
        _, here = self._lease.clock.span(now)
        age = here - came.at if here and came.at else 0.0
        room = self._room(came.room_id)
        held = not self._redis.can_send
        if incoming.take(came, room, age=age, now=now, held=held) and room is not None:
            self._hand_over(came, room)
        if self._due == float("inf") or now >= incoming.said + CONFIRMING:
            self._work.set()
        return True

    def _hand_over(self, came: Numbered, room: Room) -> None:
        sender, target = room.members[came.sender], room.own[came.target]
        self._deliver(
            Signalled(
                came.room_id, came.kind, came.payload, sender, target, came.wire_type, utc_now()
            )
        )

    def _room(self, room_id: str) -> Room | None:
        feed = self._feeds.get(room_id)
        return feed.room if feed is not None else None

    # Timers
    def resync(self) -> None:
        """Redis was away: confirmations may be lost in both directions. Does not block."""
        for outgoing in self._outgoing.values():
            outgoing.must_ask = True
        for incoming in self._incoming.values():
            incoming.is_unsaid = True
        self._work.set()

    async def run(self) -> NoReturn:
        """Send confirmations, and give up unconfirmed signals; until cancelled."""
        reading_until = unsure_until = connected = 0.0
        while True:
            with trio.move_on_at(self._due):
                await self._work.wait()
            self._work = trio.Event()
            now = trio.current_time()
            if (late := now - self._due) > _LATE:
                reading_until = max(reading_until, now + min(late, GIVE_UP) + _READING)
            if self._redis.connected:
                connected = now
            if now > connected or self._redis.unanswered > _UNANSWERED:
                unsure_until = now + _ANSWERED
            self._look_at_connections()
            self._send_held(now)
            for replica, incoming in list(self._incoming.items()):
                self._confirm(replica, incoming, now)
            is_away = now > connected + _UNCONNECTED
            extra = 0.0 if now >= unsure_until else _AWAY if is_away else _SLOW
            for replica, outgoing in list(self._outgoing.items()):
                if now >= reading_until:
                    self._lose(outgoing.give_up(now - extra))
                    self._send_what_waited(replica)
                if outgoing.should_ask(now):
                    told = encode(Asked(self._replica, outgoing.base))
                    outgoing.must_ask = not self._publish(replica, told)
            self._due = now + CONFIRMING if self._is_busy(now) else float("inf")

    def _look_at_connections(self) -> None:
        """After a reconnect, repeat all questions and confirmations that may be lost."""
        connected = self._redis.can_send, self._redis.can_hear
        if any(now and not before for now, before in zip(connected, self._connected, strict=True)):
            self.resync()
        self._connected = connected

    def _confirm(self, replica: str, incoming: Incoming, now: float) -> None:
        for came in incoming.take_waiting(self._room, now, held=not self._redis.can_send):
            room = self._room(came.room_id)
            if room is not None:
                self._hand_over(came, room)
        if incoming.is_unsaid and now >= incoming.said + CONFIRMING:
            incoming.said = now
            upto, refused = incoming.confirm()

            def check(receivers: object) -> None:
                # If nobody received the confirmation, it is repeated while somebody asks.
                if not isinstance(receivers, int) or receivers == 0:
                    until = incoming.last_heard + GIVE_UP
                    if trio.current_time() < until:
                        incoming.is_unsaid = True
                        self._work.set()

            told = encode(Confirmed(self._replica, upto, refused))
            if not self._publish(replica, told, check):
                incoming.is_unsaid = True

    def _publish(self, replica: str, told: bytes, on_reply: OnReply | None = None) -> bool:
        channel = self._directory.key("replica", replica)
        return self._redis.send_nowait("PUBLISH", channel, told, on_reply=on_reply)

    def _is_busy(self, now: float) -> bool:
        return bool(self.unconfirmed) or any(
            incoming.is_unsaid or incoming.is_waiting or now < incoming.said + CONFIRMING
            for incoming in self._incoming.values()
        )
