"""Lease: shows that this replica is alive, and finds replicas that are not.

Each replica renews its own. Any replica may reap one whose lease has expired: a script removes all
its members from their rooms, once, and publishes that.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import trio

from trio_signal.bus import ReplicaLost
from trio_signal.bus.redis.directory import Directory
from trio_signal.bus.redis.wire import decode_member
from trio_signal.clock import utc_now
from trio_signal.messages.identity import Member
from trio_signal.redis import Argument, Redis, RedisError, read_text

logger = logging.getLogger(__name__)

#: Seconds after an outage for the other replicas to return, before they count as gone.
PATIENCE = 2.0
#: Seconds by which two clocks may drift apart per second.
_DRIFT = 0.001


class RedisClock:
    """The difference between Redis's clock and Trio's. Pure: no I/O, no clock.

    An answer is as uncertain as it is slow, so the quickest answers count.
    """

    def __init__(self) -> None:
        """Begin without a measurement."""
        self._least, self._most = float("-inf"), float("inf")
        self._noted = 0.0

    def note(self, asked: float, now: float, time: float) -> float:
        """Record the answer to a question: `time` is in milliseconds, rounded down.

        Returns by how many seconds at least the clock was set forward since the last answer.
        """
        drift = (now - self._noted) * _DRIFT
        least, most = time - now, time + 0.001 - asked
        forward = max(least - self._most - drift, 0.0)
        if self._least - drift <= most and least <= self._most + drift:
            least, most = max(least, self._least - drift), min(most, self._most + drift)
        # Otherwise somebody has set a clock, or it is another server.
        self._least, self._most, self._noted = least, most, now
        return forward

    @property
    def is_known(self) -> bool:
        """Whether there was an answer."""
        return self._noted > 0

    def span(self, now: float) -> tuple[float, float]:
        """The least and the greatest time of Redis's clock at `now`; zeros if unknown."""
        return (now + self._least, now + self._most) if self.is_known else (0.0, 0.0)


class Lease:
    """The lease of one replica, by Redis's clock. Methods that block raise RedisError."""

    def __init__(
        self,
        redis: Redis,
        directory: Directory,
        replica: str,
        seconds: float,
        *,
        lost: Callable[[], None],
        reaped: Callable[[ReplicaLost], None],
    ) -> None:
        """Begin without a lease. Neither `lost` nor `reaped` may block.

        `lost` is called before a lease is taken, perhaps because the last one expired. `reaped`
        receives each replica that is gone, and the members that this one removed.
        """
        self._redis = redis
        self._directory = directory
        self._replica = replica
        self._seconds = seconds
        self._lost, self._reaped = lost, reaped
        self.is_held = False
        self._renewing = trio.Lock()
        #: When the lease was last renewed (Trio's clock).
        self._renewed = 0.0
        #: Until when missing replicas may still return.
        self._patient_until: float | None = None
        self._retired = False
        #: From when on this replica reaps others.
        self._reaps_from = 0.0
        self.clock = RedisClock()

    @property
    def age(self) -> float | None:
        """Seconds since the lease was renewed; None if there is none yet."""
        return trio.current_time() - self._renewed if self.is_held else None

    @property
    def is_patient(self) -> bool:
        """Whether missing replicas may still return."""
        return self._patient_until is not None

    def hold_off(self, seconds: float) -> None:
        """Reap nobody for `seconds`: after an outage, other replicas may return later."""
        self._reaps_from = trio.current_time() + seconds

    def end_patience(self) -> bool:
        """Whether the wait after an outage has ended just now; replicas still missing are gone."""
        if self._patient_until is None or trio.current_time() <= self._patient_until:
            return False
        self._patient_until = None
        return True

    async def renew(self) -> None:
        """Renew the lease or take a new one, and reap the replicas whose leases expired."""
        if self._retired:
            return
        async with self._renewing:  # the next caller must see a lost lease handled
            expired = await self._hold()
        if self.is_patient or trio.current_time() < self._reaps_from:
            return
        replicas = self._directory.key("replicas")
        for name in expired:
            replica = self._redis.reader.read("name", read_text, name, replicas)
            if replica is None:
                await self._redis.zrem(replicas, name)
            else:
                await self._reap(replica)

    async def _hold(self) -> list[bytes]:
        """Renew the lease or take a new one; return the replicas whose leases expired."""
        milliseconds = int(self._seconds * 1000)
        asked = trio.current_time()
        held, expired, time = await self._write(milliseconds, take=False)
        forward = self.clock.note(asked, trio.current_time(), time / 1000)
        if forward > self._seconds / 2:
            # Leases that seem to have expired have not: all replicas renew theirs in this time.
            until = trio.current_time() + max(PATIENCE, self._seconds / 2)
            self._reaps_from = max(self._reaps_from, until)
        if not held:
            if self._retired:
                return []
            # Before the new lease, because with it rooms are restored first. As soon as a room has
            # any member of ours, other replicas assume that all of them are back.
            self._lost()
            until = trio.current_time() + PATIENCE
            if self.is_held:
                self._patient_until = until
            else:
                # Nobody could renew a lease if Redis refused all writes before this replica began.
                self._reaps_from = max(self._reaps_from, until)
            _, expired, _ = await self._write(milliseconds, take=True)
        now = trio.current_time()
        if self.is_held and (not held or now > self._renewed + self._seconds):
            logger.warning("the lease of this replica expired: adding its peers again")
            self._patient_until = now + PATIENCE
        self.is_held = True
        self._renewed = now
        return list(expired)

    async def outlast(self, seconds: float) -> None:
        """Renew the lease for the last time, so that parked members stay for `seconds`."""
        async with self._renewing:
            self._retired = True
            await self._write(int(seconds * 1000), take=True)

    async def _write(self, milliseconds: int, *, take: bool) -> Any:
        """Renew the lease, or take one if there is none; see lease.lua."""
        key = self._directory.key
        keys = [key("replicas"), key("owned", self._replica)]
        return await self._directory.scripts.lease(keys, [self._replica, milliseconds, int(take)])

    async def retire(self) -> None:
        """Give the lease up; nothing of this replica stays in Redis except parked sessions.

        Does not raise.
        """
        if self._retired:
            return
        self._retired = True
        with suppress(RedisError):
            await self._reap(self._replica, goodbye=True)

    async def _reap(self, replica: str, *, goodbye: bool = False) -> None:
        key = self._directory.key
        keys = [key("replicas"), key("rooms"), key("owned", replica)]
        args: list[Argument] = [replica, key("room", ""), utc_now(), int(goodbye)]
        until, *taken = await self._directory.scripts.reap(keys, args)
        if goodbye or not until:  # not reaped here: it renewed its lease, or another was faster
            return
        if taken:
            logger.warning("replica %s is gone: removed its %d peers", replica, len(taken) // 2)
        members = tuple(self._read_taken(replica, taken))
        self._reaped(ReplicaLost(replica, until / 1000 - self._seconds, members))

    def _read_taken(self, replica: str, taken: list[bytes]) -> Iterator[tuple[str, Member]]:
        """The rooms and members that a script removed, as far as they are readable."""
        read, key = self._redis.reader.read, self._directory.key("owned", replica)
        for name, value in zip(taken[::2], taken[1::2], strict=True):
            room_id = read("name", read_text, name, key)
            member = read("member", decode_member, value, key)
            if room_id is not None and member is not None:
                yield room_id, member
