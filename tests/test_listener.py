"""One port for WebSocket and HTTP, tested with misbehaving clients."""

import errno
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.clients import PATIENCE, Service
from tests.conftest import Serve, one_replica
from tests.raw import (
    PING,
    PONG,
    RawClient,
    client_close,
    client_frame,
    client_text,
    open_raw,
    parse_answer,
    upgrade_head,
)
from tests.test_leaving import open_process
from trio_signal.listener import MAX_HEAD, _Shortages

#: A connection concerns one server only.
service = one_replica
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
KEEP_ALIVE = client_text({"type": "keep_alive"})
#: Seconds within which a head must arrive, in tests that wait for the timeout.
HEAD_TIMEOUT = 0.5


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that clients do is a server error."""
    yield
    assert caplog.get_records("call") == []


@pytest.fixture
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_signal.listener.HEAD_TIMEOUT", HEAD_TIMEOUT)
    monkeypatch.setattr("trio_signal.listener._REFUSAL_TIMEOUT", HEAD_TIMEOUT)


async def check_alive(service: Service) -> None:
    """The server still serves both WebSocket and HTTP."""
    async with open_raw(service.base) as client:
        await client.send(GET)
        assert (await client.receive_answer()).status == 200
    async with open_raw(service.base) as client:
        await client.upgrade("/ws/r/somebody")
        await client.wait_for("room_state")


def count_fds() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


@asynccontextmanager
async def no_descriptor_left() -> AsyncIterator[None]:
    before = count_fds()
    yield
    with trio.fail_after(PATIENCE):
        while count_fds() > before:  # noqa: ASYNC110  the kernel has no event for it
            await trio.sleep(0.01)


class Steps(trio.abc.Instrument):
    """Counts how often any task is woken."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += 1


@pytest.fixture
async def idle_service(serve: Serve) -> AsyncIterator[Service]:
    """One replica without Redis: only clients and its heartbeat wake it."""
    async with serve() as service:
        yield service


async def count_steps(seconds: float) -> int:
    """How often tasks are woken in this time while nobody does anything."""
    with trio.fail_after(PATIENCE):  # a task that spins never blocks
        await wait_all_tasks_blocked()
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    await trio.sleep(seconds)
    trio.lowlevel.remove_instrument(steps)
    return steps.count


# Heads that arrive in pieces, and data after a head


async def test_upgrade_head_may_arrive_byte_by_byte(service: Service) -> None:
    async with open_raw(service.base) as client:
        for byte in upgrade_head("/ws/r/ann"):
            await client.send(bytes((byte,)))
            await wait_all_tasks_blocked()
        assert (await client.receive_head()).status == 101
        await client.wait_for("room_state")


async def test_request_head_may_arrive_byte_by_byte(service: Service) -> None:
    async with open_raw(service.base) as client:
        for byte in GET:
            await client.send(bytes((byte,)))
            await wait_all_tasks_blocked()
        assert (await client.receive_answer()).status == 200


@pytest.mark.parametrize("cut", [1, 10, 50, -5, -3, -2, -1])
async def test_head_may_be_cut_anywhere(service: Service, cut: int) -> None:
    head = upgrade_head("/ws/r/ann")
    async with open_raw(service.base) as client:
        await client.send(head[:cut])
        await wait_all_tasks_blocked()
        await client.send(head[cut:])
        assert (await client.receive_head()).status == 101
        await client.send(KEEP_ALIVE)
        await client.wait_for("ping")


async def test_frames_may_follow_the_head_at_once(service: Service) -> None:
    async with open_raw(service.base) as client:
        await client.upgrade("/ws/r/ann", client_frame(PING, b"early"), KEEP_ALIVE)
        await client.receive_until(lambda frame: frame == (PONG, b"early"))
        await client.wait_for("ping")


async def test_half_a_frame_may_follow_the_head_at_once(service: Service) -> None:
    async with open_raw(service.base) as client:
        await client.upgrade("/ws/r/ann", KEEP_ALIVE[:5])
        await client.wait_for("room_state")
        await client.send(KEEP_ALIVE[5:])
        await client.wait_for("ping")


