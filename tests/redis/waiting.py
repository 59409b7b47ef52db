"""Waiting for what nobody announces."""

from collections.abc import Callable
from pathlib import Path

import trio

from tests.clients import PATIENCE


async def until(condition: Callable[[], object]) -> None:
    """Look again and again, but not for ever."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.002)


def open_sockets() -> int:
    """How many sockets this process has."""
    return sum(path.is_socket() for path in Path("/dev/fd").iterdir())
