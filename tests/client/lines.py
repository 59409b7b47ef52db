"""A line between a client and its server, and servers that misbehave."""

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from tests.clients import PATIENCE

HOST = "127.0.0.1"
Handler = Callable[[trio.SocketStream], Awaitable[None]]


class Line:
    """Carries bytes between clients and a server, until the test changes that."""

    def __init__(self, target: str, context: ssl.SSLContext | None = None) -> None:
        self.target = target
        self._context = context
        self._plugged = trio.Event()
        self._plugged.set()
        self._streams: set[trio.SocketStream] = set()
        self._down = False
        #: The number of connections that came in.
        self.connects = 0
        #: The number of bytes carried, both ways; and the source address for the server.
        self.carried = 0
        self.source: str | None = None
        self.base = ""

    def pull(self) -> None:
        """Carry nothing any more. Connections stay open, and no side is notified."""
        self._plugged = trio.Event()

    def plug(self) -> None:
        """Carry again, including what was sent meanwhile."""
        self._plugged.set()

    def cut(self) -> None:
        """End all connections without a close frame."""
        for stream in self._streams:
            stream.socket.close()

    def break_down(self) -> None:
        """End all connections, and close new ones at once."""
        self._down = True
        self.cut()

    def mend(self) -> None:
        """Accept connections again."""
        self._down = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        self.base = f"{HOST}:{listeners[0].socket.getsockname()[1]}"
        task_status.started()
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, client: trio.SocketStream) -> None:
        self.connects += 1
        with closing(client.socket), suppress(OSError, trio.BrokenResourceError):
            if self._down:
                return
            await self._plugged.wait()
            host, _, port = self.target.rpartition(":")
            server = await trio.open_tcp_stream(host, int(port), local_address=self.source)
            with closing(server.socket):
                await self._connect(client, server)

    async def _connect(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        outer: trio.abc.Stream = client
        if self._context is not None:
            tls = trio.SSLStream(client, self._context, server_side=True, https_compatible=True)
            await tls.do_handshake()
            outer = tls
        self._streams |= {client, server}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry, outer, server)
            nursery.start_soon(self._carry, server, outer)
        self._streams -= {client, server}

    async def _carry(self, source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(65536):
                await self._plugged.wait()
                await sink.send_all(data)
                self.carried += len(data)
            if isinstance(sink, trio.SocketStream):
                await sink.send_eof()
                return
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await sink.aclose()


@asynccontextmanager
async def open_line(target: str, context: ssl.SSLContext | None = None) -> AsyncIterator[Line]:
    """A line to `target`, host and port."""
    line = Line(target, context)
    async with trio.open_nursery() as nursery:
        await nursery.start(line.run)
        yield line
        line.cut()
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def listen(handler: Handler) -> AsyncIterator[str]:
    """A server with this handler for each connection; its host and port."""

    async def serve(stream: trio.SocketStream) -> None:
        with closing(stream.socket), suppress(trio.BrokenResourceError):
            await handler(stream)

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield f"{HOST}:{listeners[0].socket.getsockname()[1]}"
        nursery.cancel_scope.cancel()


class Visit:
    """The server's end of one connection, which the test controls."""

    def __init__(self, websocket: WebSocketConnection) -> None:
        self.websocket = websocket
        self.hello: dict[str, Any] = {}
        self._done = trio.Event()

    async def say(self, type_: str, **fields: Any) -> None:
        await self.websocket.send_message(json.dumps({"type": type_, **fields}))

    async def hear(self) -> dict[str, Any]:
        """The next message, without pings that only confirm messages."""
        with trio.fail_after(PATIENCE):
            while True:
                message = json.loads(await self.websocket.get_message())
                assert isinstance(message, dict)
                if message["type"] != "ping" or message.get("id") is not None:
                    return message

    async def greet(self, session: str | None = None) -> None:
        """Send everything up to the snapshot, with an empty room; a resumption is refused."""
        await self.say("auth_required", message="")
        self.hello = await self.hear()
        assert self.hello["type"] == "auth_token"
        if self.hello["session"] is not None:
            await self.say("not_resumed", reason="unknown")
        await self.say(
            "auth_success",
            user=self.hello.get("username") or "Guest",
            client_id=self.hello.get("clientId") or "made",
            message="",
            user_id="u",
            room_id="r",
            ice_servers=[],
            heartbeat=20.0,
            protocol=1,
            **({"session": {"id": session, "grace": 15.0}} if session else {}),
        )
        await self.say("users_in_room", users=[])
        assert (await self.hear())["id"] == "entered"
        await self.say("pong", id="entered")

    async def resume(self) -> None:
        """Resume the client's session, but do not send the pong that ends the handshake."""
        await self.say("auth_required", message="")
        self.hello = await self.hear()
        await self.say("resumed", received=0, replayed=0)
        assert (await self.hear())["id"] == "entered"

    async def close(self, code: int, reason: str = "") -> None:
        with trio.fail_after(PATIENCE):
            await self.websocket.aclose(code, reason)
        self._done.set()

    async def cut(self) -> None:
        """End the connection without a close frame."""
        await trio.aclose_forcefully(self.websocket._stream)
        self._done.set()

    def done(self) -> None:
        """Let the client decide how the connection ends."""
        self._done.set()

    async def wait(self) -> None:
        await self._done.wait()


class FakeServer:
    """Admits every client, and leaves the rest to the test."""

    def __init__(self) -> None:
        self._sender, self._visits = trio.open_memory_channel[Visit](100)
        self.base = ""
        self.tokens: list[str | None] = []
        #: The session by which the next client may resume; None as with an old server.
        self.session: str | None = None
        #: Whether the next clients resume their session.
        self.resumes = False
        #: The reason for refusing clients, if any, and the hellos of the refused ones.
        self.refusal = ""
        self.refused: list[dict[str, Any]] = []

    async def accept(self) -> Visit:
        """The next client that has joined the room."""
        with trio.fail_after(PATIENCE):
            return await self._visits.receive()

    async def serve(self, request: WebSocketRequest) -> None:
        visit = Visit(await request.accept())
        with suppress(ConnectionClosed):
            if self.refusal:
                await visit.say("auth_required", message="")
                self.refused.append(await visit.hear())
                await visit.close(1008, self.refusal)
                return
            await (visit.resume() if self.resumes else visit.greet(self.session))
            self.tokens.append(visit.hello["token"])
            self._sender.send_nowait(visit)
            await visit.wait()


@asynccontextmanager
async def open_fake() -> AsyncIterator[FakeServer]:
    """A running fake server."""
    fake = FakeServer()
    with fake._sender, fake._visits:
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                partial(serve_websocket, fake.serve, HOST, 0, ssl_context=None)
            )
            fake.base = f"{HOST}:{server.port}"
            yield fake
            nursery.cancel_scope.cancel()
