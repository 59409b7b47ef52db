"""Receipts: what became of the signals between two replicas. Pure: no I/O, no clock.

The reply to PUBLISH is no receipt: it counts subscribers that may be dead. So the signals of each
pair of replicas are numbered. The receiver reports up to which number it has decided, and which
signals it could not deliver. It confirms a signal only after delivering it. A sender that hears
nothing gives the signal up, and notifies its client.

A signal is either delivered or reported as lost, never both and never neither. A signal older than
`MAX_AGE`, by the clock of Redis, is not delivered any more; one older than `GIVE_UP` is reported as
lost. The time between the two allows for the confirmation to arrive, and for clocks that differ. A
receiver that could not confirm now does not deliver; a sender that could not receive confirmations
does not send. One gap remains: signals that a replica delivers in the last moment before it is cut
off are not confirmed until it is connected again, and may be reported as lost (the two generals'
problem).
"""

from collections.abc import Callable, Collection, Iterator
from itertools import takewhile
from typing import NamedTuple

from trio_signal.bus.redis.wire import MOST_UNCONFIRMED, Numbered
from trio_signal.messages.events import Signalled
from trio_signal.room import Room

#: Seconds after sending, by the clock of Redis, after which a signal is not delivered.
MAX_AGE = 1.2
#: Seconds without a confirmation after which a signal counts as lost.
GIVE_UP = 2.7
#: Seconds after which the receiver is asked for a confirmation that may have been lost.
_ASK = 0.7
#: Bytes of unconfirmed signals to one replica; beyond them, signals are returned at once.
MOST_BYTES = 32 * 2**20
#: Seconds for which a signal waits until this replica has the room state that its sender had; not
#: beyond `MAX_AGE`.
MAX_WAIT = 1.0


class _Sent(NamedTuple):
    signal: Signalled
    at: float
    size: int


class Outgoing:
    """The unconfirmed signals to one other replica; times are Trio's clock."""

    __slots__ = ("_asked", "_bytes", "_unconfirmed", "must_ask", "number", "used")

    def __init__(self, number: int = 0) -> None:
        """Begin after `number`, which is above all numbers this replica has used."""
        self.number = number
        #: When the last signal was sent.
        self.used = 0.0
        #: Signals by number, the oldest first.
        self._unconfirmed: dict[int, _Sent] = {}
        self._bytes = 0
        self._asked = 0.0
        #: Confirmations may have been lost: ask at once.
        self.must_ask = False

    def __len__(self) -> int:
        """How many signals are unconfirmed."""
        return len(self._unconfirmed)

    @property
    def base(self) -> int:
        """All signals before this number are confirmed, or given up."""
        return next(iter(self._unconfirmed), self.number + 1)

    def has(self, room_id: str, peer_id: str) -> bool:
        """Whether any unconfirmed signal is for this peer."""
        return any(
            signal.room_id == room_id and signal.target and signal.target.peer_id == peer_id
            for signal in self.signals()
        )

    def signals(self) -> Iterator[Signalled]:
        """The unconfirmed signals."""
        return (sent.signal for sent in self._unconfirmed.values())

    def add(self, signal: Signalled, now: float) -> int:
        """Number a signal before it is sent; returns 0 if too much is unconfirmed."""
        size = len(memoryview(signal.payload))
        if len(self._unconfirmed) >= MOST_UNCONFIRMED or self._bytes + size > MOST_BYTES:
            return 0
        self.number += 1
        self.used = now
        self._unconfirmed[self.number] = _Sent(signal, now, size)
        self._bytes += size
        return self.number

    def take(self, number: int) -> Signalled | None:
        """Remove a signal that is confirmed or certainly lost; None if it was removed before."""
        sent = self._unconfirmed.pop(number, None)
        if sent is None:
            return None
        self._bytes -= sent.size
        return sent.signal

    def confirm(self, upto: int, refused: Collection[int]) -> list[Signalled]:
        """The receiver has decided up to this number; return the signals that it refused."""
        lost = []
        for number in list(self._unconfirmed):
            if number > upto:
                break
            signal = self.take(number)
            if signal is not None and number in refused:
                lost.append(signal)
        return lost

    def give_up(self, now: float) -> list[Signalled]:
        """Remove and return the signals that waited too long for a confirmation."""
        old = takewhile(lambda sent: sent[1].at + GIVE_UP <= now, self._unconfirmed.items())
        return [signal for number, _ in list(old) if (signal := self.take(number)) is not None]

    def should_ask(self, now: float) -> bool:
        """Whether to ask for a confirmation now; a few times at most per signal."""
        oldest = next(iter(self._unconfirmed.values()), None)
        is_due = oldest is not None and now >= max(oldest.at, self._asked) + _ASK
        if oldest is None or not (is_due or self.must_ask):
            return False
        self._asked, self.must_ask = now, False
        return True


