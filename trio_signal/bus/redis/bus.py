"""The bus of one replica on Redis: receives, publishes, joins."""

import logging
import random
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import trio

from trio_signal.bus import (
    Admit,
    Broadcast,
    BusStatistics,
    Caps,
    Deliver,
    Delivery,
    Direct,
    Held,
    ReplicaLost,
    RoomChanged,
    RoomsKept,
    count_of,
)
from trio_signal.bus.announcements import RedisBoard
from trio_signal.bus.redis.direct import DirectSignals
from trio_signal.bus.redis.directory import Directory, in_order
from trio_signal.bus.redis.feed import NUMBERED, Feed, Feeds
from trio_signal.bus.redis.handover import RedisHandover
from trio_signal.bus.redis.keeping import KeptHolds
from trio_signal.bus.redis.lease import PATIENCE, Lease
from trio_signal.bus.redis.names import RedisNames
from trio_signal.bus.redis.observed import ObservedRooms
from trio_signal.bus.redis.recovery import Recovery
from trio_signal.bus.redis.topics import RedisTopics
from trio_signal.bus.redis.wire import (
    KINDS,
    Asked,
    Confirmed,
    Echo,
    ForAll,
    Numbered,
    decode_change,
    decode_direct,
    decode_for_all,
    decode_kept,
    encode,
)
from trio_signal.clock import utc_now
from trio_signal.messages.events import Left, ProfileChanged, RoomEvent
from trio_signal.messages.identity import LOBBY, Member, is_internal
from trio_signal.messages.records import RoomCount
from trio_signal.metrics import Histogram
from trio_signal.presence import Change
from trio_signal.redis import (
    Lost,
    Message,
    NotConnectedError,
    Overflow,
    Redis,
    RedisError,
    Resumed,
)
from trio_signal.room import Room
from trio_signal.supervision import supervise

logger = logging.getLogger(__name__)

#: Seconds to wait for Redis before a peer joins without it.
JOIN_TIMEOUT = 3.0
#: Seconds between the messages to itself by which a replica without rooms measures delays.
IDLE_ECHO = 10.0
#: How many rooms one call of the script counts.
_COUNTED = 100


