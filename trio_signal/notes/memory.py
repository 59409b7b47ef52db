"""Notes in this process: for a single replica, or for several in tests."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec
import trio

from trio_signal import notes
from trio_signal.dialects import DIALECTS
from trio_signal.messages.events import Chatted
from trio_signal.messages.identity import Member, Profile
from trio_signal.messages.records import GuestUser, RoomInfo
from trio_signal.notes import Bounds, lost_key

#: Seconds between two sweeps of expired notes.
SWEEP_INTERVAL = 5.0
#: Bytes that a message takes besides its text.
_MESSAGE = 48

V = TypeVar("V")

_encode = msgspec.json.Encoder().encode
_decode_chat = msgspec.json.Decoder(Chatted).decode
_decode_profile = msgspec.json.Decoder(Profile).decode
_decode_member = msgspec.json.Decoder(Member).decode
_decode_user = msgspec.json.Decoder(GuestUser).decode
_decode_room = msgspec.json.Decoder(RoomInfo).decode


class _Entry(NamedTuple, Generic[V]):
    value: V
    size: int
    until: float


class Table(Generic[V]):
    """The notes of one kind, in the order in which they were kept."""

    def __init__(self, bounds: Bounds) -> None:
        """Begin empty."""
        self._bounds = bounds
        self._entries: OrderedDict[str, _Entry[V]] = OrderedDict()
        #: Bytes of all entries, with overhead.
        self.size = 0

    def __len__(self) -> int:
        """How many entries there are, including expired ones not swept yet."""
        return len(self._entries)

    def keep(self, key: str, value: V, size: int) -> None:
        """Keep a value of `size` bytes as the newest; forget the oldest beyond the bound."""
        self.pop(key)
        if size > self._bounds.each:
            return
        size += notes.OVERHEAD + notes.KEY_COPIES * len(key.encode())
        now = trio.current_time()
        self._entries[key] = _Entry(value, size, now + self._bounds.seconds)
        self.size += size
        self.sweep(now)
        while self.size > self._bounds.total:
            self._forget_oldest()

    def get(self, key: str) -> V | None:
        """Return the value, unless it has expired."""
        entry = self._entries.get(key)
        return entry.value if entry and trio.current_time() < entry.until else None

    def pop(self, key: str) -> V | None:
        """Return the value and forget it."""
        value = self.get(key)
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size -= entry.size
        return value

    def sweep(self, now: float) -> None:
        """Forget expired entries; all of one kind live equally long."""
        while self._entries and next(iter(self._entries.values())).until <= now:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, entry = self._entries.popitem(last=False)
        self.size -= entry.size


class _RoomChats:
    """The last messages of a room, encoded."""

    __slots__ = ("messages", "size")

    def __init__(self) -> None:
        self.messages: list[bytes] = []  # a deque takes 700 bytes more
        self.size = 0

    def add(self, message: bytes) -> None:
        """Keep one more message, and forget the oldest beyond the bound."""
        self.messages.append(message)
        self.size += len(message) + _MESSAGE
        while len(self.messages) > notes.CHATS_PER_ROOM or self.size > notes.CHATS.each:
            self.size -= len(self.messages.pop(0)) + _MESSAGE


class LeftRooms:
    """The rooms that users left on purpose, and when, in seconds since 1970."""

    def __init__(self) -> None:
        """Begin empty."""
        self.table: Table[dict[str, float]] = Table(notes.LEFT_ROOMS)

    def keep(self, user_id: str, room_id: str, at: float) -> None:
        """Keep a room; if a user has too many, only the newest."""
        rooms = (self.table.get(user_id) or {}) | {room_id: at}
        size = sum(map(notes.room_size, rooms))
        if size > notes.LEFT_ROOMS.each:
            rooms, size = {room_id: at}, notes.room_size(room_id)
        self.table.keep(user_id, rooms, size)

    def has(self, user_id: str, room_id: str, since: float) -> bool:
        """Whether a user left a room after this time."""
        return (self.table.get(user_id) or {}).get(room_id, 0.0) > since


class MemoryNotes:
    """See `trio_signal.notes`. Values are kept encoded, so that their size is known."""

    def __init__(self) -> None:
        """Begin empty."""
        #: How often notes that must survive a restart could not be written.
        self.failures = 0
        self.chat_table: Table[_RoomChats] = Table(notes.CHATS)
        self.profile_table: Table[bytes] = Table(notes.PROFILES)
        self.lost_table: Table[tuple[str, ...]] = Table(notes.LOST_ROOMS)
        self.left_rooms = LeftRooms()
        self.user_table: Table[bytes] = Table(notes.USERS)
        #: Guest ids by case-folded name.
        self.name_table: Table[str] = Table(notes.USERS)
        self.room_table: Table[bytes] = Table(notes.ROOMS)
        self.member_table: Table[bytes] = Table(notes.LOST_MEMBERS)
        self.tables: tuple[Table[Any], ...] = (
            *(self.chat_table, self.profile_table, self.lost_table, self.left_rooms.table),
            *(self.user_table, self.name_table, self.room_table, self.member_table),
        )

    async def run(self) -> None:
        """Forget expired notes, until cancelled."""
        while True:
            await trio.sleep(SWEEP_INTERVAL)
            for table in self.tables:
                table.sweep(trio.current_time())

    async def write(self) -> None:
        """Do nothing: memory notes do not survive the process."""
        await trio.lowlevel.checkpoint()

    def keep_chat(self, chat: Chatted) -> None:
        """Keep a message of a room."""
        chats = self.chat_table.get(chat.room_id) or _RoomChats()
        chats.add(_encode(chat))
        self.chat_table.keep(chat.room_id, chats, chats.size)

    async def chats(self, room_id: str, limit: int) -> list[Chatted]:
        """The last messages of a room, oldest first."""
        await trio.lowlevel.checkpoint()
        chats = self.chat_table.get(room_id)
        last = chats.messages[-limit:] if chats is not None and limit > 0 else []
        return list(map(_decode_chat, last))

    def keep_profile(self, room_id: str, user_id: str, profile: Profile) -> None:
        """Keep a user's name and picture in a room."""
        value = _encode(profile)
        self.profile_table.keep(_pair(room_id, user_id), value, len(value))

    async def remember_profile(self, room_id: str, user_id: str, profile: Profile) -> None:
        """Keep a profile."""
        await trio.lowlevel.checkpoint()
        self.keep_profile(room_id, user_id, profile)

    async def profile(self, room_id: str, user_id: str) -> Profile | None:
        """The last profile of a user in a room."""
        await trio.lowlevel.checkpoint()
        value = self.profile_table.get(_pair(room_id, user_id))
        return _decode_profile(value) if value else None

    def remember_rooms(self, user_id: str, room_ids: Iterable[str], heard: float = 0.0) -> None:
        """Keep for a minute the rooms in which a user's connection was lost."""
        lost = [room_id for room_id in room_ids if not self.has_left(user_id, room_id, heard)]
        if not lost:
            return
        kept: list[str] = []
        size = 0
        for room_id in dict.fromkeys([*(self.lost_table.get(user_id) or ()), *lost]):
            cost = notes.room_size(room_id)
            if size + cost <= notes.LOST_ROOMS.each:
                kept.append(room_id)
                size += cost
        self.lost_table.keep(user_id, tuple(kept), size)

    def keep_left(self, user_id: str, room_id: str, at: float) -> None:
        """Keep for a minute that a user left a room on purpose."""
        self.left_rooms.keep(user_id, room_id, at)
        lost = self.lost_table.get(user_id) or ()
        if room_id in lost:
            rest = tuple(other for other in lost if other != room_id)
            self.lost_table.keep(user_id, rest, sum(map(notes.room_size, rest)))

    def has_left(self, user_id: str, room_id: str, since: float) -> bool:
        """Whether a user left a room on purpose after this time."""
        return self.left_rooms.has(user_id, room_id, since)

    async def take_lost_rooms(self, user_id: str) -> tuple[str, ...]:
        """Return the rooms of a user's lost connections once; then they are forgotten."""
        await trio.lowlevel.checkpoint()
        return self.lost_table.pop(user_id) or ()

    def keep_member(self, room_id: str, member: Member) -> None:
        """Do nothing: memory notes do not survive the process."""

    def forget_member(self, room_id: str, member: Member) -> None:
        """Do nothing, like `keep_member`."""

    def lose_member(self, room_id: str, member: Member, heard: float) -> None:
        """Keep for a minute what a member must find again."""
        if DIALECTS[member.dialect].resumes == "rooms":
            self.remember_rooms(member.user_id, [room_id], heard)
        else:
            profile = Profile(member.username, member.avatar_url)
            self.keep_profile(room_id, member.user_id, profile)
        if member.live is not None:
            value = _encode(member)
            self.member_table.keep(
                lost_key(room_id, member.user_id, member.dialect), value, len(value)
            )

    async def lost_member(self, room_id: str, user_id: str, dialect: str) -> Member | None:
        """The user that was live in a room when its server removed it."""
        await trio.lowlevel.checkpoint()
        value = self.member_table.get(lost_key(room_id, user_id, dialect))
        return _decode_member(value) if value else None

    def forget_lost(self, room_id: str, user_id: str, dialect: str) -> None:
        """Forget a lost member: it is live again, or need not be."""
        self.member_table.pop(lost_key(room_id, user_id, dialect))

    async def keep_user(self, user: GuestUser) -> None:
        """Keep a guest under its id and its name."""
        await trio.lowlevel.checkpoint()
        value = _encode(user)
        self.user_table.keep(user.id, value, len(value))
        self.name_table.keep(user.username.casefold(), user.id, len(user.id.encode()))

    async def user(self, user_id: str) -> GuestUser | None:
        """The guest with this id."""
        await trio.lowlevel.checkpoint()
        value = self.user_table.get(user_id)
        return _decode_user(value) if value else None

    async def user_named(self, name: str) -> GuestUser | None:
        """The guest that has this name now, in any case."""
        user_id = self.name_table.get(name.casefold())
        user = await self.user(user_id or "")
        return user if user and user.username.casefold() == name.casefold() else None

    async def keep_room(self, room: RoomInfo) -> None:
        """Keep a room's name."""
        await trio.lowlevel.checkpoint()
        value = _encode(room)
        self.room_table.keep(room.id, value, len(value))

    async def room_infos(self, room_ids: Sequence[str]) -> dict[str, RoomInfo]:
        """The names of these rooms, by id."""
        await trio.lowlevel.checkpoint()
        values = ((room_id, self.room_table.get(room_id)) for room_id in room_ids)
        return {room_id: _decode_room(value) for room_id, value in values if value}

    def touch_rooms(self, room_ids: Iterable[str]) -> None:
        """Renew the notes of these rooms, which have members."""
        for room_id in room_ids:
            value = self.room_table.get(room_id)
            if value is not None:
                self.room_table.keep(room_id, value, len(value))


def _pair(room_id: str, user_id: str) -> str:
    """Two parts as one key: JSON separates them, whatever they contain."""
    return _encode((room_id, user_id)).decode()
