"""The bus over Redis, beyond its contract."""

import json
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from uuid import uuid4

import pytest
import trio
from msgspec import Raw
from msgspec.structs import replace

from tests.bus.outages import deploy_with_outages
from tests.bus.test_contract import RedisReplica, deploy_redis
from tests.clients import PATIENCE
from tests.members import AT
from tests.redis.buses import drain
from tests.redis.server import RedisServer, open_redis_server
from trio_signal.bus import Caps
from trio_signal.bus.redis import RedisBus, open_redis_bus
from trio_signal.bus.redis.directory import Directory, Record
from trio_signal.bus.redis.feed import Feed
from trio_signal.bus.redis.recovery import _Before, _differs
from trio_signal.messages.events import (
    Joined,
    Left,
    ProfileChanged,
    Signalled,
    StoppedLive,
    WentLive,
)
from trio_signal.messages.identity import Member
from trio_signal.presence import Change, Snapshot
from trio_signal.redis import Event, Redis, ResponseError, open_redis
from trio_signal.room import Room

MANY = 40


async def test_simultaneous_joins_read_the_room_once(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All need its state, and share one answer: else a storm of joins has a quadratic cost."""
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


async def test_rooms_are_restored_together(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All requests are sent before the first answer arrives: one round trip."""
    running = together = 0
    restore = Directory.restore

    async def count(directory: Directory, room_id: str, feed: Feed | None) -> Snapshot:
        nonlocal running, together
        running += 1
        together = max(together, running)
        snapshot = await restore(directory, room_id, feed)
        running -= 1
        return snapshot

    async with deploy_redis(1, redis_url) as deployed:
        (replica,) = deployed.replicas
        assert isinstance(replica.bus, RedisBus)
        for number in range(MANY):
            await replica.join("one", room=f"room-{number}")
        monkeypatch.setattr(Directory, "restore", count)
        replica.bus._start_over()
        with trio.fail_after(PATIENCE):
            while replica.bus.degraded:  # noqa: ASYNC110  nobody tells
                await trio.sleep(0.01)
        assert together == MANY
        assert await replica.bus.count_rooms() == MANY


async def test_the_reason_why_rooms_cannot_be_restored_is_logged_once(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = 0
    reason = "OOM command not allowed"

    async def refuse(_: Directory, room_id: str, __: Feed | None) -> Snapshot:
        nonlocal tries
        tries += 1
        raise ResponseError(reason)

    async with deploy_redis(1, redis_url) as deployed:
        (replica,) = deployed.replicas
        assert isinstance(replica.bus, RedisBus)
        await replica.join("one")
        monkeypatch.setattr(Directory, "restore", refuse)
        replica.bus._start_over()
        with trio.fail_after(PATIENCE):
            while tries < 3:  # noqa: ASYNC110  nobody tells
                await trio.sleep(0.01)
            reason = "LOADING"
            while tries < 5:  # noqa: ASYNC110
                await trio.sleep(0.01)
    said = [record.message for record in caplog.records if "resynchronize" in record.message]
    assert said == [
        f"cannot resynchronize with Redis yet: {each}"
        for each in ("OOM command not allowed", "LOADING")
    ]


#: Commands that a replica sends itself; its scripts do the rest.
SENT = frozenset({"evalsha", "eval", "publish", "ping"})


async def count_sent(server: RedisServer) -> int:
    """The number of commands of these kinds so far."""
    stats: bytes = await server.ask("INFO", "commandstats")
    calls = re.findall(r"cmdstat_(\w+):calls=(\d+)", stats.decode())
    return sum(int(number) for name, number in calls if name in SENT)


async def test_an_idle_replica_sends_few_commands(tmp_path: Path) -> None:
    """Half a command a second, since providers bill by commands; measured for six seconds."""
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


async def test_members_of_a_dead_replica_are_found_without_its_list_of_rooms(
    redis_url: str,
) -> None:
    """It had a member in a room of this replica, and one in one of many other rooms."""
    prefix = f"{uuid4()}:"
    key = f"{prefix}trio_signal:"
    async with (
        open_redis(redis_url) as redis,
        open_redis_bus(redis_url, "here", prefix=prefix, lease=1.0) as bus,
        trio.open_nursery() as nursery,
    ):
        here = RedisReplica(bus, [])
        await nursery.start(bus.run, here.deliver)
        await here.join("witness")
        async with (
            open_redis_bus(redis_url, "dead", prefix=prefix, lease=1.0) as dying,
            trio.open_nursery() as life,
        ):
            dead = RedisReplica(dying, [])
            await life.start(dying.run, dead.deliver)
            await dead.join("ghost")
            dead.go_live("ghost")
            await dead.join("ghost", room="elsewhere")
            await here.expect(Joined)
            await here.expect(WentLive)
            life.cancel_scope.cancel()
        await redis.unlink(f"{key}owned:dead")
        await redis.sadd(f"{key}rooms", *[f"empty-{number}" for number in range(300)])
        assert (await here.expect(StoppedLive)).member.peer_id == "ghost"
        assert (await here.expect(Left)).member.peer_id == "ghost"
        with trio.fail_after(PATIENCE):
            while await bus.room_ids() != ["r"]:  # noqa: ASYNC110  nobody tells
                await trio.sleep(0.05)
        assert sorted(await redis.keys(f"{key}room:*")) == [
            f"{key}room:r:{part}".encode() for part in ("members", "seq")
        ]
        with pytest.raises(trio.WouldBlock):  # nothing else was told
            here._receiver.receive_nowait()
        nursery.cancel_scope.cancel()


async def test_a_replica_with_a_deleted_lease_does_not_count_as_dead(
    redis_url: str,
) -> None:
    """It takes a new lease within a second; until then its members are not removed."""
    async with deploy_redis(2, redis_url) as deployed, open_redis(redis_url) as redis:
        here, other = deployed.replicas
        assert isinstance(here.bus, RedisBus)
        await here.meet(other)
        await redis.zrem(here.bus._key("replicas"), other.name)
        here.bus._start_over()
        with trio.fail_after(PATIENCE):
            while here.bus.degraded:  # noqa: ASYNC110  nobody tells
                await trio.sleep(0.01)
        other.say("still here")
        await here.expect_chats("still here")
        assert [m.peer_id for m in await here.bus.members("r")] == [here.name, other.name]


def let_clock_be_set(bus: RedisBus) -> str:
    """Let the time of leases be that of Redis and the seconds in a key, which is returned."""
    scripts, key = bus._directory.scripts, bus._key("ahead")
    clock = (
        "local function clock() local time = redis.call('TIME'); "
        f"return {{tostring(time[1] + (redis.call('GET', '{key}') or 0)), time[2]}} end\n"
    )
    for name in ("lease", "reap"):
        source = getattr(scripts, name).source.decode().replace("redis.call('TIME')", "clock()")
        setattr(scripts, name, bus.redis.register_script(clock + source))
    return key


async def test_nobody_counts_as_dead_because_the_clock_was_set(redis_url: str) -> None:
    async with deploy_redis(2, redis_url) as deployed:
        one, other = deployed.replicas
        await one.meet(other)
        assert isinstance(one.bus, RedisBus)
        assert isinstance(other.bus, RedisBus)
        for bus in (one.bus, other.bus):
            key = let_clock_be_set(bus)
            await bus._lease.renew()
        redis, replicas = one.bus.redis, one.bus._key("replicas")
        await redis.set(key, 3600)
        seconds, _ = await redis.time()
        with trio.fail_after(PATIENCE):
            while await redis.zcount(replicas, (seconds + 3600) * 1000, "+inf") < 2:  # noqa: ASYNC110
                await trio.sleep(0.01)
        for replica in (one, other):
            await replica.settle()
            assert await replica.peers() == [one.name, other.name]
        one.leave(one.name)
        assert (await other.expect(Left)).member.peer_id == one.name


async def test_a_new_replica_reaps_nobody_who_may_be_about_to_renew(redis_url: str) -> None:
    """No lease could be renewed for a while, as Redis refused writes."""
    prefix = f"{uuid4()}:"
    async with (
        open_redis(redis_url) as redis,
        open_redis_bus(redis_url, "new", prefix=prefix) as bus,
    ):
        replicas = bus._key("replicas")
        await redis.zadd(replicas, {"old": 1})
        await bus._lease.renew()
        assert await redis.zscore(replicas, "old") == 1
        bus._lease.hold_off(0)  # as after the pause
        await bus._lease.renew()
        assert await redis.zscore(replicas, "old") is None


async def test_a_replica_that_renews_its_lease_just_before_it_is_reaped_is_alive(
    redis_url: str,
) -> None:
    async with deploy_redis(2, redis_url) as deployed:
        one, other = deployed.replicas
        assert isinstance(one.bus, RedisBus)
        await one.meet(other)
        members = one.rooms["r"].members
        offer = Raw(b"1")
        signal = Signalled("r", "offer", offer, members[one.name], members[other.name], "", AT)
        one.bus.send(other.name, signal)
        await one.bus._lease._reap(other.name)
        assert (await other.expect(Signalled)).sender.peer_id == one.name
        await drain(one.bus, [other.bus])
        with trio.move_on_after(0.1):
            pytest.fail(f"it was delivered, and then: {await one.next()}")


async def test_a_replicas_list_of_rooms_expires_if_nobody_reaps_it(
    redis_url: str,
) -> None:
    """Nobody does if it dies after its lease was deleted."""
    async with deploy_redis(1, redis_url) as deployed, open_redis(redis_url) as redis:
        (replica,) = deployed.replicas
        assert isinstance(replica.bus, RedisBus)
        await replica.join("one")
        await replica.bus._lease.renew()
        owned = replica.bus._key("owned", replica.name)
        assert 0 < await redis.pttl(owned) <= 3_600_000


async def test_deleted_lists_are_written_again(redis_url: str) -> None:
    async with deploy_redis(1, redis_url) as deployed, open_redis(redis_url) as redis:
        (replica,) = deployed.replicas
        assert isinstance(replica.bus, RedisBus)
        await replica.join("one")
        for parts in (["rooms"], ["owned", replica.name]):
            key = replica.bus._key(*parts)
            await redis.unlink(key)
            with trio.fail_after(PATIENCE):
                while not await redis.sismember(key, "r"):  # noqa: ASYNC110  nobody tells
                    await trio.sleep(0.05)


async def test_a_session_that_moves_here_during_a_comparison_is_no_difference() -> None:
    there = Member("ann", "ann", "Ann", "mesh", "there", "ann", session="tag")
    room = Room("r", "here")
    room.restore([there])
    room.numbering.resume(1)
    feed = Feed(room)
    before = _Before.of(feed)
    here = replace(there, replica="here")
    room.follow(Change(2, "there", moved=here))
    room.move(here)
    assert not _differs(feed, before, Record(2, (here,), size=1, is_sound=True), echoed=0.0)
    room.leave("ann", "now")
    assert _differs(feed, before, Record(2, (here,), size=1, is_sound=True), echoed=0.0)


async def test_a_record_that_does_not_say_who_is_away_is_no_difference() -> None:
    """Replicas of version 0.2.0 write such records."""
    there = Member("ann", "ann", "Ann", "mesh", "there", "ann", away=True)
    room = Room("r", "here")
    room.restore([there])
    room.numbering.resume(1)
    feed = Feed(room)
    for away, differs in ((None, False), (True, False), (False, True)):
        record = Record(1, (replace(there, away=away),), size=1, is_sound=True)
        assert _differs(feed, _Before.of(feed), record, echoed=0.0) == differs


async def test_joining_at_another_replica_works_after_the_room_number_was_deleted(
    redis_url: str,
) -> None:
    """If numbers started over, they would count as old, and a leave could hide a newer join."""
    async with deploy_redis(2, redis_url) as deployed, open_redis(redis_url) as redis:
        here, there = deployed.replicas
        assert isinstance(here.bus, RedisBus)
        await here.meet(there)
        await there.join("ann", joined_at="1")
        await here.expect(Joined)
        await redis.unlink(here.bus._key("room", "r", "seq"))
        there.leave("ann")
        await there.settle()
        await here.join("ann", joined_at="2")
        assert "ann" in here.rooms["r"].own
        await here.settle()
        assert {m.peer_id: m.replica for m in await there.bus.members("r")} == {
            **{each.name: each.name for each in (here, there)},
            "ann": here.name,
        }


@pytest.mark.parametrize("text", ["nan", "-nan", "inf", "-5", "0x10", "x"])
async def test_junk_in_place_of_a_room_number_is_replaced(redis_url: str, text: str) -> None:
    async with deploy_redis(1, redis_url) as deployed, open_redis(redis_url) as redis:
        (here,) = deployed.replicas
        bus = here.bus
        assert isinstance(bus, RedisBus)
        await here.join("ann")
        key = bus._key("room", "r", "seq")
        await redis.set(key, text)
        bus._feeds.mark_stale("r")
        with trio.fail_after(PATIENCE):
            while (await redis.get(key)) == text.encode():  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert int(await redis.get(key) or 0) > 10**15


async def write_twice(redis: Redis, room: str) -> None:
    record = await redis.hget(f"{room}:members", "ann")
    await redis.hset(f"{room}:members", "x", record)


async def write_for_scripts(redis: Redis, room: str) -> None:
    """A record that a script can read, and a replica cannot."""
    record = {"replica": "nobody", "subject": "", "joined_at": ""}
    await redis.hset(f"{room}:members", "x", json.dumps(record))


async def write_for_scripts_in_place(redis: Redis, room: str) -> None:
    """The same in place of a member; the name is too long for a replica."""
    record = json.loads(await redis.hget(f"{room}:members", "ann") or "")
    spoilt = json.dumps(record | {"replica": "x" * 5000})
    await redis.hset(f"{room}:members", "ann", spoilt)


async def delete_live(redis: Redis, room: str) -> None:
    await redis.delete(f"{room}:live")


async def add_live(redis: Redis, room: str) -> None:
    await redis.sadd(f"{room}:live", "bob", "x", b"\xff")


async def overwrite_live(redis: Redis, room: str) -> None:
    await redis.set(f"{room}:live", "x")


@pytest.mark.parametrize(
    "spoil",
    [
        *(write_twice, write_for_scripts, write_for_scripts_in_place),
        *(delete_live, add_live, overwrite_live),
    ],
)
async def test_a_room_is_put_right(
    redis_url: str, spoil: Callable[[Redis, str], Awaitable[None]]
) -> None:
    async with deploy_redis(1, redis_url) as deployed, open_redis(redis_url) as redis:
        (here,) = deployed.replicas
        bus = here.bus
        assert isinstance(bus, RedisBus)
        await here.join("ann")
        await here.join("bob")
        here.go_live("ann")
        await here.settle()
        room = bus._key("room", "r")
        members = await redis.hgetall(f"{room}:members")

        async def is_right() -> bool:
            if await redis.type(f"{room}:live") != b"set":
                return False
            live = await redis.smembers(f"{room}:live")
            return live == {b"ann"} and await redis.hgetall(f"{room}:members") == members

        assert await is_right()
        await spoil(redis, room)
        assert not await is_right()
        with trio.fail_after(PATIENCE):
            while not await is_right() or bus.degraded:  # noqa: ASYNC110
                await trio.sleep(0.05)


async def test_a_name_released_without_redis_is_released_when_it_is_back(redis_url: str) -> None:
    """Otherwise the other names of the replica would keep it in the list for ever."""
    async with deploy_with_outages(redis_url) as (one, other, redis):
        names = one.bus.names
        for name in ("p:ann", "p:bob", "p:cyd"):
            await names.claim(name, "first", "subject")
        async with redis.away():
            names.release("p:ann", "first", hold=False)
            names.release("p:cyd", "first", hold=True)
            await names.claim("p:cyd", "second", "subject")
        with trio.fail_after(PATIENCE):
            while await other.bus.names.list("p") != ["bob", "cyd"]:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await other.bus.names.claim("p:ann", "another", "other subject")
        assert await other.bus.names.list("p") == ["ann", "bob", "cyd"]


async def test_an_expired_name_is_released(redis_url: str) -> None:
    async with deploy_redis(1, redis_url) as deployed:
        bus = deployed.replicas[0].bus
        assert isinstance(bus, RedisBus)
        for name in ("p:ann", "p:bob"):
            await bus.names.claim(name, "claim", "subject")
        await bus.redis.delete(bus._key("name", "p:ann"))
        bus.names.release("p:ann", "claim", hold=True)
        assert await bus.names.list("p") == ["bob"]


async def test_a_user_renamed_without_redis_keeps_the_new_name_everywhere(redis_url: str) -> None:
    """Its peer on the other replica still has the old name when Redis is back."""
    async with deploy_with_outages(redis_url) as (one, other, redis):
        await one.join("ann-1", "ann")
        await other.join("ann-2", "ann")
        await one.expect(Joined)
        async with redis.away():
            one.rename("ann-1", "Ann of old", "new.png")
        changed = await other.expect(ProfileChanged)
        assert (changed.member.username, changed.member.avatar_url) == ("Ann of old", "new.png")
        other.say("fence")
        await one.expect_chats("fence")
        for replica in (one, other):
            assert isinstance(replica.bus, RedisBus)
            known = replica.rooms["r"].members.values()
            for members in (known, await replica.bus._directory.members("r")):
                assert {member.username for member in members} == {"Ann of old"}


async def test_a_join_that_redis_accepted_is_not_refused_because_messages_come_late(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This replica does not know yet that somebody has left the full room."""
    monkeypatch.setattr("trio_signal.bus.redis.bus.JOIN_TIMEOUT", 0.3)
    async with deploy_redis(2, redis_url) as deployed:
        late, other = deployed.replicas
        for replica in (late, other):
            await replica.join(replica.name)
        await other.join("bob")
        await late.settle()
        bus, heard = late.bus, trio.Event()
        assert isinstance(bus, RedisBus)
        receive = bus.redis.pubsub.receive

        async def receive_late() -> Sequence[Event]:
            events = await receive()
            await heard.wait()
            return events

        monkeypatch.setattr(bus.redis.pubsub, "receive", receive_late)
        late.say("the last message that comes in time")
        await other.expect_chats("the last message that comes in time")
        other.leave("bob")
        await other.settle()
        await late.join("ann", caps=Caps(3))
        heard.set()
        for replica in (late, other):
            # Nothing tells when what came late has been carried out.
            with trio.fail_after(PATIENCE):
                while set(await replica.peers()) != {late.name, other.name, "ann"}:  # noqa: ASYNC110
                    await trio.sleep(0.01)
