"""Junk in Redis: no replica ends, and all views are right soon.

Each case once ended every replica that read it, and every one that was started afterwards.
"""

import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import trio

from tests.raw import get
from tests.replicas.guests import Party, open_party
from tests.replicas.processes import Cluster, Replica, open_cluster

#: In milliseconds, the unit of revisions.
NOW = time.time_ns() // 1_000_000
ROOM = "trio_signal:room:room"
MEMBERS = f"{ROOM}:members"
VANISHED = f"{ROOM}:vanished"
EDITION = {
    "revision": 2**63,
    "announcement": {
        "id": "x",
        "message": "Hello",
        "type": "info",
        "created_by": "boss",
        "created_by_name": "Boss",
        "created_at": "2026-11-20T10:15:30.123Z",
    },
    "active": True,
}

Attack = Callable[[Cluster], Awaitable[None]]


async def publish_everywhere(cluster: Cluster, payload: str | bytes) -> None:
    """Publish on every channel with subscribers."""
    for channel in await cluster.redis.ask("PUBSUB", "CHANNELS"):
        await cluster.redis.ask("PUBLISH", channel, payload)


async def other_record(cluster: Cluster) -> None:
    await cluster.redis.ask("HSET", MEMBERS, "stranger", '{"name": "of another program"}')
    await cluster.redis.ask("HSET", MEMBERS, "noise", b"\xff\xfe")


async def record_of_no_replica(cluster: Cluster) -> None:
    """A valid record that belongs to no replica."""
    (text, *_) = await cluster.redis.ask("HVALS", MEMBERS)
    ghost = json.loads(text) | {"peer_id": "ghost", "user_id": "ghost", "replica": "nobody"}
    ghost["username"] = "ghost"  # names tell people apart
    await cluster.redis.ask("HSET", MEMBERS, "ghost", json.dumps(ghost))


async def overwritten_records(cluster: Cluster) -> None:
    for peer_id in await cluster.redis.ask("HKEYS", MEMBERS):
        await cluster.redis.ask("HSET", MEMBERS, peer_id, "[]")


async def deleted_records(cluster: Cluster) -> None:
    await cluster.redis.ask("DEL", MEMBERS)


async def vanished_for_ever(cluster: Cluster) -> None:
    """A room that is always written again, and is to be restored."""
    await cluster.redis.ask("SADD", VANISHED, "nobody")
    await cluster.redis.ask("HSET", MEMBERS, "noise", b"\xff\xfe")


async def great_revision(cluster: Cluster) -> None:
    await write_edition(cluster, EDITION)


async def write_edition(cluster: Cluster, edition: dict[str, object]) -> None:
    """Store and publish an announcement as if it were new."""
    key, revision = "trio_signal:edition", str(edition["revision"])
    await cluster.redis.ask("DEL", key)
    await cluster.redis.ask("HSET", key, "revision", revision, "id", "x")
    await cluster.redis.ask("HSET", key, "edition", json.dumps(edition))
    news = {"type": "new_broadcast", "edition": edition, "late": False}
    await cluster.redis.ask("PUBLISH", "broadcasts", json.dumps(news))


async def replica_without_a_name(cluster: Cluster) -> None:
    await cluster.redis.ask("ZADD", "trio_signal:replicas", 1, b"\xff\xfe")


async def foreign_departure(cluster: Cluster) -> None:
    """Publish the departure of every member, by a replica that does not own it; numbered or not."""
    for text in await cluster.redis.ask("HVALS", MEMBERS):
        left = {"type": "Left", "room_id": "room", "last": True, "peers": 0, "at": "now"}
        event = left | {"member": json.loads(text)}
        for seq in (0, int(await cluster.redis.ask("INCR", f"{ROOM}:seq"))):
            change = {"seq": seq, "origin": "nobody", "event": event}
            await cluster.redis.ask("PUBLISH", ROOM, json.dumps(change))


async def broadcasters_join_again(cluster: Cluster) -> None:
    """Forged changes, with the next numbers, in which live members join once more."""
    seq = int(await cluster.redis.ask("GET", f"{ROOM}:seq"))
    for text in await cluster.redis.ask("HVALS", MEMBERS):
        member = json.loads(text)
        if member["live"]:
            seq += 1
            joined = {"type": "Joined", "room_id": "room", "first": True, "peers": 1, "at": "now"}
            event = joined | {"member": member}
            change = {"seq": seq, "origin": member["replica"], "event": event}
            await cluster.redis.ask("PUBLISH", ROOM, json.dumps(change))


async def great_number(cluster: Cluster) -> None:
    for seq in (2**63, 2**53 - 1, 10**400):
        await publish_everywhere(cluster, f'{{"seq": {seq}, "origin": "nobody"}}')


async def noise_on_channels(cluster: Cluster) -> None:
    for payload in (b"\xff", "", "null", "[]", "{}", "[" * 5000, '{"type": "Left"}', b"\0"):
        await publish_everywhere(cluster, payload)


