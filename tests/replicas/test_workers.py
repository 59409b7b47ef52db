"""`serve --workers`: replicas on one port, and the parent process that keeps them running."""

import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

from tests.redis.server import RedisServer, open_redis_server
from tests.replicas.guests import open_party
from tests.replicas.processes import LEASE, Replica, kept_keys, open_replica
from tests.test_resuming import Walker
from tests.traveller import Traveller


@asynccontextmanager
async def open_workers(
    directory: Path, count: int = 3, **given: object
) -> AsyncIterator[tuple[Replica, RedisServer]]:
    """A few workers, and Redis."""
    async with open_redis_server(directory) as redis:
        environment = {"REDIS_URL": redis.url, "TRIO_SIGNAL_LEASE": LEASE, **given}
        async with open_replica("--workers", str(count), **environment) as parent:
            await parent.wait_logged("is ready, process", count)
            yield parent, redis


def workers(parent: Replica) -> dict[int, int]:
    """The process id of each worker, from its last log line."""
    said = (re.search(r"worker (\d+) is ready, process (\d+)", line) for line in parent.log)
    return {int(found[1]): int(found[2]) for found in said if found}


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    """The others keep running; after another kill the parent waits longer."""
    async with open_workers(tmp_path) as (parent, _), open_party() as party:
        for i in range(12):
            await party.join(f"guest-{i}", parent)
        await party.agree()
        for times in (1, 2):
            os.kill(workers(parent)[0], signal.SIGKILL)
            await parent.wait_logged("is ready, process", 3 + times)
            await party.join(f"newcomer-{times}", parent)
            await party.agree()
        assert {guest.closed for guest in party.lost} <= {(1006, "")}
        party.lost.clear()
        said = [re.search(r"restarting worker \d+ in ([\d.]+) s", line) for line in parent.log]
        assert [float(found[1]) for found in said if found] == [0.5, 1.0]


async def test_sigterm_to_the_parent_stops_all_workers(tmp_path: Path) -> None:
    async with open_workers(tmp_path) as (parent, redis), open_party() as party:
        guests = [await party.join(f"guest-{i}", parent) for i in range(6)]
        await party.agree()
        processes = workers(parent).values()
        assert await parent.end(signal.SIGTERM) == 0
        for guest in guests:
            assert (await guest.wait_gone()).code == 1001
        party.lost.clear()
        assert not any(map(is_running, processes))
        assert await kept_keys(redis) == []
        assert parent.logged("Traceback") == []


async def test_workers_have_the_time_to_pause_and_to_drain(tmp_path: Path) -> None:
    """Load balancers notice first that they stop; only then are their clients closed."""
    settings = {"TRIO_SIGNAL_DRAIN_PAUSE": 4, "TRIO_SIGNAL_DRAIN": 1}
    async with open_workers(tmp_path, 2, **settings) as (parent, redis), open_party() as party:
        guests = [await party.join(f"guest-{i}", parent) for i in range(4)]
        await party.agree()
        assert await parent.end(signal.SIGTERM) == 0
        for guest in guests:
            assert (await guest.wait_gone()).code == 1001
        party.lost.clear()
        assert await kept_keys(redis) == []


async def test_workers_end_when_the_parent_is_killed(tmp_path: Path) -> None:
    async with open_workers(tmp_path) as (parent, redis), open_party() as party:
        guests = [await party.join(f"guest-{i}", parent) for i in range(6)]
        await party.agree()
        await parent.end(signal.SIGKILL)
        for guest in guests:
            assert (await guest.wait_gone()).code == 1001
        party.lost.clear()
        await parent.wait_all_gone()
        assert await kept_keys(redis) == []


async def test_sessions_resume_at_any_worker(tmp_path: Path) -> None:
    """After a cut, the end of a worker, and the end of all: nobody leaves, and nothing is lost."""
    # However long starting takes here.
    settings = {"TRIO_SIGNAL_DRAIN": 5, "TRIO_SIGNAL_RESUME_GRACE": 600}
    async with open_workers(tmp_path, 2, **settings) as (parent, redis):
        chance = Random(1)
        walkers = [Walker(parent.base, "r", Traveller(name), chance) for name in ("ann", "bob")]
        for walker in walkers:
            await walker.settle()
        ann, bob = walkers
        while "user_joined" not in ann.traveller.types:
            await ann.read(65536)
        for _ in range(6):  # in one of 64 cases it is always the same worker
            await ann.cut()
            await bob.say()
            await ann.settle()
        os.kill(workers(parent)[0], signal.SIGTERM)
        await parent.wait_logged("is ready, process", 3)
        for walker in walkers:
            await walker.say()
            await walker.settle()
        assert await parent.end(signal.SIGTERM) == 0
        environment = {"REDIS_URL": redis.url, **settings}
        async with open_replica("--workers", "2", **environment) as again:
            for walker in walkers:
                walker.base = again.base
                await walker.cut()
                await walker.settle()
            for walker, other in ((ann, bob), (bob, ann)):
                while len(walker.traveller.heard) < other.traveller.number:
                    await walker.read(65536)
                assert walker.traveller.heard == list(range(1, other.traveller.number + 1))
            for walker in walkers:
                await walker.close()
            await again.stop()
