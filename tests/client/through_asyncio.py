"""The asyncio client for Trio's tests: its calls are made in a thread that runs asyncio."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import trio

from trio_signal.cli.failing import first_of
from trio_signal.client import aio


class Loop:
    """An asyncio loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._trio = trio.lowlevel.current_trio_token()

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.close()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)

    def tell(self, work: Callable[[], object]) -> None:
        self._trio.run_sync_soon(work)

    async def do(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Run a coroutine in this loop, or in another if it ended; cancel it with the caller."""
        if self.loop.is_closed():
            return await trio.to_thread.run_sync(asyncio.run, work())
        ended, doing = trio.Event(), list[asyncio.Task[Any]]()

        def begin() -> None:
            doing.append(self.loop.create_task(work()))
            doing[0].add_done_callback(lambda _: self.tell(ended.set))

        self.loop.call_soon_threadsafe(begin)
        try:
            await ended.wait()
        except trio.Cancelled:
            self.loop.call_soon_threadsafe(lambda: doing[0].cancel())
            with trio.CancelScope(shield=True):
                await ended.wait()
            raise
        return doing[0].result()


class Through:
    """An asyncio client with the interface of Trio's."""

    def __init__(self, loop: Loop, client: aio.Client) -> None:
        self._loop, self._client = loop, client

    def __aiter__(self) -> "Through":
        return self

    async def __anext__(self) -> Any:
        return await self._loop.do(self._client.__anext__)

    @property
    def session(self) -> Any:
        """The client's session, whose `leave` is called in its own thread."""
        in_trio = self._client._trio
        session = in_trio.client.session

        def leave() -> Any:
            return self._loop.do(partial(in_trio.do, session.leave))

        return SimpleNamespace(leave=leave, stalled=session.stalled)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not inspect.iscoroutinefunction(found):
            return found
        return lambda *args, **options: self._loop.do(partial(found, *args, **options))


@asynccontextmanager
async def _open(url: str, options: dict[str, Any]) -> AsyncIterator[Any]:
    loop, clients, moved = Loop(), list[aio.Client](), trio.Event()
    over = asyncio.Event()

    async def hold() -> None:
        async with aio.open_client(url, **options) as client:
            clients.append(client)
            loop.tell(moved.set)
            await over.wait()

    async def run() -> None:
        await loop.do(hold)
        moved.set()

    async with trio.open_nursery() as threads:
        threads.start_soon(
            partial(trio.to_thread.run_sync, loop.run, limiter=trio.CapacityLimiter(1))
        )
        with ExitStack() as stopping:
            stopping.callback(loop.stop)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await moved.wait()
                yield Through(loop, clients[0])
                loop.loop.call_soon_threadsafe(over.set)


@asynccontextmanager
async def open_client(url: str, **options: Any) -> AsyncIterator[Any]:
    """Same as Trio's `open_client`."""
    try:
        async with _open(url, options) as client:
            yield client
    except BaseExceptionGroup as errors:
        raise first_of(errors) from None
