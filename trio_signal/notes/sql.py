"""Memory notes, with the members of rooms also in the database, to survive a restart.

A server without Redis has all notes in memory. Without this module, its users would return after a
restart without a name, without their rooms and without being live (`room.md`, `live.md`). So
changes of the members are written each second, in a thread. After SIGTERM all changes are written;
after SIGKILL those of the last second are missing.
"""

import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from hashlib import sha256
from uuid import uuid4

import msgspec
import trio
from msgspec import Struct

from trio_signal import notes
from trio_signal.dialects import DIALECTS
from trio_signal.errors import StoreError
from trio_signal.messages.identity import Member
from trio_signal.notes.memory import MemoryNotes
from trio_signal.store import MemberStore

logger = logging.getLogger(__name__)

#: Seconds between two writes, between two heartbeats in the database, and after a failure.
WRITE_INTERVAL = 1.0
SIGN_OF_LIFE = 10.0
PAUSE = 5.0
#: Most bytes of members in the database; further members are not written.
MEMBER_BYTES = 32 << 20


class _Present(Struct, frozen=True):
    """A row: a member of a room."""

    room_id: str
    member: Member


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Present).decode


class SqlNotes(MemoryNotes):
    """Memory notes, and this server's members in the database; see `open_sql_notes`."""

    def __init__(self, store: MemberStore) -> None:
        """Use a store, which the caller closes."""
        super().__init__()
        self._store = store
        #: Pending writes by key; None deletes.
        self._changes: dict[str, str | None] = {}
        #: Bytes by key, of what the database has or will have.
        self._sizes: dict[str, int] = {}
        self._size = 0
        #: Members of the last run by room and user, until they return.
        self._before: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        self._before_until = 0.0
        self._prepared = False
        self._wrote = 0.0
        self._writing = trio.Lock()
        self._failing = False

    async def run(self) -> None:
        """Write changes each second, and forget expired notes; until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(super().run)
            while True:
                await trio.sleep(PAUSE if self._failing else WRITE_INTERVAL)
                await self.write()

    async def write(self) -> None:
        """Read the members of the last run, if not done yet, and write changes.

        A failing database is logged once, and retried.
        """
        async with self._writing:
            self._forget_before()
            changes, self._changes = self._changes, {}
            try:
                await self._write(changes)
            except StoreError as error:
                self._changes = changes | self._changes
                self.failures += 1
                if not self._failing:
                    logger.warning(
                        "cannot store the members, a restart would forget them: %s", error
                    )
                self._failing = True
            else:
                self._failing = False

    async def _write(self, changes: dict[str, str | None]) -> None:
        now = time.time()
        if not self._prepared:
            rows = await self._store.take_over(now - notes.LOST_MEMBERS.seconds, now)
            self._prepared = True
            self._take_in(rows)
        if changes or now > self._wrote + SIGN_OF_LIFE:
            await self._store.write(changes, now)
            self._wrote = now

    def _take_in(self, rows: dict[str, str]) -> None:
        """Make the members of the last run available to returning users."""
        self._before_until = trio.current_time() + notes.LOST_MEMBERS.seconds
        for key, row in rows.items():
            try:
                present = _decode(row)
            except msgspec.DecodeError:
                logger.warning("cannot decode a member in the database: dropping it")
                self._changes.setdefault(key, None)
                continue
            if present.member.dialect not in DIALECTS:
                self._changes.setdefault(key, None)
                continue
            self._set_size(key, len(row))
            self._before[present.room_id, present.member.user_id].append(key)
            self.lose_member(present.room_id, present.member, time.time())

    def _forget_before(self) -> None:
        if self._before and trio.current_time() > self._before_until:
            for keys in self._before.values():
                self._take_out(keys)
            self._before.clear()

    def keep_member(self, room_id: str, member: Member) -> None:
        """Keep the present state of a member, in case the server ends."""
        self._take_out(self._before.pop((room_id, member.user_id), ()))
        key, row = _key(room_id, member.peer_id), _encode(_Present(room_id, member)).decode()
        if self._size - self._sizes.get(key, 0) + len(row) > MEMBER_BYTES:
            self._take_out([key])
            return
        self._set_size(key, len(row))
        self._changes[key] = row

    def forget_member(self, room_id: str, member: Member) -> None:
        """Forget a member that has left."""
        self._take_out([_key(room_id, member.peer_id)])

    def _take_out(self, keys: "list[str] | tuple[()]") -> None:
        for key in keys:
            if key in self._sizes:
                self._set_size(key, None)
                self._changes[key] = None

    def _set_size(self, key: str, size: int | None) -> None:
        self._size += (size or 0) - self._sizes.pop(key, 0)
        if size is not None:
            self._sizes[key] = size


def _key(room_id: str, peer_id: str) -> str:
    """A key short enough for every database's index."""
    return sha256(_encode((room_id, peer_id))).hexdigest()


@asynccontextmanager
async def open_sql_notes(url: str) -> AsyncIterator[SqlNotes]:
    """Notes that write members to the database at `url`; the caller must `run` them.

    A database that cannot be reached is retried. Raises ConfigError.
    """
    store = MemberStore(url, uuid4().hex)
    with closing(store):
        yield SqlNotes(store)
