"""What a room keeps for a while (reserved ids, bans, locks) on each bus, and its limits."""

from functools import partial
from pathlib import Path

import pytest
import trio.testing
from msgspec.structs import replace

from tests.bus.outages import deploy_with_outages
from tests.bus.test_contract import (  # noqa: F401  fixtures
    NO_CAPS,
    Replica,
    a,
    b,
    c,
    deploy,
    deploy_redis,
    deployment,
)
from tests.clients import PATIENCE
from tests.members import member
from tests.notes.test_contract import age
from tests.redis.server import open_redis_server
from trio_signal.bus import holds as holds_module
from trio_signal.bus.holds import MOST_OF_ROOM, Holds, digest_of
from trio_signal.bus.redis import RedisBus
from trio_signal.errors import JoinRefusedError
from trio_signal.messages.events import Refusal
from trio_signal.messages.identity import Member


async def refusal(replica: Replica, who: Member, room: str = "r") -> Refusal | None:
    """The reason why this member is refused; None if it is admitted."""
    try:
        with trio.fail_after(PATIENCE):
            await replica.enter(room, replace(who, replica=replica.name))
    except JoinRefusedError as error:
        return error.reason
    return None


def ann(subject: str = "mesh ann", dialect: str = "mesh") -> Member:
    return replace(member("ann-1", "ann", subject=subject, dialect=dialect), reserved=True)


async def come_and_go(replica: Replica, who: Member, room: str = "r") -> None:
    assert await refusal(replica, who, room) is None
    replica.leave(who.peer_id, room=room)
    await replica.settle()


async def let_pass(replica: Replica, seconds: float) -> None:
    """Let time pass for reservations and bans."""
    bus = replica.bus
    if isinstance(bus, RedisBus):
        for kind in ("reserved*", "banned"):
            await age(bus.redis, bus._key("room", "*", kind), seconds)
    else:
        clock = trio.lowlevel.current_clock()
        assert isinstance(clock, trio.testing.MockClock)
        clock.jump(seconds)


async def test_only_its_subject_can_use_a_reserved_peer_id(
    a: Replica,  # noqa: F811
    b: Replica,  # noqa: F811
) -> None:
    await come_and_go(a, ann())
    for replica in (a, b):
        assert await refusal(replica, ann("mesh eve")) is Refusal.PEER_ID_IN_USE
        assert await refusal(replica, ann("room ann")) is Refusal.PEER_ID_IN_USE
    assert await refusal(b, ann("mesh eve"), "another") is None
    await come_and_go(b, ann())  # reserved once more
    assert await refusal(a, ann("mesh eve")) is Refusal.PEER_ID_IN_USE
    assert await refusal(a, ann()) is None


async def test_a_peer_id_is_reserved_for_a_minute(
    a: Replica,  # noqa: F811
    b: Replica,  # noqa: F811
    mock_clock: trio.testing.MockClock,
) -> None:
    await come_and_go(a, ann())
    await let_pass(a, 55)
    assert await refusal(b, ann("mesh eve")) is Refusal.PEER_ID_IN_USE
    await let_pass(a, 10)
    assert await refusal(b, ann("mesh eve")) is None


async def test_the_oldest_of_too_many_reserved_ids_is_released(a: Replica, b: Replica) -> None:  # noqa: F811
    for number in range(MOST_OF_ROOM + 1):
        who = replace(member(f"ann-{number}", subject="mesh ann"), reserved=True)
        assert await refusal(a, who) is None
        a.leave(who.peer_id)
    await a.settle()
    for number, expected in ((1, Refusal.PEER_ID_IN_USE), (0, None)):
        who = member(f"ann-{number}", subject="mesh eve")
        assert await refusal(b, who) is expected


async def test_peer_ids_of_a_stopped_replica_stay_reserved(redis_url: str) -> None:
    async with deploy_redis(2, redis_url) as deployed:
        gone, other = deployed.replicas
        assert await refusal(gone, ann()) is None
        assert await refusal(other, member("fence")) is None
        await gone.bus.retire()
        assert await other.peers() == ["fence"]
        assert await refusal(other, ann("mesh eve")) is Refusal.PEER_ID_IN_USE
        assert await refusal(other, ann()) is None


