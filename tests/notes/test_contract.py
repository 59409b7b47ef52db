"""The contract of `trio_signal.notes`, for every implementation."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from uuid import uuid4

import pytest
import trio
import trio.testing

from tests.clients import PATIENCE
from tests.members import AT, member
from trio_signal import notes as notes_module
from trio_signal.messages.events import Chatted
from trio_signal.messages.identity import Profile
from trio_signal.messages.records import GuestUser, RoomInfo
from trio_signal.notes import Bounds, Notes
from trio_signal.notes.memory import MemoryNotes
from trio_signal.notes.redis import RedisNotes
from trio_signal.redis import Redis, open_redis


class Shared:
    """The notes of two replicas, and a way to let time pass for them."""

    def __init__(
        self,
        replicas: Sequence[Notes],
        settle: Callable[[], Awaitable[None]],
        let_pass: Callable[[float], Awaitable[None]],
    ) -> None:
        self.replicas = replicas
        #: Waits until everything that was requested is done.
        self.settle = settle
        self.let_pass = let_pass

    async def contents(self, room_id: str = "r") -> list[str]:
        """The chat of a room, which must be the same on both replicas."""
        await self.settle()
        with trio.fail_after(PATIENCE):
            first, *others = [await notes.chats(room_id, 10_000) for notes in self.replicas]
        assert all(other == first for other in others)
        return [chat.content for chat in first]


@asynccontextmanager
async def share_memory() -> AsyncIterator[Shared]:
    notes = MemoryNotes()

    async def jump(seconds: float) -> None:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(seconds)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(notes.run)
        yield Shared([notes, notes], trio.lowlevel.checkpoint, jump)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def share_redis(url: str) -> AsyncIterator[Shared]:
    prefix = f"{uuid4()}:"
    async with open_redis(url) as one, open_redis(url) as other:

        async def settle() -> None:
            with trio.fail_after(PATIENCE):
                await one.ping()
                await other.ping()

        yield Shared(
            [RedisNotes(one, prefix), RedisNotes(other, prefix)],
            settle,
            partial(age, one, f"{prefix}trio_signal:*"),
        )


async def age(redis: Redis, pattern: str, seconds: float) -> None:
    """Let time pass in Redis: make keys expire sooner."""
    async for key in redis.scan_iter(match=pattern):
        left = await redis.pttl(key)
        assert left != -1, f"{key!r} never expires"
        if left > 0:
            await redis.pexpire(key, left - int(seconds * 1000))


@pytest.fixture
def bounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change the bounds that the test names."""
    for name, value in getattr(request, "param", {}).items():
        monkeypatch.setattr(notes_module, name, value)


