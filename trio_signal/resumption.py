"""Resumption: what a session needs to continue on another connection. No I/O, no clock.

Both ends count messages and do not number them, as in XMPP's stream management (XEP-0198). So a
room's event is encoded once for all peers. Unconfirmed messages are kept as the frames that were
sent, which sessions share.
"""

from typing import Protocol

from trio_signal.errors import NotResumedError
from trio_signal.messages.events import NotResumedReason

#: Maximum messages and bytes kept for a session; beyond either it cannot be resumed.
MOST_MESSAGES = 512
MOST_BYTES = 256 * 1024
#: Maximum bytes kept for all sessions of a replica; a shared frame counts for each. Beyond it, a
#: session that has more than its share cannot be resumed.
MOST_BYTES_IN_ALL = 256 * 2**20


class Sink(Protocol):
    """Something that takes frames."""

    def put(self, frame: bytes) -> bool:
        """Send a frame later, without blocking; return False if it will not be sent."""
        ...


class Frames(Sink, Protocol):
    """Where a session puts the frames for its client: an outbox."""

    @property
    def size(self) -> int:
        """The number of bytes that wait."""
        ...

    @property
    def behind(self) -> bool:
        """Whether bytes wait because the client does not read."""
        ...

    @property
    def overflowed(self) -> bool:
        """Whether more was put than is allowed to wait."""
        ...

    def release(self) -> None:
        """Send nothing more: the connection does not carry the session any more."""
        ...


class Nowhere:
    """The outbox of a session without a connection."""

    size = 0
    behind = overflowed = False

    def put(self, frame: bytes) -> bool:
        """Report that the frame will not be sent."""
        return False

    def release(self) -> None:
        """Do nothing: nothing is sent anyway."""


NOWHERE = Nowhere()


class Allowance:
    """The bytes that all sessions of a replica together may keep."""

    __slots__ = ("most", "sessions", "used")

    def __init__(self, most: int = MOST_BYTES_IN_ALL) -> None:
        """Start with nothing kept; `most` is in bytes."""
        self.most = most
        self.used = self.sessions = 0


class Resumption:
    """The frames that one session's client has not confirmed, passed on to its current outbox."""

    __slots__ = (
        *("_allowance", "_frames", "_limit", "_size", "asked_at", "confirmed", "id", "outbox"),
        *("owner", "uncounted"),
    )

    def __init__(
        self,
        id_: str,
        owner: bytes,
        outbox: Frames,
        allowance: Allowance,
        *,
        limit: int = MOST_BYTES,
        uncounted: int = 0,
    ) -> None:
        """Start counting: the frames put from now on, and the client's messages from now on.

        To resume the session, a client must know the id whose tag is `id_`, and be `owner`. The
        session keeps at most `limit` bytes. `uncounted` is how many of the client's messages so far
        do not count.
        """
        self.id = id_
        self.owner = owner
        self.outbox = outbox
        self.uncounted = uncounted
        #: When the client last asked to resume the session, by a clock that all replicas share.
        self.asked_at = 0.0
        #: The number of messages that the client has confirmed.
        self.confirmed = 0
        self._limit = limit
        self._allowance = allowance
        allowance.sessions += 1
        #: The unconfirmed frames, the oldest first; None if there were too many.
        self._frames: list[bytes] | None = []
        self._size = 0

    @property
    def size(self) -> int:
        """The number of bytes kept."""
        return self._size

    @property
    def overflowed(self) -> bool:
        """Whether the session cannot be resumed because too much was unconfirmed."""
        return self._frames is None

    @property
    def unconfirmed(self) -> int:
        """The number of messages kept."""
        return len(self._frames or ())

    def put(self, frame: bytes) -> bool:
        """Keep a frame, and send it if there is a connection; like `Outbox.put`."""
        frames = self._frames
        if frames is not None:
            frames.append(frame)
            size = len(frame)
            self._size += size
            self._allowance.used += size
            if self._is_too_much(frames):
                self._forget()
        return self.outbox.put(frame)

    def _is_too_much(self, frames: list[bytes]) -> bool:
        allowance = self._allowance
        return (
            self._size > self._limit
            or len(frames) > MOST_MESSAGES
            or (
                allowance.used > allowance.most
                and self._size > allowance.most // allowance.sessions
            )
        )

    def _forget(self) -> None:
        self._frames = None
        self._allowance.used -= self._size
        self._size = 0

    def end(self) -> None:
        """Keep nothing more: the session is over. Call it only once."""
        self._forget()
        self._allowance.sessions -= 1

    def give(self) -> tuple[bytes, ...] | None:
        """The frames to hand over to another replica; None if there were too many."""
        return tuple(self._frames) if self._frames is not None else None

    def take(self, frames: tuple[bytes, ...], confirmed: int) -> None:
        """Insert the frames that another replica kept before those that were put here."""
        self.confirmed = confirmed
        if self._frames is not None:
            self._frames[:0] = frames
            size = sum(map(len, frames))
            self._size += size
            self._allowance.used += size
            if self._is_too_much(self._frames):
                self._forget()

    def confirm(self, received: int) -> None:
        """Drop the frames that the client has received; a number that is too high is ignored."""
        frames = self._frames
        more = received - self.confirmed
        if frames is not None and 0 < more <= len(frames):
            size = sum(map(len, frames[:more]))
            del frames[:more]
            self._size -= size
            self._allowance.used -= size
            self.confirmed = received

    def missing(self, received: int) -> list[bytes]:
        """The frames that a client has missed after `received` ones; raises NotResumedError."""
        if self._frames is None or received < self.confirmed:
            raise NotResumedError(NotResumedReason.OVERFLOW)
        if received > self.confirmed + len(self._frames):
            raise NotResumedError(NotResumedReason.UNKNOWN)
        self.confirm(received)
        return list(self._frames)