async def keys_of_another_type(cluster: Cluster) -> None:
    for key in await cluster.keys():
        await cluster.redis.ask("SET", key, "a text")


ATTACKS = [
    *(other_record, record_of_no_replica, overwritten_records, deleted_records),
    *(vanished_for_ever, great_revision, broadcasters_join_again),
    *(replica_without_a_name, foreign_departure, great_number, noise_on_channels),
    keys_of_another_type,
]


async def test_no_replica_ends_because_of_junk(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 2) as cluster, open_party() as party:
        for i, replica in enumerate(cluster.replicas):
            broadcaster = await party.join(f"guest-{i}", replica)
            await broadcaster.go_live()
            await party.watch(f"user-{i}", replica)
        await party.agree()
        for attack in ATTACKS:
            print(attack.__name__)
            await attack(cluster)
            await check_service(cluster, party)
        await great_revision(cluster)
        await replica_without_a_name(cluster)
        await cluster.add()  # one that finds the junk when it starts
        await check_service(cluster, party)
        assert await unreadable(cluster) > 10
        for replica in cluster.replicas:
            assert len(replica.logged("cannot decode a ")) < 20, "logged too often"
        await clear_announcements(cluster)


async def unreadable(cluster: Cluster) -> int:
    """The number of values that the replicas could not read."""
    texts = [(await get(replica.base, "/metrics")).decode() for replica in cluster.replicas]
    name = "trio_signal_redis_unreadable_total{"
    lines = [line for text in texts for line in text.splitlines() if line.startswith(name)]
    return sum(int(float(line.split()[-1])) for line in lines)


async def check_service(cluster: Cluster, party: Party) -> None:
    """Check that people can join and leave, and that all views and listings are right soon."""
    for replica in cluster.replicas:
        visitor = await party.join("visitor", replica)
        await party.agree(within=30)
        await visitor.leave()
        await party.agree(within=30)
    await cluster.wait_status("ready")
    with trio.fail_after(30):
        while not await is_clean(cluster, party):  # noqa: ASYNC110
            await trio.sleep(0.05)
    for replica in cluster.replicas:
        assert replica.process.returncode is None, replica.log
        assert replica.logged("Traceback") == []


async def is_clean(cluster: Cluster, party: Party) -> bool:
    """Whether Redis has exactly the members in the room, and all replicas agree."""
    if await cluster.redis.ask("TYPE", MEMBERS) != b"hash":
        return False
    if await cluster.redis.ask("PTTL", VANISHED) == -1:
        return False
    records = await cluster.redis.ask("HGETALL", MEMBERS)
    names = {name.decode(errors="replace") for name in records[::2]}
    found = sum(record.startswith(b'{"peer_id"') for record in records[1::2])
    others = await listed(cluster)
    return len(names) == found == len(party.guests) and {*others} == {found}


async def listed(cluster: Cluster) -> list[int]:
    """The number of peers that each replica lists."""
    answers = [await replica.get("/rooms") for replica in cluster.replicas]
    return [sum(room["peers"] for room in answer) for answer in answers]


async def clear_announcements(cluster: Cluster) -> None:
    """Remove announcements, which normally stay."""
    await cluster.redis.ask("DEL", "trio_signal:edition", "current_broadcast")


YEAR = 366 * 86400 * 1000


@pytest.mark.parametrize(
    "ahead",
    [YEAR - 60_000, YEAR + 600_000, 2**53 - 1 - NOW, 2**63],
    ids=["within a year", "in more than a year", "the greatest number", "more than a number"],
)
async def test_announcements_work_after_a_foreign_revision(ahead: int, tmp_path: Path) -> None:
    """All replicas show the next announcement, whatever revision somebody wrote."""
    database = f"sqlite:///{tmp_path / 'announcements.db'}"
    async with (
        open_cluster(tmp_path, 2, DATABASE_URL=database) as cluster,
        httpx.AsyncClient(timeout=30) as http,
    ):
        await write_edition(cluster, EDITION | {"revision": NOW + ahead})
        for replica in [*cluster.replicas, *cluster.replicas]:
            url = f"http://{replica.base}/api/creator/broadcast"
            made = await http.post(url, params={"user_id": "boss"}, json={"message": "Hello"})
            assert made.status_code == 200, made.text
            for other in cluster.replicas:
                await wait_shown(http, other, made.json()["id"])
        await clear_announcements(cluster)


async def wait_shown(http: httpx.AsyncClient, replica: Replica, id_: str) -> None:
    url = f"http://{replica.base}/api/creator/broadcast/active"
    with trio.fail_after(30):
        while True:
            shown = (await http.get(url, params={"user_id": "ann"})).json()["broadcast"]
            if shown is not None and shown["id"] == id_:
                return
            await trio.sleep(0.05)