async def test_more_than_the_peeked_bytes_may_follow_the_head(service: Service) -> None:
    async with open_raw(service.base) as client:
        await client.upgrade("/ws/r/ann", *[KEEP_ALIVE] * 2000)
        for _ in range(2000):
            await client.wait_for("ping")


async def test_close_frame_may_follow_the_head(service: Service) -> None:
    async with open_raw(service.base) as client:
        await client.upgrade("/ws/r/ann", client_close(1000))
        await client.expect_close(1000)


async def test_garbage_after_the_head_is_an_invalid_frame(service: Service) -> None:
    async with open_raw(service.base) as client:
        await client.upgrade("/ws/r/ann", b"GET / HTTP/1.1\r\n\r\n")
        await client.expect_close(1002)


async def test_requests_may_be_pipelined(service: Service) -> None:
    first = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with open_raw(service.base) as client:
        await client.send(first, first, GET)
        answers = (await client.read_to_end()).split(b"HTTP/1.1 ")[1:]
        assert [answer[:3] for answer in answers] == [b"200"] * 3


async def test_head_at_the_size_limit_is_accepted(service: Service) -> None:
    head = upgrade_head("/ws/r/ann", X="")
    # On several lines, since the handshake limits the length of each.
    lines = [f"X-{i}: {'x' * 4000}\r\n".encode() for i in range(3)]
    lines.append(b"X-3: \r\n")
    padding = MAX_HEAD - len(head) - sum(map(len, lines))
    lines[-1] = b"X-3: " + b"x" * padding + b"\r\n"
    head = head[:-2] + b"".join(lines) + b"\r\n"
    assert len(head) == MAX_HEAD
    async with open_raw(service.base) as client:
        await client.send(head)
        assert (await client.receive_head()).status == 101


# Heads that do not arrive


@pytest.mark.usefixtures("_short_patience")
async def test_connection_without_a_request_times_out(service: Service) -> None:
    async with no_descriptor_left(), open_raw(service.base) as client:
        start = trio.current_time()
        assert (await client.receive_answer()).status == 408
        assert trio.current_time() - start >= HEAD_TIMEOUT * 0.9


