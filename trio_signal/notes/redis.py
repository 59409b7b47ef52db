"""Notes that many replicas share in Redis.

docs/scaling.md lists the keys. Chat, profiles and lost rooms keep the format of version 0.1, so
replicas of both versions read each other's.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from importlib import resources
from typing import Any, Generic, TypeVar

import msgspec
import trio

from trio_signal import notes
from trio_signal.dialects import DIALECTS
from trio_signal.messages.events import Chatted
from trio_signal.messages.identity import Member, Profile
from trio_signal.messages.records import GuestUser, RoomInfo
from trio_signal.notes import Bounds, lost_key
from trio_signal.notes.memory import SWEEP_INTERVAL, LeftRooms
from trio_signal.redis import Argument, Redis, RedisError, Script, read_text

#: How many rooms of lost connections a user rejoins at most.
MAX_LOST_ROOMS = 1000
#: How many notes one script renews: it blocks all of Redis.
_TOUCHED_AT_ONCE = 200

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode
_decode_chat = msgspec.json.Decoder(Chatted).decode
_decode_profile = msgspec.json.Decoder(Profile).decode
_decode_member = msgspec.json.Decoder(Member).decode
_decode_user = msgspec.json.Decoder(GuestUser).decode
_decode_room = msgspec.json.Decoder(RoomInfo).decode


class _Scripts:
    """The Lua scripts, each in a file of its own."""

    def __init__(self, redis: Redis) -> None:
        folder = resources.files("trio_signal.notes") / "lua"
        account = (folder / "account.lua").read_text()

        def register(name: str) -> Script:
            return redis.register_script(account + (folder / f"{name}.lua").read_text())

        self.chat = register("chat")
        self.profile = register("profile")
        self.lost = register("lost")
        self.take_lost = register("take_lost")
        self.left = register("left")
        self.keep = register("keep")
        self.touch = register("touch")


class _Keys:
    """The names of the notes' keys."""

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{prefix}trio_signal:"

    def of(self, *parts: str) -> str:
        """Join parts to a key."""
        return self._prefix + ":".join(parts)

    def accounts(self, kind: str) -> list[str]:
        """The keys that count the entries of a kind; see account.lua."""
        return [self.of("notes", kind, "order"), self.of("notes", kind, "sizes")]


class Table(Generic[T]):
    """The notes of one kind, with a key for each entry."""

    def __init__(
        self,
        redis: Redis,
        scripts: _Scripts,
        keys: _Keys,
        kind: str,
        bounds: Bounds,
        decode: Callable[[bytes], T],
    ) -> None:
        """`kind` is in the plural, as in the keys."""
        self._redis = redis
        self._scripts = scripts
        self._key_prefix = keys.of("notes", kind, "of", "")
        self._accounts = keys.accounts(kind)
        self._bounds = bounds
        self._decode = decode
        self._called = kind.removesuffix("s")

    async def keep(self, entry: str, value: bytes) -> None:
        """Keep a value, and wait until it is kept; without Redis, it is not."""
        if len(value) > self._bounds.each:
            await trio.lowlevel.checkpoint()
            return
        with suppress(RedisError):
            await self._scripts.keep(*self._arguments(entry, value))

    def keep_nowait(self, entry: str, value: bytes) -> None:
        """Keep a value. Does not block."""
        self._scripts.keep.send_nowait(*self._arguments(entry, value))

    def _arguments(self, entry: str, value: bytes) -> tuple[list[str], list[Argument]]:
        size, bounds = _size(entry) + len(value), self._bounds
        return (
            [self._key_prefix + entry, *self._accounts],
            [entry, value, size, bounds.total, bounds.seconds, self._key_prefix],
        )

    async def read(self, entries: Sequence[str]) -> dict[str, T]:
        """The values of these entries; missing or unreadable ones are left out."""
        if not entries:
            await trio.lowlevel.checkpoint()
            return {}
        keys = [self._key_prefix + entry for entry in entries]
        try:
            values = await self._redis.execute_command("MGET", *keys)
        except RedisError:
            return {}
        read, found = self._redis.reader.read, {}
        for entry, key, data in zip(entries, keys, values, strict=True):
            value = read(self._called, self._decode, data, key) if data is not None else None
            if value is not None:
                found[entry] = value
        return found

    def touch(self, entries: Sequence[str]) -> None:
        """Renew these entries, if they exist. Does not block."""
        for begin in range(0, len(entries), _TOUCHED_AT_ONCE):
            some = entries[begin : begin + _TOUCHED_AT_ONCE]
            keys = [*self._accounts, *(self._key_prefix + entry for entry in some)]
            self._scripts.touch.send_nowait(keys, [self._bounds.seconds, *some])

    def forget(self, entry: str) -> None:
        """Forget an entry. Does not block."""
        self._redis.send_nowait("DEL", self._key_prefix + entry)


