"""One replica's end of the bus: following, recovery, joining, publishing."""

import logging
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Annotated, Any

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
    RoomMembers,
    RoomsKept,
    Undelivered,
)
from trio_signal.bus.announcements import RedisBoard
from trio_signal.bus.holds import MOST_OF_ROOM, Holds, identity_of
from trio_signal.bus.redis.comparing import Ours, differs
from trio_signal.bus.redis.directory import Directory, decode_member, encode, entry, in_order
from trio_signal.bus.redis.feed import Feed, check_caps
from trio_signal.clock import utc_now
from trio_signal.errors import ConfigError, JoinRefusedError, SettingError
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
from trio_signal.messages.identity import LOBBY, Member, Name, is_internal
from trio_signal.messages.records import RoomCount
from trio_signal.metrics import Histogram
from trio_signal.presence import Change, Snapshot, by_peer
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
#: Seconds after an outage for the other replicas to come back, before they count as gone.
PATIENCE = 2.0
#: How many rooms are counted at a time, while Redis does nothing else.
_COUNTED_AT_ONCE = 100

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

_decode_change = msgspec.json.Decoder(Change).decode
_decode_direct = msgspec.json.Decoder(Direct | Echo).decode
_decode_kept = msgspec.json.Decoder(RoomsKept).decode
_decode_for_all = msgspec.json.Decoder(ForAll).decode


