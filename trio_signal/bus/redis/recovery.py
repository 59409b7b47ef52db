"""Recovery: restores stale rooms, and looks for rooms that may be stale.

Every failure is repaired in one way. This replica writes its members anew, fetches a snapshot, and
sends the difference to the room's peers here.
"""

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import trio

from trio_signal.bus.redis.directory import Directory, Record
from trio_signal.bus.redis.feed import Feed, Feeds
from trio_signal.bus.redis.lease import Lease
from trio_signal.clock import utc_now
from trio_signal.messages.events import RoomEvent
from trio_signal.messages.identity import Member
from trio_signal.presence import Snapshot, completed
from trio_signal.redis import PubSubError, Redis, RedisError, ResponseError

logger = logging.getLogger(__name__)

#: Seconds to restore one batch of rooms, and the size of a batch: each member counts for one, and
#: each room for `_ROOM_COST`. Redis is blocked meanwhile.
RESTORE_TIMEOUT = 5.0
_RESTORED = 1000
#: Seconds between two attempts to restore.
PAUSE = 0.5
#: Seconds before the same reason is logged again, and how many reasons are logged in that time.
_LOG_PAUSE, _MOST_REASONS = 60.0, 20
#: Seconds between two comparisons with the directory, and how much each one covers: each member
#: counts for one, and each room for `_ROOM_COST`.
COMPARING = 1.0
COMPARED = 500
#: Seconds between comparisons of a replica without rooms: some Redis services are metered.
_IDLE = 30.0
_ROOM_COST = 10
#: Seconds to wait for sessions that are about to move.
_MOVED = 1.0
#: Seconds for the other replicas to rewrite their members of a deleted room.
_WRITTEN = 5.5

#: Sends events to the peers here; the flag says whether any peers were here before them.
Tell = Callable[[Feed, Sequence[RoomEvent], bool], None]


