"""Rounds of the event loop, and how long all that clients have said may take in each.

Trio runs every task that is ready once in a round. If two hundred connections
are ready and each takes its time, the next one waits for them all, and so do
HTTP and whoever has just connected. So they share a budget. Whoever finds it
spent waits in line, and the line moves on in the next round. Clients that ask
for more than they may have wait in a line of their own, behind the others.
"""

import time
from collections import OrderedDict
from itertools import chain, islice
from typing import NoReturn

import trio

#: Seconds of a round for what clients have said, all of them together. A message that was begun
#: is carried out. What they are told is sent besides; see `trio_signal.outbox`.
BUDGET = 0.002
#: What of it there is for those who have overdrawn what they may spend.
LATE_BUDGET = 0.0008
#: Seconds after which one of those who wait lets the next one on.
TURN = 0.0003
#: How many of them are woken in a round: at first, and at most. What they take is not known
#: before, so it is doubled while the budget lasts, and halved when it did not.
_FEWEST, _MOST = 4, 1024


_Line = OrderedDict[trio.lowlevel.Task, None]


class Rounds(trio.abc.Instrument):
    """The budget of each round. An instrument of Trio's, so it knows when one begins.

    Without `run` there is no end to it.
    """

    def __init__(self) -> None:
        """Begin without anybody in line."""
        #: When the budget of this round is spent, as `time.perf_counter` has it.
        self.until = float("inf")
        self._late_until = float("inf")
        #: Those who wait for their turn; and those who ask for too much, whose turn comes later.
        self.line: _Line = OrderedDict()
        self._behind: _Line = OrderedDict()
        self._at_once = _FEWEST
        #: Those who were woken in this round, in the order of the lines; and who of them found
        #: that the budget was spent, and wait again.
        self._woken: list[trio.lowlevel.Task] = []
        self._in_vain: dict[trio.lowlevel.Task, _Line] = {}
        self._rest = trio.lowlevel.ParkingLot()

    def after_io_wait(self, timeout: float) -> None:
        """A round begins; called by Trio."""
        now = time.perf_counter()
        self.until = now + BUDGET
        self._late_until = now + LATE_BUDGET
        if self.line or self._behind:
            self._wake_some()
        elif self._woken:
            self._woken.clear()  # they have had their turn, and may be over
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

    async def wait(self, *, overdrawn: bool = False) -> float:
        """Wait for one's turn, if that is not now. Until when it is, by `time.perf_counter`.

        The turn of who has `overdrawn` what it may spend comes after that of the others.
        """
        line = self._behind if overdrawn else self.line
        if not self.line and not line and time.perf_counter() <= self._end(line):
            return self._end(line)
        task = trio.lowlevel.current_task()
        await self._stand_in(line, task)
        # Whatever else a round has to do, the first of those who were woken goes on.
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
        """See to it that there is another round while somebody waits for it; until cancelled."""
        trio.lowlevel.add_instrument(self)
        try:
            while True:
                if self.line or self._behind:
                    await trio.lowlevel.checkpoint()
                else:
                    await self._rest.park()
        finally:
            trio.lowlevel.remove_instrument(self)