class RedisNotes:
    """See `trio_signal.notes`."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        """Use an open connection, which the caller closes."""
        #: Always 0: Redis failures are counted elsewhere.
        self.failures = 0
        self._redis = redis
        self._scripts = scripts = _Scripts(redis)
        keys = _Keys(prefix)
        self._key, self._accounts = keys.of, keys.accounts
        shared = redis, scripts, keys
        self._members = Table(*shared, "members", notes.LOST_MEMBERS, _decode_member)
        self._users = Table(*shared, "users", notes.USERS, _decode_user)
        self._names = Table(*shared, "names", notes.USERS, read_text)
        self._rooms = Table(*shared, "rooms", notes.ROOMS, _decode_room)
        #: Rooms left on this replica, which must be known without asking Redis.
        self._left_here = LeftRooms()

    async def run(self) -> None:
        """Forget expired notes here, until cancelled; Redis expires the others by itself."""
        while True:
            await trio.sleep(SWEEP_INTERVAL)
            self._left_here.table.sweep(trio.current_time())

    async def write(self) -> None:
        """Wait until Redis has processed all notes sent so far."""
        with suppress(RedisError):
            await self._redis.ping()

    def keep_chat(self, chat: Chatted) -> None:
        """Keep a message of a room."""
        room_id, bounds = chat.room_id, notes.CHATS
        self._scripts.chat.send_nowait(
            [
                *(self._key("chats", room_id), self._key("chat_bytes", room_id)),
                *self._accounts("chats"),
            ],
            [
                *(room_id, _encode(chat), notes.CHATS_PER_ROOM),
                *(bounds.each, bounds.total, bounds.seconds, _size(room_id)),
                *(self._key("chats", ""), self._key("chat_bytes", "")),
            ],
        )

    async def chats(self, room_id: str, limit: int) -> list[Chatted]:
        """The last messages of a room, oldest first."""
        if limit <= 0:
            await trio.lowlevel.checkpoint()
            return []
        try:
            chats = await self._redis.lrange(self._key("chats", room_id), -limit, -1)
        except RedisError:
            return []
        return self._read_all("chat", _decode_chat, chats, self._key("chats", room_id))

    def keep_profile(self, room_id: str, user_id: str, profile: Profile) -> None:
        """Keep a user's name and picture in a room."""
        self._scripts.profile.send_nowait(*self._profile_arguments(room_id, user_id, profile))

    async def remember_profile(self, room_id: str, user_id: str, profile: Profile) -> None:
        """Keep a profile, and wait until it is kept; without Redis, it is not."""
        with suppress(RedisError):
            await self._scripts.profile(*self._profile_arguments(room_id, user_id, profile))

    def _profile_arguments(
        self, room_id: str, user_id: str, profile: Profile
    ) -> tuple[list[str], list[Argument]]:
        value, bounds = _encode(profile), notes.PROFILES
        return (
            [self._key("profiles", room_id), *self._accounts("profiles")],
            [
                *(room_id, user_id, value, _size(room_id, user_id) + len(value)),
                *(bounds.total, bounds.seconds, self._key("profiles", "")),
            ],
        )

    async def profile(self, room_id: str, user_id: str) -> Profile | None:
        """The last profile of a user in a room."""
        try:
            value: Any = await self._redis.hget(self._key("profiles", room_id), user_id)
        except RedisError:
            return None
        if value is None:
            return None
        key = self._key("profiles", room_id)
        return self._redis.reader.read("profile", _decode_profile, value, key)

    def remember_rooms(self, user_id: str, room_ids: Iterable[str], heard: float = 0.0) -> None:
        """Keep for a minute the rooms in which a user's connection was lost."""
        bounds = notes.LOST_ROOMS
        args: list[Argument] = [
            *(user_id, bounds.each, bounds.total, bounds.seconds),
            *(_size(user_id), self._key("lost", ""), heard),
        ]
        for room_id in room_ids:
            args += (room_id, notes.room_size(room_id))
        lost, left = self._key("lost", user_id), self._key("left", user_id)
        self._scripts.lost.send_nowait([lost, *self._accounts("lost"), left], args)

    def keep_left(self, user_id: str, room_id: str, at: float) -> None:
        """Keep for a minute that a user left a room on purpose."""
        self._left_here.keep(user_id, room_id, at)
        bounds = notes.LEFT_ROOMS
        lost, left = self._key("lost", user_id), self._key("left", user_id)
        self._scripts.left.send_nowait(
            [left, *self._accounts("left"), lost],
            [
                *(user_id, room_id, at, notes.room_size(room_id)),
                *(bounds.each, bounds.total, bounds.seconds),
                *(_size(user_id), self._key("left", "")),
            ],
        )

    def has_left(self, user_id: str, room_id: str, since: float) -> bool:
        """Whether a user left a room on purpose on this replica, after this time."""
        return self._left_here.has(user_id, room_id, since)

    async def take_lost_rooms(self, user_id: str) -> tuple[str, ...]:
        """Return the rooms of a user's lost connections once; then they are forgotten."""
        keys = [self._key("lost", user_id), *self._accounts("lost")]
        try:
            rooms = await self._scripts.take_lost(keys, [user_id, MAX_LOST_ROOMS])
        except RedisError:
            return ()
        return tuple(sorted(self._read_all("name", read_text, rooms, self._key("lost", user_id))))

    def keep_member(self, room_id: str, member: Member) -> None:
        """Do nothing: the directory has the members, even those of a dead replica."""

    def forget_member(self, room_id: str, member: Member) -> None:
        """Do nothing, like `keep_member`."""

    def lose_member(self, room_id: str, member: Member, heard: float) -> None:
        """Keep for a minute what a member must find again."""
        if DIALECTS[member.dialect].resumes == "rooms":
            self.remember_rooms(member.user_id, [room_id], heard)
        if member.live is not None:
            entry = lost_key(room_id, member.user_id, member.dialect)
            self._members.keep_nowait(entry, _encode(member))

    async def lost_member(self, room_id: str, user_id: str, dialect: str) -> Member | None:
        """The user that was live in a room when its server removed it."""
        entry = lost_key(room_id, user_id, dialect)
        return (await self._members.read([entry])).get(entry)

    def forget_lost(self, room_id: str, user_id: str, dialect: str) -> None:
        """Forget a lost member: it is live again, or need not be."""
        self._members.forget(lost_key(room_id, user_id, dialect))

    async def keep_user(self, user: GuestUser) -> None:
        """Keep a guest under its id and its name, and wait until it is kept."""
        await self._users.keep(user.id, _encode(user))
        await self._names.keep(user.username.casefold(), user.id.encode())

    async def user(self, user_id: str) -> GuestUser | None:
        """The guest with this id."""
        return (await self._users.read([user_id])).get(user_id)

    async def user_named(self, name: str) -> GuestUser | None:
        """The guest that has this name now, in any case."""
        name = name.casefold()
        user_id = (await self._names.read([name])).get(name)
        user = await self.user(user_id) if user_id else None
        return user if user and user.username.casefold() == name else None

    async def keep_room(self, room: RoomInfo) -> None:
        """Keep a room's name, and wait until it is kept."""
        await self._rooms.keep(room.id, _encode(room))

    async def room_infos(self, room_ids: Sequence[str]) -> dict[str, RoomInfo]:
        """The names of these rooms, by id."""
        return await self._rooms.read(room_ids)

    def touch_rooms(self, room_ids: Iterable[str]) -> None:
        """Renew the notes of these rooms, which have members."""
        self._rooms.touch(list(room_ids))

    def _read_all(self, what: str, decode: Callable[[bytes], T], values: Any, key: str) -> list[T]:
        """Decode values; unreadable ones are left out."""
        found = [self._redis.reader.read(what, decode, value, key) for value in values]
        return [value for value in found if value is not None]


def _size(*keys: str) -> int:
    """Bytes of an entry besides its value."""
    return notes.OVERHEAD + notes.KEY_COPIES * sum(len(key.encode()) for key in keys)
