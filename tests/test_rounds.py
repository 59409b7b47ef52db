"""Long work lets other tasks run; in Trio's own loop, with real time."""

import time
from functools import partial

import pytest
import trio

from tests.clients import PATIENCE
from trio_signal.rounds import Rounds


@pytest.fixture
async def rounds(nursery: trio.Nursery) -> Rounds:
    """Running rounds."""
    rounds = Rounds()
    nursery.start_soon(rounds.run)
    await trio.testing.wait_all_tasks_blocked()
    return rounds


def work(seconds: float) -> None:
    """Block the loop."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


async def carry_out(rounds: Rounds, number: int, seconds: float, done: list[int]) -> None:
    """Do what a connection does with two messages."""
    until = rounds.until if not rounds.line else 0.0
    for _ in range(2):
        if time.perf_counter() > until:
            until = await rounds.wait()
        work(seconds)
        done.append(number)


async def test_much_work_does_not_block_the_loop(rounds: Rounds) -> None:
    """Fifty times twice 2 ms is 200 ms; another task still gets its turns."""
    done: list[int] = []
    longest, before = 0.0, time.thread_time()  # other processes may use the machine
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(carry_out, rounds, number, 0.002, done)
            while len(done) < 100:
                await trio.lowlevel.checkpoint()
                now = time.thread_time()
                longest, before = max(longest, now - before), now
    assert sorted(done) == sorted([*range(50)] * 2)
    assert longest < 0.03


async def test_everybody_has_a_turn_before_anybody_has_two(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_signal.rounds.BUDGET", 0.0)
    done: list[int] = []
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(carry_out, rounds, number, 0.001, done)
    # The first few may have used the rest of the previous round.
    assert set(done[:26]) == set(range(20)), done


async def test_waiting_may_be_cancelled(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_signal.rounds.BUDGET", -1.0)
    done: list[int] = []
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(carry_out, rounds, number, 0.001, done)
            while not rounds.line:  # Trio may run this task before the others
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert len(done) < 40
    assert not rounds.line


async def test_nobody_waits_when_rounds_are_not_running() -> None:
    assert await Rounds().wait() == float("inf")


async def test_clients_in_debt_wait_behind_others(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long their queue is: a client within its rate goes first."""
    monkeypatch.setattr("trio_signal.rounds.BUDGET", -1.0)
    monkeypatch.setattr("trio_signal.rounds.LATE_BUDGET", -1.0)
    done: list[str] = []

    async def take_turn(name: str, *, overdrawn: bool) -> None:
        await rounds.wait(overdrawn=overdrawn)
        work(0.001)
        done.append(name)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(partial(take_turn, "late", overdrawn=True))
            await trio.lowlevel.checkpoint()
            nursery.start_soon(partial(take_turn, "prompt", overdrawn=False))
    assert len(done) == 101
    # Only tasks that were woken together with it come before.
    assert done.index("prompt") < 10
