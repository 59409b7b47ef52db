"""Peer: one connection's identity and outbox."""

import logging
import socket
from collections import defaultdict, deque
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
    `limit` bytes of it, until `drain` finds the socket writable again. So a
    delivery costs no task switch, and a client that does not read costs nobody
    else anything: it is closed when its outbox is full.
    """

    def __init__(self, sock: socket.socket, limit: int) -> None:
        """Take a non-blocking socket, which somebody else closes."""
        self._sock = sock
        self._limit = limit
        self._waiting: deque[bytes | memoryview] = deque()
        self._size = 0
        self._filled = trio.Event()
        #: The first waiting frame has been sent in part.
        self._torn = False
        self._broken = False
        self.overflowed = False

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
        self._filled.set()
        return True

    def _overflow(self) -> None:
        """Forget all but the rest of a frame that is half out: a close frame may follow it."""
        self.overflowed = True
        kept = list(islice(self._waiting, 1 if self._torn else 0))
        self._waiting.clear()
        self._waiting.extend(kept)
        self._size = sum(map(len, kept))

    def put_last(self, frame: bytes) -> None:
        """Send a close frame behind all that waits, also when the outbox is full."""
        self._waiting.append(frame)
        self._size += len(frame)
        self._filled.set()

    async def drain(self) -> None:
        """Send what waits, whenever the client reads; until cancelled."""
        while True:
            await self._filled.wait()
            await self.flush()
            self._filled = trio.Event()

    async def flush(self) -> None:
        """Send what waits. Blocks until all of it is out, or the socket is dead."""
        while self._waiting and not self._broken:
            await trio.lowlevel.wait_writable(self._sock)
            try:
                sent = self._sock.sendmsg(list(islice(self._waiting, _BATCH)))
            except BlockingIOError:
                continue
            except OSError:
                self._broken = True
                return
            self._forget(sent)

    def _forget(self, sent: int) -> None:
        self._size -= sent
        while self._waiting and sent >= len(self._waiting[0]):
            sent -= len(self._waiting.popleft())
            self._torn = False
        if sent:
            self._waiting[0] = memoryview(self._waiting[0])[sent:]
            self._torn = True

    @property
    def size(self) -> int:
        """How many bytes wait."""
        return self._size


def _ignore(what: object) -> None:
    """Before its connection runs, a peer inherits nothing, and nothing is counted."""


class Peer:
    """One connection as the hub sees it: who it is, its rooms, its outbox."""

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
        self.inherit: Callable[[Sequence[str]], None] = _ignore
        #: Counts what it is refused; set by its own as well.
        self.count_refused: Callable[[Refusal], None] = _ignore
        #: What all peers of its dialect were told, by type; that of the server, set likewise.
        self.told: defaultdict[bytes, int] = defaultdict(int)
        #: How many messages came, and how many were told to it.
        self.received = self.sent = 0
        #: The rooms in which it was when it ended.
        self.left: tuple[str, ...] = ()
        self._scope = trio.CancelScope()

    @property
    def scope(self) -> trio.CancelScope:
        """The cancel scope of the connection; `close` cancels it."""
        return self._scope

    def send(self, text: bytes) -> None:
        """Send a text to this peer alone; does not block."""
        self.told[type_of(text)] += 1
        self.send_frame(text_frame(text))

    def send_frame(self, frame: bytes) -> None:
        """Send a message's frame that others get as well; does not block.

        A peer whose outbox is full is closed as too slow.
        """
        self.sent += 1
        self.send_control(frame)

    def send_control(self, frame: bytes) -> None:
        """The same for a frame that is no message: it is not counted."""
        if not self.outbox.put(frame) and self.outbox.overflowed:
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
        for action in actions:
            if isinstance(action, Send):
                self.send(action.text)
            else:
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
            self._scope.cancel(reason=close.reason or None)


def close_untold(peers: Collection[Peer], untold: Struct) -> None:
    """End connections that their dialect failed to tell something; called in its `except`.

    Their picture would be wrong from here on. That of new connections will be right.
    """
    some = ", ".join(peer.id for peer in islice(peers, 3))
    logger.exception("cannot tell %s to %d peers: %s", type(untold).__name__, len(peers), some)
    for peer in peers:
        peer.close(INTERNAL_ERROR)
