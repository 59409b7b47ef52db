"""Connections between a replica and Redis that can be cut, stalled, or slow in one direction."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress

import trio

from tests.redis.server import HOST


class Wire:
    """Carries bytes between its clients and a server."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._plugged = trio.Event()
        self._plugged.set()
        self._clients: set[trio.SocketStream] = set()
        #: The delay in seconds towards the server, and back.
        self._late = {True: 0.0, False: 0.0}
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def pull(self) -> None:
        """Carry nothing any more; connections stay open, and new ones are accepted."""
        self._plugged = trio.Event()

    def plug(self) -> None:
        """Carry again, including what was sent meanwhile, as TCP does."""
        self._plugged.set()

    @contextmanager
    def delayed(self, seconds: float, *, up: bool) -> Iterator[None]:
        """Delay one direction, towards the server or back, while the block runs."""
        self._late[up] = seconds
        yield
        self._late[up] = 0.0

    def cut(self) -> None:
        """Close the clients' sides; what they have sent still reaches the server."""
        for client in list(self._clients):
            client.socket.close()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, client: trio.SocketStream) -> None:
        await self._plugged.wait()
        try:
            server = await trio.open_tcp_stream(HOST, self._target)
        except OSError:
            client.socket.close()
            return
        self._clients.add(client)
        with closing(client.socket), closing(server.socket):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, client, server, True)
                nursery.start_soon(self._carry, server, client, False)
        self._clients.discard(client)

    async def _carry(self, source: trio.SocketStream, sink: trio.SocketStream, up: bool) -> None:
        """Carry one direction; it ends on its own, so that earlier data still arrive."""
        send, receive = trio.open_memory_channel[tuple[float, bytes]](1000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver, receive, sink)
            async with send:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    while data := await source.receive_some():
                        await self._plugged.wait()
                        await send.send((trio.current_time() + self._late[up], data))

    async def _deliver(
        self, receive: trio.MemoryReceiveChannel[tuple[float, bytes]], sink: trio.SocketStream
    ) -> None:
        async with receive:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                async for at, data in receive:
                    await trio.sleep_until(at)
                    await self._plugged.wait()
                    await sink.send_all(data)
                await sink.send_eof()


@asynccontextmanager
async def open_wire(target: int) -> AsyncIterator[Wire]:
    """A running wire."""
    wire = Wire(target)
    async with trio.open_nursery() as nursery:
        await nursery.start(wire.run)
        yield wire
        nursery.cancel_scope.cancel()
