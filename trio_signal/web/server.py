"""HTTP on connections accepted elsewhere: Hypercorn's TCPServer, made safe.

It fixes these defects of Hypercorn 0.18 and Quart-Trio 0.12 on Trio:

- Writes are shielded: a client that stops reading can neither be timed out nor cancelled, and a
  stream continues after its reader is gone.
- A connection is not closed after its last answer, and stays open for the keep-alive time after its
  client has closed it. A cancelled connection is never closed.
- If the request was not read to its end, a reset destroys the answer. The client is not told that
  the connection ends, so its next request is lost as well.
- HTTP/2 and WebSocket are always enabled, the latter with errors that end the process.

The overridden methods are undocumented, so tests pin them.
"""

import logging
import math
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from http import HTTPStatus
from typing import cast
from urllib.parse import urlsplit

import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    ASGIFramework,
    ASGIReceiveEvent,
    ConnectionState,
    H11SendableEvent,
)
from quart_trio import QuartTrio

from trio_signal.errors import RequestRefusedError
from trio_signal.rounds import Rounds
from trio_signal.web.answering import CONNECTION, Answering, detail
from trio_signal.web.gate import Gate
from trio_signal.web.unsent import Answer, Unsent

_Headers = list[tuple[bytes, bytes]]

logger = logging.getLogger("trio_signal.web")

#: Seconds to wait for the client to close after this side has.
LINGER = 2.0
#: Statuses whose answer is JSON, because programs read it.
_OF_CALLS = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS})
#: Seconds to wait before the answer to a health check that is over the rate of its address.
_LULL = 0.1
#: Bytes of an answer that a client must accept within the write timeout.
_PIECE = 65536
#: A read, or a chunk of a body, of fewer bytes is a crumb: it costs as much as a large one. After
#: so many crumbs of a request, the rest of it comes after other clients' messages.
_CRUMB = 256
_MOST_CRUMBS = 32


class HttpServer:
    """Serves an app on streams accepted elsewhere. Made by `open_http_server`."""

    def __init__(
        self,
        app: QuartTrio,
        config: Config,
        nursery: trio.Nursery,
        write_timeout: float,
        gate: Gate | None,
        unsent: Unsent,
        rounds: Rounds,
    ) -> None:
        self.app = ASGIWrapper(cast(ASGIFramework, app))
        self.config = config
        self.context = WorkerContext(max_requests=None)
        self.state = ConnectionState({})
        self.write_timeout = write_timeout
        self.gate = gate
        self.unsent = unsent
        self.rounds = rounds
        self._nursery = nursery

    async def serve_connection(
        self, stream: trio.SocketStream, peer: str | None = None
    ) -> bytes | None:
        """Serve one connection until it ends, and close the stream. Does not raise its errors.

        `peer` is the client's address, if it is not that of the stream's other end.

        If the client requests a WebSocket after other requests, as happens behind a proxy that
        keeps connections, the stream stays open: the head of that request is returned, with any
        bytes read after it. Cancelling ends it at once, even while the client reads nothing.
        """
        connection = _Connection(self, stream, peer)
        async with AsyncExitStack() as stack:
            # Hypercorn does not close a connection that is cancelled.
            await stack.enter_async_context(stream)
            try:
                await connection.run()
            except* Exception:
                logger.exception("HTTP connection failed")
            if connection.upgrade is not None:
                stack.pop_all()
        return connection.upgrade

    def drain(self) -> None:
        """Close idle connections now, and the others after their current answer.

        Does not block. To end those that still run, cancel the `serve_connection` calls.
        """
        self.config.keep_alive_max_requests = 0  # answers say "Connection: close"
        self._nursery.start_soon(self.context.terminated.set)


