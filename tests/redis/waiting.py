"""Waiting for conditions that nothing announces."""

from collections.abc import Callable
from pathlib import Path

import trio

from tests.clients import PATIENCE


async def until(condition: Callable[[], object]) -> None:
    """Poll for a condition, for a limited time."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.002)


def open_sockets() -> int:
    """The number of sockets that this process has open."""
    return sum(path.is_socket() for path in Path("/dev/fd").iterdir())
