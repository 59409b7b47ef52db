"""Resumption: what a client needs to go on as the same peer by another connection. Pure.

Both ends count messages and do not number them, and each keeps what the other has not confirmed:
docs/protocols/mesh.md, "Coming back".
"""

from collections import deque

#: What is kept of what the server has not confirmed; with more the session cannot be resumed.
MOST_MESSAGES = 2048
MOST_BYTES = 2**20
#: The server keeps 512 messages or 256 KiB for us at most. So it is told, and asked, much earlier.
ASK_AFTER_MESSAGES = 64
ASK_AFTER_BYTES = 2**15


class Resumption:
    """One session: how much of it has come, and what of ours may not have arrived."""

    __slots__ = ("_bytes", "_confirmed", "_new", "_new_bytes", "_unconfirmed", "id", "received")

    def __init__(self, id_: str) -> None:
        """Begin behind `auth_success`; `id_` is what the server knows the session by."""
        self.id = id_
        #: How many of the server's messages have been taken in.
        self.received = 0
        #: How many of ours the server has got, as far as we know; and the others, oldest first.
        self._confirmed = 0
        self._unconfirmed: deque[str] | None = deque()
        self._bytes = 0
        #: What came and went since we asked.
        self._new = self._new_bytes = 0

    @property
    def overflowed(self) -> bool:
        """Whether more was said than is kept, so that what is lost could not be said again."""
        return self._unconfirmed is None

    @property
    def is_due(self) -> bool:
        """Whether it is time to tell and to ask how much has arrived."""
        return self._new >= ASK_AFTER_MESSAGES or self._new_bytes >= ASK_AFTER_BYTES

    def came(self, size: int) -> None:
        """One of the server's messages, of so many bytes, has been taken in."""
        self.received += 1
        self._count(size)

    def keep(self, text: str) -> None:
        """One of ours is about to be sent; only those that are counted."""
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
        """We are about to ask: how many to confirm to the server."""
        self._new = self._new_bytes = 0
        return self.received

    def confirm(self, received: int) -> None:
        """The server has got so many of ours; more than there were is not believed."""
        kept = self._unconfirmed
        if kept is None or not 0 < received - self._confirmed <= len(kept):
            return
        for _ in range(received - self._confirmed):
            self._bytes -= len(kept.popleft())
        self._confirmed = received

    def lacking(self, received: int) -> list[str]:
        """What to say again to a server that has got so many of ours."""
        self.confirm(received)
        return list(self._unconfirmed or ())
