"""Webhooks: stores events, and sends each to every URL until it is delivered.

Events come from the journal of a server without Redis, or from the records of the scripts in Redis;
then one replica at a time reads and sends. Neither waits for a URL: the database is in between.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby, islice
from typing import Protocol
from uuid import uuid4

import httpx
import msgspec
import trio

from trio_signal.clock import utc_now
from trio_signal.errors import BoardError, StoreError
from trio_signal.hooks import HookEvent, encode, signed_headers
from trio_signal.messages.events import RoomEvent
from trio_signal.messages.identity import Announcement, Member
from trio_signal.metrics import Metrics
from trio_signal.store import NewEvent, OutboxStore, Settled, Waiting
from trio_signal.supervision import supervise
from trio_signal.webhooks.journal import Journal, Visit
from trio_signal.webhooks.spool import Spool

logger = logging.getLogger(__name__)

#: Seconds for an answer, and the pause after each failed attempt.
ANSWER_TIMEOUT = 5.0
PAUSES = (1.0, 5.0, 30.0, 120.0, 600.0, 3600.0)
#: Events taken from the outbox at a time, and of one room before their outcomes are stored; rooms
#: served at a time.
_BATCH = 200
_IN_A_ROW = 20
_AT_ONCE = 16
#: Announcements that wait for Redis; beyond it, the oldest is dropped.
_MOST_UNRECORDED = 200
#: Bytes of an answer that are read, so that the connection can be reused.
_ANSWER = 65536
#: Seconds for which one replica leads, and between two renewals.
LEADING = 5.0
_LOOKING = 1.0
#: Seconds between two reads of the records, and before a failed step is repeated.
_READING = 0.1
_AGAIN = 1.0

_decode_visit = msgspec.json.Decoder(Visit).decode


class Source(Protocol):
    """The changes recorded on all replicas; see `bus/redis/observed.py`. Methods may raise."""

    async def lead(self, seconds: float) -> bool:
        """Whether this replica sends the webhooks."""

    async def resign(self) -> None:
        """Let another replica take over at once."""

    async def read(self, after: str) -> tuple[str, list[HookEvent]]:
        """Return the last entry read, and the events after this one."""

    async def forget(self, ids: Iterable[str]) -> None:
        """Delete events that were delivered or given up."""

    async def seq(self, room_id: str) -> int:
        """The number of a room's last recorded change."""

    def announced(self, announcement: Announcement) -> bool:
        """Record an announcement; return whether that was possible."""


class Outbox:
    """The store, and the senders that wait for new events."""

    def __init__(self, store: OutboxStore, urls: Sequence[str], metrics: Metrics) -> None:
        """Use an open store."""
        self.store = store
        self.urls = urls
        self._metrics = metrics
        self.arrived = {url: trio.Event() for url in urls}

    async def add(
        self, events: Sequence[HookEvent], visits: Mapping[tuple[str, str], Visit | None]
    ) -> None:
        """Store events, and wake the senders."""
        encoded = [NewEvent(each.id, each.room, encode(each).decode()) for each in events]
        changed = {
            key: encode(visit).decode() if visit is not None else None
            for key, visit in visits.items()
        }
        dropped = await self.store.add(self.urls, encoded, changed)
        if dropped:
            logger.error("dropped %d webhooks: too many are waiting", dropped)
            self._metrics.webhooks["dropped"] += dropped
        for url in self.urls:
            self.arrived[url].set()


