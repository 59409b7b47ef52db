"""The contract of `trio_signal.bus`, sentence by sentence, for every implementation.

Nothing here knows how a bus works. That something is not delivered is shown by a fence:
events of one replica arrive in order, so what has not arrived before the fence
will not arrive.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TypeVar
from uuid import uuid4

import pytest
import trio
import trio.testing
from msgspec import Raw
from msgspec.structs import replace

from tests.clients import PATIENCE
from tests.members import AT, member
from tests.redis.buses import drain
from tests.redis.server import SERVERS
from trio_signal.bus import Bus, Caps, Delivery, RoomChanged, RoomsKept, Undelivered
from trio_signal.bus.memory import MemoryBus, MemoryNetwork
from trio_signal.bus.redis import RedisBus, open_redis_bus
from trio_signal.errors import JoinRefusedError
from trio_signal.messages.commands import ChangeProfile
from trio_signal.messages.events import (
    Chatted,
    Joined,
    Left,
    News,
    ProfileChanged,
    Refusal,
    Rejoined,
    RoomEvent,
    Signalled,
    StopCause,
    StoppedLive,
    StreamStarting,
    Typing,
    WentLive,
)
from trio_signal.messages.identity import LOBBY, Live, MediaType, Member
from trio_signal.messages.records import RoomCount
from trio_signal.room import Room

NO_CAPS = Caps(peers=1000)
Admitted = Callable[[tuple[Member, ...]], object]

E = TypeVar("E")


def ignore(others: tuple[Member, ...]) -> None:
    """Ignore who is there."""


#: The events of a room, and all other deliveries.
Told = RoomEvent | Delivery


class Replica:
    """One replica: its bus, its rooms, kept as a hub keeps them, and the deliveries to it."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.name = bus.replica
        self.rooms: dict[str, Room] = {}
        self._sender, self._receiver = trio.open_memory_channel[Told](float("inf"))
        #: Called with each delivery, at once.
        self.listener: Callable[[Told], None] = self._sender.send_nowait

    def deliver(self, delivery: Delivery) -> None:
        if not isinstance(delivery, RoomChanged):
            self.listener(delivery)
            return
        for event in delivery.events:
            self.listener(event)
        self._drop_if_empty(delivery.room_id)

    def _drop_if_empty(self, room_id: str) -> None:
        room = self.rooms.get(room_id)
        if room is not None and not room.own and not room.joining:
            del self.rooms[room_id]
            self.bus.forget(room_id)

    async def enter(
        self, room_id: str, who: Member, caps: Caps = NO_CAPS, admitted: Admitted = ignore
    ) -> None:
        """Enter a room; `admitted` is called with the members on other replicas."""
        room = self.rooms.setdefault(room_id, Room(room_id, self.name))

        def admit(_: Sequence[RoomEvent]) -> None:
            assert room.own[who.peer_id] == who
            admitted(tuple(m for m in room.members.values() if m.replica != self.name))

        room.joining += 1
        try:
            await self.bus.join(room, who, caps, admit)
        finally:
            room.joining -= 1
            self._drop_if_empty(room_id)

    async def loses(self, peer_id: str, room_id: str = "r") -> None:
        """Wait until a peer of this replica was replaced by one on another."""
        with trio.fail_after(PATIENCE):
            while room_id in self.rooms and peer_id in self.rooms[room_id].own:
                await self.settle()

    async def next(self) -> Told:
        """The next delivery, whatever it is."""
        with trio.fail_after(PATIENCE):
            told = await self._receiver.receive()
        # The time of sending is not carried.
        return replace(told, at=AT) if isinstance(told, Signalled) else told

    async def expect(self, type_: type[E]) -> E:
        """The next delivery, which must be of this type."""
        delivery = await self.next()
        assert isinstance(delivery, type_), delivery
        return delivery

    async def expect_chats(self, *contents: str) -> None:
        """Check that the next deliveries are these chat messages."""
        for content in contents:
            assert (await self.expect(Chatted)).content == content

    def member(self, peer_id: str, user_id: str | None = None, **fields: str) -> Member:
        return member(peer_id, user_id, replica=self.name, **fields)  # type: ignore[arg-type]

    @property
    def me(self) -> Member:
        """This replica's own peer, with which it meets others."""
        return self.member(self.name)

    async def numbers(self) -> list[tuple[object, ...]]:
        """For each listed room: its id, peers, users and live users."""
        return [count[:4] for count in await self.bus.count_members(await self.bus.room_ids())]

    async def join(
        self,
        peer_id: str,
        user_id: str | None = None,
        *,
        room: str = "r",
        caps: Caps = NO_CAPS,
        subject: str | None = None,
        joined_at: str = "",
    ) -> tuple[Member, ...]:
        """Enter a room; the members that `admit` was called with, exactly once."""
        who = member(peer_id, user_id, replica=self.name, subject=subject)
        who = replace(who, joined_at=joined_at)
        found: list[tuple[Member, ...]] = []
        with trio.fail_after(PATIENCE):
            await self.enter(room, who, caps, found.append)
        (others,) = found
        return others

    async def refusal(
        self, peer_id: str, *, room: str = "r", caps: Caps = NO_CAPS, subject: str | None = None
    ) -> Refusal | None:
        """Try to enter a room; the reason of the refusal, or None if there was none."""
        try:
            await self.join(peer_id, room=room, caps=caps, subject=subject)
        except JoinRefusedError as error:
            return error.reason
        return None

    async def meet(self, *others: "Replica", room: str = "r") -> None:
        """Enter a room together with the others, each with a peer named after its replica."""
        for n, replica in enumerate((self, *others)):
            await replica.join(replica.name, room=room)
            for earlier in (self, *others)[:n]:
                await earlier.expect(Joined)

    def _has(self, peer_id: str, room: str) -> bool:
        return room in self.rooms and peer_id in self.rooms[room].own

    def leave(self, peer_id: str, *, room: str = "r") -> None:
        events: Sequence[RoomEvent] = ()
        if self._has(peer_id, room):
            events = self.rooms[room].leave(peer_id, AT)
        unknown = Left(room, self.member(peer_id), last=True, peers=0, at=AT)
        self._publish(room, events or [unknown])
        self._drop_if_empty(room)

    def _publish(self, room: str, events: Iterable[RoomEvent]) -> None:
        for event in events:
            self.bus.publish(event)

    def go_live(self, peer_id: str, media_type: MediaType = "video", *, room: str = "r") -> None:
        events: Sequence[RoomEvent] = ()
        if self._has(peer_id, room):
            events = self.rooms[room].go_live(peer_id, Live(media_type, AT), AT)
        who = member(peer_id, replica=self.name, live=media_type)
        unknown = WentLive(room, who, News.FIRST, exclusive=False, at=AT)
        self._publish(room, events or [unknown])

    def stop_live(self, peer_id: str, *, room: str = "r") -> None:
        events: Sequence[RoomEvent] = ()
        if self._has(peer_id, room):
            events = self.rooms[room].stop_live(peer_id, AT)
        who = self.member(peer_id)
        unknown = StoppedLive(room, who, last=True, cause=StopCause.STOPPED, at=AT)
        self._publish(room, events or [unknown])

    def rename(self, peer_id: str, username: str, avatar_url: str) -> None:
        change = ChangeProfile("r", "profile", username, avatar_url)
        self._publish("r", self.rooms["r"].change_profile(peer_id, change, AT))

    def say(self, content: str, *, room: str = "r") -> None:
        self.bus.publish(Chatted(room, self.me, "id", content, None, AT))

    def signal(self, target: Member | None, payload: str = '"sdp"') -> Signalled:
        sender = self.me
        return Signalled("r", "offer", Raw(payload.encode()), sender, target, "offer", AT)

    async def peers(self, room: str = "r") -> list[str]:
        """The peers of a room in the directory."""
        with trio.fail_after(PATIENCE):
            return [m.peer_id for m in await self.bus.members(room)]

    async def settle(self) -> None:
        """Wait until all requests of this replica are done: until its next question is answered."""
        await self.peers()


