"""How a long-running command is stopped."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def until_stopped() -> AsyncIterator[None]:
    """Cancel the block on Ctrl-C or SIGTERM, and continue after it. For the main thread."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel, nursery.cancel_scope, signals)
            yield
            nursery.cancel_scope.cancel()


async def _cancel(scope: trio.CancelScope, signals: AsyncIterator[int]) -> None:
    await anext(signals)
    scope.cancel()
