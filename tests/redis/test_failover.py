"""The server at an address is not the right one any more: failovers, Sentinels, clusters."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.clients import PATIENCE
from tests.redis.server import HOST, RedisServer, free_port, open_proxy, open_redis_server
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

TAGGED = "{ts}:"


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what can only be polled; a command that is refused meanwhile is no answer."""
    with trio.fail_after(PATIENCE):
        while True:
            try:
                if await condition():
                    return
            except (RedisError, OSError, trio.BrokenResourceError):
                pass
            await trio.sleep(0.02)


async def is_primary(server: RedisServer) -> bool:
    return bool((await server.ask("ROLE"))[0] == b"master")


async def follows(replica: RedisServer, primary: RedisServer) -> bool:
    kind, _, port, state, *_ = await replica.ask("ROLE")
    return (kind, port, state) == (b"slave", primary.port, b"connected")


async def writes(redis: Redis, server: RedisServer) -> bool:
    """Whether what we write is at that server."""
    await redis.set(f"{TAGGED}proof", "here")
    return bool(await server.ask("GET", f"{TAGGED}proof") == b"here" and await is_primary(server))


async def hears(redis: Redis, server: RedisServer) -> None:
    """Wait until what that server publishes reaches us."""
    with trio.fail_after(PATIENCE):
        while not await server.ask("PUBLISH", "news", "hello"):  # noqa: ASYNC110
            await trio.sleep(0.02)
        events: list[Event] = []
        while not any(isinstance(event, Message) for event in events):
            events = await redis.pubsub.receive()


@asynccontextmanager
async def open_pair(directory: Path) -> AsyncIterator[tuple[RedisServer, RedisServer]]:
    """A primary, and its replica."""
    for name in ("a", "b"):
        (directory / name).mkdir()
    async with (
        open_redis_server(directory / "a", repl_diskless_sync_delay="0") as primary,
        open_redis_server(directory / "b", repl_diskless_sync_delay="0") as replica,
    ):
        await replica.ask("REPLICAOF", HOST, primary.port)
        await until(partial(follows, replica, primary))
        yield primary, replica


async def test_a_primary_that_is_demoted_is_left_though_it_cuts_nobody_off(tmp_path: Path) -> None:
    async with (
        open_pair(tmp_path) as (primary, replica),
        open_proxy(primary.port) as proxy,
        open_redis(proxy.url) as redis,
    ):
        redis.pubsub.subscribe("news")
        await redis.set("key", "value")
        # As a managed service does: the other is promoted, and the name leads to it.
        await replica.ask("REPLICAOF", "NO", "ONE")
        await primary.ask("REPLICAOF", HOST, replica.port)
        proxy.target = replica.port
        with pytest.raises((RedisError, OutcomeUnknownError)):
            await redis.set("key", "refused: READONLY")
        await until(partial(writes, redis, replica))
        await hears(redis, replica)


async def test_a_replica_is_not_taken_for_the_primary(tmp_path: Path) -> None:
    async with open_pair(tmp_path) as (_, replica):
        with pytest.raises(NotConnectedError, match="is a replica"):
            async with open_redis(replica.url):
                pass


@asynccontextmanager
async def open_sentinel(directory: Path, primary: RedisServer) -> AsyncIterator[RedisServer]:
    """One that watches `primary` as `main`, and is the majority by itself."""
    port = free_port()
    config = directory / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind {HOST}\ndir {directory}\n"
        f"sentinel monitor main {HOST} {primary.port} 1\n"
        "sentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 2000\n"
    )
    async with trio.open_nursery() as nursery:
        sentinel = RedisServer(nursery, directory, {})
        sentinel.port = port
        command = ["redis-server", str(config), "--sentinel"]
        nursery.start_soon(partial(trio.run_process, command, stdout=-3, check=False))

        async def knows_a_replica() -> bool:
            return bool(await sentinel.ask("SENTINEL", "REPLICAS", "main"))

        await until(knows_a_replica)
        yield sentinel
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("end", ["killed", "asked", "frozen"])
async def test_sentinels_are_followed(tmp_path: Path, end: str) -> None:
    async with (
        open_pair(tmp_path) as (primary, replica),
        open_sentinel(tmp_path, primary) as sentinel,
    ):
        # The first is one that is down.
        url = f"redis+sentinel://{HOST}:{free_port()},{HOST}:{sentinel.port}/main"
        async with open_redis(url, command_timeout=0.5, probe_interval=0.2) as redis:
            redis.pubsub.subscribe("news")
            assert await writes(redis, primary)
            if end == "killed":
                await primary.kill()
            elif end == "asked":
                await sentinel.ask("SENTINEL", "FAILOVER", "main")
            else:
                primary.freeze()
            await until(partial(writes, redis, replica))
            await hears(redis, replica)
            if end == "frozen":
                primary.thaw()


