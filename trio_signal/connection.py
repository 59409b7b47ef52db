"""One socket's life: receive, heartbeat, and flush while something waits.

They run in one nursery; the first of the two to end cancels all. Leaving the
nursery leaves the rooms, by a plain context manager that awaits nothing. Only
then, when nobody depends on this connection any more, is time spent on a
goodbye.
"""

import logging
import random
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from uuid import uuid4

import trio
from msgspec.structs import replace

from trio_signal.announcements import Announcements
from trio_signal.auth import Auth
from trio_signal.clock import utc_now
from trio_signal.config import Settings
from trio_signal.dialects import Dialect
from trio_signal.errors import AuthenticationError, CloseCode, IdentityMismatchError, Reason
from trio_signal.hub import Hub
from trio_signal.ice import ice_servers
from trio_signal.limits import ConnectionLease
from trio_signal.logs import list_names
from trio_signal.messages.commands import (
    Acknowledge,
    Action,
    Appear,
    AskAnnouncement,
    AskLive,
    Authenticate,
    Close,
    HearAnnouncements,
    IdlePing,
    Join,
    LeaveCause,
    Malformed,
    Move,
    OpenInbox,
    RecallRooms,
    Renew,
    Send,
    SendPrivate,
    SendReceipt,
    SetPrivateTyping,
    Signal,
)
from trio_signal.messages.events import Expiring, Refusal, Refused, Renewed
from trio_signal.messages.identity import Identity, ServerInfo, is_internal
from trio_signal.metrics import BROKEN_OFF, NO_CODE, Metrics
from trio_signal.outbox import Outbox, ignore
from trio_signal.peer import INTERNAL_ERROR, HoldingPeer, Peer
from trio_signal.rounds import Rounds
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
#: A read that completes no frame counts as one, unless it brings this much.
_CRUMB = 256
#: How many malformed messages in a row end a connection.
MAX_MALFORMED = 50
#: Seconds for which a client may press on while it is held back, and by how much one may do so
#: longer than another.
MAX_PRESSING = 10.0
_PRESSING_SPREAD = 1.5
#: By how much one may have longer to say who it is than another.
_SPREAD = 1.1
#: Seconds for the closing handshake; the rooms have been told before it begins.
_GOODBYE = 2.0
#: Seconds before its token expires that a client is told so.
_WARNING = 60.0
#: Rooms that are named in the log.
_ROOMS_LOGGED = 20
_EXPIRED = AuthenticationError("Token expired")
_SILENT = Close(CloseCode.INTERNAL_ERROR, "No sign of life", LeaveCause.LOST)
#: With these, or with none, a client says that it goes; with any other it may come back.
_GOODBYES = (CloseCode.NORMAL, CloseCode.GOING_AWAY, NO_CODE)
_TOO_LATE = AuthenticationError("Authentication timeout")
_NEVER = float("inf")


