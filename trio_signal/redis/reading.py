"""Reading what somebody else wrote: another version, another program, anybody.

Nothing of it is believed before it is read here. What cannot be read is dropped and
counted, and said in the log now and then; it raises nothing.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import msgspec
import trio

logger = logging.getLogger(__name__)

#: What reading may raise: it is not JSON, not of that shape, out of bounds, not UTF-8, or
#: nested too deep.
UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)
#: Seconds between two lines of the log, and how much of a name or a reason one has.
LOG_PAUSE = 10.0
_SHOWN = 200

T = TypeVar("T")


class Reader:
    """Reads, and counts what cannot be read."""

    def __init__(self) -> None:
        """Begin with zeros."""
        #: By kind, which the caller names.
        self.unreadable: Counter[str] = Counter()
        self._silent_until = -float("inf")
        self._unsaid = 0

    def read(self, kind: str, decode: Callable[[bytes], T], data: bytes, where: str) -> T | None:
        """What `decode` makes of `data`; None if that cannot be read. Does not block.

        `where` is the key or the channel that it came from.
        """
        try:
            return decode(data)
        except UNREADABLE as error:
            self.drop(kind, where, error)
            return None

    def drop(self, kind: str, where: str, reason: object) -> None:
        """Count something that its caller found to be unreadable, and perhaps say so."""
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
    """A name; raises UnicodeDecodeError, which `Reader.read` takes."""
    return data.decode()
