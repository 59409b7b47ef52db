"""Alarms: functions are called when they are due, in one task."""

from collections.abc import AsyncIterator

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from trio_signal.alarm import GRAIN, NEVER, Alarm, Alarms
from trio_signal.supervision import supervise


@pytest.fixture
async def alarms() -> AsyncIterator[Alarms]:
    alarms = Alarms()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alarms.run)
        yield alarms
        nursery.cancel_scope.cancel()


class Calls:
    """A function that notes when it was called, and is due at the given times."""

    def __init__(self, *times: float) -> None:
        self.at: list[float] = []
        self._times = list(times)

    def __call__(self, now: float) -> float:
        self.at.append(now)
        return self._times.pop(0) if self._times else NEVER


async def test_function_is_called_when_it_is_due_and_then_when_it_says(
    alarms: Alarms, autojump_clock: MockClock
) -> None:
    calls = Calls(3.0, 3.5)
    with Alarm().calling(calls, 1.0, alarms):
        await trio.sleep(10)
    assert calls.at == pytest.approx([1.0, 3.0, 3.5], abs=GRAIN)


async def test_function_is_never_called_early(alarms: Alarms, autojump_clock: MockClock) -> None:
    due = [0.1 * number for number in range(1, 50)]  # not multiples of the grain in binary
    calls = Calls(*due[1:])
    with Alarm().calling(calls, due[0], alarms):
        await trio.sleep(10)
    assert len(calls.at) == len(due)
    assert all(0 <= at - time < GRAIN for at, time in zip(calls.at, due, strict=True))


async def test_alarm_can_be_set_earlier_but_not_later(
    alarms: Alarms, autojump_clock: MockClock
) -> None:
    calls = Calls(NEVER, NEVER)
    alarm = Alarm()
    with alarm.calling(calls, 5.0, alarms):
        alarm.set(6.0)
        alarm.set(NEVER)
        alarm.set(2.0)
        await trio.sleep(8)
        assert calls.at == pytest.approx([2.0], abs=GRAIN)
        alarm.set()
        await trio.testing.wait_all_tasks_blocked()
        assert calls.at == pytest.approx([2.0, 8.0], abs=GRAIN)


async def test_alarm_calls_nothing_after_its_block(
    alarms: Alarms, autojump_clock: MockClock
) -> None:
    calls = Calls()
    alarm = Alarm()
    with alarm.calling(calls, 1.0, alarms):
        pass
    alarm.set()
    await trio.sleep(3)
    assert not calls.at


async def test_alarm_that_calls_nothing_can_be_set() -> None:
    Alarm().set()


async def test_time_that_is_set_during_the_call_counts_too(
    alarms: Alarms, autojump_clock: MockClock
) -> None:
    alarm = Alarm()
    calls = Calls(9.0, NEVER)

    def call(now: float) -> float:
        if not calls.at:
            alarm.set(2.0)
        return calls(now)

    with alarm.calling(call, 1.0, alarms):
        await trio.sleep(5)
    assert calls.at == pytest.approx([1.0, 2.0], abs=GRAIN)


async def test_alarm_can_be_set_again_after_an_error(autojump_clock: MockClock) -> None:
    alarms, alarm, called = Alarms(), Alarm(), []

    def call(now: float) -> float:
        called.append(now)
        if len(called) == 1:
            raise ValueError("the first call fails")
        return NEVER

    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervise, "alarms", alarms.run)
        with alarm.calling(call, 1.0, alarms):
            await trio.sleep(2)
            alarm.set()
            await trio.sleep(2)
        nursery.cancel_scope.cancel()
    assert len(called) == 2


async def test_call_that_ends_another_alarm(alarms: Alarms, autojump_clock: MockClock) -> None:
    """Both are due at the same time, so only one of the two is called."""
    stacks: list[Alarm] = [Alarm(), Alarm()]
    called: list[int] = []

    def end_other(me: int, now: float) -> float:
        called.append(me)
        stacks[1 - me].__exit__(None, None, None)
        return NEVER

    for me, alarm in enumerate(stacks):
        alarm.calling(lambda now, me=me: end_other(me, now), 1.0, alarms)  # type: ignore[misc]
    await trio.sleep(3)
    assert len(called) == 1


async def test_other_tasks_run_while_many_are_due(
    alarms: Alarms, autojump_clock: MockClock
) -> None:
    calls = [Calls() for _ in range(1000)]
    for call in calls:
        Alarm().calling(call, 1.0, alarms)
    async with trio.open_nursery() as nursery:
        seen = set()

        async def watch() -> None:
            while (done := sum(map(len, (call.at for call in calls)))) < 1000:
                seen.add(done)
                await trio.lowlevel.checkpoint()

        await trio.sleep(1.0)
        nursery.start_soon(watch)
    assert len(seen) > 5


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 20)), max_size=30))
def test_each_alarm_is_called_at_its_earliest_time(settings: list[tuple[int, float]]) -> None:
    async def main() -> None:
        alarms = Alarms()
        calls = [Calls() for _ in range(4)]
        each = [Alarm().calling(call, NEVER, alarms) for call in calls]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(alarms.run)
            for number, at in settings:
                each[number].set(at)
            await trio.sleep(25)
            nursery.cancel_scope.cancel()
        for number, call in enumerate(calls):
            earliest = (
                [min(at for n, at in settings if n == number)]
                if number in {n for n, _ in settings}
                else []
            )
            assert call.at == pytest.approx(earliest, abs=2 * GRAIN)

    trio.run(main, clock=MockClock(autojump_threshold=0))
