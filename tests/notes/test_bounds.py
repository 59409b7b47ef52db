"""The memory that notes take, of every kind, measured in Redis and in this process."""

import gc
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import pytest
import trio
import trio.testing

from tests.clients import PATIENCE
from tests.members import AT, member
from tests.redis.server import RedisServer, open_redis_server
from trio_signal import notes as notes_module
from trio_signal.bus.redis import open_redis_bus
from trio_signal.messages.events import Chatted
from trio_signal.messages.identity import Profile
from trio_signal.messages.records import GuestUser, RoomInfo
from trio_signal.notes import Bounds, Notes
from trio_signal.notes.memory import SWEEP_INTERVAL, MemoryNotes
from trio_signal.notes.redis import RedisNotes
from trio_signal.redis import Redis, open_redis

#: The bound of each kind in these tests, and a factor for allocations that are rounded up.
TOTAL = 1 << 20
SLACK = 1.35

Keep = Callable[[Notes, int], None]


def keep_chat(notes: Notes, n: int) -> None:
    """Short messages in many rooms, some of which have long names."""
    room_id = f"{n // 2}{'r' * (n % 7 * 40)}"
    notes.keep_chat(Chatted(room_id, member("ann"), "id", "x" * (n % 300), None, AT))


def keep_profile(notes: Notes, n: int) -> None:
    notes.keep_profile(f"r{n}", f"user {n}", Profile("Ann", "p" * (n % 5 * 500)))


def keep_profile_in_one_room(notes: Notes, n: int) -> None:
    notes.keep_profile("r", f"user {n}", Profile("Ann", "p" * 20))


def remember_rooms(notes: Notes, n: int) -> None:
    notes.remember_rooms(f"user {n}", [f"{m}{'r' * 200}" for m in range(n % 10)])


def keep_left(notes: Notes, n: int) -> None:
    notes.keep_left(f"user {n // 9}", f"{n}{'r' * 200}", n)


FLOODS = [keep_chat, keep_profile, keep_profile_in_one_room, remember_rooms, keep_left]


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHATS", "PROFILES", "LOST_ROOMS", "LEFT_ROOMS", "USERS", "ROOMS"):
        usual: Bounds = getattr(notes_module, name)
        monkeypatch.setattr(notes_module, name, usual._replace(total=TOTAL))


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with open_redis_server(tmp_path) as server:
        yield server


async def used(redis: Redis) -> int:
    """The bytes that our Redis server holds."""
    info = await redis.info("memory")
    return int(info["used_memory_dataset"])


@pytest.mark.parametrize("flood", FLOODS)
async def test_notes_in_redis_are_bounded(server: RedisServer, bounds: None, flood: Keep) -> None:
    async with open_redis(server.url) as redis:
        notes = RedisNotes(redis, "")
        flood(notes, 0)
        await redis.ping()
        before = await used(redis)
        with trio.fail_after(10 * PATIENCE):
            for n in range(10_000):
                flood(notes, n)
                if n % 500 == 0:
                    await redis.ping()
            await redis.ping()
        taken = await used(redis) - before
        print(f"{flood.__name__}: {taken} bytes, {await redis.dbsize()} keys")
        assert TOTAL / 4 < taken < SLACK * TOTAL
        assert redis.statistics().refused == 0


@pytest.mark.parametrize("flood", FLOODS)
async def test_notes_in_memory_are_bounded(bounds: None, flood: Keep) -> None:
    notes = MemoryNotes()
    gc.collect()
    tracemalloc.start()
    try:
        for n in range(10_000):
            flood(notes, n)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(f"{flood.__name__}: {taken} bytes")
    assert TOTAL / 4 < taken < SLACK * TOTAL


async def test_expired_notes_in_memory_are_removed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    notes = MemoryNotes()
    for keep in FLOODS:
        keep(notes, 1)
    await notes.keep_user(GuestUser("1", "Ann"))
    await notes.keep_room(RoomInfo("r", "R"))
    notes.lose_member("r", member("ann", dialect="room", live="video"), 0.0)
    assert all(len(table) for table in notes.tables)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(notes.run)
        await trio.sleep(notes_module.LOST_ROOMS.seconds + SWEEP_INTERVAL + 1)
        assert len(notes.lost_table) == 0
        await trio.sleep(notes_module.PROFILES.seconds + SWEEP_INTERVAL + 1)
        assert all((len(table), table.size) == (0, 0) for table in notes.tables)
        nursery.cancel_scope.cancel()