class Connection:
    """A WebSocket after its opening handshake."""

    __slots__ = (
        "_alarm",
        "_auth",
        "_authenticate_by",
        "_close_received",
        "_dialect",
        "_early",
        "_ended",
        "_expires_at",
        "_held_until",
        "_hub",
        "_idle_ping",
        "_idle_ping_at",
        "_lease",
        "_malformed",
        "_messages_in",
        "_metrics",
        "_nursery",
        "_opening",
        "_outbox",
        "_parser",
        "_payer",
        "_press_until",
        "_request_id",
        "_rounds",
        "_settings",
        "_sock",
        "_token",
        "_warn_at",
        "peer",
    )

    def __init__(
        self,
        sock: socket.socket,
        dialect: Dialect,
        *,
        hub: Hub,
        auth: Auth,
        settings: Settings,
        lease: ConnectionLease,
        metrics: Metrics,
        rounds: Rounds,
        token: str | None = None,
        request_id: str | None = None,
        opening: bytes = b"",
        early: bytes = b"",
    ) -> None:
        """Take a non-blocking socket, which the caller closes.

        `lease` is given back when the rooms have been left. `token` came with the handshake; one
        in a message counts more. `opening` goes out first; `early` is what came right behind the
        handshake and was read with that. `request_id` is what a platform in front calls the
        handshake.
        """
        self._sock = sock
        self._hub = hub
        self._auth = auth
        self._settings = settings
        self._lease = lease
        self._payer = lease.payer
        self._metrics = metrics
        self._rounds = rounds
        self._token = token
        self._request_id = request_id
        self._dialect = dialect
        self._parser = FrameParser(settings.max_message_bytes, binary_is_text=dialect.reads_binary)
        self._outbox = Outbox(sock, settings.outbox_bytes, hub.flusher)
        make = HoldingPeer if dialect.holds_candidates else Peer
        self.peer = make(uuid4().hex, dialect, self._outbox)
        self.peer.count_refused = metrics.count_refused
        self.peer.told = metrics.messages_out[dialect.name]
        self._messages_in = metrics.messages_in[dialect.name]
        #: By when the client has to say who it is.
        self._authenticate_by = _NEVER
        #: Wakes the heartbeat.
        self._alarm: trio.CancelScope | None = None
        #: When the token expires, and when to say so; Trio's clock.
        self._expires_at = self._warn_at = _NEVER
        #: Until when the client is not read, and until when it may go on sending nevertheless.
        self._held_until, self._press_until = 0.0, _NEVER
        self._malformed = 0
        #: What to send to a client that says nothing, and when it is next due.
        self._idle_ping: IdlePing | None = None
        self._idle_ping_at = _NEVER
        #: What the client gave as its reason, once it began the closing handshake.
        self._close_received: bytes | None = None
        self._ended = False
        self._opening, self._early = opening, early

    async def run(self) -> None:
        """Serve the client until it is gone; the goodbye takes two seconds at most."""
        try:
            with self._lease, self._hub.visit(self.peer):
                async with trio.open_nursery() as nursery:
                    self._serve_in(nursery)
                    nursery.start_soon(self._first_to_end, self._heartbeat, name="heartbeat")
                    await self._first_to_end(self._receive)
        finally:
            self._record()
        await self._say_goodbye()

    def _record(self) -> None:
        """Count and log the end, whatever it is; the rooms know by then."""
        peer = self.peer
        self._payer.spend(peer.owes, trio.current_time())
        self._metrics.count_closed(self._close_code)
        rooms = [room for room in peer.left if not is_internal(room)]
        logger.info(
            "connection closed",
            extra=self._names()
            | {
                "rooms": list_names(rooms[:_ROOMS_LOGGED]),
                "seconds": round(trio.current_time() - peer.arrived, 3),
                "received": peer.received,
                "sent": peer.sent,
                "code": self._close_code,
            },
        )

    def _names(self) -> dict[str, object]:
        """Which connection this is, for the log."""
        identity = self.peer.identity
        return {
            "connection": self.peer.id,
            "dialect": self._dialect.name,
            "user": identity.user_id if identity is not None else None,
            "request_id": self._request_id,
        }

    @property
    def _close_code(self) -> int:
        """With what the connection ended, as RFC 6455 section 7.1.5 has it."""
        if self._close_received is not None:
            return int.from_bytes(self._close_received[:2]) or NO_CODE
        return self.peer.closed_with.code if self.peer.closed_with is not None else BROKEN_OFF

    def _serve_in(self, nursery: trio.Nursery) -> None:
        """Let the nursery have all that this connection does, and its end be the nursery's."""
        self._nursery = nursery
        self.peer.live_in(nursery.cancel_scope)
        self.peer.inherit = self._inherit
        self._outbox.begins_to_wait = self._drain
        if isinstance(self.peer, HoldingPeer):
            self.peer.wake_at = self._wake_heartbeat
        # Not all at the same moment, though they came so: others would wait for their end.
        patience = self._settings.auth_timeout * random.uniform(1, _SPREAD)  # noqa: S311
        self._authenticate_by = trio.current_time() + patience

    def _let_go(self) -> None:
        """Start nothing more, and have nothing lead back here: what is over is freed at once."""
        self.peer.inherit = self._outbox.begins_to_wait = ignore
        if isinstance(self.peer, HoldingPeer):
            self.peer.wake_at = ignore

    def _inherit(self, room_ids: Sequence[str]) -> None:
        self._nursery.start_soon(self._guarded, partial(self._rejoin, room_ids))

    def _drain(self) -> None:
        self._nursery.start_soon(self._guarded, self._outbox.flush)

    async def _first_to_end(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except Exception:
            self._fail()
        finally:
            # From its last task's end until it is left, a turn later, the nursery takes no more.
            self._let_go()
        self._nursery.cancel_scope.cancel()

    async def _guarded(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except Exception:
            self._fail()

    def _fail(self) -> None:
        """An error ends this connection, and no other; called in its `except`."""
        logger.exception("connection %s (%s) failed", self.peer.id, self._dialect.name)
        self.peer.close(INTERNAL_ERROR)

    # receive

    async def _receive(self) -> None:
        """Socket to frames to dialect to commands to hub, until the client is gone."""
        await self._open()
        while not self._ended:
            if self._held_until > self.peer.heard:
                await self._hold_back()
            else:
                self._press_until = _NEVER
            await trio.lowlevel.wait_readable(self._sock)
            await self._take(self._read())

    async def _open(self) -> None:
        """Answer the handshake, with what the dialect says first in the same packet."""
        self._outbox.put(self._opening)
        await self._perform(self._dialect.opened(self.peer.id))
        if self._early:
            await self._take(self._parse(self._early))
        self._opening = self._early = b""

    def _read(self) -> list[Message]:
        try:
            data = self._sock.recv(_CHUNK)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        self._ended = not data
        return self._parse(data)

    def _parse(self, data: bytes) -> list[Message]:
        """The messages that these bytes complete, and what they cost."""
        peer = self.peer
        now = peer.heard = trio.current_time()
        messages = self._parser.feed(data)
        frames = len(messages) + self._parser.take_fragments() or len(data) < _CRUMB
        self._held_until = self._payer.spend(frames + peer.owes, now)
        peer.owes = 0.0
        return messages

    async def _pay(self, *, more: bool) -> None:
        """Pay for what the last message made the server do; wait if that was too much.

        `more` messages may be in our hands already.
        """
        now = trio.current_time()
        self._held_until = self._payer.spend(self.peer.owes, now)
        self.peer.owes = 0.0
        if more and self._held_until > now:
            await self._hold_back(more=True)

    async def _hold_back(self, *, more: bool = False) -> None:
        """Leave the client unread until its rate is again what it may be.

        TCP then holds up the client itself, and nothing of it is lost. One that never lets up is
        closed. If it is gone its rooms hear of it at once, unless it said `more` before.
        """
        while (now := trio.current_time()) < (until := self._payer.waits_until(now)):
            unread = self._peek()
            if unread or (unread is not None and more):
                if self._press_until == _NEVER:
                    # Not all at one moment, though they press together: others wait for their end.
                    patience = MAX_PRESSING * random.uniform(1, _PRESSING_SPREAD)  # noqa: S311
                    self._press_until = now + patience
                if now >= self._press_until:
                    own = self._payer.overdrawn_until > now
                    reason = Reason.MESSAGE_RATE if own else Reason.MESSAGE_RATE_PER_IP
                    self._metrics.count_refused(reason)
                    self._end(Close(CloseCode.POLICY, "Rate limit exceeded"))
                    return
                await trio.sleep_until(min(until, self._press_until))
            elif unread is None:  # it has paused
                self._press_until = _NEVER
                with trio.move_on_at(until):
                    await trio.lowlevel.wait_readable(self._sock)
            else:
                return  # it is gone

    async def _take(self, messages: list[Message]) -> None:
        """Carry out what these say; blocks where they do, and now and then for others' sake."""
        peer, rounds = self.peer, self._rounds
        self._outbox.is_late = overdrawn = self._held_until > peer.heard
        until = 0.0 if overdrawn or rounds.line else rounds.until
        for message in messages:
            if time.perf_counter() > until:
                until = await rounds.wait(overdrawn=overdrawn)
            match message.opcode:
                case Opcode.TEXT:
                    self._put_off_idle_ping()
                    actions = self._dialect.received(message.payload, utc_now())
                    self._messages_in[self._dialect.heard] += 1
                    peer.received += 1
                    await self._perform(actions)
                    if peer.owes >= 1:
                        await self._pay(more=message is not messages[-1])
                case Opcode.PING:
                    peer.put(control_frame(Opcode.PONG, message.payload))
                case Opcode.BINARY:
                    self._end(Close(CloseCode.UNSUPPORTED_DATA, "Only text is spoken here"))
                case Opcode.CLOSE:
                    self._close_received = message.payload
                    peer.said_goodbye = self._close_code in _GOODBYES
                    self._ended = True
            if self._ended or peer.closed_with is not None:
                return
        failure = self._parser.failure
        if failure is not None:
            if failure.code == CloseCode.TOO_BIG:
                self._metrics.count_refused(Reason.MESSAGE_TOO_BIG)
            self._end(Close(failure.code, failure.reason))

    def _end(self, close: Close) -> None:
        self.peer.close(close)
        self._ended = True

    async def _perform(self, actions: Iterable[Action]) -> None:
        """Do what the dialect asks for; blocks where the bus or a key set is asked."""
        for action in actions:
            match action:
                case Signal():  # first of all, since most are
                    self._hub.handle(self.peer, action)
                case Malformed(text=text):
                    self.peer.answer(text)
                    self._count_malformed()
                    return
                case Send(text=text):
                    self.peer.answer(text)
                case Join():
                    await self._hub.join(self.peer, action)
                case Authenticate():
                    await self._authenticate(action)
                case Renew():
                    await self._renew(action)
                case AskLive():
                    await self._hub.live.ask(self.peer, action)
                case RecallRooms():
                    await self._rejoin()
                case HearAnnouncements():
                    self._announcements.subscribe(self.peer)
                case OpenInbox():
                    await self._hub.open_inbox(self.peer, action)
                case SendPrivate() | SetPrivateTyping() | SendReceipt():
                    await self._hub.tell_user(self.peer, action)
                case Appear():
                    self._hub.online.add(self.peer)
                case Move():
                    self._hub.online.move(self.peer, action)
                case AskAnnouncement():
                    await self._announcements.show(self.peer)
                case Acknowledge():
                    self._announcements.note(self.peer, action.announcement_id)
                case IdlePing():
                    self._idle_ping = action
                    self._put_off_idle_ping()
                case Close():
                    self._end(action)
                case _:
                    self._hub.handle(self.peer, action)
        self._malformed = 0

    @property
    def _announcements(self) -> Announcements:
        """Those of the hub; a dialect that needs them is not spoken without."""
        assert self._hub.announcements is not None  # noqa: S101
        return self._hub.announcements

    def _count_malformed(self) -> None:
        self._metrics.count_refused(Reason.MALFORMED)
        self._malformed += 1
        if self._malformed >= MAX_MALFORMED:
            self._end(Close(CloseCode.POLICY, "Too many malformed messages"))

    async def _authenticate(self, claims: Authenticate) -> None:
        try:
            identity = await self._auth.authenticate(
                replace(claims, token=claims.token or self._token)
            )
        except AuthenticationError as error:
            self._count_failure()
            self._end(self._dialect.authentication_failed(error))
            return
        self._lease.authenticated()
        self._authenticate_by = _NEVER
        self.peer.identity = identity
        logger.info("connection opened", extra=self._names())
        server = ServerInfo(ice_servers(self._settings, identity.user_id), self._settings.heartbeat)
        await self._perform(self._dialect.authenticated(identity, server, utc_now()))
        # Not before the client has heard that it is in: it may be warned at once.
        self._watch_expiry(identity)

    async def _renew(self, command: Renew) -> None:
        """Go on with a new token; one that will not do changes nothing."""
        old = self.peer.identity
        if old is None or not old.verified:
            return
        try:
            identity = await self._auth.authenticate(
                Authenticate(old.user_id, command.token, claimed=old.user_id)
            )
            # The same `sub` of another issuer is somebody else.
            if identity.subject != old.subject:
                raise IdentityMismatchError("Identity mismatch")
        except AuthenticationError:
            self._count_failure()
            self.peer.tell(Refused(command, Refusal.INVALID_TOKEN, utc_now()))
            return
        entered = (room_id for room_id in self.peer.memberships if not is_internal(room_id))
        if not all(identity.grants.admit(room_id) for room_id in entered):
            self.peer.tell(Refused(command, Refusal.INVALID_TOKEN, utc_now()))
            return
        self.peer.identity = identity
        self._watch_expiry(identity)
        self.peer.tell(Renewed(self._seconds_left()))

    def _count_failure(self) -> None:
        self._metrics.count_refused(Reason.AUTHENTICATION)
        self._lease.failed(trio.current_time())

    async def _rejoin(self, room_ids: Sequence[str] = ()) -> None:
        """Put the user into rooms again: into these, and where else it was.

        If its client enters them by itself, let it find there what it does not say.
        """
        if self._dialect.resumes != "rooms":
            await self._hub.resume(self.peer)
            return
        rooms = dict.fromkeys([*room_ids, *await self._hub.recall_rooms(self.peer)])
        await self._perform(self._dialect.recalled(tuple(rooms)))

    # heartbeat

    async def _heartbeat(self) -> None:
        """Ping, and end when nothing comes back, or when it is too late to go on.

        A dead client's TCP can look alive.
        """
        interval, patience = self._settings.heartbeat, self._settings.heartbeat_timeout
        next_ping = trio.current_time() + interval
        pinged, deadline = 0.0, _NEVER
        while True:
            with trio.CancelScope(
                deadline=min(
                    *(next_ping, deadline, self._idle_ping_at, self.peer.due),
                    *(self._authenticate_by, self._warn_at, self._expires_at),
                )
            ) as self._alarm:
                await trio.lowlevel.wait_task_rescheduled(_may_be_woken)
            now = trio.current_time()
            if not self._check_time(now):
                return
            if self._idle_ping is not None and now >= self._idle_ping_at:
                self.peer.send(self._idle_ping.text)
                self._put_off_idle_ping()
            if isinstance(self.peer, HoldingPeer) and now >= self.peer.due:
                self._hub.signals.pass_time(self.peer, now)
            if self.peer.heard >= pinged or self._peek():
                # Or it did say something: we were busy, or hold it back.
                deadline = _NEVER
            elif now >= deadline:
                self.peer.close(_SILENT)
                return
            if now >= next_ping:
                next_ping = now + interval
                self.peer.put(_PING)
                if deadline == _NEVER:
                    pinged, deadline = now, now + patience

    def _put_off_idle_ping(self) -> None:
        """The client is to say nothing for a while, before it is sent its idle ping (again)."""
        if self._idle_ping is not None:
            self._idle_ping_at = trio.current_time() + self._idle_ping.after
            self._wake_heartbeat(self._idle_ping_at)

    def _watch_expiry(self, identity: Identity) -> None:
        """Let the heartbeat look at when this identity ends."""
        self._warn_at = self._expires_at = _NEVER
        if identity.expires is not None:
            self._expires_at = trio.current_time() + identity.expires - time.time()
            self._warn_at = self._expires_at - _WARNING
            self._wake_heartbeat(self._warn_at)

    def _wake_heartbeat(self, at: float) -> None:
        """Let the heartbeat look at the time then, if it would not do so before."""
        if self._alarm is not None:
            self._alarm.deadline = min(self._alarm.deadline, at)

    def _seconds_left(self) -> int:
        return max(0, round(self._expires_at - trio.current_time()))

    def _check_time(self, now: float) -> bool:
        """Whether the client may go on; it is warned once."""
        if now >= self._authenticate_by:
            self._metrics.count_refused(Reason.AUTHENTICATION_TIMEOUT)
            self.peer.close(self._dialect.authentication_failed(_TOO_LATE))
            return False
        if now >= self._expires_at:
            close = self._dialect.authentication_failed(_EXPIRED)
            self.peer.close(replace(close, cause=LeaveCause.TOKEN_EXPIRED))
            return False
        if now >= self._warn_at:
            self._warn_at = _NEVER
            self.peer.tell(Expiring(self._seconds_left()))
        return True

    def _peek(self) -> bytes | None:
        """The next unread byte: none if the client is gone, None if it said nothing more."""
        try:
            return self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    # goodbye

    async def _say_goodbye(self) -> None:
        """The closing handshake, as far as the client takes part in it.

        RFC 6455 section 7.1.1: the server closes TCP first. What the client
        still sends is read and forgotten, lest a reset overtakes the close frame.
        Behind its own close frame it sends nothing, so then there is nothing to wait for.
        """
        if self._close_received is not None:
            frame = close_reply(self._close_received)
        elif self.peer.closed_with is not None:
            frame = close_frame(self.peer.closed_with.code, self.peer.closed_with.reason)
        else:
            return
        self._outbox.put_last(frame)
        if self._outbox.flush_nowait() and self._close_received is not None and not self._peek():
            return
        with trio.move_on_after(_GOODBYE):
            await self._outbox.flush()
            await shut_down(self._sock)


_PING = control_frame(Opcode.PING)


def _may_be_woken(raise_cancel: object) -> trio.lowlevel.Abort:
    """With this a task sleeps as by `trio.sleep_forever`, in 300 bytes less: there are many."""
    return trio.lowlevel.Abort.SUCCEEDED


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
