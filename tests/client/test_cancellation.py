"""Cancelling a client at any moment leaves nothing behind and sends nothing in part."""

import gc
from collections.abc import Iterator, Sequence

import pytest
import trio

from tests.client.bots import bot, bots, heard, receive, wait_for, wait_state
from tests.client.lines import open_line
from tests.clients import PATIENCE, Service
from tests.conftest import Serve
from tests.effort import EFFORT
from tests.test_listener import no_descriptor_left
from trio_signal.client import Client, Message, Peer, PeerJoined, PeerLeft, WentLive

pytestmark = pytest.mark.usefixtures("front")

#: Every step of the first test, if there is time for it.
STRIDE = 2 if EFFORT == 1 else 1
ANN, BOB = Peer("ann", "Ann"), Peer("bob", "Bob")


class CancelAfter(trio.abc.Instrument):
    """Cancels a scope after its tasks have taken a number of steps."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self._scope = scope
        self._left = steps
        self._root = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._is_ours(task):
            self._left -= 1
            if self._left == 0:
                self._scope.cancel()

    def _is_ours(self, task: trio.lowlevel.Task | None) -> bool:
        while task is not None and task is not self._root:
            nursery = task.parent_nursery
            task = nursery.parent_task if nursery is not None else None
        return task is self._root


async def run_and_cancel(work: object, steps: int) -> bool:
    """Whether `work` was cancelled after so many steps, those of its child tasks included."""
    assert callable(work)
    cancelled = False

    async def run() -> None:
        nonlocal cancelled
        with trio.CancelScope() as scope:
            instrument = CancelAfter(scope, steps)
            trio.lowlevel.add_instrument(instrument)
            try:
                await work()
            finally:
                trio.lowlevel.remove_instrument(instrument)
        cancelled = scope.cancelled_caught

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
    return cancelled


@pytest.fixture(autouse=True)
def _no_garbage() -> Iterator[None]:
    """Report leaked objects in the test that leaked them."""
    yield
    gc.collect()


async def stay(base: str) -> None:
    """Everything that a client does, from entering to leaving."""
    async with bot(base, "ann", timing=None) as ann:
        await ann.broadcast()
        await ann.send("first")
        await wait_for(ann, PeerJoined)
        await ann.send({"x": "y" * 1000}, to="bob")
        await ann.ping(1)
        await ann.stop_broadcast()
        await ann.send("last")


@pytest.mark.of_trio("it counts the steps of Trio's tasks")
async def test_cancelled_at_every_step(serve: Serve) -> None:
    limits = {"connects_per_ip_per_minute": 1_000_000, "auth_failures_per_ip": 1_000_000}
    async with no_descriptor_left(), serve(**limits) as service, bots(service, "bob") as (bob,):
        steps, cancelled = 0, True
        while cancelled:
            steps += STRIDE
            with trio.fail_after(PATIENCE):
                cancelled = await run_and_cancel(lambda: stay(service.base), steps)
            await check_told(bob)
        assert steps > 50


async def check_told(bob: Client) -> None:
    """Bob saw a whole visit or none, and the first of its messages, if any."""
    # A cancelled client has closed its socket, which the server may not have noticed yet.
    with trio.fail_after(PATIENCE):
        events = await heard(bob)
        while bob.peers or _count(events, PeerJoined) != _count(events, PeerLeft):
            events += await heard(bob)
    assert _count(events, PeerJoined) in (0, 1)
    said = [event.data for event in events if isinstance(event, Message)]
    assert said == ["first", {"x": "y" * 1000}, "last"][: len(said)]
    assert not bob.live


def _count(events: Sequence[object], kind: type) -> int:
    return sum(isinstance(event, kind) for event in events)


async def come_back(service: Service) -> None:
    """A stay with a lost connection in the middle."""
    async with open_line(service.base) as line, bot(line.base, "ann") as ann:
        await ann.broadcast()
        line.cut()
        await wait_state(ann, "waiting")
        await wait_state(ann, "joined")
        await ann.send("last")


@pytest.mark.of_trio("it counts the steps of Trio's tasks")
async def test_cancelled_at_every_step_of_reconnecting(serve: Serve) -> None:
    limits = {"connects_per_ip_per_minute": 1_000_000, "auth_failures_per_ip": 1_000_000}
    async with (
        no_descriptor_left(),
        # A client without a connection cannot send that it leaves.
        serve(resume_grace=0.1, **limits) as service,
        bots(service, "bob") as (bob,),
    ):
        steps, cancelled = 0, True
        while cancelled:
            steps += 2 * STRIDE
            with trio.fail_after(PATIENCE):
                cancelled = await run_and_cancel(lambda: come_back(service), steps)
            with trio.fail_after(PATIENCE):
                await heard(bob)
                while bob.peers:
                    await heard(bob)
        assert steps > 100


@pytest.mark.of_trio("with asyncio a cancelled call may have sent it")
async def test_a_cancelled_send_sends_nothing(serve: Serve) -> None:
    async with (
        serve() as service,
        bots(service, "bob") as (bob,),
        bot(service.base, "ann") as ann,
    ):
        await wait_for(bob, PeerJoined)
        with trio.CancelScope() as scope:
            scope.cancel()
            await ann.send("never")
        assert scope.cancelled_caught
        with trio.CancelScope() as scope:
            scope.cancel()
            await ann.offer("never")
        await ann.send("said")
        assert await receive(bob) == Message("ann", "Ann", "said")


@pytest.mark.of_trio("with asyncio a cancelled call may not have begun")
async def test_a_cancelled_broadcast_starts_after_reconnecting(serve: Serve) -> None:
    async with (
        serve() as service,
        open_line(service.base) as line,
        bots(service, "bob") as (bob,),
        bot(line.base, "ann") as ann,
    ):
        with trio.CancelScope() as scope:
            scope.cancel()
            await ann.broadcast()
        assert ann.broadcasting == "video"
        line.cut()
        await wait_for(bob, WentLive)


async def test_many_clients_cancelled_at_once(serve: Serve) -> None:
    async with no_descriptor_left(), serve() as service, trio.open_nursery() as nursery:
        entered = trio.Semaphore(0)

        async def enter() -> None:
            async with bot(service.base, None) as client:
                entered.release()
                async for _ in client:
                    pass

        for _ in range(50):
            nursery.start_soon(enter)
        with trio.fail_after(PATIENCE):
            for _ in range(50):
                await entered.acquire()
        nursery.cancel_scope.cancel()
