"""Readers: sockets are read, and tasks are woken when they must continue, and only then."""

import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing

import pytest
import trio

from trio_signal.readers import Reader, Readers
from trio_signal.rounds import Rounds


class Waking:
    """Reads nothing; the task does."""

    def receive_nowait(self) -> bool:
        return True


class Reading:
    """Reads at most `size` bytes each time; the task must continue after `until`."""

    def __init__(self, sock: socket.socket, until: bytes, *, size: int = 100) -> None:
        self._sock = sock
        #: What wakes the task.
        self.until = until
        self._size = size
        self.got = b""
        #: How often it was called.
        self.calls = 0

    def receive_nowait(self) -> bool:
        self.calls += 1
        self.got += self._sock.recv(self._size)
        return self.got.endswith(self.until)


@pytest.fixture(params=["running", "not running"])
async def readers(request: pytest.FixtureRequest) -> AsyncIterator[Readers]:
    readers = Readers(Rounds())
    async with trio.open_nursery() as nursery:
        if request.param == "running":
            nursery.start_soon(readers.run)
            await trio.testing.wait_all_tasks_blocked()
        yield readers
        nursery.cancel_scope.cancel()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


Pair = tuple[socket.socket, socket.socket]


class Counter(trio.abc.Instrument):
    """Counts the rounds of the event loop."""

    def __init__(self) -> None:
        self.count = 0

    def after_io_wait(self, timeout: float) -> None:
        self.count += 1


async def count_rounds(seconds: float) -> int:
    rounds = Counter()
    trio.lowlevel.add_instrument(rounds)
    await trio.sleep(seconds)
    trio.lowlevel.remove_instrument(rounds)
    return rounds.count


async def test_bytes_are_read_without_waking_the_task(readers: Readers, pair: Pair) -> None:
    ours, theirs = pair
    reading = Reading(ours, b"end")
    woken = 0

    async def read() -> None:
        nonlocal woken
        with Reader(readers, ours, reading) as reader:
            await reader.wait()
            woken += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for word in (b"one", b"two", b"end"):
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert woken == 0
            theirs.send(word)
    assert (reading.got, reading.calls, woken) == (b"onetwoend", 3, 1)


async def test_bytes_wake_a_task_that_must_continue(readers: Readers, pair: Pair) -> None:
    ours, theirs = pair
    got: list[bytes] = []

    async def read() -> None:
        with Reader(readers, ours, Waking()) as reader:
            while b"end" not in got:
                await reader.wait()
                got.append(ours.recv(100))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for word in (b"one", b"two", b"end"):
            await trio.testing.wait_all_tasks_blocked(0.01)
            theirs.send(word)
    assert got == [b"one", b"two", b"end"]


async def test_cancellation_by_the_receiver_wakes_the_task_once(
    readers: Readers, pair: Pair
) -> None:
    ours, theirs = pair

    class Cancelling:
        def receive_nowait(self) -> bool:
            scope.cancel()
            return True

    theirs.send(b"x")
    with trio.fail_after(1), Reader(readers, ours, Cancelling()) as reader:
        with trio.CancelScope() as scope:
            await reader.wait()
            await trio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        await trio.testing.wait_all_tasks_blocked(0.01)


async def test_end_of_the_stream_wakes_the_task(readers: Readers, pair: Pair) -> None:
    ours, theirs = pair
    with Reader(readers, ours, Waking()) as reader:
        theirs.send(b"last words")
        theirs.close()
        with trio.fail_after(1):
            await reader.wait()
            assert ours.recv(100) == b"last words"
            await reader.wait()
            assert ours.recv(100) == b""


