"""Keeping: who is kept out of rooms and which are locked, in Redis and on every replica.

Redis decides. What is said there every replica hears as well: while Redis is away it holds here,
and if Redis was emptied, whoever knows it writes it anew.
"""

from contextlib import suppress

import trio

from trio_signal.bus import Held
from trio_signal.bus.holds import LOCK_SECONDS, Holds, digest_of, digest_of_user
from trio_signal.bus.redis.directory import Directory
from trio_signal.bus.redis.wire import ForAll, encode
from trio_signal.clock import trio_time, wall_time
from trio_signal.messages.identity import Member
from trio_signal.redis import Redis, RedisError

#: Seconds for which Redis knows that it was not emptied; longer than any lock.
_EPOCH = 7 * 86400


class KeptHolds:
    """The bans and locks of one replica's bus; see `trio_signal.bus.RoomHolds`."""

    def __init__(self, redis: Redis, directory: Directory, replica: str, channel: str) -> None:
        """Take an open connection; `channel` is heard by all replicas."""
        self._redis = redis
        self._directory = directory
        self._replica = replica
        self._channel = channel
        #: What is known here.
        self.known = Holds()
        #: A key that is gone when Redis was emptied; what it was set to.
        self._key = directory.key("holds")
        self._epoch: str | None = None
        self._uncertain = trio.Event()

    def ban(self, room_id: str, member: Member, seconds: float) -> None:
        """Let who this member is not enter a room for so long."""
        now, digest = trio.current_time(), digest_of(member)
        self.known.ban(room_id, digest, now + seconds, now)
        self._directory.ban(room_id, digest, seconds)
        self._tell(Held(room_id, wall_time(now + seconds), digest))

    def lock(self, room_id: str, *, locked: bool) -> None:
        """Let nobody new into a room, or again."""
        now, seconds = trio.current_time(), LOCK_SECONDS if locked else 0.0
        self.known.lock(room_id, now + seconds, now)
        self._directory.lock(room_id, seconds)
        self._tell(Held(room_id, wall_time(now + seconds)))

    async def is_locked(self, room_id: str) -> bool:
        """Whether nobody new is let into a room."""
        with suppress(RedisError):
            return await self._directory.is_locked(room_id)
        return self.known.is_locked(room_id, trio.current_time())

    async def is_banned(self, room_id: str, subject: str, user_id: str) -> bool:
        """Whether somebody is kept out of a room; without Redis, as far as is known here."""
        digest = digest_of_user(subject, user_id)
        with suppress(RedisError):
            return await self._directory.is_banned(room_id, digest)
        return self.known.is_banned(room_id, digest, trio.current_time())

    def _tell(self, held: Held) -> None:
        self._redis.send_nowait("PUBLISH", self._channel, encode(ForAll(self._replica, held)))

    def take(self, held: Held) -> None:
        """Another replica said so, and wrote it."""
        now, until = trio.current_time(), trio_time(held.until)
        if held.digest is None:
            self.known.lock(held.room_id, min(until, now + LOCK_SECONDS), now)
        else:
            self.known.ban(held.room_id, held.digest, until, now)

    def resync(self) -> None:
        """Redis may have been emptied."""
        self._uncertain.set()

    async def run(self) -> None:
        """Write what is known here again whenever Redis was emptied; until cancelled."""
        while True:
            await self._redis.wait_connected()
            self._uncertain = trio.Event()
            try:
                await self._look()
            except RedisError:
                await trio.sleep(1)
            else:
                await self._uncertain.wait()

    async def _look(self) -> None:
        await self._redis.set(self._key, self._replica, nx=True, ex=_EPOCH)
        epoch = str(await self._redis.get(self._key))
        if self._epoch is not None and epoch != self._epoch:
            now = trio.current_time()
            for room_id, digest, until in self.known.bans(now):
                self._directory.ban(room_id, digest, until - now)
            for room_id, _, until in self.known.locks(now):
                self._directory.lock(room_id, until - now, unless_known=True)
        self._epoch = epoch
