"""The same client for asyncio: Trio runs in a thread of its own.

    async with open_client("http://127.0.0.1:8000", room="lobby", username="Bot") as client:
        async for event in client:
            ...

Events, errors and methods are those of `trio_signal.client`.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial, wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, Self, TypeVar

import trio

from trio_signal.client import client as of_trio
from trio_signal.client.events import Event, Peer, State
from trio_signal.client.session import TokenSource
from trio_signal.messages.identity import MediaType

__all__ = ["Client", "open_client"]

P = ParamSpec("P")
T = TypeVar("T")


class _Done(NamedTuple):
    """The outcome of work in Trio's thread."""

    cancelled: bool
    value: Any = None
    error: Exception | None = None


class _Trio:
    """A Trio client in a thread beside an asyncio loop; create it in asyncio's thread."""

    def __init__(self, enter: Callable[[], Any]) -> None:
        """`enter` makes the async context that the thread enters: the client."""
        self._enter = enter
        self._loop = asyncio.get_running_loop()
        self._executor = ThreadPoolExecutor(1, "trio-signal")
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._aborted = False
        self._nursery: trio.Nursery
        self._waiting: set[asyncio.Future[_Done]] = set()
        self._running: asyncio.Future[None] | None = None
        self.client: of_trio.Client
        self.entered = self._loop.create_future()

    # In asyncio's thread

    async def run(self) -> None:
        """Run the thread until `leave`; raises what ends it. If cancelled, it skips the goodbye."""
        self._running = self._loop.run_in_executor(self._executor, trio.run, self._main)
        self._running.add_done_callback(self._ended)
        try:
            await asyncio.shield(self._running)
        except asyncio.CancelledError:
            self._aborted = True
            self._post(self._scope.cancel)
            with suppress(Exception):
                await self._running
            raise

    def _ended(self, _: object) -> None:
        for done in self._waiting:
            if not done.done():
                done.set_result(_Done(cancelled=True))
        self._executor.shutdown(wait=False)

    async def leave(self) -> None:
        """Close the client, and wait for the thread to end; `run` raises its errors."""
        self._post(self._over.set)
        if self._running is not None:
            await asyncio.wait({self._running})

    async def do(
        self, work: Callable[[], Awaitable[T]], keep: Callable[[T], object] = lambda _: None
    ) -> T:
        """Run an async function in Trio's thread, and return its result or raise its exception.

        If this is cancelled, the function is cancelled, and its end awaited. If it had a result
        already, `keep` receives that.
        """
        if self._running is None or self._running.done():
            raise self.client.session.why_ended()
        done: asyncio.Future[_Done] = self._loop.create_future()
        self._waiting.add(done)
        done.add_done_callback(self._waiting.discard)
        scope = trio.CancelScope()
        self._post(self._begin, work, scope, done)
        try:
            result = await asyncio.shield(done)
        except asyncio.CancelledError:
            self._post(scope.cancel)
            result = await done
            if not result.cancelled and result.error is None:
                keep(result.value)
            raise
        if result.cancelled:
            raise self.client.session.why_ended()
        if result.error is not None:
            raise result.error
        value: T = result.value
        return value

    def _post(self, work: Callable[..., object], *args: object) -> None:
        if self._token is not None:
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(work, *args)

    # In Trio's thread

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        if self._aborted:
            return
        with self._scope:
            async with self._enter() as self.client, trio.open_nursery() as self._nursery:
                self._tell(self.entered.set_result, None)
                await self._over.wait()
                self._nursery.cancel_scope.cancel()

    def _begin(
        self, work: Callable[[], Awaitable[T]], scope: trio.CancelScope, done: asyncio.Future[_Done]
    ) -> None:
        try:
            self._nursery.start_soon(self._run, work, scope, done)
        except RuntimeError:  # the block has ended
            self._tell(_resolve, done, _Done(cancelled=True))

    async def _run(
        self, work: Callable[[], Awaitable[T]], scope: trio.CancelScope, done: asyncio.Future[_Done]
    ) -> None:
        result = _Done(cancelled=True)
        with scope:
            try:
                result = _Done(cancelled=False, value=await work())
            except Exception as error:
                result = _Done(cancelled=False, error=error)
        self._tell(_resolve, done, result)

    def _tell(self, work: Callable[..., object], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(work, *args)

    async def fetch(self, source: TokenSource) -> str:
        """Call an asyncio token source."""
        fetched = trio.Event()
        coroutine: Any = source()
        fetching = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        fetching.add_done_callback(lambda _: self._post(fetched.set))
        try:
            await fetched.wait()
        except trio.Cancelled:
            fetching.cancel()
            raise
        token: str = fetching.result()
        return token


def _resolve(done: asyncio.Future[_Done], result: _Done) -> None:
    if not done.done():
        done.set_result(result)


def _front(
    method: Callable[Concatenate[of_trio.Client, P], Awaitable[T]],
) -> Callable[Concatenate["Client", P], Coroutine[Any, Any, T]]:
    """Make the asyncio version of a method."""

    @wraps(method)
    async def call(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._trio.do(partial(method, self._trio.client, *args, **kwargs))

    return call


class Client:
    """A client in one room, for asyncio; see `trio_signal.client.Client`. Made by `open_client`.

    A cancelled call may have sent its message.
    """

    def __init__(self, in_trio: _Trio) -> None:
        """Use a client in its thread."""
        self._trio = in_trio
        #: Events that cancelled iterations had already taken.
        self._kept = deque[Event]()

    @property
    def id(self) -> str:
        """The client's id. It never changes."""
        return self._trio.client.id

    @property
    def user_id(self) -> str:
        """The user id that the server gave this client."""
        return self._trio.client.user_id

    @property
    def username(self) -> str:
        """The name that others see."""
        return self._trio.client.username

    @property
    def state(self) -> State:
        """`joined` while the client is in the room, else `waiting`."""
        return self._trio.client.state

    @property
    def peers(self) -> Mapping[str, Peer]:
        """The other peers in the room, by id: the latest state, which events may lag behind."""
        return self._trio.client.session.view.peers.copy()

    @property
    def live(self) -> Mapping[str, Peer]:
        """Those peers that are live."""
        return {id_: peer for id_, peer in self.peers.items() if peer.live}

    @property
    def broadcasting(self) -> MediaType | None:
        """The media type of this client's own broadcast, or None."""
        return self._trio.client.broadcasting

    @property
    def ice_servers(self) -> tuple[Mapping[str, object], ...]:
        """STUN and TURN servers for a peer connection, as the server last listed them."""
        return self._trio.client.ice_servers

    def __aiter__(self) -> Self:
        """Iterate over the events."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event. If cancelled, no event is lost."""
        if self._kept:
            return self._kept.popleft()
        return await self._trio.do(self._trio.client.__anext__, self._kept.append)

    offer = _front(of_trio.Client.offer)
    answer = _front(of_trio.Client.answer)
    candidate = _front(of_trio.Client.candidate)
    send = _front(of_trio.Client.send)
    broadcast = _front(of_trio.Client.broadcast)
    stop_broadcast = _front(of_trio.Client.stop_broadcast)
    kick = _front(of_trio.Client.kick)
    ping = _front(of_trio.Client.ping)
    renew = _front(of_trio.Client.renew)


@asynccontextmanager
async def open_client(
    url: str, *, room: str, token: str | TokenSource | None = None, **options: Any
) -> AsyncIterator[Client]:
    """Join a room, and leave it at the end of the block.

    Like `trio_signal.client.open_client`, with the same options; a function that fetches tokens is
    an asyncio function. Exceptions of the block are raised unchanged.
    """

    def enter() -> Any:
        source = partial(in_trio.fetch, token) if callable(token) else token
        return of_trio.open_client(url, room=room, token=source, **options)

    in_trio = _Trio(enter)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(in_trio.run())
            await in_trio.entered
            yield Client(in_trio)
            await in_trio.leave()
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) != 1:
            raise
        of_trio.raise_as_it_was(errors.exceptions[0])
