"""Negotiations: offers, answers and candidates that are open between two clients. No I/O.

Clients of the `stream` dialect drop candidates that come before they have applied the description,
and viewers ignore offers while they have a connection that has not failed yet. So candidates are
held back until they can be used, and a broadcaster is asked for another offer if a viewer did not
answer. Times are arguments, in seconds of any clock.
"""

from collections.abc import Iterator
from typing import NamedTuple

from trio_signal.messages.events import Signalled

#: Seconds for which candidates wait for an answer, and after it until it has been applied.
ANSWER_WAIT = 3.0
SETTLE = 0.1
#: A viewer that has answered before, or has not answered for so long, may ignore offers because its
#: old connection has not failed yet. Candidates of a new offer would keep that connection alive in
#: Chromium, so they are dropped if no answer comes.
_IGNORED = 2.5
IGNORED_WAIT = 30.0
#: Seconds for which an offer without an answer is remembered.
_MINDED = 60.0
#: Seconds after an offer without an answer when another one is asked for.
ASK_AFTER = (3.0, 6.0, 12.0, 24.0)
#: How often that series is repeated: the last requested offer starts it again.
ROUNDS = 2
#: Seconds after a request in which an offer counts as the requested one.
_PROVOKED = 3.0
#: Maximum signals, and bytes, that wait for one client. Beyond it, all of them are sent at once.
MAX_HELD = 256
MAX_HELD_BYTES = 1 << 16
#: Memory of a candidate besides its text.
_OVERHEAD = 200
NEVER = float("inf")


class Unanswered(NamedTuple):
    """A peer that has not answered an offer."""

    room_id: str
    peer_id: str


class _Pair:
    """The client and one counterpart."""

    __slots__ = (
        *("ask_at", "asked", "asked_at", "began", "held", "held_until"),
        *("ignores", "offered_at", "rounds"),
    )

    def __init__(self) -> None:
        self.held: list[Signalled] = []
        #: Until when candidates are held back; `NEVER` if they are not held back.
        self.held_until = NEVER
        #: When the unanswered offer came, and whether the client ignores offers.
        self.offered_at, self.ignores = -NEVER, False
        #: When the series of unanswered offers began, and how many offers were requested in it.
        self.began, self.asked, self.rounds = 0.0, 0, 0
        #: When an offer was last requested, and when the next request is due.
        self.asked_at, self.ask_at = -NEVER, NEVER

    def was_offered(self, now: float, *, before: bool) -> float:
        """Note an offer to the client; returns until when its candidates are held back.

        `before` says whether the client has answered any offer in this room before.
        """
        self.ignores |= before or _IGNORED <= now - self.offered_at < _MINDED
        self.offered_at = now
        return now + (IGNORED_WAIT if self.ignores else ANSWER_WAIT)

    def offered(self, now: float) -> None:
        """Note an offer of the client: expect an answer."""
        if now - self.asked_at > _PROVOKED:
            self.rounds = 0
        elif self.asked < len(ASK_AFTER):
            return  # the offer was requested, so the series continues
        self.asked_at = -NEVER
        self.began, self.asked = now, 0
        self.rounds += 1
        self.ask_at = now + ASK_AFTER[0] if self.rounds <= ROUNDS else NEVER

    def ask(self, now: float) -> None:
        """Note that another offer is requested."""
        self.asked += 1
        self.asked_at = now
        more = self.asked < len(ASK_AFTER)
        self.ask_at = self.began + ASK_AFTER[self.asked] if more else NEVER

    @property
    def due(self) -> float:
        return min(self.held_until, self.ask_at)

    def is_over(self, now: float) -> bool:
        """Whether nothing is expected or remembered any more."""
        return self.due == NEVER and now > self.minded_until

    @property
    def minded_until(self) -> float:
        """Until when unanswered offers and requests are remembered."""
        return max(self.asked_at + _PROVOKED, self.offered_at + _MINDED)