class Incoming:
    """The signals from one other replica, and the confirmations to send."""

    __slots__ = ("_last", "_refused", "_waiting", "is_unsaid", "last_heard", "said")

    def __init__(self, base: int) -> None:
        """Begin at `base`: all signals before it are decided."""
        self._last = base - 1
        self._refused: set[int] = set()
        #: Waiting signals by number, until when each waits for the state of its room, and until
        #: when it may be delivered (Trio's clock).
        self._waiting: dict[int, tuple[Numbered, float, float]] = {}
        #: There is something to confirm.
        self.is_unsaid = False
        #: When a confirmation was last sent, and when a signal last came (Trio's clock).
        self.said = self.last_heard = 0.0

    def take(
        self, came: Numbered, room: Room | None, *, age: float, now: float, held: bool = False
    ) -> bool:
        """Whether to deliver this signal now; otherwise it waits, is refused, or is a duplicate.

        Skipped numbers are lost. Nothing in a room overtakes a waiting signal. While `held`, all
        wait, because they could not be confirmed now.
        """
        self.last_heard = now
        self.is_unsaid = True
        self._last = max(self._last, came.base - 1)
        if self._refused:
            self._refused = {number for number in self._refused if number >= came.base}
        if came.number <= self._last:
            return False
        self._refused.update(range(self._last + 1, came.number))
        self._last = came.number
        if age > MAX_AGE or room is None:
            self._refused.add(came.number)
            return False
        behind = self._waiting and any(
            waiting.room_id == came.room_id for waiting, *_ in self._waiting.values()
        )
        if held or behind or not _is_known(room, came):
            end = now + MAX_AGE - age
            self._waiting[came.number] = came, min(now + MAX_WAIT, end), end
            return False
        return self._decide(came, room)

    def take_waiting(
        self, rooms: Callable[[str], Room | None], now: float, *, held: bool = False
    ) -> Iterator[Numbered]:
        """Take the waiting signals that can be delivered now, in order; none while `held`."""
        stuck: set[str] = set()
        for came, until, end in list(self._waiting.values()):
            room = rooms(came.room_id)
            is_stuck = room is None or held or came.room_id in stuck or not _is_known(room, came)
            if is_stuck and room is not None and now < until:
                stuck.add(came.room_id)
                continue
            # One that only waited behind another may be delivered as long as it is young enough.
            if room is not None and not is_stuck and now < end:
                is_fit = self._decide(came, room)
            else:
                is_fit = False
                self._refused.add(came.number)
            del self._waiting[came.number]
            self.is_unsaid = True
            if is_fit:
                yield came

    def _decide(self, came: Numbered, room: Room) -> bool:
        if came.target in room.own:
            return True
        self._refused.add(came.number)
        return False

    @property
    def is_waiting(self) -> bool:
        """Whether any signal waits."""
        return bool(self._waiting)

    def confirm(self) -> tuple[int, tuple[int, ...]]:
        """The number up to which all is decided, and the numbers that were not delivered."""
        self.is_unsaid = False
        upto = min(self._waiting, default=self._last + 1) - 1
        return upto, tuple(sorted(number for number in self._refused if number <= upto))


def _is_known(room: Room, came: Numbered) -> bool:
    """Whether this replica knows enough of the room to deliver the signal."""
    sender = room.members.get(came.sender)
    if sender is None or not room.numbering.in_step:
        return False
    # The sender's session may have moved since it sent this.
    return sender.replica == came.origin or bool(came.session and came.session == sender.session)
