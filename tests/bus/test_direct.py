"""Signals between two replicas, over a simulated Redis and in simulated time.

Connections are lost, slow, or stuck for a while; a seed decides what happens when.
Each signal is either delivered, or reported to its sender within three seconds; never both.
"""

import heapq
import random
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Any, cast

import pytest
import trio
from msgspec import Raw
from msgspec.json import decode
from trio.testing import MockClock

from tests.effort import EFFORT
from tests.members import AT, member
from trio_signal.bus import Delivery, Undelivered
from trio_signal.bus.redis.direct import DirectSignals
from trio_signal.bus.redis.feed import Feed, Feeds
from trio_signal.bus.redis.lease import RedisClock
from trio_signal.bus.redis.receipts import GIVE_UP, MAX_AGE
from trio_signal.bus.redis.wire import Asked, Confirmed, Numbered, decode_direct
from trio_signal.messages.events import Signalled
from trio_signal.presence import Snapshot
from trio_signal.redis import OutcomeUnknownError
from trio_signal.room import Room

#: The longest outage in seconds.
AWAY = 1.0
#: Seconds for one way to Redis or back, and for a new connection, on a busy machine.
LATE, CONNECTING = 0.1, 1.2
#: Seconds within which a sender gets a report; and if its replica had lost Redis meanwhile, or
#: Redis was slow.
TOLD, TOLD_LATER = 3.0, 8.0
#: Seconds of a run and of the rest after it, and the number of runs.
SECONDS, SETTLING, SEEDS = 15.0, 5.0, 5 * EFFORT

Do = Callable[[], None]
NAMES = ("a", "b")


class World:
    """The schedule of all that happens."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Do]] = []
        self._numbers = count()
        self._new = trio.Event()

    def after(self, seconds: float, do: Do) -> None:
        self.at(trio.current_time() + seconds, do)

    def at(self, time: float, do: Do) -> None:
        heapq.heappush(self._due, (time, next(self._numbers), do))
        self._new.set()

    async def run(self) -> None:
        while True:
            self._new = trio.Event()
            with trio.move_on_at(self._due[0][0] if self._due else float("inf")):
                await self._new.wait()
            while self._due and self._due[0][0] <= trio.current_time():
                heapq.heappop(self._due)[2]()


class Way:
    """One direction of a connection: data arrive in order, or not at all."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.late = LATE
        self._last = 0.0
        self._queue: deque[Do] = deque()
        self._arrived = 0
        self._is_plugged = True

    def carry(self, do: Do) -> None:
        self._last = max(self._last, trio.current_time() + self.late)
        self._queue.append(do)
        self._world.at(self._last, self._arrive)

    def _arrive(self) -> None:
        self._arrived += 1
        self._flow()

    def plug(self, is_plugged: bool) -> None:
        self._is_plugged = is_plugged
        self._flow()

    def _flow(self) -> None:
        while self._is_plugged and self._arrived and self._queue:
            self._arrived -= 1
            self._queue.popleft()()

    def cut(self) -> None:
        self._queue.clear()


class Connection:
    """Both directions of a connection to Redis."""

    def __init__(self, world: World) -> None:
        self.up, self.down = Way(world), Way(world)
        #: When each pending answer was requested, and its callback.
        self.waiting: deque[tuple[float, Callable[[object], None]]] = deque()


