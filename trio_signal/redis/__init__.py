"""Redis for Trio: commands of many tasks over one connection, pub/sub over another.

    async with open_redis("redis://localhost") as redis:
        await redis.set("greeting", "hello")
        redis.pubsub.subscribe("news")
        while True:
            for event in await redis.pubsub.receive():
                ...

It knows nothing of rooms. docs/redis.md has its rules, and why.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial

import trio
from redis.exceptions import PubSubError, RedisError, ResponseError

from trio_signal.redis.address import parse_address
from trio_signal.redis.commands import Redis, Script, Statistics
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

    Raises ValueError for a wrong URL, ConfigurationError for a wrong password or
    a certificate that is not trusted, and NotConnectedError if the server cannot
    be reached; with `must_connect=False` the block then begins without a
    connection, with `Lost` as the first event. After that no outage raises here.

    `name` is how the server lists the connections. In a cluster all keys must be on one node, so
    they have one hash tag, and so has `key`, which finds that node. Times are seconds:
    `connect_timeout` for TCP, TLS and HELLO together, `command_timeout` for a
    reply, and `probe_interval` of silence before the server is asked for a sign
    of life. Limits are bytes: `send_limit` of what `send_nowait` takes,
    `receive_limit` of messages that nobody has received yet.
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