def bounded(name: str, *bounds: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("bounds", [{name: Bounds(*bounds)}], indirect=True)


@pytest.fixture(params=["memory", "redis"])
async def shared(request: pytest.FixtureRequest, bounds: None) -> AsyncIterator[Shared]:
    if request.param == "memory":
        async with share_memory() as shared:
            yield shared
    else:
        async with share_redis(request.getfixturevalue("redis_url")) as shared:
            yield shared


@pytest.fixture
def a(shared: Shared) -> Notes:
    return shared.replicas[0]


@pytest.fixture
def b(shared: Shared) -> Notes:
    return shared.replicas[1]


def chat(content: str, room_id: str = "r") -> Chatted:
    return Chatted(room_id, member("ann"), "id", content, None, AT)


# Chat


async def test_chat_is_visible_to_every_replica(shared: Shared, a: Notes, b: Notes) -> None:
    a.keep_chat(chat("one"))
    a.keep_chat(chat("two"))
    await shared.settle()
    b.keep_chat(chat("three"))
    assert await shared.contents() == ["one", "two", "three"]
    assert (await a.chats("r", 10))[0] == chat("one")
    assert [c.content for c in await b.chats("r", 2)] == ["two", "three"]
    assert await b.chats("r", 0) == []
    assert await b.chats("another", 10) == []


async def test_the_oldest_chat_is_forgotten_first(shared: Shared, a: Notes) -> None:
    contents = [str(n) for n in range(1000)]
    for content in contents:
        a.keep_chat(chat(content))
    assert await shared.contents() == contents[-notes_module.CHATS_PER_ROOM :]


async def test_long_messages_are_forgotten_sooner(shared: Shared, a: Notes) -> None:
    """A room's history takes at most a mebibyte, and has more messages if they are short."""
    for n in range(30):
        a.keep_chat(chat(f"{n} {100_000 * 'x'}"))
    long = [content.split()[0] for content in await shared.contents()]
    assert long == [str(n) for n in range(20, 30)]
    for n in range(30):
        a.keep_chat(chat(str(n)))
    kept = [content.split()[0] for content in await shared.contents()]
    assert kept == [*long, *(str(n) for n in range(30))]
    a.keep_chat(chat("x" * (1 << 20)))
    assert await shared.contents() == []
    a.keep_chat(chat("hello"))
    assert await shared.contents() == ["hello"]


@bounded("CHATS", 1_000_000, 1 << 20, 3600)
async def test_chat_of_all_rooms_is_bounded(shared: Shared, a: Notes) -> None:
    for room in ("q", "r", "s", "q"):
        a.keep_chat(chat("x" * 300_000, room))
    assert {room: len(await shared.contents(room)) for room in "qrs"} == {"q": 2, "r": 0, "s": 1}


# Profiles


async def test_a_profile_is_kept_by_room_and_user(a: Notes, b: Notes) -> None:
    assert await a.profile("r", "ann") is None
    await a.remember_profile("r", "ann", Profile("Ann", "pic"))
    assert await b.profile("r", "ann") == Profile("Ann", "pic")
    assert await b.profile("another", "ann") is None
    assert await b.profile("r", "bob") is None


async def test_the_latest_profile_counts(shared: Shared, a: Notes, b: Notes) -> None:
    await a.remember_profile("r", "ann", Profile("Ann", "pic"))
    b.keep_profile("r", "ann", Profile("Anna"))
    await shared.settle()
    assert await a.profile("r", "ann") == Profile("Anna")


@bounded("PROFILES", 7_500, 3_000, 86400)
async def test_the_oldest_profile_is_forgotten_first(a: Notes, b: Notes) -> None:
    long = "p" * 2_000
    for room, user in ("ra", "rb", "sa", "ra", "sb"):
        await a.remember_profile(room, user, Profile(f"{room}{user}", long))
    known = [
        (await b.profile(room, user) or Profile("")).username for room in "rs" for user in "ab"
    ]
    assert known == ["ra", "", "sa", "sb"]


# Rooms of lost connections


async def test_lost_rooms_are_returned_once_on_any_replica(
    shared: Shared, a: Notes, b: Notes
) -> None:
    a.remember_rooms("ann", ["r", "q"])
    a.remember_rooms("bob", ["s"])
    await shared.settle()
    assert set(await b.take_lost_rooms("ann")) == {"q", "r"}
    assert await b.take_lost_rooms("ann") == ()
    assert await a.take_lost_rooms("ann") == ()
    assert await a.take_lost_rooms("bob") == ("s",)


async def test_rooms_of_several_lost_connections_are_returned_together(
    shared: Shared, a: Notes, b: Notes
) -> None:
    a.remember_rooms("ann", ["r", "q"])
    await shared.settle()
    b.remember_rooms("ann", ["q", "s"])
    await shared.settle()
    assert sorted(await a.take_lost_rooms("ann")) == ["q", "r", "s"]


async def test_rooms_of_a_user_are_bounded_in_bytes(shared: Shared, a: Notes) -> None:
    """Even if the connection is lost repeatedly."""
    for n in range(10):
        a.remember_rooms("ann", [f"{n}-{m}-{'x' * 1000}" for m in range(10)])
    await shared.settle()
    kept = await a.take_lost_rooms("ann")
    assert 50 < len(kept) < 65


@bounded("LOST_ROOMS", 5_000, 2_000, 60)
async def test_rooms_of_all_users_are_bounded_in_bytes(shared: Shared, a: Notes) -> None:
    for user in ("ann", "bob", "carl"):
        a.remember_rooms(user, ["x" * 1500])
    await shared.settle()
    assert await a.take_lost_rooms("ann") == ()
    assert await a.take_lost_rooms("bob") == await a.take_lost_rooms("carl") == ("x" * 1500,)


async def test_a_room_left_after_the_loss_is_not_remembered(
    shared: Shared, a: Notes, b: Notes
) -> None:
    a.keep_left("ann", "r", 5)
    a.remember_rooms("ann", ["q", "r"], 10)
    a.keep_left("ann", "q", 20)  # after its loss was noted
    b.keep_left("ann", "s", 20)
    b.keep_left("bob", "r", 20)
    await shared.settle()
    a.remember_rooms("ann", ["s", "t"], 10)
    await shared.settle()
    assert set(await b.take_lost_rooms("ann")) == {"r", "t"}
    a.remember_rooms("ann", ["s"], 30)  # it joined again
    await shared.settle()
    assert await b.take_lost_rooms("ann") == ("s",)
    assert a.has_left("ann", "q", 10)
    assert not a.has_left("ann", "q", 20)
    assert not a.has_left("ann", "t", 0)


async def test_leaves_are_forgotten_after_a_minute(
    shared: Shared, a: Notes, mock_clock: trio.testing.MockClock
) -> None:
    a.keep_left("ann", "r", 20)
    await shared.settle()
    await shared.let_pass(65)
    a.remember_rooms("ann", ["r"], 10)
    await shared.settle()
    assert await a.take_lost_rooms("ann") == ("r",)


async def test_lost_rooms_are_remembered_for_a_minute(
    shared: Shared, a: Notes, mock_clock: trio.testing.MockClock
) -> None:
    a.remember_rooms("ann", ["r"])
    a.remember_rooms("bob", ["r"])
    await shared.settle()
    await shared.let_pass(55)
    assert await a.take_lost_rooms("ann") == ("r",)
    await shared.let_pass(10)
    assert await a.take_lost_rooms("bob") == ()


async def test_each_lost_connection_restarts_the_minute(
    shared: Shared, a: Notes, mock_clock: trio.testing.MockClock
) -> None:
    a.remember_rooms("ann", ["r"])
    await shared.settle()
    await shared.let_pass(55)
    a.remember_rooms("ann", ["q"])
    await shared.settle()
    await shared.let_pass(55)
    assert set(await a.take_lost_rooms("ann")) == {"q", "r"}


async def test_an_expired_room_stays_forgotten(
    shared: Shared, a: Notes, mock_clock: trio.testing.MockClock
) -> None:
    a.remember_rooms("ann", ["r"])
    await shared.settle()
    await shared.let_pass(65)
    a.remember_rooms("ann", ["q"])
    await shared.settle()
    assert await a.take_lost_rooms("ann") == ("q",)


# Guests, and the names of rooms


async def test_a_guest_is_found_by_id_and_by_name(a: Notes, b: Notes) -> None:
    ann = GuestUser("1", "Ann", "Ann A.", created_at=AT)
    await a.keep_user(ann)
    assert await b.user("1") == ann
    assert await b.user("2") is None
    assert await b.user_named("aNN") == ann
    assert await b.user_named("bob") is None


async def test_a_renamed_guest_is_only_found_by_its_new_name(a: Notes, b: Notes) -> None:
    await a.keep_user(GuestUser("1", "Ann"))
    await b.keep_user(GuestUser("1", "Anna"))
    assert await a.user_named("Ann") is None
    assert await a.user_named("Anna") == GuestUser("1", "Anna")


async def test_infos_of_many_rooms_are_read_at_once(a: Notes, b: Notes) -> None:
    rooms = {name: RoomInfo(name, name.upper(), AT, "thumb") for name in "qr"}
    for room in rooms.values():
        await a.keep_room(room)
    assert await b.room_infos(["q", "r", "s"]) == rooms
    assert await b.room_infos([]) == {}


async def test_notes_above_the_size_limit_are_not_kept(a: Notes) -> None:
    await a.keep_user(GuestUser("1", "Ann", bio="x" * 20_000))
    await a.keep_room(RoomInfo("r", "R", AT, "x" * 20_000))
    assert await a.user("1") is None
    assert await a.user_named("Ann") is None
    assert await a.room_infos(["r"]) == {}


@pytest.mark.parametrize(("seconds", "kept"), [(4400, True), (4600, False)])
async def test_a_rooms_info_is_kept_for_an_hour_after_its_last_use(
    shared: Shared, a: Notes, mock_clock: trio.testing.MockClock, seconds: int, kept: bool
) -> None:
    await a.keep_room(RoomInfo("r", "R"))
    await shared.let_pass(3000)
    a.touch_rooms(["r", "s"])
    await shared.settle()
    await shared.let_pass(seconds)
    assert await a.room_infos(["r", "s"]) == ({"r": RoomInfo("r", "R")} if kept else {})