class Replica:
    """One replica; it replaces `Redis` for the code under test."""

    def __init__(self, name: str, world: World, others: dict[str, "Replica"]) -> None:
        self.name = name
        self._world = world
        self._others = others
        self.commands: Connection | None = Connection(world)
        self.events: Connection | None = Connection(world)
        #: The last time at which it could not receive.
        self.deaf = 0.0
        self.direct: DirectSignals = cast("DirectSignals", None)

    # The interface used by the code under test

    @property
    def can_send(self) -> bool:
        return self.commands is not None

    @property
    def can_hear(self) -> bool:
        return self.events is not None

    @property
    def connected(self) -> bool:
        return self.can_send and self.can_hear

    @property
    def unanswered(self) -> float:
        waiting = self.commands.waiting if self.commands is not None else ()
        return trio.current_time() - waiting[0][0] if waiting else 0.0

    def send_nowait(
        self, _: str, channel: str, told: bytes, on_reply: Callable[[object], None] | None = None
    ) -> bool:
        connection = self.commands
        if connection is None:
            return False
        connection.waiting.append((trio.current_time(), on_reply or (lambda reply: None)))

        def publish() -> None:
            other = self._others[channel]
            receivers = 0
            if other.events is not None:
                receivers = 1
                other.events.down.carry(lambda: other.hear(told))
            if connection is self.commands:
                connection.down.carry(lambda: connection.waiting.popleft()[1](receivers))

        connection.up.carry(publish)
        return True

    def hear(self, told: bytes) -> None:
        direct = decode_direct(told)
        assert isinstance(direct, Numbered | Confirmed | Asked)
        assert self.direct.take(direct)

    # Faults

    def lose_commands(self, *, last_words: bool) -> None:
        lost, self.commands = self.commands, None
        if lost is None:
            return
        if not last_words:
            lost.up.cut()
        lost.down.cut()
        while lost.waiting:
            lost.waiting.popleft()[1](OutcomeUnknownError("lost"))

    def lose_events(self) -> None:
        lost, self.events = self.events, None
        if lost is not None:
            lost.down.cut()

    def connect(self, *, commands: bool) -> None:
        if commands:
            self.commands = self.commands or Connection(self._world)
        else:
            self.events = self.events or Connection(self._world)
        self.deaf = trio.current_time()
        if self.commands and self.events:
            self.direct.resync()

    def ways(self) -> Iterator[Way]:
        for connection in (self.commands, self.events):
            if connection is not None:
                yield from (connection.up, connection.down)


class Clock:
    """Replaces `Lease` for the code under test: Redis's clock with a small error."""

    def __init__(self, error: float) -> None:
        self.clock = RedisClock()
        now = trio.current_time()
        self.clock.note(now - 0.05 + error, now + 0.05 + error, now + 1e9)


class Keys:
    """Replaces `Directory` for the code under test."""

    def __init__(self, replica: str) -> None:
        self.replica = replica

    def key(self, _: str, name: str) -> str:
        return name


