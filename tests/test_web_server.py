"""The HTTP server over real sockets, and what it relies on in Hypercorn and Quart-Trio.

House rules: loopback and port 0; every test is bounded by `fail_after`; a raw client where the
bytes matter, an h11 one where they do not.
"""

import inspect
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import h11
import pytest
import trio
import trio.testing
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.tcp_server import TCPServer
from hypothesis import given, settings
from hypothesis import strategies as st
from quart import Response, request
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection

from tests.clients import PATIENCE
from tests.floods.resident import resident
from trio_signal.rounds import Rounds
from trio_signal.web.server import HttpServer, open_http_server
from trio_signal.web.unsent import MOST_EACH, Unsent

MEGABYTE = 1_000_000
BODY_LIMIT = 100_000
STREAMED = [b"piece %d\n" % n for n in range(5)]


# --- the site under test ------------------------------------------------------------------------


@dataclass
class Site:
    """An `HttpServer` behind a loopback listener; counts its connections."""

    app: QuartTrio
    http: HttpServer
    port: int = 0
    connections: int = 0
    handlers: trio.Nursery | None = None
    started: trio.Event = field(default_factory=trio.Event)  # /slow or /forever has begun
    release: trio.Event = field(default_factory=trio.Event)  # lets /slow answer
    ended: trio.Event = field(default_factory=trio.Event)  # /slow or /forever has ended, in any way
    _changed: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot)

    async def serve(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        try:
            received = await self.http.serve_connection(stream)
            if received is not None:
                async with stream:  # the server left it open
                    await stream.send_all(b"handed back: " + received)
        finally:
            self.connections -= 1
            self._changed.unpark_all()

    async def wait_no_connections(self) -> None:
        while self.connections:
            await self._changed.park()

    def cancel_connections(self) -> None:
        assert self.handlers is not None
        self.handlers.cancel_scope.cancel()

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


def make_app(site: Callable[[], Site]) -> QuartTrio:
    app = QuartTrio(__name__)
    app.config["MAX_CONTENT_LENGTH"] = BODY_LIMIT

    @app.get("/")
    async def hello() -> str:
        return "hello"

    @app.get("/number/<int:number>")
    async def number(number: int) -> str:
        if number == 0:  # a later request must not overtake a slow one
            await trio.testing.wait_all_tasks_blocked()
        return f"number {number}"

    @app.get("/client")
    async def client() -> str:
        address = request.scope["client"]
        assert address is not None
        return f"{address[0]}:{address[1]}"

    @app.post("/echo")
    async def echo() -> bytes:
        return await request.get_data(cache=False, as_text=False, parse_form_data=False)

    @app.post("/ignore")
    async def ignore() -> str:
        return "not read"

    @app.get("/stream")
    async def stream() -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            for piece in STREAMED:
                await trio.lowlevel.checkpoint()
                yield piece

        return Response(pieces())

    @app.get("/big/<int:megabytes>")
    async def big(megabytes: int) -> bytes:
        return bytes(megabytes * MEGABYTE)

    @app.get("/filled/<int:megabytes>")
    async def filled(megabytes: int) -> bytes:
        return b"x" * (megabytes * MEGABYTE)

    @app.route("/forever", methods=["GET", "POST"])
    async def forever() -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    site().started.set()
                    yield bytes(10_000)
                    await trio.lowlevel.checkpoint()
            finally:
                site().ended.set()

        response = Response(pieces())
        response.timeout = None
        return response

    @app.get("/slow")
    async def slow() -> str:
        site().started.set()
        try:
            await site().release.wait()
        finally:
            site().ended.set()
        return "slow"

    @app.get("/fails")
    async def fails() -> str:
        raise RuntimeError("the handler failed")

    @app.get("/fails-midway")
    async def fails_midway() -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"begun"
            raise RuntimeError("the stream failed")

        return Response(pieces())

    return app


@asynccontextmanager
async def open_site(
    *, keep_alive: float = 60, write_timeout: float = 60, unsent: Unsent | None = None
) -> AsyncIterator[Site]:
    app = make_app(lambda: site)
    async with (
        open_http_server(
            app, unsent=unsent, keep_alive=keep_alive, write_timeout=write_timeout
        ) as http,
        trio.open_nursery() as handlers,
        trio.open_nursery() as accepting,
    ):
        site = Site(app, http, handlers=handlers)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        site.port = listener.socket.getsockname()[1]
        accepting.start_soon(accept, listener, site, handlers)
        yield site
        accepting.cancel_scope.cancel()
        handlers.cancel_scope.cancel()


async def accept(listener: trio.SocketListener, site: Site, handlers: trio.Nursery) -> None:
    # Not `trio.serve_listeners`, which closes what its handler leaves open.
    async with listener:
        while True:
            handlers.start_soon(site.serve, await listener.accept())


@pytest.fixture(name="site")
async def _site() -> AsyncIterator[Site]:
    async with open_site() as opened:
        yield opened


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that clients do is a server error; a test that expects a record clears it."""
    yield
    assert caplog.get_records("call") == []


@pytest.fixture
def _long_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the test fail if the server waits for a client that has already closed."""
    monkeypatch.setattr("trio_signal.web.server.LINGER", 60)


# --- clients ------------------------------------------------------------------------------------


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """A keep-alive client, strict about the protocol."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)

    async def send(self, method: str, target: str, *pieces: bytes, **headers: str) -> None:
        head = [("host", "localhost"), *((n.replace("_", "-"), v) for n, v in headers.items())]
        await self.send_event(h11.Request(method=method, target=target, headers=head))
        for piece in pieces:
            await self.send_event(h11.Data(data=piece))
        await self.send_event(h11.EndOfMessage())

    async def send_event(self, event: h11.Event) -> None:
        await self.stream.send_all(self.http.send(event) or b"")

    async def next_event(self) -> h11.Event:
        while (event := self.http.next_event()) is h11.NEED_DATA:
            self.http.receive_data(await self.stream.receive_some())
        assert isinstance(event, h11.Event)
        return event

    async def answer(self) -> Answer:
        head = await self.next_event()
        assert isinstance(head, h11.Response), head
        body = b""
        while isinstance(event := await self.next_event(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage), event
        if self.http.our_state is self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        headers = {name.decode(): value.decode() for name, value in head.headers}
        return Answer(head.status_code, headers, body)

    async def request(self, method: str, target: str, *pieces: bytes, **headers: str) -> Answer:
        await self.send(method, target, *pieces, **headers)
        return await self.answer()


@asynccontextmanager
async def open_client(site: Site) -> AsyncIterator[Client]:
    async with await site.connect() as stream:
        yield Client(stream)


async def read_to_eof(stream: trio.SocketStream) -> bytes:
    return b"".join([bytes(data) async for data in stream])


async def exchange(site: Site, data: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes on a new connection and return all that comes back."""
    async with await site.connect() as stream:
        try:
            await stream.send_all(data)
            if half_close:
                await stream.send_eof()
            return await read_to_eof(stream)
        except trio.BrokenResourceError:
            return b""


def raw(method: str, target: str, *headers: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: x", *headers, "", ""]
    return "\r\n".join(lines).encode("latin1")


async def reset(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()


async def dribble(stream: trio.SocketStream) -> None:
    with suppress(trio.BrokenResourceError):
        while True:
            await stream.send_all(b"G")
            await trio.sleep(0.02)


async def assert_healthy(site: Site) -> None:
    async with open_client(site) as client:
        assert (await client.request("GET", "/")).body == b"hello"


def open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def at_most(limit: int, times: int, do: Callable[[], Awaitable[None]]) -> None:
    """Run something many times, with limited concurrency."""
    room = trio.CapacityLimiter(limit)

    async def once() -> None:
        async with room:
            await do()

    async with trio.open_nursery() as nursery:
        for _ in range(times):
            nursery.start_soon(once)


# --- HTTP as it should be -----------------------------------------------------------------------


async def test_a_connection_is_kept_alive(site: Site) -> None:
    with trio.fail_after(PATIENCE):
        async with open_client(site) as client:
            for number in range(1, 20):
                answer = await client.request("GET", f"/number/{number}")
                assert (answer.status, answer.body) == (200, b"number %d" % number)
                assert "server" not in answer.headers
            assert site.connections == 1


async def test_the_app_sees_the_clients_address(site: Site) -> None:
    with trio.fail_after(PATIENCE):
        async with open_client(site) as client:
            host, port = client.stream.socket.getsockname()
            assert (await client.request("GET", "/client")).body == f"{host}:{port}".encode()


async def test_a_body_with_content_length(site: Site) -> None:
    body = os.urandom(BODY_LIMIT)
    with trio.fail_after(PATIENCE):
        async with open_client(site) as client:
            answer = await client.request("POST", "/echo", body, content_length=str(len(body)))
            assert answer.body == body
            assert (await client.request("GET", "/")).body == b"hello"


async def test_a_chunked_body(site: Site) -> None:
    pieces = [b"%d" % n for n in range(2000)]
    with trio.fail_after(PATIENCE):
        async with open_client(site) as client:
            answer = await client.request("POST", "/echo", *pieces, transfer_encoding="chunked")
            assert answer.body == b"".join(pieces)
            assert (await client.request("GET", "/")).body == b"hello"


async def test_a_body_in_crumbs_comes_after_others(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each chunk costs as much as a message, and one read holds ten thousand of them."""
    waits: list[bool] = []
    wait = Rounds.wait

    async def note(rounds: Rounds, *, overdrawn: bool = False) -> float:
        waits.append(overdrawn)
        return await wait(rounds, overdrawn=overdrawn)

    monkeypatch.setattr(Rounds, "wait", note)
    with trio.fail_after(PATIENCE):
        async with open_client(site) as client:
            for pieces in ([b"x" * 1000] * 60, [b"x"] * 10):
                await client.request("POST", "/echo", *pieces, Transfer_Encoding="chunked")
            assert waits
            assert not any(waits)
            await client.request("POST", "/echo", *[b"x"] * 500, Transfer_Encoding="chunked")
            assert sum(waits) > 400
            await client.request("GET", "/")
            waits.clear()
            await client.request("GET", "/")
            assert not any(waits)


async def test_head_has_no_body(site: Site) -> None:
    with trio.fail_after(PATIENCE):
        async with open_client(site) as client:
            answer = await client.request("HEAD", "/")
            assert (answer.status, answer.headers["content-length"]) == (200, "5")
            assert answer.body == b""
            assert (await client.request("GET", "/")).body == b"hello"


async def test_a_streamed_answer(site: Site) -> None:
    with trio.fail_after(PATIENCE):
        async with open_client(site) as client:
            assert (await client.request("GET", "/stream")).body == b"".join(STREAMED)
            assert (await client.request("GET", "/")).body == b"hello"


async def test_expect_100_continue(site: Site) -> None:
    with trio.fail_after(PATIENCE):
        async with open_client(site) as client:
            head = [("host", "x"), ("content-length", "4"), ("expect", "100-continue")]
            await client.send_event(h11.Request(method="POST", target="/echo", headers=head))
            event = await client.next_event()
            assert isinstance(event, h11.InformationalResponse)
            assert event.status_code == 100
            await client.send_event(h11.Data(data=b"body"))
            await client.send_event(h11.EndOfMessage())
            assert (await client.answer()).body == b"body"


async def test_pipelined_requests_are_answered_in_order(site: Site) -> None:
    requests = [raw("GET", f"/number/{n}") for n in range(10)]
    requests.append(raw("POST", "/echo", "Content-Length: 4") + b"body")
    requests.append(raw("GET", "/", "Connection: close"))
    with trio.fail_after(PATIENCE):
        received = await exchange(site, b"".join(requests))
    expected = [b"number %d" % n for n in range(10)] + [b"body", b"hello"]
    answers = [answer.partition(b"\r\n\r\n")[2] for answer in received.split(b"HTTP/1.1 200")[1:]]
    assert answers == expected


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
async def test_oversized_body_gets_a_readable_413(site: Site, framing: str) -> None:
    size = 8 * MEGABYTE
    if framing == "chunked":
        header, body = "Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (size, bytes(size))
    else:
        header, body = f"Content-Length: {size}", bytes(size)
    with trio.fail_after(PATIENCE):
        # All is sent before the response is read: a reset would have destroyed the response.
        received = await exchange(site, raw("POST", "/echo", header) + body, half_close=True)
    assert received.startswith(b"HTTP/1.1 413 ")


async def test_response_before_the_body_closes_the_connection(site: Site) -> None:
    with trio.fail_after(PATIENCE):
        received = await exchange(site, raw("POST", "/ignore", "Content-Length: 5") + b"1")
        assert received.endswith(b"\r\n\r\nnot read")
        assert b"\r\nconnection: close\r\n" in received.lower()


async def test_http_1_0(site: Site) -> None:
    with trio.fail_after(PATIENCE):
        assert (await exchange(site, b"GET / HTTP/1.0\r\n\r\n")).endswith(b"\r\n\r\nhello")


async def test_an_absolute_target(site: Site) -> None:
    with trio.fail_after(PATIENCE):
        received = await exchange(site, raw("GET", "http://x/", "Connection: close"))
        assert received.endswith(b"\r\n\r\nhello")


# --- failures of the app ------------------------------------------------------------------------


async def test_failing_handler_is_500(
    site: Site, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with trio.fail_after(PATIENCE):
        async with open_client(site) as client:
            assert (await client.request("GET", "/fails")).status == 500
            assert (await client.request("GET", "/")).body == b"hello"
    assert "the handler failed" in caplog.text
    caplog.clear()
    assert capfd.readouterr() == ("", "")


async def test_failing_stream_is_cut_off_and_logged(
    site: Site, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with trio.fail_after(PATIENCE):
        received = await exchange(site, raw("GET", "/fails-midway"))
        await site.wait_no_connections()
        await assert_healthy(site)
    assert received.endswith(b"5\r\nbegun\r\n")
    (record,) = caplog.records
    assert record.name == "trio_signal.web"
    assert "the stream failed" in caplog.text
    caplog.clear()
    assert capfd.readouterr() == ("", "")


async def test_an_error_that_escapes_hypercorn_is_logged_and_ends_one_connection(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise RuntimeError("hypercorn failed")

    with trio.fail_after(PATIENCE):
        async with open_client(site) as other, open_client(site) as client:
            await other.request("GET", "/")
            with monkeypatch.context() as patch:
                patch.setattr(site.http.context, "mark_request", broken)
                await client.send("GET", "/")
                await read_to_eof(client.stream)
            assert (await other.request("GET", "/")).body == b"hello"
    assert [record.name for record in caplog.records] == ["trio_signal.web"]
    assert "hypercorn failed" in caplog.text
    caplog.clear()


async def test_ordinary_traffic_logs_nothing(
    site: Site, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, "trio_signal")
    caplog.set_level(logging.DEBUG, "hypercorn")
    with trio.fail_after(PATIENCE):
        await assert_healthy(site)
        await exchange(site, b"no HTTP\r\n\r\n")
        await site.wait_no_connections()
    assert capfd.readouterr() == ("", "")


# --- how connections end ------------------------------------------------------------------------


@pytest.mark.usefixtures("_long_linger")
async def test_connection_close_gives_eof_at_once(site: Site) -> None:
    with trio.fail_after(PATIENCE):
        async with open_client(site) as client:
            answer = await client.request("GET", "/", connection="close")
            assert answer.body == b"hello"
            assert await client.stream.receive_some() == b""
        await site.wait_no_connections()


async def test_connection_close_leaks_no_descriptor(site: Site) -> None:
    async def once() -> None:
        assert b"hello" in await exchange(site, raw("GET", "/", "Connection: close"))

    with trio.fail_after(PATIENCE):
        await once()
        await site.wait_no_connections()
        before = open_descriptors()
        await at_most(20, 200, once)
        await site.wait_no_connections()
    assert open_descriptors() == before


async def test_resets_in_the_middle_of_an_answer_leak_no_descriptor(site: Site) -> None:
    async def once() -> None:
        stream = await site.connect()
        await stream.send_all(raw("GET", "/big/8"))
        await stream.receive_some()
        await reset(stream)

    with trio.fail_after(PATIENCE):
        await once()
        await site.wait_no_connections()
        before = open_descriptors()
        await at_most(10, 200, once)
        await site.wait_no_connections()
        await assert_healthy(site)
        await site.wait_no_connections()
    assert open_descriptors() == before


async def test_a_reset_before_anything_is_sent(site: Site) -> None:
    with trio.fail_after(PATIENCE):
        for _ in range(20):
            await reset(await site.connect())
        await assert_healthy(site)
        await site.wait_no_connections()


async def test_client_closing_between_requests_is_noticed_at_once(site: Site) -> None:
    with trio.fail_after(PATIENCE):  # before the keep-alive time
        async with open_client(site) as client:
            await client.request("GET", "/")
            await trio.testing.wait_all_tasks_blocked()
        await site.wait_no_connections()


async def test_half_closed_client_is_still_answered(site: Site) -> None:
    with trio.fail_after(PATIENCE):
        received = await exchange(
            site, raw("GET", "/number/0") + raw("GET", "/number/1"), half_close=True
        )
        assert b"number 0" in received
        assert received.endswith(b"number 1")


async def test_half_closed_client_times_out() -> None:
    with trio.fail_after(PATIENCE):
        async with open_site(write_timeout=0.1) as site:
            assert await exchange(site, raw("GET", "/slow"), half_close=True) == b""
            await site.ended.wait()
            await site.wait_no_connections()


async def test_a_stream_ends_when_its_reader_is_gone(site: Site) -> None:
    with trio.fail_after(PATIENCE):
        async with await site.connect() as stream:
            await stream.send_all(raw("GET", "/forever"))
            await stream.receive_some()
        await site.ended.wait()
        await site.wait_no_connections()


async def test_a_handler_is_cancelled_when_its_client_resets(site: Site) -> None:
    with trio.fail_after(PATIENCE):
        stream = await site.connect()
        await stream.send_all(raw("GET", "/slow"))
        await site.started.wait()
        await reset(stream)
        await site.ended.wait()
        await site.wait_no_connections()


@pytest.mark.parametrize("reading", [True, False])
async def test_bad_body_ends_a_started_response(
    site: Site, reading: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_signal.web.server.LINGER", 0.1)
    with trio.fail_after(PATIENCE):
        async with await site.connect() as stream:
            await stream.send_all(raw("POST", "/forever", "Transfer-Encoding: chunked"))
            await site.started.wait()
            if not reading:
                await trio.testing.wait_all_tasks_blocked(0.05)
            await stream.send_all(b"no chunk\r\n")
            if reading:
                await read_to_eof(stream)
            await site.wait_no_connections()
            await site.ended.wait()


async def test_client_that_never_closes_is_not_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_signal.web.server.LINGER", 0.1)
    with trio.fail_after(PATIENCE):
        async with await site.connect() as stream, trio.open_nursery() as nursery:
            await stream.send_all(b"no HTTP\r\n\r\n")
            assert (await read_to_eof(stream)).startswith(b"HTTP/1.1 400 ")
            nursery.start_soon(dribble, stream)
            await site.wait_no_connections()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("target", ["/forever", "/big/20"])
async def test_a_client_that_stops_reading_is_timed_out(target: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_site(write_timeout=0.2) as site, await site.connect() as stream:
            await stream.send_all(raw("GET", target))
            await stream.receive_some()
            await site.wait_no_connections()
            await assert_healthy(site)


async def test_unread_responses_use_bounded_memory() -> None:
    given_up: list[str] = []
    unsent = Unsent(lambda: given_up.append("one"))
    async with AsyncExitStack() as stack, open_site(unsent=unsent) as site:
        before = resident(os.getpid())
        streams = [await stack.enter_async_context(await site.connect()) for _ in range(190)]
        most = 0
        with trio.fail_after(PATIENCE):
            for stream in streams:
                await stream.send_all(raw("GET", "/filled/5"))
            while len(given_up) < 188:
                await trio.sleep(0.01)
                most = max(most, unsent.size)
            # A client that reads is still served, and one that does not read is closed for it.
            async with await site.connect() as stream:
                await stream.send_all(raw("GET", "/filled/5", "Connection: close"))
                answer = b"".join([piece async for piece in stream])
        assert len(answer) > 5 * MEGABYTE
        assert most <= 2 * MOST_EACH
        assert resident(os.getpid()) - before < 64 * MEGABYTE
        assert len(given_up) in (189, 190)
        site.cancel_connections()
        await site.wait_no_connections()
        assert unsent.size == 0


async def test_response_over_every_limit_is_refused(site: Site) -> None:
    given_up: list[str] = []
    unsent = Unsent(lambda: given_up.append("one"), most_each=MEGABYTE)
    async with open_site(unsent=unsent) as site, await site.connect() as stream:
        client = Client(stream)
        await client.send("GET", "/big/2")
        answer = await client.answer()
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert given_up == ["one"]
        await client.send("GET", "/big/0")
        assert (await client.answer()).status == 200


async def test_a_client_that_reads_slowly_is_served() -> None:
    with trio.fail_after(PATIENCE):
        async with open_site(write_timeout=1.5) as site, await site.connect() as stream:
            await stream.send_all(raw("GET", "/big/12", "Connection: close"))
            begun = trio.current_time()
            received = 0
            while data := await stream.receive_some(100_000):
                received += len(data)
                await trio.sleep(0.02)
            assert received > 12 * MEGABYTE
            assert trio.current_time() - begun > 1.5  # otherwise the test has shown nothing


async def test_an_idle_connection_is_closed() -> None:
    with trio.fail_after(PATIENCE):
        async with open_site(keep_alive=0.5) as site, open_client(site) as client:
            await client.request("GET", "/")
            assert await client.stream.receive_some() == b""
            await site.wait_no_connections()


async def test_keep_alive_timeout_does_not_limit_a_response() -> None:
    with trio.fail_after(PATIENCE):
        async with open_site(keep_alive=0.5) as site, open_client(site) as client:
            await client.request("GET", "/")
            await client.send("GET", "/slow")
            await site.started.wait()
            await trio.sleep(0.7)
            site.release.set()
            assert (await client.answer()).body == b"slow"


async def test_slow_head_times_out() -> None:
    with trio.fail_after(PATIENCE):
        async with open_site(keep_alive=0.5) as site, open_client(site) as client:
            await client.request("GET", "/")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(dribble, client.stream)
                await site.wait_no_connections()
                nursery.cancel_scope.cancel()


# --- shutdown -----------------------------------------------------------------------------------


async def test_drain_closes_idle_connections_at_once(site: Site) -> None:
    with trio.fail_after(PATIENCE):
        async with open_client(site) as idle, open_client(site) as midway:
            await idle.request("GET", "/")
            await midway.request("GET", "/")
            await midway.stream.send_all(b"GE")
            await trio.testing.wait_all_tasks_blocked()
            site.http.drain()
            assert await idle.stream.receive_some() == b""
            assert await midway.stream.receive_some() == b""
        await site.wait_no_connections()


async def test_drain_lets_a_running_request_finish(site: Site) -> None:
    with trio.fail_after(PATIENCE):
        async with open_client(site) as client:
            await client.send("GET", "/slow")
            await site.started.wait()
            site.http.drain()
            await trio.testing.wait_all_tasks_blocked()
            site.release.set()
            answer = await client.answer()
            assert (answer.status, answer.body) == (200, b"slow")
            assert answer.headers["connection"] == "close"
            assert await client.stream.receive_some() == b""
        await site.wait_no_connections()


@pytest.mark.parametrize("target", ["/forever", "/big/20", "/slow"])
async def test_a_cancel_ends_a_connection_whose_client_reads_nothing(target: str) -> None:
    with trio.fail_after(PATIENCE):
        async with open_site() as site, await site.connect() as stream:
            before = open_descriptors()
            await stream.send_all(raw("GET", target))
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert site.connections == 1
            site.cancel_connections()
            await site.wait_no_connections()
            assert open_descriptors() == before - 1


async def test_app_is_started_and_stopped() -> None:
    app = QuartTrio(__name__)
    seen = []

    @app.before_serving
    async def start() -> None:
        seen.append("started")
        app.add_background_task(background)

    @app.after_serving
    async def stop() -> None:
        seen.append("stopped")

    async def background() -> None:
        seen.append("background")

    with trio.fail_after(PATIENCE):
        async with open_http_server(app):
            await trio.testing.wait_all_tasks_blocked()
            assert seen == ["started", "background"]
    assert seen == ["started", "background", "stopped"]


async def test_failing_app_start_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    app = QuartTrio(__name__)

    @app.before_serving
    async def start() -> None:
        raise RuntimeError("no database")

    with (
        trio.fail_after(PATIENCE),
        pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="database")),
    ):
        async with open_http_server(app):
            raise AssertionError("must not start")
    caplog.clear()


# --- other protocols, and none ------------------------------------------------------------------

UPGRADE = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]


@pytest.mark.parametrize(
    "headers",
    [
        UPGRADE,
        [*UPGRADE, "Sec-WebSocket-Protocol: caf\xe9"],
        ["Connection: keep-alive, Upgrade", "UPGRADE: WebSocket"],
        ["Connection: upgrade", "Upgrade: h2c", "Upgrade: websocket"],
        ["Connection: upgrade", "Upgrade: websocket", "Upgrade: h2c"],
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_upgrade_on_a_keep_alive_connection_is_handed_back(
    site: Site, method: str, headers: list[str]
) -> None:
    """Proxies open WebSockets on connections that they have kept alive."""
    upgrade = raw(method, "/ws/caf%C3%A9?a=b", *headers)
    with trio.fail_after(PATIENCE):
        async with open_client(site) as other, open_client(site) as client:
            await other.request("GET", "/")
            await client.request("GET", "/")
            await client.stream.send_all(upgrade + b"\x81\x80 a frame")
            received = await read_to_eof(client.stream)
            await other.request("GET", "/")
    assert received == b"handed back: " + upgrade + b"\x81\x80 a frame"


async def test_an_upgrade_pipelined_behind_a_request_is_handed_back(site: Site) -> None:
    upgrade = raw("GET", "/", *UPGRADE)
    with trio.fail_after(PATIENCE):
        received = await exchange(site, raw("GET", "/number/0") + upgrade)
    answer, _, handed_back = received.partition(b"handed back: ")
    assert b"number 0" in answer
    assert handed_back == upgrade


async def test_an_upgrade_to_http_2_is_ignored(site: Site) -> None:
    headers = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"]
    with trio.fail_after(PATIENCE):
        async with open_client(site) as client:
            await client.stream.send_all(raw("GET", "/", *headers))
            received = await client.stream.receive_some()
            assert received.startswith(b"HTTP/1.1 200 ")
            assert b"upgrade" not in received.lower()


async def test_http_2_by_prior_knowledge_is_refused(site: Site) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9)
    with trio.fail_after(PATIENCE):
        assert (await exchange(site, preface)).startswith(b"HTTP/1.1 505 ")


@pytest.mark.usefixtures("_long_linger")
@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),  # TLS
        (b"\r\n\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/9.9\r\nHost: x\r\n\r\n", 505),
        (b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (raw("CONNECT", "x:443"), 400),
        (raw("OPTIONS", "*"), 400),
        (raw("GET", "?"), 400),
        (raw("GET", "http://["), 400),
        (raw("GET", "http://x"), 400),
        (raw("GET", "/", "Content-Length: 1", "Content-Length: 2"), 400),
        (raw("GET", "/", "Content-Length: -1"), 400),
        (raw("GET", "/", "Transfer-Encoding: gzip"), 501),
        (raw("POST", "/echo", "Transfer-Encoding: chunked") + b"zz\r\n", 400),
        (raw("GET", "/", "X: " + "x" * 100_000), 431),
        (b"x" * 100_000, 431),
    ],
)
async def test_garbage_is_answered_and_the_connection_closed(
    site: Site, data: bytes, status: int
) -> None:
    with trio.fail_after(PATIENCE):
        received = await exchange(site, data, half_close=True)
        assert received.startswith(b"HTTP/1.1 %d " % status), received[:200]
        await site.wait_no_connections()
        await assert_healthy(site)


PARTS = [
    b"GET ", b"POST ", b"PRI ", b"CONNECT ", b"/", b"/echo", b"/stream", b"*", b"http://[", b"?",
    b" HTTP/1.1\r\n", b" HTTP/2.0\r\n", b"Host: x\r\n", b"Host: \xff\r\n",
    b"Connection: upgrade\r\n", b"Upgrade: websocket\r\n", b"Upgrade: h2c\r\n",
    b"Sec-WebSocket-Protocol: \xe9\r\n", b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n",
    b"Content-Type: multipart/form-data; boundary=x\r\n", b"Cookie: \xff=;;=\r\n",
    b"\r\n", b"5\r\nhello\r\n", b"0\r\n\r\n", b"hello", b"\x00", b"\xff\xfe",
]  # fmt: skip


@settings(max_examples=150)
@given(parts=st.lists(st.sampled_from(PARTS) | st.binary(max_size=8), max_size=25))
async def test_random_bytes_do_not_harm_the_server(parts: list[bytes]) -> None:
    with trio.fail_after(PATIENCE):
        async with open_site() as site:
            await exchange(site, raw("GET", "/") + b"".join(parts), half_close=True)
            await exchange(site, b"".join(parts), half_close=True)
            await site.wait_no_connections()
            await assert_healthy(site)


# --- what we rely on ----------------------------------------------------------------------------


PROTOCOL = ["app", "config", "context", "task_group"]
CONNECTION = ["ssl", "client", "server", "send"]


def parameters(function: Callable[..., object]) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_internals_that_we_use_are_unchanged() -> None:
    """If this fails after an upgrade, read the new sources before you fix it."""
    assert version("hypercorn").startswith("0.18.")
    assert parameters(TCPServer) == ["app", "config", "context", "state", "stream"]
    assert parameters(TCPServer.run) == ["self"]
    assert parameters(TCPServer.protocol_send) == ["self", "event"]
    assert parameters(TCPServer._read_data) == ["self"]
    assert parameters(ProtocolWrapper) == [*PROTOCOL, "state", *CONNECTION, "alpn_protocol"]
    assert parameters(H11Protocol) == [*PROTOCOL, "connection_state", *CONNECTION]
    assert "self.app_put = await" in inspect.getsource(HTTPStream.handle)
    assert parameters(H11Protocol._check_protocol) == ["self", "event"]
    assert parameters(H11Protocol._create_stream) == ["self", "request"]
    assert parameters(H11Protocol._send_h11_event) == ["self", "event"]
    assert parameters(H11Protocol.stream_send) == ["self", "event"]
    assert parameters(TrioASGIHTTPConnection._send_response) == ["self", "send", "response"]
    handler = TrioASGIHTTPConnection.handle_request
    assert parameters(handler) == ["self", "nursery", "request", "send"]
    messages = TrioASGIHTTPConnection.handle_messages
    assert parameters(messages) == ["self", "nursery", "request", "receive"]
    assert QuartTrio.asgi_http_class is TrioASGIHTTPConnection
