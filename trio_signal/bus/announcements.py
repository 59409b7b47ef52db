"""What replicas know together of announcements, in Redis.

`current_broadcast`, `broadcast:{id}:ack:{user_id}` and the channel `broadcasts` have
the names that operators know; all else is ours, under `trio_signal:`. Redis may
forget all of it: the database does not.
"""

import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib import resources
from typing import Any

import msgspec
import trio
from msgspec import Struct

from trio_signal.bus import Counted, Posted
from trio_signal.errors import BoardError
from trio_signal.messages.identity import Announcement, Edition, Name, Number
from trio_signal.redis import NotConnectedError, Redis, RedisError

logger = logging.getLogger(__name__)

#: Seconds for which acknowledgements are kept.
KEPT = 30 * 86400
#: Seconds for an answer; who asks has other places to look.
TIMEOUT = 1.0
#: Milliseconds by which a revision may be ahead of our clock. One that is further ahead was
#: not made from any clock, and nothing newer could follow it for as long.
AHEAD = 366 * 86400 * 1000
#: How many acknowledgements one script writes: it holds up all of Redis.
CHUNK = 500


class NewBroadcast(Struct, tag="new_broadcast"):
    """An edition in which an announcement is active."""

    edition: Edition
    late: bool


class BroadcastCleared(Struct, tag="broadcast_cleared"):
    """An edition in which it is so no longer."""

    edition: Edition
    late: bool


class BroadcastAcknowledged(Struct, tag="broadcast_acknowledged"):
    """How many users have acknowledged by now."""

    broadcast_id: Name
    acknowledged: Number


News = NewBroadcast | BroadcastCleared | BroadcastAcknowledged

_encode = msgspec.json.Encoder().encode
_decode_any_edition = msgspec.json.Decoder(Edition).decode
_decode_any_news = msgspec.json.Decoder(News).decode


class RedisBoard:
    """See `trio_signal.bus.Board`. The bus tells it what comes by the channel."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        """Take an open connection, which the caller closes."""
        self._redis = redis
        self._prefix = prefix
        self.channel = f"{prefix}broadcasts"
        self._edition_key = f"{prefix}trio_signal:edition"
        reading = read_script("reading")
        self._post = redis.register_script(reading + read_script("post"))
        self._acknowledge = redis.register_script(reading + read_script("acknowledge"))
        self._hear: Callable[[Posted | Counted], None] = lambda news: None
        self._doubt: Callable[[], None] = lambda: None

    @property
    def reachable(self) -> bool:
        """Whether there is a connection."""
        return self._redis.connected

    def listen(self, hear: Callable[[Posted | Counted], None], doubt: Callable[[], None]) -> None:
        """From now on tell what is posted and counted."""
        self._hear, self._doubt = hear, doubt
        self._redis.pubsub.subscribe(self.channel)

    def take(self, payload: bytes) -> None:
        """Something came by the channel."""
        news = self._redis.reader.read("announcement", _decode_news, payload, self.channel)
        if news is None:
            self._doubt()  # it may have been news
        elif isinstance(news, BroadcastAcknowledged):
            self._hear(Counted(news.broadcast_id, news.acknowledged))
        else:
            self._hear(Posted(news.edition, news.late))

    def doubt(self) -> None:
        """Redis may have forgotten what we wrote, or told something while we were away."""
        self._doubt()

    async def post(self, edition: Edition, *, late: bool = False) -> Edition:
        """Let an edition hold, and tell it, unless a newer one does; the one that holds."""
        held = await self._ask_to_post(edition, late=late)
        found = self._read(held)
        if found is None:  # what cannot be read holds nothing
            held = await self._ask_to_post(edition, late=late, unreadable=held)
            found = self._read(held)
        if found is None:
            raise BoardError("the edition in Redis cannot be read")
        return found

    async def _ask_to_post(self, edition: Edition, *, late: bool, unreadable: bytes = b"") -> bytes:
        news = (NewBroadcast if edition.active else BroadcastCleared)(edition, late)
        announcement = edition.announcement
        with self._within_time():
            held: bytes = await self._post(
                [f"{self._prefix}current_broadcast", self._edition_key],
                [
                    *(edition.revision, announcement.id, _encode(edition)),
                    _encode(_current(announcement)) if edition.active else b"",
                    *(self.channel, _encode(news), _greatest_revision(), unreadable),
                ],
            )
        return held

    async def holding(self) -> Edition | None:
        """The edition that holds."""
        with self._within_time():
            held: Any = await self._redis.hget(self._edition_key, "edition")
        return self._read(held) if held is not None else None

    def _read(self, held: bytes) -> Edition | None:
        return self._redis.reader.read("announcement", _decode_edition, held, self._edition_key)

    async def acknowledge(self, announcement_id: str, user_ids: Collection[str]) -> None:
        """Keep that users have acknowledged, and tell how many have."""
        keys = [self._key(announcement_id, user_id) for user_id in user_ids]
        count = f"{self._prefix}trio_signal:acknowledged:{announcement_id}"
        for start in range(0, len(keys), CHUNK):
            with self._within_time():
                await self._acknowledge(
                    [count, *keys[start : start + CHUNK]], [announcement_id, KEPT, self.channel]
                )

    async def acknowledged(self, announcement_id: str, user_ids: Collection[str]) -> set[str]:
        """Which of these users have."""
        users = list(user_ids)
        with self._within_time():
            values: Any = await self._redis.mget([self._key(announcement_id, u) for u in users])
        return {user for user, value in zip(users, values, strict=True) if value is not None}

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
    """The announcement as it is to be read by others."""
    return {
        "id": announcement.id,
        "message": announcement.message,
        "type": announcement.type,
        "created_by": announcement.created_by,
        "created_at": announcement.created_at,
    }


def _decode_edition(text: bytes) -> Edition:
    return _checked(_decode_any_edition(text))


def _decode_news(text: bytes) -> News:
    news: News = _decode_any_news(text)
    if not isinstance(news, BroadcastAcknowledged):
        _checked(news.edition)
    return news


def _checked(edition: Edition) -> Edition:
    """What a decoder cannot say of it; raises ValueError."""
    if edition.revision > _greatest_revision():
        raise ValueError(f"revision {edition.revision} is too far ahead")
    datetime.fromisoformat(edition.announcement.created_at)
    return edition


def _greatest_revision() -> int:
    return time.time_ns() // 1_000_000 + AHEAD


def read_script(name: str) -> str:
    """A Lua script of ours, or what stands before some."""
    return (resources.files("trio_signal.bus") / "lua" / f"{name}.lua").read_text()
