"""Directory: what Redis holds of rooms and replicas, and how it is asked.

Each replica writes its own members only, by scripts that check, write, number and tell in one
step. Anybody may write to Redis: what cannot be read is dropped, and the room is noted among
the `suspects`, which are compared soon.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from trio_signal.bus.announcements import read_script
from trio_signal.messages.identity import Member, is_inbox
from trio_signal.messages.records import RoomCount
from trio_signal.redis import Argument, Redis, Script, read_text

#: How many rooms are to be compared ahead of the others, at most.
_MAX_SUSPECTS = 1000
#: How many counts of rooms are kept.
_COUNTS = 10_000
_NEVER_COUNTED = b"0", None

encode = msgspec.json.Encoder().encode
decode_member = msgspec.json.Decoder(Member).decode


class Scripts:
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


class Record(NamedTuple):
    """A room as Redis has it: its number, and the members for which a replica answers."""

    seq: int
    members: tuple[Member, ...]
    #: How many records there are.
    size: int
    #: All of them are such members.
    is_sound: bool


class Directory:
    """One replica's view of the keys; all its calls but `key` and `room` raise RedisError."""

    def __init__(self, redis: Redis, replica: str, prefix: str) -> None:
        """Take an open connection, which the caller closes."""
        self._redis = redis
        self._replica = replica
        self._prefix = prefix
        self.scripts = Scripts(redis)
        #: Rooms that are to be compared ahead of the others.
        self.suspects: dict[str, None] = {}
        #: How many were in a room, and at which change.
        self._counts: dict[str, tuple[bytes, RoomCount]] = {}

    def key(self, *parts: str) -> str:
        """The name of a key or of a channel."""
        return f"{self._prefix}trio_signal:" + ":".join(parts)

    def room(self, room_id: str) -> str:
        """The channel of a room; its keys begin with the same."""
        return self.key("room", room_id)

    def room_keys(self, room_id: str) -> list[str]:
        """The first five keys of most scripts; see join.lua."""
        room, owned = self.room(room_id), self.key("owned", self._replica)
        # An inbox is on no list but that of who has to be reaped.
        listed = owned if is_inbox(room_id) else self.key("rooms")
        return [f"{room}:members", f"{room}:live", f"{room}:seq", listed, owned]

    def suspect(self, room_id: str) -> None:
        """Compare this room soon; does not block."""
        if len(self.suspects) < _MAX_SUSPECTS:
            self.suspects[room_id] = None

    def read_members(self, room_id: str, records: Iterable[bytes]) -> tuple[Member, ...]:
        """Those of them that can be read."""
        key = f"{self.room(room_id)}:members"
        read = self._redis.reader.read
        found = [read("member", decode_member, record, key) for record in records]
        members = [member for member in found if member is not None]
        if len(members) < len(found):
            self.suspect(room_id)
        return in_order(members)

    async def read_rooms(self, names: Iterable[bytes]) -> list[str]:
        """Those of them that can be read; the others are no rooms of ours."""
        key = self.key("rooms")
        rooms = []
        for name in names:
            room_id = self._redis.reader.read("name", read_text, name, key)
            if room_id is None:
                await self._redis.srem(key, name)
            else:
                rooms.append(room_id)
        return rooms

    async def ask(self, room_id: str) -> Record:
        """A room as Redis has it now."""
        room = self.room(room_id)
        keys = [f"{room}:members", f"{room}:seq", self.key("replicas")]
        seq, records, names = await self.scripts.snapshot(keys)
        members = self.read_members(room_id, records)
        replicas = {*names}
        answered = tuple(m for m in members if m.replica.encode() in replicas)
        is_sound = len(answered) == len(records)
        return Record(seq, answered, len(records), is_sound)

    async def live(self, room_id: str) -> tuple[Member, ...]:
        """The members of a room that are live; of those only are records read."""
        room = self.room(room_id)
        keys = [f"{room}:live", f"{room}:members", self.key("replicas")]
        records, names = await self.scripts.live(keys)
        replicas = {*names}
        members = self.read_members(room_id, records)
        return tuple(m for m in members if m.live and m.replica.encode() in replicas)

    async def count(self, room_ids: Sequence[str]) -> list[RoomCount]:
        """How many are in these rooms; of those that have not changed no member is read."""
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


def in_order(members: Iterable[Member]) -> tuple[Member, ...]:
    """Members in the order of joining, which Redis does not keep."""
    return tuple(sorted(members, key=lambda member: (member.joined_at, member.peer_id)))


def entry(member: Member) -> tuple[str, bytes, int]:
    """A member as the scripts take it."""
    return member.peer_id, encode(member), int(member.live is not None)
