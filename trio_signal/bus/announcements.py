"""The board in Redis: what replicas share about announcements.

`current_broadcast`, `broadcast:{id}:ack:{user_id}` and the channel `broadcasts` keep the names that
operators know; all other keys begin with `trio_signal:`. Redis may forget all of them:
announcements and acknowledgements are in the database, and each replica knows which of its own
users receive announcements.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from importlib import resources
from typing import Any

import msgspec
import trio
from msgspec import Struct, field

from trio_signal.bus import Counted, Posted
from trio_signal.errors import BoardError
from trio_signal.messages.identity import LOBBY, Announcement, Name, Number, Revision
from trio_signal.redis import NotConnectedError, Redis, RedisError, ResponseError

logger = logging.getLogger(__name__)

#: Seconds for which acknowledgements are kept.
KEPT = 30 * 86400
#: Seconds to wait for an answer; callers then fall back to the store.
TIMEOUT = 1.0
#: Milliseconds by which a revision may be ahead of our clock. A number further ahead comes from no
#: real clock, and would block all newer revisions until then.
AHEAD = 366 * 86400 * 1000
#: How many acknowledgements one script writes, and users one command: both block all of Redis.
CHUNK = 500
#: Seconds between two checks that Redis has the users of this replica.
LOOKING = 30.0
USERS_KEPT = 3600
#: How many users per second Redis may count for one replica.
COUNTED_PER_SECOND = 50_000


class NewBroadcast(Struct, tag="new_broadcast"):
    """A revision in which an announcement is active."""

    revision: Revision = field(name="edition")
    late: bool


class BroadcastCleared(Struct, tag="broadcast_cleared"):
    """A revision in which no announcement is active."""

    revision: Revision = field(name="edition")
    late: bool


class BroadcastAcknowledged(Struct, tag="broadcast_acknowledged"):
    """How many users have acknowledged an announcement so far."""

    broadcast_id: Name
    acknowledged: Number


News = NewBroadcast | BroadcastCleared | BroadcastAcknowledged

_encode = msgspec.json.Encoder().encode
_decode_any_revision = msgspec.json.Decoder(Revision).decode
_decode_any_news = msgspec.json.Decoder(News).decode


class RedisBoard:
    """The board in Redis; see `trio_signal.bus.Board`. The bus calls `take` for its channel."""

    def __init__(self, redis: Redis, replica: str, prefix: str) -> None:
        """Use an open connection, which the caller closes."""
        self._redis = redis
        self._prefix = prefix
        self.channel = f"{prefix}broadcasts"
        #: Named as in version 0.1, which may run beside this one.
        self._revision_key = f"{prefix}trio_signal:edition"
        self._users_key = self._users_of(replica)
        #: Users who receive announcements through this replica.
        self._users: dict[str, None] = {}
        self._uncertain = trio.Event()
        #: The number of users on all replicas, and until when this count is used again.
        self._counted = 0, 0.0
        reading = read_script("reading")
        self._post = redis.register_script(reading + read_script("post"))
        self._acknowledge = redis.register_script(reading + read_script("acknowledge"))
        self._count_users = redis.register_script(reading + read_script("count_users"))
        self._hear: Callable[[Posted | Counted], None] = lambda news: None
        self._resync: Callable[[], None] = lambda: None

    @property
    def reachable(self) -> bool:
        """Whether there is a connection."""
        return self._redis.connected

    def listen(self, hear: Callable[[Posted | Counted], None], resync: Callable[[], None]) -> None:
        """Call `hear` for each post and count from now on."""
        self._hear, self._resync = hear, resync
        self._redis.pubsub.subscribe(self.channel)

    def take(self, payload: bytes) -> None:
        """Process a message of the channel."""
        news = self._redis.reader.read("announcement", _decode_news, payload, self.channel)
        if news is None:
            self._resync()  # an unreadable message may have been a post
        elif isinstance(news, BroadcastAcknowledged):
            self._hear(Counted(news.broadcast_id, news.acknowledged))
        else:
            self._hear(Posted(news.revision, news.late))

    def resync(self) -> None:
        """Check Redis again: it may have forgotten our users, or we may have missed messages."""
        self._uncertain.set()
        self._resync()

    async def post(self, revision: Revision, *, late: bool = False) -> Revision:
        """Post a revision unless a newer one is current; return the current one."""
        held = await self._ask_to_post(revision, late=late)
        found = self._read(held)
        if found is None:  # an unreadable revision does not count
            held = await self._ask_to_post(revision, late=late, unreadable=held)
            found = self._read(held)
        if found is None:
            raise BoardError("the revision in Redis cannot be read")
        return found

    async def _ask_to_post(
        self, revision: Revision, *, late: bool, unreadable: bytes = b""
    ) -> bytes:
        news = (NewBroadcast if revision.active else BroadcastCleared)(revision, late)
        announcement = revision.announcement
        with self._within_time():
            held: bytes = await self._post(
                [f"{self._prefix}current_broadcast", self._revision_key],
                [
                    *(revision.number, announcement.id, _encode(revision)),
                    _encode(_current(announcement)) if revision.active else b"",
                    *(self.channel, _encode(news), _greatest_revision(), unreadable),
                ],
            )
        return held

    async def holding(self) -> Revision | None:
        """Return the current revision."""
        with self._within_time():
            held: Any = await self._redis.hget(self._revision_key, "edition")
        return self._read(held) if held is not None else None

    def _read(self, held: bytes) -> Revision | None:
        return self._redis.reader.read("announcement", _decode_revision, held, self._revision_key)

    async def acknowledge(self, announcement_id: str, user_ids: Collection[str]) -> None:
        """Record that users have acknowledged, and publish how many have."""
        keys = [self._key(announcement_id, user_id) for user_id in user_ids]
        count = f"{self._prefix}trio_signal:acknowledged:{announcement_id}"
        for start in range(0, len(keys), CHUNK):
            with self._within_time():
                await self._acknowledge(
                    [count, *keys[start : start + CHUNK]], [announcement_id, KEPT, self.channel]
                )

    async def acknowledged(self, announcement_id: str, user_ids: Collection[str]) -> set[str]:
        """Return which of these users have acknowledged."""
        users = list(user_ids)
        with self._within_time():
            values: Any = await self._redis.mget([self._key(announcement_id, u) for u in users])
        return {user for user, value in zip(users, values, strict=True) if value is not None}

    def add_user(self, user_id: str) -> None:
        """Count a user who receives announcements through this replica."""
        self._users[user_id] = None
        self._redis.send_nowait("SADD", self._users_key, user_id)

    def remove_user(self, user_id: str) -> None:
        """Stop counting a user of this replica."""
        del self._users[user_id]
        self._redis.send_nowait("SREM", self._users_key, user_id)

    async def run(self) -> None:
        """Keep this replica's users in Redis, until cancelled."""
        while True:
            self._uncertain = trio.Event()
            with suppress(BoardError):
                await self._write_users()
            with trio.move_on_after(LOOKING):
                await self._uncertain.wait()

    async def _write_users(self) -> None:
        try:
            await self._add_users()
            with self._within_time():
                is_other = await self._redis.scard(self._users_key) > len(self._users)
        except BoardError as error:
            if not isinstance(error.__cause__, ResponseError):
                raise
            is_other = True  # the key has another type
        if is_other:  # somebody else wrote to the key
            with self._within_time():
                await self._redis.unlink(self._users_key)
            await self._add_users()

    async def _add_users(self) -> None:
        users = list(self._users)
        for start in range(0, len(users), CHUNK):
            some = [user for user in users[start : start + CHUNK] if user in self._users]
            if some:
                with self._within_time():
                    await self._redis.sadd(self._users_key, *some)
        with self._within_time():
            await self._redis.expire(self._users_key, USERS_KEPT)

    async def count_users(self) -> int:
        """Count the users who receive announcements, including those of version 0.1."""
        known, good_until = self._counted
        if trio.current_time() < good_until:
            await trio.lowlevel.checkpoint()
            return known
        ours = f"{self._prefix}trio_signal:"
        with self._within_time():
            users: int = await self._count_users(
                [f"{ours}replicas", f"{ours}room:{LOBBY}:members"], [self._users_of("")]
            )
        self._counted = users, trio.current_time() + users / COUNTED_PER_SECOND
        return users

    def forget(self, replica: str) -> None:
        """Delete the users of a replica that is gone."""
        self._redis.send_nowait("UNLINK", self._users_of(replica))

    def _users_of(self, replica: str) -> str:
        return f"{self._prefix}trio_signal:subscribers:{replica}"

    def _key(self, announcement_id: str, user_id: str) -> str:
        return f"{self._prefix}broadcast:{announcement_id}:ack:{user_id}"

    @contextmanager
    def _within_time(self) -> Iterator[None]:
        try:
            if not self._redis.connected:
                raise NotConnectedError("Redis cannot be reached")
            with trio.fail_after(TIMEOUT):
                yield
        except (RedisError, trio.TooSlowError) as error:
            raise BoardError(str(error)) from error


def _current(announcement: Announcement) -> dict[str, str]:
    """The announcement in the form that other programs read."""
    return {
        "id": announcement.id,
        "message": announcement.message,
        "type": announcement.type,
        "created_by": announcement.created_by,
        "created_at": announcement.created_at,
    }


def _decode_revision(text: bytes) -> Revision:
    return _checked(_decode_any_revision(text))


def _decode_news(text: bytes) -> News:
    news: News = _decode_any_news(text)
    if not isinstance(news, BroadcastAcknowledged):
        _checked(news.revision)
    return news


def _checked(revision: Revision) -> Revision:
    """Check what a decoder cannot; raises ValueError."""
    if revision.number > _greatest_revision():
        raise ValueError(f"revision {revision.number} is too far ahead")
    datetime.fromisoformat(revision.announcement.created_at)
    return revision


def _greatest_revision() -> int:
    return time.time_ns() // 1_000_000 + AHEAD


@cache
def read_script(name: str) -> str:
    """Read a Lua script, or a prelude that goes before others."""
    return (resources.files("trio_signal.bus") / "lua" / f"{name}.lua").read_text()
