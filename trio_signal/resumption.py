"""Resumption: what a session needs to go on by another connection. Pure: no I/O, no clock.

Both ends count messages and do not number them, as XMPP's stream management does (XEP-0198):
so a room's event is still encoded once for all who hear it. What the client has not confirmed
is kept by reference, as the frames that were sent.
"""

from typing import Protocol

from trio_signal.errors import NotResumedError
from trio_signal.messages.events import NotResumedReason

#: What is kept for a session at most; with more it cannot be resumed any more.
MOST_MESSAGES = 512
MOST_BYTES = 256 * 1024
#: What is kept for all sessions of a replica, as if each frame were kept for each of them. If
#: it is more, a session that has more than its share of it cannot be resumed any more.
MOST_BYTES_IN_ALL = 256 * 2**20


class Sink(Protocol):
    """What takes frames."""

    def put(self, frame: bytes) -> bool:
        """Have a frame sent, without blocking; False if it will not be."""
        ...


class Frames(Sink, Protocol):
    """Where a session puts what its client is told: an outbox."""

    @property
    def size(self) -> int:
        """How many bytes wait."""
        ...

    @property
    def behind(self) -> bool:
        """Whether they wait for the client to read."""
        ...

    @property
    def overflowed(self) -> bool:
        """Whether more was put than may wait."""
        ...

    def release(self) -> None:
        """Send nothing more: the session is carried by another connection, or by none."""
        ...


class Nowhere:
    """The outbox of a session without a connection."""

    size = 0
    behind = overflowed = False

    def put(self, frame: bytes) -> bool:
        """Nobody is there."""
        return False

    def release(self) -> None:
        """Nothing is sent."""


NOWHERE = Nowhere()


class Allowance:
    """What all sessions of a replica may keep together."""

    __slots__ = ("most", "sessions", "used")

    def __init__(self, most: int = MOST_BYTES_IN_ALL) -> None:
        """Begin with nothing kept; `most` is in bytes."""
        self.most = most
        self.used = self.sessions = 0


class Resumption:
    """What one session's client has not confirmed, on its way to whatever outbox there is."""

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
        """Begin to count: what is put from now on, and what the client says from now on.

        Who resumes the session has to know of what `id_` is the tag, and be `owner`. It keeps
        `limit` bytes at most.
        Of what the client has said, so many messages are `uncounted`.
        """
        self.id = id_
        self.owner = owner
        self.outbox = outbox
        self.uncounted = uncounted
        #: When the client asked last to go on with it, by a clock that all replicas share.
        self.asked_at = 0.0
        #: How many messages the client has confirmed.
        self.confirmed = 0
        self._limit = limit
        self._allowance = allowance
        allowance.sessions += 1
        #: Those that it has not, the oldest first; None if there were too many.
        self._frames: list[bytes] | None = []
        self._size = 0

    @property
    def size(self) -> int:
        """How many bytes are kept."""
        return self._size

    @property
    def overflowed(self) -> bool:
        """Whether it cannot be resumed any more, since too much was not confirmed."""
        return self._frames is None

    @property
    def unconfirmed(self) -> int:
        """How many messages are kept."""
        return len(self._frames or ())

    def put(self, frame: bytes) -> bool:
        """Keep a frame, and have it sent if there is a connection; as `Outbox.put`."""
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
        """Keep nothing more; the session is over. Only once."""
        self._forget()
        self._allowance.sessions -= 1

    def give(self) -> tuple[bytes, ...] | None:
        """What is to be handed over to another replica; None if there was too much."""
        return tuple(self._frames) if self._frames is not None else None

    def take(self, frames: tuple[bytes, ...], confirmed: int) -> None:
        """Have what another replica kept before all that was put here."""
        self.confirmed = confirmed
        if self._frames is not None:
            self._frames[:0] = frames
            size = sum(map(len, frames))
            self._size += size
            self._allowance.used += size
            if self._is_too_much(self._frames):
                self._forget()

    def confirm(self, received: int) -> None:
        """The client has got so many messages; more than there were is not believed."""
        frames = self._frames
        more = received - self.confirmed
        if frames is not None and 0 < more <= len(frames):
            size = sum(map(len, frames[:more]))
            del frames[:more]
            self._size -= size
            self._allowance.used -= size
            self.confirmed = received

    def missing(self, received: int) -> list[bytes]:
        """What a client lacks that has got so many messages; raises NotResumedError."""
        if self._frames is None or received < self.confirmed:
            raise NotResumedError(NotResumedReason.OVERFLOW)
        if received > self.confirmed + len(self._frames):
            raise NotResumedError(NotResumedReason.UNKNOWN)
        self.confirm(received)
        return list(self._frames)
