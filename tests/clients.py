"""WebSocket clients for the tests: real sockets, trio-websocket.

Nothing here sleeps. To show that a client receives nothing, a test makes a round trip: the
server answers a WebSocket ping after everything it had to send before.
"""

import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from typing import Any, NoReturn

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, connect_websocket_url
from wsproto.connection import ConnectionState
from wsproto.events import Ping

#: Seconds that any single wait in a test may take. Most take milliseconds, but a slow or busy
#: machine may need more, and no test checks anything by timing out.
PATIENCE = 30.0

Message = dict[str, Any]
Quiesce = Callable[[], Awaitable[None]]


async def _answer_ping(connection: WebSocketConnection, ping: Ping) -> None:
    """trio-websocket 0.12 fails on a ping that arrives after it has begun to close."""
    if connection._wsproto.state is ConnectionState.OPEN:
        await connection._send(ping.response())


WebSocketConnection._handle_ping_event = _answer_ping  # type: ignore[assignment]


class Client:
    """One WebSocket; `log` keeps everything received."""

    def __init__(
        self, socket: WebSocketConnection, quiesce: Quiesce = trio.lowlevel.checkpoint
    ) -> None:
        self.socket = socket
        #: Waits until the replicas have exchanged all that they know.
        self.quiesce = quiesce
        self.log: list[Message] = []

    async def send(self, type_: str, **fields: Any) -> None:
        """Send a message; a trailing underscore is dropped, so `to_` is sent as `to`."""
        await self.send_json({"type": type_, **{k.rstrip("_"): v for k, v in fields.items()}})

    async def send_json(self, message: Any) -> None:
        await self.send_text(json.dumps(message))

    async def send_text(self, text: str | bytes) -> None:
        with trio.fail_after(PATIENCE):
            await self.socket.send_message(text)

    async def receive_text(self) -> str:
        with trio.fail_after(PATIENCE):
            text = await self.socket.get_message()
        assert isinstance(text, str)
        return text

    async def receive(self) -> Message:
        """The next message; skips the `ping` texts that a test of half a minute receives."""
        text = "ping"
        while text == "ping":
            text = await self.receive_text()
        return self._read(text)

    def _read(self, text: str) -> Message:
        message = json.loads(text)
        assert isinstance(message, dict)
        assert isinstance(message["type"], str)
        self.log.append(message)
        return message

    async def expect(self, type_: str, **fields: Any) -> Message:
        """The next message, which must be of this type and have these fields."""
        message = await self.receive()
        assert message["type"] == type_, message
        for name, value in fields.items():
            assert message[name.rstrip("_")] == value, message
        return message

    async def wait_for(self, type_: str, **fields: Any) -> Message:
        """The next message of this type with these fields; others are skipped."""
        while True:
            message = await self.receive()
            if message["type"] == type_ and all(
                message.get(name.rstrip("_")) == value for name, value in fields.items()
            ):
                return message

    async def settle(self) -> list[Message]:
        """Everything that the server had to send to this client up to now."""
        with trio.fail_after(PATIENCE):
            await self.quiesce()
            await self.socket.ping()
        messages = []
        while self.socket._recv_channel.statistics().current_buffer_used:
            text = await self.receive_text()
            if text != "ping":
                messages.append(self._read(text))
        return messages

    async def expect_nothing(self) -> None:
        """The server has sent nothing that the client has not received."""
        assert await self.settle() == []

    async def expect_close(self, code: int, reason: str | None = None) -> list[Message]:
        """The server closes; return the messages that it sends before that."""
        messages: list[Message] = []
        with pytest.raises(ConnectionClosed) as closed:
            await self._receive_all(messages)
        ended = closed.value.reason
        assert ended is not None, "closed without a close frame"
        assert ended.code == code, ended
        if reason is not None:
            assert ended.reason == reason, ended
        return messages

    async def _receive_all(self, messages: list[Message]) -> NoReturn:
        while True:
            messages.append(await self.receive())

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """A closing handshake started by the client."""
        with trio.fail_after(PATIENCE):
            await self.socket.aclose(code, reason)

    async def vanish(self) -> None:
        """A client that is killed: no close frame; its kernel ends the TCP connection.

        Returns when the server has ended its side too; by then the rooms know.
        """
        with trio.fail_after(PATIENCE):
            try:
                await self.socket._stream.send_eof()  # type: ignore[attr-defined]
                while True:
                    await self.socket.get_message()
            except (trio.BrokenResourceError, trio.ClosedResourceError, ConnectionClosed):
                await self.socket._stream.aclose()

    def reset(self) -> None:
        """Reset the TCP connection; does not block, and does not know when the server sees it."""
        transport = self.socket._stream.socket  # type: ignore[attr-defined]
        with suppress(OSError):  # the server may have been faster
            linger = struct.pack("ii", 1, 0)
            transport.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.close()


async def open_client(nursery: trio.Nursery, base: str, path: str) -> Client:
    """A client that lives in `nursery`, for callers that cannot nest; close it by hand."""
    with trio.fail_after(PATIENCE):
        url = f"ws://{base}{path}"
        return Client(await connect_websocket_url(nursery, url, message_queue_size=100_000))


async def settle(*clients: Client) -> None:
    """Wait until the server has done everything that these clients asked for so far."""
    for client in clients:
        with trio.fail_after(PATIENCE):
            await client.socket.ping()
            await client.quiesce()


@asynccontextmanager
async def connect(
    base: str,
    path: str,
    *,
    headers: Sequence[tuple[str, str]] = (),
    subprotocols: Sequence[str] = (),
    quiesce: Quiesce = trio.lowlevel.checkpoint,
) -> AsyncIterator[Client]:
    """A client of the server at `base` (`127.0.0.1:8000`), which is closed when the block ends."""
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            socket = await connect_websocket_url(
                nursery,
                f"ws://{base}{path}",
                subprotocols=subprotocols,
                extra_headers=[(k.encode(), v.encode()) for k, v in headers],
                message_queue_size=100_000,
            )
        # Left open if the server closed first, or if the test fails.
        with closing(socket._stream.socket):  # type: ignore[attr-defined]
            yield Client(socket, quiesce)
            with trio.move_on_after(PATIENCE):
                await socket.aclose()
        nursery.cancel_scope.cancel()


class Service:
    """The running server, with one or more replicas."""

    def __init__(self, *bases: str, quiesce: Quiesce = trio.lowlevel.checkpoint) -> None:
        self.bases = bases
        self.quiesce = quiesce
        self._next = 0

    @property
    def base(self) -> str:
        """Host and port, of each replica in turn."""
        self._next += 1
        return self.bases[self._next % len(self.bases)]

    def connect(
        self,
        path: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        subprotocols: Sequence[str] = (),
    ) -> AbstractAsyncContextManager[Client]:
        return connect(
            self.base, path, headers=headers, subprotocols=subprotocols, quiesce=self.quiesce
        )