class Sender:
    """Sends the waiting events of one URL, in order per room, until they are delivered."""

    def __init__(
        self, outbox: Outbox, url: str, secret: str, metrics: Metrics, source: Source | None
    ) -> None:
        """Use this outbox, and the secret that signs events."""
        self._outbox = outbox
        self._url = url
        self._secret = secret
        self._metrics = metrics
        self._source = source
        self._limiter = trio.CapacityLimiter(_AT_ONCE)
        #: Rooms whose events are being sent, or whose outcomes are not stored yet.
        self._busy: set[str] = set()
        #: Outcomes to store.
        self._settled: list[Settled] = []

    async def run(self) -> None:
        """Send until cancelled."""
        self._busy.clear()
        self._settled.clear()
        limits = httpx.Limits(max_connections=_AT_ONCE)
        async with (
            httpx.AsyncClient(timeout=ANSWER_TIMEOUT, limits=limits) as http,
            trio.open_nursery() as rooms,
        ):
            while True:
                try:
                    await self._send_next(http, rooms)
                except StoreError as error:
                    logger.warning("cannot read waiting webhooks: %s", error)
                    await trio.sleep(_AGAIN)

    async def _send_next(self, http: httpx.AsyncClient, rooms: trio.Nursery) -> None:
        """Start to send the events of rooms that are not busy; if there are none, wait."""
        store, url = self._outbox.store, self._url
        changed = self._outbox.arrived[url] = trio.Event()
        await self._settle()
        if len(self._busy) >= _BATCH:
            await changed.wait()
            return
        waiting = await store.waiting(url, time.time(), _BATCH, self._busy)
        waiting.sort(key=lambda each: (each.room, each.position))
        for room, of_room in groupby(waiting, key=lambda each: each.room):
            self._busy.add(room)
            rooms.start_soon(self._send_room, http, list(islice(of_room, _IN_A_ROW)))
        if not waiting:
            due = await store.next_due(url, self._busy)
            pause = max(due - time.time(), 0.01) if due is not None else float("inf")
            with trio.move_on_after(pause):
                await changed.wait()

    async def _settle(self) -> None:
        """Store the outcomes; then the rooms' next events may be sent."""
        settled = list(self._settled)
        if not settled:
            return
        over = await self._outbox.store.settle(settled)
        del self._settled[: len(settled)]
        self._busy.difference_update(each.waiting.room for each in settled)
        if self._source is not None:
            with suppress(BoardError):  # another replica may send them again
                await self._source.forget(over)

    async def _send_room(self, http: httpx.AsyncClient, waiting: list[Waiting]) -> None:
        """Send events of one room, up to the first that fails."""
        settled: list[Settled] = []
        async with self._limiter:
            for each in waiting:
                again = await self._send(http, each)
                settled.append(Settled(each, again))
                if again is not None:
                    break
        self._settled += settled
        self._outbox.arrived[self._url].set()

    async def _send(self, http: httpx.AsyncClient, waiting: Waiting) -> float | None:
        """Send an event; return when to repeat that, or None if it is settled."""
        if await self._post(http, waiting):
            self._metrics.webhooks["delivered"] += 1
            return None
        if waiting.attempts >= len(PAUSES):
            self._metrics.webhooks["dropped"] += 1
            logger.error("gave up a webhook after %d attempts", waiting.attempts + 1)
            return None
        self._metrics.webhooks["failed"] += 1
        return time.time() + PAUSES[waiting.attempts]

    async def _post(self, http: httpx.AsyncClient, waiting: Waiting) -> bool:
        body = waiting.body.encode()
        headers = signed_headers(self._secret, waiting.id, int(time.time()), body)
        try:
            with trio.fail_after(ANSWER_TIMEOUT):
                async with http.stream("POST", self._url, content=body, headers=headers) as answer:
                    read = 0
                    async for chunk in answer.aiter_raw():
                        read += len(chunk)
                        if read > _ANSWER:
                            break
                    return answer.is_success
        except (httpx.HTTPError, httpx.InvalidURL, trio.TooSlowError, OSError) as error:
            logger.info("cannot deliver a webhook yet: %s", type(error).__name__)
            return False


class Webhooks:
    """All webhooks of one server. The caller runs it."""

    def __init__(
        self, store: OutboxStore, urls: Sequence[str], secret: str, metrics: Metrics, replica: str
    ) -> None:
        """Use an open store; events are recorded from the first `run` on."""
        self._metrics = metrics
        self._outbox = Outbox(store, urls, metrics)
        self._secret = secret
        self._replica = replica

    def _senders(self, source: Source | None) -> list[Sender]:
        outbox, secret, metrics = self._outbox, self._secret, self._metrics
        return [Sender(outbox, url, secret, metrics, source) for url in outbox.urls]

    async def _send(self, nursery: trio.Nursery, source: Source | None) -> None:
        for sender in self._senders(source):
            nursery.start_soon(supervise, "sending webhooks", sender.run)


