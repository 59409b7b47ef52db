"""Announcements: what creators say to every user, until each has seen it.

docs/announcements.md says how it works, and what happens when something fails.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing

import trio

from trio_signal.announcements.announcements import Announcements
from trio_signal.bus import Board
from trio_signal.metrics import Metrics
from trio_signal.store import Store

__all__ = ["Announcements", "open_announcements"]

#: Seconds at the end for acknowledgements to be written.
LAST_WORDS = 1.0


@asynccontextmanager
async def open_announcements(
    url: str, board: Board | None, metrics: Metrics, *, from_anybody: bool = False
) -> AsyncIterator[Announcements]:
    """Announcements that are kept in the database at `url`, while the block runs.

    Those that may be `from_anybody` cannot become HTML. What is told is counted in `metrics`.

    Begins at once; a database that cannot be reached is tried again. At the end
    what users acknowledged is written, if that is possible in a second. Raises ConfigError.
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
