"""Redis servers that work together: a primary and its replica, a Sentinel, a cluster."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import hiredis
import trio

from tests.clients import PATIENCE
from tests.redis.server import HOST, RedisServer, free_port, open_redis_server
from trio_signal.redis import RedisError

#: Puts all keys on one node of a cluster.
TAGGED = "{ts}:"


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait, by polling; a command that is refused meanwhile counts as not yet."""
    # A Sentinel that got no CPU time for a while does nothing for half a minute (TILT).
    with trio.fail_after(3 * PATIENCE):
        while True:
            try:
                if await condition():
                    return
            except (RedisError, hiredis.ReplyError, OSError, trio.BrokenResourceError):
                pass
            await trio.sleep(0.02)


async def is_primary(server: RedisServer) -> bool:
    return bool((await server.ask("ROLE"))[0] == b"master")


async def follows(replica: RedisServer, primary: RedisServer) -> bool:
    kind, _, port, state, *_ = await replica.ask("ROLE")
    return (kind, port, state) == (b"slave", primary.port, b"connected")


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


@asynccontextmanager
async def open_sentinel(directory: Path, primary: RedisServer) -> AsyncIterator[RedisServer]:
    """A Sentinel that watches `primary` as `main`, and needs no other for a majority."""
    async with open_sentinel_with(
        directory,
        f"sentinel monitor main {HOST} {primary.port} 1\n"
        "sentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 2000\n",
    ) as sentinel:

        async def knows_a_replica() -> bool:
            return bool(await sentinel.ask("SENTINEL", "REPLICAS", "main"))

        await until(knows_a_replica)
        yield sentinel


@asynccontextmanager
async def open_sentinel_with(directory: Path, settings: str) -> AsyncIterator[RedisServer]:
    """A Sentinel with these settings."""
    port = free_port()
    config = directory / f"sentinel-{port}.conf"
    config.write_text(f"port {port}\nbind {HOST}\ndir {directory}\n{settings}")
    async with trio.open_nursery() as nursery:
        sentinel = RedisServer(nursery, directory, {})
        sentinel.port = port
        command = ["redis-server", str(config), "--sentinel"]
        nursery.start_soon(partial(trio.run_process, command, stdout=-3, check=False))

        async def answers() -> bool:
            return bool(await sentinel.ask("PING"))

        await until(answers)
        yield sentinel
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_redis_cluster(directory: Path) -> AsyncIterator[list[RedisServer]]:
    """Three nodes with a third of the slots each, and a replica for the node with our tag."""
    options = {"cluster_enabled": "yes", "cluster_node_timeout": "1000"}
    async with AsyncExitStack() as stack:
        nodes: list[RedisServer] = []
        for number in range(4):
            place = directory / f"node{number}"
            place.mkdir()
            nodes.append(
                await stack.enter_async_context(
                    open_redis_server(
                        place,
                        repl_diskless_sync_delay="0",
                        # Not 10,000 above the other, which may be a port for outgoing connections.
                        cluster_port=str(free_port()),
                        **options,
                    )
                )
            )
        *primaries, replica = nodes
        bounds = [0, 5461, 10923, 16384]
        for number, node in enumerate(primaries):
            await node.ask("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            await node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in nodes[1:]:
            await node.ask("CLUSTER", "MEET", HOST, nodes[0].port, nodes[0].options["cluster-port"])
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
