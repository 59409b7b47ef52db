"""The server: its parts, nested in the order in which they stop."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from uuid import uuid4

import trio

from trio_signal.auth import OpenAuth
from trio_signal.bus.memory import MemoryBus
from trio_signal.config import Settings
from trio_signal.errors import CloseCode
from trio_signal.hub import Hub
from trio_signal.listener import Listener
from trio_signal.messages import Close
from trio_signal.web.app import create_app
from trio_signal.web.server import open_http_server

logger = logging.getLogger(__name__)


@asynccontextmanager
async def open_server(settings: Settings) -> AsyncIterator[tuple[str, int]]:
    """Serve while the block runs; gives the address that it listens on.

    Leaving the block stops accepting, closes every peer with 1001, lets the
    rooms hear of it, and takes `settings.drain` seconds at most. A cancellation
    ends everything at once. Raises OSError if the port cannot be had.
    """
    bus = MemoryBus(uuid4().hex)
    hub = Hub(bus, max_room_peers=settings.max_room_peers, max_viewers=settings.max_viewers)
    async with trio.open_nursery() as bus_tasks:
        await bus_tasks.start(bus.run, hub.deliver)
        async with open_http_server(create_app(hub, settings)) as http:
            listener = Listener(hub, http, OpenAuth(), settings)
            async with trio.open_nursery() as connections:
                async with trio.open_nursery() as accepting:
                    listeners: list[trio.SocketListener] = await accepting.start(
                        partial(
                            trio.serve_tcp,
                            listener.serve,
                            settings.port,
                            host=settings.host,
                            handler_nursery=connections,
                        )
                    )
                    host, port, *_ = listeners[0].socket.getsockname()
                    yield host, port
                    accepting.cancel_scope.cancel()
                connections.cancel_scope.deadline = trio.current_time() + settings.drain
                listener.drain()
                http.drain()
                hub.close_all(Close(CloseCode.GOING_AWAY, "Server going away"))
        bus_tasks.cancel_scope.cancel()
