"""A proxy in front of a server that can cut the network."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress


class Cut:
    """Passes connections on. While it is `cut`, nothing passes, and no side is notified."""

    def __init__(self, target: int) -> None:
        #: The port to which new connections go.
        self.target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._wake, self._woken = socket.socketpair()
        self._ends: dict[socket.socket, socket.socket] = {}
        self._waiting: list[socket.socket] = []
        self._lost: set[socket.socket] = set()
        self._is_cut = False
        self._is_over = False
        #: The address from which it connects to the server.
        self._source = "127.0.0.1"
        self._is_moving = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        self._is_cut = True
        self._wake.send(b"!")

    def mend(self) -> None:
        """Pass data again. Connections from before the cut are lost; later ones work now."""
        self._is_cut = False
        self._wake.send(b"!")

    def move(self, source: str) -> None:
        """Drop all connections and change the source address, as a phone changes networks."""
        self._source, self._is_moving = source, True
        self._wake.send(b"!")

    def end(self) -> None:
        self._is_over = True
        with suppress(OSError):  # the thread may have ended already
            self._wake.send(b"!")

    def run(self) -> None:
        while not self._is_over:
            ends = [] if self._is_cut else [*self._ends]
            readable, _, _ = select.select([self._listener, self._woken, *ends], [], [])
            for ready in readable:
                if ready is self._woken:
                    ready.recv(64)
                    self._changed()
                elif ready is self._listener:
                    self._waiting.append(ready.accept()[0])
                    self._connect()
                elif ready in self._ends:
                    self._pass_on(ready)
        for end in [self._listener, self._wake, self._woken, *self._ends, *self._waiting]:
            end.close()

    def _changed(self) -> None:
        if self._is_cut or self._is_moving:
            self._lost, self._is_moving = set(self._ends), False
        if self._is_cut:
            return
        for end in self._lost & set(self._ends):
            self._close(end)
        self._connect()

    def _connect(self) -> None:
        while self._waiting and not self._is_cut:
            near = self._waiting.pop()
            source = (self._source, 0)
            far = socket.create_connection(("127.0.0.1", self.target), source_address=source)
            self._ends[near], self._ends[far] = far, near

    def _pass_on(self, end: socket.socket) -> None:
        try:
            data = end.recv(65536)
            if data:
                self._ends[end].sendall(data)
                return
        except OSError:
            pass
        self._close(end)

    def _close(self, end: socket.socket) -> None:
        other = self._ends.pop(end, None)
        if other is not None:
            del self._ends[other]
            other.close()
            end.close()


@contextlib.contextmanager
def open_cut(target: int) -> Iterator[Cut]:
    """The proxy, in a thread that ends with the block."""
    cut = Cut(target)
    thread = threading.Thread(target=cut.run)
    thread.start()
    try:
        yield cut
    finally:
        cut.end()
        thread.join()
