"""Outbox: the frames that wait for one client. Flusher: sends them."""

import logging
import socket
import time
from contextlib import suppress
from typing import NoReturn

import trio

from trio_signal.alarm import Alarm

logger = logging.getLogger(__name__)

#: Seconds for which outboxes are emptied in one round of the event loop; the rest follows in the
#: next round.
BUDGET = 0.0015
#: The same for clients that are over their rate; they come after the others.
LATE_BUDGET = 0.0005
#: How many waiting frames one system call takes; IOV_MAX is 1024.
_BATCH = 64
#: Every frame of a client that is behind counts as so many bytes at least: an empty pong has two,
#: and takes fifty in memory.
_LEAST = 64
#: How many outboxes are emptied between two looks at the clock.
_AT_ONCE = 8


class Flusher(trio.abc.Instrument):
    """Sends what is put into outboxes, once in each round of the event loop.

    So all frames for a client in one round take one system call. The busier the server, the longer
    a round, and the less each frame costs. The flusher is a Trio instrument, because a task would
    run one round later.
    """

    def __init__(self) -> None:
        """Make a flusher; it works while `run` runs."""
        #: The outboxes to empty at the end of this round; then those of clients over their rate.
        self.called: list[Outbox] = []
        self.late: list[Outbox] = []

    async def run(self) -> NoReturn:
        """Let Trio call it in each round, until cancelled."""
        self._token = trio.lowlevel.current_trio_token()
        trio.lowlevel.add_instrument(self)
        try:
            await trio.sleep_forever()
        finally:
            trio.lowlevel.remove_instrument(self)

    def before_io_wait(self, timeout: float) -> None:
        """Empty the outboxes, after all tasks have run; called by Trio before it waits."""
        if not (self.called or self.late):
            return
        has_woken = self._deliver(self.called, BUDGET)
        if self.late:
            has_woken |= self._deliver(self.late, LATE_BUDGET)
        if has_woken or self.called or self.late:
            # A task was woken, but Trio has already decided how long it waits.
            self._token.run_sync_soon(_begin_another_round, idempotent=True)

    def deliver(self) -> None:
        """Empty all outboxes for which it was called; does not block."""
        self._deliver(self.called, float("inf"))
        self._deliver(self.late, float("inf"))

    def _deliver(self, called: "list[Outbox]", seconds: float) -> bool:
        """Empty outboxes for at most `seconds`; return whether that woke a task."""
        until, emptied, has_woken = time.perf_counter() + seconds, 0, False
        for outbox in called:
            emptied += 1
            outbox.is_called = False
            try:
                if not outbox.behind and not outbox.flush_nowait():
                    outbox.fall_behind()
                    has_woken = True
            except Exception:
                logger.exception("an outbox failed")
                outbox.break_off()
            if emptied % _AT_ONCE == 0 and time.perf_counter() > until:
                break
        del called[:emptied]
        return has_woken


def _begin_another_round() -> None:
    """Do nothing: the round that this call causes empties the outboxes."""


class Outbox:
    """The frames that wait for one client.

    The flusher sends what the socket accepts. Only the rest waits, at most `limit` bytes of it,
    until `flush` finds the socket writable again. So a delivery costs no task switch, and a client
    that does not read costs nobody else anything: it is disconnected when its outbox is full.
    """

    __slots__ = (
        "_alarm",
        "_broken",
        "_flusher",
        "_limit",
        "_size",
        "_sock",
        "_torn",
        "_waiting",
        "behind",
        "is_called",
        "is_late",
        "overflowed",
        "released",
    )

    def __init__(self, sock: socket.socket, limit: int, flusher: Flusher, alarm: Alarm) -> None:
        """Take a non-blocking socket, which the caller closes.

        `alarm` calls the function that starts a task to `flush`, when the outbox is `behind`.
        """
        self._alarm = alarm
        self._sock = sock
        self._limit = limit
        self._flusher = flusher
        #: Whether the flusher will empty it.
        self.is_called = False
        #: A list, since it is nearly always empty: an empty deque has 700 bytes.
        self._waiting: list[bytes | memoryview] = []
        self._size = 0
        #: Whether the first waiting frame has been sent in part.
        self._torn = False
        self._broken = False
        #: Whether the socket has not accepted everything; `flush` sends the rest.
        self.behind = False
        self.overflowed = False
        #: Whether another connection serves the client: then nothing more is sent or read here.
        self.released = False
        #: Whether its client is over its rate, and is served after the others.
        self.is_late = False

    def put(self, frame: bytes) -> bool:
        """Queue a frame for the flusher; does not block.

        Returns False if the frame will not be sent: the outbox is full, or the socket is dead.
        """
        if self._broken or self.overflowed:
            return False
        self._waiting.append(frame)
        self._size += len(frame)
        if self._size > self._limit and not self._make_room():
            return False
        if self.behind:
            return len(self._waiting) * _LEAST <= self._limit or self._make_room()
        if not self.is_called:
            self.is_called = True
            (self._flusher.late if self.is_late else self._flusher.called).append(self)
        return True

    def _make_room(self) -> bool:
        """Send something before the flusher does; returns whether that made enough room."""
        self.flush_nowait()
        if max(self._size, len(self._waiting) * _LEAST) > self._limit:
            self._overflow()
        return not (self.overflowed or self._broken)

    def _overflow(self) -> None:
        """Drop everything but the rest of a half-sent frame: a close frame may follow it."""
        self.overflowed = True
        del self._waiting[1 if self._torn else 0 :]
        self._size = sum(map(len, self._waiting))

    def put_last(self, frame: bytes) -> None:
        """Let `flush` send this after everything that waits, even if the outbox is full."""
        self._waiting.append(frame)
        self._size += len(frame)

    def fall_behind(self) -> None:
        """Let a task flush the rest."""
        self.behind = True
        self._alarm.set()

    def release(self) -> None:
        """Send nothing more except a close frame; another connection serves the client, or none."""
        self.released = self._broken = True
        del self._waiting[1 if self._torn else 0 :]
        self._size = sum(map(len, self._waiting))

    def break_off(self) -> None:
        """Send nothing more; the receiving task sees the end."""
        self._break()
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _break(self) -> None:
        self._broken = True
        self._waiting.clear()
        self._size = 0

    async def flush(self) -> None:
        """Send what waits. Blocks until everything is sent, or the socket is dead."""
        while not self.flush_nowait():
            await trio.lowlevel.wait_writable(self._sock)
        self.behind = False

    def flush_nowait(self) -> bool:
        """Send what the socket accepts; returns whether nothing is left, or the socket is dead."""
        waiting = self._waiting
        while waiting:
            try:
                if len(waiting) == 1:
                    sent = self._sock.send(waiting[0])
                else:
                    sent = self._sock.sendmsg(waiting[:_BATCH])
            except BlockingIOError:
                return False
            except OSError:
                # The receiving task will see the same end, with its reason.
                self._break()
            else:
                if sent < self._size:
                    self._forget(sent)
                else:
                    waiting.clear()
                    self._size, self._torn = 0, False
        return True

    def _forget(self, sent: int) -> None:
        """Forget so many bytes, which have been sent."""
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
        """The number of bytes that wait."""
        return self._size
