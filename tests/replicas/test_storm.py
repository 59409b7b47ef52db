"""Many peers join and leave as fast as they can: what remains in Redis, and what it costs."""

import re
from itertools import cycle
from pathlib import Path

import trio

from tests.effort import EFFORT
from tests.replicas.guests import PATIENCE, Guest, open_party
from tests.replicas.processes import Cluster, open_cluster

#: Keys that a room leaves in Redis until they expire or are removed.
ROOM = ["trio_signal:room:r:members", "trio_signal:room:r:seq", "trio_signal:rooms"]


async def wait_keys(cluster: Cluster, *expected: str) -> None:
    """Wait until Redis holds these keys, and the one with the leases."""
    keys: list[str] = []
    with trio.move_on_after(PATIENCE):
        while True:
            keys = [re.sub(r"[0-9a-f]{32}", "*", key) for key in await cluster.keys()]
            if keys == sorted(["trio_signal:replicas", *expected]):
                return
            await trio.sleep(0.02)
    raise AssertionError(keys)


async def check_connections(cluster: Cluster) -> None:
    """Two for each replica, and the one that asks."""
    listing: bytes = await cluster.redis.ask("CLIENT", "LIST")
    assert len(listing.splitlines()) == 2 * len(cluster.replicas) + 1


async def test_a_crowd_leaves_no_keys_behind(tmp_path: Path) -> None:
    """Half of them leave right after joining, the others all at once."""
    async with open_cluster(tmp_path) as cluster, open_party("r") as party:
        witnesses = [await party.join(f"witness-{i}", r) for i, r in enumerate(cluster.replicas)]
        replicas = cycle(cluster.replicas)
        began = trio.current_time()

        async def come(number: int) -> None:
            guest = await party.join(f"guest-{number}", next(replicas))
            if number % 5 == 0:
                await guest.go_live()
            if number % 2:
                await go(guest, number)

        async def go(guest: Guest, number: int) -> None:
            if number % 3:
                await guest.leave()
            else:
                guest.vanish()

        async with trio.open_nursery() as nursery:
            for number in range(200 * EFFORT):
                nursery.start_soon(come, number)
        await party.agree()
        print(f"{len(party.guests)} are in after {trio.current_time() - began:.2f} s")
        await check_connections(cluster)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number, guest in enumerate(set(party.guests.values()) - set(witnesses)):
                nursery.start_soon(go, guest, number)
        await party.agree()
        print(f"and gone after {trio.current_time() - began:.2f} s")
        await wait_keys(cluster, *ROOM)
        for witness in witnesses:
            await witness.leave()
        await wait_keys(cluster)


async def test_many_rooms_need_no_additional_connections(tmp_path: Path) -> None:
    """They leave no keys behind, either."""
    async with open_cluster(tmp_path) as cluster, trio.open_nursery() as nursery:
        close = trio.Event()
        in_ = trio.Semaphore(0)

        async def use_room(number: int) -> None:
            async with open_party(f"room-{number}") as party:
                for i, replica in enumerate(cluster.replicas):
                    await party.join(f"guest-{i}", replica)
                await party.agree()
                in_.release()
                await close.wait()

        for number in range(50):
            nursery.start_soon(use_room, number)
        for _ in range(50):
            await in_.acquire()
        await check_connections(cluster)
        listed = await cluster.replicas[0].get("/rooms")
        assert [(room["peers"], room["member_count"]) for room in listed] == [(3, 3)] * 50
        close.set()
        await wait_keys(cluster)