class Deployment:
    """A set of replicas."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = replicas


Deploy = Callable[[int], AbstractAsyncContextManager[Deployment]]


@asynccontextmanager
async def deploy_memory(count: int) -> AsyncIterator[Deployment]:
    """Replicas in one process."""
    network = MemoryNetwork()
    replicas = [Replica(MemoryBus(f"replica-{n}", network)) for n in range(count)]
    async with trio.open_nursery() as nursery:
        for replica in replicas:
            await nursery.start(replica.bus.run, replica.deliver)
        yield Deployment(replicas)
        nursery.cancel_scope.cancel()


class RedisReplica(Replica):
    """A replica that learns about the others later, so that tests must wait for it."""

    def __init__(self, bus: RedisBus, buses: list[Bus]) -> None:
        super().__init__(bus)
        self._redis_bus = bus
        self._buses = buses
        buses.append(bus)

    async def settle(self) -> None:
        with trio.fail_after(PATIENCE):
            await drain(self._redis_bus, self._buses)

    async def peers(self, room: str = "r") -> list[str]:
        await self.settle()
        return await super().peers(room)


@asynccontextmanager
async def deploy_redis(count: int, url: str) -> AsyncIterator[Deployment]:
    """Replicas that share a Redis."""
    prefix = f"{uuid4()}:"
    buses: list[Bus] = []
    async with AsyncExitStack() as stack:
        opened = [
            await stack.enter_async_context(open_redis_bus(url, f"replica-{n}", prefix=prefix))
            for n in range(count)
        ]
        replicas = [RedisReplica(bus, buses) for bus in opened]
        async with trio.open_nursery() as nursery:
            for replica in replicas:
                await nursery.start(replica.bus.run, replica.deliver)
            yield Deployment(replicas)
            nursery.cancel_scope.cancel()


@pytest.fixture(params=["memory", *SERVERS])
def deploy(request: pytest.FixtureRequest) -> Deploy:
    """Runs as many replicas as the test needs."""
    if request.param == "memory":
        return deploy_memory
    return partial(deploy_redis, url=request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
async def deployment(deploy: Deploy) -> AsyncIterator[Deployment]:
    async with deploy(3) as deployment:
        yield deployment


@pytest.fixture
async def a(deployment: Deployment) -> Replica:
    return deployment.replicas[0]


@pytest.fixture
async def b(deployment: Deployment) -> Replica:
    return deployment.replicas[1]


@pytest.fixture
async def c(deployment: Deployment) -> Replica:
    return deployment.replicas[2]


# Joining: who is there, and who is notified


async def test_the_first_to_join_finds_nobody(a: Replica) -> None:
    assert await a.join("ann") == ()
    assert await a.bus.members("r") == (a.member("ann"),)


async def test_a_join_returns_the_members_on_other_replicas(
    a: Replica, b: Replica, c: Replica
) -> None:
    await a.join("ann")
    await b.join("bob")
    assert await c.join("carl") == (a.member("ann"), b.member("bob"))


async def test_live_members_are_known_to_replicas_outside_the_room(a: Replica, b: Replica) -> None:
    assert await b.bus.live("r") == ()
    for name in ("ann", "bob", "carl"):
        await a.join(name)
    assert await b.bus.live("r") == ()
    a.go_live("carl")
    a.go_live("ann")
    await a.settle()
    assert [who.peer_id for who in await b.bus.live("r")] == ["ann", "carl"]
    assert await a.bus.live("r") == await b.bus.live("r")
    a.stop_live("ann")
    a.leave("carl")
    await a.settle()
    assert await b.bus.live("r") == ()


async def test_a_join_returns_no_members_of_its_own_replica(a: Replica, b: Replica) -> None:
    await a.join("ann")
    await b.join("bob")
    assert await a.join("anna") == (b.member("bob"),)


async def test_a_join_returns_no_members_of_other_rooms(a: Replica, b: Replica) -> None:
    await a.join("ann", room="another")
    assert await b.join("bob") == ()


async def test_a_join_returns_who_is_live(a: Replica, b: Replica) -> None:
    await a.join("ann")
    a.go_live("ann", "audio")
    await a.settle()
    (ann,) = await b.join("bob")
    assert ann == replace(a.member("ann"), live=Live("audio", AT))


async def test_a_join_is_told_to_the_other_replicas_of_the_room(
    a: Replica, b: Replica, c: Replica
) -> None:
    await a.join("ann")
    await b.join("bob")
    assert (await a.expect(Joined)).member == b.member("bob")
    await c.join("carl")
    for replica in (a, b):
        joined = await replica.expect(Joined)
        assert (joined.room_id, joined.member) == ("r", c.member("carl"))


async def test_a_join_is_not_told_to_replicas_without_peers_in_the_room(
    a: Replica, b: Replica, c: Replica
) -> None:
    await a.join("ann")
    await c.join("carl", room="another")
    await b.join("bob")
    await b.join("bob", room="another")
    assert (await c.expect(Joined)).room_id == "another"


async def test_admitted_peers_are_in_the_directory(a: Replica) -> None:
    peers: list[str] = []

    async def look() -> None:
        peers.extend(await a.peers())

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await a.enter("r", a.member("ann"), NO_CAPS, lambda _: nursery.start_soon(look))
    assert peers == ["ann"]


class Log:
    """What is delivered to a replica, and when it was admitted to a room meanwhile."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._log: list[Told | None] = []
        self._fence = trio.Event()
        replica.listener = self._listen

    def _listen(self, delivery: Told) -> None:
        self._log.append(delivery)
        if isinstance(delivery, Chatted) and delivery.content == "fence":
            self._fence.set()

    async def join(self, peer_id: str) -> None:
        def admitted(_: tuple[Member, ...]) -> None:
            self._log.append(None)

        with trio.fail_after(PATIENCE):
            await self._replica.enter("r", self._replica.member(peer_id), NO_CAPS, admitted)

    async def after_joining(self) -> list[Told]:
        """The deliveries between `admit` and the fence, which a chat message sets."""
        with trio.fail_after(PATIENCE):
            await self._fence.wait()
        later = self._log[self._log.index(None) + 1 :]
        return [delivery for delivery in later[:-1] if delivery is not None]


