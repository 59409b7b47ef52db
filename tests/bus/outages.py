"""Two replicas, of which the first can be cut off from Redis."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import trio
import trio.testing

from tests.bus.test_contract import RedisReplica
from tests.clients import PATIENCE
from tests.redis.server import NOWHERE, Proxy, open_proxy
from trio_signal.bus import Bus
from trio_signal.bus.redis import RedisBus, open_redis_bus


class CutOff:
    """The way of the first replica to Redis."""

    def __init__(self, bus: RedisBus, proxy: Proxy) -> None:
        self._bus = bus
        self._proxy = proxy

    @asynccontextmanager
    async def away(self) -> AsyncIterator[None]:
        """Redis cannot be reached until the block ends; then it is back."""
        proxy, redis = self._proxy, self._bus.redis
        target, proxy.target = proxy.target, NOWHERE
        with trio.fail_after(PATIENCE):
            for number in range(proxy.accepted):
                proxy.cut(number)
            await redis.wait_disconnected()
            await trio.testing.wait_all_tasks_blocked(0.01)  # the loss is processed
        yield
        proxy.target = target
        with trio.fail_after(PATIENCE):
            await redis.wait_connected()


@asynccontextmanager
async def deploy_with_outages(
    redis_url: str,
) -> AsyncIterator[tuple[RedisReplica, RedisReplica, CutOff]]:
    """The replica that can be cut off, the other one, and the way of the first to Redis."""
    prefix = f"{uuid4()}:"
    buses: list[Bus] = []
    async with (
        open_proxy(urlsplit(redis_url).port or 6379) as proxy,
        open_redis_bus(proxy.url, "replica-0", prefix=prefix) as bus,
        open_redis_bus(redis_url, "replica-1", prefix=prefix) as other_bus,
        trio.open_nursery() as nursery,
    ):
        one, other = RedisReplica(bus, buses), RedisReplica(other_bus, buses)
        for replica in (one, other):
            await nursery.start(replica.bus.run, replica.deliver)
        yield one, other, CutOff(bus, proxy)
        nursery.cancel_scope.cancel()
