"""How a server reports an outage: to its load balancer, and in its log."""

import json
from collections import Counter
from pathlib import Path

import trio

from tests.replicas.guests import open_party
from tests.replicas.processes import open_cluster


async def test_readiness_is_degraded_while_redis_is_down(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 2) as cluster:
        await cluster.redis.kill()
        await cluster.wait_status("degraded")
        for replica in cluster.replicas:
            reason = "Redis cannot be reached"
            assert await replica.get("/readyz") == {"status": "degraded", "reason": reason}
            assert await replica.get("/healthz") == {"status": "ok"}
        await cluster.redis.start()
        await cluster.wait_status("ready")


async def test_an_outage_is_logged_once(tmp_path: Path) -> None:
    """However much happens meanwhile."""
    async with open_cluster(tmp_path, 2) as cluster, open_party() as party:
        guests = [
            await party.join(f"guest-{i}", replica)
            for i, replica in enumerate(cluster.replicas * 2)
        ]
        await party.agree()
        before = [len(replica.log) for replica in cluster.replicas]
        await cluster.redis.kill()
        await cluster.wait_status("degraded")
        for guest in guests:
            for i in range(100):
                await guest.say("message", data=i)
                await guest.say("offer", offer=i, to="guest-0")
            await guest.go_live()
            await guest.settle()
        await trio.sleep(2)  # time for some attempts to connect
        await (await party.join("another", cluster.replicas[0])).leave()
        await cluster.redis.start()
        await cluster.wait_status("ready")
        await party.agree()
        for replica, length in zip(cluster.replicas, before, strict=True):
            said = Counter(json.loads(line)["event"] for line in replica.log[length:])
            assert max(said.values()) == 1
            assert len(said) < 12
