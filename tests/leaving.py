"""The ways in which a connection ends. The others receive the same for each."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

import trio

from tests.raw import BINARY, RawClient, client_close, client_frame, client_text


async def _say_goodbye(client: RawClient) -> None:
    await client.send(client_close(1000))


async def _go_to_another_page(client: RawClient) -> None:
    await client.send(client_close(1001))


async def _vanish(client: RawClient) -> None:
    """TCP ends without a close frame, as when the browser is killed."""
    await client.stream.aclose()


async def _reset(client: RawClient) -> None:
    client.reset()


async def _fall_silent(client: RawClient) -> None:
    """No pong comes back: the network is gone, and TCP does not know."""


async def _send_binary(client: RawClient) -> None:
    await client.send(client_frame(BINARY, b"\0"))


async def _send_too_much(client: RawClient) -> None:
    with suppress(trio.BrokenResourceError):  # the server need not read all of it
        await client.send(client_text("x" * 200_000))


async def _send_nonsense(client: RawClient) -> None:
    with suppress(trio.BrokenResourceError):
        await client.send(client_text("nonsense") * 50)


class Way(NamedTuple):
    """One way to leave, the settings that it needs, and the cause that `mesh` reports."""

    leave: Callable[[RawClient], Awaitable[None]]
    settings: dict[str, float]
    cause: str


WAYS = {
    leave.__name__.lstrip("_"): Way(leave, {}, cause)
    for leave, cause in (
        (_say_goodbye, "closed"),
        (_go_to_another_page, "closed"),
        (_vanish, "lost"),
        (_reset, "lost"),
        (_send_binary, "error"),
        (_send_too_much, "error"),
        (_send_nonsense, "error"),
    )
}
# A client that will fall silent never answers a ping: the time is for all that comes before.
WAYS["fall_silent"] = Way(_fall_silent, {"heartbeat": 0.5, "heartbeat_timeout": 2}, "lost")
