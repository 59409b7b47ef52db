"""The bus of replicas on many machines: Redis is transport and directory.

What Redis holds is in docs/scaling.md. Each replica writes its own members
only. Whatever may have gone wrong between it and Redis, a lost connection, a
command of unknown outcome, a lease that ran out, is mended in one way: the
room is *doubtful*, its members are written again, and a snapshot puts the view
right (`restore.lua`, `trio_signal.presence`).

Redis may be written to by anybody. What comes is read in one place (`Redis.reader`), and
what cannot be is dropped; a room that it may have been of is doubtful. Each second some
rooms are compared with the directory: so what nobody told, or what was told and is not
true, is found as well.
"""

import logging
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Annotated, Any, NamedTuple
from weakref import WeakValueDictionary

import msgspec
import trio
from msgspec import Meta, Struct
from msgspec.structs import replace

from trio_signal.bus import (
    Admit,
    Broadcast,
    BusStatistics,
    Caps,
    Deliver,
    Delivery,
    Direct,
    ReplicaLost,
    RoomCount,
    RoomMembers,
    RoomsKept,
    Undelivered,
)
from trio_signal.bus.announcements import RedisBoard, read_script
from trio_signal.bus.holds import MOST_OF_ROOM, Holds, identity_of
from trio_signal.clock import utc_now
from trio_signal.errors import ConfigError, JoinRefusedError
from trio_signal.messages.events import (
    Joined,
    Left,
    ProfileChanged,
    Refusal,
    RoomEvent,
    Signalled,
    StoppedLive,
    WentLive,
)
from trio_signal.messages.identity import LOBBY, Member, Name, is_inbox, is_internal
from trio_signal.metrics import Histogram
from trio_signal.presence import Change, Snapshot, View, by_peer
from trio_signal.redis import (
    Argument,
    ConfigurationError,
    Lost,
    Message,
    NotConnectedError,
    Overflow,
    PubSubError,
    Redis,
    RedisError,
    ResponseError,
    Resumed,
    Script,
    open_redis,
    read_text,
)
from trio_signal.room import renamed
from trio_signal.supervision import supervise

logger = logging.getLogger(__name__)

#: Seconds for a room to be restored, and for a join before it is made without Redis.
RESTORE_TIMEOUT = 5.0
JOIN_TIMEOUT = 3.0
#: Seconds between tries to catch up.
PAUSE = 0.5
#: Seconds between two comparisons with the directory, and how much is compared each time:
#: each member counts for one, and each room for some.
COMPARING = 1.0
COMPARED = 500
_ROOM_COST = 10
#: How many rooms in which this replica has nobody are compared each time.
_STRANGE_ROOMS = 5
#: How many rooms are to be compared ahead of the others, at most.
_MAX_SUSPECTS = 1000
#: Seconds after an outage for the other replicas to come back, before they count as gone.
PATIENCE = 2.0
#: How many rooms are counted at a time, while Redis does nothing else, and counts that are kept.
_COUNTED_AT_ONCE = 100
_COUNTS = 10_000
_NEVER_COUNTED = b"0", None

_REFUSALS = {
    b"banned": Refusal.NOT_ALLOWED,
    b"in_use": Refusal.PEER_ID_IN_USE,
    b"room_full": Refusal.ROOM_FULL,
    b"stream_full": Refusal.STREAM_FULL,
}


class Echo(Struct, frozen=True, tag=True):
    """What a replica publishes to itself, to see how long that takes; by Trio's clock."""

    sent: Annotated[float, Meta(ge=0, le=2**53)]


class ForAll(Struct, frozen=True):
    """What a replica tells all others."""

    origin: Name
    event: Broadcast


#: What is counted when it cannot be read, by what it should have been.
KINDS = (
    *("member", "change", "direct", "lost", "private", "announcement"),
    *("chat", "profile", "user", "room", "name"),
)

#: What changes who is in a room, or who is live: these are numbered.
_NUMBERED = (Joined, Left, WentLive, StoppedLive, ProfileChanged)

_encode = msgspec.json.Encoder().encode
_decode_member = msgspec.json.Decoder(Member).decode
_decode_change = msgspec.json.Decoder(Change).decode
_decode_direct = msgspec.json.Decoder(Direct | Echo).decode
_decode_kept = msgspec.json.Decoder(RoomsKept).decode
_decode_for_all = msgspec.json.Decoder(ForAll).decode


class _Scripts:
    """The Lua scripts, each in a file of its own."""

    def __init__(self, redis: Redis) -> None:
        def register(*names: str) -> Script:
            return redis.register_script("".join(map(read_script, ("reading", *names))))

        self.join = register("join")
        self.leave = register("reserve", "leave")
        self.ban = register("ban")
        self.change = register("change")
        self.restore = register("reserve", "restore")
        self.snapshot = register("snapshot")
        self.count = register("count")
        self.live = register("live")
        self.lease = register("lease")
        self.reap = register("reserve", "reap")