async def test_events_from_before_a_replicas_first_join_are_not_delivered(
    a: Replica, b: Replica
) -> None:
    """A replica's last peer leaves and another joins while events are still on their way."""
    await a.meet(b)
    log = Log(a)
    for n in range(20):
        b.say(str(n))
    a.leave(a.name)
    await log.join("anna")
    b.say("fence")
    assert await log.after_joining() == []


async def test_a_peers_events_on_another_replica_are_not_delivered_after_it_joins_here(
    a: Replica, b: Replica
) -> None:
    """A page is reloaded, and the load balancer sends it to another replica."""
    await a.meet(b)
    log = Log(a)
    for n in range(20):
        b.say(str(n))
    await b.join("ann")
    b.go_live("ann")
    b.stop_live("ann")
    b.leave("ann")
    b.say("also said before")
    await log.join("ann")
    b.say("fence")
    assert all(isinstance(delivery, Chatted) for delivery in await log.after_joining())
    assert set(await a.bus.members("r")) == {a.me, b.me, a.member("ann")}


async def test_a_peer_id_taken_twice_belongs_to_the_last_peer(a: Replica, b: Replica) -> None:
    await a.meet(b)
    await a.join("ann")
    await b.expect(Joined)
    log = Log(a)
    for n in range(20):
        b.say(str(n))
    await b.join("ann")
    await log.join("ann")
    await b.loses("ann")
    b.say("fence")
    assert all(isinstance(delivery, Chatted) for delivery in await log.after_joining())
    assert a.member("ann") in await b.bus.members("r")