@pytest.mark.usefixtures("_short_patience")
@pytest.mark.parametrize("head", [GET, upgrade_head("/ws/r/ann")], ids=["http", "websocket"])
async def test_slow_head_times_out(service: Service, head: bytes) -> None:
    async def trickle() -> None:
        for byte in head:
            await trio.sleep(HEAD_TIMEOUT / 10)
            await client.stream.send_all(bytes((byte,)))

    async with (
        no_descriptor_left(),
        open_raw(service.base) as client,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(trickle)
        assert (await client.receive_answer()).status == 408
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("begin", [b"", b"G", b"GET / HTTP/1.1\r\nUpgr"])
async def test_waiting_for_a_head_uses_no_cpu(idle_service: Service, begin: bytes) -> None:
    idle = await count_steps(0.2)
    async with open_raw(idle_service.base) as client:
        await client.send(begin)
        assert await count_steps(0.2) <= idle + 2


async def test_urgent_data_in_a_head_uses_little_cpu(idle_service: Service) -> None:
    # A peek stops at the urgent byte, however much follows it.
    async with open_raw(idle_service.base) as client:
        await client.send(b"GET")
        await client.stream.socket.send(b"!", socket.MSG_OOB)
        await client.send(b" / HTTP/1.1")
        assert await count_steps(0.6) <= 20
    await check_alive(idle_service)


async def test_urgent_data_between_frames_uses_no_cpu(idle_service: Service) -> None:
    async with open_raw(idle_service.base) as client:
        await client.upgrade("/ws/r/ann")
        await client.wait_for("room_state")
        await client.send(KEEP_ALIVE)
        await client.stream.socket.send(b"!", socket.MSG_OOB)
        await client.send(KEEP_ALIVE)
        for _ in range(2):
            await client.wait_for("ping")
        await client.stream.socket.send(b"!", socket.MSG_OOB)
        assert await count_steps(0.2) < 10


async def expect_end(client: RawClient) -> None:
    """The server ends the connection without an answer: it did not wait for a head."""
    with suppress(trio.BrokenResourceError):
        assert await client.read_to_end() == b""


@pytest.mark.parametrize("begin", [b"", b"GET", upgrade_head("/ws/r/ann")[:-1]])
@pytest.mark.parametrize("how", ["close", "half close", "reset"])
async def test_leaving_in_the_middle_of_a_head_leaks_nothing(
    idle_service: Service, begin: bytes, how: str
) -> None:
    async with no_descriptor_left():
        for _ in range(20):
            async with open_raw(idle_service.base) as client:
                await client.send(begin)
                if how == "half close":
                    await client.half_close()
                    await expect_end(client)
                elif how == "reset":
                    client.reset()
    assert await count_steps(0.1) < 10


async def test_rest_of_head_and_half_close_may_arrive_together(service: Service) -> None:
    async with no_descriptor_left(), open_raw(service.base) as client:
        await client.send(b"GET / HT")
        await wait_all_tasks_blocked()
        await client.send(b"TP/1.1\r\n")
        await client.half_close()
        await expect_end(client)


async def test_half_closed_client_is_still_answered(service: Service) -> None:
    async with no_descriptor_left(), open_raw(service.base) as client:
        await client.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await client.half_close()
        assert (await client.receive_answer()).status == 200


@pytest.mark.parametrize("length", [MAX_HEAD + 1, MAX_HEAD * 4])
@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
async def test_overlong_head_is_refused(service: Service, length: int, end: bytes) -> None:
    async with no_descriptor_left(), open_raw(service.base) as client:
        await client.send(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nX: ".ljust(length, b"x") + end)
        await client.half_close()
        answer = await client.receive_answer()
        assert answer.status == 431
        assert answer.headers["connection"] == "close"


@pytest.mark.usefixtures("_short_patience")
async def test_client_that_ignores_its_refusal_is_dropped(service: Service) -> None:
    async with no_descriptor_left(), open_raw(service.base) as client:
        await client.send(b"x" * (MAX_HEAD + 1))
        # The client sends for ever, and never ends its side.
        with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
            await send_for_ever(client)


async def send_for_ever(client: RawClient) -> None:
    while True:
        await client.stream.send_all(b"x")
        await trio.sleep(0.01)


async def test_connection_without_a_head_does_not_delay_the_shutdown(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_signal.listener.HEAD_TIMEOUT", PATIENCE * 2)
    async with AsyncExitStack() as clients:
        with trio.fail_after(PATIENCE):
            async with serve(drain=PATIENCE * 2) as service:
                for begin in (b"", b"GET", upgrade_head("/ws/r/ann")[:-1]):
                    client = await clients.enter_async_context(open_raw(service.base))
                    await client.send(begin)
                await wait_all_tasks_blocked()


async def test_clients_wait_while_descriptors_are_exhausted() -> None:
    async with open_process(TRIO_SIGNAL_DIALECTS="room") as (process, service):
        assert process.stderr is not None
        _, most = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, most))
        async with open_raw(service.base) as client:
            await client.send(GET)
            logged = b""
            with trio.fail_after(PATIENCE):
                while b"cannot accept" not in logged:
                    logged += await process.stderr.receive_some()
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (most, most))
            assert (await client.receive_answer()).status == 200