class _Feed:
    """A room in which this replica has members, or is about to."""

    def __init__(self, room_id: str, replica: str) -> None:
        self.view = View(room_id, replica)
        self.mine: dict[str, Member] = {}
        #: How many joins are on their way.
        self.joining = 0
        #: By peer id: whose turn it is to join. The last that Redis lets in is the last
        #: that is let in here.
        self.turns: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        #: Members of ours on their way: the directory may have them, or not yet.
        self.entering: dict[str, Member] = {}
        #: The last change that came; the view may know of later ones by a snapshot.
        self.heard = 0
        #: Not all that the view has taken in was taken in by the hub.
        self.untold = False
        #: The last number that was seen by asking, and when (Trio's clock).
        self.seen = (0, 0.0)
        self._moved = trio.lowlevel.ParkingLot()

    def note_progress(self) -> None:
        """Wake those who wait for the view to get somewhere."""
        self._moved.unpark_all()

    async def wait_reached(self, seq: int) -> None:
        """Wait until the view has this change, and all that was told before it has come."""
        while not (self.view.in_step and self.view.seq >= seq and self.heard >= seq):
            await self._moved.park()


class RedisBus:
    """One replica's end; see `trio_signal.bus` for what it promises.

    Made by `open_redis_bus`.
    """

    def __init__(self, redis: Redis, replica: str, *, prefix: str, lease: float) -> None:
        """Take an open connection, which the caller closes."""
        self.replica = replica
        self.board = RedisBoard(redis, prefix)
        #: For what else is kept there: one connection is to do for a replica.
        self.redis = redis
        self._redis = redis
        self._prefix = prefix
        self._lease = lease
        self._feeds: dict[str, _Feed] = {}
        self._scripts = _Scripts(redis)
        #: Rooms of which the directory may not say the truth, or we not know it.
        self._doubtful: dict[str, None] = {}
        self._doubt = trio.Event()
        self._has_lease = False
        self._renewing = trio.Lock()
        #: When the lease was last renewed.
        self._renewed = 0.0
        #: Until when a replica that is missing may be about to come back.
        self._patient_until: float | None = None
        self._retired = False
        #: What rooms keep, as far as it began here: for when Redis cannot be asked.
        self._holds = Holds()
        #: Rooms that are to be compared ahead of the others.
        self._suspects: dict[str, None] = {}
        self._leased = trio.Event()
        #: When was sent what came back last: all that was published before has come.
        self._echoed = 0.0
        #: Changes that did not come, as their numbers say.
        self._missing = 0
        #: How many were in a room, and at which change.
        self._counts: dict[str, tuple[bytes, RoomCount]] = {}
        self._delivery = Histogram()
        self._deliver: Deliver = lambda delivery: None

    @property
    def degraded(self) -> str | None:
        """Why peers on other replicas may not be seen as they are; None if all is well."""
        if not self._redis.connected:
            return "Redis cannot be reached"
        if not self._has_lease or self._doubtful or self._patient_until is not None:
            return "catching up with Redis"
        return None

    def statistics(self) -> BusStatistics:
        """How it is doing."""
        redis = self._redis.statistics()
        return BusStatistics(
            commands_connected=redis.commands.connected,
            events_connected=redis.pubsub.connected,
            losses=redis.commands.losses + redis.pubsub.losses,
            round_trip=redis.commands.round_trip,
            lease_age=trio.current_time() - self._renewed if self._has_lease else None,
            send_bytes=redis.waiting_bytes,
            receive_bytes=redis.inbox_bytes,
            missing=self._missing,
            overflows=redis.overflows,
            dropped=redis.dropped,
            unreadable={kind: self._redis.reader.unreadable[kind] for kind in KINDS},
            doubtful_rooms=len(self._doubtful),
            delivery=self._delivery,
        )

    # Names

    def _key(self, *parts: str) -> str:
        return f"{self._prefix}trio_signal:" + ":".join(parts)

    def _room(self, room_id: str) -> str:
        """The channel of a room; its keys begin with the same."""
        return self._key("room", room_id)

    def _room_keys(self, room_id: str) -> list[str]:
        """The first five keys of most scripts; see join.lua."""
        room, owned = self._room(room_id), self._key("owned", self.replica)
        # An inbox is on no list but that of who has to be reaped.
        listed = owned if is_inbox(room_id) else self._key("rooms")
        return [f"{room}:members", f"{room}:live", f"{room}:seq", listed, owned]

    # Life

    async def run(
        self, deliver: Deliver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Follow Redis until cancelled; started also if Redis cannot be reached yet."""
        self._deliver = deliver
        self._redis.pubsub.subscribe(self._key("replica", self.replica))
        self._redis.pubsub.subscribe(self._key("lost"))
        self._redis.pubsub.subscribe(self._key("all"))
        async with trio.open_nursery() as nursery:
            for name, task in (
                ("following Redis", self._follow),
                ("catching up with Redis", self._mend),
                ("keeping the lease", self._keep_lease),
                ("comparing rooms with Redis", self._keep_comparing),
            ):
                nursery.start_soon(supervise, name, task, self._recover)
            await self._leased.wait()
            task_status.started()

    def _recover(self) -> None:
        """One of our tasks failed: nothing that it knew is to be relied on."""
        self._leased.set()
        for feed in self._feeds.values():
            feed.untold = True
        self._doubt_all()
        self.board.doubt()

    async def retire(self) -> None:
        """Take leave: nothing of this replica stays in Redis."""
        self._retired = True
        with suppress(RedisError):
            await self._reap(self.replica, goodbye=True)

    # Leases

    async def _keep_lease(self) -> None:
        """Say once a second that we are alive, and look who is not."""
        pause = min(self._lease / 3, 1.0)
        while True:
            with suppress(RedisError):
                await self._renew_lease()
            self._end_patience()
            if self._redis.connected:
                echo = _encode(Echo(trio.current_time()))
                self._redis.send_nowait("PUBLISH", self._key("replica", self.replica), echo)
            self._leased.set()
            await trio.sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311

    async def _renew_lease(self) -> None:
        async with self._renewing:  # who looks next sees what was done about a lost one
            expired = await self._hold_lease()
        if self._patient_until is None:
            for name in expired:
                replica = self._redis.reader.read("name", read_text, name, self._key("replicas"))
                if replica is None:
                    await self._redis.zrem(self._key("replicas"), name)
                else:
                    await self._reap(replica)

    async def _hold_lease(self) -> list[bytes]:
        """Renew the lease, or take a new one; the replicas whose leases ran out."""
        keys, milliseconds = [self._key("replicas")], int(self._lease * 1000)
        held, expired = await self._scripts.lease(keys, [self.replica, milliseconds, 0])
        if not held:
            if self._retired:
                return []
            # Before the new lease: with it a room is restored first of all. To the other
            # replicas we are back in a room as soon as it has any member of ours.
            self._doubt_all()
            if self._has_lease:
                self._patient_until = trio.current_time() + PATIENCE
            _, expired = await self._scripts.lease(keys, [self.replica, milliseconds, 1])
            if self._has_lease:  # perhaps somebody emptied Redis
                self.board.doubt()
        now = trio.current_time()
        if self._has_lease and (not held or now > self._renewed + self._lease):
            logger.warning("the lease of this replica ran out: its peers are put back")
            self._patient_until = now + PATIENCE
        self._has_lease = True
        self._renewed = now
        return list(expired)

    def _end_patience(self) -> None:
        """Whoever has not come back after an outage is gone."""
        if self._patient_until is not None and trio.current_time() > self._patient_until:
            self._patient_until = None
            self._doubt_all()

    async def _reap(self, replica: str, *, goodbye: bool = False) -> None:
        keys = [self._key("replicas"), self._key("rooms"), self._key("owned", replica)]
        args: list[Argument] = [replica, self._key("room", ""), utc_now(), int(goodbye)]
        until, *taken = await self._scripts.reap(keys, args)
        if taken and not goodbye:
            logger.warning("replica %s is gone: %d peers have left", replica, len(taken) // 2)
            members = tuple(self._read_taken(replica, taken))
            self._hand_over(ReplicaLost(replica, until / 1000 - self._lease, members))

    def _read_taken(self, replica: str, taken: list[bytes]) -> Iterator[tuple[str, Member]]:
        """The rooms and members that a script took out, as far as they can be read."""
        read, key = self._redis.reader.read, self._key("owned", replica)
        for name, value in zip(taken[::2], taken[1::2], strict=True):
            room_id = read("name", read_text, name, key)
            member = read("member", _decode_member, value, key)
            if room_id is not None and member is not None:
                yield room_id, member

    # Following

    async def _follow(self) -> None:
        """Take in what is published."""
        while True:
            for event in await self._redis.pubsub.receive():
                match event:
                    case Message(channel=channel, payload=payload):
                        self._take(channel, payload)
                    case Lost(reason=reason):
                        logger.error("Redis is lost, peers of this replica go on: %s", reason)
                        self._start_over()
                    case Overflow():
                        logger.error("more came from Redis than could be taken: catching up")
                        self._doubt_all()
                        self.board.doubt()
                    case Resumed():
                        logger.warning("Redis is back: catching up")
                        self._doubt_all()
                        self.board.doubt()

    def _take(self, channel: str, payload: bytes) -> None:
        """Take in a message, which may be of anybody; does not raise."""
        try:
            if channel == self.board.channel:
                self.board.take(payload)
            elif channel == self._key("replica", self.replica):
                self._take_direct(channel, payload)
            elif channel == self._key("lost"):
                self._take_kept(channel, payload)
            elif channel == self._key("all"):
                self._take_for_all(channel, payload)
            else:
                room_id = channel.removeprefix(self._key("room", ""))
                self._take_change(room_id, channel, payload)
        except Exception:
            logger.exception("cannot take in what came on %s", ascii(channel))
            self._recover()

    def _take_direct(self, channel: str, payload: bytes) -> None:
        delivery = self._redis.reader.read("direct", _decode_direct, payload, channel)
        if isinstance(delivery, Echo):
            self._take_echo(delivery.sent)
        elif delivery is not None:
            self._hand_over(delivery)

    def _take_echo(self, sent: float) -> None:
        now = trio.current_time()
        if self._echoed < sent <= now:
            self._echoed = sent
            self._delivery.observe(now - sent)

    def _take_for_all(self, channel: str, payload: bytes) -> None:
        told = self._redis.reader.read("private", _decode_for_all, payload, channel)
        if told is not None and told.origin != self.replica:
            self._hand_over(told.event)

    def _take_kept(self, channel: str, payload: bytes) -> None:
        kept = self._redis.reader.read("lost", _decode_kept, payload, channel)
        if kept is not None and kept.replica != self.replica:
            self._hand_over(kept)

    def _take_change(self, room_id: str, channel: str, payload: bytes) -> None:
        feed = self._feeds.get(room_id)
        if feed is None:
            return  # the last of us has left
        change = self._redis.reader.read("change", _decode_change, payload, channel)
        if change is None:
            # If it was numbered, the number is missed now, or by the next comparison: a
            # room is not to be restored for each message that another replica lets through.
            self._suspect(room_id)
        elif self._is_believed(feed, change):
            self._follow_change(feed, change)
        else:
            self._redis.reader.drop("change", channel, "it is not for its sender to say")
            feed.view.lose_step()
            self._doubt_room(room_id)

    def _is_believed(self, feed: _Feed, change: Change) -> bool:
        """Whether this may be, as far as one sees: of our own peers nobody else tells."""
        event = change.event
        if event is None:
            return change.seq > 0
        if event.room_id != feed.view.room_id:
            return False
        if not change.seq:
            return not isinstance(event, _NUMBERED)
        if isinstance(event, ProfileChanged):
            return True
        if not isinstance(event, _NUMBERED) or event.member.replica != change.origin:
            return False
        # Somebody may have joined in place of a peer of ours; the directory has let it.
        is_ours = event.member.peer_id in feed.mine and change.origin != self.replica
        return isinstance(event, Joined) or not is_ours

    def _follow_change(self, feed: _Feed, change: Change) -> None:
        if not change.seq:
            if feed.mine and change.event is not None and change.origin != self.replica:
                self._hand_over(change.event)
            return
        feed.heard = max(feed.heard, change.seq)
        in_step = feed.view.in_step
        self._tell(feed, feed.view.follow(change))
        # It may be a newer connection that left, before it was let in.
        ours_left = isinstance(change.event, Left) and change.event.member.peer_id in feed.mine
        missed = in_step and not feed.view.in_step
        self._missing += missed and change.event is not None
        if ours_left or missed:
            self._doubt_room(feed.view.room_id)

    def _tell(self, feed: _Feed, events: Iterable[RoomEvent]) -> None:
        """Deliver what happened on other replicas, and what it does to our own members."""
        for event in events:
            here = bool(feed.mine)
            if isinstance(event, Joined):
                feed.mine.pop(event.member.peer_id, None)  # taken over
            elif isinstance(event, ProfileChanged):
                self._rename(feed, event.member)
            if here:  # else there is nobody to be told; who comes gets a picture
                self._hand_over(event)
        feed.note_progress()
        self._drop_if_empty(feed)

    def _hand_over(self, delivery: Delivery) -> None:
        """Deliver one thing; if that fails, it is told by what the room is then."""
        try:
            self._deliver(delivery)
        except Exception:
            logger.exception("cannot deliver a %s", type(delivery).__name__)
            feed = self._feeds.get(getattr(delivery, "room_id", ""))
            if feed is not None and not isinstance(delivery, RoomMembers):
                feed.untold = True
                self._doubt_room(feed.view.room_id)

    def _rename(self, feed: _Feed, named: Member) -> None:
        """A user with peers here as well is called something else, by another replica."""
        args: list[Argument] = [self.replica, self._room(feed.view.room_id), ""]
        for peer_id, member in feed.mine.items():
            if member.user_id == named.user_id:
                member = renamed(member, named.username, named.avatar_url)
                feed.mine[peer_id] = member
                args += _entry(member)
        if len(args) > 3:
            self._run(self._scripts.change, feed.view.room_id, args)

    # Doubt, and how it is mended

    def _start_over(self) -> None:
        for feed in self._feeds.values():
            feed.view.start_over()

    def _doubt_room(self, room_id: str) -> None:
        self._doubtful[room_id] = None
        self._doubt.set()

    def _doubt_all(self) -> None:
        self._start_over()
        self._doubtful |= dict.fromkeys(self._feeds)
        self._doubt.set()

    async def _mend(self) -> None:
        """Restore rooms for as long as any is doubtful."""
        while True:
            await self._doubt.wait()
            self._doubt = trio.Event()
            await self._redis.wait_connected()
            try:
                # First, as it says whether Redis has forgotten us.
                await self._renew_lease()
                for room_id in list(self._doubtful):
                    with trio.fail_after(RESTORE_TIMEOUT):
                        await self._restore(room_id)
            except (RedisError, trio.TooSlowError) as error:
                logger.warning("cannot catch up with Redis yet: %s", error)
                await trio.sleep(PAUSE)
                self._doubt.set()

    async def _restore(self, room_id: str) -> None:
        """Write our members of a doubtful room, and put the view right."""
        feed = await self._subscribed_feed(room_id)
        if room_id not in self._doubtful:
            return  # another task was faster
        if feed is not None:
            # What has come until now the snapshot has, or it is not true.
            feed.view.start_over()
            feed.heard = 0
            losses = feed.view.losses
        args: list[Argument] = [self.replica, room_id, self._room(room_id)]
        if feed is not None:
            for member in feed.entering.values():
                args += (member.peer_id, _encode(member), "?")
            for member in feed.mine.values():
                args += _entry(member)
        # What becomes doubtful from here on is so anew.
        del self._doubtful[room_id]
        try:
            seq, members = await self._ask_to_restore(room_id, args)
        except BaseException:
            self._doubt_room(room_id)
            raise
        if feed is not None:
            feed.heard = max(feed.heard, seq)  # what has not come until now is lost
            self._catch_up(feed, losses, seq, members)

    async def _ask_to_restore(self, room_id: str, args: list[Argument]) -> tuple[int, list[bytes]]:
        keys = [*self._room_keys(room_id), self._key("replicas")]
        status, *rest = await self._scripts.restore(keys, args)
        if status == b"lease":
            raise NotConnectedError("the lease of this replica ran out")
        seq, members = rest
        return seq, members

    async def _subscribed_feed(self, room_id: str) -> _Feed | None:
        """The feed of a room; while its channel is waited for, it may become another one."""
        while room_id in self._feeds:
            with suppress(PubSubError):  # it was dropped
                await self._redis.pubsub.wait_subscribed(self._room(room_id))
                return self._feeds.get(room_id)
        return None

    def _catch_up(self, feed: _Feed, losses: int, seq: int, members: Iterable[bytes]) -> None:
        snapshot = Snapshot(seq, self._read_members(feed.view.room_id, members))
        patient = self._patient_until is not None
        self._tell(feed, feed.view.catch_up(snapshot, losses, utc_now(), patient=patient))
        if not feed.view.in_step or feed.mine.keys() - feed.view.own:
            self._doubt_room(feed.view.room_id)
        elif feed.untold and feed.mine:
            feed.untold = False
            self._hand_over(RoomMembers(feed.view.room_id, (*feed.view.members.values(),)))

    def _read_members(self, room_id: str, records: Iterable[bytes]) -> tuple[Member, ...]:
        """Those of them that can be read."""
        key = f"{self._room(room_id)}:members"
        read = self._redis.reader.read
        found = [read("member", _decode_member, record, key) for record in records]
        members = [member for member in found if member is not None]
        if len(members) < len(found):
            self._suspect(room_id)
        return _in_order(members)

    # Comparing with the directory

    def _suspect(self, room_id: str) -> None:
        """Compare this room soon; does not block."""
        if len(self._suspects) < _MAX_SUSPECTS:
            self._suspects[room_id] = None

    async def _keep_comparing(self) -> None:
        """See to it that rooms are as the directory has them, and it as it should be."""
        credit = 0
        turn: list[str] = []
        while True:
            await trio.sleep(COMPARING * random.uniform(0.9, 1.1))  # noqa: S311
            await self._redis.wait_connected()
            credit = min(credit, 0) + COMPARED
            if not turn:
                turn = [*self._feeds]
            with suppress(RedisError):
                rooms = [*self._suspects, *await self._strange_rooms()]
                self._suspects.clear()
                while credit > 0 and (rooms or turn):
                    credit -= _ROOM_COST + await self._compare((rooms or turn).pop())

    async def _strange_rooms(self) -> list[str]:
        """Some of the rooms in which this replica has nobody, perhaps no replica has."""
        key = self._key("rooms")
        try:
            names: Any = await self._redis.srandmember(key, _STRANGE_ROOMS)
        except ResponseError:  # it is of another type
            await self._redis.unlink(key)
            self._doubt_all()
            return []
        rooms = await self._read_rooms(names)
        return [room_id for room_id in rooms if room_id not in self._feeds]

    async def _read_rooms(self, names: Iterable[bytes]) -> list[str]:
        """Those of them that can be read; the others are no rooms of ours."""
        key = self._key("rooms")
        rooms = []
        for name in names:
            room_id = self._redis.reader.read("name", read_text, name, key)
            if room_id is None:
                await self._redis.srem(key, name)
            else:
                rooms.append(room_id)
        return rooms

    async def _compare(self, room_id: str) -> int:
        """Doubt a room that is not as the directory has it; how many members that has."""
        feed = self._feeds.get(room_id)
        if self._patient_until is not None or room_id in self._doubtful:
            return 0
        if feed is not None and not feed.view.in_step:
            return 0
        before = _Ours(feed) if feed is not None else None
        asked = trio.current_time()
        try:
            directory = await self._ask_directory(room_id)
        except ResponseError:
            self._doubt_room(room_id)
            return 0
        if self._patient_until is not None or self._feeds.get(room_id) is not feed:
            return directory.size
        if not directory.is_sound or self._differs(feed, before, directory, asked):
            logger.warning("room %s is not as Redis has it: it is restored", ascii(room_id[:200]))
            self._doubt_room(room_id)
        return directory.size

    def _differs(
        self, feed: _Feed | None, before: "_Ours | None", directory: "_Directory", asked: float
    ) -> bool:
        if feed is None or before is None:
            return any(member.replica == self.replica for member in directory.members)
        view, (seen, when) = feed.view, feed.seen
        if not view.in_step:
            return False
        feed.seen = (directory.seq, asked)
        if directory.seq < before.seq:  # it was set back
            return True
        if view.seq < seen and when < self._echoed:  # one should have come
            return True
        if directory.seq != view.seq:
            return False  # changes are on their way, here or there
        others = {m.peer_id: m for m in directory.members if m.replica != self.replica}
        own = {m.peer_id: m for m in directory.members if m.replica == self.replica}
        known = {p: m for p, m in view.members.items() if p not in view.own}
        return (
            _essence(others) != _essence(known)
            or not own.keys() <= before.members.keys() | before.entering
            or any(own.get(p) != m for p, m in before.members.items() if feed.mine.get(p) is m)
        )

    async def _ask_directory(self, room_id: str) -> "_Directory":
        room = self._room(room_id)
        keys = [f"{room}:members", f"{room}:seq", self._key("replicas")]
        seq, records, names = await self._scripts.snapshot(keys)
        members = self._read_members(room_id, records)
        replicas = {*names}
        answered = tuple(m for m in members if m.replica.encode() in replicas)
        is_sound = len(answered) == len(records)
        return _Directory(seq, answered, len(records), is_sound)

    # Joining

    async def join(self, room_id: str, member: Member, caps: Caps, admit: Admit) -> None:
        """Enter a room; raises JoinRefusedError."""
        feed = self._feeds.get(room_id)
        if feed is None:
            feed = self._feeds[room_id] = _Feed(room_id, self.replica)
            self._redis.pubsub.subscribe(self._room(room_id))
        feed.joining += 1
        turn = feed.turns.setdefault(member.peer_id, trio.Lock())
        try:
            async with turn:
                with self._on_its_way(feed, member):
                    await self._enter(feed, member, caps)
                taken_over = feed.view.claim(member.peer_id, utc_now())
                if not taken_over and member.peer_id not in feed.view.own:
                    self._doubt_room(room_id)
                feed.mine[member.peer_id] = member
                admit(_in_order(feed.view.members.values()))
                self._tell(feed, taken_over)
        finally:
            feed.joining -= 1
            self._drop_if_empty(feed)

    @contextmanager
    def _on_its_way(self, feed: _Feed, member: Member) -> Iterator[None]:
        """While a member enters, a restore leaves it in the directory if it is there."""
        feed.entering[member.peer_id] = member
        try:
            yield
        except trio.Cancelled:
            if member.peer_id in feed.mine:  # nobody knows whether it has been replaced
                self._doubt_room(feed.view.room_id)
            raise
        finally:
            del feed.entering[member.peer_id]

    async def _enter(self, feed: _Feed, member: Member, caps: Caps) -> None:
        """Ask Redis; without it the peers of one replica go on, and it is told when it is back."""
        try:
            with trio.fail_after(JOIN_TIMEOUT):
                await self._join(feed, member, caps)
        except (RedisError, trio.TooSlowError):
            self._check_holds(feed, member)
            _check_caps(feed, member, caps)
            feed.view.claim_unasked(member.peer_id)
            self._doubt_room(feed.view.room_id)

    def _check_holds(self, feed: _Feed, member: Member) -> None:
        """Who has to stay out, as far as this replica can tell, while Redis cannot."""
        room_id, now = feed.view.room_id, trio.current_time()
        if self._holds.is_banned(room_id, member, now):
            raise JoinRefusedError(Refusal.NOT_ALLOWED)
        if self._holds.is_reserved(room_id, member, now):
            raise JoinRefusedError(Refusal.PEER_ID_IN_USE)

    async def _join(self, feed: _Feed, member: Member, caps: Caps) -> None:
        if not self._redis.connected:
            raise NotConnectedError("Redis cannot be reached")
        await self._redis.pubsub.wait_subscribed(self._room(feed.view.room_id))
        if feed.view.room_id in self._doubtful:
            await self._restore(feed.view.room_id)
        losses = feed.view.losses
        status, *rest = await self._ask_to_join(feed, member, caps)
        if status == b"later":
            # By its clock. We are here to ask again, so it is we who are the newer one.
            status, *rest = await self._ask_to_join(feed, member, caps, insist=True)
        if status in _REFUSALS:
            raise JoinRefusedError(_REFUSALS[status])
        if status == b"lease":
            raise NotConnectedError("the lease of this replica ran out")
        seq, members = rest
        if members is not None and not feed.view.in_step:
            self._catch_up(feed, losses, seq, members)
        # What happened before this, on any replica, belongs into the picture that
        # the newcomer gets; it comes by the other connection, in its own time.
        await feed.wait_reached(seq)

    async def _ask_to_join(
        self, feed: _Feed, member: Member, caps: Caps, *, insist: bool = False
    ) -> Any:
        room_id = feed.view.room_id
        joined = Joined(room_id, member, first=False, peers=0, at=utc_now())
        return await self._scripts.join(
            [*self._room_keys(room_id), self._key("replicas")],
            [
                *(self.replica, room_id, member.peer_id, member.subject),
                *(_encode(member), _encode(joined)),
                *(caps.peers, -1 if caps.viewers is None else caps.viewers),
                *(self._room(room_id), int(not feed.view.in_step), int(insist)),
                identity_of(member),
            ],
        )

    def _drop_if_empty(self, feed: _Feed) -> None:
        room_id = feed.view.room_id
        if not feed.mine and not feed.joining and self._feeds.get(room_id) is feed:
            del self._feeds[room_id]
            self._redis.pubsub.unsubscribe(self._room(room_id))
            self._redis.send_nowait("SREM", self._key("owned", self.replica), room_id)

    # Publishing

    def publish(self, event: RoomEvent) -> None:
        """Tell the room's other replicas, and bring the directory up to date."""
        feed = self._feeds.get(event.room_id)
        match event:
            case Left(member=member):
                self._leave(feed, event)
            case WentLive(member=member) | StoppedLive(member=member):
                known = feed.mine.get(member.peer_id) if feed is not None else None
                if feed is not None and known is not None:
                    feed.mine[member.peer_id] = replace(known, live=member.live)
                    self._change(event, [feed.mine[member.peer_id]])
            case ProfileChanged():
                if feed is not None:
                    self._publish_profile(feed, event)
            case _:
                self._publish_only(event)

    def _leave(self, feed: _Feed | None, event: Left) -> None:
        room_id, peer_id = event.room_id, event.member.peer_id
        if feed is not None:
            feed.mine.pop(peer_id, None)
        self._holds.reserve(room_id, event.member, trio.current_time())
        args: list[Argument] = [self.replica, room_id, peer_id, _encode(event), self._room(room_id)]
        self._run(self._scripts.leave, room_id, args)
        if feed is not None:
            self._drop_if_empty(feed)

    def _publish_profile(self, feed: _Feed, event: ProfileChanged) -> None:
        named = event.member
        members = [
            renamed(member, named.username, named.avatar_url)
            for member in feed.mine.values()
            if member.user_id == named.user_id
        ]
        feed.mine |= by_peer(members)
        feed.view.rename(named)
        self._change(event, members)

    def _change(self, event: RoomEvent, members: Iterable[Member]) -> None:
        args: list[Argument] = [self.replica, self._room(event.room_id), _encode(event)]
        for member in members:
            args += _entry(member)
        self._run(self._scripts.change, event.room_id, args)

    def _run(self, script: Script, room_id: str, args: list[Argument]) -> None:
        """Run a script without waiting; if that fails, the room is restored later."""

        def check(reply: object) -> None:
            if isinstance(reply, Exception):
                self._doubt_room(room_id)

        if not script.send_nowait(self._room_keys(room_id), args, on_reply=check):
            self._doubt_room(room_id)

    def _publish_only(self, event: RoomEvent) -> None:
        """What happens in a room without changing who is there; not numbered, may be lost."""
        self._redis.send_nowait(
            "PUBLISH", self._room(event.room_id), _encode(Change(0, self.replica, event))
        )

    def send(self, replica: str, delivery: Direct) -> None:
        """Tell one replica; a signal that nobody takes comes back."""

        def check(receivers: object) -> None:
            if not isinstance(receivers, int) or receivers == 0:
                self._return(delivery)

        channel = self._key("replica", replica)
        if not self._redis.send_nowait("PUBLISH", channel, _encode(delivery), on_reply=check):
            self._return(delivery)

    def broadcast(self, event: Broadcast) -> None:
        """Tell all other replicas that can be reached."""
        told = _encode(ForAll(self.replica, event))
        self._redis.send_nowait("PUBLISH", self._key("all"), told)

    def _return(self, delivery: Direct) -> None:
        if isinstance(delivery, Signalled):
            self._deliver(Undelivered(delivery))

    def ban(self, room_id: str, member: Member, seconds: float) -> None:
        """Let who this member is not enter a room for so long; without Redis, not here."""
        identity, now = identity_of(member), trio.current_time()
        self._holds.ban(room_id, identity, now + seconds, now)
        args: list[Argument] = [identity, int(seconds * 1000), MOST_OF_ROOM]
        self._scripts.ban.send_nowait([f"{self._room(room_id)}:banned"], args)

    # Questions

    async def members(self, room_id: str) -> tuple[Member, ...]:
        """All members of a room on all replicas."""
        feed = self._feeds.get(room_id)
        if feed is None:
            return await self._snapshot(room_id)
        await trio.lowlevel.checkpoint()
        return _in_order((feed.view.members | feed.mine).values())

    async def _snapshot(self, room_id: str) -> tuple[Member, ...]:
        try:
            directory = await self._ask_directory(room_id)
        except RedisError as error:
            if isinstance(error, ResponseError):
                self._suspect(room_id)
            return ()
        return directory.members

    async def live(self, room_id: str) -> tuple[Member, ...]:
        """The members of a room that are live; of those only are records read."""
        if room_id in self._feeds:
            return tuple(member for member in await self.members(room_id) if member.live)
        room = self._room(room_id)
        keys = [f"{room}:live", f"{room}:members", self._key("replicas")]
        try:
            records, names = await self._scripts.live(keys)
        except RedisError as error:
            if isinstance(error, ResponseError):
                self._suspect(room_id)
            return ()
        replicas = {*names}
        members = self._read_members(room_id, records)
        return tuple(m for m in members if m.live and m.replica.encode() in replicas)

    async def room_ids(self) -> list[str]:
        """The rooms that have members, but the server's own; sorted. Without Redis, our own."""
        try:
            names: Any = await self._redis.smembers(self._key("rooms"))
            room_ids: Iterable[str] = await self._read_rooms(names)
        except RedisError:
            room_ids = self._feeds
        return sorted(room_id for room_id in room_ids if not is_internal(room_id))

    async def count_members(self, room_ids: Sequence[str]) -> list[RoomCount]:
        """How many are in these rooms; those in which nobody is are left out."""
        counts: list[RoomCount] = []
        for begin in range(0, len(room_ids), _COUNTED_AT_ONCE):
            some = room_ids[begin : begin + _COUNTED_AT_ONCE]
            try:
                counts += await self._count(some)
            except RedisError:
                own = [room_id for room_id in some if room_id in self._feeds]
                counts += [_count(room_id, await self.members(room_id)) for room_id in own]
        return counts

    async def _count(self, room_ids: Sequence[str]) -> list[RoomCount]:
        args: list[Argument] = [self._key("room", "")]
        for room_id in room_ids:
            seq, _ = self._counts.get(room_id, _NEVER_COUNTED)
            args += (room_id, seq)
        replies = await self._scripts.count([self._key("rooms")], args)
        counts = []
        for room_id, (seq, *found) in zip(room_ids, replies, strict=True):
            if found:
                peers, users, live, since = found
                count = RoomCount(room_id, peers, users, live, since.decode(errors="replace"))
                self._counts.pop(room_id, None)
                self._counts[room_id] = seq, count  # as the newest
            elif not seq:
                self._counts.pop(room_id, None)
                continue
            # Another task may have forgotten what this one said that it knew.
            known = self._counts.get(room_id)
            if known is not None:
                counts.append(known[1])
        while len(self._counts) > _COUNTS:
            del self._counts[next(iter(self._counts))]
        return counts

    async def count_rooms(self) -> int:
        """How many those are."""
        key = self._key("rooms")
        try:
            return await self._redis.scard(key) - await self._redis.sismember(key, LOBBY)
        except RedisError:
            return sum(not is_internal(room_id) for room_id in self._feeds)

    def tell_rooms_kept(self, user_id: str, heard: float) -> None:
        """Tell all other replicas that a user's rooms are kept."""
        kept = RoomsKept(user_id, self.replica, heard)
        self._redis.send_nowait("PUBLISH", self._key("lost"), _encode(kept))


def _in_order(members: Iterable[Member]) -> tuple[Member, ...]:
    """Members in the order of joining, which Redis does not keep."""
    return tuple(sorted(members, key=lambda member: (member.joined_at, member.peer_id)))


class _Directory(NamedTuple):
    """A room as Redis has it: its number, and the members for which a replica answers."""

    seq: int
    members: tuple[Member, ...]
    #: How many records there are.
    size: int
    #: All of them are such members.
    is_sound: bool


class _Ours:
    """What this replica says of its own members of a room, at one moment."""

    def __init__(self, feed: _Feed) -> None:
        self.seq = feed.view.seq
        self.members = dict(feed.mine)
        self.entering = feed.entering.keys() | set()


def _essence(members: Mapping[str, Member]) -> dict[str, tuple[object, ...]]:
    """What of members is told."""
    return {
        peer_id: (m.replica, m.joined_at, m.live, m.user_id, m.username, m.avatar_url)
        for peer_id, m in members.items()
    }


def _entry(member: Member) -> tuple[str, bytes, int]:
    """A member as the scripts take it."""
    return member.peer_id, _encode(member), int(member.live is not None)


def _check_caps(feed: _Feed, member: Member, caps: Caps) -> None:
    """The caps as far as this replica can tell, while Redis cannot."""
    members = by_peer([*feed.view.members.values(), *feed.mine.values()])
    old = members.get(member.peer_id)
    if old is not None:
        if old.subject != member.subject:
            raise JoinRefusedError(Refusal.PEER_ID_IN_USE)
        return
    if len(members) >= caps.peers:
        raise JoinRefusedError(Refusal.ROOM_FULL)
    viewers = sum(member.live is None for member in members.values())
    if caps.viewers is not None and viewers >= caps.viewers:
        raise JoinRefusedError(Refusal.STREAM_FULL)


def _count(room_id: str, members: tuple[Member, ...]) -> RoomCount:
    users = {member.user_id for member in members}
    live = {member.user_id for member in members if member.live}
    since = members[0].joined_at if members else ""
    return RoomCount(room_id, len(members), len(users), len(live), since)


@asynccontextmanager
async def open_redis_bus(
    url: str, replica: str, *, prefix: str = "", ca_file: str | None = None, lease: float = 10.0
) -> AsyncIterator[RedisBus]:
    """Connect to Redis; the bus then still has to be `run`.

    Begins without a connection if Redis cannot be reached. Raises ConfigError if
    the URL is wrong, or if Redis refuses us.
    """
    try:
        async with open_redis(
            url, ca_file=ca_file, name=f"trio-signal-{replica[:8]}", must_connect=False
        ) as redis:
            yield RedisBus(redis, replica, prefix=prefix, lease=lease)
    except (ConfigurationError, ValueError) as error:
        raise ConfigError(f"REDIS_URL: {error}") from error