async def test_rest_of_what_has_come_wakes_the_task_again(readers: Readers, pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(b"abc")
    with Reader(readers, ours, Waking()) as reader, trio.fail_after(1):
        for letter in (b"a", b"b", b"c"):
            await reader.wait()
            assert ours.recv(1) == letter


async def test_bytes_for_a_task_that_does_not_wait_cost_nothing(
    readers: Readers, pair: Pair
) -> None:
    ours, theirs = pair
    with Reader(readers, ours, Waking()) as reader:
        theirs.send(b"first")
        await reader.wait()
        ours.recv(100)
        theirs.send(b"second")
        assert await count_rounds(0.1) < 10
        with trio.fail_after(1):
            await reader.wait()
        assert ours.recv(100) == b"second"


async def test_bytes_after_the_block_cost_nothing(readers: Readers, pair: Pair) -> None:
    ours, theirs = pair
    with Reader(readers, ours, Waking()) as reader:
        theirs.send(b"x")
        await reader.wait()
    theirs.close()
    assert await count_rounds(0.1) < 10
    assert not readers.by_fileno


async def test_new_socket_may_have_the_number_of_an_old_one(readers: Readers) -> None:
    for _ in range(3):
        ours, theirs = socket.socketpair()
        with ours, theirs, Reader(readers, ours, Waking()) as reader, trio.fail_after(1):
            ours.setblocking(False)
            theirs.send(b"hello")
            await reader.wait()
            assert ours.recv(100) == b"hello"


async def test_cancelled_wait_can_be_repeated(readers: Readers, pair: Pair) -> None:
    ours, theirs = pair
    with Reader(readers, ours, Waking()) as reader:
        with trio.move_on_after(0.01):
            await reader.wait()
        theirs.send(b"x")
        await count_rounds(0.01)
        with trio.fail_after(1):
            await reader.wait()


async def test_tasks_go_on_when_the_readers_end(pair: Pair) -> None:
    ours, theirs = pair
    readers, woken = Readers(Rounds()), 0

    async def read() -> None:
        nonlocal woken
        with Reader(readers, ours, Waking()) as reader:
            while True:
                await reader.wait()
                woken += 1
                try:
                    ours.recv(100)
                except BlockingIOError:
                    continue  # woken because the readers ended
                return

    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as running:
            running.start_soon(readers.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            running.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert woken == 1
        theirs.send(b"x")


async def test_tasks_go_on_after_an_error(pair: Pair, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = pair
    readers = Readers(Rounds())

    class Broken:
        calls = 0

        def receive_nowait(self) -> bool:
            self.calls += 1
            if self.calls == 1:
                raise RuntimeError
            return ours.recv(100) == b"x"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(readers.run)
        await trio.testing.wait_all_tasks_blocked()
        with Reader(readers, ours, Broken()) as reader, trio.fail_after(1):
            theirs.send(b"x")
            await reader.wait()
            assert readers.epoll is None
            assert "reading clients' messages failed" in caplog.text
            await reader.wait()
        assert await count_rounds(0.1) < 10


async def test_duplicate_of_a_closed_socket_costs_nothing(readers: Readers, pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(b"x")
    with ours.dup():
        with Reader(readers, ours, Waking()) as reader:
            await reader.wait()
        ours.close()
        theirs.send(b"y")
        assert await count_rounds(0.1) < 10


async def test_many_sockets_lose_nothing(readers: Readers) -> None:
    """Each receives all of its bytes in order, whatever the others and its own pauses."""
    dice = random.Random(1)
    received: dict[int, bytes] = {}
    text = bytes(range(256)) * 4

    async def read(number: int, ours: socket.socket) -> None:
        reading = Reading(ours, b"", size=dice.choice((1, 10, 1000)))
        with closing(ours), Reader(readers, ours, reading) as reader:
            while len(reading.got) < len(text):
                reading.until = dice.choice((b"", b"\xff"))
                await reader.wait()
                if dice.random() < 0.3:
                    await trio.sleep(dice.random() * 0.01)
                with trio.move_on_after(dice.choice((0, 0.001, 1))):
                    await trio.lowlevel.checkpoint()
        received[number] = reading.got

    async def write(theirs: socket.socket) -> None:
        with closing(theirs):
            rest = text
            while rest:
                size = dice.choice((1, 20, 500))
                theirs.send(rest[:size])
                rest = rest[size:]
                await trio.sleep(dice.random() * 0.003)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for number in range(30):
                ours, theirs = socket.socketpair()
                ours.setblocking(False)
                nursery.start_soon(read, number, ours)
                nursery.start_soon(write, theirs)
    assert received == dict.fromkeys(range(30), text)
    assert not readers.by_fileno


async def test_round_that_is_over_leaves_the_rest_for_the_next() -> None:
    """Each reads once before any reads again, even if its socket is always readable."""
    rounds = Rounds()
    readers = Readers(rounds)
    pairs = [socket.socketpair() for _ in range(20)]
    order: list[int] = []

    class Late:
        def __init__(self, number: int) -> None:
            self.number = number

        def receive_nowait(self) -> bool:
            order.append(self.number)
            pairs[self.number][0].recv(1)
            return False

    async def wait(number: int) -> None:
        ours, _ = pairs[number]
        ours.setblocking(False)
        with closing(ours), Reader(readers, ours, Late(number)) as reader:
            await reader.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(readers.run)
        await trio.testing.wait_all_tasks_blocked()
        for number in range(20):
            nursery.start_soon(wait, number)
        await trio.testing.wait_all_tasks_blocked()
        rounds.until = 0.0
        for _, theirs in pairs:
            theirs.send(b"xx")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert sorted(order[:20]) == sorted(order[20:]) == list(range(20))
        nursery.cancel_scope.cancel()
    for _, theirs in pairs:
        theirs.close()
