"""The bus over Redis: what its contract does not say."""

from collections.abc import Iterable

import pytest
import trio

from tests.bus.test_contract import deploy_redis
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
