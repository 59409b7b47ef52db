"""One socket's life: receive, heartbeat, subscription.

The three run in one nursery; the first to end cancels the others. Leaving the
nursery leaves the rooms, by a plain context manager that awaits nothing. Only
then, when nobody depends on this connection any more, is time spent on a
goodbye.
"""

import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from uuid import uuid4

import trio

from trio_signal.auth import OpenAuth
from trio_signal.clock import utc_now
from trio_signal.config import Settings
from trio_signal.dialects import Dialect
from trio_signal.errors import AuthenticationError, CloseCode
from trio_signal.hub import Hub
from trio_signal.messages import (
    Action,
    AskLive,
    Authenticate,
    Close,
    Join,
    Malformed,
    RecallRooms,
    Send,
    ServerInfo,
)
from trio_signal.peer import INTERNAL_ERROR, Outbox, Peer
from trio_signal.websocket import (
    FrameParser,
    Message,
    Opcode,
    close_frame,
    close_reply,
    control_frame,
)

logger = logging.getLogger(__name__)

#: How much is read at once: a burst of candidates, and no more than a fair share.
_CHUNK = 16384
#: How many malformed messages in a row end a connection.
MAX_MALFORMED = 50
#: Seconds for the closing handshake; the rooms have been told before it begins.
_GOODBYE = 2.0


