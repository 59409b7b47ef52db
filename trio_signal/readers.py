"""Readers: wake the tasks of clients' sockets that have something to read.

`trio.lowlevel.wait_readable` registers a socket anew for each wait: a system call, and four
coroutines. In a busy server sockets stay registered in one epoll here, and Trio waits for that. A
wait then takes a third of the time and of the memory. If only few sockets are readable at a time,
waiting for the epoll as well costs more than it saves, so the tasks wait as usual.

A socket is registered as long as each of its events finds a task that waits here. An event that
finds none removes it, since epoll would report it again in each round. A later wait registers it
again. So nothing depends on how much a task has read, on where it waits, or on the order of events.
"""

import logging
import select
import socket
from collections.abc import Awaitable
from types import TracebackType
from typing import Self

import trio

logger = logging.getLogger(__name__)

#: Tasks that wait in one round of the event loop; if there are as many, the server is busy.
_MANY = 3
#: Tasks that are woken at once; the others follow in the next rounds.
_AT_ONCE = 256


class Reader:
    """Waits for one socket, in one task, as long as the `with` block runs."""

    __slots__ = ("_fileno", "_readers", "is_registered", "is_waiting", "task")

    def __init__(self, readers: "Readers", sock: socket.socket) -> None:
        """Take a non-blocking socket, which the caller closes after the block."""
        self._readers = readers
        self._fileno = sock.fileno()
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
        del self._readers.by_fileno[self._fileno], self.task
        epoll = self._readers.epoll
        if epoll is not None and self.is_registered:
            epoll.unregister(self._fileno)

    def wait(self) -> Awaitable[object]:
        """Block until the socket is readable, or has ended."""
        readers = self._readers
        readers.waits += 1
        epoll = readers.epoll
        if epoll is None or not (readers.is_busy or readers.waits >= _MANY):
            return trio.lowlevel.wait_readable(self._fileno)  # noqa: ASYNC105  the caller awaits it
        if not self.is_registered:
            epoll.register(self._fileno, select.EPOLLIN)
            self.is_registered = True
        self.is_waiting = True
        return trio.lowlevel.wait_task_rescheduled(self._stop_waiting)  # noqa: ASYNC105

    def _stop_waiting(self, raise_cancel: object) -> trio.lowlevel.Abort:
        self.is_waiting = False
        return trio.lowlevel.Abort.SUCCEEDED


class Readers(trio.abc.Instrument):
    """The sockets of a server's clients.

    It is a Trio instrument, because a task would wake the other tasks one round later. Without
    `run`, and where there is no epoll, all tasks wait as usual.
    """

    def __init__(self) -> None:
        """Start without sockets."""
        self.epoll: select.epoll | None = None
        self.by_fileno: dict[int, Reader] = {}
        #: How often tasks waited in this round, and whether there were many in the last one.
        self.waits = 0
        self.is_busy = False

    async def run(self) -> None:
        """Wake tasks until cancelled."""
        if not hasattr(select, "epoll"):
            return
        with select.epoll() as epoll:
            self.epoll = epoll
            trio.lowlevel.add_instrument(self)
            try:
                while self.epoll is not None:
                    await trio.lowlevel.wait_readable(epoll.fileno())
                    if not self.is_busy:
                        self._wake()
            finally:
                self._give_up()
                trio.lowlevel.remove_instrument(self)

    def after_io_wait(self, timeout: float) -> None:
        """Begin a round, and wake the tasks of readable sockets in a busy one; called by Trio."""
        self.is_busy, self.waits = self.waits >= _MANY, 0
        if self.is_busy:
            self._wake()

    def _wake(self) -> None:
        """Wake the tasks of readable sockets. After an error, all of them wait as usual."""
        epoll = self.epoll
        if epoll is None:
            return
        try:
            for fileno, _ in epoll.poll(0, _AT_ONCE):
                reader = self.by_fileno[fileno]
                if reader.is_waiting:
                    reader.is_waiting = False
                    trio.lowlevel.reschedule(reader.task)
                else:
                    epoll.unregister(fileno)
                    reader.is_registered = False
        except Exception:
            logger.exception("waiting for clients' messages failed")
            self._give_up()

    def _give_up(self) -> None:
        """Let all tasks read, and wait as usual from now on."""
        self.epoll = None
        for reader in self.by_fileno.values():
            reader.is_registered = False
            if reader.is_waiting:
                reader.is_waiting = False
                trio.lowlevel.reschedule(reader.task)
