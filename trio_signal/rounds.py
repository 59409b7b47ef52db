"""Rounds of the event loop, and how long all that clients have said may take in each.

Trio runs every task that is ready once in a round. If two hundred connections
are ready and each takes its time, the next one waits for them all, and so do
HTTP and whoever has just connected. So they share a budget. Whoever finds it
spent waits in line, and the line moves on in the next round.
"""

import time
from collections import OrderedDict
from itertools import islice
from typing import NoReturn

import trio

#: Seconds of a round for what clients have said, all of them together. A message that was begun
#: is carried out. What they are told is sent besides; see `trio_signal.outbox`.
BUDGET = 0.002
#: Seconds after which one of those who wait lets the next one on.
TURN = 0.0003
#: How many of them are woken in a round: at first, and at most. What they take is not known
#: before, so it is doubled while the budget lasts, and halved when it did not.
_FEWEST, _MOST = 4, 1024


class Rounds(trio.abc.Instrument):
    """The budget of each round. An instrument of Trio's, so it knows when one begins.

    Without `run` there is no end to it.
    """

    def __init__(self) -> None:
        """Begin without anybody in line."""
        #: When the budget of this round is spent, as `time.perf_counter` has it.
        self.until = float("inf")
        #: Those who wait for their turn.
        self.line: OrderedDict[trio.lowlevel.Task, None] = OrderedDict()
        self._at_once = _FEWEST
        #: Those who were woken in this round, in the order of the line; and who of them found
        #: that the budget was spent.
        self._woken: list[trio.lowlevel.Task] = []
        self._in_vain: set[trio.lowlevel.Task] = set()
        self._rest = trio.lowlevel.ParkingLot()

    def after_io_wait(self, timeout: float) -> None:
        """A round begins; called by Trio."""
        self.until = time.perf_counter() + BUDGET
        if self.line:
            self._wake_some()
        elif self._woken:
            self._woken.clear()  # they have had their turn, and may be over
            self._in_vain.clear()

    def _wake_some(self) -> None:
        self._at_once = max(self._at_once // 2, _FEWEST) if self._in_vain else self._at_once * 2
        self._at_once = min(self._at_once, _MOST)
        # Trio runs them forwards or backwards, as it happens.
        for task in reversed(self._woken):
            if task in self._in_vain and task in self.line:
                self.line.move_to_end(task, last=False)
        self._in_vain.clear()
        self._woken = list(islice(self.line, self._at_once))
        for task in self._woken:
            del self.line[task]
            trio.lowlevel.reschedule(task)

    async def wait(self) -> float:
        """Wait for one's turn, if that is not now. Until when it is, by `time.perf_counter`."""
        if not self.line and time.perf_counter() <= self.until:
            return self.until
        task = trio.lowlevel.current_task()
        await self._stand_in_line(task)
        # Whatever else a round has to do, the first of the line goes on.
        while task is not self._woken[0] and time.perf_counter() > self.until:
            self._in_vain.add(task)
            await self._stand_in_line(task)
        return min(self.until, time.perf_counter() + TURN)

    async def _stand_in_line(self, task: trio.lowlevel.Task) -> None:
        if not self.line:
            self._rest.unpark()
        self.line[task] = None

        def leave(raise_cancel: object) -> trio.lowlevel.Abort:
            del self.line[task]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    async def run(self) -> NoReturn:
        """See to it that there is another round while somebody waits for it; until cancelled."""
        trio.lowlevel.add_instrument(self)
        try:
            while True:
                if self.line:
                    await trio.lowlevel.checkpoint()
                else:
                    await self._rest.park()
        finally:
            trio.lowlevel.remove_instrument(self)
