"""Redis fails under traffic in every possible way, and returns.

Soon every client's view is right again; the time is printed. A guest that is told about
a join or leave twice fails the test, and so does a signal within a replica that waits
for Redis. Nobody may be reported as left who is still there, except for guests of a
replica that was cut off.
"""

import random
from contextlib import suppress
from pathlib import Path

import trio

from tests.effort import EFFORT
from tests.raw import open_raw
from tests.replicas.crowd import PROMPT, Scene, open_scene
from tests.replicas.guests import PATIENCE
from tests.replicas.processes import LEASE, LONG_LEASE, Cluster, open_cluster

#: Seconds for which Redis is frozen: longer than anything may take that does not need Redis.
FROZEN = PROMPT + 1


async def check_recovery(scene: Scene, since: float) -> None:
    """Let traffic continue for a while, then check all views."""
    await trio.sleep(0.2)
    took = await scene.check(since + PATIENCE) - since
    print(f"right {took:.2f} s after Redis is back")


async def test_views_are_right_after_redis_restarts_empty(tmp_path: Path) -> None:
    async with open_cluster(tmp_path) as cluster, open_scene(cluster) as scene:
        for _ in range(2 * EFFORT):
            await cluster.redis.kill()
            await trio.sleep(0.3)
            await cluster.redis.start()
            await check_recovery(scene, trio.current_time())
        assert scene.told_gone() == {}


async def test_views_are_right_after_redis_was_frozen(tmp_path: Path) -> None:
    """It is frozen longer than all leases, and connections seem to work."""
    async with open_cluster(tmp_path) as cluster, open_scene(cluster) as scene:
        cluster.redis.freeze()
        await trio.sleep(FROZEN)
        cluster.redis.thaw()
        await check_recovery(scene, trio.current_time())
        await trio.sleep(LEASE)
        assert scene.told_gone() == {}


async def test_views_are_right_after_connections_were_killed(tmp_path: Path) -> None:
    choice = random.Random(5)
    async with open_cluster(tmp_path) as cluster, open_scene(cluster) as scene:
        for _ in range(2 * EFFORT):
            for _ in range(6):
                await trio.sleep(choice.uniform(0, 0.1))
                await kill_one_connection(cluster, choice)
            await check_recovery(scene, trio.current_time())
        assert scene.told_gone() == {}


async def kill_one_connection(cluster: Cluster, choice: random.Random) -> None:
    names = await cluster.redis.clients()
    if names:
        with suppress(LookupError):  # it is lost just now
            await cluster.redis.kill_client(choice.choice(names))


async def test_the_newer_broadcaster_wins_after_an_outage(tmp_path: Path) -> None:
    """It gets the stream once both replicas know both broadcasters."""
    broadcast = {"type": "broadcaster-ready", "streamId": "s"}
    async with open_cluster(tmp_path, 2) as cluster:
        here, there = cluster.replicas
        async with open_raw(here.base) as older, open_raw(there.base) as newer:
            await cluster.redis.kill()
            await cluster.wait_status("degraded")
            for broadcaster in (older, newer):
                await broadcaster.upgrade("/ws")
                await broadcaster.say(broadcast)
                await broadcaster.wait_for("viewer-count")
            await cluster.redis.start()
            assert (await older.wait_for("error"))["code"] == "stream_taken"
            await cluster.wait_status("ready")
            assert (await here.get("/rooms/s"))["peers"] == 1
            async with open_raw(here.base) as viewer:
                await viewer.upgrade("/ws")
                await viewer.say({"type": "join-stream", "streamId": "s"})
                await newer.wait_for("viewer-joined")


async def test_peers_of_a_replica_that_was_cut_off_leave_and_return(tmp_path: Path) -> None:
    """It was cut off for longer than its lease."""
    async with open_cluster(tmp_path, 2) as cluster:
        wire = await cluster.add_wired()
        async with open_scene(cluster) as scene:
            wire.pull()
            absent = ["pair-2-a", "pair-2-b", "user-2"]
            await scene.stable[0].wait_told("user_left", *absent)
            await trio.sleep(0.5)
            wire.plug()
            await check_recovery(scene, trio.current_time())
            witnesses = [guest for guest in scene.stable if guest.name not in absent]
            for name in absent:
                for witness in witnesses:
                    assert witness.told_of(name).count("user_left") == 1
            assert sorted(scene.told_gone()) == absent


async def test_a_short_cut_of_one_replica_is_not_noticed(tmp_path: Path) -> None:
    """Much shorter than the lease, so nobody is told anything."""
    async with open_cluster(tmp_path, 2, TRIO_SIGNAL_LEASE=LONG_LEASE) as cluster:
        wire = await cluster.add_wired()
        async with open_scene(cluster) as scene:
            for _ in range(2 * EFFORT):
                wire.pull()
                await trio.sleep(0.5)
                wire.plug()
                await check_recovery(scene, trio.current_time())
            assert scene.told_gone() == {}


async def test_views_are_right_after_redis_dropped_subscribers(tmp_path: Path) -> None:
    """Redis drops every subscriber that does not receive a message at once."""
    async with open_cluster(tmp_path) as cluster, open_scene(cluster) as scene:
        limit = "pubsub 32kb 0 0"
        await cluster.redis.ask("CONFIG", "SET", "client-output-buffer-limit", limit)
        for _ in range(2 * EFFORT):
            losses = [len(replica.logged("Redis is lost")) for replica in cluster.replicas]
            await scene.stable[0].say("offer", offer="x" * 60_000)
            for replica, loss in zip(cluster.replicas[1:], losses[1:], strict=True):
                await replica.wait_logged("Redis is lost", loss + 1)
            await check_recovery(scene, trio.current_time())
        assert scene.told_gone() == {}
