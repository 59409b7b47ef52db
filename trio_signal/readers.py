"""Readers: wake the tasks of clients' sockets that have something to read.

`trio.lowlevel.wait_readable` registers a socket anew for each wait: a system call, and four
coroutines. Here sockets stay registered in one epoll, and Trio waits for that. A wait takes a third
of the time and of the memory.

A socket is registered as long as each of its events finds a task that waits. An event that finds
none removes it, since epoll would report it again in each round. The next wait registers it again.
So nothing depends on how much a task has read, or on the order of events.
"""

import select
import socket
from collections.abc import Awaitable
from types import TracebackType
from typing import Self

import trio

#: Tasks that are woken in one round of the event loop; the others follow in the next rounds.
_AT_ONCE = 256


class Reader:
    """Waits for one socket, in one task, as long as the `with` block runs."""

    __slots__ = ("_readers", "fileno", "is_registered", "is_waiting", "task")

    def __init__(self, readers: "Readers", sock: socket.socket) -> None:
        """Take a non-blocking socket, which the caller closes after the block."""
        self._readers = readers
        self.fileno = sock.fileno()
        self.is_registered = self.is_waiting = False

    def __enter__(self) -> Self:
        self.task = trio.lowlevel.current_task()
        self._readers.by_fileno[self.fileno] = self
        return self

    def __exit__(
        self,
        type_: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # The kernel forgets the socket when it is closed, or `Readers` at its next event.
        del self._readers.by_fileno[self.fileno], self.task

    def wait(self) -> Awaitable[object]:
        """Block until the socket is readable, or has ended."""
        epoll = self._readers.epoll
        if epoll is None:
            return trio.lowlevel.wait_readable(self.fileno)  # noqa: ASYNC105  the caller awaits it
        if not self.is_registered:
            epoll.register(self.fileno, select.EPOLLIN)
            self.is_registered = True
        self.is_waiting = True
        return trio.lowlevel.wait_task_rescheduled(self._stop_waiting)  # noqa: ASYNC105

    def _stop_waiting(self, raise_cancel: object) -> trio.lowlevel.Abort:
        self.is_waiting = False
        return trio.lowlevel.Abort.SUCCEEDED


class Readers(trio.abc.Instrument):
    """The sockets of a server's clients. It is a Trio instrument, because a task would wake the
    other tasks one round later.

    Without `run`, and where there is no epoll, each socket waits as usual.
    """

    def __init__(self) -> None:
        """Start without sockets."""
        self.epoll: select.epoll | None = None
        self.by_fileno: dict[int, Reader] = {}

    async def run(self) -> None:
        """Wake tasks until cancelled."""
        if not hasattr(select, "epoll"):
            return
        with select.epoll() as self.epoll:
            trio.lowlevel.add_instrument(self)
            try:
                while True:  # to end Trio's own wait
                    await trio.lowlevel.wait_readable(self.epoll.fileno())
            finally:
                trio.lowlevel.remove_instrument(self)
                self._wake_all()

    def after_io_wait(self, timeout: float) -> None:
        """Wake the tasks of readable sockets; called by Trio in each round."""
        assert self.epoll is not None  # noqa: S101
        for fileno, _ in self.epoll.poll(0, _AT_ONCE):
            reader = self.by_fileno.get(fileno)
            if reader is not None and reader.is_waiting:
                reader.is_waiting = False
                trio.lowlevel.reschedule(reader.task)
            else:
                self.epoll.unregister(fileno)
                if reader is not None:
                    reader.is_registered = False

    def _wake_all(self) -> None:
        """Let the tasks read, and wait as usual from now on."""
        self.epoll = None
        for reader in self.by_fileno.values():
            reader.is_registered = False
            if reader.is_waiting:
                reader.is_waiting = False
                trio.lowlevel.reschedule(reader.task)
