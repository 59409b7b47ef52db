"""The bus over Redis: what its contract does not say."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import trio

from tests.bus.test_contract import deploy_redis
from tests.redis.server import RedisServer, open_redis_server
from trio_signal.bus.redis import open_redis_bus
from trio_signal.bus.redis.directory import Directory
from trio_signal.messages.identity import Member

MANY = 40


async def test_many_who_join_at_once_read_the_room_once(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ask for it, and one answer is enough: else a storm costs the square of its size."""
    read = 0
    read_members = Directory.read_members

    def count(directory: Directory, room_id: str, records: Iterable[bytes]) -> tuple[Member, ...]:
        nonlocal read
        records = [*records]
        read += len(records)
        return read_members(directory, room_id, records)

    async with deploy_redis(1, redis_url) as deployed:
        (replica,) = deployed.replicas
        monkeypatch.setattr(Directory, "read_members", count)
        async with trio.open_nursery() as nursery:
            for number in range(MANY):
                nursery.start_soon(replica.join, f"peer-{number}")
        assert read <= MANY
        assert len(await replica.peers()) == MANY


#: What a replica sends by itself; the rest is done by its scripts.
SENT = frozenset({"evalsha", "eval", "publish", "ping", "srandmember"})


async def count_sent(server: RedisServer) -> int:
    """How many commands of these kinds there were so far."""
    stats: bytes = await server.ask("INFO", "commandstats")
    calls = re.findall(r"cmdstat_(\w+):calls=(\d+)", stats.decode())
    return sum(int(number) for name, number in calls if name in SENT)


async def test_a_replica_without_rooms_costs_a_metered_redis_little(tmp_path: Path) -> None:
    """Half a command a second, by which providers bill: measured for six seconds."""
    async with (
        open_redis_server(tmp_path) as server,
        open_redis_bus(server.url, "idle", lease=10.0) as bus,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(bus.run, print)
        await trio.sleep(1.0)
        before = await count_sent(server)
        await trio.sleep(6.0)
        assert await count_sent(server) - before <= 4
        nursery.cancel_scope.cancel()