async def test_bans_apply_to_every_dialect(
    a: Replica,  # noqa: F811
    b: Replica,  # noqa: F811
    c: Replica,  # noqa: F811
    mock_clock: trio.testing.MockClock,
) -> None:
    a.bus.holds.ban("r", ann(), 60)
    a.bus.holds.ban("r", ann(), 5)  # the longer ban counts
    await a.settle()
    enter = partial(member, "ann-2", "ann")
    for replica in (a, b, c):
        assert await replica.bus.holds.is_banned("r", "ann", "ann")
        assert not await replica.bus.holds.is_banned("r", "bob", "bob")
        assert not await replica.bus.holds.is_banned("another", "ann", "ann")
        for dialect in ("mesh", "live"):
            assert await refusal(replica, enter(subject=f"{dialect} ann")) is Refusal.NOT_ALLOWED
    assert await refusal(b, enter(subject="mesh ann"), "another") is None
    assert await refusal(b, member("bob", subject="mesh bob")) is None
    await let_pass(a, 55)
    assert await refusal(c, enter(subject="mesh ann")) is Refusal.NOT_ALLOWED
    await let_pass(a, 10)
    assert not await c.bus.holds.is_banned("r", "ann", "ann")
    assert await refusal(c, enter(subject="mesh ann")) is None


async def test_the_number_of_bans_in_a_room_is_bounded(a: Replica, b: Replica) -> None:  # noqa: F811
    for number in range(MOST_OF_ROOM + 1):
        a.bus.holds.ban("r", member(f"x{number}", subject=f"mesh x{number}"), 60 + number)
    await a.settle()
    for number, expected in ((0, None), (1, Refusal.NOT_ALLOWED)):
        who = member(f"x{number}", subject=f"mesh x{number}")
        assert await refusal(b, who) is expected


def test_the_number_of_rooms_with_reservations_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holds_module, "MOST_ROOMS", 2)
    holds = Holds()
    for now, room in enumerate("abc"):
        holds.reserve(room, ann(), now)
    eve = ann("mesh eve")
    assert [holds.is_reserved(room, eve, 3) for room in "abc"] == [False, True, True]


def test_full_room_makes_a_reservation_cost_no_more() -> None:
    class Moment(float):
        """A time that counts how often it is compared."""

        compared = 0

        def __le__(self, other: float) -> bool:
            Moment.compared += 1
            return super().__le__(other)

        def __lt__(self, other: float) -> bool:
            Moment.compared += 1
            return super().__lt__(other)

        def __gt__(self, other: float) -> bool:
            Moment.compared += 1
            return super().__gt__(other)

    holds = Holds()
    for number in range(MOST_OF_ROOM + 100):
        Moment.compared = 0
        holds.reserve("r", replace(member(f"ann-{number}"), reserved=True), Moment(number / 1000))
        assert Moment.compared < 10


def test_of_too_many_bans_the_first_to_end_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(holds_module, "MOST_OF_ROOM", 3)
    holds = Holds()
    for digest, until in (("c", 30), ("a", 10), ("b", 20), ("d", 40)):
        holds.ban("r", digest, until, 0)
    assert sorted(digest for _, digest, _ in holds.bans(0)) == ["b", "c", "d"]
    assert sorted(digest for _, digest, _ in holds.bans(25)) == ["c", "d"]
    holds.lock("r", 5, 6)  # a time in the past
    assert not holds.is_locked("r", 4)


def test_expired_reservations_are_forgotten() -> None:
    holds = Holds()
    holds.reserve("a", ann(), 0)
    holds.reserve("b", ann(), 100)
    assert list(holds._reserved._rooms) == ["b"]


async def test_a_locked_room_refuses_newcomers(
    a: Replica,  # noqa: F811
    b: Replica,  # noqa: F811
) -> None:
    assert await refusal(a, ann()) is None
    a.bus.holds.lock("r", locked=True)
    await a.settle()
    for replica in (a, b):
        assert await replica.bus.holds.is_locked("r")
        assert await refusal(replica, member("bob")) is Refusal.NOT_ALLOWED
        assert await refusal(replica, member("bob"), "another") is None
        replica.leave("bob", room="another")
        await replica.settle()
    assert await refusal(b, ann()) is None  # it has a connection there, and replaces it
    b.bus.holds.lock("r", locked=False)
    await b.settle()
    assert await refusal(a, member("bob")) is None


