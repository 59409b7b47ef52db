"""Spool: a file beside the database with events not stored yet, which survives a kill.

A commit takes milliseconds, but clients receive events at once. So an event is written here in the
same step in which it happens. The file is not synced: a crash of the process loses nothing, a crash
of the machine may lose the last events.
"""

import errno
import logging
import os
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from trio_signal.hooks import HookEvent, encode

logger = logging.getLogger(__name__)

#: Size in bytes above which the file is rewritten.
MOST_BYTES = 4 * 2**20
#: Prefix of a line that says how many of the events before it are stored.
_STORED = b"stored "
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC

_decode = msgspec.json.Decoder(HookEvent).decode


class Spool:
    """The file; without a path there is none. Nothing here raises: webhooks work without it."""

    def __init__(self, path: Path | None) -> None:
        """Use this path; opens nothing yet."""
        self._path = path
        self._file: int | None = None
        self._size = 0

    def open(self) -> list[HookEvent]:
        """Open the file, and return the events that an earlier run left."""
        if self._path is None:
            return []
        try:
            self._file = os.open(self._path, _FLAGS, 0o600)
            return _decode_all(self._path.read_bytes())
        except OSError as error:
            self._give_up(error)
            return []

    def add(self, events: Iterable[HookEvent]) -> None:
        """Keep events; does not wait for the disk."""
        self._write(_encode_all(events))

    def note_stored(self, count: int, waiting: Collection[HookEvent]) -> None:
        """The first `count` events are in the database; only `waiting` are still needed."""
        if self._file is None:
            self._empty()
        elif waiting and self._size < MOST_BYTES:
            self._write(b"%s%d\n" % (_STORED, count))
        else:
            self.keep_only(waiting)

    def keep_only(self, events: Collection[HookEvent]) -> None:
        """Replace all events by these, in one step, so that a kill loses none."""
        if self._file is None or self._path is None:
            return
        try:
            self._size = 0
            if not events:
                os.ftruncate(self._file, 0)
                return
            new = self._path.with_name(f"{self._path.name}.new")
            file = os.open(new, _FLAGS | os.O_TRUNC, 0o600)
            old, self._file = self._file, file
            os.close(old)
            self._write(_encode_all(events))
            if self._file is not None:
                new.replace(self._path)
        except OSError as error:
            self._give_up(error)

    def _write(self, data: bytes) -> None:
        if self._file is not None:
            try:
                written = os.write(self._file, data)
            except OSError as error:
                self._give_up(error)
                return
            self._size += written
            if written < len(data):
                self._give_up(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    def _empty(self) -> None:
        """Empty a file that cannot be written any more, or the next run repeats its events."""
        if self._path is not None:
            with suppress(OSError):
                os.truncate(self._path, 0)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _give_up(self, error: OSError) -> None:
        logger.warning(
            "a kill may lose the latest webhooks: cannot write %s: %s", self._path, error
        )
        self.close()


def _encode_all(events: Iterable[HookEvent]) -> bytes:
    return b"".join(encode(event) + b"\n" for event in events)


def _decode_all(data: bytes) -> list[HookEvent]:
    """The events that are not marked as stored; the last line may be incomplete."""
    events: list[HookEvent] = []
    for line in data.split(b"\n")[:-1]:
        try:
            if line.startswith(_STORED):
                del events[: int(line.removeprefix(_STORED))]
            else:
                events.append(_decode(line))
        except (ValueError, msgspec.DecodeError):  # the disk was full
            continue
    return events
