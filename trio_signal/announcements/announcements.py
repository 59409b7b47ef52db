"""The announcements of one replica: making, showing and acknowledging them.

An announcement exists when its database transaction commits; then everybody is notified.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

import trio

from trio_signal.announcements.agreement import ASKING, FIRST_PAUSE, Agreement
from trio_signal.announcements.receipts import Receipts
from trio_signal.announcements.state import Freshness
from trio_signal.announcements.subscribers import Subscribers
from trio_signal.bus import Board
from trio_signal.clock import utc_now
from trio_signal.errors import BoardError, StoreError, UnknownAnnouncementError
from trio_signal.messages.events import ActiveAnnouncement
from trio_signal.messages.identity import Announcement, AnnouncementType, Identity
from trio_signal.metrics import Metrics
from trio_signal.names import to_harmless
from trio_signal.session import Session
from trio_signal.store import Store, stored_user
from trio_signal.supervision import supervise

logger = logging.getLogger(__name__)

#: Seconds to store an announcement or an acknowledgement, including the wait for its turn.
DEADLINE = 4.0
#: Seconds to ask Redis for the number of users.
COUNTING = 0.4
#: How many sessions are looked up together.
BATCH = 500


class Announcements:
    """The announcements of one replica; made by `open_announcements`."""

    def __init__(
        self,
        store: Store,
        board: Board | None,
        *,
        from_anybody: bool = False,
        metrics: Metrics | None = None,
    ) -> None:
        """Use an open store, and the board shared with other replicas.

        If announcements may come `from_anybody`, their texts cannot become HTML. This applies to
        what is stored, so that it survives a change of the mode, and to what was stored before.
        `metrics` counts what subscribers receive.
        """
        self._clean: Callable[[str], str] = to_harmless if from_anybody else str
        self._store = store
        self._board = board
        self._subscribers = Subscribers(board, metrics if metrics is not None else Metrics())
        self._receipts = Receipts(store, board, self._subscribers.tell_count)
        self.agreement = Agreement(store, board, self._receipts, self._subscribers, self._clean)
        #: At the last count, the number of users on other replicas only.
        self._elsewhere = 0
        #: Called for each announcement of this replica; must not block.
        self.observer: Callable[[Announcement], None] | None = None
        #: Keeps the revisions of one replica in order.
        self._making = trio.Lock()

    @property
    def degraded(self) -> str | None:
        """Why announcements cannot be made; None if they can."""
        return self.agreement.failure

    async def run(self) -> None:
        """Serve until cancelled; failures are retried."""
        tasks = [
            ("checking announcements", self.agreement.run),
            ("showing announcements on request", self._answer),
            ("writing acknowledgements", self._receipts.run),
        ]
        if self._board is not None:
            tasks.append(("registering subscribers of announcements in Redis", self._board.run))
        async with trio.open_nursery() as nursery:
            for name, task in tasks:
                nursery.start_soon(supervise, name, task, self.agreement.resync)

    async def finish(self) -> None:
        """Wait until all acknowledgements are written."""
        await self._receipts.wait_written()

    # Creators

    async def announce(
        self, message: str, type_: AnnouncementType, creator: Identity
    ) -> Announcement:
        """Store an announcement and notify everybody; raises StoreError, then neither happened."""
        announcement = Announcement(
            id=str(uuid4()),
            message=message,
            type=type_,
            created_by=creator.user_id,
            created_by_name=creator.username or creator.user_id,
            created_at=utc_now(),
        )
        announcement = self.agreement.cleaned(announcement)
        await self._make(announcement)
        if self.observer is not None:
            self.observer(announcement)
        return announcement

    async def clear(self) -> Announcement | None:
        """End the active announcement and return it. Raises StoreError, then it stays active."""
        return await self._make(None)

    async def _make(self, announcement: Announcement | None) -> Announcement | None:
        try:
            with trio.fail_after(DEADLINE):
                await self.agreement.prepared.wait()
                await self.agreement.loaded.wait()
                async with self._making:
                    known = self.agreement.state.revision
                    if announcement is None:
                        revision = await self._store.clear(known)
                    else:
                        revision = await self._store.announce(announcement, known)
                    if revision is None:
                        return None
                    self.agreement.adopt(revision, Freshness.NEW)
        except trio.TooSlowError:
            self.agreement.look_again()
            raise StoreError("the database does not answer") from None
        except BaseException:
            self.agreement.look_again()  # it may have been stored nevertheless
            raise
        if self._board is not None:
            try:
                await self._board.post(revision)
            except BoardError:
                self.agreement.resync()
        return revision.announcement

    async def made_since(self, creator: Identity, moment: str) -> int:
        """How many announcements a creator has made since a time; raises StoreError."""
        await self.agreement.wait_prepared()
        return await self._store.made_since(self._clean(creator.user_id), moment)

    # Subscribers

    def subscribe(self, session: Session) -> None:
        """Send announcements to a session from now on. Does not block."""
        self._subscribers.add(session)

    def unsubscribe(self, session: Session) -> None:
        """Stop sending announcements to a session, if it subscribed. Does not block."""
        self._subscribers.remove(session)

    @property
    def users_here(self) -> int:
        """How many users receive announcements through this replica."""
        return self._subscribers.users

    async def count_users(self) -> int:
        """How many users receive announcements on all replicas; without Redis, the last count."""
        if self._board is not None:
            with trio.move_on_after(COUNTING), suppress(BoardError):
                self._elsewhere = max(await self._board.count_users() - self.users_here, 0)
        await trio.lowlevel.checkpoint()
        return self.users_here + self._elsewhere

    async def show(self, session: Session) -> None:
        """Send the active announcement to a subscriber, unless its user has acknowledged it.

        Waits for the database for a bounded time; while it is away, the announcement comes later.
        """
        told = self._subscribers.ask(session)
        with trio.move_on_after(ASKING):
            await told.wait()

    async def _answer(self) -> None:
        """Look up the subscribers to be shown the active announcement, many at a time."""
        state = self.agreement.state
        while True:
            await self.agreement.loaded.wait()
            batch = await self._subscribers.wait_asked(BATCH)
            revision, announcement = state.revision, state.active
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
            if state.revision is not revision:
                continue  # sessions that lack the newer one are still waiting
            for session in batch:
                if not self._subscribers.settle(session):
                    continue
                identity = session.identity
                if announcement is None or identity is None:
                    continue
                if identity.user_id not in seen and identity.user_id not in state.acknowledged:
                    session.tell(ActiveAnnouncement(announcement))

    # Users

    async def active_for(self, user_id: str | None) -> Announcement | None:
        """The announcement that a user should see; raises StoreError."""
        await self.agreement.refresh()
        announcement = self.agreement.state.active
        if announcement is None or user_id is None:
            return announcement
        seen = await self._who_has_seen(announcement, {user_id})
        return announcement if user_id not in seen else None

    async def acknowledge(self, announcement_id: str, user_id: str) -> None:
        """Store that a user has acknowledged the active announcement.

        Raises UnknownAnnouncementError, or StoreError: then it may still be stored later.
        """
        state = self.agreement.state
        if state.active is None or state.active.id != announcement_id:
            await self.agreement.refresh()
        revision, active = state.revision, state.active
        if revision is None or active is None or active.id != announcement_id:
            raise UnknownAnnouncementError(announcement_id)
        receipt = self._receipts.add(revision, user_id)
        state.remember(user_id)
        with trio.move_on_after(DEADLINE):
            await receipt.stored.wait()
            return
        raise StoreError("the database does not answer")

    def note(self, session: Session, announcement_id: str) -> None:
        """Acknowledge the announcement for a session; others are ignored. Does not block."""
        state, identity = self.agreement.state, session.identity
        revision, active = state.revision, state.active
        if revision is None or active is None or identity is None:
            return
        if active.id != announcement_id or identity.user_id in state.acknowledged:
            return
        try:
            self._receipts.add(revision, identity.user_id)
        except StoreError as error:
            logger.warning("lost an acknowledgement: %s", error)
        else:
            state.remember(identity.user_id)

    async def _who_has_seen(self, announcement: Announcement, users: set[str]) -> set[str]:
        """Which of these users have acknowledged: the board's answer, completed by the store."""
        state = self.agreement.state
        known = state.acknowledged
        seen = {u for u in users if u in known or (announcement.id, u) in self._receipts}
        trusted = False
        if self._board is not None and users - seen:
            try:
                asked = {stored_user(user_id): user_id for user_id in users - seen}
                acknowledged = await self._board.acknowledged(announcement.id, asked)
                seen |= {asked[stored] for stored in acknowledged}
                trusted = self.agreement.is_merged
            except BoardError:
                pass
        if users - seen and not (trusted and self.agreement.failure):
            try:
                seen |= await self._store.acknowledged(announcement.id, users - seen)
            except StoreError:
                self.agreement.look_again()
                if not trusted:
                    raise
        if state.active == announcement:
            for user_id in seen:
                state.remember(user_id)
        return seen
