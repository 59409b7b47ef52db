"""Sessions that move between replicas, over Redis; see `trio_signal.bus.handover`."""

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

#: Seconds between two checks that a peer's signals have arrived.
_SETTLING = 0.005
#: Seconds for which Redis keeps a parcel after the session has expired.
_PARKED = 5


class RedisHandover:
    """See `HandoverBus`. Only `async` methods block."""

    def __init__(
        self,
        redis: Redis,
        feeds: Feeds,
        directory: Directory,
        lease: Lease,
        recovery: Recovery,
        direct: DirectSignals,
    ) -> None:
        """Use the other parts of the bus."""
        self._redis = redis
        self._feeds = feeds
        self._directory = directory
        self._lease = lease
        self._recovery = recovery
        self._direct = direct
        self._replica = directory.replica
        self._mover: Mover | None = None

    def serve(self, mover: Mover) -> None:
        """Use this mover for the sessions of this replica."""
        self._mover = mover

    def time(self) -> float:
        """Seconds of Redis's clock; 0 if unknown."""
        return sum(self._lease.clock.span(trio.current_time())) / 2

    # Seeking

    async def find(self, room_id: str, session: str) -> Member | None:
        """Find the member whose session has this tag."""
        feed = self._feeds.get(room_id)
        members: Collection[Member]
        if feed is not None and feed.room.numbering.in_step:
            await trio.lowlevel.checkpoint()
            members = feed.room.members.values()
        else:
            members = await self._directory.members(room_id)
        return next((member for member in members if member.session == session), None)

    async def follow(self, room: Room) -> bool:
        """Follow a room that may have no members here; return whether it is in step."""
        feed = self.feed_of(room)
        async with feed.catching_up:  # one at a time: later callers rely on the result
            if not room.numbering.in_step and self._redis.connected:
                self._feeds.mark_stale(room.id)
                with suppress(RedisError):
                    await self._recovery.restore(room.id)
                await feed.wait_reached(0)
        return room.numbering.in_step

    def feed_of(self, room: Room) -> Feed:
        """Return the feed of a room; follow the room if it is new."""
        feed = self._feeds.get(room.id)
        if feed is None:
            feed = self._feeds[room.id] = Feed(room)
            self._redis.pubsub.subscribe(self._directory.room(room.id))
        return feed

    async def seek(self, room: Room, sought: Sought, member: Member, *, ask: bool) -> Parcel | None:
        """Seek the session of a member, until it arrives or `stop` is called.

        If its replica has ended and left a parcel, that is returned. Otherwise, if `ask`, its
        replica is asked.
        """
        # The script that takes the session also moves its member; no event of ours overtakes that.
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
                    # Events published until now come back before the question does.
                    feed.sought[sought.session] = Search(sought, room.numbering.losses)
                self._ask(room.id, sought)
            return None
        return self._redis.reader.read("direct", decode_parcel, parcel, room.id)

    async def _unpark(self, room_id: str, member: Member, replica: str) -> bytes | None:
        """Take over a member whose replica has ended, if that replica parked its session."""
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
        """Stop seeking: if the session still arrives, its member leaves the room."""
        feed = self._feeds.get(room_id)
        if feed is not None:
            feed.sought.pop(session, None)
            feed.note_progress()

    # Giving up

    def replaces_in(self, room_id: str) -> bool:
        """Whether newer connections are about to replace members of a room here."""
        feed = self._feeds.get(room_id)
        return feed is not None and feed.replaces

    async def wait_replaced(self, room_id: str) -> None:
        """Wait until no newer connection is about to replace a member of a room here."""
        feed = self._feeds.get(room_id)
        if feed is not None:
            await feed.wait_replaced()

    def give(self, room: Room, member: Member, sought: Sought) -> None:
        """Give a member of this replica to the replica that seeks it."""
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
        """Wait until no signal from this peer is in flight from here."""
        while self._direct.has_from(room_id, peer_id):  # noqa: ASYNC110  takes milliseconds
            await trio.sleep(_SETTLING)

    # Sessions of a replica that stops

    async def others(self, seconds: float) -> list[str]:
        """Announce for `seconds` that this replica stops; return replicas that do not stop.

        Returns an empty list if Redis cannot be asked.
        """
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
        """Leave sessions, each with its room, to the first replica that takes them; return success.

        Their members stay in the directory for `seconds`; the rest are removed then.
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
        """Record for `seconds` that a stand-in for a user exists, with the tag `member.session`."""
        key = self._stand_ins(room_id, member.user_id, member.dialect)
        self._redis.send_nowait("RPUSH", key, encode(member))
        self._redis.send_nowait("EXPIRE", key, math.ceil(seconds) + _PARKED)

    async def kept(self, room_id: str, user_id: str, dialect: str) -> Member | None:
        """Take the stand-in of a user; each is returned once."""
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
        """The tags of parked sessions, and their rooms."""
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
        """Send to the replica that seeks a session."""
        self._redis.send_nowait("PUBLISH", self._directory.key("replica", replica), encode(told))

    # Changes on a room's channel, in their order

    def note(self, event: RoomEvent) -> None:
        """An event of this replica was published."""
        feed = self._feeds.get(event.room_id)
        if feed is not None:
            for search in feed.sought.values():
                search.note(event)

    def hear(self, feed: Feed, change: Change) -> bool:
        """Process questions about sessions, and our own events; return whether it was one."""
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
                return False
            newcomer = feed.entering.get(event.member.peer_id)
            if newcomer is not None and newcomer.joined_at == event.member.joined_at:
                feed.listed.add(newcomer.peer_id)
            if self._mover is not None and event.member.peer_id not in feed.room.own:
                self._mover.joined(event)
        return False

    def move(self, feed: Feed, origin: str, member: Member) -> None:
        """A member has moved to another replica; the room has the change already."""
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
            # Nobody here waits for the session any more, or some events that it missed are unknown.
            left = Left(room.id, replace(member, live=None), last=False, peers=0, at=utc_now())
            self._directory.leave(left)
        else:
            del feed.sought[member.session]
            told = frozenset(feed.entering.keys() & (room.entered - room.own.keys() | feed.listed))
            room.move(member)
            mover.arrived(room.id, member, search.missed, told)