class Scene:
    """Two replicas with one member each, and the outcomes of their signals."""

    def __init__(self, seed: int) -> None:
        self.choice = random.Random(seed)
        self.world = World()
        self.replicas: dict[str, Replica] = {}
        self.members = {name: member(f"peer-{name}", replica=name) for name in NAMES}
        self.sent: dict[tuple[str, int], float] = {}
        self.delivered: defaultdict[str, list[int]] = defaultdict(list)
        self.told: Counter[tuple[str, int]] = Counter()
        self.wrong: list[str] = []
        for name in NAMES:
            replica = self.replicas[name] = Replica(name, self.world, self.replicas)
            room = Room("r", name)
            room.restore(self.members.values())
            room.catch_up(Snapshot(1, tuple(self.members.values())), 0, AT)
            feeds = Feeds()
            feeds["r"] = Feed(room)
            clock = Clock(self.choice.uniform(-0.05, 0.05))
            parts: tuple[Any, ...] = (replica, feeds, Keys(name), clock, self.take)
            replica.direct = DirectSignals(*parts)

    def take(self, delivery: Delivery) -> None:
        now = trio.current_time()
        if isinstance(delivery, Signalled):
            number = decode(bytes(delivery.payload))
            self.delivered[delivery.sender.replica].append(number)
        else:
            assert isinstance(delivery, Undelivered)
            name, number = delivery.signal.sender.replica, decode(bytes(delivery.signal.payload))
            self.told[name, number] += 1
            sent = self.sent[name, number]
            is_late = now > sent + TOLD and self.replicas[name].deaf < sent
            if is_late or now > sent + TOLD_LATER:
                self.wrong.append(f"{name} {number}: told late")

    def send(self, name: str, number: int) -> None:
        other = NAMES[name == NAMES[0]]
        payload = Raw(str(number).encode())
        sender, target = self.members[name], self.members[other]
        signal = Signalled("r", "message", payload, sender, target, "", AT)
        self.sent[name, number] = trio.current_time()
        self.replicas[name].direct.send(other, signal)

    # Faults

    def trouble(self) -> None:
        """Cause a fault that ends within `AWAY`, plus the time to reconnect."""
        self.choice.choice((self.kill, self.kill, self.outage, self.cut_off, self.slow))()

    def connecting(self) -> float:
        return self.choice.uniform(0.02, CONNECTING)

    def kill(self) -> None:
        for _ in range(self.choice.randrange(1, 6)):
            self.world.after(self.choice.uniform(0, 0.6), self.kill_one)

    def kill_one(self) -> None:
        replica = self.replicas[self.choice.choice(NAMES)]
        commands = self.choice.random() < 0.5
        if commands:
            replica.lose_commands(last_words=self.choice.random() < 0.5)
        else:
            replica.lose_events()
        self.world.after(self.connecting(), partial(replica.connect, commands=commands))

    def outage(self) -> None:
        away = self.choice.uniform(0, AWAY)
        last_words = self.choice.random() < 0.5
        for replica in self.replicas.values():

            def lose(replica: Replica = replica) -> None:
                replica.lose_commands(last_words=last_words)
                replica.lose_events()
                for commands in (True, False):
                    again = partial(replica.connect, commands=commands)
                    self.world.after(away + self.connecting(), again)

            self.world.after(self.choice.uniform(0, 0.05), lose)

    def cut_off(self) -> None:
        replica = self.replicas[self.choice.choice(NAMES)]
        away = self.choice.uniform(0, AWAY)
        for way in replica.ways():
            way.plug(False)
            self.world.after(away, partial(way.plug, True))

    def slow(self) -> None:
        replica = self.replicas[self.choice.choice(NAMES)]
        is_up, late = self.choice.random() < 0.5, self.choice.uniform(0.05, 0.8)
        for connection in (replica.commands, replica.events):
            if connection is not None:
                way = connection.up if is_up else connection.down
                way.late = late
                self.world.after(AWAY, partial(setattr, way, "late", LATE))

    def start(self, nursery: trio.Nursery) -> None:
        nursery.start_soon(self.world.run)
        for replica in self.replicas.values():
            nursery.start_soon(replica.direct.run)

    async def play(self) -> None:
        async with trio.open_nursery() as nursery:
            self.start(nursery)
            until, calm = trio.current_time() + SECONDS, trio.current_time() + 1.0
            for number in count():
                if trio.current_time() >= until:
                    break
                self.send(self.choice.choice(NAMES), number)
                if trio.current_time() >= calm:
                    self.trouble()
                    calm = trio.current_time() + AWAY + self.choice.uniform(1.0, 3.0)
                await trio.sleep(self.choice.uniform(0, 0.08))
            await trio.sleep(SETTLING)
            nursery.cancel_scope.cancel()

    def judge(self) -> list[str]:
        for name, number in self.sent:
            came = self.delivered[name].count(number)
            told = self.told[name, number]
            if came + told != 1:
                self.wrong.append(f"{name} {number}: delivered {came} times, told {told} times")
        for name, numbers in self.delivered.items():
            if numbers != sorted(numbers):
                self.wrong.append(f"{name}: out of order")
        return self.wrong


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_each_signal_is_either_delivered_or_reported(
    autojump_clock: MockClock, seed: int
) -> None:
    scene = Scene(seed)
    await scene.play()
    assert scene.judge() == []


@asynccontextmanager
async def open_scene() -> AsyncIterator[Scene]:
    """A scene without any faults but those of the test."""
    scene = Scene(0)
    async with trio.open_nursery() as nursery:
        scene.start(nursery)
        yield scene
        await trio.sleep(SETTLING)
        nursery.cancel_scope.cancel()
    assert scene.judge() == []


async def test_signals_that_cannot_be_confirmed_are_not_delivered(
    autojump_clock: MockClock,
) -> None:
    """The receiver can hear, but cannot send for longer than the sender waits."""
    async with open_scene() as scene:
        b = scene.replicas["b"]
        b.lose_commands(last_words=True)
        for number in range(3):
            scene.send("a", number)
        await trio.sleep(MAX_AGE)
        assert not scene.delivered
        await trio.sleep(TOLD)
        b.connect(commands=True)
    assert len(scene.told) == 3


async def test_signals_are_delivered_in_order_once_they_can_be_confirmed(
    autojump_clock: MockClock,
) -> None:
    async with open_scene() as scene:
        b = scene.replicas["b"]
        b.lose_commands(last_words=True)
        for number in range(3):
            scene.send("a", number)
        await trio.sleep(0.5)
        b.connect(commands=True)
        scene.send("a", 3)
    assert scene.delivered == {"a": [0, 1, 2, 3]}