async def test_missing_descriptors_are_logged_once_a_minute(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    shortages = _Shortages()
    for _ in range(1000):  # ten a second
        await shortages.let_pass(OSError(errno.EMFILE, "Too many open files"))
    assert [vars(record)["times"] for record in caplog.records] == [1, 600]
    for _ in range(400):
        await shortages.let_pass(OSError(errno.ECONNABORTED, "it was gone"))
    assert len(caplog.records) == 2
    with pytest.raises(OSError, match="Bad file"):
        await shortages.let_pass(OSError(errno.EBADF, "Bad file descriptor"))
    caplog.clear()


# Refusals


async def refusal(service: Service, head: bytes) -> tuple[int, str]:
    async with no_descriptor_left(), open_raw(service.base) as client:
        await client.send(head)
        answer = await client.receive_answer()
        assert answer.body
        return answer.status, answer.headers["content-type"].partition(";")[0]


@pytest.mark.parametrize(
    ("status", "head"),
    [
        # All as documented in protocols/README.md.
        (404, upgrade_head("/nothing/here")),
        (404, upgrade_head("/ws/r/ann/more")),
        (404, upgrade_head("/ws//ann")),
        (404, upgrade_head("/")),
        (404, upgrade_head("*")),
        (404, upgrade_head("//[")),
        (403, upgrade_head("/ws/r/ann", Origin="https://evil.example")),
        (403, upgrade_head("/ws/r/ann", Origin="null")),
        (403, upgrade_head("/ws/r/ann", Origin="http://localhost.evil.example")),
        (
            403,
            upgrade_head("/ws/r/ann", Origin="https://evil.example").replace(
                b"Origin:", b"Origin: http://localhost\r\nOrigin:"
            ),
        ),
        # Incomplete or invalid upgrades.
        (426, upgrade_head("/ws/r/ann", Connection="close")),
        (426, upgrade_head("/ws/r/ann", Upgrade="websocket2")),
        (400, upgrade_head("/ws/r/ann", Sec_WebSocket_Key="short")),
        (400, upgrade_head("/ws/r/ann", Sec_WebSocket_Key=None)),
        (400, upgrade_head("/ws/r/ann", Sec_WebSocket_Version="7")),
        (405, upgrade_head("/ws/r/ann").replace(b"GET", b"POST")),
        (400, upgrade_head("/ws/r/ann").replace(b"GET /", b"GET\xff/")),
        (400, upgrade_head("/ws/r/ann?username=J\u00fcrgen")),
        (400, upgrade_head("/ws/r/ann", Sec_WebSocket_Protocol="b\u00e4rer")),
        (400, upgrade_head("/ws/r/ann", Sec_WebSocket_Protocol="\u00ff, bearer")),
        (400, upgrade_head("/ws/r/ann", Sec_WebSocket_Protocol=",,,;\x7f")),
    ],
)
async def test_invalid_upgrade_is_refused(service: Service, status: int, head: bytes) -> None:
    assert await refusal(service, head) == (status, "text/plain")
    await check_alive(service)


@pytest.mark.parametrize(
    "path", ["/ws", "/ws/r", "/ws/r/ann", "/ws/r/ann?username=a", "/api/v1/ws/connect"]
)
async def test_http_request_at_a_websocket_path_gets_426(service: Service, path: str) -> None:
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    async with open_raw(service.base) as client:
        await client.send(head)
        answer = await client.receive_answer()
    assert (answer.status, answer.headers["upgrade"]) == (426, "websocket")


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",  # our own
        "https://localhost",
        "HTTP://LOCALHOST",
        "https://app.example",
        "https://a.b.apps.example",
    ],
)
async def test_allowed_origin_may_connect(serve: Serve, origin: str) -> None:
    allowed = "https://app.example,https://*.apps.example"
    async with serve(allowed_origins=allowed) as service, open_raw(service.base) as client:
        await client.upgrade("/ws/r/ann", Origin=origin)


@pytest.mark.parametrize(
    "origin",
    [
        "http://app.example",
        "https://apps.example",
        "https://evilapps.example",
        "https://app.example:444",
    ],
)
async def test_other_origin_may_not_connect(serve: Serve, origin: str) -> None:
    allowed = "https://app.example,https://*.apps.example"
    async with serve(allowed_origins=allowed) as service:
        assert await refusal(service, upgrade_head("/ws/r/ann", Origin=origin)) == (
            403,
            "text/plain",
        )


async def test_number_of_connections_is_limited(serve: Serve) -> None:
    async with serve(max_connections=2) as service, AsyncExitStack() as clients:
        ann = await clients.enter_async_context(open_raw(service.base))
        bob = await clients.enter_async_context(open_raw(service.base))
        await ann.upgrade("/ws/r/ann")
        await ann.wait_for("room_state")
        await bob.upgrade("/ws")
        await bob.send(client_frame(PING))
        assert (await bob.receive()).opcode == PONG
        assert await refusal(service, upgrade_head("/ws/r/eve")) == (503, "text/plain")
        # HTTP requests are still answered, and there is room when a client leaves.
        async with open_raw(service.base) as client:
            await client.send(GET)
            assert (await client.receive_answer()).status == 200
        await bob.send(client_close(1000))
        await bob.expect_close(1000)
        async with open_raw(service.base) as eve:
            await eve.upgrade("/ws/r/eve")
            await eve.wait_for("room_state")


