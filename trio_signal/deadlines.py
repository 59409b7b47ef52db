"""Deadlines: when something is due for a session, in Trio's clock."""

import random
import time

import trio

from trio_signal.alarm import NEVER
from trio_signal.messages.commands import IdlePing
from trio_signal.messages.identity import Identity

#: Random part of the time to authenticate, relative to the rest.
_SPREAD = 1.1
#: Seconds before its token expires at which a client is warned.
_WARNING = 60.0


class Deadlines:
    """When a session must end, or its client must be warned or pinged. Nothing blocks."""

    __slots__ = (
        *("_more_time", "authenticate_by", "expires_at", "idle_ping", "idle_ping_at", "warn_at"),
    )

    def __init__(self) -> None:
        """Start without deadlines."""
        #: When the time to authenticate is over.
        self.authenticate_by = NEVER
        self._more_time = 0.0
        #: When the token expires, and when to warn about it.
        self.expires_at = self.warn_at = NEVER
        #: What to send to a silent client, and when that is next due.
        self.idle_ping: IdlePing | None = None
        self.idle_ping_at = NEVER

    @property
    def due(self) -> float:
        """The next deadline."""
        return min(self.authenticate_by, self.warn_at, self.expires_at, self.idle_ping_at)

    def expect_identity(self, seconds: float) -> None:
        """Give the client so many seconds to authenticate, or slightly more.

        The random part keeps clients that came together from all being closed at the same moment.
        """
        self.authenticate_by = trio.current_time() + seconds * random.uniform(1, _SPREAD)  # noqa: S311
        self._more_time = seconds

    def extend_for_identity(self) -> None:
        """Extend the time to authenticate, once: the server was too busy to read the token."""
        self.authenticate_by = trio.current_time() + self._more_time
        self._more_time = 0.0

    def watch_expiry(self, identity: Identity) -> None:
        """Warn the client before its token expires, and end the session when it does."""
        self.warn_at = self.expires_at = NEVER
        if identity.expires is not None:
            self.expires_at = trio.current_time() + identity.expires - time.time()
            self.warn_at = self.expires_at - _WARNING

    @property
    def seconds_left(self) -> int:
        """Seconds until the token expires."""
        return max(0, round(self.expires_at - trio.current_time()))

    def put_off_idle_ping(self) -> None:
        """The client sent something: postpone its next idle ping."""
        if self.idle_ping is not None:
            self.idle_ping_at = trio.current_time() + self.idle_ping.after
