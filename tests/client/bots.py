"""Clients of the package in test rooms, and the events that they receive."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar

import trio
from msgspec.structs import replace

from tests.clients import PATIENCE, Service
from trio_signal.client import Client, Event, Pong, StateChanged, Timing, open_client

E = TypeVar("E")

#: The function that opens clients: Trio's or asyncio's, as the fixture `front` chooses.
front: Callable[..., AbstractAsyncContextManager[Client]] = open_client

#: No test depends on speed: an undisturbed client must not report faults.
PATIENT = Timing(
    connect=PATIENCE,
    heartbeat=1000,
    patience=1000,
    first_pause=0.01,
    longest_pause=0.05,
    slow_reader=PATIENCE,
    goodbye=PATIENCE,
)
#: Asks for a sign of life all the time.
WATCHFUL = replace(PATIENT, heartbeat=0.1, patience=1.0)


def enter(url: str, **options: Any) -> AbstractAsyncContextManager[Client]:
    """Call `open_client` of the front that the test uses."""
    return front(url, **options)


def bot(
    base: str, client_id: str | None, *, room: str = "r", **options: Any
) -> AbstractAsyncContextManager[Client]:
    """A client with a name derived from its id."""
    if client_id is not None:
        options = {"username": client_id.title(), **options}
    options = {"timing": PATIENT, **options}
    return enter(f"http://{base}", room=room, client_id=client_id, **options)


@asynccontextmanager
async def bots(service: Service, *client_ids: str) -> AsyncIterator[list[Client]]:
    """Clients that have entered one after the other, and know about each other."""
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
    """The next event of a kind; others are skipped."""
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
    """All events that the server has sent so far."""
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
    """Leave before the end of the block."""
    with trio.fail_after(PATIENCE):
        await client.session.leave()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that no event reports."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


Sends = Callable[[Client], Awaitable[None]]