async def test_only_enabled_dialects_are_served(serve: Serve) -> None:
    async with serve(dialects="room") as service:
        await check_alive(service)
        assert await refusal(service, upgrade_head("/ws/r")) == (404, "text/plain")


# Garbage


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) + b"\r\n\r\n",
        b"\0\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nUpgrade: websocket\r\n\r\n",
        b"\xff\xff\xff Upgrade: websocket\r\nUpgrade: websocket\r\n\r\n",
        b"GET /ws/r/ann HTTP/1.1\r\nUpgrade: websocket\r\n: nameless\r\n\r\n",
        b"GET /ws/r/ann HTTP/1.1\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello",
        client_text("no handshake at all") + b"\r\n\r\n",
    ],
)
async def test_garbage_is_refused(service: Service, garbage: bytes) -> None:
    async with no_descriptor_left(), open_raw(service.base) as client:
        await client.send(garbage)
        await client.half_close()
        data = await client.read_to_end()
        assert not data or parse_answer(data).status in {400, 404, 426, 505}
    await check_alive(service)


# Clients that go away


def first_bytes() -> Iterator[bytes]:
    """Everything from no bytes to a connection that is in its room."""
    conversation = upgrade_head("/ws/r/ann") + KEEP_ALIVE
    return (conversation[:size] for size in range(0, len(conversation) + 1, 7))


async def test_reset_at_any_moment_is_no_error(service: Service) -> None:
    async with no_descriptor_left():
        for begin in first_bytes():
            async with open_raw(service.base) as client:
                await client.send(begin)
                client.reset()
            async with open_raw(service.base) as client:
                await client.send(begin)
                await wait_all_tasks_blocked()
                client.reset()
    await check_alive(service)


@pytest.mark.parametrize(
    "head",
    [upgrade_head("/nothing/here"), b"x" * (MAX_HEAD + 1), upgrade_head("/ws/r/ann"), GET],
)
async def test_reset_before_reading_the_answer_is_no_error(service: Service, head: bytes) -> None:
    async with no_descriptor_left():
        for _ in range(10):
            async with open_raw(service.base) as client:
                await client.send(head)
                client.reset()
    await check_alive(service)


# WebSocket and HTTP together


async def test_http_and_websockets_share_one_port(service: Service) -> None:
    async def ask() -> None:
        for _ in range(20):
            async with open_raw(service.base) as client:
                await client.send(GET)
                assert (await client.receive_answer()).status == 200

    async def talk(name: str) -> None:
        for _ in range(5):
            async with open_raw(service.base) as client:
                await client.upgrade(f"/ws/r/{name}")
                await client.wait_for("room_state")
                for _ in range(20):
                    await client.send(KEEP_ALIVE)
                    await client.wait_for("ping")

    async with no_descriptor_left(), trio.open_nursery() as nursery:
        for i in range(5):
            nursery.start_soon(ask)
            nursery.start_soon(talk, f"user{i}")


async def test_upgrade_with_frames_may_follow_a_request(service: Service) -> None:
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with no_descriptor_left(), open_raw(service.base) as client:
        await client.send(request, upgrade_head("/ws/r/ann"), KEEP_ALIVE, KEEP_ALIVE[:5])
        answer = await client.receive_head()
        assert answer.status == 200
        while len(client.buffer) < int(answer.headers["content-length"]):
            await client.read_more()
        client.buffer = client.buffer[int(answer.headers["content-length"]) :]
        assert (await client.receive_head()).status == 101
        await client.send(KEEP_ALIVE[5:])
        for _ in range(2):
            await client.wait_for("ping")
        await client.send(client_close(1000))
        await client.expect_close(1000)