async def test_a_lost_confirmation_is_repeated(autojump_clock: MockClock) -> None:
    """It is sent as soon as possible, though the receiver cannot hear yet."""
    async with open_scene() as scene:
        b = scene.replicas["b"]
        scene.send("a", 0)
        await trio.sleep(2 * LATE + 0.01)
        assert scene.delivered == {"a": [0]}
        b.lose_events()
        b.lose_commands(last_words=False)
        await trio.sleep(0.5)
        b.connect(commands=True)
        await trio.sleep(TOLD)
        b.connect(commands=False)
    assert not scene.told


async def test_senders_wait_for_a_confirmation_while_redis_is_silent(
    autojump_clock: MockClock,
) -> None:
    """Redis stops after the delivery, and the connections are slow."""
    async with open_scene() as scene:
        ways = [way for replica in scene.replicas.values() for way in replica.ways()]
        for way in ways:
            way.late = 0.3
        scene.send("a", 0)
        await trio.sleep(0.61)
        assert scene.delivered == {"a": [0]}
        for replica in scene.replicas.values():
            assert replica.commands is not None
            replica.commands.up.plug(False)
        scene.replicas["a"].deaf = trio.current_time() + 2.0
        await trio.sleep(2.0)
        for replica in scene.replicas.values():
            assert replica.commands is not None
            replica.commands.up.plug(True)
    assert not scene.told


async def test_senders_wait_for_a_confirmation_while_redis_is_slow(
    autojump_clock: MockClock,
) -> None:
    """The receiver has lost its connection, and needs seconds to reconnect."""
    async with open_scene() as scene:
        for replica in scene.replicas.values():
            for way in replica.ways():
                way.late = 0.5
        scene.send("a", 0)
        await trio.sleep(1.01)
        assert scene.delivered == {"a": [0]}
        scene.replicas["b"].lose_commands(last_words=False)
        # The sender sees how slow Redis is by its own later signals.
        for number in range(1, 40):
            scene.send("a", number)
            await trio.sleep(0.1)
            scene.replicas["a"].deaf = trio.current_time()
            if number == 30:
                scene.replicas["b"].connect(commands=True)
    assert ("a", 0) not in scene.told


async def test_senders_wait_for_a_confirmation_through_several_lost_connections(
    autojump_clock: MockClock,
) -> None:
    """Both replicas lose theirs, each for less than two seconds: five until it arrives."""
    async with open_scene() as scene:
        a, b = scene.replicas.values()
        scene.send("a", 0)
        await trio.sleep(2 * LATE + 0.01)
        assert scene.delivered == {"a": [0]}
        b.lose_commands(last_words=False)
        for _ in range(3):
            a.lose_events()
            await trio.sleep(1.4)
            a.connect(commands=False)
            await trio.sleep(0.2)
        b.connect(commands=True)
    assert not scene.told


async def test_a_replica_that_cannot_hear_does_not_send(autojump_clock: MockClock) -> None:
    """A sender that cannot hear a confirmation would have to report the signal."""
    async with open_scene() as scene:
        a = scene.replicas["a"]
        a.lose_events()
        scene.send("a", 0)
        await trio.sleep(0.5)
        assert not scene.delivered
        a.connect(commands=False)
        await trio.sleep(0.5)
        assert scene.delivered == {"a": [0]}
        a.lose_events()
        scene.send("a", 1)
        await trio.sleep(TOLD)
        assert scene.told == {("a", 1): 1}
        a.connect(commands=False)


async def test_a_sender_that_was_suspended_reads_confirmations_before_giving_up(
    autojump_clock: MockClock,
) -> None:
    """It is suspended right after its first signal."""
    async with open_scene() as scene:
        await trio.sleep(1.0)
        scene.send("a", 0)
        autojump_clock.jump(GIVE_UP)
        await trio.sleep(LATE)
        assert not scene.told


async def test_a_receiver_with_an_uncertain_clock_does_not_deliver_too_late(
    autojump_clock: MockClock,
) -> None:
    """Redis told it the time once, and slowly, so its clock may be seconds behind."""
    async with open_scene() as scene:
        await trio.sleep(5.0)
        b, clock, now = scene.replicas["b"], RedisClock(), trio.current_time()
        clock.note(now - 3.0, now, now - 3.0 + 1e9)
        b.direct._lease.clock = clock
        assert b.events is not None
        b.events.down.late = GIVE_UP - 0.1
        scene.send("a", 0)
        await trio.sleep(TOLD)
        assert scene.told == {("a", 0): 1}