class Connection:
    """A WebSocket after its opening handshake."""

    def __init__(
        self,
        sock: socket.socket,
        dialect: Dialect,
        *,
        hub: Hub,
        auth: OpenAuth,
        settings: Settings,
        server: ServerInfo,
    ) -> None:
        """Take a non-blocking socket, which the caller closes."""
        self._sock = sock
        self._hub = hub
        self._auth = auth
        self._settings = settings
        self._server = server
        self._dialect = dialect
        self._parser = FrameParser(settings.max_message_bytes)
        self._outbox = Outbox(sock, settings.outbox_bytes)
        self.peer = Peer(uuid4().hex, dialect, self._outbox)
        self._authentication = trio.CancelScope()
        self._malformed = 0
        #: What the client gave as its reason, once it began the closing handshake.
        self._close_received: bytes | None = None
        self._ended = False

    async def run(self, early: bytes = b"") -> None:
        """Serve the client until it is gone; the goodbye takes two seconds at most.

        `early` is what it sent right behind the handshake and was read with that.
        """
        with self._hub.visit(self.peer), self.peer.scope:
            async with trio.open_nursery() as nursery:
                self.peer.inherit = partial(nursery.start_soon, self._guarded, self._rejoin)
                for task in (partial(self._receive, early), self._heartbeat, self._outbox.drain):
                    nursery.start_soon(self._first_to_end, task)
        await self._say_goodbye()

    async def _first_to_end(self, task: Callable[[], Awaitable[None]]) -> None:
        await self._guarded(task)
        self.peer.scope.cancel()

    async def _guarded(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        """An error ends this connection, and no other."""
        try:
            await task(*args)
        except Exception:
            logger.exception("connection %s (%s) failed", self.peer.id, self._dialect.name)
            self.peer.close(INTERNAL_ERROR)

    # receive

    async def _receive(self, early: bytes) -> None:
        """Socket to frames to dialect to commands to hub, until the client is gone."""
        with self._authentication:
            self._authentication.deadline = trio.current_time() + self._settings.auth_timeout
            await self._perform(self._dialect.opened(self.peer.id, self._server))
            await self._take(self._parser.feed(early))
            while not self._ended:
                await trio.lowlevel.wait_readable(self._sock)
                await self._take(self._read())
        if self._authentication.cancelled_caught:
            self.peer.close(self._dialect.authentication_failed("Authentication timeout"))

    def _read(self) -> list[Message]:
        try:
            data = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self._ended = not data
        self.peer.heard = trio.current_time()
        return self._parser.feed(data)

    async def _take(self, messages: list[Message]) -> None:
        for message in messages:
            match message.opcode:
                case Opcode.TEXT:
                    await self._perform(self._dialect.received(message.payload, utc_now()))
                case Opcode.PING:
                    self.peer.send_frame(control_frame(Opcode.PONG, message.payload))
                case Opcode.BINARY:
                    self._end(Close(CloseCode.UNSUPPORTED_DATA, "Only text is spoken here"))
                case Opcode.CLOSE:
                    self._close_received = message.payload
                    self._ended = True
            if self._ended or self.peer.closed_with is not None:
                return
        failure = self._parser.failure
        if failure is not None:
            self._end(Close(failure.code, failure.reason))

    def _end(self, close: Close) -> None:
        self.peer.close(close)
        self._ended = True

    async def _perform(self, actions: Iterable[Action]) -> None:
        """Do what the dialect asks for; blocks where the bus or a key set is asked."""
        for action in actions:
            match action:
                case Malformed(text=text):
                    self.peer.send(text)
                    self._count_malformed()
                    return
                case Send(text=text):
                    self.peer.send(text)
                case Join():
                    await self._hub.join(self.peer, action)
                case Authenticate():
                    await self._authenticate(action)
                case AskLive():
                    await self._hub.ask_live(self.peer, action)
                case RecallRooms():
                    await self._rejoin()
                case Close():
                    self._end(action)
                case _:
                    self._hub.handle(self.peer, action)
        self._malformed = 0

    def _count_malformed(self) -> None:
        self._malformed += 1
        if self._malformed >= MAX_MALFORMED:
            self._end(Close(CloseCode.POLICY, "Too many malformed messages"))

    async def _authenticate(self, claims: Authenticate) -> None:
        try:
            identity = await self._auth.authenticate(claims)
        except AuthenticationError as error:
            self._end(self._dialect.authentication_failed(str(error)))
            return
        self._authentication.deadline = float("inf")
        self.peer.identity = identity
        await self._perform(self._dialect.authenticated(identity, utc_now()))

    async def _rejoin(self, room_ids: Sequence[str] = ()) -> None:
        """Put the user into rooms again: into these, and where else it was."""
        rooms = dict.fromkeys([*room_ids, *await self._hub.recall_rooms(self.peer)])
        await self._perform(self._dialect.recalled(tuple(rooms)))

    # heartbeat

    async def _heartbeat(self) -> None:
        """Ping, and end when nothing comes back: a dead client's TCP can look alive."""
        interval, patience = self._settings.heartbeat, self._settings.heartbeat_timeout
        next_ping = trio.current_time() + interval
        pinged, deadline = 0.0, float("inf")
        while True:
            await trio.sleep_until(min(next_ping, deadline))
            now = trio.current_time()
            if self.peer.heard >= pinged or self._has_unread():
                deadline = float("inf")
            elif now >= deadline:
                self.peer.close(Close(CloseCode.INTERNAL_ERROR, "No sign of life"))
                return
            if now >= next_ping:
                next_ping = now + interval
                self.peer.send_frame(_PING)
                if deadline == float("inf"):
                    pinged, deadline = now, now + patience

    def _has_unread(self) -> bool:
        """Whether the client did say something: we were busy, or stopped, not the client."""
        try:
            return bool(self._sock.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    # goodbye

    async def _say_goodbye(self) -> None:
        """The closing handshake, as far as the client takes part in it.

        RFC 6455 section 7.1.1: the server closes TCP first. What the client
        still sends is read and forgotten, lest a reset overtakes the close frame.
        """
        if self._close_received is not None:
            frame = close_reply(self._close_received)
        elif self.peer.closed_with is not None:
            frame = close_frame(self.peer.closed_with.code, self.peer.closed_with.reason)
        else:
            return
        self._outbox.put_last(frame)
        with trio.move_on_after(_GOODBYE):
            await self._outbox.flush()
            await shut_down(self._sock)


_PING = control_frame(Opcode.PING)


async def shut_down(sock: socket.socket) -> None:
    """Tell the other side that nothing more comes, and wait until it ends as well."""
    try:
        sock.shutdown(socket.SHUT_WR)
        while True:
            await trio.lowlevel.wait_readable(sock)
            if not sock.recv(_CHUNK):
                return
    except OSError:
        return  # the other side was faster, and harsher