async def test_all_keys_in_redis_expire(server: RedisServer) -> None:
    async with open_redis(server.url) as redis:
        notes = RedisNotes(redis, "")
        for keep in FLOODS:
            keep(notes, 3)
        await notes.keep_user(GuestUser("1", "Ann"))
        await notes.keep_room(RoomInfo("r", "R"))
        assert [key for key in await redis.keys() if await redis.ttl(key) == -1] == []


async def test_expired_notes_no_longer_count(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next note subtracts them; otherwise they would push out others."""
    monkeypatch.setattr(notes_module, "USERS", Bounds(TOTAL, 1 << 14, 1))
    async with open_redis(server.url) as redis:
        notes = RedisNotes(redis, "")
        for n in range(50):
            await notes.keep_user(GuestUser(str(n), str(n)))
        with trio.fail_after(PATIENCE):
            while await notes.user("49"):  # noqa: ASYNC110
                await trio.sleep(0.05)
            while await redis.zcard("trio_signal:notes:users:order") != 1:
                await notes.keep_user(GuestUser("ann", "Ann"))
        counted = await redis.hgetall("trio_signal:notes:users:sizes")
        assert counted[b""] == counted[b"ann"]
        assert set(counted) == {b"", b"ann"}


async def test_keys_of_a_wrong_type_are_replaced(server: RedisServer) -> None:
    """Otherwise nothing could be kept under them any more."""
    async with open_redis(server.url) as redis:
        notes = RedisNotes(redis, "")
        keys = ["chats:r", "profiles:r", "lost:ann", "notes:rooms:of:r"]
        for kind in ("chats", "profiles", "lost", "rooms"):
            keys += [f"notes:{kind}:order", f"notes:{kind}:sizes"]
        for key in keys:
            await redis.rpush(f"trio_signal:{key}", "junk")
        await redis.delete("trio_signal:chats:r")
        await redis.set("trio_signal:chats:r", "junk")
        await redis.rpush("trio_signal:chat_bytes:r", "junk")
        notes.keep_chat(Chatted("r", member("ann"), "id", "hello", None, AT))
        await notes.remember_profile("r", "ann", Profile("Ann"))
        notes.remember_rooms("ann", ["r"])
        await notes.keep_room(RoomInfo("r", "R"))
        assert [chat.content for chat in await notes.chats("r", 10)] == ["hello"]
        assert await notes.profile("r", "ann") == Profile("Ann")
        assert await notes.take_lost_rooms("ann") == ("r",)
        assert await notes.room_infos(["r"]) == {"r": RoomInfo("r", "R")}
        assert redis.statistics().refused == 0


async def test_prefixes_separate_notes(redis_url: str) -> None:
    """Any prefix does, since keys are never searched by a pattern."""
    tenant = f"tenant-{uuid4()}"
    async with open_redis(redis_url) as redis:
        one, pattern = RedisNotes(redis, f"{tenant}A:"), RedisNotes(redis, f"{tenant}?:")
        for notes in (one, pattern):
            await notes.remember_profile("r", "ann", Profile("Ann"))
            keep_chat(notes, 0)
        assert await one.profile("r", "ann") == Profile("Ann")
        assert len(await one.chats("0", 10)) == 1


async def test_a_stopping_replica_keeps_the_notes_of_others(redis_url: str) -> None:
    """Even if its prefix is a pattern that matches theirs."""
    tenant = f"tenant-{uuid4()}"
    async with open_redis(redis_url) as redis:
        other = RedisNotes(redis, f"{tenant}A:")
        await other.remember_profile("r", "ann", Profile("Ann"))
        keep_chat(other, 0)
        prefix = f"{tenant}?:"
        async with (
            open_redis_bus(redis_url, "last", prefix=prefix) as bus,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(bus.run, lambda delivery: None)
            await RedisNotes(bus.redis, prefix).remember_profile("r", "bob", Profile("Bob"))
            await bus.retire()
            nursery.cancel_scope.cancel()
        assert await other.profile("r", "ann") == Profile("Ann")
        assert len(await other.chats("0", 10)) == 1
        # Its own notes stay for its successor, and expire.
        assert await RedisNotes(redis, prefix).profile("r", "bob") == Profile("Bob")