@asynccontextmanager
async def open_http_server(
    app: QuartTrio,
    gate: Gate | None = None,
    *,
    unsent: Unsent | None = None,
    rounds: Rounds | None = None,
    keep_alive: float = 95.0,
    write_timeout: float = 30.0,
) -> AsyncIterator[HttpServer]:
    """Start the app; stop it at the end, when no connection is being served any more.

    If the body raises or is cancelled, the app's ``after_serving`` functions do not run.

    :param gate: admits or refuses requests; without one, all are admitted.
    :param unsent: bounds the bytes waiting to be sent; without it, there is no bound.
    :param rounds: shares the event loop between HTTP and WebSockets.
    :param keep_alive: seconds from an answer to the end of the next request's head. Load balancers
        keep idle connections for 60 s, Heroku's router for 90 s; a server that closes first loses
        requests.
    :param write_timeout: seconds for a client to accept 64 KiB of an answer, and for a request to
        be answered after its client has half-closed.
    """
    app.asgi_http_class = Answering
    config = Config()
    config.errorlog = logger
    config.include_server_header = False
    config.keep_alive_timeout = keep_alive
    async with trio.open_nursery() as nursery:
        # Run the app's lifespan functions directly. With lifespan messages, a failed start would be
        # known only after the server was told to go on.
        app.nursery = nursery
        await app.startup()
        yield HttpServer(
            app,
            config,
            nursery,
            write_timeout,
            gate,
            unsent or Unsent(most=math.inf, most_each=math.inf),
            rounds or Rounds(),
        )
        await app.shutdown()


class _Connection(TCPServer):
    # Annotated for TLS only, but used for both.
    stream: trio.SocketStream  # type: ignore[assignment]

    def __init__(self, server: HttpServer, stream: trio.SocketStream, peer: str | None) -> None:
        super().__init__(server.app, server.config, server.context, server.state, stream)  # type: ignore[arg-type]
        self._write_timeout = server.write_timeout
        self._client = None if peer is None else (peer, 0)
        self.gate = server.gate
        self.rounds = server.rounds
        self._unsent = server.unsent
        self._answer: Answer | None = None
        #: The answer cannot be sent: send nothing more, and close at its end.
        self._broken = False
        self._writing = trio.CancelScope()
        #: Whether the address stays within its rate; if not, its health checks wait.
        self.is_frugal = True
        #: The number of crumbs since the last request began.
        self.crumbs = 0
        #: The client's network, while its request is being answered.
        self.address = ""
        self._scope = trio.CancelScope()
        self._closing = False
        #: Stop reading: that costs us nothing, and slows the sender down.
        self._held = False
        #: A request for a WebSocket, and the bytes read after it.
        self.upgrade: bytes | None = None

    async def run(self) -> None:
        with self._scope:
            await super().run()

    def hand_back(self, received: bytes) -> None:
        """End without closing, at a request for a WebSocket."""
        self.upgrade = received
        self._scope.cancel()

    async def wait_for_turn(self, size: int) -> None:
        """Wait until so many bytes of a request may be processed."""
        self.crumbs += size < _CRUMB
        is_late = not self.is_frugal or self.crumbs > _MOST_CRUMBS
        await self.rounds.wait(overdrawn=is_late)

    def hold(self) -> None:
        """Read little more, and close after a while; the answer says that the connection closes."""
        self._held = True

    @contextmanager
    def sending(self, size: int) -> Iterator[None]:
        """Count an answer of `size` bytes while it is sent; raises RequestRefusedError."""
        now = trio.current_time()
        self._answer = answer = self._unsent.hold(self.address, size, now, self._cut_off)
        try:
            yield
        finally:
            self._unsent.release(answer)
            self._answer = None

    def _cut_off(self) -> None:
        """Send no more of this answer, and close at its end.

        Do not cancel the whole connection: the tracebacks of the exception would keep the answer in
        memory until the garbage collector runs.
        """
        self._broken = True
        self._writing.cancel()

    async def protocol_send(self, event: Event) -> None:
        match event:
            case RawData(data=data):
                await self._write(data)
            case Updated() | Closed() if self._broken:
                # Reset the connection, so that the kernel drops its send buffer as well.
                linger = struct.pack("ii", 1, 0)
                with suppress(OSError):
                    self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self._scope.cancel()
            case Closed():
                await self._half_close()
            case _:
                await super().protocol_send(event)

    async def _write(self, data: bytes) -> None:
        # In pieces, so that the deadline measures progress: slow readers are served, stopped ones
        # are not.
        view = memoryview(data)
        try:
            async with self.send_lock:
                for start in range(0, len(view), _PIECE):
                    if self._broken:
                        return
                    with trio.move_on_after(self._write_timeout) as self._writing:
                        await self.stream.send_all(view[start : start + _PIECE])
                    if self._answer is not None:
                        self._answer.sent += _PIECE
                    if self._writing.cancelled_caught:
                        self._break_off()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._break_off()

    def _break_off(self) -> None:
        if self._answer is not None:
            self._broken = True  # closed at the end of the answer
        else:
            self._scope.cancel()

    async def _half_close(self) -> None:
        # In stages, as RFC 9112 section 9.6 asks. Closing with unread input sends a reset, which
        # can destroy the answer before the client has read it.
        self._closing = True
        self._scope.deadline = trio.current_time() + LINGER
        async with self.send_lock:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.stream.send_eof()

    async def _read_data(self) -> None:
        wrapper = self.protocol
        wrapper.protocol = _PlainHTTP(
            self.app,
            self.config,
            self.context,
            self._task_group,
            ConnectionState({CONNECTION: self}),  # found again in the scope of its requests
            wrapper.ssl,
            self._client or wrapper.client,
            wrapper.server,
            self.protocol_send,
        )
        wrapper.protocol.owner = self
        try:
            async for data in self.stream:
                if not self._closing:
                    await self.wait_for_turn(len(data))
                    await wrapper.handle(RawData(bytes(data)))
                elif self._held:
                    await trio.sleep_forever()  # until the time to linger is over
            # The client may have closed only its side: a running request can still be answered.
            self._scope.deadline = trio.current_time() + self._write_timeout
            await wrapper.handle(RawData(b""))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._closing = True
        if self._closing:  # both sides are closed
            self._scope.cancel()
        await self.idle_task.stop()


