"""The scripts do, step by step, what the directory's model does, which tests of presence use."""

from collections.abc import Iterable
from enum import Enum
from typing import Any, NamedTuple
from uuid import uuid4

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.clients import PATIENCE
from tests.effort import EFFORT
from tests.presence_model import AT, ROOM, left, member, renamed, stopped, went_live
from tests.presence_model import Directory as Model
from trio_signal.bus import Caps
from trio_signal.bus.redis.directory import Directory
from trio_signal.bus.redis.feed import Feed, Feeds
from trio_signal.bus.redis.wire import decode_change
from trio_signal.messages.events import RoomEvent
from trio_signal.messages.identity import Live, Member
from trio_signal.presence import Change
from trio_signal.redis import Message, Redis, open_redis
from trio_signal.room import Room

REPLICAS = ("one", "two", "three")
PEERS = ("p", "q")
CAPS = Caps(100)
#: Milliseconds; longer than a test.
LEASE = 3_600_000


class Verb(Enum):
    JOIN = "join"
    LEAVE = "leave"
    LIVE = "live"
    STOP = "stop"
    RENAME = "rename"
    TOLD_ALREADY = "told already"
    REAP = "reap"
    RESTORE = "restore"


class Step(NamedTuple):
    """One action of a replica, on its own behalf or for any connection that ever existed."""

    verb: Verb
    replica: str
    peer_id: str
    nth: int


steps = st.builds(
    Step,
    st.sampled_from([*Verb, Verb.JOIN, Verb.JOIN]),
    st.sampled_from(REPLICAS),
    st.sampled_from(PEERS),
    st.integers(0, 20),
)


class Both:
    """The model, and Redis with three replicas; each step is done to both."""

    def __init__(self, redis: Redis) -> None:
        self.model = Model()
        self.redis = redis
        prefix = f"{uuid4()}:"
        self.directories = {name: Directory(redis, Feeds(), name, prefix) for name in REPLICAS}
        self.any = self.directories["one"]
        #: The last state of every connection that ever existed.
        self.known: list[Member] = []
        #: The number of the room's last change, in the model and in Redis.
        self.seqs = (0, 0)

    async def begin(self) -> None:
        self.redis.pubsub.subscribe(self.any.room(ROOM))
        await self.redis.pubsub.wait_subscribed(self.any.room(ROOM))
        for name in REPLICAS:
            await self.lease(name)

    async def lease(self, name: str) -> None:
        keys = [self.any.key("replicas"), self.any.key("owned", name)]
        await self.any.scripts.lease(keys, [name, LEASE, 1])

    async def do(self, step: Step) -> None:
        """Do a step, and compare the contents and the notifications."""
        if step.verb is Verb.JOIN:
            await self.join(step)
        elif step.verb is Verb.REAP:
            await self.reap(step.replica)
        elif step.verb is Verb.RESTORE:
            await self.restore(step)
        elif self.known:
            self.change(step.verb, step.nth % len(self.known))
        self.compare_told(await self.told())
        record = await self.any.ask(ROOM)
        assert {*record.members} == {*self.model.members.values()}
        assert {*await self.any.live(ROOM)} == {m for m in record.members if m.live}

    async def join(self, step: Step) -> None:
        joined_at = f"{len(self.known):09}"
        who = member(step.peer_id, step.replica, joined_at=joined_at)
        self.known.append(who)
        self.model.join(who)
        _, read_snapshot = await self.directories[step.replica].join(ROOM, who, CAPS, wanted=True)
        assert read_snapshot is not None
        assert {*read_snapshot().members} == {*self.model.members.values()}

    def change(self, verb: Verb, nth: int) -> None:
        who = self.known[nth]
        directory = self.directories[who.replica]
        if verb is Verb.LEAVE:
            self.model.leave(who)
            directory.leave(left(who))
            return
        event: RoomEvent | None = None
        if verb is Verb.LIVE:
            now = replace(who, live=Live("video", AT))
            event = went_live(now)
        elif verb is Verb.STOP:
            now = replace(who, live=None)
            event = stopped(now)
        else:
            now = replace(who, username=f"{who.username}+")
            event = renamed(now, who.username) if verb is Verb.RENAME else None
        self.known[nth] = now
        self.model.change(who.replica, [now], event)
        directory.change(ROOM, [now], event)

    async def reap(self, name: str) -> None:
        self.model.reap(name)
        keys = [self.any.key("replicas"), self.any.key("rooms"), self.any.key("owned", name)]
        await self.any.scripts.reap(keys, [name, self.any.key("room", ""), AT, 1])
        await self.lease(name)

    async def restore(self, step: Step) -> None:
        """Restore some of the connections that a replica ever had, the last of each peer id."""
        mine = {m.peer_id: m for m in self.known if m.replica == step.replica}
        mine = {p: m for n, (p, m) in enumerate(mine.items()) if step.nth >> n & 1}
        feed = Feed(Room(ROOM, step.replica))
        feed.room.own.update(mine)
        theirs = self.model.restore(step.replica, mine.values())
        ours = await self.directories[step.replica].restore(ROOM, feed)
        assert {*ours.members} == {*theirs.members}

    async def told(self) -> list[Change]:
        """The changes published in the room since the last call."""
        channel, fence = self.any.room(ROOM), str(uuid4()).encode()
        await self.redis.publish(channel, fence)
        told: list[bytes] = []
        while fence not in told:
            told += [
                event.payload
                for event in await self.redis.pubsub.receive()
                if isinstance(event, Message) and event.channel == channel
            ]
        return [decode_change(data) for data in told[:-1]]

    def compare_told(self, told: Iterable[Change]) -> None:
        published, self.model.published = self.model.published, []
        # A hash has no order, so the order in which a reaper removes several peers is random.
        assert in_order(told) == in_order(published)
        for ours, theirs in zip(told, published, strict=True):
            model, redis = self.seqs
            # Continuous, or above all earlier numbers if the room has been restored.
            assert ours.seq == redis + 1 if theirs.seq == model + 1 else ours.seq > redis
            self.seqs = theirs.seq, ours.seq


def in_order(changes: Iterable[Change]) -> list[Any]:
    """The changes grouped by peer, in order for each."""
    return sorted(map(essence, changes), key=lambda done: "" if not done[1] else done[2].peer_id)


def essence(change: Change) -> Any:
    """Who did what; the model has no times and causes."""
    event: Any = change.event
    if event is None:
        return change.origin, None
    who: Member = replace(event.member, live=None)
    return change.origin, type(event).__name__, who


@settings(
    max_examples=15 * EFFORT,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(scenes=st.lists(st.lists(steps, min_size=8, max_size=24), min_size=1, max_size=3))
async def test_redis_does_what_the_model_does(redis_url: str, scenes: list[list[Step]]) -> None:
    async with open_redis(redis_url) as redis:
        for scene in scenes:
            with trio.fail_after(PATIENCE):
                both = Both(redis)
                await both.begin()
                for step in scene:
                    await both.do(step)
