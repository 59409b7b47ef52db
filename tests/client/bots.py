"""Clients of the package in rooms of the tests, and what they are told."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import trio
from msgspec.structs import replace

from tests.clients import PATIENCE, Service
from trio_signal.client import Client, Event, Pong, StateChanged, Timing, open_client

E = TypeVar("E")

#: What opens the clients: that of Trio, or that of asyncio, as the fixture `front` has it.
front: Callable[..., AbstractAsyncContextManager[Client]] = open_client

#: Nothing here is tested by being fast: a client that nobody disturbs complains of nothing.
PATIENT = Timing(
    connect=PATIENCE,
    heartbeat=1000,
    patience=1000,
    first_pause=0.01,
    longest_pause=0.05,
    slow_reader=PATIENCE,
    goodbye=PATIENCE,
)
#: Looks for a sign of life all the time.
WATCHFUL = replace(PATIENT, heartbeat=0.1, patience=1.0)


def enter(url: str, **options: Any) -> AbstractAsyncContextManager[Client]:
    """What `open_client` does, through the front that the test is run through."""
    return front(url, **options)


def bot(
    base: str, client_id: str | None, *, room: str = "r", **options: Any
) -> AbstractAsyncContextManager[Client]:
    """A client that is called after its id."""
    if client_id is not None:
        options = {"username": client_id.title(), **options}
    options = {"timing": PATIENT, **options}
    return enter(f"http://{base}", room=room, client_id=client_id, **options)


@asynccontextmanager
async def bots(service: Service, *client_ids: str) -> AsyncIterator[list[Client]]:
    """Clients that have entered one after the other, and have heard of each other."""
    async with AsyncExitStack() as stack:
        clients: list[Client] = []
        for client_id in client_ids:
            clients.append(await stack.enter_async_context(bot(service.base, client_id)))
            for client in clients:
                await heard(client, service)
        yield clients


async def receive(client: Client) -> Event:
    """The next event."""
    with trio.fail_after(PATIENCE):
        return await anext(client)


async def wait_for(client: Client, kind: type[E]) -> E:
    """The next event of a kind; others are passed over."""
    while True:
        event = await receive(client)
        if isinstance(event, kind):
            return event


async def wait_state(client: Client, state: str) -> StateChanged:
    while True:
        change = await wait_for(client, StateChanged)
        if change.state == state:
            return change


async def heard(client: Client, service: Service | None = None) -> list[Event]:
    """All events that the server had to tell up to now."""
    if service is not None:
        await service.quiesce()
    fence = object().__hash__()
    with trio.fail_after(PATIENCE):
        await client.ping(fence)
    events: list[Event] = []
    while (event := await receive(client)) != Pong(fence):
        events.append(event)
    return events


async def leave(client: Client) -> None:
    """Before the end of its block."""
    with trio.fail_after(PATIENCE):
        await client.session.leave()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that no event tells of."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


Sends = Callable[[Client], Awaitable[None]]
