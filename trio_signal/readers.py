"""Readers: one task reads from all clients' sockets.

`trio.lowlevel.wait_readable` registers a socket anew for each wait, and each message wakes a task.
Here all sockets stay registered in one epoll, and one task waits for it. That task lets each
connection carry out the messages that have come. The connection's own task is woken only if one of
them blocks, and at the end. This saves a quarter of a message's cost, and a kilobyte for each wait.

A socket is read only while its task waits for it here. So whatever cancels the task also ends the
reading.

A socket is registered as long as each of its events finds a task that waits here. An event that
finds none removes it, since epoll would report it again in each round. A later wait registers it
again. So nothing depends on how much was read, on where the task waits, or on the order of events.
"""

import logging
import select
import socket
import time
from collections.abc import Awaitable
from contextlib import suppress
from types import TracebackType
from typing import Protocol, Self

import trio

from trio_signal.rounds import Rounds

logger = logging.getLogger(__name__)

#: The sockets of one system call.
_AT_ONCE = 256


class Receiver(Protocol):
    """A connection."""

    def receive_nowait(self) -> bool:
        """Read from the socket, and process that; return whether the task must continue.

        Called while the task waits for the socket. Does not block or raise.
        """
        ...


class Reader:
    """Reads from one socket, for one task, as long as the `with` block runs."""

    __slots__ = ("_fileno", "_readers", "is_registered", "is_waiting", "receiver", "task")

    def __init__(self, readers: "Readers", sock: socket.socket, receiver: Receiver) -> None:
        """Take a non-blocking socket, which the caller closes after the block."""
        self._readers = readers
        self._fileno = sock.fileno()
        self.receiver = receiver
        #: Whether the epoll has it, and whether its task waits for the epoll.
        self.is_registered = self.is_waiting = False

    def __enter__(self) -> Self:
        self.task = trio.lowlevel.current_task()
        self._readers.by_fileno[self._fileno] = self
        return self

    def __exit__(
        self,
        type_: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del self._readers.by_fileno[self._fileno], self.task, self.receiver
        epoll = self._readers.epoll
        if epoll is not None and self.is_registered:
            epoll.unregister(self._fileno)

    def wait(self) -> Awaitable[object]:
        """Block until the task must continue: `receive_nowait` says so, or the readers end."""
        epoll = self._readers.epoll
        if epoll is None:
            return self._wait_as_usual()
        if not self.is_registered:
            epoll.register(self._fileno, select.EPOLLIN)
            self.is_registered = True
        self.is_waiting = True
        return trio.lowlevel.wait_task_rescheduled(self._stop_waiting)  # noqa: ASYNC105

    def _stop_waiting(self, raise_cancel: object) -> trio.lowlevel.Abort:
        self.is_waiting = False
        return trio.lowlevel.Abort.SUCCEEDED

    async def _wait_as_usual(self) -> None:
        while self._readers.epoll is None:
            await trio.lowlevel.wait_readable(self._fileno)
            if self.receiver.receive_nowait():
                return


class Readers:
    """The sockets of a server's clients.

    Without `run`, and where there is no epoll, each task reads from its own socket.
    """

    def __init__(self, rounds: Rounds) -> None:
        """Start without sockets. They are read as long as a round has time for clients."""
        self._rounds = rounds
        self.epoll: select.epoll | None = None
        self.by_fileno: dict[int, Reader] = {}
        #: The events of the last system call that are still to be handled, the first one last. All
        #: are, before the next call, because that would begin with the same sockets.
        self._ready: list[tuple[int, int]] = []

    async def run(self) -> None:
        """Read from the sockets until cancelled."""
        if not hasattr(select, "epoll"):
            return
        with select.epoll() as epoll:
            self.epoll = epoll
            try:
                while self.epoll is not None:
                    await trio.lowlevel.wait_readable(epoll.fileno())
                    self._read(epoll)
            finally:
                self._give_up()

    def _read(self, epoll: select.epoll) -> None:
        """Let connections read as long as the round has time; the others follow in the next one."""
        try:
            if not self._ready:
                self._ready = epoll.poll(0, _AT_ONCE)
                self._ready.reverse()
            while self._ready:
                self._read_one(epoll, self._ready.pop()[0])
                if time.perf_counter() > self._rounds.until:
                    break
        except Exception:
            logger.exception("reading clients' messages failed")
            self._give_up()

    def _read_one(self, epoll: select.epoll, fileno: int) -> None:
        reader = self.by_fileno.get(fileno)
        if reader is None or not reader.is_waiting:
            # Since the event, its task may have ended, and another socket may have its number.
            with suppress(OSError):
                epoll.unregister(fileno)
            if reader is not None:
                reader.is_registered = False
        elif reader.receiver.receive_nowait() and reader.is_waiting:
            reader.is_waiting = False
            trio.lowlevel.reschedule(reader.task)

    def _give_up(self) -> None:
        """Let each task read from its own socket from now on."""
        self.epoll = None
        self._ready.clear()
        for reader in self.by_fileno.values():
            reader.is_registered = False
            if reader.is_waiting:
                reader.is_waiting = False
                trio.lowlevel.reschedule(reader.task)