async def test_joins_during_a_lock_succeed_or_fail_on_all_replicas_alike(
    a: Replica,  # noqa: F811
    b: Replica,  # noqa: F811
    c: Replica,  # noqa: F811
) -> None:
    for number in range(20):
        room = f"r{number}"
        refused: dict[str, object] = {}
        assert await refusal(c, member("fence"), room) is None

        async def join(replica: Replica, name: str, room: str, refused: dict[str, object]) -> None:
            refused[name] = await refusal(replica, member(name), room)

        async def lock(room: str) -> None:
            await trio.lowlevel.checkpoint()
            c.bus.holds.lock(room, locked=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(join, a, "ann", room, refused)
            nursery.start_soon(lock, room)
            nursery.start_soon(join, b, "bob", room, refused)
        for replica in (a, b, c):
            await replica.settle()
        there = {name for name, reason in refused.items() if reason is None} | {"fence"}
        for replica in (a, b, c):
            assert {m.peer_id for m in await replica.bus.members(room)} == there
            assert await refusal(replica, member("late"), room) is Refusal.NOT_ALLOWED


async def test_bans_and_locks_are_written_again_after_redis_was_emptied(redis_url: str) -> None:
    async with deploy_redis(2, redis_url) as deployed:
        one, other = deployed.replicas
        assert isinstance(one.bus, RedisBus)
        assert isinstance(other.bus, RedisBus)
        one.bus.holds.ban("r", ann(), 3600)
        one.bus.holds.lock("locked", locked=True)
        await one.settle()
        await other.settle()
        keys = [one.bus._key("holds"), one.bus._key("room", "r", "banned")]
        await one.bus.redis.delete(*keys, one.bus._key("room", "locked", "locked"))
        other.bus._start_over()  # as after an outage; the replica that set them is gone
        with trio.fail_after(PATIENCE):
            while await refusal(one, ann()) is None:
                one.leave("ann-1")
                await trio.sleep(0.01)
            while await refusal(one, member("bob"), "locked") is None:
                one.leave("bob", room="locked")
                await trio.sleep(0.01)


async def test_bans_and_locks_made_without_redis_are_written_when_it_is_back(
    redis_url: str,
) -> None:
    async with deploy_with_outages(redis_url) as (one, other, redis):
        assert isinstance(other.bus, RedisBus)
        one.bus.holds.lock("unlocked", locked=True)
        await one.settle()
        async with redis.away():
            one.bus.holds.ban("r", ann(), 60)
            one.bus.holds.lock("locked", locked=True)
            one.bus.holds.lock("unlocked", locked=False)
            assert await refusal(one, ann()) is Refusal.NOT_ALLOWED
        known = other.bus.holds.known
        with trio.fail_after(PATIENCE):
            while known.is_locked("unlocked", trio.current_time()):  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert known.is_banned("r", digest_of(ann()), trio.current_time())
        for replica in (one, other):
            assert await refusal(replica, ann()) is Refusal.NOT_ALLOWED
            assert await refusal(replica, member("bob"), "locked") is Refusal.NOT_ALLOWED
            assert await refusal(replica, member(replica.name), "unlocked") is None


async def test_bans_and_locks_that_redis_refused_are_written_when_it_accepts_them(
    tmp_path: Path,
) -> None:
    """The connection stays: nothing else tells that Redis accepts writes again."""
    async with open_redis_server(tmp_path) as server, deploy_redis(2, server.url) as deployed:
        one, other = deployed.replicas
        assert isinstance(one.bus, RedisBus)
        await server.ask("CONFIG", "SET", "maxmemory", "1")
        one.bus.holds.ban("r", ann(), 60)
        one.bus.holds.lock("locked", locked=True)
        await one.bus.redis.ping()
        await server.ask("CONFIG", "SET", "maxmemory", "0")
        with trio.fail_after(PATIENCE):
            while await refusal(other, ann()) is None:
                other.leave("ann-1")
                await trio.sleep(0.05)
            while await refusal(other, member("bob"), "locked") is None:
                other.leave("bob", room="locked")
                await trio.sleep(0.05)
