"""What one replica tells another alone; signals are confirmed, or given up: see `receipts`."""

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

#: Seconds between two confirmations to one replica; the first is sent at once, since what is
#: delivered and not confirmed when Redis goes away is reported as lost.
CONFIRMING = 0.02
#: Seconds by which we may look too late before it counts as our own standstill, and for which
#: nothing is given up after one, besides its own length: the confirmation may be here, unread, and
#: who is to send it may be on the same machine.
_LATE, _READING = 0.2, 0.5
#: Seconds beyond `GIVE_UP` for which one that may have been delivered is kept: while Redis is slow
#: or a connection to it new, since the confirmation comes then for certain; and while it is away.
_SLOW, _AWAY = 5.0, 1.5
#: Seconds for an answer that is slow; for a connection that is away; and from there on to the
#: confirmation.
_UNANSWERED, _UNCONNECTED, _ANSWERED = 0.5, 2.0, 1.5
#: Seconds after which a replica is forgotten to or from which nothing goes.
_FORGET = 60.0
#: How many replicas may send us signals: names in Redis may be made up.
MOST_REPLICAS = 1000


class Following:
    """Signals to a peer that has moved, while some to where it was are not confirmed."""

    def __init__(self, origin: str) -> None:
        """Begin to wait for what is under way to `origin`."""
        self.origin = origin
        #: Those that came back, and those that were said since.
        self.returned: list[Signalled] = []
        self.waiting: list[Signalled] = []


class _Held(NamedTuple):
    """A signal that is not sent yet: we could not hear what becomes of it."""

    replica: str
    at: float
    told: bytes
    check: OnReply


class DirectSignals:
    """Those of one replica. Nothing but `run` blocks."""

    def __init__(
        self,
        redis: Redis,
        feeds: Feeds,
        directory: Directory,
        lease: Lease,
        deliver: Callable[[Delivery], None],
    ) -> None:
        """Begin without any; `deliver` gets those that come, and those of ours that are lost."""
        self._redis = redis
        self._feeds = feeds
        self._directory = directory
        self._lease = lease
        self._deliver = deliver
        self._replica = directory.replica
        #: By replica.
        self._outgoing: dict[str, Outgoing] = {}
        self._incoming: dict[str, Incoming] = {}
        #: The greatest number that was ever used.
        self._number = 0
        self._held: deque[_Held] = deque()
        #: Whether we could send, and hear, when it was looked at last.
        self._connected = False, False
        self._work = trio.Event()
        #: When it is looked at what is not confirmed (Trio's clock).
        self._due = float("inf")
        #: Signals of ours that came back, since the start.
        self.lost = 0
        #: By room and peer: those that wait for what went to where the peer was before it moved.
        self.following: dict[tuple[str, str], Following] = {}

    @property
    def unconfirmed(self) -> int:
        """How many of our signals are not confirmed."""
        return sum(map(len, self._outgoing.values()))

    # What goes

    def send(self, replica: str, delivery: Direct) -> None:
        """Tell one replica; a signal that is not delivered comes back."""
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
            # Version 0.1 confirms nothing: how many subscribers there are is all that is known.
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
            # Of one whose outcome is unknown the receiver says what became of it, or nobody.
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
        """What is not sent yet goes, or comes back if it would not be delivered any more."""
        redis, held = self._redis, self._held
        while held and (redis.can_hear or not redis.can_send or now > held[0].at + MAX_AGE):
            signal = held.popleft()
            is_late = now > signal.at + MAX_AGE
            if is_late or not self._publish(signal.replica, signal.told, signal.check):
                signal.check(0)

    def forget(self, replica: str) -> None:
        """A replica is gone: what it has not confirmed is lost."""
        outgoing = self._outgoing.pop(replica, None)
        self._incoming.pop(replica, None)
        self._held = deque(held for held in self._held if held.replica != replica)
        if outgoing is not None:
            self._lose(outgoing.give_up(float("inf")))
            self._send_what_waited(replica)

    # Peers that move

    def follow(self, room_id: str, peer_id: str, origin: str) -> None:
        """A peer has moved: what is under way to where it was goes first, and what comes then."""
        outgoing = self._outgoing.get(origin)
        is_under_way = outgoing is not None and outgoing.has(room_id, peer_id)
        if is_under_way and (room_id, peer_id) not in self.following:
            self.following[room_id, peer_id] = Following(origin)

    def has_from(self, room_id: str, peer_id: str) -> bool:
        """Whether any signal of this peer is under way, or waits."""
        waiting = (s for each in self.following.values() for s in each.returned + each.waiting)
        sent = (s for outgoing in self._outgoing.values() for s in outgoing.signals())
        return any(
            s.room_id == room_id and s.sender.peer_id == peer_id for s in chain(sent, waiting)
        )

    def _return(self, origin: str, signals: list[Signalled]) -> None:
        """A replica has not delivered these: their targets are gone, or have moved."""
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
        """Nothing more is under way to where some peers were."""
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

    # What comes

    def take(self, direct: Numbered | Confirmed | Asked) -> bool:
        """Take in what another replica says of signals; whether it may be."""
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
        """What came from a replica, which may be a new one; None if there are too many."""
        incoming = self._incoming.get(origin)
        if incoming is None:
            self._forget_idle(trio.current_time())
            if len(self._incoming) >= MOST_REPLICAS:
                return None
            incoming = self._incoming[origin] = Incoming(base)
            incoming.last_heard = trio.current_time()
        return incoming

    def _forget_idle(self, now: float) -> None:
        """Replicas that are gone, of which only the one that reaps them hears."""
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
        # It may be as old as this: too old is refused, too young would be reported as well.
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

    # The time between

    def resync(self) -> None:
        """Redis was away, and with it what we said or were told; does not block."""
        for outgoing in self._outgoing.values():
            outgoing.must_ask = True
        for incoming in self._incoming.values():
            incoming.is_unsaid = True
        self._work.set()

    async def run(self) -> NoReturn:
        """Confirm what came, and give up what is not confirmed; until cancelled."""
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
        """On a new connection all is asked and said again that may have been lost."""
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
                # Nobody may have heard it. It is said again as long as somebody wants to know.
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
