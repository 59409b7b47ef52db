"""Rounds: how much time of each round of the event loop is spent on clients' messages.

Trio runs every task that is ready once in a round. If two hundred connections are ready and each
takes its time, the next one waits for them all, and so do HTTP and new connections. So they share a
budget. A connection that finds it spent waits in line, and the line moves on in the next round.
Clients over their rate wait in a second line, behind the others.
"""

import time
from collections import OrderedDict
from itertools import chain, islice
from typing import NoReturn

import trio

#: Seconds of a round for the messages of all clients together. A message that was begun is
#: completed. Sending takes extra time; see `trio_signal.outbox`.
BUDGET = 0.002
#: The part of it for clients that are over their rate.
LATE_BUDGET = 0.0008
#: Seconds after which a waiting connection lets the next one run.
TURN = 0.0003
#: How many waiting connections are woken in a round, at first and at most. Their time is unknown,
#: so the number is doubled while the budget lasts, and halved when it does not.
_FEWEST, _MOST = 4, 1024


_Line = OrderedDict[trio.lowlevel.Task, None]


class Rounds(trio.abc.Instrument):
    """The budget of each round. It is a Trio instrument, so it knows when a round begins.

    Without `run`, the budget is unlimited.
    """

    def __init__(self) -> None:
        """Start with empty lines."""
        #: When the budget of this round is spent, by `time.perf_counter`.
        self.until = float("inf")
        self._late_until = float("inf")
        #: The tasks that wait for a turn; and those over their rate, whose turn comes later.
        self.line: _Line = OrderedDict()
        self._behind: _Line = OrderedDict()
        self._at_once = _FEWEST
        #: The tasks woken in this round, in the order of the lines; and those of them that wait
        #: again because the budget was spent.
        self._woken: list[trio.lowlevel.Task] = []
        self._in_vain: dict[trio.lowlevel.Task, _Line] = {}
        self._rest = trio.lowlevel.ParkingLot()

    def after_io_wait(self, timeout: float) -> None:
        """Start a round; called by Trio."""
        now = time.perf_counter()
        self.until = now + BUDGET
        self._late_until = now + LATE_BUDGET
        if self.line or self._behind:
            self._wake_some()
        elif self._woken:
            self._woken.clear()  # they have had their turn, and may have ended
            self._in_vain.clear()

    def _wake_some(self) -> None:
        self._at_once = max(self._at_once // 2, _FEWEST) if self._in_vain else self._at_once * 2
        self._at_once = min(self._at_once, _MOST)
        # Trio runs them forwards or backwards, as it happens.
        for task in reversed(self._woken):
            line = self._in_vain.get(task)
            if line is not None and task in line:
                line.move_to_end(task, last=False)
        self._in_vain.clear()
        self._woken = list(islice(chain(self.line, self._behind), self._at_once))
        for task in self._woken:
            self.line.pop(task, None)
            self._behind.pop(task, None)
            trio.lowlevel.reschedule(task)

    @property
    def is_behind(self) -> bool:
        """Whether connections wait for their turn, or have got it only in this round."""
        return bool(self.line or self._woken)

    async def wait(self, *, overdrawn: bool = False) -> float:
        """Wait for a turn. Returns when it ends, by `time.perf_counter`.

        With `overdrawn`, the turn comes after those of clients that are within their rate.
        """
        line = self._behind if overdrawn else self.line
        if not self.line and not line and time.perf_counter() <= self._end(line):
            return self._end(line)
        task = trio.lowlevel.current_task()
        await self._stand_in(line, task)
        # However busy a round is, the first of those that were woken continues.
        while task is not self._woken[0] and time.perf_counter() > self._end(line):
            self._in_vain[task] = line
            await self._stand_in(line, task)
        return min(self._end(line), time.perf_counter() + TURN)

    def _end(self, line: _Line) -> float:
        return self._late_until if line is self._behind else self.until

    async def _stand_in(self, line: _Line, task: trio.lowlevel.Task) -> None:
        self._rest.unpark()
        line[task] = None

        def leave(raise_cancel: object) -> trio.lowlevel.Abort:
            del line[task]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    async def run(self) -> NoReturn:
        """Start another round as long as a task waits for one, until cancelled."""
        trio.lowlevel.add_instrument(self)
        try:
            while True:
                if self.line or self._behind:
                    await trio.lowlevel.checkpoint()
                else:
                    await self._rest.park()
        finally:
            trio.lowlevel.remove_instrument(self)