class _PlainHTTP(H11Protocol):
    """HTTP/1; where Hypercorn would switch to WebSocket, the connection is handed back."""

    owner: _Connection

    async def _check_protocol(self, event: h11.Request) -> None:
        """Do nothing: Hypercorn would switch to HTTP/2 here."""

    async def _create_stream(self, request: h11.Request) -> None:
        if _is_upgrade(request):
            self.owner.hand_back(_as_received(request) + self.connection.trailing_data[0])
            return
        self.owner.crumbs = 0
        refusal = _refusal(request)
        if refusal is not None:
            await self._refuse(request, *refusal)
        elif await self._admit(request):
            await super()._create_stream(request)
            if isinstance(self.stream, HTTPStream):
                # One read may hold ten thousand chunks, and the app takes each by itself.
                self.stream.app_put = partial(self._put_in_turn, self.stream.app_put)

    async def _put_in_turn(
        self, put: Callable[[ASGIReceiveEvent], Awaitable[None]], event: ASGIReceiveEvent
    ) -> None:
        if event["type"] == "http.request":
            await self.owner.wait_for_turn(len(event["body"]))
        await put(event)

    async def _admit(self, request: h11.Request) -> bool:
        """Whether to pass the request to the app; if not, it has been answered."""
        peer = self.client[0] if self.client else ""
        gate = self.owner.gate
        if gate is None:
            self.owner.address = peer
            return True
        try:
            self.owner.address = gate.admit(request, peer)
        except RequestRefusedError as refusal:
            headers = gate.sharing(request)
            if refusal.retry_after is None:
                await self._refuse(request, refusal.status, str(refusal), headers)
            else:
                await self._put_off(request, refusal, math.ceil(refusal.retry_after), headers)
            return False
        answer = gate.probe(request)
        if answer is None:
            return True
        self.owner.is_frugal = gate.is_frugal(self.owner.address)
        if not self.owner.is_frugal:
            # Before each answer, not before each read, which may hold many requests. Jitter:
            # requests that came together should not continue together.
            await trio.sleep(_LULL * random.uniform(0.5, 1.5))  # noqa: S311
            await self.owner.rounds.wait(overdrawn=True)
        self.connection.next_event()  # the end of the request, which has no body
        await self._answer(*answer, gate.sharing(request))
        await self.stream_send(StreamClosed(STREAM_ID))
        return False

    async def _put_off(
        self, request: h11.Request, refusal: RequestRefusedError, wait: int, headers: _Headers
    ) -> None:
        """Delay the client's next request by not reading it; a reconnect would cost more.

        Not used behind a proxy, where the next request may be another client's.
        """
        headers.append((b"retry-after", b"%d" % wait))
        if request.method == b"HEAD" or not self._is_whole():
            self.owner.hold()
            await self._refuse(request, refusal.status, str(refusal), headers)
            return
        await self._answer(refusal.status, detail(refusal), headers)
        if self.owner.gate is not None and self.owner.gate.holds:
            # Jitter: requests that came together should not continue together.
            with trio.move_on_after(min(wait, LINGER) * random.uniform(1, 1.25)):  # noqa: S311
                await self.context.terminated.wait()
            await self.owner.rounds.wait(overdrawn=True)
        await self.stream_send(StreamClosed(STREAM_ID))

    def _is_whole(self) -> bool:
        """Whether the whole request has arrived, in few chunks; if so, it is skipped."""
        try:
            for _ in range(_MOST_CRUMBS):
                event = self.connection.next_event()
                if not isinstance(event, h11.Data):
                    return isinstance(event, h11.EndOfMessage)
        except h11.RemoteProtocolError:
            pass
        return False

    async def _answer(self, status: HTTPStatus, body: bytes, headers: _Headers) -> None:
        head = [*_plain(b"application/json", body), *headers]
        head += self.config.response_headers("h11")
        if not self.config.keep_alive_max_requests:  # the server stops
            head.append((b"connection", b"close"))
        response = h11.Response(status_code=status, headers=head)
        events = (response, h11.Data(data=body), h11.EndOfMessage())
        await self.send(RawData(b"".join(self.connection.send(event) or b"" for event in events)))

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        if isinstance(event, h11.Response) and self.connection.their_state is h11.SEND_BODY:
            # Hypercorn will close the connection, because the body is incomplete. A client that is
            # not told so may send its next request into the void.
            headers = [*event.headers, (b"connection", b"close")]
            event = h11.Response(status_code=event.status_code, headers=headers)
        await super()._send_h11_event(event)

    async def _refuse(
        self,
        request: h11.Request,
        status: HTTPStatus,
        reason: str,
        more: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        if status in _OF_CALLS:  # as the app says it
            kind, body = b"application/json", detail(reason)
        else:
            kind, body = b"text/plain; charset=utf-8", f"{reason}\n".encode()
        headers = [
            *_plain(kind, body),
            (b"connection", b"close"),
            *more,
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status, headers=headers))
        if request.method != b"HEAD":
            await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())
        await self.send(Closed())


def _plain(kind: bytes, body: bytes) -> _Headers:
    return [
        (b"content-type", kind),
        (b"content-length", b"%d" % len(body)),
        (b"x-content-type-options", b"nosniff"),
    ]


def _is_upgrade(request: h11.Request) -> bool:
    # Everything that Hypercorn could take for a WebSocket must stop here.
    return any(
        name == b"upgrade" and b"websocket" in value.lower() for name, value in request.headers
    )


def _as_received(request: h11.Request) -> bytes:
    first = b" ".join((request.method, request.target, b"HTTP/" + request.http_version))
    return b"\r\n".join((first, *map(b": ".join, request.headers.raw_items()))) + b"\r\n\r\n"


def _refusal(request: h11.Request) -> tuple[HTTPStatus, str] | None:
    if not request.http_version.startswith(b"1."):
        return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "This server supports HTTP/1 only."
    if not _path(request.target).startswith(b"/"):  # Quart would fail on it
        return HTTPStatus.BAD_REQUEST, "The request target must have a path."
    return None


def _path(target: bytes) -> bytes:
    try:
        return urlsplit(target).path
    except ValueError:
        return b""
