"""Observed rooms: changes recorded by the scripts for webhooks, and which replica sends them."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from msgspec import UNSET
from msgspec.json import Decoder

from trio_signal.bus.redis.directory import Directory
from trio_signal.bus.redis.wire import decode_member, encode
from trio_signal.clock import text_of_milliseconds
from trio_signal.errors import BoardError
from trio_signal.hooks import ANNOUNCED, EVENTS, HookEvent, Peer
from trio_signal.messages.identity import Announcement, Member
from trio_signal.redis import Argument, Redis, RedisError

_decode_announcement = Decoder(Announcement).decode
#: Prefix of event ids; the rest is the id of the stream entry.
_ID = "msg_"
#: How many entries one call reads.
_READ = 500


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise BoardError(f"Redis: {error}") from error


class ObservedRooms:
    """The stream of recorded changes. Methods that block raise BoardError."""

    def __init__(self, redis: Redis, directory: Directory) -> None:
        """Use an open connection, which the caller closes."""
        self._redis = redis
        self._directory = directory
        self._leader = directory.key("webhooks", "leader")

    async def lead(self, seconds: float) -> bool:
        """Whether this replica sends the webhooks, for `seconds` from the call on."""
        args: list[Argument] = [self._directory.replica, int(seconds * 1000)]
        with _translated():
            return bool(await self._directory.scripts.lead([self._leader], args))

    async def resign(self) -> None:
        """Let another replica take over at once."""
        if await self.lead(1):
            with _translated():
                await self._redis.delete(self._leader)
                if not await self._redis.xlen(self._directory.notes):
                    await self._redis.delete(self._directory.notes)

    async def read(self, after: str) -> tuple[str, list[HookEvent]]:
        """Read the events after this entry, in order; return the last entry read, and them."""
        first = "-"
        if after:
            milliseconds, _, number = after.partition("-")
            first = f"{milliseconds}-{int(number) + 1}"
        with _translated():
            entries: Any = await self._redis.xrange(self._directory.notes, first, "+", _READ)
        found = []
        for entry, fields in entries:
            after = entry.decode()
            event = self._event(after, fields)
            if event is not None:
                found.append(event)
        return after, found

    def _event(self, entry: str, values: Mapping[bytes, bytes]) -> HookEvent | None:
        """Decode an entry, which anybody may have written; None if it is unreadable."""

        def text(name: bytes) -> str:
            return values.get(name, b"").decode(errors="replace")

        at = text_of_milliseconds(int(entry.partition("-")[0]))
        id_, event, seq = _ID + entry, text(b"event"), text(b"seq")
        read = self._redis.reader.read
        if event == ANNOUNCED:
            announcement = read(
                "announcement", _decode_announcement, values.get(b"member", b""), ""
            )
            if announcement is None:
                return None
            return HookEvent(
                id=id_,
                event=event,
                room=None,
                seq=0,
                at=at,
                replica=text(b"replica"),
                announcement=announcement,
            )
        member: Member | None = None
        if values.get(b"member"):
            member = read("member", decode_member, values[b"member"], self._directory.notes)
        if event not in EVENTS or not seq.isdecimal() or len(seq) > 18:
            return None
        peer = Peer.of(member) if member is not None else None
        return HookEvent(
            id=id_,
            event=event,
            room=text(b"room"),
            seq=int(seq),
            at=at,
            peer=peer if peer is not None else UNSET,
            cause=text(b"cause") or UNSET,
            replica=text(b"replica"),
        )

    async def forget(self, ids: Iterable[str]) -> None:
        """Delete events that were delivered or given up."""
        entries = [id_.removeprefix(_ID) for id_ in ids if "-" in id_]
        if entries:
            with _translated():
                await self._redis.xdel(self._directory.notes, *entries)

    async def seq(self, room_id: str) -> int:
        """The number of a room's last recorded change; 0 if there is none."""
        try:
            found = await self._redis.get(f"{self._directory.room(room_id)}:observed_seq")
        except RedisError:
            return 0
        return int(found or 0)

    def announced(self, announcement: Announcement) -> bool:
        """Record that this replica made an announcement; False without Redis. Does not block."""
        return self._redis.send_nowait(
            *("XADD", self._directory.notes, "*", "event", ANNOUNCED),
            *("replica", self._directory.replica, "member", encode(announcement)),
        )
