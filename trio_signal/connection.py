"""Connection: one WebSocket; receives messages, sends heartbeats, and flushes the outbox.

A nursery scopes all of this. It ends when the client goes, and when the heartbeat finds that the
client is silent or its time is over. The session then leaves its rooms. Only then comes the closing
handshake, which delays nobody else.
"""

import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from uuid import uuid4

import trio

from trio_signal.alarm import NEVER, Alarm
from trio_signal.clock import utc_now
from trio_signal.dialects import Dialect
from trio_signal.errors import CloseCode, Reason
from trio_signal.limits import ConnectionLease
from trio_signal.messages.commands import Action, Close, LeaveCause
from trio_signal.outbox import Outbox
from trio_signal.readers import Reader
from trio_signal.service import Service
from trio_signal.session import INTERNAL_ERROR, Goodbye, Session
from trio_signal.websocket import (
    FrameParser,
    Message,
    Opcode,
    control_frame,
)

logger = logging.getLogger(__name__)

#: Bytes to read at once: enough for a burst of candidates, but no more than a fair share.
_CHUNK = 16384
#: A read of fewer bytes counts as a message even if it completes no frame.
_CRUMB = 256
#: Seconds for which a throttled client may keep sending, and the factor of the random part.
MAX_PRESSING = 10.0
_PRESSING_SPREAD = 1.5
#: Maximum seconds for the closing handshake. The session has left its rooms by then.
_GOODBYE = 2.0
#: If a task wakes so many seconds late, the server is busy.
_LATE = 0.1
#: Clients that are pinged within so many seconds are pinged together. The server then wakes once
#: for all of them, and once for their pongs.
_TOGETHER = 1 / 8
_SILENT = Close(CloseCode.INTERNAL_ERROR, "No sign of life", LeaveCause.LOST)

#: A function that blocks.
_Blocking = Callable[[], Awaitable[None]]