async def test_a_signal_to_a_peer_that_left_is_delivered_or_reported(
    a: Replica, b: Replica
) -> None:
    """The bus reports it, or leaves that to the hub."""
    await a.meet(b)
    signals = [b.signal(a.me, str(n)) for n in range(20)]
    for signal in signals:
        b.bus.send(a.name, signal)
    a.leave(a.name)
    await a.join("anna")
    for signal in signals:
        if isinstance(b.bus, RedisBus):
            while not isinstance(told := await b.next(), Undelivered):
                assert isinstance(told, Left | Joined)
            assert told == Undelivered(signal)
        else:
            assert await a.next() == signal


class Witness:
    """What a peer of a replica knows about one room: who was there, and what it was told."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.there: set[str] = set()
        self.own: set[str] = set()
        replica.listener = self.hear

    async def join(self, peer_id: str) -> None:
        def admitted(others: tuple[Member, ...]) -> None:
            if not self.own:
                self.there = set()
            if not self.there:
                self.there = {other.peer_id for other in others}
            assert self.there - self.own == {other.peer_id for other in others}
            assert peer_id not in self.there
            self.there.add(peer_id)
            self.own.add(peer_id)

        await self.replica.enter("r", self.replica.member(peer_id), NO_CAPS, admitted)

    def leave(self, peer_id: str) -> None:
        self.there.remove(peer_id)
        self.own.remove(peer_id)
        self.replica.leave(peer_id)

    def hear(self, told: Told) -> None:
        if isinstance(told, Joined):
            assert told.member.peer_id not in self.there, "joined twice"
            self.there.add(told.member.peer_id)
        elif isinstance(told, Left):
            self.there.remove(told.member.peer_id)


async def test_snapshots_and_events_fit_without_gaps_or_duplicates(deployment: Deployment) -> None:
    """Peers come and go on all replicas at once, and some replicas have none at times."""
    views = [Witness(replica) for replica in deployment.replicas]

    async def come_and_go(view: Witness, times: int) -> None:
        for n in range(times):
            peer_id = f"{view.replica.name}-{times}-{n}"
            await view.join(peer_id)
            if n % 2:
                await trio.lowlevel.checkpoint()
            view.leave(peer_id)
            if n % 3:
                await trio.lowlevel.checkpoint()

    with trio.fail_after(3 * PATIENCE):
        async with trio.open_nursery() as nursery:
            for view in views:
                for times in (20, 25, 30):
                    nursery.start_soon(come_and_go, view, times)
        for view in views:
            await view.join(f"{view.replica.name}-stays")
        expected = {f"{replica.name}-stays" for replica in deployment.replicas}
        for view in views:
            while view.there != expected:
                await view.replica.settle()
        assert set(await views[0].replica.peers()) == expected


# Joining: caps


async def admitted(deployment: Deployment, count: int, caps: Caps) -> Counter[Refusal | None]:
    """The outcomes of this many simultaneous joins, spread over the replicas."""
    outcomes: Counter[Refusal | None] = Counter()

    async def attempt(replica: Replica, peer_id: str) -> None:
        outcomes[await replica.refusal(peer_id, caps=caps)] += 1

    async with trio.open_nursery() as nursery:
        for n in range(count):
            replica = deployment.replicas[n % len(deployment.replicas)]
            nursery.start_soon(attempt, replica, f"peer-{n}")
    return outcomes


async def test_a_cap_holds_for_all_replicas_together(deployment: Deployment, a: Replica) -> None:
    outcomes = await admitted(deployment, 30, Caps(peers=10))
    assert outcomes == {None: 10, Refusal.ROOM_FULL: 20}
    assert len(await a.peers()) == 10


async def test_a_cap_on_viewers_does_not_count_live_peers(
    deployment: Deployment, a: Replica
) -> None:
    await a.join("caster")
    a.go_live("caster")
    await a.settle()
    outcomes = await admitted(deployment, 12, Caps(peers=1000, viewers=5))
    assert outcomes == {None: 5, Refusal.STREAM_FULL: 7}
    assert len(await a.peers()) == 6


async def test_a_cap_on_viewers_only_applies_to_joins_with_it(a: Replica) -> None:
    await a.join("viewer")
    assert await a.refusal("caster") is None


async def test_a_cap_applies_to_one_room(a: Replica) -> None:
    await a.join("ann", room="another")
    assert await a.refusal("ann", caps=Caps(peers=1)) is None


async def test_a_place_is_free_after_a_peer_left(a: Replica, b: Replica) -> None:
    caps = Caps(peers=1)
    await a.join("ann", caps=caps)
    assert await b.refusal("bob", caps=caps) is Refusal.ROOM_FULL
    a.leave("ann")
    await a.settle()
    assert await b.refusal("bob", caps=caps) is None


async def test_refused_joins_are_not_visible(a: Replica, b: Replica) -> None:
    await a.join("ann")
    await b.join("bob", room="another")
    found: list[tuple[Member, ...]] = []
    with pytest.raises(JoinRefusedError) as caught:
        await b.enter("r", b.member("bob"), Caps(peers=1), found.append)
    assert caught.value.reason is Refusal.ROOM_FULL
    assert found == []
    assert await a.peers() == ["ann"]
    await b.join("fence")
    assert (await a.expect(Joined)).member == b.member("fence")


async def test_a_room_does_not_exist_if_its_first_join_was_refused(a: Replica) -> None:
    assert await a.refusal("ann", caps=Caps(peers=1, viewers=0)) is Refusal.STREAM_FULL
    assert await a.bus.room_ids() == []
    assert await a.bus.count_rooms() == 0


# Joining: peer ids


async def test_a_peer_id_is_taken_over_by_the_same_subject(
    a: Replica, b: Replica, c: Replica
) -> None:
    await a.join("ann")
    await c.join("carl")
    await a.expect(Joined)
    assert await b.join("ann") == (c.member("carl"),)
    assert await b.bus.members("r") == (b.member("ann"), c.member("carl"))
    await a.loses("ann")
    while c.rooms["r"].members["ann"] != b.member("ann"):
        await c.settle()


async def test_a_peer_id_is_taken_over_on_its_own_replica(a: Replica, b: Replica) -> None:
    await a.meet(b)
    await a.join(a.name)
    assert sorted(await a.peers()) == sorted([a.name, b.name])


async def test_a_replica_that_lost_its_last_peer_receives_no_more_events(
    a: Replica, b: Replica
) -> None:
    await a.join("ann")
    await b.join("ann")
    await a.loses("ann")
    b.say("not for a")
    await a.join("anna")
    b.say("fence")
    await a.expect_chats("fence")


async def test_a_peer_id_of_another_subject_is_refused(a: Replica, b: Replica) -> None:
    await a.join("ann", subject="ann")
    for replica in (a, b):
        refusal = await replica.refusal("ann", subject="somebody else")
        assert refusal is Refusal.PEER_ID_IN_USE
    assert await a.bus.members("r") == (a.member("ann"),)
    await b.join("fence")
    assert (await a.expect(Joined)).member == b.member("fence")


async def test_a_peer_id_in_use_is_refused_in_a_full_room_too(a: Replica, b: Replica) -> None:
    await a.join("ann", subject="ann")
    refusal = await b.refusal("ann", subject="somebody else", caps=Caps(peers=1))
    assert refusal is Refusal.PEER_ID_IN_USE


async def test_a_peer_id_is_taken_over_in_a_full_room_too(a: Replica, b: Replica) -> None:
    await a.join("ann")
    assert await b.refusal("ann", caps=Caps(peers=1, viewers=1)) is None
    await a.loses("ann")
    assert await a.bus.members("r") == (b.member("ann"),)


async def test_a_peer_id_is_free_in_another_room_and_after_its_peer_left(
    a: Replica, b: Replica
) -> None:
    await a.join("ann", subject="ann")
    assert await b.refusal("ann", subject="somebody else", room="another") is None
    a.leave("ann")
    await a.settle()
    assert await b.refusal("ann", subject="somebody else") is None


async def test_one_of_many_subjects_gets_the_peer_id(deployment: Deployment, a: Replica) -> None:
    outcomes: Counter[Refusal | None] = Counter()

    async def attempt(replica: Replica, subject: str) -> None:
        outcomes[await replica.refusal("ann", subject=subject)] += 1

    async with trio.open_nursery() as nursery:
        for n in range(15):
            nursery.start_soon(attempt, deployment.replicas[n % 3], f"subject-{n}")
    assert outcomes == {None: 1, Refusal.PEER_ID_IN_USE: 14}
    assert await a.peers() == ["ann"]


async def test_simultaneous_joins_of_one_subject_make_one_peer(
    deployment: Deployment, a: Replica
) -> None:
    async with trio.open_nursery() as nursery:
        for n in range(15):
            nursery.start_soon(deployment.replicas[n % 3].join, "ann")
    assert await a.peers() == ["ann"]


async def test_the_last_join_of_a_subject_on_one_replica_wins(a: Replica, b: Replica) -> None:
    await a.meet(b)
    let_in: list[str] = []

    async def join(number: int) -> None:
        who = replace(a.member("ann"), joined_at=f"{number:03}")
        await a.enter("r", who, NO_CAPS, lambda _: let_in.append(who.joined_at))

    for first in range(0, 60, 3):
        async with trio.open_nursery() as nursery:
            for number in range(first, first + 3):
                nursery.start_soon(join, number)
        await b.settle()
        (known,) = [who for who in await b.bus.members("r") if who.peer_id == "ann"]
        assert known.joined_at == let_in[-1]


async def test_a_replaced_peer_can_change_nothing(a: Replica, b: Replica) -> None:
    await a.join("anna")
    await a.join("ann")
    await b.join("ann")
    # The replica of the replaced peer may not know yet.
    a.go_live("ann")
    a.stop_live("ann")
    a.leave("ann")
    a.say("fence")
    await b.expect_chats("fence")
    await a.settle()
    assert set(await a.bus.members("r")) == {a.member("anna"), b.member("ann")}


async def test_a_broadcast_ends_with_its_connection(a: Replica, b: Replica) -> None:
    await a.join("ann")
    a.go_live("ann")
    await a.settle()
    await b.join("ann")
    assert await b.bus.members("r") == (b.member("ann"),)


# Joining: cancelled


@pytest.mark.parametrize("steps", range(4))
async def test_a_cancelled_join_followed_by_a_leave_leaves_no_trace(
    a: Replica, b: Replica, steps: int
) -> None:
    await b.join("bob")
    admitted: list[tuple[Member, ...]] = []

    async def join() -> None:
        await a.enter("r", a.member("ann"), NO_CAPS, admitted.append)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(join)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    a.leave("ann")
    await a.settle()
    assert await b.peers() == ["bob"]
    await a.join("fence")
    heard: list[type[RoomEvent]] = []
    while True:
        event = await b.next()
        assert isinstance(event, Joined | Left)
        if event.member.peer_id == "fence":
            break
        heard.append(type(event))
    assert heard in ([], [Joined, Left])
    assert len(admitted) <= 1


async def test_leaving_without_a_join_changes_nothing(a: Replica, b: Replica) -> None:
    await a.meet(b)
    a.leave("nobody")
    a.say("fence")
    await b.expect_chats("fence")
    assert await a.peers() == [a.name, b.name]


# Publishing


async def test_events_arrive_in_order_and_once(a: Replica, b: Replica, c: Replica) -> None:
    await a.meet(b, c)
    contents = [str(n) for n in range(500)]
    for content in contents:
        a.say(content)
    await b.expect_chats(*contents)
    await c.expect_chats(*contents)
    a.say("fence")
    await b.expect_chats("fence")
    await c.expect_chats("fence")


async def test_events_of_each_sender_stay_in_order(a: Replica, b: Replica, c: Replica) -> None:
    await a.meet(b, c)
    for n in range(50):
        a.say(f"a {n:02}")
        b.say(f"b {n:02}")
    heard = [(await c.expect(Chatted)).content for _ in range(100)]
    assert [content for content in heard if content.startswith("a")] == sorted(heard)[:50]
    assert [content for content in heard if content.startswith("b")] == sorted(heard)[50:]


async def test_all_kinds_of_events_arrive(a: Replica, b: Replica) -> None:
    await a.meet(b)
    who, live = a.me, replace(a.me, live=Live("audio", AT))
    events: list[RoomEvent] = [
        Chatted("r", who, "id", "hello", "pic", AT),
        WentLive("r", live, News.FIRST, exclusive=True, at=AT),
        a.signal(None, '{"sdp" :  1e3}'),
        StoppedLive("r", who, last=True, cause=StopCause.REPLACED, at=AT),
        ProfileChanged("r", who, "profile", "before", "a@example.com", "bio", AT),
        Rejoined("r", who, peers=2, at=AT),
        Typing("r", who, typing=True, at=AT),
        StreamStarting("r", who, AT),
        Left("r", who, last=True, peers=1, at=AT),
    ]
    for event in events:
        a.bus.publish(event)
    for event in events:
        assert await b.next() == event


async def test_events_reach_only_the_replicas_of_the_room(
    a: Replica, b: Replica, c: Replica
) -> None:
    await a.meet(b)
    await a.meet(b, c, room="another")
    a.say("here")
    a.say("there", room="another")
    await b.expect_chats("here", "there")
    await c.expect_chats("there")


async def test_a_replica_without_peers_receives_no_more_events(
    a: Replica, b: Replica, c: Replica
) -> None:
    await a.meet(b, c)
    c.leave(c.name)
    await b.expect(Left)
    a.say("not for c")
    await b.expect_chats("not for c")
    await c.join("carla")
    await a.expect(Left)
    await a.expect(Joined)
    a.say("fence")
    await c.expect_chats("fence")


async def test_a_replica_does_not_receive_its_own_events(a: Replica, b: Replica) -> None:
    await a.meet(b)
    await a.join("anna")
    a.go_live("anna")
    a.say("mine")
    a.bus.publish(a.signal(None))
    a.stop_live("anna")
    a.leave("anna")
    for type_ in (Joined, WentLive, Chatted, Signalled, StoppedLive, Left):
        await b.expect(type_)
    b.say("fence")
    await a.expect_chats("fence")


async def test_publishing_to_a_room_that_does_not_exist_does_nothing(
    a: Replica, b: Replica
) -> None:
    await a.meet(b)
    a.say("nobody hears this", room="nowhere")
    a.leave("nobody", room="nowhere")
    a.go_live("nobody", room="nowhere")
    a.say("fence")
    await b.expect_chats("fence")
    assert await a.numbers() == [("r", 2, 2, 0)]


async def test_deliveries_are_made_by_the_buss_own_tasks(a: Replica, b: Replica) -> None:
    tasks: list[trio.lowlevel.Task] = []
    heard = trio.Event()

    def listen(delivery: Told) -> None:
        tasks.append(trio.lowlevel.current_task())
        if isinstance(delivery, Undelivered):
            heard.set()

    b.listener = listen
    await b.join("bob")
    await a.join("ann")
    a.say("hello")
    a.bus.send(b.name, Undelivered(a.signal(None)))
    with trio.fail_after(PATIENCE):
        await heard.wait()
    assert len(tasks) == 3
    assert trio.lowlevel.current_task() not in tasks


# Publishing: the directory


async def test_a_broadcast_is_in_the_directory_while_it_runs(a: Replica, b: Replica) -> None:
    await a.meet(b)
    a.go_live(a.name, "video")
    await b.expect(WentLive)
    assert [m.live for m in await b.bus.members("r")] == [Live("video", AT), None]
    a.stop_live(a.name)
    await b.expect(StoppedLive)
    assert [m.live for m in await b.bus.members("r")] == [None, None]


async def test_peers_that_left_are_not_in_the_directory(a: Replica, b: Replica) -> None:
    await a.meet(b)
    a.leave(a.name)
    await b.expect(Left)
    assert await b.peers() == [b.name]


async def test_a_new_name_changes_all_the_users_peers_in_the_directory(
    a: Replica, b: Replica
) -> None:
    await a.join("ann-1", "ann")
    await b.join("ann-2", "ann")
    await b.join("bob")
    b.rename("ann-2", "Anna", "pic")
    await b.settle()
    assert [(m.peer_id, m.username, m.avatar_url) for m in await b.bus.members("r")] == [
        ("ann-1", "Anna", "pic"),
        ("ann-2", "Anna", "pic"),
        ("bob", "Bob", None),
    ]


async def test_members_are_listed_in_the_order_of_joining(
    a: Replica, b: Replica, c: Replica
) -> None:
    peers = [f"peer-{n * 7 % 12}" for n in range(12)]
    for n, peer_id in enumerate(peers):
        await (a, b, c)[n % 3].join(peer_id, joined_at=f"{n:03}")
    assert await a.peers() == peers
    assert await a.peers("nowhere") == []


async def test_rooms_are_listed_by_id_with_their_counts(a: Replica, b: Replica) -> None:
    await a.join("p", room="zebra")
    await a.join("ann-1", "ann", room="ant")
    await b.join("ann-2", "ann", room="ant")
    await b.join("bob", room="ant")
    await b.join("q", room="gone")
    for replica, peer_id in ((a, "ann-1"), (b, "ann-2"), (b, "bob")):
        replica.go_live(peer_id, room="ant")
    b.leave("q", room="gone")
    await a.settle()
    await b.settle()
    for replica in (a, b, a):
        assert await replica.numbers() == [("ant", 3, 2, 2), ("zebra", 1, 1, 0)]
    assert await a.bus.count_rooms() == 2
    assert await a.bus.count_members(["zebra", "none", "ant"]) == [
        RoomCount("zebra", peers=1, users=1, live=0, since=""),
        RoomCount("ant", peers=3, users=2, live=2, since=""),
    ]
    assert await a.bus.count_members([]) == []


async def test_counts_follow_every_change(a: Replica, b: Replica) -> None:
    await a.join("first", room="s", joined_at="2026-11-20T10:15:30.000001Z")
    await b.join("second", room="s", joined_at="2026-11-20T10:15:31.000001Z")
    (count,) = await b.bus.count_members(["s"])
    assert count == RoomCount("s", 2, 2, 0, since="2026-11-20T10:15:30.000001Z")
    await a.join("ann")
    await b.join("bob")
    for _ in range(2):
        assert await a.numbers() == [("r", 2, 2, 0), ("s", 2, 2, 0)]
    b.go_live("bob")
    await b.settle()
    assert await a.numbers() == [("r", 2, 2, 1), ("s", 2, 2, 0)]
    b.leave("bob")
    await b.settle()
    assert await a.numbers() == [("r", 1, 1, 0), ("s", 2, 2, 0)]
    a.leave("ann")
    await a.settle()
    assert await a.numbers() == [("s", 2, 2, 0)]
    assert await a.bus.count_members(["r"]) == []


@pytest.mark.parametrize("user_id", ['"', "\\", '","user_id":"x', "\\u0022", "😀", "\0"])
async def test_users_with_unusual_ids_are_counted(a: Replica, b: Replica, user_id: str) -> None:
    await a.join("one", user_id)
    await b.join("two", user_id)
    await b.join("three", user_id + "x")
    assert await a.numbers() == [("r", 3, 2, 0)]


async def test_the_lobby_of_an_old_version_is_not_listed(a: Replica, b: Replica) -> None:
    await b.join("bob", room=LOBBY)
    assert await a.bus.room_ids() == []
    assert await a.bus.count_rooms() == 0
    await a.join("ann")
    assert await b.bus.room_ids() == ["r"]
    assert await b.bus.count_rooms() == 1


# Sending to one replica


async def test_deliveries_are_sent_to_one_replica_only(a: Replica, b: Replica, c: Replica) -> None:
    await a.meet(b, c)
    signal = a.signal(b.me, '{"sdp" :  1e3, "sdp": null}')
    a.bus.send(b.name, signal)
    a.bus.send(b.name, Undelivered(signal))
    assert await b.next() == signal
    assert await b.next() == Undelivered(signal)
    a.say("fence")
    await b.expect_chats("fence")
    await c.expect_chats("fence")


async def test_sent_and_published_signals_keep_their_order(a: Replica, b: Replica) -> None:
    await a.meet(b)
    told: list[Told] = []
    for n in range(100):
        signal = a.signal(b.me if n % 3 else None, str(n))
        told.append(signal)
        if n % 3:
            a.bus.send(b.name, signal)
        else:
            a.bus.publish(signal)
    assert [await b.next() for _ in told] == told


async def test_sending_to_an_unknown_replica_does_nothing(a: Replica, b: Replica) -> None:
    await a.meet(b)
    a.bus.send("nowhere", a.signal(member("nobody", replica="nowhere")))
    a.say("fence")
    await b.expect_chats("fence")


async def test_other_replicas_are_told_that_rooms_are_kept(
    a: Replica, b: Replica, c: Replica
) -> None:
    """Even those without any peer, since the user may have reconnected to any of them."""
    await a.meet(b)
    a.bus.broadcast(RoomsKept("ann", a.name, 1.5))
    a.say("fence")
    for replica in (b, c):
        kept = await replica.expect(RoomsKept)
        assert (kept.user_id, kept.heard) == ("ann", 1.5)
    await b.expect_chats("fence")
    b.say("fence")
    await a.expect_chats("fence")


# Failures


async def test_a_failing_delivery_does_not_stop_later_ones(
    a: Replica, b: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    """The room stays correct; the hub handles what its clients were not told."""
    await a.meet(b)
    take = a.listener

    def fail(delivery: Told) -> None:
        a.listener = take
        raise LookupError(type(delivery).__name__)

    a.listener = fail
    await b.join("bob")
    await b.join("eva")
    assert (await a.expect(Joined)).member == b.member("eva")
    await a.settle()
    assert a.rooms["r"].members.keys() == {a.name, b.name, "bob", "eva"}
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.getMessage().startswith("cannot deliver a ")
