"""Decoding values that other programs or other versions wrote.

Nothing is trusted before it is decoded here. An unreadable value is dropped, counted and now and
then logged; it never raises.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import msgspec
import trio

logger = logging.getLogger(__name__)

#: What decoding may raise: not JSON, another shape, out of bounds, not UTF-8, or nested too deep.
UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
#: Seconds between two log lines, and how many characters of a name or a reason one shows.
LOG_PAUSE = 10.0
_SHOWN = 200

T = TypeVar("T")


class Reader:
    """Decodes values, and counts unreadable ones."""

    def __init__(self) -> None:
        """Begin with all counts at zero."""
        #: Unreadable values, by the caller's name for their kind.
        self.unreadable: Counter[str] = Counter()
        self._silent_until = -float("inf")
        self._unsaid = 0

    def read(self, kind: str, decode: Callable[[bytes], T], data: bytes, where: str) -> T | None:
        """Decode `data`; None if it is unreadable. Does not block.

        `where` is the key or the channel that it came from, for the log.
        """
        try:
            return decode(data)
        except UNREADABLE as error:
            self.drop(kind, where, error)
            return None

    def drop(self, kind: str, where: str, reason: object) -> None:
        """Count a value that its caller found unreadable, and perhaps log it."""
        self.unreadable[kind] += 1
        now = trio.current_time()
        if now < self._silent_until:
            self._unsaid += 1
            return
        logger.error(
            "cannot decode a %s from Redis, at %.*s: %.*s (and %d earlier ones)",
            *(kind, _SHOWN, ascii(where), _SHOWN, reason, self._unsaid),
        )
        self._silent_until = now + LOG_PAUSE
        self._unsaid = 0


def read_text(data: bytes) -> str:
    """Decode a name; raises UnicodeDecodeError, which `Reader.read` handles."""
    return data.decode()
