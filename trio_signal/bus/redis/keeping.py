"""Keeping: bans and locks, in Redis and on every replica.

Redis decides. Every replica also receives each ban and lock: it applies them while Redis cannot be
reached, and writes them again if Redis was emptied. Those that it makes while Redis cannot be
reached are written when Redis is back.
"""

from contextlib import suppress
from functools import partial

import trio

from trio_signal.bus import Held
from trio_signal.bus.holds import LOCK_SECONDS, Holds, digest_of, digest_of_user
from trio_signal.bus.redis.directory import Directory
from trio_signal.bus.redis.wire import ForAll, encode
from trio_signal.clock import trio_time, wall_time
from trio_signal.messages.identity import Member
from trio_signal.redis import NotConnectedError, Redis, RedisError

#: Seconds for which a key shows that Redis was not emptied; longer than any lock.
_EPOCH = 7 * 86400
#: Seconds until Redis is asked again that refused something.
_PAUSE = 1.0
#: How many bans and locks are remembered that Redis may not have.
_MOST_UNSAID = 10_000


class KeptHolds:
    """The bans and locks of one replica; see `trio_signal.bus.RoomHolds`."""

    def __init__(self, redis: Redis, directory: Directory, replica: str, channel: str) -> None:
        """Use an open connection; all replicas receive what is published on `channel`."""
        self._redis = redis
        self._directory = directory
        self._replica = replica
        self._channel = channel
        #: The bans and locks that this replica knows.
        self.known = Holds()
        #: The key that is gone after Redis was emptied.
        self._key = directory.key("holds")
        self._epoch: str | None = None
        self._uncertain = trio.Event()
        #: Bans and locks of this replica that Redis may not have: the room and, for a ban, the
        #: digest.
        self._unsaid: dict[tuple[str, str | None], None] = {}

    def ban(self, room_id: str, member: Member, seconds: float) -> None:
        """Ban the identity of this member from a room."""
        now, digest = trio.current_time(), digest_of(member)
        self.known.ban(room_id, digest, now + seconds, now)
        self._write(room_id, digest, seconds)

    def lock(self, room_id: str, *, locked: bool) -> None:
        """Lock a room for newcomers, or unlock it."""
        now, seconds = trio.current_time(), LOCK_SECONDS if locked else 0.0
        self.known.lock(room_id, now + seconds, now)
        self._write(room_id, None, seconds)

    async def is_locked(self, room_id: str) -> bool:
        """Whether a room refuses newcomers."""
        with suppress(RedisError):
            return await self._directory.is_locked(room_id)
        return self.known.is_locked(room_id, trio.current_time())

    async def is_banned(self, room_id: str, subject: str, user_id: str) -> bool:
        """Whether an identity is banned; without Redis, by what this replica knows."""
        digest = digest_of_user(subject, user_id)
        with suppress(RedisError):
            return await self._directory.is_banned(room_id, digest)
        return self.known.is_banned(room_id, digest, trio.current_time())

    def _write(self, room_id: str, digest: str | None, seconds: float) -> None:
        """Write a ban or a lock, and notify the other replicas; if Redis is away, do it later."""
        note = partial(self._note_unsaid, room_id, digest)
        if digest is None:
            is_sent = self._directory.lock(room_id, seconds, note)
        else:
            is_sent = self._directory.ban(room_id, digest, seconds, note)
        if not is_sent:
            note(NotConnectedError("not sent"))
            return
        held = Held(room_id, wall_time(trio.current_time() + seconds), digest)
        self._redis.send_nowait("PUBLISH", self._channel, encode(ForAll(self._replica, held)))

    def _note_unsaid(self, room_id: str, digest: str | None, reply: object) -> None:
        """Remember what Redis may not have, for the time when it is back."""
        self._redis.note_refusal(reply)
        if isinstance(reply, Exception) and len(self._unsaid) < _MOST_UNSAID:
            self._unsaid[room_id, digest] = None
            self._uncertain.set()  # a connection that stays may refuse writes for a while

    def take(self, held: Held) -> None:
        """Another replica has banned a user or locked a room, in Redis as well."""
        now, until = trio.current_time(), trio_time(held.until)
        if held.digest is None:
            self.known.lock(held.room_id, min(until, now + LOCK_SECONDS), now)
        else:
            self.known.ban(held.room_id, held.digest, until, now)

    def resync(self) -> None:
        """Check whether Redis was emptied."""
        self._uncertain.set()

    async def run(self) -> None:
        """Write bans and locks that Redis does not have, or not any more; until cancelled."""
        while True:
            await self._redis.wait_connected()
            self._uncertain = trio.Event()
            try:
                await self._look()
            except RedisError:
                await trio.sleep(_PAUSE)
            else:
                await self._uncertain.wait()
                if self._unsaid:
                    await trio.sleep(_PAUSE)

    def _write_unsaid(self) -> None:
        now = trio.current_time()
        unsaid, self._unsaid = self._unsaid, {}
        ends: dict[tuple[str, str | None], float] = {}
        if unsaid:
            ends.update(((room, digest), end) for room, digest, end in self.known.bans(now))
            ends.update(((room, None), end) for room, _, end in self.known.locks(now))
        for room_id, digest in unsaid:
            end = ends.get((room_id, digest), now)
            if digest is None or end > now:  # a room without a lock was unlocked
                self._write(room_id, digest, end - now)

    async def _look(self) -> None:
        # First, because this raises if Redis still refuses writes.
        await self._redis.set(self._key, self._replica, nx=True, ex=_EPOCH)
        self._write_unsaid()
        epoch = str(await self._redis.get(self._key))
        if self._epoch is not None and epoch != self._epoch:
            now = trio.current_time()
            for room_id, digest, until in self.known.bans(now):
                self._directory.ban(room_id, digest, until - now, self._redis.note_refusal)
            for room_id, _, until in self.known.locks(now):
                note = self._redis.note_refusal
                self._directory.lock(room_id, until - now, note, unless_known=True)
        self._epoch = epoch