class Recovery:
    """Two tasks of one replica: one restores stale rooms, one looks for more of them."""

    def __init__(
        self, redis: Redis, feeds: Feeds, directory: Directory, lease: Lease, tell: Tell
    ) -> None:
        """Use the other parts of the bus."""
        self._redis = redis
        self._feeds = feeds
        self._directory = directory
        self._lease = lease
        self._tell = tell
        #: When the last message to itself that came back was sent (Trio's clock): everything
        #: published before has come.
        self.echoed = 0.0
        #: Reasons why rooms could not be restored, and when each was logged.
        self._complaints: dict[str, float] = {}
        #: The cursor of the sweep.
        self._cursor = b"0"
        #: Rooms whose members were deleted, and by when all replicas have rewritten theirs.
        self._again: dict[str, float] = {}
        #: Those of them that still lack a member of another replica.
        self._awaited: set[str] = set()

    async def keep_restoring(self) -> None:
        """Restore stale rooms, until cancelled."""
        while True:
            await self._feeds.wait_stale()
            await self._redis.wait_connected()
            try:
                # First, because this finds out whether Redis has lost our lease.
                await self._lease.renew()
                for room_ids in self._batches():
                    with trio.fail_after(RESTORE_TIMEOUT):
                        await self._restore_together(room_ids)
            except (RedisError, trio.TooSlowError) as error:
                self._complain(str(error) or f"no answer within {RESTORE_TIMEOUT:g} s")
                await trio.sleep(PAUSE)

    def _complain(self, reason: str) -> None:
        """Log why rooms cannot be restored: each reason at most once a minute."""
        now = trio.current_time()
        self._complaints = {r: at for r, at in self._complaints.items() if now < at + _LOG_PAUSE}
        if reason not in self._complaints and len(self._complaints) < _MOST_REASONS:
            self._complaints[reason] = now
            logger.warning("cannot resynchronize with Redis yet: %s", reason)

    def _batches(self) -> Iterator[list[str]]:
        """The stale rooms, in batches that are restored in one round trip."""
        batch: list[str] = []
        size = 0
        for room_id in list(self._feeds.stale):
            feed = self._feeds.get(room_id)
            batch.append(room_id)
            size += _ROOM_COST + (len(feed.room) if feed is not None else 0)
            if size >= _RESTORED:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    async def _restore_together(self, room_ids: Iterable[str]) -> None:
        """Restore rooms concurrently. Raises the first RedisError after all have finished."""
        errors: list[RedisError] = []

        async def restore(room_id: str) -> None:
            try:
                await self.restore(room_id)
            except RedisError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for room_id in room_ids:
                nursery.start_soon(restore, room_id)
        if errors:
            raise errors[0]

    async def restore(self, room_id: str) -> None:
        """Write this replica's members of a stale room, and apply a snapshot. Raises RedisError."""
        feed = await self._subscribed_feed(room_id)
        if feed is not None:
            with trio.move_on_after(_MOVED):
                await feed.wait_moved()
        if self._feeds.get(room_id) is not feed or room_id not in self._feeds.stale:
            return  # another task has restored it
        losses = 0
        if feed is not None:
            # The snapshot includes all true changes that have come so far.
            feed.room.numbering.start_over()
            losses = feed.room.numbering.losses
        # Failures from here on mark it stale again.
        del self._feeds.stale[room_id]
        try:
            snapshot = await self._directory.restore(room_id, feed)
        except BaseException:
            self._feeds.mark_stale(room_id)
            raise
        if feed is not None:
            # Changes that have not come by now are lost.
            numbering = feed.room.numbering
            numbering.received = max(numbering.received, snapshot.seq)
            self.catch_up(feed, snapshot, losses)

    async def _subscribed_feed(self, room_id: str) -> Feed | None:
        """Wait for the room's channel and return its feed, which may be another one by then."""
        while room_id in self._feeds:
            with suppress(PubSubError):  # the subscription was dropped
                await self._redis.pubsub.wait_subscribed(self._directory.room(room_id))
                return self._feeds.get(room_id)
        return None

    def catch_up(self, feed: Feed, snapshot: Snapshot, losses: int) -> None:
        """Apply a snapshot, and send the difference; see `Room.catch_up`. Does not block."""
        if feed.room.numbering.in_step:
            return
        room = feed.room
        has_members_here = bool(room.own)
        snapshot = feed.with_new_names(snapshot)
        events = room.catch_up(snapshot, losses, utc_now(), patient=self._lease.is_patient)
        if snapshot.written is not None:
            self._again[room.id] = trio.current_time() + _WRITTEN
            if room.members.keys() <= room.own.keys() | {m.peer_id for m in snapshot.members}:
                self._awaited.discard(room.id)
            else:
                self._awaited.add(room.id)
        self._tell(feed, events, has_members_here)
        if not room.numbering.in_step or room.own.keys() - room.entered:
            self._feeds.mark_stale(room.id)

    # Comparing with the directory: nobody is notified of deleted or overwritten keys

    async def keep_comparing(self) -> None:
        """Compare rooms with the directory, and mark differing ones as stale; until cancelled."""
        credit, compared = 0, trio.current_time()
        turn: list[str] = []
        while True:
            await trio.sleep(COMPARING * random.uniform(0.9, 1.1))  # noqa: S311
            is_idle = not (self._feeds or self._directory.suspects)
            if is_idle and trio.current_time() < compared + _IDLE:
                continue
            await self._redis.wait_connected()
            compared = trio.current_time()
            credit = min(credit, 0) + COMPARED
            self._look_again()
            if not turn:
                turn = [*self._feeds]
            with suppress(RedisError):
                rooms = [*self._directory.suspects, *await self._strange_rooms()]
                self._directory.suspects.clear()
                while credit > 0 and (rooms or turn):
                    credit -= _ROOM_COST + await self._compare((rooms or turn).pop())

    def _look_again(self) -> None:
        """Restore deleted rooms once more: members that were not rewritten in time are gone."""
        now = trio.current_time()
        for room_id in [room_id for room_id, at in self._again.items() if at <= now]:
            del self._again[room_id]
            self._awaited.discard(room_id)
            self._feeds.mark_stale(room_id)

    async def _strange_rooms(self) -> list[str]:
        """Rooms to check that this replica does not follow; perhaps no replica does."""
        try:
            self._cursor, rooms = await self._directory.sweep(self._cursor)
        except ResponseError as error:
            self._cursor = b"0"
            if "WRONGTYPE" in str(error):
                await self._redis.unlink(self._directory.key("rooms"))
                self._feeds.mark_all_stale()
            return []
        return [room_id for room_id in rooms if room_id not in self._feeds]

    async def _compare(self, room_id: str) -> int:
        """Mark a room stale if the directory differs; return how many members that has."""
        feed = self._feeds.get(room_id)
        if self._lease.is_patient:
            return 0
        # A stale room is read all the same: a restore removes members only of replicas that have
        # been without a lease for a while.
        is_stale = room_id in self._feeds.stale or room_id in self._awaited
        is_stale |= feed is not None and not feed.room.numbering.in_step
        before = _Before.of(feed) if feed is not None else None
        try:
            directory = await self._directory.ask(room_id)
        except ResponseError:
            self._feeds.mark_stale(room_id)
            return 0
        if is_stale or self._lease.is_patient or self._feeds.get(room_id) is not feed:
            return directory.size
        if feed is None or before is None:
            is_other = any(m.replica == self._directory.replica for m in directory.members)
        else:
            is_other = _differs(feed, before, directory, self.echoed)
        if is_other or not directory.is_sound:
            logger.warning("room %s differs from Redis: restoring it", ascii(room_id[:200]))
            self._feeds.mark_stale(room_id)
        return directory.size


class _Before(NamedTuple):
    """What a replica knew of a room when it asked the directory."""

    asked: float
    seq: int
    members: dict[str, Member]
    entering: frozenset[str]

    @classmethod
    def of(cls, feed: Feed) -> "_Before":
        seq, own = feed.room.numbering.seq, feed.room.own
        return cls(trio.current_time(), seq, dict(own), frozenset(feed.entering))


def _differs(feed: Feed, before: _Before, directory: Record, echoed: float) -> bool:
    """Whether the directory, asked after `before`, differs from this replica's room.

    `echoed` is when the last message to itself that came back was sent (Trio's clock): everything
    published before has come.
    """
    room, (seen, when) = feed.room, feed.seen
    numbering = room.numbering
    if not numbering.in_step:
        return False
    feed.seen = (directory.seq, before.asked)
    if directory.seq < before.seq:  # the directory lost changes
        return True
    if numbering.seq < seen and when < echoed:  # a change should have come
        return True
    if directory.seq != numbering.seq:
        return False  # changes are in flight
    others = {
        m.peer_id: completed(m, room.members.get(m.peer_id))
        for m in directory.members
        if m.replica != room.replica
    }
    own = {m.peer_id: m for m in directory.members if m.replica == room.replica}
    known = {p: m for p, m in room.members.items() if p not in room.own and p not in room.entered}
    # Those that came meanwhile, as a session does that moves here, are in the room by now.
    expected = before.members.keys() | before.entering | room.own.keys()
    return (
        others != known
        or not own.keys() <= expected
        or any(own.get(p) != m for p, m in before.members.items() if room.own.get(p) is m)
    )
