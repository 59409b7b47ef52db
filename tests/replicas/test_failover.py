"""Redis fails over under traffic with Sentinels and in a cluster; no wrong event is reported."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from tests.redis.server import HOST, RedisServer
from tests.redis.topologies import (
    TAGGED,
    is_primary,
    open_pair,
    open_redis_cluster,
    open_sentinel,
    until,
)
from tests.replicas.crowd import open_scene
from tests.replicas.processes import LONG_LEASE, Cluster

#: Seconds from a new primary until all views are right, on a quiet machine; printed only.
SOON = 5.0
#: The same on a busy machine.
EVENTUALLY = 30.0


@asynccontextmanager
async def open_replicas(redis: RedisServer, url: str, prefix: str = "") -> AsyncIterator[Cluster]:
    """Two replicas; at the end they stop, and leave nothing behind."""
    async with trio.open_nursery() as nursery:
        given = {
            "REDIS_URL": url,
            "TRIO_SIGNAL_LEASE": LONG_LEASE,
            "TRIO_SIGNAL_REDIS_PREFIX": prefix,
        }
        cluster = Cluster(nursery, redis, given)
        for _ in range(2):
            await cluster.add()
        await cluster.wait_status("ready")
        yield cluster
        await cluster.stop()
        nursery.cancel_scope.cancel()


async def fail_over(cluster: Cluster, successor: RedisServer) -> None:
    """Kill the primary under traffic; all views must be right soon after there is another."""
    async with open_scene(cluster, actors=4) as scene:
        await trio.sleep(0.3)
        await cluster.redis.kill()
        await until(partial(is_primary, successor))
        began = trio.current_time()
        cluster.redis = successor
        await cluster.wait_status("ready")
        took = await scene.check(trio.current_time() + EVENTUALLY) - began
        print(f"right {took:.2f} s after there is a new primary; {SOON} is promised at rest")
        assert scene.told_gone() == {}


async def test_views_are_right_after_a_failover_by_sentinels(tmp_path: Path) -> None:
    async with (
        open_pair(tmp_path) as (primary, replica),
        open_sentinel(tmp_path, primary) as sentinel,
        open_replicas(primary, f"redis+sentinel://{HOST}:{sentinel.port}/main") as cluster,
    ):
        await fail_over(cluster, replica)


async def test_views_are_right_after_a_failover_in_a_cluster(tmp_path: Path) -> None:
    async with (
        open_redis_cluster(tmp_path) as (owner, replica, other, _),
        open_replicas(owner, other.url, TAGGED) as cluster,
    ):
        await fail_over(cluster, replica)
