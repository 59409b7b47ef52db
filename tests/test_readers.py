"""Readers: tasks are woken when their sockets have something to read, and only then."""

import random
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import closing

import pytest
import trio

from trio_signal import readers as readers_module
from trio_signal.readers import Reader, Readers


@pytest.fixture(params=["busy", "quiet", "not running"])
async def readers(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Readers]:
    if request.param == "busy":
        monkeypatch.setattr(readers_module, "_MANY", 0)
    readers = Readers()
    async with trio.open_nursery() as nursery:
        if request.param != "not running":
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


class Rounds(trio.abc.Instrument):
    """Counts the rounds of the event loop."""

    def __init__(self) -> None:
        self.count = 0

    def after_io_wait(self, timeout: float) -> None:
        self.count += 1


async def count_rounds(seconds: float) -> int:
    rounds = Rounds()
    trio.lowlevel.add_instrument(rounds)
    await trio.sleep(seconds)
    trio.lowlevel.remove_instrument(rounds)
    return rounds.count


async def test_bytes_wake_the_task(readers: Readers, pair: Pair) -> None:
    ours, theirs = pair
    got: list[bytes] = []

    async def read() -> None:
        with Reader(readers, ours) as reader:
            while b"end" not in b"".join(got):
                await reader.wait()
                got.append(ours.recv(100))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for word in (b"one", b"two", b"end"):
            await trio.testing.wait_all_tasks_blocked(0.01)
            theirs.send(word)
    assert got == [b"one", b"two", b"end"]


async def test_end_of_the_stream_wakes_the_task(readers: Readers, pair: Pair) -> None:
    ours, theirs = pair
    with Reader(readers, ours) as reader:
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
    with Reader(readers, ours) as reader, trio.fail_after(1):
        for letter in (b"a", b"b", b"c"):
            await reader.wait()
            assert ours.recv(1) == letter


async def test_bytes_for_a_task_that_does_not_wait_cost_nothing(
    readers: Readers, pair: Pair
) -> None:
    ours, theirs = pair
    with Reader(readers, ours) as reader:
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
    with Reader(readers, ours) as reader:
        theirs.send(b"x")
        await reader.wait()
    theirs.close()
    assert await count_rounds(0.1) < 10
    assert not readers.by_fileno


async def test_new_socket_may_have_the_number_of_an_old_one(readers: Readers) -> None:
    for _ in range(3):
        ours, theirs = socket.socketpair()
        with ours, theirs, Reader(readers, ours) as reader, trio.fail_after(1):
            ours.setblocking(False)
            theirs.send(b"hello")
            await reader.wait()
            assert ours.recv(100) == b"hello"


async def test_cancelled_wait_can_be_repeated(readers: Readers, pair: Pair) -> None:
    ours, theirs = pair
    with Reader(readers, ours) as reader:
        with trio.move_on_after(0.01):
            await reader.wait()
        theirs.send(b"x")
        await count_rounds(0.01)
        with trio.fail_after(1):
            await reader.wait()


async def test_tasks_go_on_when_the_readers_end(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers_module, "_MANY", 0)
    ours, theirs = pair
    readers, woken = Readers(), 0

    async def read() -> None:
        nonlocal woken
        with Reader(readers, ours) as reader:
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


async def test_tasks_go_on_after_an_error(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(readers_module, "_MANY", 0)
    ours, theirs = pair
    readers = Readers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readers.run)
        await trio.testing.wait_all_tasks_blocked()
        with Reader(readers, ours) as reader:
            theirs.send(b"x")
            await reader.wait()
            ours.recv(100)
            assert reader.is_registered
            del readers.by_fileno[ours.fileno()]  # as a defect might
            theirs.send(b"y")
            await count_rounds(0.05)
            assert readers.epoll is None
            assert "waiting for clients' messages failed" in caplog.text
            readers.by_fileno[ours.fileno()] = reader
            with trio.fail_after(1):
                await reader.wait()
            assert ours.recv(100) == b"y"
            assert await count_rounds(0.1) < 10


async def test_duplicate_of_a_closed_socket_costs_nothing(readers: Readers, pair: Pair) -> None:
    ours, theirs = pair
    theirs.send(b"x")
    with ours.dup():
        with Reader(readers, ours) as reader:
            await reader.wait()
        ours.close()
        theirs.send(b"y")
        assert await count_rounds(0.1) < 10


async def test_many_sockets_lose_nothing(readers: Readers) -> None:
    """Each receives all of its bytes in order, whatever the others and its own pauses."""
    dice = random.Random(1)
    received: dict[int, bytes] = dict.fromkeys(range(30), b"")
    text = bytes(range(256)) * 4

    async def read(number: int, ours: socket.socket) -> None:
        with closing(ours), Reader(readers, ours) as reader:
            while len(received[number]) < len(text):
                await reader.wait()
                received[number] += ours.recv(dice.choice((1, 10, 1000)))
                if dice.random() < 0.3:
                    await trio.sleep(dice.random() * 0.01)
                with trio.move_on_after(dice.choice((0, 0.001, 1))):
                    await trio.lowlevel.checkpoint()

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
            for number in received:
                ours, theirs = socket.socketpair()
                ours.setblocking(False)
                nursery.start_soon(read, number, ours)
                nursery.start_soon(write, theirs)
    assert set(received.values()) == {text}
    assert not readers.by_fileno


async def send_soon(sock: socket.socket, data: bytes) -> None:
    await trio.lowlevel.checkpoint()
    sock.send(data)


async def test_socket_goes_back_and_forth_between_busy_and_quiet_times(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = pair
    readers = Readers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readers.run)
        await trio.testing.wait_all_tasks_blocked()
        with Reader(readers, ours) as reader, trio.fail_after(5):
            for number in range(200):
                monkeypatch.setattr(readers_module, "_MANY", 0 if number // 3 % 2 else 1000)
                nursery.start_soon(send_soon, theirs, b"%d" % number)
                await reader.wait()
                assert ours.recv(100) == b"%d" % number
            assert await count_rounds(0.1) < 10
        nursery.cancel_scope.cancel()
