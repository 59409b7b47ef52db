"""Agreement: makes the store, the board and this replica agree on the current revision.

The store numbers revisions; the greatest number is current, in whatever order they arrive. Regular
checks find revisions that nobody was notified of, because a process died or Redis was away.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress

import trio
from msgspec.structs import replace

from trio_signal.announcements.receipts import Receipts
from trio_signal.announcements.state import Effect, Freshness, State
from trio_signal.announcements.subscribers import Subscribers
from trio_signal.bus import Board, Counted, Posted
from trio_signal.errors import BoardError, StoreError
from trio_signal.messages.events import Announced, AnnouncementCleared
from trio_signal.messages.identity import Announcement, Revision
from trio_signal.store import Store

logger = logging.getLogger(__name__)

#: Seconds for which a client waits for an answer before its other messages are read.
ASKING = 1.0
#: Seconds between two checks: if all is well, if Redis is away, and at first and at most if the
#: database is.
LOOKING = 30.0
LOOKING_ALONE = 5.0
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 5.0
#: Seconds for which a revision that a check finds still counts as new.
FRESH = 5.0


class Agreement:
    """What this replica knows of the current revision; notifies subscribers of changes."""

    def __init__(
        self,
        store: Store,
        board: Board | None,
        receipts: Receipts,
        subscribers: Subscribers,
        clean: Callable[[str], str],
    ) -> None:
        """`clean` makes an announcement's texts safe to show."""
        self._store = store
        self._board = board
        self._receipts = receipts
        self._subscribers = subscribers
        self._clean = clean
        self.state = State()
        #: Why announcements cannot be made; None if they can.
        self.failure: str | None = None
        self._looking = trio.Event()
        #: Set when the tables exist.
        self.prepared = trio.Event()
        #: Set when the current revision is known.
        self.loaded = trio.Event()
        #: Set when the store, the board and this replica have agreed once.
        self.reached = trio.Event()
        #: Whether the board may lack acknowledgements of the store.
        self._unmerged = False
        if board is not None:
            board.listen(self._hear, self.resync)

    @property
    def is_merged(self) -> bool:
        """Whether the board has all acknowledgements of the store."""
        return not self._unmerged

    async def refresh(self) -> None:
        """Read the current revision from the board, or else from the store; raises StoreError."""
        if self._board is not None:
            with suppress(BoardError):
                revision = await self._board.holding()
                if revision is not None:
                    self._adopt_found(revision)
                    return
        await self.wait_prepared()
        self._adopt_found(await self._store.newest())

    async def wait_prepared(self) -> None:
        """Wait for the tables, which may not exist right after the start; raises StoreError."""
        with trio.move_on_after(ASKING):
            await self.prepared.wait()
            return
        raise StoreError("the database does not answer")

    def _adopt_found(self, revision: Revision | None) -> None:
        """Adopt a revision found by a check; it may be so new that its message is in flight."""
        if revision is not None:
            age = time.time() * 1000 - revision.number
            is_new = self.loaded.is_set() and age < FRESH * 1000
            self.adopt(revision, Freshness.NEW if is_new else Freshness.LATE)

    def adopt(self, revision: Revision, freshness: Freshness) -> Effect:
        """Make a revision current unless a newer one is, and notify the subscribers."""
        announcement = self.cleaned(revision.announcement)
        effect = self.state.adopt(replace(revision, announcement=announcement), freshness)
        match effect:
            case Effect.TELL:
                event = Announced if revision.active else AnnouncementCleared
                self._subscribers.tell_new(event(announcement))
            case Effect.SHOW:
                for session in self._subscribers.sessions:
                    self._subscribers.ask(session)
        return effect

    def cleaned(self, announcement: Announcement) -> Announcement:
        """An announcement with texts that are safe to show."""
        return replace(
            announcement,
            message=self._clean(announcement.message),
            created_by=self._clean(announcement.created_by),
            created_by_name=self._clean(announcement.created_by_name),
        )

    def _hear(self, news: Posted | Counted) -> None:
        """Another replica has posted a revision, or users have acknowledged it, on any replica."""
        if isinstance(news, Counted):
            if self.state.active is not None and self.state.active.id == news.announcement_id:
                self._subscribers.tell_count(self.state.active, news.acknowledged)
            return
        freshness = Freshness.LATE if news.late else Freshness.NEW
        if self.adopt(news.revision, freshness) is not Effect.NOTHING or news.late:
            self.look_again()  # a separate database of this replica must get it too

    def look_again(self) -> None:
        """Check again soon: something may have been stored. Does not block."""
        self._looking.set()

    def resync(self) -> None:
        """Check everything again: the board may have missed or forgotten something.

        Does not block.
        """
        self._unmerged = True
        self._looking.set()

    async def run(self) -> None:
        """Keep the store, the board and this replica in agreement, until cancelled."""
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
            self.reached.set()
            pause = FIRST_PAUSE
            alone = self._board is not None and not self._board.reachable
            with trio.move_on_after(LOOKING_ALONE if alone else LOOKING):
                await self._looking.wait()

    def _note_failure(self, failure: str | None) -> None:
        if failure is not None and self.failure is None:
            logger.error("cannot make announcements: %s", failure)
        elif failure is None and self.failure is not None:
            logger.warning("the database is back: announcements work again")
        self.failure = f"the database fails: {failure}" if failure is not None else None

    async def _look(self) -> None:
        if self._board is not None and not self.loaded.is_set():
            await self._load_from_board(self._board)
        if not self.prepared.is_set():
            await self._store.upgrade()
            self.prepared.set()
        stored = await self._store.newest()
        self._adopt_found(stored)
        self.loaded.set()
        if self._board is not None:
            await self._agree(self._board)
        revision = self.state.revision
        if revision is not None and (stored is None or stored.stamp < revision.stamp):
            await self._store.keep(revision)
        else:
            await self._store.check_writing()

    async def _load_from_board(self, board: Board) -> None:
        """Read the current revision from the board at startup; the database may be slower."""
        with suppress(BoardError):
            revision = await board.holding()
            if revision is not None:
                self.adopt(revision, Freshness.LATE)
                self.loaded.set()

    async def _agree(self, board: Board) -> None:
        """Bring the board up to date: acknowledgements first, so that nobody sees it again."""
        unmerged, self._unmerged = self._unmerged, False
        try:
            if unmerged and self.state.active is not None:
                await self._receipts.merge(board, self.state.active)
            revision = self.state.revision
            held = await (board.post(revision, late=unmerged) if revision else board.holding())
            self._adopt_found(held)
        except BoardError:
            self._unmerged = True
        except BaseException:
            self._unmerged = True
            raise
