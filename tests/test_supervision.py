"""A failing task is restarted, after growing pauses."""

import itertools
import logging

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from trio_signal.supervision import FIRST_PAUSE, LONGEST_PAUSE, supervise


async def test_failing_task_is_restarted(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    begins: list[float] = []
    recovered: list[int] = []

    async def fail() -> None:
        begins.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        raise LookupError("of a task")

    with trio.move_on_after(3 * LONGEST_PAUSE) as scope:
        await supervise("counting", fail, lambda: recovered.append(len(begins)))
    assert scope.cancelled_caught
    pauses = [later - earlier for earlier, later in itertools.pairwise(begins)]
    assert pauses[0] == pytest.approx(FIRST_PAUSE)
    assert pauses[1] == pytest.approx(2 * FIRST_PAUSE)
    assert pauses[-1] == pytest.approx(LONGEST_PAUSE)
    assert recovered == list(range(1, len(begins) + 1))
    records = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(records) == len(begins)
    assert records[0].getMessage() == "counting failed, restarting in 0.1 s"
    assert records[0].exc_info is not None


async def test_pause_is_short_again_after_a_long_run(
    autojump_clock: MockClock,
) -> None:
    ends: list[float] = []
    begins: list[float] = []

    async def run() -> None:
        begins.append(trio.current_time())
        await trio.sleep(0 if len(begins) < 5 else LONGEST_PAUSE + 1)
        ends.append(trio.current_time())
        raise LookupError

    with trio.move_on_after(3 * LONGEST_PAUSE):
        await supervise("counting", run)
    assert begins[5] - ends[4] == pytest.approx(FIRST_PAUSE)


async def test_task_with_children_is_restarted_as_one(autojump_clock: MockClock) -> None:
    begins = 0

    async def run() -> None:
        nonlocal begins
        begins += 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            if begins < 3:
                raise LookupError
            nursery.cancel_scope.cancel()

    await supervise("counting", run)
    assert begins == 3


async def test_cancellation_passes_through() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await supervise("waiting", trio.sleep_forever)
    assert scope.cancelled_caught