class Negotiations:
    """The negotiations of one client, which is the broadcaster or a viewer.

    Signals from each counterpart are returned in the order in which they came.
    """

    __slots__ = ("_answered", "_held", "_held_bytes", "_pairs", "due")

    def __init__(self) -> None:
        """Start without negotiations."""
        self._pairs: dict[Unanswered, _Pair] = {}
        self._held = self._held_bytes = 0
        #: The rooms in which the client has answered an offer.
        self._answered: set[str] = set()
        #: When `take_due` has to be called.
        self.due = NEVER

    def hear(self, signal: Signalled, now: float) -> list[Signalled]:
        """Process a counterpart's signal for the client; return the signals to send to it now."""
        key = Unanswered(signal.room_id, signal.sender.peer_id)
        match signal.kind:
            case "offer":
                offered = self._pair(key)
                if now - offered.offered_at >= _IGNORED:
                    self._release(offered)  # they belong to an offer that is no longer valid
                until = offered.was_offered(now, before=key.room_id in self._answered)
                self._hold(offered, until)
            case "answer":
                pair = self._pairs.get(key)
                if pair is not None:
                    pair.ask_at, pair.asked_at = NEVER, -NEVER
                    self._hold(pair, now + SETTLE)
            case "candidate":
                pair = self._pairs.get(key)
                if pair is not None and pair.held_until != NEVER:
                    return self._keep(pair, signal)
        return [signal]

    def say(self, signal: Signalled, now: float) -> list[Signalled]:
        """Process an offer or answer of the client; return the signals to send to it now."""
        if signal.target is None:
            return []
        key = Unanswered(signal.room_id, signal.target.peer_id)
        if signal.kind == "offer":
            pair = self._pair(key)
            pair.offered(now)
            self._hold(pair, now + ANSWER_WAIT)
        elif signal.kind == "answer" and key in self._pairs:
            self._answered.add(key.room_id)
            pair = self._pairs[key]
            pair.offered_at, pair.ignores = -NEVER, False
            return self._release(pair)
        return []

    def take_due(self, now: float) -> tuple[list[Signalled], list[Unanswered]]:
        """The signals that have waited long enough, and the peers that need another offer."""
        signals: list[Signalled] = []
        unanswered: list[Unanswered] = []
        for key, pair in list(self._pairs.items()):
            if now >= pair.held_until:
                held = self._release(pair)
                signals += [] if pair.ignores else held
            if now >= pair.ask_at:
                pair.ask(now)
                unanswered.append(key)
            if pair.is_over(now):
                del self._pairs[key]
        self.due = min(self._dues(), default=NEVER)
        return signals, unanswered

    def forget(self, key: Unanswered) -> None:
        """Forget a counterpart that has left, and its waiting signals."""
        pair = self._pairs.pop(key, None)
        if pair is not None:
            self._release(pair)

    def _dues(self) -> Iterator[float]:
        for pair in self._pairs.values():
            # A negotiation that waits for nothing is checked once more, and then forgotten.
            yield pair.due if pair.due != NEVER else pair.minded_until + 1

    def _pair(self, key: Unanswered) -> _Pair:
        return self._pairs.setdefault(key, _Pair())

    def _hold(self, pair: _Pair, until: float) -> None:
        pair.held_until = until
        self.due = min(self.due, pair.due)

    def _keep(self, pair: _Pair, signal: Signalled) -> list[Signalled]:
        pair.held.append(signal)
        self._held += 1
        self._held_bytes += _size(signal)
        full = self._held > MAX_HELD or self._held_bytes > MAX_HELD_BYTES
        return self._release(pair) if full else []

    def _release(self, pair: _Pair) -> list[Signalled]:
        held, pair.held, pair.held_until = pair.held, [], NEVER
        self._held -= len(held)
        self._held_bytes -= sum(map(_size, held))
        return held


def _size(signal: Signalled) -> int:
    return len(signal.payload) + _OVERHEAD
