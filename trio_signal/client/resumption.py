"""Resumption: the state a client needs to resume as the same peer on a new connection. Pure.

Both ends count messages without numbering them, and keep what the other end has not confirmed:
docs/protocols/mesh.md, "Coming back".
"""

from collections import deque

#: Bounds of the messages kept until the server confirms them; beyond, the session cannot resume.
MOST_MESSAGES = 2048
MOST_BYTES = 2**20
#: The server keeps at most 512 messages or 256 KiB for us, so confirm much earlier.
ASK_AFTER_MESSAGES = 64
ASK_AFTER_BYTES = 2**15


class Resumption:
    """One session: how many messages came, and which of ours may not have arrived."""

    __slots__ = (
        "_bytes",
        "_confirmed",
        "_new",
        "_new_bytes",
        "_told",
        "_unconfirmed",
        "id",
        "received",
    )

    def __init__(self, id_: str) -> None:
        """Begin after `auth_success`; `id_` is the server's id of the session."""
        self.id = id_
        #: How many messages of the server have been processed.
        self.received = 0
        #: How many of them we have confirmed.
        self._told = 0
        #: How many of our messages the server has confirmed; and the others, oldest first.
        self._confirmed = 0
        self._unconfirmed: deque[str] | None = deque()
        self._bytes = 0
        #: Messages and bytes, in both directions, since the last confirmation.
        self._new = self._new_bytes = 0

    @property
    def overflowed(self) -> bool:
        """Whether more was sent than is kept, so that lost messages could not be repeated."""
        return self._unconfirmed is None

    @property
    def is_due(self) -> bool:
        """Whether it is time to confirm, and to ask for a confirmation."""
        # The first message lists the room's members. It may be long, and the server keeps it until
        # then.
        is_first = self._told == 0 < self.received
        return is_first or self._new >= ASK_AFTER_MESSAGES or self._new_bytes >= ASK_AFTER_BYTES

    def came(self, size: int) -> None:
        """Count a message of the server that was processed; `size` is in bytes."""
        self.received += 1
        self._count(size)

    def keep(self, text: str) -> None:
        """Keep a message that is about to be sent, if it is a counted one."""
        if self._unconfirmed is None:
            return
        self._unconfirmed.append(text)
        self._bytes += len(text)
        self._count(len(text))
        if len(self._unconfirmed) > MOST_MESSAGES or self._bytes > MOST_BYTES:
            self._unconfirmed = None

    def _count(self, size: int) -> None:
        self._new += 1
        self._new_bytes += size

    def ask(self) -> int:
        """Record that we ask now; return the count to confirm to the server."""
        self._new = self._new_bytes = 0
        self._told = self.received
        return self.received

    def confirm(self, received: int) -> None:
        """Drop the messages that the server has received; an impossible number is ignored."""
        kept = self._unconfirmed
        if kept is None or not 0 < received - self._confirmed <= len(kept):
            return
        for _ in range(received - self._confirmed):
            self._bytes -= len(kept.popleft())
        self._confirmed = received

    def lacking(self, received: int) -> list[str]:
        """The messages to repeat to a server that has received the first `received` ones."""
        self.confirm(received)
        return list(self._unconfirmed or ())