class RedisBus:
    """The bus of one replica; see `trio_signal.bus` for the contract.

    Made by `open_redis_bus`.
    """

    def __init__(
        self, redis: Redis, replica: str, *, prefix: str, lease: float, observed: bool = False
    ) -> None:
        """Use an open connection, which the caller closes."""
        self.replica = replica
        self.board = RedisBoard(redis, replica, prefix)
        #: Shared with other users of Redis: a replica needs only one connection.
        self.redis = redis
        self._feeds = Feeds()
        self._directory = Directory(redis, self._feeds, replica, prefix, observed=observed)
        self._key = key = self._directory.key
        #: The channels for this replica, for lost connections, and for all replicas.
        self._channels = key("replica", replica), key("lost"), key("all")
        self._room_prefix = key("room", "")
        self.topics = RedisTopics(redis, replica, key)
        self.names = RedisNames(redis, replica, key, self._hand_over)
        self._lease = Lease(
            redis, self._directory, replica, lease, lost=self._start_over, reaped=self._reaped
        )
        #: Changes recorded for webhooks.
        self.observed = ObservedRooms(redis, self._directory)
        #: Seconds between two renewals: longer while idle, as some Redis services are metered.
        self._pause, self._idle_pause = min(lease / 3, 1.0), lease / 3
        self._leased = trio.Event()
        parts = redis, self._feeds, self._directory, self._lease
        self._recovery = Recovery(*parts, self._tell)
        self.holds = KeptHolds(redis, self._directory, replica, self._channels[2])
        self._missing = 0  # changes that did not arrive, by their numbers
        self._delivery = Histogram()
        self._direct = DirectSignals(*parts, self._hand_over)
        self.following = self._direct.following
        self.handover = RedisHandover(*parts, self._recovery, self._direct)
        self._deliver: Deliver = lambda delivery: None

    @property
    def degraded(self) -> str | None:
        """Why the view of other replicas may be out of date; None if all is well."""
        if not self.redis.connected:
            return "Redis cannot be reached"
        if not self._lease.is_held or self._feeds.stale or self._lease.is_patient:
            return "catching up with Redis"
        return None

    def statistics(self) -> BusStatistics:
        """Return the state of the connections to Redis."""
        redis = self.redis.statistics()
        return BusStatistics(
            commands_connected=redis.commands.connected,
            events_connected=redis.pubsub.connected,
            losses=redis.commands.losses + redis.pubsub.losses,
            round_trip=redis.commands.round_trip,
            lease_age=self._lease.age,
            send_bytes=redis.waiting_bytes,
            receive_bytes=redis.inbox_bytes,
            missing=self._missing,
            overflows=redis.overflows,
            dropped=redis.dropped,
            unreadable={kind: self.redis.reader.unreadable[kind] for kind in KINDS},
            stale_rooms=len(self._feeds.stale),
            delivery=self._delivery,
        )

    # Life

    async def run(
        self, deliver: Deliver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Follow Redis until cancelled; starts even if Redis cannot be reached yet."""
        self._deliver = deliver
        for channel in self._channels:
            self.redis.pubsub.subscribe(channel)
        async with trio.open_nursery() as nursery:
            for name, task in (
                ("following Redis", self._receive),
                ("catching up with Redis", self._recovery.keep_restoring),
                ("keeping the lease", self._keep_lease),
                ("comparing rooms with Redis", self._recovery.keep_comparing),
                ("confirming signals", self._direct.run),
                ("keeping topics", self.topics.keep),
                ("keeping bans and locks", self.holds.run),
                ("keeping names", self.names.keep),
            ):
                nursery.start_soon(supervise, name, task, self._recover)
            await self._leased.wait()
            task_status.started()

    def _recover(self) -> None:
        """A task failed: resynchronize. Startup does not wait for that task."""
        self._leased.set()
        self._start_over()

    async def retire(self) -> None:
        """Remove everything of this replica from Redis."""
        await self._lease.retire()
        self.board.forget(self.replica)

    def _reaped(self, lost: ReplicaLost) -> None:
        self.board.forget(lost.replica)
        self._direct.forget(lost.replica)
        if lost.members:
            self._hand_over(lost)

    def _start_over(self) -> None:
        """Treat all that is known from Redis as stale, and all that is still in flight."""
        self._feeds.mark_all_stale()
        self.topics.write_again()
        self.names.write_again()
        self.board.resync()
        self.holds.resync()

    async def _keep_lease(self) -> None:
        """Renew the lease, reap dead replicas, and measure how long a message takes."""
        echoed = float("-inf")
        while True:
            with suppress(RedisError):
                await self._lease.renew()
            if self._lease.end_patience():
                self._feeds.mark_all_stale()
            now, is_busy = trio.current_time(), bool(self._feeds)
            if self.redis.connected and (is_busy or now >= echoed + IDLE_ECHO):
                self.redis.send_nowait("PUBLISH", self._channels[0], encode(Echo(now)))
                echoed = now
            self._leased.set()
            pause = self._pause if is_busy or self._lease.is_patient else self._idle_pause
            await trio.sleep(pause * random.uniform(0.9, 1.1))  # noqa: S311

    # Receiving

    async def _receive(self) -> None:
        while True:
            for event in await self.redis.pubsub.receive():
                match event:
                    case Message(channel=channel, payload=payload):
                        try:
                            self._take(channel, payload)
                        except Exception:
                            logger.exception("cannot process a message on %s", ascii(channel))
                            self._start_over()
                        continue
                    case Lost(reason=reason):
                        logger.error("Redis is lost, serving only local peers: %s", reason)
                        self._feeds.start_over()  # rooms are restored when Redis is back
                        self._lease.hold_off(float("inf"))
                        continue
                    case Overflow():
                        logger.error("too many messages from Redis: resynchronizing")
                    case Resumed():
                        logger.warning("Redis is back: resynchronizing")
                        self._lease.hold_off(PATIENCE)
                        self._direct.resync()
                self._start_over()

    def _take(self, channel: str, payload: bytes) -> None:
        """Process a message, which anybody may have written."""
        read = self.redis.reader.read
        ours, lost, for_all = self._channels
        if channel == ours:
            direct = read("direct", decode_direct, payload, channel)
            if isinstance(direct, Echo):
                now = trio.current_time()
                if self._recovery.echoed < direct.sent <= now:
                    self._recovery.echoed = direct.sent
                    self._delivery.observe(now - direct.sent)
            elif isinstance(direct, Numbered | Confirmed | Asked):
                if not self._direct.take(direct):
                    self.redis.reader.drop("direct", channel, "its number is out of range")
            elif direct is not None:
                self._hand_over(direct)
        elif channel == self.board.channel:
            self.board.take(payload)
        elif channel == lost:
            kept = read("lost", decode_kept, payload, channel)
            if kept is not None and kept.replica != self.replica:
                self._hand_over(kept)
        elif channel == for_all:
            told = read("private", decode_for_all, payload, channel)
            if told is None or told.origin == self.replica:
                return
            if isinstance(told.event, Held):
                self.holds.take(told.event)
            else:
                self._hand_over(told.event)
        elif self.topics.follows(channel):
            if (published := self.topics.take(channel, payload)) is not None:
                self._hand_over(published)
        elif (feed := self._feeds.get(channel.removeprefix(self._room_prefix))) is not None:
            change = read("change", decode_change, payload, channel)
            if change is not None:
                self._take_change(feed, change)
            else:
                # A numbered change leaves a gap, which the next change or comparison finds. Do not
                # restore the room for each unreadable message that another replica lets through.
                self._directory.suspect(feed.room.id)

    def _take_change(self, feed: Feed, change: Change) -> None:
        room, event = feed.room, change.event
        if not feed.believes(change):
            self.redis.reader.drop("change", self._key("room", room.id), "not the sender's member")
            room.numbering.lose_step()
            self._feeds.mark_stale(room.id)
            return
        if self.handover.hear(feed, change):
            return
        if not change.seq:
            if room.own and event is not None and change.origin != self.replica:
                self._hand_over(RoomChanged(room.id, room.apply(event)))
            return
        has_members_here, was_in_step = bool(room.own), room.numbering.in_step
        is_next = was_in_step and change.seq > room.numbering.seq
        events = room.follow(change)
        missed = was_in_step and not room.numbering.in_step
        self._missing += missed and event is not None
        # A newer connection of the peer may have left before it was admitted.
        if missed or (isinstance(event, Left) and event.member.peer_id in room.own):
            self._feeds.mark_stale(room.id)
        self._tell(feed, events, has_members_here)
        if change.moved is not None and is_next and not missed:
            self.handover.move(feed, change.origin, change.moved)

    def _tell(self, feed: Feed, events: Sequence[RoomEvent], has_members_here: bool) -> None:
        """Deliver changes of other replicas, and write this replica's own part of the room."""
        room = feed.room
        for event in events:
            if isinstance(event, ProfileChanged):
                self._directory.change(room.id, feed.own_of(event.member.user_id), None)
        if has_members_here and (events or not room.own):
            self._hand_over(RoomChanged(room.id, events))
        feed.note_progress()

    def _hand_over(self, delivery: Delivery) -> None:
        try:
            self._deliver(delivery)
        except Exception:
            logger.exception("cannot deliver a %s", type(delivery).__name__)

    # Sending

    async def join(self, room: Room, member: Member, caps: Caps, admit: Admit) -> None:
        """Enter a room; raises JoinRefusedError.

        Redis decides. Without Redis, the peers of one replica can still meet, and the directory is
        updated when Redis is back.
        """
        room_id, peer_id, channel = room.id, member.peer_id, self._directory.room(room.id)
        feed = self.handover.feed_of(room)
        async with feed.turns.setdefault(peer_id, trio.Lock()):
            # Until the member is admitted, a restore keeps its record if there is one.
            feed.entering[peer_id] = member
            seq, before, unasked = 0, room.members.get(peer_id), False
            try:
                with trio.fail_after(JOIN_TIMEOUT):
                    if not self.redis.connected:
                        raise NotConnectedError("Redis cannot be reached")
                    await self.redis.pubsub.wait_subscribed(channel)
                    if room_id in self._feeds.stale:
                        await self._recovery.restore(room_id)
                    losses, wanted = room.numbering.losses, not room.numbering.in_step
                    seq, read = await self._directory.join(room_id, member, caps, wanted=wanted)
                    if read is not None and not room.numbering.in_step:
                        self._recovery.catch_up(feed, read(), losses)
                    # The newcomer's first snapshot includes everything that happened before its
                    # change on any replica; those changes come on the other connection.
                    await feed.wait_reached(seq)
            except (RedisError, trio.TooSlowError):
                self._feeds.mark_stale(room_id)  # Redis may have the member all the same
                if not seq:
                    self.holds.known.check(room, member, caps, trio.current_time())
                unasked = True
            except trio.Cancelled:
                if peer_id in room.own:  # another replica may have taken it over
                    self._feeds.mark_stale(room_id)
                raise
            finally:
                feed.end_entering(peer_id)
            overtaken = room.claim(peer_id, utc_now(), unasked=unasked, before=before)
            if not overtaken and peer_id not in room.entered:
                self._feeds.mark_stale(room_id)
            admit(room.join(member, utc_now()))
            events = [told for event in overtaken for told in room.apply(event)]
            if overtaken:
                self._tell(feed, events, has_members_here=True)

    def forget(self, room_id: str) -> None:
        """Stop following a room."""
        if self._feeds.pop(room_id, None) is not None:
            self.redis.pubsub.unsubscribe(self._directory.room(room_id))
            self.redis.send_nowait("SREM", self._key("owned", self.replica), room_id)

    def publish(self, event: RoomEvent) -> None:
        """Publish an event to the room's other replicas, and update the directory."""
        self.handover.note(event)
        match event:
            case Left():
                self.holds.known.reserve(event.room_id, event.member, trio.current_time())
                self._directory.leave(event)
            case ProfileChanged(member=member):
                feed = self._feeds.get(event.room_id)
                if feed is not None:
                    own = feed.own_of(member.user_id)
                    self._directory.change(event.room_id, own, event)
            case _ if isinstance(event, NUMBERED):
                self._directory.change(event.room_id, [event.member], event)
            case _:  # changes no members: not numbered, may be lost
                told = encode(Change(0, self.replica, event))
                self.redis.send_nowait("PUBLISH", self._directory.room(event.room_id), told)

    def send(self, replica: str, delivery: Direct) -> None:
        """Send to one replica; an undelivered signal is returned."""
        self._direct.send(replica, delivery)

    def broadcast(self, event: Broadcast | RoomsKept) -> None:
        """Send to all other replicas that can be reached."""
        _, lost, for_all = self._channels
        if isinstance(event, RoomsKept):
            self.redis.send_nowait("PUBLISH", lost, encode(event))
        else:
            self.redis.send_nowait("PUBLISH", for_all, encode(ForAll(self.replica, event)))

    # Reading
    async def members(self, room_id: str) -> tuple[Member, ...]:
        """All members of a room on all replicas; without Redis, those that are known here."""
        feed = self._feeds.get(room_id)
        if feed is not None and (feed.room.own or feed.room.numbering.in_step):
            await trio.lowlevel.checkpoint()
            return in_order(feed.room.members.values())
        return await self._directory.members(room_id)

    async def live(self, room_id: str) -> tuple[Member, ...]:
        """The live members of a room; reads no other records."""
        if room_id not in self._feeds:
            return await self._directory.live(room_id)
        return tuple(member for member in await self.members(room_id) if member.live)

    async def room_ids(self) -> list[str]:
        """The rooms that have members, sorted, without internal ones. Without Redis, our own."""
        try:
            names: Any = await self.redis.smembers(self._key("rooms"))
            room_ids: Iterable[str] = await self._directory.read_rooms(names)
        except RedisError:
            room_ids = self._feeds
        return sorted(room_id for room_id in room_ids if not is_internal(room_id))

    async def count_members(self, room_ids: Sequence[str]) -> list[RoomCount]:
        """Count the members of these rooms; empty rooms are left out."""
        counts: list[RoomCount] = []
        for begin in range(0, len(room_ids), _COUNTED):
            some = room_ids[begin : begin + _COUNTED]
            try:
                counts += await self._directory.count(some)
            except RedisError:
                own = [room_id for room_id in some if room_id in self._feeds]
                counts += [count_of(room_id, await self.members(room_id)) for room_id in own]
        return counts

    async def count_rooms(self) -> int:
        """Count the rooms that have members."""
        key = self._key("rooms")
        try:
            return await self.redis.scard(key) - await self.redis.sismember(key, LOBBY)
        except RedisError:
            return sum(not is_internal(room_id) for room_id in self._feeds)
