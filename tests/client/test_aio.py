"""The client for asyncio: the tests of Trio's, with the same events, and what is its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import trio

from tests.client import bots as bots_module
from tests.client import through_asyncio
from tests.client.bots import bots, heard
from tests.client.test_client import (  # noqa: F401  they run here once more
    test_a_server_that_is_not_there,
    test_a_server_that_speaks_something_else,
    test_a_target_that_is_not_there,
    test_alone_in_a_room,
    test_coming_going_and_live,
    test_signals_to_one_and_to_all,
    test_the_server_gives_an_id_and_a_name,
    test_those_who_are_there_are_told_as_if_they_came,
    test_what_was_said_last_arrives,
    test_who_is_not_let_in_is_told_why,
    test_who_waits_to_say_something_is_told_that_the_block_is_over,
)
from tests.clients import PATIENCE, Service
from tests.conftest import Serve
from trio_signal.client import Message, NotConnectedError, aio


@pytest.fixture(autouse=True)
def through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bots are clients of asyncio."""
    monkeypatch.setattr(bots_module, "open_client", through_asyncio.open_client)


@pytest.fixture
async def service(serve: Serve) -> AsyncIterator[Service]:
    async with serve() as service:
        yield service


async def test_iteration_cancelled_takes_no_event(service: Service) -> None:
    async def enter() -> None:
        url, seen = f"http://{service.base}", list[int]()
        async with (
            aio.open_client(url, room="r") as bob,
            aio.open_client(url, room="r") as ann,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(count(ann))
            while len(seen) < 100:
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.001):
                        event = await anext(bob)
                        if isinstance(event, Message):
                            seen.append(event.data)
        assert seen == list(range(100))

    async def count(client: aio.Client) -> None:
        for number in range(100):
            await client.send(number)

    with trio.fail_after(PATIENCE):
        await trio.to_thread.run_sync(asyncio.run, enter())


async def test_a_token_is_fetched_in_the_loop_of_the_block(service: Service) -> None:
    loops = list[asyncio.AbstractEventLoop]()

    async def fetch() -> str:
        await asyncio.sleep(0)
        loops.append(asyncio.get_running_loop())
        return "any"

    async def enter() -> None:
        async with aio.open_client(f"http://{service.base}", room="r", token=fetch):
            assert loops == [asyncio.get_running_loop()]

    with trio.fail_after(PATIENCE):
        await trio.to_thread.run_sync(asyncio.run, enter())


async def test_an_error_of_a_token_source_ends_the_block(service: Service) -> None:
    async def fetch() -> str:
        raise ZeroDivisionError

    async def enter() -> None:
        async with aio.open_client(f"http://{service.base}", room="r", token=fetch):
            raise AssertionError

    with trio.fail_after(PATIENCE), pytest.raises(ZeroDivisionError):
        await trio.to_thread.run_sync(asyncio.run, enter())


async def test_errors_of_the_block_and_behind_it(service: Service) -> None:
    async def enter() -> None:
        with pytest.raises(ZeroDivisionError) as raised:
            async with aio.open_client(f"http://{service.base}", room="r") as client:
                raise ZeroDivisionError
        assert raised.value.__cause__ is None
        for late in (client.send("x"), client.__anext__(), client.broadcast()):
            with pytest.raises(NotConnectedError, match="the client was closed"):
                await late

    with trio.fail_after(PATIENCE):
        await trio.to_thread.run_sync(asyncio.run, enter())


async def test_a_cancelled_block_says_no_goodbye(service: Service) -> None:
    async def enter() -> None:
        async with asyncio.timeout(0.2), aio.open_client(f"http://{service.base}", room="r"):
            await asyncio.sleep(1000)

    async with bots(service, "ann") as (ann,):
        with trio.fail_after(PATIENCE), pytest.raises(TimeoutError):
            await trio.to_thread.run_sync(asyncio.run, enter())
        told = [type(event).__name__ for event in await heard(ann, service)]
        assert told in ([], ["PeerJoined", "PeerLeft"])
