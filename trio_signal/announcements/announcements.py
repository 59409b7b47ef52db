"""Announcements of one replica: what holds, who is told, who has seen it.

An announcement is made in the database: with its commit it is, and everybody is
told; without, it never was. Revisions are numbered there, and the greatest
holds, in whatever order they come. What was told to nobody, since a process died
or Redis was away, is found by looking again.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

import trio
from msgspec.structs import replace

from trio_signal.announcements.receipts import Receipts
from trio_signal.announcements.state import Effect, Freshness, State
from trio_signal.announcements.subscribers import Subscribers
from trio_signal.bus import Board, Counted, Posted
from trio_signal.clock import utc_now
from trio_signal.errors import BoardError, StoreError, UnknownAnnouncementError
from trio_signal.messages.events import (
    Acknowledged,
    ActiveAnnouncement,
    Announced,
    AnnouncementCleared,
)
from trio_signal.messages.identity import Announcement, AnnouncementType, Identity, Revision
from trio_signal.metrics import Metrics
from trio_signal.names import to_harmless
from trio_signal.session import Session
from trio_signal.store import Store
from trio_signal.supervision import supervise

logger = logging.getLogger(__name__)

#: Seconds for a call to be stored, waiting for its turn included.
DEADLINE = 4.0
#: Seconds that a client waits for its answer, before its other messages are read.
ASKING = 1.0
#: Seconds after which we look again: if all is well, if Redis is away, and at first
#: and at most if the database is.
LOOKING = 30.0
LOOKING_ALONE = 5.0
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 5.0
#: Seconds in which an announcement is new, when it is found and not heard of.
FRESH = 5.0
#: Seconds to ask Redis how many users there are.
COUNTING = 0.4
#: How many sessions are looked up at once.
BATCH = 500


class Announcements:
    """One replica's end; made by `open_announcements`. It tells its subscribers."""

    def __init__(
        self,
        store: Store,
        board: Board | None,
        *,
        from_anybody: bool = False,
        metrics: Metrics | None = None,
    ) -> None:
        """Take an open store, and what is shared with other replicas.

        Where announcements may be `from_anybody`, nothing in them can become HTML: neither in what
        is stored, so that this outlasts a change of the mode, nor in what was stored before.
        What subscribers are told is counted in `metrics`.
        """
        self._clean: Callable[[str], str] = to_harmless if from_anybody else str
        self._store = store
        self._board = board
        self._state = State()
        self._subscribers = Subscribers(board, metrics if metrics is not None else Metrics())
        self._receipts = Receipts(store, board, self._tell_count)
        #: How many users heard announcements on other replicas only, when they were counted last.
        self._elsewhere = 0
        self._looking = trio.Event()
        #: The tables are there; we know what holds.
        self._prepared = trio.Event()
        self._loaded = trio.Event()
        #: The store, the board and we have agreed once.
        self._agreed = trio.Event()
        #: Revisions are told in their order where they are made by one replica.
        self._making = trio.Lock()
        #: The board may lack acknowledgements that the store has.
        self._unmerged = False
        self._failure: str | None = None
        if board is not None:
            board.listen(self._hear, self._resync)

    @property
    def degraded(self) -> str | None:
        """Why announcements cannot be made; None if they can."""
        return self._failure

    @property
    def active(self) -> Announcement | None:
        """The one that is to be shown, as far as this replica knows."""
        return self._state.active

    async def run(self) -> None:
        """Serve until cancelled. What cannot be reached is tried again."""
        tasks = [
            ("looking for announcements", self._keep_looking),
            ("telling who asks for announcements", self._answer),
            ("writing acknowledgements", self._receipts.run),
        ]
        if self._board is not None:
            tasks.append(("telling Redis who hears announcements", self._board.run))
        async with trio.open_nursery() as nursery:
            for name, task in tasks:
                nursery.start_soon(supervise, name, task, self._resync)

    async def wait_agreed(self) -> None:
        """Wait until the database, Redis and this replica have agreed for the first time."""
        await self._agreed.wait()

    async def finish(self) -> None:
        """Wait until all acknowledgements are written."""
        await self._receipts.wait_written()

    # Creators

    async def announce(
        self, message: str, type_: AnnouncementType, creator: Identity
    ) -> Announcement:
        """Store an announcement and tell it; raises StoreError, then it is neither."""
        announcement = Announcement(
            id=str(uuid4()),
            message=message,
            type=type_,
            created_by=creator.user_id,
            created_by_name=creator.username or creator.user_id,
            created_at=utc_now(),
        )
        announcement = self._cleaned(announcement)
        await self._make(announcement)
        return announcement

    async def clear(self) -> Announcement | None:
        """Let nothing be shown any more; what was. Raises StoreError, then it still is."""
        return await self._make(None)

    async def _make(self, announcement: Announcement | None) -> Announcement | None:
        try:
            with trio.fail_after(DEADLINE):
                await self._prepared.wait()
                await self._loaded.wait()
                async with self._making:
                    revision = await self._store_next(announcement)
                    if revision is None:
                        return None
                    self._adopt(revision, Freshness.NEW)
        except trio.TooSlowError:
            self._look_again()
            raise StoreError("the database does not answer") from None
        except BaseException:
            self._look_again()  # it may have been stored all the same
            raise
        if self._board is not None:
            try:
                await self._board.post(revision)
            except BoardError:
                self._resync()
        return revision.announcement

    async def _store_next(self, announcement: Announcement | None) -> Revision | None:
        known = self._state.revision
        if announcement is None:
            return await self._store.clear(known)
        return await self._store.announce(announcement, known)

    async def made_since(self, creator: Identity, moment: str) -> int:
        """How many announcements a creator made; raises StoreError."""
        await self._wait_prepared()
        return await self._store.made_since(self._clean(creator.user_id), moment)

    # Subscribers

    def subscribe(self, session: Session) -> None:
        """Let a session hear announcements from now on. Does not block."""
        self._subscribers.add(session)

    def unsubscribe(self, session: Session) -> None:
        """A session has left, if it was one that hears them. Does not block."""
        self._subscribers.remove(session)

    @property
    def users_here(self) -> int:
        """How many users hear announcements through this replica."""
        return self._subscribers.users

    async def count_users(self) -> int:
        """How many do so on all replicas, as Redis says; if it does not, as it said last."""
        if self._board is not None:
            with trio.move_on_after(COUNTING), suppress(BoardError):
                self._elsewhere = max(await self._board.count_users() - self.users_here, 0)
        await trio.lowlevel.checkpoint()
        return self.users_here + self._elsewhere

    async def show(self, session: Session) -> None:
        """Tell a subscriber what is active, unless its user has acknowledged it.

        Waits for the answer, but not for long: while the database is away it comes later.
        """
        told = self._subscribers.ask(session)
        with trio.move_on_after(ASKING):
            await told.wait()

    async def _answer(self) -> None:
        """Look up those who ask, many at a time."""
        while True:
            await self._loaded.wait()
            batch = await self._subscribers.wait_asked(BATCH)
            revision, announcement = self._state.revision, self.active
            seen: set[str] = set()
            if announcement is not None:
                users = {
                    session.identity.user_id for session in batch if session.identity is not None
                }
                try:
                    seen = await self._who_has_seen(announcement, users)
                except StoreError:
                    await trio.sleep(FIRST_PAUSE)
                    continue
            if self._state.revision is not revision:
                continue  # who has not been told of the newer one asks still
            for session in batch:
                if self._subscribers.settle(session):
                    self._show(session, announcement, seen)

    def _show(self, session: Session, announcement: Announcement | None, seen: set[str]) -> None:
        if announcement is None or session.identity is None:
            return
        if session.identity.user_id not in seen | self._state.acknowledged:
            session.tell(ActiveAnnouncement(announcement))

    # Users

    async def active_for(self, user_id: str | None) -> Announcement | None:
        """What a user is to see; raises StoreError."""
        await self.refresh()
        announcement = self.active
        if announcement is None or user_id is None:
            return announcement
        seen = await self._who_has_seen(announcement, {user_id})
        return announcement if user_id not in seen else None

    async def acknowledge(self, announcement_id: str, user_id: str) -> None:
        """Store that a user has seen the active announcement, and need not see it again.

        Raises UnknownAnnouncementError, and StoreError: then it may still be stored later.
        """
        if self.active is None or self.active.id != announcement_id:
            await self.refresh()
        revision = self._state.revision
        if revision is None or self.active is None or self.active.id != announcement_id:
            raise UnknownAnnouncementError(announcement_id)
        receipt = self._receipts.add(revision, user_id)
        self._state.remember(user_id)
        with trio.move_on_after(DEADLINE):
            await receipt.stored.wait()
            return
        raise StoreError("the database does not answer")

    def note(self, session: Session, announcement_id: str) -> None:
        """The same for a session, without waiting; of no other announcement. Does not block."""
        revision, identity = self._state.revision, session.identity
        if revision is None or self.active is None or identity is None:
            return
        if self.active.id != announcement_id or identity.user_id in self._state.acknowledged:
            return
        try:
            self._receipts.add(revision, identity.user_id)
        except StoreError as error:
            logger.warning("an acknowledgement is lost: %s", error)
        else:
            self._state.remember(identity.user_id)

    async def _who_has_seen(self, announcement: Announcement, users: set[str]) -> set[str]:
        """Which of these users: first the board says it, and of the others the store."""
        known = self._state.acknowledged
        seen = {u for u in users if u in known or (announcement.id, u) in self._receipts}
        trusted = False
        if self._board is not None and users - seen:
            try:
                seen |= await self._board.acknowledged(announcement.id, users - seen)
                trusted = not self._unmerged
            except BoardError:
                pass
        if users - seen and not (trusted and self._failure):
            try:
                seen |= await self._store.acknowledged(announcement.id, users - seen)
            except StoreError:
                self._look_again()
                if not trusted:
                    raise
        if self.active == announcement:
            for user_id in seen:
                self._state.remember(user_id)
        return seen

    # What holds

    async def refresh(self) -> None:
        """See what holds now: the board says it, else the store; raises StoreError."""
        if self._board is not None:
            with suppress(BoardError):
                revision = await self._board.holding()
                if revision is not None:
                    self._adopt_found(revision)
                    return
        await self._wait_prepared()
        self._adopt_found(await self._store.newest())

    async def _wait_prepared(self) -> None:
        """Right after the start there may be no tables yet; raises StoreError."""
        with trio.move_on_after(ASKING):
            await self._prepared.wait()
            return
        raise StoreError("the database does not answer")

    def _adopt_found(self, revision: Revision | None) -> None:
        """Adopt what was found: it may be so new that we are only faster than the news."""
        if revision is not None:
            age = time.time() * 1000 - revision.number
            is_new = self._loaded.is_set() and age < FRESH * 1000
            self._adopt(revision, Freshness.NEW if is_new else Freshness.LATE)

    def _adopt(self, revision: Revision, freshness: Freshness) -> Effect:
        """Let a revision hold unless a newer one does, and tell the subscribers."""
        announcement = self._cleaned(revision.announcement)
        effect = self._state.adopt(replace(revision, announcement=announcement), freshness)
        match effect:
            case Effect.TELL:
                event = Announced if revision.active else AnnouncementCleared
                self._subscribers.tell_new(event(announcement))
            case Effect.SHOW:
                for session in self._subscribers.sessions:
                    self._subscribers.ask(session)
        return effect

    def _cleaned(self, announcement: Announcement) -> Announcement:
        return replace(
            announcement,
            message=self._clean(announcement.message),
            created_by=self._clean(announcement.created_by),
            created_by_name=self._clean(announcement.created_by_name),
        )

    def _hear(self, news: Posted | Counted) -> None:
        """Another replica made something, or users acknowledged, here or there."""
        if isinstance(news, Counted):
            if self.active is not None and self.active.id == news.announcement_id:
                self._tell_count(self.active, news.acknowledged)
            return
        freshness = Freshness.LATE if news.late else Freshness.NEW
        if self._adopt(news.revision, freshness) is not Effect.NOTHING or news.late:
            self._look_again()  # so that a database of our own has it as well

    def _tell_count(self, announcement: Announcement, acknowledged: int) -> None:
        self._subscribers.tell(Acknowledged(announcement, acknowledged))

    # Looking again

    def _look_again(self) -> None:
        self._looking.set()

    def _resync(self) -> None:
        """Look again at all of it: the board may have missed or forgotten something."""
        self._unmerged = True
        self._looking.set()

    async def _keep_looking(self) -> None:
        """See to it that the store, the board and this replica agree."""
        pause = FIRST_PAUSE
        while True:
            self._looking = trio.Event()
            try:
                await self._look()
            except StoreError as error:
                self._note_failure(str(error))
                await trio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            self._note_failure(None)
            self._agreed.set()
            pause = FIRST_PAUSE
            alone = self._board is not None and not self._board.reachable
            with trio.move_on_after(LOOKING_ALONE if alone else LOOKING):
                await self._looking.wait()

    def _note_failure(self, failure: str | None) -> None:
        if failure is not None and self._failure is None:
            logger.error("announcements cannot be made: %s", failure)
        elif failure is None and self._failure is not None:
            logger.warning("the database is back: announcements can be made")
        self._failure = f"the database fails: {failure}" if failure is not None else None

    async def _look(self) -> None:
        if self._board is not None and not self._loaded.is_set():
            await self._load_from_board(self._board)
        if not self._prepared.is_set():
            await self._store.upgrade()
            self._prepared.set()
        stored = await self._store.newest()
        self._adopt_found(stored)
        self._loaded.set()
        if self._board is not None:
            await self._agree(self._board)
        revision = self._state.revision
        if revision is not None and (stored is None or stored.stamp < revision.stamp):
            await self._store.keep(revision)
        else:
            await self._store.check_writing()

    async def _load_from_board(self, board: Board) -> None:
        """At the start the board may know what holds, and be faster than the database."""
        with suppress(BoardError):
            revision = await board.holding()
            if revision is not None:
                self._adopt(revision, Freshness.LATE)
                self._loaded.set()

    async def _agree(self, board: Board) -> None:
        """Tell the board what it lacks; acknowledgements first, so that nobody sees it again."""
        unmerged, self._unmerged = self._unmerged, False
        try:
            if unmerged and self.active is not None:
                await self._receipts.merge(board, self.active)
            revision = self._state.revision
            held = await (board.post(revision, late=unmerged) if revision else board.holding())
            self._adopt_found(held)
        except BoardError:
            self._unmerged = True
        except BaseException:
            self._unmerged = True
            raise
