"""The outbox and its flusher over a real pair of sockets."""

import socket
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from tests.clients import PATIENCE
from tests.raw import TEXT, Frame, RawClient, split_frames
from trio_signal.alarm import Alarm
from trio_signal.outbox import Flusher, Outbox
from trio_signal.websocket import Opcode, close_frame, control_frame, text_frame

LIMIT = 100_000
CLOSE_FRAME = close_frame(1013, "Reads too slowly")


@contextmanager
def socket_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end, with a small send buffer, and the client's."""
    server, client = socket.socketpair()
    with server, client:
        server.setblocking(False)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        yield server, client


class Calling(Alarm):
    """Calls a function when it is set."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__()
        self._when_set = call

    def set(self, at: float = 0.0) -> None:
        self._when_set()


def numbered(number: int, size: int = 0) -> bytes:
    """A text that shows its place in the order; at least eight bytes."""
    return b"%08d" % number + b"." * (size - 8)


def numbers(frames: list[Frame]) -> list[int]:
    assert {frame.opcode for frame in frames} <= {TEXT}
    assert all(frame.payload[8:].strip(b".") == b"" for frame in frames)
    return [int(frame.payload[:8]) for frame in frames]


def read_what_is_there(sock: socket.socket, size: int = 10_000_000) -> bytes:
    try:
        return sock.recv(size, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


async def flush_and_read(outbox: Outbox, client: socket.socket) -> bytes:
    """Read until nothing waits any more; return what arrived."""
    received = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(outbox.flush)
        while outbox.size:
            await wait_all_tasks_blocked()
            received += read_what_is_there(client)
    return received + read_what_is_there(client)


def fill(outbox: Outbox, *, size: int = 1000) -> int:
    """Put frames until the outbox refuses one; return how many it took."""
    for number in range(1_000_000):
        if not outbox.put(text_frame(numbered(number, size))):
            return number
    raise AssertionError("it never refuses")


async def goodbye(outbox: Outbox, server: socket.socket, client: socket.socket) -> list[Frame]:
    """Send a close frame as the last frame; return everything that the client gets."""
    outbox.put_last(CLOSE_FRAME)
    received = b""

    async def read() -> None:
        nonlocal received
        received = await RawClient.of(client).read_to_end()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await outbox.flush()
            server.shutdown(socket.SHUT_WR)
    frames, rest = split_frames(received)
    assert rest == b""
    return frames


@pytest.fixture
async def flusher(nursery: trio.Nursery) -> Flusher:
    """A running flusher."""
    flusher = Flusher()
    nursery.start_soon(flusher.run)
    return flusher


async def test_frames_of_one_turn_are_sent_together(flusher: Flusher) -> None:
    server, client = socket.socketpair(type=socket.SOCK_SEQPACKET)  # one packet for each send
    with server, client:
        server.setblocking(False)
        outbox = Outbox(server, LIMIT, flusher, Alarm())
        for _ in range(3):
            assert outbox.put(b"one ")
            assert outbox.put(b"two")
            assert read_what_is_there(client) == b""
            await wait_all_tasks_blocked()
            assert (read_what_is_there(client), outbox.size) == (b"one two", 0)


async def test_each_outbox_sends_its_own_frames(flusher: Flusher) -> None:
    with socket_pair() as (first, one), socket_pair() as (second, two):
        outboxes = [Outbox(sock, LIMIT, flusher, Alarm()) for sock in (first, second)]
        for number in range(100):
            outboxes[number % 2].put(text_frame(numbered(number)))
        await wait_all_tasks_blocked()
        for parity, client in enumerate((one, two)):
            frames, rest = split_frames(read_what_is_there(client))
            assert (numbers(frames), rest) == (list(range(parity, 100, 2)), b"")


async def test_frames_put_before_the_flusher_runs_are_sent() -> None:
    flusher = Flusher()
    with socket_pair() as (server, client):
        outbox = Outbox(server, LIMIT, flusher, Alarm())
        assert outbox.put(b"early")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flusher.run)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert read_what_is_there(client) == b"early"
        # A frame put after the flusher has ended is harmless: closing flushes it.
        assert outbox.put(b"late")
        await outbox.flush()
        assert read_what_is_there(client) == b"late"


async def test_late_outboxes_are_served_last(flusher: Flusher) -> None:
    order: list[str] = []

    class Noted(Outbox):
        name = ""

        def flush_nowait(self) -> bool:
            order.append(self.name)
            return super().flush_nowait()

    with socket_pair() as (first, _one), socket_pair() as (second, _two):
        for sock, name in ((first, "late"), (second, "prompt")):
            outbox = Noted(sock, LIMIT, flusher, Alarm())
            outbox.name, outbox.is_late = name, name == "late"
            outbox.put(b"frame")
        await wait_all_tasks_blocked()
    assert order == ["prompt", "late"]


async def test_dead_outbox_does_not_block_others(flusher: Flusher) -> None:
    with socket_pair() as (server, client), socket_pair() as (dying, gone):
        dead, outbox = (
            Outbox(dying, LIMIT, flusher, Alarm()),
            Outbox(server, LIMIT, flusher, Alarm()),
        )
        dead.put(b"for nobody")
        outbox.put(b"for somebody")
        gone.close()
        await wait_all_tasks_blocked()
        assert read_what_is_there(client) == b"for somebody"
        assert (dead.size, dead.overflowed) == (0, False)
        assert not dead.put(b"anybody?")


async def test_error_in_one_outbox_ends_only_its_connection(
    flusher: Flusher, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("nobody thought of this")

    with socket_pair() as (failing, one), socket_pair() as (server, two):
        bad = Outbox(failing, LIMIT, flusher, Calling(fail))
        good = Outbox(server, LIMIT, flusher, Alarm())
        bad.put(b"x" * 50_000)
        good.put(b"for somebody")
        await wait_all_tasks_blocked()
        assert read_what_is_there(two) == b"for somebody"
        assert failing.recv(1) == b""
        while one.recv(65536):
            pass
        assert not bad.put(b"more")
    assert [record.msg for record in caplog.records] == ["an outbox failed"]


async def test_frames_are_sent_before_the_limit_applies(flusher: Flusher) -> None:
    server, client = socket.socketpair()
    with server, client:
        server.setblocking(False)
        outbox = Outbox(server, 1000, flusher, Alarm())
        for number in range(50):
            assert outbox.put(text_frame(numbered(number, 100)))
        await wait_all_tasks_blocked()
        frames, rest = split_frames(read_what_is_there(client))
        assert (numbers(frames), rest) == (list(range(50)), b"")


async def test_rest_is_sent_when_the_client_reads(flusher: Flusher) -> None:
    with socket_pair() as (server, client):
        outbox = Outbox(server, 1_000_000, flusher, Alarm())
        frames = [text_frame(numbered(i, size=(i * 997) % 20_000)) for i in range(60)]
        for frame in frames:
            assert outbox.put(frame)
        await wait_all_tasks_blocked()
        assert outbox.behind
        assert outbox.size > 100_000
        received = b""
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(outbox.flush)
                while len(received) < sum(map(len, frames)):
                    await wait_all_tasks_blocked()
                    received += read_what_is_there(client, 5000)
        assert received == b"".join(frames)
        assert (outbox.size, outbox.behind) == (0, False)


async def test_new_frames_wait_behind_old_ones(flusher: Flusher) -> None:
    with socket_pair() as (server, client):
        outbox = Outbox(server, LIMIT, flusher, Alarm())
        assert outbox.put(text_frame(numbered(0, 30_000)))
        await wait_all_tasks_blocked()
        assert outbox.size > 0
        received = read_what_is_there(client)
        # The socket would take this frame now, but it has to wait its turn.
        assert outbox.put(text_frame(numbered(1)))
        await wait_all_tasks_blocked()
        assert read_what_is_there(client) == b""
        with trio.fail_after(PATIENCE):
            received += await flush_and_read(outbox, client)
        frames, torn = split_frames(received)
        assert (numbers(frames), torn) == ([0, 1], b"")


async def test_flusher_sends_again_after_waiting(flusher: Flusher) -> None:
    with socket_pair() as (server, client), trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            outbox = Outbox(
                server, LIMIT, flusher, Calling(lambda: nursery.start_soon(outbox.flush))
            )
            for _ in range(3):
                received = b""
                outbox.put(text_frame(numbered(1, 50_000)))
                while outbox.size:
                    await wait_all_tasks_blocked()
                    received += read_what_is_there(client)
                received += read_what_is_there(client)
                assert outbox.put(text_frame(numbered(2)))
                await wait_all_tasks_blocked()
                received += read_what_is_there(client)
                frames, rest = split_frames(received)
                assert (numbers(frames), rest) == ([1, 2], b"")
            nursery.cancel_scope.cancel()


async def test_full_outbox_refuses_new_frames_and_drops_waiting_ones(flusher: Flusher) -> None:
    with socket_pair() as (server, client):
        outbox = Outbox(server, LIMIT, flusher, Alarm())
        taken = fill(outbox)
        assert outbox.overflowed
        # All but the rest of the frame that is half sent.
        assert outbox.size < 1004
        assert not outbox.put(text_frame(b"late"))
        assert outbox.size < 1004
        *frames, last = await goodbye(outbox, server, client)
        assert last.close_code == 1013
        assert numbers(frames) == list(range(len(frames)))
        assert 0 < len(frames) < taken


@pytest.mark.parametrize("size", [500, 1000, 3000, 20_000, 90_000, 250_000])
async def test_half_sent_frame_is_completed_before_the_close_frame(
    size: int, flusher: Flusher
) -> None:
    with socket_pair() as (server, client):
        outbox = Outbox(server, LIMIT, flusher, Alarm())
        fill(outbox, size=size)
        *frames, last = await goodbye(outbox, server, client)
        assert last.close_code == 1013
        assert numbers(frames) == list(range(len(frames)))
        assert len(frames) > 0


@pytest.mark.parametrize(
    ("size", "factor"),
    # The limit counts the bytes of frames; Python's overhead is about 50 bytes for each frame,
    # which matters when frames are small.
    [(10_000, 1.5), (1000, 1.5), (8, 8)],
)
async def test_memory_for_a_stalled_client_is_limited(
    size: int, factor: float, flusher: Flusher
) -> None:
    with socket_pair() as (server, _client):
        outbox = Outbox(server, LIMIT, flusher, Alarm())
        tracemalloc.start()
        try:
            for number in range(20_000):
                outbox.put(text_frame(numbered(number, size)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < factor * LIMIT


async def test_tiny_frames_for_a_stalled_client_take_no_more_memory(flusher: Flusher) -> None:
    with socket_pair() as (server, _client):
        outbox = Outbox(server, LIMIT, flusher, Alarm())
        while not outbox.behind:
            outbox.put(text_frame(numbered(0, 1000)))
            await wait_all_tasks_blocked()
        tracemalloc.start()
        try:
            for number in range(LIMIT):
                outbox.put(control_frame(Opcode.PONG, bytes([number % 256])))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert outbox.overflowed
        assert peak < 1.5 * LIMIT


async def test_nothing_is_sent_to_a_dead_socket(flusher: Flusher) -> None:
    with socket_pair() as (server, client):
        outbox = Outbox(server, LIMIT, flusher, Alarm())
        client.close()
        outbox.put(b"anybody?")
        await wait_all_tasks_blocked()
        assert not outbox.put(b"nobody.")
        assert (outbox.size, outbox.overflowed) == (0, False)
        outbox.put_last(CLOSE_FRAME)
        with trio.fail_after(PATIENCE):
            await outbox.flush()


async def test_dead_socket_ends_the_flush(flusher: Flusher) -> None:
    with socket_pair() as (server, client), trio.fail_after(PATIENCE):
        outbox = Outbox(server, LIMIT, flusher, Alarm())
        assert outbox.put(b"x" * 50_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.flush)
            await wait_all_tasks_blocked()
            client.close()
        assert not outbox.put(b"anybody?")
        assert not outbox.overflowed


class Step(NamedTuple):
    """A random action of a server or a client."""

    action: str
    size: int


steps = st.lists(
    st.one_of(
        st.builds(Step, st.just("put"), st.sampled_from([8, 100, 1000, 5000, 30_000])),
        st.builds(Step, st.just("read"), st.sampled_from([1, 100, 5000, 100_000])),
        st.just(Step("drain", 0)),
    ),
    max_size=60,
)


@settings(max_examples=60)
@given(steps)
async def test_client_gets_complete_frames_in_order_and_a_close_frame(
    steps: list[Step],
) -> None:
    with socket_pair() as (server, client), trio.fail_after(PATIENCE):
        flusher = Flusher()
        received = b""
        taken = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(flusher.run)
            outbox = Outbox(
                server, LIMIT, flusher, Calling(lambda: nursery.start_soon(outbox.flush))
            )
            for number, step in enumerate(steps):
                match step:
                    case Step("put", size):
                        if outbox.put(text_frame(numbered(number, size))):
                            taken.append(number)
                        assert outbox.size <= LIMIT
                    case Step("read", size):
                        received += read_what_is_there(client, size)
                    case _:
                        await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        outbox.put_last(CLOSE_FRAME)
        received += await flush_and_read(outbox, client)
        (*frames, last), rest = split_frames(received)
        assert (rest, last.close_code) == (b"", 1013)
        got = numbers(frames)
        assert got == (taken[: len(got)] if outbox.overflowed else taken)
