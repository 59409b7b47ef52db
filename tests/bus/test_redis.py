"""What only the bus on Redis has to mend: see `_restore` there."""

import pytest
import trio

from tests.bus.test_contract import deploy_redis
from trio_signal.bus.redis import RedisBus


@pytest.mark.parametrize("steps", range(4))
async def test_whoever_enters_a_room_anew_while_it_is_restored_stays_there(
    redis_url: str, steps: int
) -> None:
    async with deploy_redis(2, redis_url) as deployment:
        here, there = deployment.replicas
        assert isinstance(here.bus, RedisBus)
        for number in range(10):
            await here.join(f"earlier-{number}")
            async with trio.open_nursery() as nursery:
                here.bus._doubtful["r"] = None
                nursery.start_soon(here.bus._restore, "r")
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                here.leave(f"earlier-{number}")
                await here.join(f"later-{number}")
            while here.bus.degraded:
                await here.settle()
            assert await there.peers() == [f"later-{number}"]
            here.leave(f"later-{number}")
