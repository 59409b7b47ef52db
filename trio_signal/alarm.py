"""Alarms: call a function of each connection when it is due, in one task for all of them.

A task that only sleeps has a fifth of an idle connection's memory, and costs more when it wakes and
ends than what it does. The connection's nursery still owns everything that blocks.
"""

import math
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, Self

import trio

NEVER = float("inf")
#: Functions are called at multiples of so many seconds, so the number of times is bounded. It is a
#: power of two, so that rounding up never rounds down.
GRAIN = 1 / 128
#: How many functions are called in one round of the event loop.
_AT_ONCE = 64


class Alarm:
    """Calls one function when it is due. The code that sets it need not know which function.

    As a context manager it calls nothing any more after the block.
    """

    __slots__ = ("_alarms", "_call", "at")

    def __init__(self) -> None:
        """Make an alarm that calls nothing."""
        self._alarms: Alarms | None = None
        self._call: Callable[[float], float] = _do_nothing
        #: When it is due, by Trio's clock.
        self.at = NEVER

    def calling(self, call: Callable[[float], float], at: float, alarms: "Alarms") -> Self:
        """Call this function from this time on, as long as the block runs that this begins.

        It gets the time, and returns when it is due again. It must not block or raise.
        """
        self._alarms, self._call = alarms, call
        alarms.set(self, at)
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        type_: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._alarms is not None:
            self._alarms.drop(self)
        self._alarms, self._call = None, _do_nothing  # it refers to what holds the alarm

    def set(self, at: float = -NEVER) -> None:
        """Call the function at this time, unless it is due earlier. Does not block."""
        if self._alarms is not None:
            self._alarms.set(self, at)

    def ring(self, now: float) -> None:
        """Call the function, and note when it is due again."""
        self.at = NEVER
        self.set(self._call(now))


def _do_nothing(now: float) -> float:
    return NEVER


class Alarms:
    """The alarms of a server."""

    def __init__(self) -> None:
        """Start without alarms; they ring while `run` runs."""
        #: The alarms by the time at which they are due.
        self._due: dict[float, set[Alarm]] = {}
        self._sleep = trio.CancelScope()

    def set(self, alarm: Alarm, at: float) -> None:
        """Let it ring at this time, or up to `GRAIN` later, unless it rings earlier."""
        if at >= alarm.at:
            return
        self.drop(alarm)
        alarm.at = math.ceil(at / GRAIN) * GRAIN if at > -NEVER else at
        self._due.setdefault(alarm.at, set()).add(alarm)
        if alarm.at < self._sleep.deadline:
            self._sleep.deadline = alarm.at

    def drop(self, alarm: Alarm) -> None:
        """Let it ring no more."""
        due = self._due.get(alarm.at)
        if due is not None:
            due.discard(alarm)
            if not due:
                del self._due[alarm.at]

    async def run(self) -> NoReturn:
        """Ring alarms, until cancelled."""
        while True:
            with trio.CancelScope(deadline=min(self._due, default=NEVER)) as self._sleep:
                await trio.sleep_forever()
            self._ring_some(trio.current_time())

    def _ring_some(self, now: float) -> None:
        """Ring some of the alarms that are due."""
        left = _AT_ONCE
        for at in sorted(at for at in self._due if at <= now):
            while left and (due := self._due.get(at)):
                left -= 1
                alarm = due.pop()
                if not due:
                    del self._due[at]
                alarm.ring(now)
