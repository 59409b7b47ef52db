"""Spool: events that are not in the database yet, in a file beside it, which outlives a kill.

A commit takes milliseconds, and clients are told at once. So what happened is written here in the
same step in which it happens. It is not synced: the loss of the process loses none, that of the
machine may lose the last ones.
"""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from trio_signal.hooks import HookEvent, encode

logger = logging.getLogger(__name__)

_decode = msgspec.json.Decoder(HookEvent).decode


class Spool:
    """The file; without a path there is none. Nothing here raises: it is an extra."""

    def __init__(self, path: Path | None) -> None:
        """Take its path; opens nothing yet."""
        self._path = path
        self._file: int | None = None

    def open(self) -> list[HookEvent]:
        """Open the file, and return what an earlier run left behind."""
        if self._path is None:
            return []
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._file = os.open(self._path, flags, 0o600)
            lines = self._path.read_bytes().split(b"\n")
        except OSError as error:
            self._give_up(error)
            return []
        events = []
        for line in lines:
            try:
                events.append(_decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # the last line may be half a line
        return events

    def add(self, events: Iterable[HookEvent]) -> None:
        """Keep events; does not wait for the disk."""
        if self._file is not None:
            try:
                os.write(self._file, _encode_all(events))
            except OSError as error:
                self._give_up(error)

    def keep_only(self, events: Iterable[HookEvent]) -> None:
        """All but these are in the database."""
        if self._file is None or self._path is None:
            return
        remaining = _encode_all(events)
        try:
            if not remaining:
                os.ftruncate(self._file, 0)
                return
            # In one step, so that a kill loses none.
            new = self._path.with_name(f"{self._path.name}.new")
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
            file = os.open(new, flags, 0o600)
            old, self._file = self._file, file
            os.close(old)
            os.write(file, remaining)
            new.replace(self._path)
        except OSError as error:
            self._give_up(error)

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
