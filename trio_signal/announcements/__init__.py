"""Announcements: messages of creators to every user, shown until the user acknowledges them.

docs/announcements.md explains how they work, and what happens after failures.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import trio

from trio_signal.announcements.announcements import Announcements
from trio_signal.bus import Board
from trio_signal.metrics import Metrics
from trio_signal.store import Store

__all__ = ["Announcements", "open_announcements"]

#: Seconds to write acknowledgements at shutdown.
LAST_WORDS = 1.0


@asynccontextmanager
async def open_announcements(
    url: str, board: Board | None, metrics: Metrics, *, from_anybody: bool = False
) -> AsyncIterator[Announcements]:
    """Announcements stored in the database at `url`, while the block runs.

    If they may come `from_anybody`, they cannot contain HTML. `metrics` counts what subscribers
    receive. Starts at once; a database that cannot be reached is retried. At the end, pending
    acknowledgements are written, for a second at most. Raises ConfigError.
    """
    store = Store(url)
    with closing(store):
        announcements = Announcements(store, board, from_anybody=from_anybody, metrics=metrics)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(announcements.run)
            yield announcements
            with trio.move_on_after(LAST_WORDS):
                await announcements.finish()
            nursery.cancel_scope.cancel()
