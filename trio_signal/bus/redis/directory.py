"""Directory: the keys of rooms and replicas in Redis, and the scripts on them.

Each replica writes only its own members, by scripts that check, write, number and publish in one
step. Anybody may write to Redis: an unreadable value is dropped, and its room becomes a *suspect*,
which is compared soon.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import trio

from trio_signal.bus import Caps
from trio_signal.bus.announcements import read_script
from trio_signal.bus.holds import LOCK_SECONDS, MOST_OF_ROOM, digest_of
from trio_signal.bus.redis.feed import Feed, Feeds
from trio_signal.bus.redis.wire import decode_member, decode_owned, encode
from trio_signal.clock import utc_now
from trio_signal.errors import JoinRefusedError
from trio_signal.messages.events import Joined, Left, ProfileChanged, Refusal, RoomEvent
from trio_signal.messages.identity import Member, is_inbox
from trio_signal.messages.records import RoomCount
from trio_signal.presence import Snapshot
from trio_signal.redis import (
    Argument,
    NotConnectedError,
    OnReply,
    Redis,
    RedisError,
    ResponseError,
    Script,
    read_text,
)
from trio_signal.redis.reading import UNREADABLE

#: How many rooms may be suspects.
_MAX_SUSPECTS = 1000
#: How many rooms one sweep visits, and up to how many members it reads in each.
_SWEPT, _SWEPT_MEMBERS = 100, 200
#: How many rooms' counts are cached.
_COUNTS = 10_000
#: The scripts that change who is in a room or who is live.
_NOTING = frozenset({"join", "leave", "change", "restore", "reap"})
#: Seconds for a replica whose lease was deleted to take another one, and how many such replicas are
#: remembered.
_GRACE, _MAX_UNLEASED = 2.5, 1000
_NEVER_COUNTED = b"0", None

_REFUSALS = {
    b"banned": Refusal.NOT_ALLOWED,
    b"in_use": Refusal.PEER_ID_IN_USE,
    b"room_full": Refusal.ROOM_FULL,
    b"stream_full": Refusal.STREAM_FULL,
}


class Scripts:
    """The Lua scripts, each in a file of its own."""

    def __init__(self, redis: Redis, observed: str) -> None:
        """Load the scripts; `observed` goes before those that change who is in a room."""

        def register(*names: str) -> Script:
            noting = observed if names[-1] in _NOTING else ""
            *before, last = map(read_script, ("reading", *names))
            return redis.register_script("".join((*before, noting, last)))

        self.join = register("join")
        self.leave = register("reserve", "leave")
        self.ban = register("ban")
        self.change = register("change")
        self.move = register("move")
        self.unpark = register("unpark")
        self.restore = register("reserve", "restore")
        self.snapshot = register("snapshot")
        self.count = register("count")
        self.live = register("live")
        self.sweep = register("sweep")
        self.lease = register("lease")
        self.reap = register("reserve", "reap")
        self.lead = register("lead")


class Unleased:
    """Replicas with members but no lease. Someone may have deleted it while they are alive."""

    def __init__(self) -> None:
        """Begin empty."""
        #: When each was first and last seen without a lease (Trio's clock).
        self._seen: dict[str, tuple[float, float]] = {}

    def note(self, replicas: Iterable[str], leased: Collection[str], now: float) -> None:
        """Record which replicas a room showed with and without a lease."""
        for replica in [replica for replica in self._seen if replica in leased]:
            del self._seen[replica]
        for replica in replicas:
            first, last = self._seen.pop(replica, (now, now))
            self._seen[replica] = first if now <= last + 2 * _GRACE else now, now
        while len(self._seen) > _MAX_UNLEASED:
            del self._seen[next(iter(self._seen))]

    def gone(self) -> set[str]:
        """The replicas that had time to take another lease and did not."""
        return {name for name, (first, last) in self._seen.items() if last >= first + _GRACE}


class Record(NamedTuple):
    """A room in Redis: its number, and the members whose replicas are not gone."""

    seq: int
    members: tuple[Member, ...]
    #: How many records there are, including unusable ones.
    size: int
    #: Whether all records are such members, each in its place, and the other keys have the room and
    #: those of the members that are live.
    is_sound: bool


class Directory:
    """The keys, read and written by one replica.

    Blocking methods raise RedisError. If a method that does not block fails, it marks the room
    stale.
    """

    def __init__(
        self, redis: Redis, feeds: Feeds, replica: str, prefix: str, *, observed: bool = False
    ) -> None:
        """Use an open connection, which the caller closes. If `observed`, record all changes."""
        self._redis = redis
        self._feeds = feeds
        self.replica = replica
        self._prefix = prefix
        #: The stream of changes recorded for webhooks.
        self.notes = self.key("webhooks", "notes")
        self.scripts = Scripts(redis, self._noting() if observed else read_script("unobserved"))
        self._unleased = Unleased()
        #: Rooms to compare before the others.
        self.suspects: dict[str, None] = {}
        #: The count of each room, and the change at which it was taken.
        self._counts: dict[str, tuple[bytes, RoomCount]] = {}

    def _noting(self) -> str:
        stream, rooms = map(_lua_text, (self.notes, self.key("room", "")))
        return f"local STREAM, ROOMS = {stream}, {rooms}\n" + read_script("observe")

    def key(self, *parts: str) -> str:
        """Return the name of a key or a channel."""
        return f"{self._prefix}trio_signal:" + ":".join(parts)

    def room(self, room_id: str) -> str:
        """Return the channel of a room, which is also the prefix of its keys."""
        return self.key("room", room_id)

    def room_keys(self, room_id: str) -> list[str]:
        """The first five keys of most scripts; see join.lua."""
        room, owned = self.room(room_id), self.key("owned", self.replica)
        # An inbox is listed only among the rooms to reap.
        listed = owned if is_inbox(room_id) else self.key("rooms")
        return [f"{room}:members", f"{room}:live", f"{room}:seq", listed, owned]

    def suspect(self, room_id: str) -> None:
        """Compare this room soon; does not block."""
        if len(self.suspects) < _MAX_SUSPECTS:
            self.suspects[room_id] = None

    def read_members(self, room_id: str, records: Iterable[bytes]) -> tuple[Member, ...]:
        """Decode members; unreadable records are left out."""
        key = f"{self.room(room_id)}:members"
        read = self._redis.reader.read
        found = [read("member", decode_member, record, key) for record in records]
        members = [member for member in found if member is not None]
        if len(members) < len(found):
            self.suspect(room_id)
        return in_order(members)

    async def read_rooms(self, names: Iterable[bytes]) -> list[str]:
        """Decode room ids; unreadable names are removed from Redis."""
        key = self.key("rooms")
        rooms = []
        for name in names:
            room_id = self._redis.reader.read("name", read_text, name, key)
            if room_id is None:
                await self._redis.srem(key, name)
            else:
                rooms.append(room_id)
        return rooms

    async def sweep(self, cursor: bytes) -> tuple[bytes, list[str]]:
        """Check some of all rooms, starting where the last call ended; b"0" to begin.

        Returns where this call ended, and the rooms to compare.
        """
        keys = [self.key("rooms"), self.key("replicas")]
        args: list[Argument] = [cursor, self.key("room", ""), _SWEPT, _SWEPT_MEMBERS, self.replica]
        cursor, *names = await self.scripts.sweep(keys, args)
        return cursor, await self.read_rooms(names)

    async def ask(self, room_id: str) -> Record:
        """Read a room from Redis."""
        members_key, live_key, seq_key, *lists = self.room_keys(room_id)
        keys = [members_key, seq_key, self.key("replicas"), *lists, live_key]
        reply = await self.scripts.snapshot(keys, [room_id])
        seq, records, names, is_listed, is_owned, live = reply
        members = self.read_members(room_id, records)
        leased = {name.decode(errors="replace") for name in names}
        unleased = {m.replica for m in members} - leased
        if len(members) < len(records):
            # The scripts can read some of these, and do not remove them before their replica is
            # gone.
            unleased |= set(_owners(records)) - leased
        self._unleased.note(unleased, leased, trio.current_time())
        if unleased:
            self.suspect(room_id)  # until those replicas are gone, or have a lease
        gone = self._unleased.gone()
        answered = tuple(m for m in members if m.replica not in gone)
        is_lost = not is_listed if members else False
        is_lost |= not is_owned and any(m.replica == self.replica for m in members)
        peer_ids = {m.peer_id for m in answered}  # one that is there twice is once in a wrong place
        is_sound = len(peer_ids) == len(records) and not is_lost and live is not None
        if is_sound:
            is_sound = {m.peer_id.encode() for m in answered if m.live} == set(live)
        return Record(seq, answered, len(records), is_sound)

    async def members(self, room_id: str) -> tuple[Member, ...]:
        """The members of a room; none if Redis cannot be asked. Does not raise."""
        try:
            return (await self.ask(room_id)).members
        except RedisError as error:
            self._suspect_if(error, room_id)
            return ()

    async def live(self, room_id: str) -> tuple[Member, ...]:
        """The live members of a room; reads no other records. Does not raise."""
        room = self.room(room_id)
        try:
            records = await self.scripts.live([f"{room}:live", f"{room}:members"])
        except RedisError as error:
            self._suspect_if(error, room_id)
            return ()
        gone = self._unleased.gone()
        members = self.read_members(room_id, records)
        return tuple(m for m in members if m.live and m.replica not in gone)

    def _suspect_if(self, error: RedisError, room_id: str) -> None:
        """An error reply may mean that a key has another type."""
        if isinstance(error, ResponseError):
            self.suspect(room_id)

    async def count(self, room_ids: Sequence[str]) -> list[RoomCount]:
        """Count the members of rooms; rooms without changes since the last count are not read."""
        args: list[Argument] = [self.key("room", "")]
        for room_id in room_ids:
            seq, _ = self._counts.get(room_id, _NEVER_COUNTED)
            args += (room_id, seq)
        replies = await self.scripts.count([self.key("rooms")], args)
        counts = []
        for room_id, (seq, *found) in zip(room_ids, replies, strict=True):
            if found:
                peers, users, live, since = found
                count = RoomCount(room_id, peers, users, live, since.decode(errors="replace"))
                self._counts.pop(room_id, None)
                self._counts[room_id] = seq, count  # moves to the end
            elif not seq:
                self._counts.pop(room_id, None)
                continue
            # Another task may have dropped the cached count that this call relied on.
            known = self._counts.get(room_id)
            if known is not None:
                counts.append(known[1])
        while len(self._counts) > _COUNTS:
            del self._counts[next(iter(self._counts))]
        return counts

    async def is_banned(self, room_id: str, digest: str) -> bool:
        """Whether somebody is kept out of a room; see ban.lua."""
        until = await self._redis.zscore(f"{self.room(room_id)}:banned", digest)
        if until is None:  # nearly always
            return False
        seconds, microseconds = await self._redis.time()
        return bool(until > seconds * 1000 + microseconds // 1000)

    # Writing

    async def join(
        self, room_id: str, member: Member, caps: Caps, *, wanted: bool
    ) -> tuple[int, Callable[[], Snapshot] | None]:
        """Enter a member; return the change's number and, if `wanted`, a function for the snapshot.

        Raises JoinRefusedError as well.
        """
        joined = Joined(room_id, member, first=False, peers=0, at=utc_now())
        for insist in (False, True):
            status, *rest = await self.scripts.join(
                [*self.room_keys(room_id), self.key("replicas")],
                [
                    *(self.replica, room_id, member.peer_id, member.subject),
                    *(encode(member), encode(joined)),
                    *(caps.peers, -1 if caps.viewers is None else caps.viewers),
                    *(self.room(room_id), int(wanted), int(insist)),
                    digest_of(member),
                ],
            )
            if status != b"later":  # the other's clock may be ahead; this request is the newer one
                break
        if status in _REFUSALS:
            raise JoinRefusedError(_REFUSALS[status])
        if status == b"lease":
            raise NotConnectedError("the lease of this replica ran out")
        seq, records, written = rest
        if records is None:
            return seq, None
        # If many peers join at once, only one reads the snapshot.
        return seq, partial(self._snapshot, room_id, seq, records, written)

    async def restore(self, room_id: str, feed: Feed | None) -> Snapshot:
        """Write this replica's members of a room anew; return a snapshot taken afterwards."""
        gone = encode([*self._unleased.gone()])
        args: list[Argument] = [self.replica, room_id, self.room(room_id), gone]
        if feed is not None:
            for member in feed.entering.values():
                args += (member.peer_id, encode(member), "?")
            for peer_id, member in feed.room.own.items():
                _, record, live = _entry(member)
                args += (peer_id, record, f"{live}+" if peer_id in feed.room.entered else live)
        keys = [*self.room_keys(room_id), self.key("replicas")]
        status, *rest = await self.scripts.restore(keys, args)
        if status == b"lease":
            raise NotConnectedError("the lease of this replica ran out")
        return self._snapshot(room_id, *rest)

    def _snapshot(
        self, room_id: str, seq: int, records: list[bytes], written: list[bytes] | None
    ) -> Snapshot:
        names = frozenset(name.decode(errors="replace") for name in written) if written else None
        return Snapshot(seq, self.read_members(room_id, records), names)

    def leave(self, event: Left) -> None:
        """Remove a member of this replica, and publish that. Does not block."""
        room_id, peer_id = event.room_id, event.member.peer_id
        args: list[Argument] = [self.replica, room_id, peer_id]
        self._run(self.scripts.leave, room_id, [*args, encode(event), self.room(room_id)])

    def change(self, room_id: str, members: Iterable[Member], event: RoomEvent | None) -> None:
        """Write members of this replica anew, and publish that. Does not block.

        Without an event, it was published already.
        """
        told = b"" if event is None else encode(event)
        args: list[Argument] = [self.replica, self.room(room_id), told]
        for member in members:
            args += _entry(member)
        if len(args) > 3:
            self._run(self.scripts.change, room_id, args, event)

    def move(self, room_id: str, member: Member, on_reply: Callable[[object], None]) -> bool:
        """Give a member of this replica to another one; returns as `Redis.send_nowait` does."""
        keys = [*self.room_keys(room_id), self.key("replicas"), self.key("owned", member.replica)]
        args: list[Argument] = [self.replica, room_id, member.peer_id, encode(member)]
        args += (member.replica, self.room(room_id))
        return self.scripts.move.send_nowait(keys, args, on_reply=on_reply)

    def ban(self, room_id: str, digest: str, seconds: float, on_reply: OnReply) -> bool:
        """Ban an identity from a room; returns as `Redis.send_nowait` does."""
        args: list[Argument] = [digest, int(seconds * 1000), MOST_OF_ROOM]
        return self.scripts.ban.send_nowait([f"{self.room(room_id)}:banned"], args, on_reply)

    def lock(
        self, room_id: str, seconds: float, on_reply: OnReply, *, unless_known: bool = False
    ) -> bool:
        """Lock a room for `seconds`, at most `LOCK_SECONDS`; 0 unlocks it.

        `unless_known` keeps a lock that is there. Returns as `Redis.send_nowait` does.
        """
        key, milliseconds = f"{self.room(room_id)}:locked", int(min(seconds, LOCK_SECONDS) * 1000)
        if milliseconds <= 0:
            return self._redis.send_nowait("DEL", key, on_reply=on_reply)
        args = ("SET", key, "1", "PX", milliseconds, *(("NX",) if unless_known else ()))
        return self._redis.send_nowait(*args, on_reply=on_reply)

    async def is_locked(self, room_id: str) -> bool:
        """Whether a room refuses newcomers."""
        return bool(await self._redis.exists(f"{self.room(room_id)}:locked"))

    def _run(
        self, script: Script, room_id: str, args: list[Argument], event: RoomEvent | None = None
    ) -> None:
        """Run a script without waiting; if it fails, mark the room stale."""

        def fail() -> None:
            self._feeds.mark_stale(room_id)
            feed = self._feeds.get(room_id)
            if feed is not None and isinstance(event, ProfileChanged):
                feed.renamed[event.member.user_id] = float("inf")

        def check(reply: object) -> None:
            if isinstance(reply, Exception):
                fail()

        if not script.send_nowait(self.room_keys(room_id), args, on_reply=check):
            fail()


def _owners(records: Iterable[bytes]) -> Iterable[str]:
    """The replicas of all records, as far as they can be read."""
    for record in records:
        with suppress(*UNREADABLE):
            yield decode_owned(record).replica


def _lua_text(text: str) -> str:
    """Quote any text as a Lua string."""
    return '"' + "".join(f"\\{byte:03d}" for byte in text.encode()) + '"'


def in_order(members: Iterable[Member]) -> tuple[Member, ...]:
    """Sort members in the order of joining, which Redis does not keep."""
    return tuple(sorted(members, key=lambda member: (member.joined_at, member.peer_id)))


def _entry(member: Member) -> tuple[str, bytes, int]:
    """A member as arguments of the scripts."""
    return member.peer_id, encode(member), int(member.live is not None)
