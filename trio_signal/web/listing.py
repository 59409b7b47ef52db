"""The list of rooms: read and encoded at most once a second, whoever asks for it, and paged."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import NamedTuple

import msgspec
import trio
from msgspec import Raw, Struct

from trio_signal.auth import may_enter
from trio_signal.bus import RoomCount
from trio_signal.hub import Hub
from trio_signal.messages.identity import NO_ROOM, Identity
from trio_signal.notes import RoomInfo

#: Rooms on a page, and its bytes.
MAX_ROOMS = 1000
MAX_BYTES = 256 * 1024
#: Seconds for which what was read is good enough.
FRESH = 1.0
#: How many are counted and encoded in one go: a fraction of a millisecond's work.
_AT_ONCE = 100
#: How many pages are kept for those seconds.
_PAGES = 32
_SPECIAL = "*?["
_LAST = chr(0x10FFFF)


class RoomEntry(Struct):
    """A room as the lists have it."""

    id: str
    name: str
    #: RFC 3339; of a room that nobody made, when the first of those who are there joined.
    created_at: str | None
    #: How many users are there.
    member_count: int
    thumbnail_url: str | None
    #: How many peers these have, and how many of the users are live.
    peers: int
    live: int


class ActiveRoom(Struct):
    """The same as clients of `mesh` have it."""

    room_id: str
    connected_users: int
    is_active: bool


class Page(NamedTuple):
    """A part of the list, encoded; and with what the next one begins, if there is one."""

    body: bytes
    cursor: str | None


class RoomList:
    """The rooms in which somebody is, as clients of one dialect have them."""

    def __init__(self, hub: Hub, shape: Callable[[RoomCount, RoomInfo | None], Struct]) -> None:
        """Take what makes an entry of what is known of a room."""
        self._hub = hub
        self._shape = shape
        self._lock = trio.Lock()
        self._until = float("-inf")
        self._ids: list[str] = []
        #: By id, encoded; empty for one that is not there any more.
        self._entries: dict[str, bytes] = {}
        self._pages: dict[tuple[tuple[str, ...], str, int], Page] = {}

    async def page(self, caller: Identity | None, cursor: str, limit: int) -> Page:
        """The rooms behind `cursor` that the caller may enter, by their ids; of nobody, all.

        At most `limit` of them, and `MAX_BYTES`. Blocks where the directory is asked.
        """
        globs = caller.grants.rooms if caller is not None else ("*",)
        async with self._lock:
            now = trio.current_time()
            if now >= self._until:
                self._ids = await self._hub.bus.room_ids()
                self._entries, self._pages = {}, {}
                self._until = trio.current_time() + FRESH
            page = self._pages.get((globs, cursor, limit))
            if page is None:
                page = await self._make(caller, globs, cursor, limit)
                if len(self._pages) < _PAGES:
                    self._pages[globs, cursor, limit] = page
        return page

    async def _make(
        self, caller: Identity | None, globs: Sequence[str], cursor: str, limit: int
    ) -> Page:
        allowed = (
            room_id
            for room_id in granted(self._ids, globs, cursor)
            if room_id != NO_ROOM and (caller is None or may_enter(caller, room_id))
        )
        # One more than fits tells that there is another page.
        room_ids = list(islice(allowed, limit + 1))
        await self._encode([room_id for room_id in room_ids if room_id not in self._entries])
        entries = {room_id: self._entries[room_id] for room_id in room_ids[:limit]}
        fitting = fit(entries.values(), MAX_BYTES)
        last = room_ids[len(fitting) - 1] if len(fitting) < len(room_ids) else None
        return Page(b"[" + b",".join(filter(None, fitting)) + b"]", last)

    async def _encode(self, room_ids: Sequence[str]) -> None:
        for begin in range(0, len(room_ids), _AT_ONCE):
            some = room_ids[begin : begin + _AT_ONCE]
            counts = {count.room_id: count for count in await self._hub.bus.count_members(some)}
            infos = await self._hub.notes.room_infos(list(counts))
            for room_id in some:
                count = counts.get(room_id)
                encoded = b""
                if count is not None and count.peers:
                    encoded = msgspec.json.encode(self._shape(count, infos.get(room_id)))
                self._entries[room_id] = encoded


def room_entry(count: RoomCount, info: RoomInfo | None) -> RoomEntry:
    """A room as clients of `room` have it."""
    return RoomEntry(
        count.room_id,
        info.name if info is not None else count.room_id,
        (info.created_at if info is not None else _to_milliseconds(count.since)) or None,
        count.users,
        info.thumbnail_url if info is not None else None,
        count.peers,
        count.live,
    )


def active_room(count: RoomCount, info: RoomInfo | None) -> ActiveRoom:
    """A room as clients of `mesh` have it."""
    return ActiveRoom(count.room_id, count.peers, is_active=True)


def granted(room_ids: Sequence[str], globs: Iterable[str], cursor: str) -> Iterator[str]:
    """Those of the sorted ids behind `cursor` that could fit one of the globs, each once.

    Where a glob begins with plain text, only the ids that begin so are looked at.
    """
    last = cursor
    for room_id in merge(*(_beginning(room_ids, glob, cursor) for glob in set(globs))):
        if room_id > last:
            last = room_id
            yield room_id


def _beginning(room_ids: Sequence[str], glob: str, cursor: str) -> Iterator[str]:
    special = min((at for at in map(glob.find, _SPECIAL) if at >= 0), default=len(glob))
    prefix = glob[:special]
    begin = max(bisect_left(room_ids, prefix), bisect_right(room_ids, cursor))
    end = bisect_right(room_ids, prefix + _LAST * 256) if special < len(glob) else begin + 1
    return map(room_ids.__getitem__, range(begin, min(end, len(room_ids))))


def fit(encoded: Iterable[bytes], most: int) -> list[bytes]:
    """The first of these that take `most` bytes at most; always the very first."""
    fitting: list[bytes] = []
    for each in encoded:
        most -= len(each) + 1
        if most < 0 and fitting:
            break
        fitting.append(each)
    return fitting


def fit_raw(values: Iterable[Struct], most: int) -> list[Raw]:
    """The same of values that are encoded one by one, and no more of them than fit."""
    return [Raw(each) for each in fit(map(msgspec.json.encode, values), most)]


def _to_milliseconds(moment: str) -> str:
    """RFC 3339 with microseconds, as all other times are."""
    seconds, dot, fraction = moment.partition(".")
    return f"{seconds}.{fraction[:3]}Z" if dot else moment