class LocalWebhooks(Webhooks):
    """The webhooks of a server without Redis."""

    def __init__(
        self,
        store: OutboxStore,
        urls: Sequence[str],
        secret: str,
        metrics: Metrics,
        replica: str,
        spool: Spool,
    ) -> None:
        """Use an open store, and a spool for events that are not stored yet."""
        super().__init__(store, urls, secret, metrics, replica)
        self._spool = spool
        self._journal = Journal(replica, lambda: uuid4().hex, utc_now, ())
        self._noted = trio.Event()
        self._storing = trio.Lock()
        self._prepared = False
        #: Returns the current rooms.
        self.rooms: Callable[[], Mapping[str, Iterable[Member]]] = dict

    async def prepare(self) -> None:
        """End the visits of an earlier run; call it before anything is recorded.

        If the database fails, `run` does it later, and then compares the rooms.
        """
        try:
            visits = [_decode_visit(text) for text in await self._outbox.store.prepare()]
        except StoreError as error:
            logger.warning("cannot record webhooks yet: %s", error)
            self._journal.behind = True
            return
        before, unstored = self._journal, self._spool.open()
        self._journal = Journal(self._replica, lambda: uuid4().hex, utc_now, visits, unstored)
        self._journal.waiting.extend(before.waiting)
        self._journal.behind = before.behind
        self._spool.keep_only(self._journal.waiting)
        self._prepared = True

    async def seq(self, room_id: str) -> int:
        """The number of a room's last event."""
        await trio.lowlevel.checkpoint()
        return self._journal.seq(room_id)

    def note(self, event: RoomEvent) -> None:
        """Record an event in a room. Does not block."""
        before = len(self._journal.waiting)
        self._journal.note(event)
        self._spool_since(before)
        self._noted.set()

    def announced(self, announcement: Announcement) -> None:
        """Record an announcement. Does not block."""
        before = len(self._journal.waiting)
        self._journal.note_announcement(announcement)
        self._spool_since(before)
        self._noted.set()

    def _spool_since(self, before: int) -> None:
        """Write waiting events to the spool, except the first `before`."""
        waiting = self._journal.waiting
        self._spool.add([waiting[i] for i in range(before - len(waiting), 0)])

    async def run(self) -> None:
        """Store and send events; until cancelled."""
        while not self._prepared:
            await trio.sleep(_AGAIN)
            await self.prepare()
        async with trio.open_nursery() as nursery:
            await self._send(nursery, None)
            while True:
                self._noted = trio.Event()
                if await self.store():
                    if self._journal.behind:
                        before = len(self._journal.waiting)
                        self._journal.catch_up(self.rooms())
                        self._spool_since(before)
                    else:
                        await self._noted.wait()
                else:
                    await trio.sleep(_AGAIN)

    async def store(self) -> bool:
        """Store waiting events; return whether that succeeded."""
        async with self._storing:
            events, visits = self._journal.take()
            if not events:
                return True
            try:
                await self._outbox.add(events, visits)
            except StoreError as error:
                logger.warning("cannot store webhooks: %s", error)
                self._journal.put_back(events, visits)
                return False
            except trio.Cancelled:
                self._journal.put_back(events, visits)
                raise
            self._spool.note_stored(len(events), self._journal.waiting)
            return True

    async def finish(self) -> None:
        """Store waiting events, and wait until all are sent; the caller limits the time.

        If the database fails, the next run sends them.
        """
        if not self._prepared:
            await trio.lowlevel.checkpoint()
            return
        await self.store()
        with suppress(StoreError):
            for url in self._outbox.urls:
                while await self._outbox.store.count(url):  # noqa: ASYNC110  it has no events
                    await trio.sleep(_READING)


class SharedWebhooks(Webhooks):
    """The webhooks of several replicas; one at a time stores and sends the changes of all."""

    def __init__(
        self,
        store: OutboxStore,
        urls: Sequence[str],
        secret: str,
        metrics: Metrics,
        replica: str,
        source: Source,
    ) -> None:
        """Use an open store, and the recorded changes."""
        super().__init__(store, urls, secret, metrics, replica)
        self._source = source
        #: Announcements to record when Redis is back.
        self._unrecorded: deque[Announcement] = deque(maxlen=_MOST_UNRECORDED)

    def announced(self, announcement: Announcement) -> None:
        """Record an announcement. Does not block."""
        if len(self._unrecorded) == _MOST_UNRECORDED:
            self._metrics.webhooks["dropped"] += 1
            logger.error("dropped a webhook: Redis has been away for too many announcements")
        self._unrecorded.append(announcement)
        self._record()

    def _record(self) -> None:
        while self._unrecorded and self._source.announced(self._unrecorded[0]):
            self._unrecorded.popleft()

    async def seq(self, room_id: str) -> int:
        """The number of a room's last event."""
        return await self._source.seq(room_id)

    async def run(self) -> None:
        """Store and send while this replica leads; until cancelled."""
        while True:
            asked = trio.current_time()
            if await self._may_lead():
                with trio.CancelScope(deadline=asked + LEADING) as leading:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._keep_leading, leading)
                        nursery.start_soon(self._read)
                        await self._send(nursery, self._source)
            await trio.sleep(_LOOKING)

    async def _may_lead(self) -> bool:
        self._record()
        with suppress(BoardError):
            return await self._source.lead(LEADING)
        return False

    async def _keep_leading(self, leading: trio.CancelScope) -> None:
        """Extend the scope's deadline while no other replica leads."""
        while True:
            await trio.sleep(_LOOKING)
            asked = trio.current_time()
            if await self._may_lead():
                leading.deadline = asked + LEADING
            elif trio.current_time() > leading.deadline - _LOOKING:
                leading.cancel()

    async def _read(self) -> None:
        after, prepared = "", False
        while True:
            try:
                if not prepared:
                    await self._outbox.store.prepare()
                    prepared = True
                upto, events = await self._source.read(after)
                if events:
                    await self._outbox.add(events, {})
            except (BoardError, StoreError) as error:
                logger.warning("cannot store webhooks: %s", error)
                await trio.sleep(_AGAIN)
            else:
                after = upto
                if not events:
                    await trio.sleep(_READING)

    async def finish(self) -> None:
        """Let another replica take over at once, as this one stops."""
        with suppress(BoardError):
            await self._source.resign()