class Connection:
    """A WebSocket after its opening handshake, and the session that it carries."""

    __slots__ = (
        *("_actions", "_alarm", "_blocked_on", "_early", "_ended", "_has_turn", "_held_until"),
        *("_is_flushing", "_lease", "_messages", "_messages_in", "_next_ping", "_nursery"),
        *("_opening", "_outbox", "_parser", "_payer", "_pinged", "_press_until", "_reader"),
        *("_service", "_silent_at", "_sock", "_until", "session"),
    )

    def __init__(
        self,
        sock: socket.socket,
        dialect: Dialect,
        *,
        service: Service,
        lease: ConnectionLease,
        token: str | None = None,
        request_id: str | None = None,
        opening: bytes = b"",
        early: bytes = b"",
    ) -> None:
        """Begin a session on a non-blocking socket, which the caller closes.

        `lease` is given back at the end of `carry`. `token` came with the handshake; one in a
        message takes precedence. `opening` is sent first; `early` was read together with the
        handshake. `request_id` is a platform's name for the handshake.
        """
        self._sock = sock
        self._service = service
        self._lease = lease
        self._payer = lease.payer
        self._parser = FrameParser(
            service.settings.max_message_bytes, binary_is_text=dialect.reads_binary
        )
        #: Calls `_beat`.
        self._alarm = Alarm()
        self._outbox = Outbox(sock, service.settings.outbox_bytes, service.hub.flusher, self._alarm)
        self.session = Session(
            uuid4().hex,
            dialect,
            self._outbox,
            self._alarm,
            lease=lease,
            metrics=service.metrics,
            token=token,
            request_id=request_id,
        )
        self.session.deadlines.expect_identity(service.settings.auth_timeout)
        self._messages_in = service.metrics.messages_in[dialect.name]
        #: The messages that were read and not carried out yet, the last one first; the actions of
        #: the one before them, and what that blocks on.
        self._messages: list[Message] = []
        self._actions: Iterator[Action] | None = None
        self._blocked_on: _Blocking | None = None
        #: When this connection's turn ends, and whether it has just begun: every turn is long
        #: enough for one message.
        self._until, self._has_turn = 0.0, False
        #: Until when nothing is read from the client, and until when it may keep sending anyway.
        self._held_until, self._press_until = 0.0, NEVER
        #: When the next ping is due, when the last unanswered one was sent, and until when its
        #: client must send something.
        self._next_ping = _ping_after(trio.current_time(), service.settings.heartbeat)
        self._pinged, self._silent_at = 0.0, NEVER
        self._ended = self._is_flushing = False
        self._opening, self._early = opening, early

    async def carry(self) -> None:
        """Serve the client until the connection ends, then give back the lease.

        An error ends only this connection.
        """
        with self._lease:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.session.live_in(nursery.cancel_scope)
                with (
                    self._alarm.calling(self._beat, self._due, self._service.alarms),
                    Reader(self._service.readers, self._sock, self) as self._reader,
                ):
                    try:
                        await self._receive()
                    except Exception:
                        self._fail()
                nursery.cancel_scope.cancel()
            self._blocked_on = None  # it may refer to this connection

    def _go_on(self, session: Session) -> None:
        """Continue the client's earlier session in place of the new one."""
        self.session = session
        session.live_in(self._nursery.cancel_scope)
        self._alarm.set()

    async def _guarded(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except Exception:
            self._fail()

    def _fail(self) -> None:
        """End the session because of an error; called in the `except` block."""
        session = self.session
        logger.exception("connection %s (%s) failed", session.id, session.dialect.name)
        session.close(INTERNAL_ERROR)

    # receive

    async def _receive(self) -> None:
        """Carry out the client's messages until the connection ends.

        Most of them block on nothing: `receive_nowait` carries them out while this task waits.
        """
        blocked_on = self._open()
        while True:
            while blocked_on is not None:
                await blocked_on()
                blocked_on = self._carry_out()
            if self._held_until > self.session.last_heard and not self._ended:
                await self._hold_back()
            else:
                self._press_until = NEVER
            if self._ended:
                return
            await self._reader.wait()
            blocked_on, self._blocked_on = self._blocked_on, None

    def _open(self) -> _Blocking | None:
        """Answer the handshake, with the dialect's first message in the same packet."""
        session = self.session
        self._outbox.put(self._opening)
        self._actions = iter(session.dialect.opened(session.id))
        if self._early:
            self._parse(self._early)
        self._opening = self._early = b""
        return self._carry_out()

    def receive_nowait(self) -> bool:
        """Read messages and carry them out until something blocks; called by the reader.

        Returns whether the task must continue.
        """
        try:
            data = b"" if self._outbox.released else self._sock.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        self._ended = not data
        try:
            self._parse(data)
            self._blocked_on = self._carry_out()
        except Exception:
            self._fail()
        is_held = self._held_until > self.session.last_heard
        if self._ended or is_held or self._blocked_on is not None:
            return True
        self._press_until = NEVER
        return False

    def _parse(self, data: bytes) -> None:
        """Take in the messages that these bytes complete, and charge for them."""
        session, rounds = self.session, self._service.rounds
        now = session.last_heard = trio.current_time()
        messages = self._parser.feed(data)
        frames = len(messages) + self._parser.unfinished or len(data) < _CRUMB
        self._held_until = self._payer.spend(frames + session.owes, now)
        session.owes = 0.0
        messages.reverse()
        self._messages = messages
        self._outbox.is_late = overdrawn = self._held_until > now
        self._until = 0.0 if overdrawn or rounds.line else rounds.until

    async def _hold_back(self, *, more: bool = False) -> None:
        """Stop reading the client until its rate is allowed again.

        TCP then slows the client down, and no message is lost. A client that never slows down is
        disconnected. Returns early if the client has gone, so that its session leaves its rooms at
        once, unless `more` of its messages have to be carried out first.
        """
        while (now := trio.current_time()) < (until := self._payer.waits_until(now)):
            unread = self._peek()
            if unread or (unread is not None and more):
                if self._press_until == NEVER:
                    # Random: clients that flood together must not all be closed at one moment.
                    patience = MAX_PRESSING * random.uniform(1, _PRESSING_SPREAD)  # noqa: S311
                    self._press_until = now + patience
                if now >= self._press_until:
                    own = self._payer.overdrawn_until > now
                    reason = Reason.MESSAGE_RATE if own else Reason.MESSAGE_RATE_PER_IP
                    self._service.metrics.count_refused(reason)
                    self._end(Close(CloseCode.POLICY, "Rate limit exceeded"))
                    return
                await trio.sleep_until(min(until, self._press_until))
            elif unread is None:  # the client has paused
                self._press_until = NEVER
                with trio.move_on_at(until):
                    await trio.lowlevel.wait_readable(self._sock)
            else:
                return  # the client has gone

    def _carry_out(self) -> _Blocking | None:
        """Carry out what was read until something blocks; return that, or None at the end.

        The caller waits for it, and calls this again. Does not block.
        """
        session, service = self.session, self._service
        while True:
            if self._actions is not None:
                blocking = service.perform_nowait(session, self._actions)
                if blocking is not None:
                    return partial(service.perform_blocking, session, blocking)
                self._actions = None
                if session.owes >= 1:
                    now = trio.current_time()
                    self._held_until = self._payer.spend(session.owes, now)
                    session.owes = 0.0
                    if self._messages and self._held_until > now:
                        return partial(self._hold_back, more=True)
            if self._ended or session.closed_with is not None or self._outbox.released:
                if session.gone_on is None:
                    self._ended = True
                    return None
                self._go_on(session.gone_on)
                session = self.session
            if not self._messages:
                break
            if not self._has_turn and time.perf_counter() > self._until:
                return self._wait_for_turn
            self._has_turn = False
            message = self._messages.pop()
            match message.opcode:
                case Opcode.TEXT:
                    if session.deadlines.idle_ping is not None:
                        session.deadlines.put_off_idle_ping()
                    dialect = session.dialect
                    self._actions = iter(dialect.received(message.payload, utc_now()))
                    self._messages_in[dialect.received_type] += 1
                    session.received += 1
                case Opcode.PING:
                    session.put(control_frame(Opcode.PONG, message.payload))
                case Opcode.BINARY:
                    self._end(Close(CloseCode.UNSUPPORTED_DATA, "Only text messages are accepted"))
                case Opcode.CLOSE:
                    session.close_received = message.payload
                    self._ended = True
        failure = self._parser.failure
        if failure is not None:
            if failure.code == CloseCode.TOO_BIG:
                service.metrics.count_refused(Reason.MESSAGE_TOO_BIG)
            self._end(Close(failure.code, failure.reason))
        return None

    async def _wait_for_turn(self) -> None:
        self._until = await self._service.rounds.wait(overdrawn=self._outbox.is_late)
        self._has_turn = True

    def _end(self, close: Close) -> None:
        self.session.close(close)
        self._ended = True

    # heartbeat

    @property
    def _due(self) -> float:
        """When `_beat` must be called next."""
        return min(self._next_ping, self._silent_at, self.session.due)

    def _beat(self, now: float) -> float:
        """Ping the client; end if it stays silent, or if the session's time is over.

        A dead client's TCP connection can look alive. This also starts the tasks that flush and
        rejoin. Returns when it must be called again. Does not block or raise.
        """
        scope = self._nursery.cancel_scope
        # If the scope is cancelled, the session may have another connection already.
        if self.session.closed_with is None and not scope.cancel_called:
            try:
                self._pass_time(self.session, now)
                self._start_what_waits()
            except Exception:
                self._fail()
        return self._due if self.session.closed_with is None else NEVER

    def _pass_time(self, session: Session, now: float) -> None:
        settings = self._service.settings
        late = now - session.deadlines.authenticate_by
        if late >= 0 and (late > _LATE or self._has_unread()):
            session.deadlines.extend_for_identity()
        self._service.pass_time(session, now)
        if session.last_heard >= self._pinged or self._peek():
            # The client has sent something, even if it was not read yet.
            self._silent_at = NEVER
        elif now >= self._silent_at:
            session.close(_SILENT)
        if now >= self._next_ping:
            self._next_ping = _ping_after(now, settings.heartbeat)
            session.put(_PING)
            if self._silent_at == NEVER:
                self._pinged, self._silent_at = now, now + settings.heartbeat_timeout

    def _start_what_waits(self) -> None:
        """Start to flush if the socket is behind, and to rejoin rooms if there are any."""
        session = self.session
        if self._outbox.behind and not self._is_flushing:
            self._is_flushing = True
            self._nursery.start_soon(self._guarded, self._flush, name="flush")
        if session.rejoins is not None:
            rejoin = partial(self._service.rejoin, session, session.rejoins)
            session.rejoins = None
            self._nursery.start_soon(self._guarded, rejoin, name="rejoin")

    async def _flush(self) -> None:
        await self._outbox.flush()
        self._is_flushing = False

    def _has_unread(self) -> bool:
        """Whether the client may have sent something that is not carried out yet."""
        is_behind = self._service.rounds.is_behind
        return is_behind or self._blocked_on is not None or bool(self._peek())

    def _peek(self) -> bytes | None:
        """The next unread byte: empty if the client has gone, None if there is none yet."""
        try:
            return self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    # goodbye

    async def say_goodbye(self, goodbye: Goodbye) -> None:
        """Perform the closing handshake; blocks for `_GOODBYE` seconds at most.

        The server closes TCP first (RFC 6455 section 7.1.1). Further data from the client are read
        and discarded, because unread data would make TCP reset the connection before the close
        frame arrives. After its own close frame a client sends nothing, so no wait is needed.
        """
        if not goodbye.frame:
            return
        self._outbox.put_last(goodbye.frame)
        if self._outbox.flush_nowait() and goodbye.is_reply and not self._peek():
            return
        with trio.move_on_after(_GOODBYE):
            await self._outbox.flush()
            await shut_down(self._sock)

    def close(self) -> None:
        """Close the socket now: its session waits longer, and file descriptors are few."""
        self._sock.close()


_PING = control_frame(Opcode.PING)


def _ping_after(now: float, heartbeat: float) -> float:
    """When the next ping is due: at a multiple of `_TOGETHER`, if the heartbeat is not shorter."""
    if heartbeat == NEVER:
        return NEVER
    together = round((now + heartbeat) / _TOGETHER) * _TOGETHER
    return max(together, now + heartbeat / 2)


async def shut_down(sock: socket.socket) -> None:
    """Send the end of the stream, and wait until the other side ends too."""
    try:
        sock.shutdown(socket.SHUT_WR)
        while True:
            await trio.lowlevel.wait_readable(sock)
            if not sock.recv(_CHUNK):
                return
    except OSError:
        return  # the other side has reset the connection