async def test_a_sentinel_is_not_taken_for_a_server(tmp_path: Path) -> None:
    async with (
        open_pair(tmp_path) as (primary, _),
        open_sentinel(tmp_path, primary) as sentinel,
    ):
        mended = rf"is a Sentinel: use redis\+sentinel://{HOST}:{sentinel.port}/main"
        with pytest.raises(ConfigurationError, match=mended):
            async with open_redis(sentinel.url):
                pass
        with pytest.raises(ConfigurationError, match="know no 'other'"):
            async with open_redis(f"redis+sentinel://{HOST}:{sentinel.port}/other"):
                pass


@asynccontextmanager
async def open_cluster(directory: Path) -> AsyncIterator[list[RedisServer]]:
    """Three nodes with a third of the slots each, and a replica for the keys with our tag."""
    options = {"cluster_enabled": "yes", "cluster_node_timeout": "1000"}
    async with AsyncExitStack() as stack:
        nodes: list[RedisServer] = []
        for number in range(4):
            place = directory / f"node{number}"
            place.mkdir()
            nodes.append(
                await stack.enter_async_context(
                    open_redis_server(place, repl_diskless_sync_delay="0", **options)
                )
            )
        *primaries, replica = nodes
        bounds = [0, 5461, 10923, 16384]
        for number, node in enumerate(primaries):
            await node.ask("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            await node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            await node.ask("CLUSTER", "MEET", HOST, nodes[0].port)
        slot: int = await nodes[0].ask("CLUSTER", "KEYSLOT", TAGGED)
        owner = primaries[sum(slot >= bound for bound in bounds[1:])]
        owner_id = await owner.ask("CLUSTER", "MYID")

        async def is_known() -> bool:
            listing: bytes = await replica.ask("CLUSTER", "NODES")
            return listing.count(b" connected") == 4 and b"handshake" not in listing

        async def is_up() -> bool:
            infos = [await node.ask("CLUSTER", "INFO") for node in nodes]
            return all(b"cluster_state:ok" in info for info in infos)

        await until(is_known)
        await replica.ask("CLUSTER", "REPLICATE", owner_id)
        await until(is_up)
        await until(partial(follows, replica, owner))
        others = [node for node in primaries if node is not owner]
        yield [owner, replica, *others]


async def test_a_cluster_is_used_by_one_hash_tag(tmp_path: Path) -> None:
    async with open_cluster(tmp_path) as (owner, replica, other, _):
        with pytest.raises(ConfigurationError, match="hash tag"):
            async with open_redis(other.url, key="trio_signal:"):
                pass
        settings = {"key": TAGGED, "command_timeout": 0.5, "probe_interval": 0.2}
        async with open_redis(other.url, **settings) as redis:  # type: ignore[arg-type]
            redis.pubsub.subscribe("news")
            assert await writes(redis, owner)
            await hears(redis, owner)
            # The replica takes over while all live: MOVED on an open connection.
            await until(lambda: asked(replica, "CLUSTER", "FAILOVER"))
            await until(partial(writes, redis, replica))
            await until(partial(follows, owner, replica))
            # Then its node dies, and the seed as well: others of the cluster are known.
            await other.kill()
            await until(partial(asked, replica, "CLUSTER", "INFO"))
            await other.start()
            await replica.kill()
            await until(partial(writes, redis, owner))
            await hears(redis, owner)


async def asked(server: RedisServer, *command: str) -> bool:
    return bool(await server.ask(*command))
