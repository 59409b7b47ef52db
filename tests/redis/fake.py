"""A server controlled by the test, for what a real Redis does not do on demand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hiredis
import trio

HELLO = b"%1\r\n+proto\r\n:3\r\n"


class FakeConnection:
    """The server's end of one connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._reader = hiredis.Reader()

    async def command(self) -> list[bytes]:
        """The next command of the client."""
        while (command := self._reader.gets()) is False:
            data = await self.stream.receive_some()
            assert data, "the client is gone"
            self._reader.feed(data)
        words: list[bytes] = command
        return words

    async def say(self, said: bytes) -> None:
        await self.stream.send_all(said)

    async def acknowledge(self, kind: bytes, channel: bytes) -> None:
        await self.say(b">3\r\n+%s\r\n+%s\r\n:1\r\n" % (kind, channel))

    async def publish(self, channel: bytes, payload: bytes) -> None:
        await self.say(b">3\r\n+message\r\n+%s\r\n+%s\r\n" % (channel, payload))

    def close(self) -> None:
        self.stream.socket.close()


class FakeRedis:
    """Answers HELLO as requested, and leaves the rest to the test."""

    def __init__(self, hello: bytes | None) -> None:
        self._hello = hello
        self._sender, self._receiver = trio.open_memory_channel[FakeConnection](10)
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def accept(self) -> FakeConnection:
        """The next connection, after HELLO."""
        return await self._receiver.receive()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, stream: trio.SocketStream) -> None:
        connection = FakeConnection(stream)
        if self._hello is not None:
            await connection.command()
            await connection.say(self._hello)
            if self._hello != HELLO:
                connection.close()
                return
            assert (await connection.command())[:2] == [b"CLIENT", b"SETNAME"]
            await connection.say(b"+OK\r\n")
            assert await connection.command() == [b"PING"]
            await connection.say(b"+PONG\r\n")
            self._sender.send_nowait(connection)
        await trio.sleep_forever()


@asynccontextmanager
async def open_fake(hello: bytes | None = HELLO) -> AsyncIterator[FakeRedis]:
    """A running one. With `hello=None` it accepts connections and never answers."""
    fake = FakeRedis(hello)
    async with trio.open_nursery() as nursery:
        await nursery.start(fake.run)
        yield fake
        nursery.cancel_scope.cancel()
