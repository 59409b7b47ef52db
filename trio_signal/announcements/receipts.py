"""Receipts: acknowledgements on their way to the store and the board."""

import logging
from collections.abc import Callable, Iterable
from itertools import islice

import trio

from trio_signal.bus import Board
from trio_signal.errors import BoardError, StoreError
from trio_signal.messages.identity import Announcement, Revision
from trio_signal.store import Store, stored_user

logger = logging.getLogger(__name__)

#: How many acknowledgements are written at once.
BATCH = 1000
#: How many may wait while the database is away; further ones are refused.
MAX_WAITING = 100_000
#: Seconds before a failed write is repeated.
PAUSE = 1.0

Key = tuple[str, str]


class Receipt:
    """One user's acknowledgement of one announcement."""

    __slots__ = ("revision", "stored", "user_id")

    def __init__(self, revision: Revision, user_id: str) -> None:
        """A receipt that is not stored yet."""
        self.revision = revision
        self.user_id = user_id
        #: Set when it is stored in at least one place.
        self.stored = trio.Event()

    @property
    def key(self) -> Key:
        """Equal for the same user and announcement."""
        return self.revision.announcement.id, self.user_id


class Receipts:
    """Writes acknowledgements in batches: to the store, and to the board if there is one.

    Acknowledgements that come while a batch is written go with the next one, and the count is
    published once per batch: a few times a second, however many users acknowledge.
    """

    def __init__(
        self, store: Store, board: Board | None, count: Callable[[Announcement, int], None]
    ) -> None:
        """`count` is called with the number of acknowledgements if no board publishes it."""
        self._store = store
        self._board = board
        self._count = count
        self._unshared: dict[Key, Receipt] = {}
        self._unsaved: dict[Key, Receipt] = {}
        self._added = trio.Event()
        self._moved = trio.lowlevel.ParkingLot()

    def __contains__(self, key: Key) -> bool:
        """Whether the receipt is being written."""
        return key in self._unsaved

    def add(self, revision: Revision, user_id: str) -> Receipt:
        """Start writing an acknowledgement; raises StoreError if too many wait. Does not block."""
        receipt = Receipt(revision, user_id)
        known = self._unsaved.get(receipt.key)
        if known is not None:
            return known
        if len(self._unsaved) >= MAX_WAITING:
            raise StoreError("too many acknowledgements wait for the database")
        self._unsaved[receipt.key] = receipt
        if self._board is not None:
            self._unshared[receipt.key] = receipt
        self._added.set()
        self._added = trio.Event()
        return receipt

    async def run(self) -> None:
        """Write until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._save)
            if self._board is not None:
                nursery.start_soon(self._share, self._board)

    async def merge(self, board: Board, announcement: Announcement) -> None:
        """Copy the store's acknowledgements to the board; raises BoardError and StoreError."""
        users = await self._store.acknowledgers(announcement.id, "")
        while users:
            await board.acknowledge(announcement.id, users)
            users = await self._store.acknowledgers(announcement.id, users[-1])

    async def wait_written(self) -> None:
        """Wait until nothing is left to write."""
        while self._unsaved or self._unshared:
            await self._moved.park()

    async def _share(self, board: Board) -> None:
        while True:
            while not self._unshared:
                await self._added.wait()
            batch = _one_batch(self._unshared)
            try:
                await board.acknowledge(*_address(batch))
            except BoardError:
                pass  # the store has them, and they are copied from there later
            else:
                _mark_stored(batch)
            self._forget(self._unshared, batch)

    async def _save(self) -> None:
        while True:
            while not self._unsaved:
                await self._added.wait()
            batch = _one_batch(self._unsaved)
            revision = batch[0].revision
            try:
                total = await self._store.acknowledge(revision, _users(batch))
            except StoreError as error:
                logger.warning(
                    "cannot store %d acknowledgements yet: %s", len(self._unsaved), error
                )
                await trio.sleep(PAUSE)
                continue
            _mark_stored(batch)
            self._forget(self._unsaved, batch)
            if self._board is None or not self._board.reachable:
                self._count(revision.announcement, total)

    def _forget(self, waiting: dict[Key, Receipt], batch: Iterable[Receipt]) -> None:
        for receipt in batch:
            del waiting[receipt.key]
        self._moved.unpark_all()


def _one_batch(waiting: dict[Key, Receipt]) -> list[Receipt]:
    """The oldest waiting receipts, all of one announcement."""
    some = list(islice(waiting.values(), BATCH))
    first = some[0].revision.announcement.id
    return [receipt for receipt in some if receipt.revision.announcement.id == first]


def _users(batch: Iterable[Receipt]) -> list[str]:
    return [receipt.user_id for receipt in batch]


def _address(batch: list[Receipt]) -> tuple[str, list[str]]:
    # As the store has the users, because they are copied from there too.
    return batch[0].revision.announcement.id, [*map(stored_user, _users(batch))]


def _mark_stored(batch: Iterable[Receipt]) -> None:
    for receipt in batch:
        receipt.stored.set()
