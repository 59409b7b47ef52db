"""Redis for Trio: commands of many tasks over one connection, pub/sub over another.

    async with open_redis("redis://localhost") as redis:
        await redis.set("greeting", "hello")
        redis.pubsub.subscribe("news")
        while True:
            for event in await redis.pubsub.receive():
                ...

The package knows nothing of rooms. docs/redis.md explains its rules.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial

import trio
from redis.exceptions import PubSubError, RedisError, ResponseError

from trio_signal.redis.address import parse_address
from trio_signal.redis.commands import OnReply, Redis, Script, Statistics
from trio_signal.redis.connection import (
    Argument,
    ConfigurationError,
    NotConnectedError,
    OutcomeUnknownError,
    Timing,
)
from trio_signal.redis.link import LinkStatistics
from trio_signal.redis.locating import Locator
from trio_signal.redis.pubsub import Event, Lost, Message, Overflow, PubSub, Resumed
from trio_signal.redis.reading import Reader, read_text
from trio_signal.supervision import supervise

__all__ = [
    "Argument",
    "ConfigurationError",
    "Event",
    "LinkStatistics",
    "Lost",
    "Message",
    "NotConnectedError",
    "OnReply",
    "OutcomeUnknownError",
    "Overflow",
    "PubSub",
    "PubSubError",
    "Reader",
    "Redis",
    "RedisError",
    "ResponseError",
    "Resumed",
    "Script",
    "Statistics",
    "open_redis",
    "read_text",
]


@asynccontextmanager
async def open_redis(
    url: str,
    *,
    ca_file: str | None = None,
    name: str = "trio",
    key: str = "",
    must_connect: bool = True,
    connect_timeout: float = 5.0,
    command_timeout: float = 2.0,
    probe_interval: float = 1.0,
    send_limit: int = 8 * 2**20,
    receive_limit: int = 32 * 2**20,
) -> AsyncIterator[Redis]:
    """Connect, and stay connected until the block ends. Uses two connections.

    Raises ValueError for an invalid URL, ConfigurationError for a wrong password or an untrusted
    certificate, and NotConnectedError if the server cannot be reached. With `must_connect=False`
    the block then begins without a connection, and `Lost` is the first event. Later outages raise
    nothing here.

    `name` is shown in the server's list of connections. In a cluster, all keys must have the same
    hash tag, so that one node has them; `key` is any key with this tag. Times are in seconds:
    `connect_timeout` for TCP, TLS and HELLO together, `command_timeout` for a
    reply, and `probe_interval` of silence before a PING. Limits are in bytes: `send_limit` for
    commands of `send_nowait`, `receive_limit` for messages waiting to be received.
    """
    locator = Locator(parse_address(url, ca_file=ca_file), key)
    timing = Timing(connect_timeout, command_timeout, probe_interval)
    redis = Redis(
        locator,
        name,
        timing,
        send_limit=send_limit,
        receive_limit=receive_limit,
    )
    links = (redis.link, redis.pubsub.link)
    with closing(redis.link), closing(redis.pubsub.link):
        try:
            for link in links:
                await link.open()
        except NotConnectedError:
            if must_connect:
                raise
            redis.note_outage()
        async with trio.open_nursery() as nursery:
            for link in links:
                nursery.start_soon(supervise, "a connection to Redis", link.run, link.give_up)
            if locator.has_sentinels:
                nursery.start_soon(
                    supervise,
                    "listening to the Sentinels",
                    partial(locator.watch, f"{name}-sentinel", timing, redis.reconnect),
                )
            yield redis
            nursery.cancel_scope.cancel()
