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
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from typing import cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import (
    ASGIFramework,
    ConnectionState,
)
from quart_trio import QuartTrio

from trio_signal.rounds import Rounds
from trio_signal.web.answering import CONNECTION, Answering
from trio_signal.web.gate import Gate
from trio_signal.web.http1 import PlainHTTP
from trio_signal.web.unsent import Answer, Unsent

logger = logging.getLogger("trio_signal.web")

#: Seconds to wait for the client to close after this side has.
LINGER = 2.0
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
        wrapper.protocol = PlainHTTP(
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
