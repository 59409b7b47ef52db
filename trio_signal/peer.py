"""Peer: one connection's identity and outbox."""

import logging
import socket
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from itertools import islice

import trio
from msgspec import Struct

from trio_signal.dialects import Dialect
from trio_signal.dialects.wire import type_of
from trio_signal.errors import CloseCode
from trio_signal.messages import Answer, Close, Identity, Refusal, Refused, Send, Signalled
from trio_signal.websocket import text_frame

logger = logging.getLogger(__name__)

INTERNAL_ERROR = Close(CloseCode.INTERNAL_ERROR, "Internal error")

#: How many waiting frames one system call takes; IOV_MAX is 1024.
_BATCH = 64


class Outbox:
    """Frames on their way to one client.

    `put` sends at once what the socket takes; only the rest waits, at most
    `limit` bytes of it, until `flush` finds the socket writable again. So a
    delivery costs no task switch, and a client that does not read costs nobody
    else anything: it is closed when its outbox is full.
    """

    __slots__ = (
        "_broken",
        "_limit",
        "_size",
        "_sock",
        "_torn",
        "_waiting",
        "begins_to_wait",
        "overflowed",
    )

    def __init__(self, sock: socket.socket, limit: int) -> None:
        """Take a non-blocking socket, which somebody else closes."""
        self._sock = sock
        self._limit = limit
        #: A list, since it is nearly always empty: an empty deque has 700 bytes.
        self._waiting: list[bytes | memoryview] = []
        self._size = 0
        #: The first waiting frame has been sent in part.
        self._torn = False
        self._broken = False
        self.overflowed = False
        #: Called when there is something to `flush` again; set by the connection.
        self.begins_to_wait: Callable[[], None] = ignore

    def put(self, frame: bytes) -> bool:
        """Send `frame`, now or as soon as the client reads; does not block.

        False if it will not be sent: the outbox is full, or the socket is dead.
        """
        if self._waiting or self._broken or self.overflowed:
            return self._wait(frame)
        try:
            sent = self._sock.send(frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            # The receiving task will see the same end, and why.
            self._broken = True
            return False
        if sent == len(frame):
            return True
        if sent:
            self._torn = True
            return self._wait(memoryview(frame)[sent:])
        return self._wait(frame)

    def _wait(self, frame: bytes | memoryview) -> bool:
        if self._broken or self.overflowed:
            return False
        self._waiting.append(frame)
        self._size += len(frame)
        if self._size > self._limit:
            self._overflow()
            return False
        if len(self._waiting) == 1:
            self.begins_to_wait()
        return True

    def _overflow(self) -> None:
        """Forget all but the rest of a frame that is half out: a close frame may follow it."""
        self.overflowed = True
        del self._waiting[1 if self._torn else 0 :]
        self._size = sum(map(len, self._waiting))

    def put_last(self, frame: bytes) -> None:
        """Let `flush` send this behind all that waits, also when the outbox is full."""
        self._waiting.append(frame)
        self._size += len(frame)

    async def flush(self) -> None:
        """Send what waits. Blocks until all of it is out, or the socket is dead."""
        while not self.flush_nowait():
            await trio.lowlevel.wait_writable(self._sock)

    def flush_nowait(self) -> bool:
        """Send of what waits what the socket takes; whether that was all, or the socket is dead."""
        while self._waiting and not self._broken:
            try:
                sent = self._sock.sendmsg(self._waiting[:_BATCH])
            except BlockingIOError:
                return False
            except OSError:
                self._broken = True
            else:
                self._forget(sent)
        return True

    def _forget(self, sent: int) -> None:
        self._size -= sent
        whole = 0
        for frame in self._waiting[:_BATCH]:
            if sent < len(frame):
                break
            sent -= len(frame)
            whole += 1
        if whole:
            del self._waiting[:whole]
            self._torn = False
        if sent:
            self._waiting[0] = memoryview(self._waiting[0])[sent:]
            self._torn = True

    @property
    def size(self) -> int:
        """How many bytes wait."""
        return self._size


def ignore(*what: object) -> None:
    """What a peer inherits, sends and counts while its connection does not run."""


class Peer:
    """One connection as the hub sees it: who it is, its rooms, its outbox."""

    __slots__ = (
        "_scope",
        "arrived",
        "closed_with",
        "count_refused",
        "dialect",
        "heard",
        "id",
        "identity",
        "inherit",
        "left",
        "memberships",
        "outbox",
        "received",
        "sent",
        "told",
    )

    def __init__(self, peer_id: str, dialect: Dialect, outbox: Outbox) -> None:
        """Make a peer that is nobody yet."""
        self.id = peer_id
        self.dialect = dialect
        self.outbox = outbox
        self.identity: Identity | None = None
        #: The rooms it is in, and under which peer id in each.
        self.memberships: dict[str, str] = {}
        self.closed_with: Close | None = None
        #: When it came, and when it was last heard of; Trio's clock.
        self.arrived = trio.current_time()
        self.heard = self.arrived
        #: Takes over rooms from a connection that is found dead; set by its own.
        self.inherit: Callable[[Sequence[str]], None] = ignore
        #: Counts what it is refused; set by its own as well.
        self.count_refused: Callable[[Refusal], None] = ignore
        #: What all peers of its dialect were told, by type; that of the server, set likewise.
        self.told: defaultdict[bytes, int] = defaultdict(int)
        #: How many messages came, and how many were told to it.
        self.received = self.sent = 0
        #: The rooms in which it was when it ended.
        self.left: tuple[str, ...] = ()
        self._scope: trio.CancelScope | None = None

    def live_in(self, scope: trio.CancelScope) -> None:
        """Take the scope of the connection's nursery, which `close` cancels."""
        self._scope = scope
        if self.closed_with is not None:
            self._cancel(self.closed_with)

    @property
    def is_leaving(self) -> bool:
        """Whether the connection is about to end."""
        return self.closed_with is not None or (
            self._scope is not None and self._scope.cancel_called
        )

    def send_all(self, texts: Sequence[bytes]) -> None:
        """Send texts to this peer alone, in one system call; does not block."""
        for text in texts:
            self.told[type_of(text)] += 1
        self.sent += len(texts)
        if texts:
            self.put(b"".join(map(text_frame, texts)))

    def send(self, text: bytes) -> None:
        """Send a text to this peer alone; does not block."""
        self.told[type_of(text)] += 1
        self.send_frame(text_frame(text))

    def send_frame(self, frame: bytes) -> None:
        """Send a message's frame that others get as well; does not block.

        A peer whose outbox is full is closed as too slow.
        """
        self.sent += 1
        self.put(frame)

    def put(self, frames: bytes) -> None:
        """The same for what is no message, or was counted already."""
        if not self.outbox.put(frames) and self.outbox.overflowed:
            self.close(Close(CloseCode.TRY_AGAIN_LATER, "Reads too slowly"))

    def tell(self, answer: Answer) -> None:
        """Tell this peer what became of its command; does not block."""
        if isinstance(answer, Refused):
            self.count_refused(answer.reason)
        try:
            actions = list(self.dialect.answered(answer))
        except Exception:
            close_untold([self], answer)
            return
        self.send_all([action.text for action in actions if isinstance(action, Send)])
        for action in actions:
            if isinstance(action, Close):
                self.close(action)

    def hear(self, signal: Signalled) -> None:
        """Tell this peer alone what another sent to it; does not block."""
        try:
            notices = list(self.dialect.tell(signal))
        except Exception:
            close_untold([self], signal)
            return
        for notice in notices:
            self.send(notice.text)

    def close(self, close: Close) -> None:
        """End the connection; does not block. The first reason counts."""
        if self.closed_with is None:
            self.closed_with = close
            self._cancel(close)

    def _cancel(self, close: Close) -> None:
        if self._scope is not None:
            self._scope.cancel(reason=close.reason or None)


def close_untold(peers: Collection[Peer], untold: Struct) -> None:
    """End connections that their dialect failed to tell something; called in its `except`.

    Their picture would be wrong from here on. That of new connections will be right.
    """
    some = ", ".join(peer.id for peer in islice(peers, 3))
    logger.exception("cannot tell %s to %d peers: %s", type(untold).__name__, len(peers), some)
    for peer in peers:
        peer.close(INTERNAL_ERROR)
