"""Resuming as the same peer, without sockets: what is kept, and that nothing is lost.

Sessions, hub and dialect are real; only the connection to the client is not.
"""

import json
from contextlib import ExitStack
from random import Random

import pytest

from tests.conftest import settings
from tests.effort import EFFORT
from tests.sessions import Recorder, make_session
from tests.traveller import Traveller
from trio_signal.alarm import Alarms
from trio_signal.auth import OpenAuth
from trio_signal.bus.memory import MemoryBus
from trio_signal.dialects.mesh import MeshDialect
from trio_signal.errors import NotResumedError
from trio_signal.hub import Hub
from trio_signal.messages.events import NotResumedReason
from trio_signal.metrics import Metrics
from trio_signal.participant import Stay
from trio_signal.readers import Readers
from trio_signal.resumption import (
    MOST_BYTES,
    MOST_MESSAGES,
    Allowance,
    Resumption,
)
from trio_signal.rounds import Rounds
from trio_signal.service import Service
from trio_signal.session import Session

SEEDS = 2000 * EFFORT
_SETTINGS, _METRICS, _ROUNDS = settings(), Metrics(), Rounds()


def frames(*numbers: int) -> list[bytes]:
    return [b"%d" % number for number in numbers]


def resumption(
    allowance: Allowance | None = None, limit: int = MOST_BYTES, told: int = 0
) -> Resumption:
    made = Resumption("id", b"ann", Recorder(), allowance or Allowance(), limit=limit)
    for number in range(1, told + 1):
        made.put(b"%d" % number)
    return made


# Kept messages


@pytest.mark.parametrize(
    ("told", "received", "missing"),
    [(0, 0, []), (3, 0, [1, 2, 3]), (3, 2, [3]), (3, 3, [])],
)
def test_unreceived_messages_are_missing(told: int, received: int, missing: list[int]) -> None:
    assert resumption(told=told).missing(received) == frames(*missing)


def test_confirmed_messages_are_dropped() -> None:
    allowance = Allowance()
    kept = resumption(allowance, told=3)
    kept.confirm(2)
    assert (kept.unconfirmed, kept.size, allowance.used) == (1, 1, 1)
    kept.confirm(1)  # an older ping
    kept.confirm(4)  # never sent
    assert kept.missing(2) == frames(3)


@pytest.mark.parametrize(
    ("confirmed", "received", "reason"),
    [(2, 1, NotResumedReason.OVERFLOW), (0, 4, NotResumedReason.UNKNOWN)],
)
def test_impossible_count_is_not_resumed(
    confirmed: int, received: int, reason: NotResumedReason
) -> None:
    kept = resumption(told=3)
    kept.confirm(confirmed)
    with pytest.raises(NotResumedError) as refused:
        kept.missing(received)
    assert refused.value.reason is reason


