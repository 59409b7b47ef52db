"""What only the asyncio client has; conftest.py also runs Trio's tests with it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import trio

from tests.client.bots import bots, heard
from tests.clients import PATIENCE, Service
from tests.conftest import Serve
from trio_signal.client import Message, NotConnectedError, aio


@pytest.fixture
async def service(serve: Serve) -> AsyncIterator[Service]:
    async with serve() as service:
        yield service


async def test_a_cancelled_iteration_takes_no_event(service: Service) -> None:
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


async def test_errors_in_the_block_are_raised_and_later_calls_fail(service: Service) -> None:
    cause = ValueError("the cause")

    async def enter() -> None:
        with pytest.raises(ZeroDivisionError) as raised:
            async with aio.open_client(f"http://{service.base}", room="r") as client:
                raise ZeroDivisionError from cause
        assert raised.value.__cause__ is cause
        with pytest.raises(ExceptionGroup) as group:
            async with aio.open_client(f"http://{service.base}", room="r"):
                raise ExceptionGroup("of the user", [KeyError(1), ValueError(2)]) from cause
        assert group.value.message == "of the user"
        assert group.value.__cause__ is cause
        for late in (client.send("x"), client.__anext__(), client.broadcast()):
            with pytest.raises(NotConnectedError, match="the client was closed"):
                await late

    with trio.fail_after(PATIENCE):
        await trio.to_thread.run_sync(asyncio.run, enter())


async def test_a_cancelled_block_ends_at_once(service: Service) -> None:
    async def enter() -> None:
        async with asyncio.timeout(0.2), aio.open_client(f"http://{service.base}", room="r"):
            await asyncio.sleep(1000)

    async with bots(service, "ann") as (ann,):
        with trio.fail_after(PATIENCE), pytest.raises(TimeoutError):
            await trio.to_thread.run_sync(asyncio.run, enter())
        told = [type(event).__name__ for event in await heard(ann, service)]
        assert told in ([], ["PeerJoined", "PeerLeft"])
