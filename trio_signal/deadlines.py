"""Deadlines: what time does to a session. Times are of Trio's clock."""

import random
import time

import trio

from trio_signal.alarm import NEVER
from trio_signal.messages.commands import IdlePing
from trio_signal.messages.identity import Identity

#: By how much one may have longer to say who it is than another.
_SPREAD = 1.1
#: Seconds before its token expires that a client is told so.
_WARNING = 60.0


class Deadlines:
    """When a session has to end, or its client is to be told something. Nothing here blocks."""

    __slots__ = ("authenticate_by", "expires_at", "idle_ping", "idle_ping_at", "warn_at")

    def __init__(self) -> None:
        """Begin without any."""
        #: By when the client has to say who it is.
        self.authenticate_by = NEVER
        #: When the token expires, and when to say so.
        self.expires_at = self.warn_at = NEVER
        #: What to send to a client that says nothing, and when that is next due.
        self.idle_ping: IdlePing | None = None
        self.idle_ping_at = NEVER

    @property
    def due(self) -> float:
        """The first of them."""
        return min(self.authenticate_by, self.warn_at, self.expires_at, self.idle_ping_at)

    def expect_identity(self, seconds: float) -> None:
        """Give the client so long to say who it is, or a little longer.

        Not all end at the same moment, though they came so: others would wait for their end.
        """
        self.authenticate_by = trio.current_time() + seconds * random.uniform(1, _SPREAD)  # noqa: S311

    def watch_expiry(self, identity: Identity) -> None:
        """Warn the client before this identity ends, and end with it."""
        self.warn_at = self.expires_at = NEVER
        if identity.expires is not None:
            self.expires_at = trio.current_time() + identity.expires - time.time()
            self.warn_at = self.expires_at - _WARNING

    @property
    def seconds_left(self) -> int:
        """How long its token is still good for."""
        return max(0, round(self.expires_at - trio.current_time()))

    def put_off_idle_ping(self) -> None:
        """The client is to say nothing for a while, before it is sent its idle ping (again)."""
        if self.idle_ping is not None:
            self.idle_ping_at = trio.current_time() + self.idle_ping.after
