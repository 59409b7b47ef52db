"""Lists of rooms in pages, read and encoded at most once a second for all callers."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice

import msgspec
import trio
from quart import request

from trio_signal.dialects.rest import MAX_BYTES, Page, Shape, fit
from trio_signal.errors import HttpError
from trio_signal.hub import Hub
from trio_signal.messages.identity import NO_ROOM, Identity, Member

#: Seconds for which cached entries are used.
FRESH = 1.0
#: How many rooms are counted and encoded in one go: a fraction of a millisecond's work.
_AT_ONCE = 100
#: How many pages are cached for those seconds.
_PAGES = 32
_SPECIAL = "*?["
_LAST = chr(0x10FFFF)


class RoomList:
    """The rooms with members, in the format of one dialect."""

    def __init__(self, hub: Hub, shape: Shape) -> None:
        """Use `shape` to make an entry of a room."""
        self._hub = hub
        self._shape = shape
        self._lock = trio.Lock()
        self._until = float("-inf")
        self._ids: list[str] = []
        #: Encoded entries by room id; empty for a room that is gone.
        self._entries: dict[str, bytes] = {}
        self._pages: dict[tuple[tuple[str, ...], str, int], Page] = {}

    async def page(self, caller: Identity | None, cursor: str, limit: int) -> Page:
        """The rooms after `cursor` that the caller may enter, by id; without a caller, all rooms.

        At most `limit` rooms and `MAX_BYTES` bytes. Blocks while the directory is read.
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
            if room_id != NO_ROOM and (caller is None or caller.grants.admit(room_id))
        )
        # One more than fits shows that there is another page.
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


def granted(room_ids: Sequence[str], globs: Iterable[str], cursor: str) -> Iterator[str]:
    """The sorted ids after `cursor` that match one of the globs, each once.

    If a glob begins with plain text, only ids with that prefix are looked at.
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


def read_number(name: str, default: int) -> int:
    """Read a whole number from the query; aborts with 422 for anything else."""
    text = request.args.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise HttpError(422, f"{name} must be a whole number")
    return int(text)


def matches(member: Member, search: str) -> bool:
    """Whether this text, in lower case, is part of one of a member's names."""
    return any(search in each.lower() for each in (member.peer_id, member.user_id, member.username))
