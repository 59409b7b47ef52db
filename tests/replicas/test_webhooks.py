"""Webhooks while replicas are killed: each room's events in order, each going once.

`make thorough` has many more visits and kills.
"""

import random
import signal
from pathlib import Path

import trio
from trio_websocket import ConnectionClosed, HandshakeError

from tests.clients import PATIENCE, connect
from tests.effort import EFFORT
from tests.receivers import Receiver, receive
from tests.replicas.processes import Cluster, open_cluster, start_replica
from tests.test_openapi import KEY

#: Seconds for all that is told to arrive after a kill: a lease, a leader's term, some retries.
ARRIVING = 120.0 if EFFORT == 1 else 900.0
#: What ends a visit from the other side.
GONE = (ConnectionClosed, HandshakeError, OSError, trio.BrokenResourceError, AssertionError)


def settings(tmp_path: Path, *receivers: Receiver) -> dict[str, object]:
    return {
        "DATABASE_URL": f"sqlite:///{tmp_path / 'webhooks.db'}",
        "TRIO_SIGNAL_API_KEYS": f"site:{KEY}",
        "TRIO_SIGNAL_WEBHOOK_URLS": ",".join(each.url for each in receivers),
    }


async def visit(
    base: str,
    room: str,
    client_id: str,
    wait: float,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Come, be live, and go; or be cut off by the end of the replica."""
    try:
        with trio.move_on_after(PATIENCE):
            async with connect(base, f"/ws/{room}") as client:
                await client.expect("auth_required")
                await client.send("auth_token", clientId=client_id, username=client_id)
                await client.wait_for("users_in_room")
                task_status.started()
                await client.send("broadcast_start")
                with trio.move_on_after(wait):
                    while True:
                        await client.receive()
    except* GONE:
        pass  # its replica was killed


async def visit_all(cluster: Cluster, visits: int, chance: random.Random) -> None:
    """Many visits of some rooms, a few at a time, each at a replica that runs."""
    limiter = trio.CapacityLimiter(20)

    async def one(number: int) -> None:
        async with limiter:
            replica = chance.choice(cluster.replicas)
            room = f"room-{chance.randrange(visits // 5)}"
            await visit(replica.base, room, f"peer-{number}", chance.random() / 5)

    async with trio.open_nursery() as nursery:
        for number in range(visits):
            nursery.start_soon(one, number)


async def wait_ended(receiver: Receiver) -> None:
    """Wait until each coming has its going, and nothing new is told."""

    def is_over() -> bool:
        words = [event["event"] for event in receiver.events]
        is_left = 0 < words.count("peer.joined") == words.count("peer.left")
        return is_left and words.count("room.started") == words.count("room.ended")

    await receiver.until(is_over, ARRIVING)


async def test_kills_and_drains_lose_no_webhook(tmp_path: Path) -> None:
    chance = random.Random(7)
    visits, count = (30, 2) if EFFORT == 1 else (2000, 3)
    async with receive(KEY) as good, receive(KEY) as flaky:
        flaky.refuse_some()
        async with open_cluster(tmp_path, count, **settings(tmp_path, good, flaky)) as cluster:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(visit_all, cluster, visits, chance)
                await good.until(lambda: len(good.events) > visits, ARRIVING)
                await cluster.add()
                await cluster.kill(cluster.replicas[0])
                await good.until(lambda: len(good.events) > 2 * visits, ARRIVING)
                await cluster.replicas.pop(0).stop()
            await wait_ended(good)
            await wait_ended(flaky)
            # What came twice may still be on its way a second time.
            await cluster.redis.ask("DEL", "trio_signal:webhooks:notes")
        for receiver in (good, flaky):
            came = receiver.check_visits()
            events, twice = len(receiver.events), receiver.duplicates
            print(f"{came} visits, {events} events, {twice} twice")
            assert came >= visits / 2


async def test_a_server_that_is_killed_again_and_again_loses_no_webhook(tmp_path: Path) -> None:
    chance = random.Random(11)
    kills = 1 if EFFORT == 1 else 50
    async with receive(KEY) as receiver, trio.open_nursery() as nursery:
        given = settings(tmp_path, receiver)
        for number in range(kills):
            server = await start_replica(nursery, **given)
            # What a client has heard is told, however soon after that the server is killed.
            await nursery.start(visit, server.base, "r", f"peer-{number}", 1.0)
            await trio.sleep(chance.choice((0, chance.random() / 5)))
            await server.end(signal.SIGKILL)
        server = await start_replica(nursery, **given)
        await wait_ended(receiver)
        assert receiver.check_visits() == kills
        print(f"{len(receiver.events)} events, {receiver.duplicates} duplicates")
        await server.stop()
        nursery.cancel_scope.cancel()
