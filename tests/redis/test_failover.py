"""The server at an address is no longer the right one: failovers, Sentinels, clusters."""

from functools import partial
from pathlib import Path

import pytest
import trio

from tests.clients import PATIENCE
from tests.redis.server import HOST, NOWHERE, RedisServer, free_port, open_proxy
from tests.redis.topologies import (
    TAGGED,
    follows,
    is_primary,
    open_pair,
    open_redis_cluster,
    open_sentinel,
    open_sentinel_with,
    until,
)
from trio_signal.redis import (
    ConfigurationError,
    Event,
    Message,
    NotConnectedError,
    OutcomeUnknownError,
    Redis,
    RedisError,
    open_redis,
)


async def writes(redis: Redis, server: RedisServer) -> bool:
    """Whether our writes arrive at that server, and it is the primary."""
    await redis.set(f"{TAGGED}proof", "here")
    return bool(await server.ask("GET", f"{TAGGED}proof") == b"here" and await is_primary(server))


async def hears(redis: Redis, server: RedisServer) -> None:
    """Wait until we receive what that server publishes."""
    with trio.fail_after(PATIENCE):
        while not await server.ask("PUBLISH", "news", "hello"):  # noqa: ASYNC110
            await trio.sleep(0.02)
        events: list[Event] = []
        while not any(isinstance(event, Message) for event in events):
            events = await redis.pubsub.receive()


async def test_a_demoted_primary_is_left_although_it_keeps_connections(tmp_path: Path) -> None:
    async with (
        open_pair(tmp_path) as (primary, replica),
        open_proxy(primary.port) as proxy,
        open_redis(proxy.url) as redis,
    ):
        redis.pubsub.subscribe("news")
        await redis.set("key", "value")
        # As with a managed service: the other is promoted, and the name resolves to it.
        await replica.ask("REPLICAOF", "NO", "ONE")
        await primary.ask("REPLICAOF", HOST, replica.port)
        proxy.target = replica.port
        with pytest.raises((RedisError, OutcomeUnknownError)):
            await redis.set("key", "refused: READONLY")
        await until(partial(writes, redis, replica))
        await hears(redis, replica)


async def test_a_replica_is_refused_as_the_primary(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (_, replica):
        with pytest.raises(NotConnectedError, match="is a replica"):
            async with open_redis(replica.url):
                pass


@pytest.mark.parametrize("end", ["killed", "asked", "frozen"])
async def test_sentinels_are_followed(tmp_path: Path, end: str) -> None:
    async with (
        open_pair(tmp_path) as (primary, replica),
        open_sentinel(tmp_path, primary) as sentinel,
    ):
        # The first Sentinel is down.
        url = f"redis+sentinel://{HOST}:{free_port()},{HOST}:{sentinel.port}/main"
        async with open_redis(url, command_timeout=0.5, probe_interval=0.2) as redis:
            redis.pubsub.subscribe("news")
            assert await writes(redis, primary)
            if end == "killed":
                await primary.kill()
            elif end == "asked":
                # It may know the replica, but not yet that it can be promoted.
                await until(partial(asked, sentinel, "SENTINEL", "FAILOVER", "main"))
            else:
                primary.freeze()
            await until(partial(writes, redis, replica))
            await hears(redis, replica)
            if end == "frozen":
                primary.thaw()


@pytest.mark.parametrize("primary_of_the_other", ["none", "dead"])
async def test_a_sentinel_that_was_set_up_anew_is_passed_over(
    tmp_path: Path, primary_of_the_other: str
) -> None:
    """It knows no primary yet, or one from an old configuration."""
    settings = f"sentinel monitor main {HOST} {free_port()} 2\n"
    if primary_of_the_other == "none":
        settings = ""
    async with (
        open_pair(tmp_path) as (primary, _),
        open_sentinel(tmp_path, primary) as sentinel,
        open_sentinel_with(tmp_path, settings) as other,
        open_proxy(sentinel.port) as proxy,
    ):
        place, its_place = f"{HOST}:{proxy.port}", f"{HOST}:{other.port}"
        for places in (f"{place},{its_place}", f"{its_place},{place}"):
            async with open_redis(f"redis+sentinel://{places}/main", must_connect=False) as redis:
                await until(partial(writes, redis, primary))
                # The Sentinel to which it listens restarts.
                proxy.target = NOWHERE
                for number in range(proxy.accepted):
                    proxy.cut(number)
                await trio.sleep(1.5)
                proxy.target = sentinel.port
                await until(partial(writes, redis, primary))


async def test_a_sentinel_is_refused_as_a_server(tmp_path: Path) -> None:
    async with (
        open_pair(tmp_path) as (primary, _),
        open_sentinel(tmp_path, primary) as sentinel,
    ):
        mended = rf"is a Sentinel: use redis\+sentinel://{HOST}:{sentinel.port}/main"
        with pytest.raises(ConfigurationError, match=mended):
            async with open_redis(sentinel.url):
                pass
        with pytest.raises(ConfigurationError, match="do not know 'other'"):
            async with open_redis(f"redis+sentinel://{HOST}:{sentinel.port}/other"):
                pass


async def test_a_cluster_is_used_with_one_hash_tag(tmp_path: Path) -> None:
    async with open_redis_cluster(tmp_path) as (owner, replica, other, _):
        with pytest.raises(ConfigurationError, match="hash tag"):
            async with open_redis(other.url, key="trio_signal:"):
                pass
        settings = {"key": TAGGED, "command_timeout": 0.5, "probe_interval": 0.2}
        async with open_redis(other.url, **settings) as redis:  # type: ignore[arg-type]
            redis.pubsub.subscribe("news")
            # A new cluster may report itself as down once more.
            await until(partial(writes, redis, owner))
            await hears(redis, owner)
            # The replica takes over while all are running: MOVED on an open connection.
            await until(lambda: asked(replica, "CLUSTER", "FAILOVER"))
            await until(partial(writes, redis, replica))
            await until(partial(follows, owner, replica))
            # Then its node and the seed both fail; other nodes of the cluster are known.
            await other.kill()
            await until(partial(asked, replica, "CLUSTER", "INFO"))
            await other.start()
            await replica.kill()
            await until(partial(writes, redis, owner))
            await hears(redis, owner)


async def asked(server: RedisServer, *command: str) -> bool:
    return bool(await server.ask(*command))