class RedisBus:
    """One replica's end; see `trio_signal.bus` for what it promises.

    Made by `open_redis_bus`.
    """

    def __init__(self, redis: Redis, replica: str, *, prefix: str, lease: float) -> None:
        """Take an open connection, which the caller closes."""
        self.replica = replica
        self.board = RedisBoard(redis, replica, prefix)
        #: For what else is kept there: one connection is to do for a replica.
        self.redis = redis
        self._redis = redis
        self._lease = lease
        self._feeds: dict[str, Feed] = {}
        self._directory = directory = Directory(redis, replica, prefix)
        self._key, self._room, self._scripts = directory.key, directory.room, directory.scripts
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
        self._leased = trio.Event()
        #: When was sent what came back last: all that was published before has come.
        self._echoed = 0.0
        #: Changes that did not come, as their numbers say.
        self._missing = 0
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
                echo = encode(Echo(trio.current_time()))
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
        keys = [
            self._key("replicas"),
            self._key("rooms"),
            self._key("owned", replica),
        ]
        args: list[Argument] = [replica, self._key("room", ""), utc_now(), int(goodbye)]
        until, *taken = await self._scripts.reap(keys, args)
        self.board.forget(replica)
        if taken and not goodbye:
            logger.warning("replica %s is gone: %d peers have left", replica, len(taken) // 2)
            members = tuple(self._read_taken(replica, taken))
            self._hand_over(ReplicaLost(replica, until / 1000 - self._lease, members))

    def _read_taken(self, replica: str, taken: list[bytes]) -> Iterator[tuple[str, Member]]:
        """The rooms and members that a script took out, as far as they can be read."""
        read, key = self._redis.reader.read, self._key("owned", replica)
        for name, value in zip(taken[::2], taken[1::2], strict=True):
            room_id = read("name", read_text, name, key)
            member = read("member", decode_member, value, key)
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
            self._directory.suspect(room_id)
        elif self._is_believed(feed, change):
            self._follow_change(feed, change)
        else:
            self._redis.reader.drop("change", channel, "it is not for its sender to say")
            feed.view.lose_step()
            self._doubt_room(room_id)

    def _is_believed(self, feed: Feed, change: Change) -> bool:
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

    def _follow_change(self, feed: Feed, change: Change) -> None:
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

    def _tell(self, feed: Feed, events: Iterable[RoomEvent]) -> None:
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

    def _rename(self, feed: Feed, named: Member) -> None:
        """A user with peers here as well is called something else, by another replica."""
        args: list[Argument] = [self.replica, self._room(feed.view.room_id), ""]
        for peer_id, member in feed.mine.items():
            if member.user_id == named.user_id:
                member = renamed(member, named.username, named.avatar_url)
                feed.mine[peer_id] = member
                args += entry(member)
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
                args += (member.peer_id, encode(member), "?")
            for member in feed.mine.values():
                args += entry(member)
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
        keys = [*self._directory.room_keys(room_id), self._key("replicas")]
        status, *rest = await self._scripts.restore(keys, args)
        if status == b"lease":
            raise NotConnectedError("the lease of this replica ran out")
        seq, members = rest
        return seq, members

    async def _subscribed_feed(self, room_id: str) -> Feed | None:
        """The feed of a room; while its channel is waited for, it may become another one."""
        while room_id in self._feeds:
            with suppress(PubSubError):  # it was dropped
                await self._redis.pubsub.wait_subscribed(self._room(room_id))
                return self._feeds.get(room_id)
        return None

    def _catch_up(self, feed: Feed, losses: int, seq: int, members: Iterable[bytes]) -> None:
        snapshot = Snapshot(seq, self._directory.read_members(feed.view.room_id, members))
        patient = self._patient_until is not None
        self._tell(feed, feed.view.catch_up(snapshot, losses, utc_now(), patient=patient))
        if not feed.view.in_step or feed.mine.keys() - feed.view.own:
            self._doubt_room(feed.view.room_id)
        elif feed.untold and feed.mine:
            feed.untold = False
            self._hand_over(RoomMembers(feed.view.room_id, (*feed.view.members.values(),)))

    # Comparing with the directory

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
                rooms = [*self._directory.suspects, *await self._strange_rooms()]
                self._directory.suspects.clear()
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
        rooms = await self._directory.read_rooms(names)
        return [room_id for room_id in rooms if room_id not in self._feeds]

    async def _compare(self, room_id: str) -> int:
        """Doubt a room that is not as the directory has it; how many members that has."""
        feed = self._feeds.get(room_id)
        if self._patient_until is not None or room_id in self._doubtful:
            return 0
        if feed is not None and not feed.view.in_step:
            return 0
        before = Ours(feed, trio.current_time()) if feed is not None else None
        try:
            directory = await self._directory.ask(room_id)
        except ResponseError:
            self._doubt_room(room_id)
            return 0
        if self._patient_until is not None or self._feeds.get(room_id) is not feed:
            return directory.size
        if feed is None or before is None:
            is_other = any(member.replica == self.replica for member in directory.members)
        else:
            is_other = differs(feed, before, directory, self.replica, self._echoed)
        if is_other or not directory.is_sound:
            logger.warning("room %s is not as Redis has it: it is restored", ascii(room_id[:200]))
            self._doubt_room(room_id)
        return directory.size

    # Joining

    async def join(self, room_id: str, member: Member, caps: Caps, admit: Admit) -> None:
        """Enter a room; raises JoinRefusedError."""
        feed = self._feeds.get(room_id)
        if feed is None:
            feed = self._feeds[room_id] = Feed(room_id, self.replica)
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
                admit(in_order(feed.view.members.values()))
                self._tell(feed, taken_over)
        finally:
            feed.joining -= 1
            self._drop_if_empty(feed)

    @contextmanager
    def _on_its_way(self, feed: Feed, member: Member) -> Iterator[None]:
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

    async def _enter(self, feed: Feed, member: Member, caps: Caps) -> None:
        """Ask Redis; without it the peers of one replica go on, and it is told when it is back."""
        try:
            with trio.fail_after(JOIN_TIMEOUT):
                await self._join(feed, member, caps)
        except (RedisError, trio.TooSlowError):
            self._check_holds(feed, member)
            check_caps(feed, member, caps)
            feed.view.claim_unasked(member.peer_id)
            self._doubt_room(feed.view.room_id)

    def _check_holds(self, feed: Feed, member: Member) -> None:
        """Who has to stay out, as far as this replica can tell, while Redis cannot."""
        room_id, now = feed.view.room_id, trio.current_time()
        if self._holds.is_banned(room_id, member, now):
            raise JoinRefusedError(Refusal.NOT_ALLOWED)
        if self._holds.is_reserved(room_id, member, now):
            raise JoinRefusedError(Refusal.PEER_ID_IN_USE)

    async def _join(self, feed: Feed, member: Member, caps: Caps) -> None:
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
        self, feed: Feed, member: Member, caps: Caps, *, insist: bool = False
    ) -> Any:
        room_id = feed.view.room_id
        joined = Joined(room_id, member, first=False, peers=0, at=utc_now())
        return await self._scripts.join(
            [*self._directory.room_keys(room_id), self._key("replicas")],
            [
                *(self.replica, room_id, member.peer_id, member.subject),
                *(encode(member), encode(joined)),
                *(caps.peers, -1 if caps.viewers is None else caps.viewers),
                *(self._room(room_id), int(not feed.view.in_step), int(insist)),
                identity_of(member),
            ],
        )

    def _drop_if_empty(self, feed: Feed) -> None:
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

    def _leave(self, feed: Feed | None, event: Left) -> None:
        room_id, peer_id = event.room_id, event.member.peer_id
        if feed is not None:
            feed.mine.pop(peer_id, None)
        self._holds.reserve(room_id, event.member, trio.current_time())
        args: list[Argument] = [
            self.replica,
            room_id,
            peer_id,
            encode(event),
            self._room(room_id),
        ]
        self._run(self._scripts.leave, room_id, args)
        if feed is not None:
            self._drop_if_empty(feed)

    def _publish_profile(self, feed: Feed, event: ProfileChanged) -> None:
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
        args: list[Argument] = [self.replica, self._room(event.room_id), encode(event)]
        for member in members:
            args += entry(member)
        self._run(self._scripts.change, event.room_id, args)

    def _run(self, script: Script, room_id: str, args: list[Argument]) -> None:
        """Run a script without waiting; if that fails, the room is restored later."""

        def check(reply: object) -> None:
            if isinstance(reply, Exception):
                self._doubt_room(room_id)

        if not script.send_nowait(self._directory.room_keys(room_id), args, on_reply=check):
            self._doubt_room(room_id)

    def _publish_only(self, event: RoomEvent) -> None:
        """What happens in a room without changing who is there; not numbered, may be lost."""
        self._redis.send_nowait(
            "PUBLISH", self._room(event.room_id), encode(Change(0, self.replica, event))
        )

    def send(self, replica: str, delivery: Direct) -> None:
        """Tell one replica; a signal that nobody takes comes back."""

        def check(receivers: object) -> None:
            if not isinstance(receivers, int) or receivers == 0:
                self._return(delivery)

        channel = self._key("replica", replica)
        if not self._redis.send_nowait("PUBLISH", channel, encode(delivery), on_reply=check):
            self._return(delivery)

    def broadcast(self, event: Broadcast) -> None:
        """Tell all other replicas that can be reached."""
        told = encode(ForAll(self.replica, event))
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
        return in_order((feed.view.members | feed.mine).values())

    async def _snapshot(self, room_id: str) -> tuple[Member, ...]:
        try:
            directory = await self._directory.ask(room_id)
        except RedisError as error:
            if isinstance(error, ResponseError):
                self._directory.suspect(room_id)
            return ()
        return directory.members

    async def live(self, room_id: str) -> tuple[Member, ...]:
        """The members of a room that are live; of those only are records read."""
        if room_id in self._feeds:
            return tuple(member for member in await self.members(room_id) if member.live)
        try:
            return await self._directory.live(room_id)
        except RedisError as error:
            if isinstance(error, ResponseError):
                self._directory.suspect(room_id)
            return ()

    async def room_ids(self) -> list[str]:
        """The rooms that have members, but the server's own; sorted. Without Redis, our own."""
        try:
            names: Any = await self._redis.smembers(self._key("rooms"))
            room_ids: Iterable[str] = await self._directory.read_rooms(names)
        except RedisError:
            room_ids = self._feeds
        return sorted(room_id for room_id in room_ids if not is_internal(room_id))

    async def count_members(self, room_ids: Sequence[str]) -> list[RoomCount]:
        """How many are in these rooms; those in which nobody is are left out."""
        counts: list[RoomCount] = []
        for begin in range(0, len(room_ids), _COUNTED_AT_ONCE):
            some = room_ids[begin : begin + _COUNTED_AT_ONCE]
            try:
                counts += await self._directory.count(some)
            except RedisError:
                own = [room_id for room_id in some if room_id in self._feeds]
                counts += [_count(room_id, await self.members(room_id)) for room_id in own]
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
        self._redis.send_nowait("PUBLISH", self._key("lost"), encode(kept))


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

    Begins without a connection if Redis cannot be reached. Raises SettingError
    if the URL is wrong, and ConfigError if Redis refuses us.
    """
    try:
        async with open_redis(
            url,
            ca_file=ca_file,
            name=f"trio-signal-{replica[:8]}",
            key=f"{prefix}trio_signal:",
            must_connect=False,
        ) as redis:
            yield RedisBus(redis, replica, prefix=prefix, lease=lease)
    except ValueError as error:
        raise SettingError(f"REDIS_URL: {error}") from error
    except ConfigurationError as error:
        raise ConfigError(f"REDIS_URL: {error}") from error
