"""Sessions that move between replicas, as Redis carries that; see `trio_signal.bus.handover`."""

import logging
import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

import trio
from msgspec.structs import replace

from trio_signal.bus.handover import Mover
from trio_signal.bus.redis.direct import DirectSignals
from trio_signal.bus.redis.directory import Directory
from trio_signal.bus.redis.feed import Feed, Feeds, Search
from trio_signal.bus.redis.lease import Lease
from trio_signal.bus.redis.recovery import Recovery
from trio_signal.bus.redis.wire import decode_member, decode_parcel, encode
from trio_signal.clock import utc_now
from trio_signal.messages.events import Joined, Left, RoomEvent
from trio_signal.messages.handover import NotGiven, Offered, Parcel, Sought
from trio_signal.messages.identity import Member
from trio_signal.notes import lost_key
from trio_signal.presence import Change
from trio_signal.redis import Argument, Redis, RedisError, read_text
from trio_signal.room import Room

logger = logging.getLogger(__name__)

#: Seconds between two looks whether a peer's signals have arrived.
_SETTLING = 0.005
#: Seconds for which a parcel is kept that nobody can have any more.
_PARKED = 5


class RedisHandover:
    """See `HandoverBus`. Nothing but what is `async` blocks."""

    def __init__(
        self,
        redis: Redis,
        feeds: Feeds,
        directory: Directory,
        lease: Lease,
        recovery: Recovery,
        direct: DirectSignals,
    ) -> None:
        """Take the other parts of the bus."""
        self._redis = redis
        self._feeds = feeds
        self._directory = directory
        self._lease = lease
        self._recovery = recovery
        self._direct = direct
        self._replica = directory.replica
        self._mover: Mover | None = None

    def serve(self, mover: Mover) -> None:
        """Have this one do what is to be done with the sessions of this replica."""
        self._mover = mover

    def time(self) -> float:
        """Seconds of Redis's clock; 0 if that is not known yet."""
        return sum(self._lease.clock.span(trio.current_time())) / 2

    # Seeking

    async def find(self, room_id: str, session: str) -> Member | None:
        """The member whose session has this tag."""
        feed = self._feeds.get(room_id)
        members: Collection[Member]
        if feed is not None and feed.room.numbering.in_step:
            await trio.lowlevel.checkpoint()
            members = feed.room.members.values()
        else:
            members = await self._directory.members(room_id)
        return next((member for member in members if member.session == session), None)

    async def follow(self, room: Room) -> bool:
        """Follow a room in which nobody of this replica need be; whether it is in step."""
        feed = self.feed_of(room)
        async with feed.catching_up:  # once for all: who is in step relies on it
            if not room.numbering.in_step and self._redis.connected:
                self._feeds.mark_stale(room.id)
                with suppress(RedisError):
                    await self._recovery.restore(room.id)
                await feed.wait_reached(0)
        return room.numbering.in_step

    def feed_of(self, room: Room) -> Feed:
        """The feed of a room, which is followed from now on."""
        feed = self._feeds.get(room.id)
        if feed is None:
            feed = self._feeds[room.id] = Feed(room)
            self._redis.pubsub.subscribe(self._directory.room(room.id))
        return feed

    async def seek(self, room: Room, sought: Sought, member: Member, *, ask: bool) -> Parcel | None:
        """Seek the session of a member, until it has arrived or `stop` is called.

        If its replica has ended and left a parcel, that is returned; else it is asked, if `ask`.
        """
        # Its member comes with the script that takes it; none of our events overtakes that.
        self._feeds[room.id].sought[sought.session] = Search(sought, room.numbering.losses)
        known = room.members.get(member.peer_id)
        parcel = None
        if known is not None and known.replica == member.replica:
            moved = replace(known, replica=self._replica, session=sought.session)
            with suppress(RedisError):
                parcel = await self._unpark(room.id, moved, member.replica)
        if parcel is None:
            if ask:
                feed = self._feeds.get(room.id)
                if feed is not None and sought.session in feed.sought:
                    # What was published until now comes back before the question does.
                    feed.sought[sought.session] = Search(sought, room.numbering.losses)
                self._ask(room.id, sought)
            return None
        return self._redis.reader.read("direct", decode_parcel, parcel, room.id)

    async def _unpark(self, room_id: str, member: Member, replica: str) -> bytes | None:
        """Have a member, whose replica has ended, if that has left its session."""
        directory, key = self._directory, self._directory.key
        keys = [*directory.room_keys(room_id), key("replicas"), key("parked")]
        keys.append(key("parked", member.session))
        args: list[Argument] = [self._replica, room_id, member.peer_id, encode(member)]
        args += (replica, directory.room(room_id), member.session)
        parcel: bytes | None = await directory.scripts.unpark(keys, args)
        return parcel

    def _ask(self, room_id: str, sought: Sought) -> None:
        told = encode(Change(0, self._replica, sought=sought))
        self._redis.send_nowait("PUBLISH", self._directory.room(room_id), told)

    def stop(self, room_id: str, session: str) -> None:
        """Want it no longer: if it comes all the same, it leaves the room."""
        feed = self._feeds.get(room_id)
        if feed is not None:
            feed.sought.pop(session, None)
            feed.note_progress()

    # Giving up

    def give(self, room: Room, member: Member, sought: Sought) -> None:
        """Let the other replica have a member of ours."""
        mover = self._mover
        if mover is None:
            return
        feed = self._feeds[room.id]
        feed.given.add(sought.session)
        for peer_id, newcomer in feed.entering.items():
            if peer_id in room.entered and peer_id not in room.own:
                mover.joined(Joined(room.id, newcomer, first=False, peers=0, at=utc_now()))

        def check(reply: object) -> None:
            if reply != 1:
                feed.given.discard(sought.session)
                mover.failed(sought.session)

        moved = replace(member, replica=sought.replica)
        if not self._directory.move(room.id, moved, check):
            check(0)

    async def settle(self, room_id: str, peer_id: str) -> None:
        """Wait until no signal of this peer is under way from here."""
        while self._direct.has_from(room_id, peer_id):  # noqa: ASYNC110  it is over at once
            await trio.sleep(_SETTLING)

    # Sessions of a replica that stops

    async def others(self, seconds: float) -> list[str]:
        """Say for so long that we stop; which other replicas do not. None if none can be asked."""
        key, replicas = self._directory.key, []
        if not self._redis.connected:
            return []
        try:
            await self._redis.set(key("stopping", self._replica), "1", ex=math.ceil(seconds))
            now, _ = await self._redis.time()
            names: Any = await self._redis.zrangebyscore(key("replicas"), now * 1000, "+inf")
            for name in names:
                replica = self._redis.reader.read("name", read_text, name, key("replicas"))
                if replica is None or replica == self._replica:
                    continue
                if not await self._redis.exists(key("stopping", replica)):
                    replicas.append(replica)
        except RedisError:
            return []
        return replicas

    async def park(self, parcels: Sequence[tuple[str, Parcel]], seconds: float) -> bool:
        """Leave sessions, each with its room, to whoever comes first in this time; if it worked.

        Their members stay in the directory. Whom nobody takes over is reaped then.
        """
        key, kept = self._directory.key, math.ceil(seconds) + _PARKED
        send = self._redis.send_nowait
        for room_id, parcel in parcels:
            session = parcel.session
            is_sent = send("SET", key("parked", session), encode(parcel), "EX", kept)
            if not is_sent or not send("HSET", key("parked"), session, room_id):
                return False
        try:
            await self._redis.expire(key("parked"), kept)
            await self._lease.outlast(seconds)
        except RedisError:
            return False
        return True

    def keep(self, room_id: str, member: Member, seconds: float) -> None:
        """Keep for so long that there is a stand-in for a user, which has `member.session`."""
        key = self._stand_ins(room_id, member.user_id, member.dialect)
        self._redis.send_nowait("RPUSH", key, encode(member))
        self._redis.send_nowait("EXPIRE", key, math.ceil(seconds) + _PARKED)

    async def kept(self, room_id: str, user_id: str, dialect: str) -> Member | None:
        """Such a member, once."""
        key = self._stand_ins(room_id, user_id, dialect)
        try:
            found: Any = await self._redis.lpop(key)
        except RedisError:
            return None
        if found is None:
            return None
        return self._redis.reader.read("member", decode_member, found, key)

    def _stand_ins(self, room_id: str, user_id: str, dialect: str) -> str:
        return self._directory.key("stand_ins", lost_key(room_id, user_id, dialect))

    async def parked(self) -> list[tuple[str, str]]:
        """Sessions that were left so, and the rooms in which they are."""
        key, read = self._directory.key("parked"), self._redis.reader.read
        if not self._redis.connected:
            return []
        try:
            found: Any = await self._redis.hgetall(key)
        except RedisError:
            return []
        pairs = [
            (read("name", read_text, a, key), read("name", read_text, b, key))
            for a, b in found.items()
        ]
        return [(tag, room_id) for tag, room_id in pairs if tag is not None and room_id is not None]

    def send(self, replica: str, told: Parcel | NotGiven | Offered) -> None:
        """Tell the replica that seeks a session."""
        self._redis.send_nowait("PUBLISH", self._directory.key("replica", replica), encode(told))

    # What comes on the channel of a room, in its order

    def note(self, event: RoomEvent) -> None:
        """An event of this replica is on its way."""
        feed = self._feeds.get(event.room_id)
        if feed is not None:
            for search in feed.sought.values():
                search.note(event)

    def hear(self, feed: Feed, change: Change) -> bool:
        """Take in what comes of others' questions, and of ours; whether it is one."""
        sought, event, is_ours = change.sought, change.event, change.origin == self._replica
        if sought is not None:
            if is_ours and (search := feed.sought.get(sought.session)) is not None:
                search.is_heard = True
            elif not is_ours and self._mover is not None:
                self._mover.give(feed.room.id, sought)
            return True
        if is_ours and event is not None:
            if not isinstance(event, Joined):
                for search in feed.sought.values():
                    search.take_back(event)
            elif self._mover is not None and event.member.peer_id not in feed.room.own:
                self._mover.joined(event)
        return False

    def move(self, feed: Feed, origin: str, member: Member) -> None:
        """A member has moved, and the room is as it was told of that."""
        room, mover = feed.room, self._mover
        self._direct.follow(room.id, member.peer_id, origin)
        if origin == self._replica:
            feed.given.discard(member.session)
            feed.note_progress()
            if mover is not None:
                mover.gone(member.session)
            return
        search = feed.sought.get(member.session)
        if member.replica != self._replica:
            if search is not None and search.is_heard:
                self._ask(room.id, search.sought)
        elif search is None or mover is None or search.losses != room.numbering.losses:
            # Nobody here waits for it any more, or not all that it has missed is known.
            left = Left(room.id, replace(member, live=None), last=False, peers=0, at=utc_now())
            self._directory.leave(left)
        else:
            del feed.sought[member.session]
            told = frozenset(feed.entering.keys() & room.entered - room.own.keys())
            room.move(member)
            mover.arrived(room.id, member, search.missed, told)