@pytest.mark.parametrize(
    ("size", "most"), [(1, MOST_MESSAGES), (MOST_BYTES // 4, 4), (MOST_BYTES, 1)]
)
def test_overflowing_session_keeps_nothing(size: int, most: int) -> None:
    allowance = Allowance()
    kept = resumption(allowance)
    for _ in range(most):
        assert kept.put(b"x" * size)
    assert (kept.overflowed, kept.size) == (False, size * most)
    assert kept.put(b"x" * size)  # it is still sent
    assert (kept.overflowed, kept.size, allowance.used) == (True, 0, 0)
    with pytest.raises(NotResumedError, match="OVERFLOW"):
        kept.missing(0)


def test_total_size_of_kept_messages_is_limited() -> None:
    allowance = Allowance(most=1000)
    sessions = [resumption(allowance) for _ in range(10)]
    greedy, *modest = sessions
    for _ in range(20):
        greedy.put(b"x" * 40)
    for each in modest:
        for _ in range(2):
            each.put(b"x" * 40)
    assert [each.overflowed for each in modest] == [False] * 9  # they are below their share
    greedy.put(b"x" * 40)
    assert greedy.overflowed
    assert allowance.used == 9 * 80
    for each in sessions:
        each.end()
    assert (allowance.used, allowance.sessions) == (0, 0)


# Losses in transit


class Way:
    """A connection without a socket, which may lose data in either direction."""

    def __init__(self, world: "World", traveller: Traveller, room: str) -> None:
        self.world = world
        self.outbox = Recorder()
        self.session = make_session("new", MeshDialect(room), self.outbox)
        self.stay = Stay(world.hub, self.session)
        self.stay.__enter__()
        self.up: list[dict[str, object]] = [traveller.hello()]
        self.down: list[dict[str, object]] = [{"type": "auth_required"}]
        self.is_noticed = False


class World:
    """A hub, and two clients that meet in a room and lose their connections."""

    def __init__(self, hub: Hub, service: Service, chance: Random, room: str) -> None:
        self.hub = hub
        self.service = service
        self.chance = chance
        self.room = room
        self.ways: dict[Traveller, Way | None] = {}
        self.lost: list[Way] = []

    async def step(self, who: Traveller) -> None:
        way = self.ways.get(who)
        if way is None:
            self.ways[who] = Way(self, who, self.room)
            return
        match self.chance.choice(["say", "say", "up", "up", "up", "down", "down", "ping", "cut"]):
            case "say" if who.session is not None:
                said = who.say()
                way.up += [said] if who.is_in else []
            case "ping" if who.is_in:
                way.up.append(who.ping())
            case "up":
                await self.carry_up(way)
            case "down":
                self.carry_down(who, way)
            case "cut":
                # Some of the data in transit arrives; the server may notice the end at once, or
                # after the client has resumed.
                for _ in range(self.chance.randrange(3)):
                    await self.carry_up(way)
                    self.carry_down(who, way)
                if self.chance.random() < 0.5:
                    self.notice(way)
                else:
                    self.lost.append(way)
                self.ways[who] = None
        if self.lost and self.chance.random() < 0.2:
            self.notice(self.lost.pop())

    def notice(self, way: Way) -> None:
        """The server notices the end of the connection, as its task does."""
        session = way.stay.participant
        if isinstance(session, Session) and not self.hub.resuming.lose(session):
            way.stay.__exit__(None, None, None)

    async def carry_up(self, way: Way) -> None:
        session = way.session.gone_on or way.session
        if way.up and way.stay.participant is session and session.closed_with is None:
            text = json.dumps(way.up.pop(0)).encode()
            session.received += 1
            await self.service.perform(session, session.dialect.received(text, ""))

    def carry_down(self, who: Traveller, way: Way) -> None:
        way.down += way.outbox.take()
        if way.down:
            way.up += who.hear(way.down.pop(0))

    async def settle(self, travellers: list[Traveller]) -> None:
        """All reconnect, and all data in transit arrives."""
        for who in travellers:
            if self.ways.get(who) is None:
                self.ways[who] = Way(self, who, self.room)
        while True:
            for who in travellers:
                way = self.ways[who]
                assert way is not None
                while way.up or way.down or way.outbox.size:
                    await self.carry_up(way)
                    self.carry_down(who, way)
                if who.kept or not who.is_in:
                    way.up.append(who.ping())
            if not any(way and (way.up or way.outbox.size) for way in self.ways.values()):
                return

    def end(self) -> None:
        for way in [*self.ways.values(), *self.lost]:
            if way is not None:
                way.stay.__exit__(None, None, None)


async def travel(seed: int, *, limit: int) -> tuple[Traveller, Traveller]:
    """Two clients send numbers to each other while their connections are cut."""
    hub = Hub(MemoryBus("a" * 32), resume_grace=10.0, resume_bytes=limit, metrics=_METRICS)
    service = Service(hub, OpenAuth(), _SETTINGS, _METRICS, _ROUNDS, Alarms(), Readers(_ROUNDS))
    world = World(hub, service, Random(seed), "r")
    ann, bob = travellers = [Traveller("ann"), Traveller("bob")]
    await world.settle(travellers)
    for _ in range(40):
        await world.step(world.chance.choice(travellers))
    await world.settle(travellers)
    with ExitStack() as stack:
        stack.callback(world.end)
        return ann, bob


async def test_no_message_is_lost_repeated_or_reordered() -> None:
    resumes = 0
    for seed in range(SEEDS):
        ann, bob = await travel(seed, limit=MOST_BYTES)
        for one, other in ((ann, bob), (bob, ann)):
            assert one.heard == list(range(1, other.number + 1)), seed
            assert one.refusals == [], seed
            resumes += one.resumes
    assert resumes > SEEDS


async def test_losses_are_reported() -> None:
    refusals = 0
    for seed in range(SEEDS // 10):
        ann, bob = await travel(seed, limit=300)
        for one, other in ((ann, bob), (bob, ann)):
            assert one.heard == sorted(set(one.heard)), seed
            assert set(one.refusals) <= {"overflow", "unknown"}, seed
            if not (one.refusals or other.refusals):
                assert one.heard == list(range(1, other.number + 1)), seed
            refusals += len(one.refusals)
    assert refusals > SEEDS // 100
