"""Session: one client, on the connection that carries it, or on none."""

import logging
from collections.abc import Collection
from itertools import islice
from typing import NamedTuple, Protocol

import trio
from msgspec import Struct
from msgspec.structs import replace

from trio_signal.alarm import NEVER, Alarm
from trio_signal.deadlines import Deadlines
from trio_signal.dialects import Dialect
from trio_signal.dialects.wire import Resumes, type_of
from trio_signal.errors import AuthenticationError, CloseCode, Reason
from trio_signal.limits import ConnectionLease
from trio_signal.logs import list_names
from trio_signal.messages.commands import Close, LeaveCause, Send
from trio_signal.messages.events import (
    Answer,
    Event,
    Expiring,
    Refused,
)
from trio_signal.messages.identity import is_internal
from trio_signal.metrics import BROKEN_OFF, NO_CODE, Metrics
from trio_signal.negotiations import Negotiations
from trio_signal.pacing import ANSWER_BYTE
from trio_signal.participant import Participant
from trio_signal.resumption import NOWHERE, Frames, Resumption, Sink
from trio_signal.websocket import close_frame, close_reply, text_frame

logger = logging.getLogger(__name__)

#: How a session ends whose outbox is full.
TOO_SLOW = Close(CloseCode.TRY_AGAIN_LATER, "Reads too slowly", LeaveCause.TOO_SLOW)
#: Never sent: the connection stays open, and carries the client's earlier session.
_GONE_ON = Close(CloseCode.NORMAL)
INTERNAL_ERROR = Close(CloseCode.INTERNAL_ERROR, "Internal error")
#: Maximum rooms named in one log entry.
_ROOMS_LOGGED = 20
#: A client that closes with one of these codes, or without a code, has left its rooms on purpose.
_GOODBYES = (CloseCode.NORMAL, CloseCode.GOING_AWAY, NO_CODE)
#: A client that closes with one of these codes may resume its session. 1012 is "service restart".
_MAY_COME_BACK = (CloseCode.GOING_AWAY, CloseCode.INTERNAL_ERROR, 1012)
#: The close frame of a server that stops.
GOING_AWAY = close_frame(CloseCode.GOING_AWAY, "Server going away")
_EXPIRED = AuthenticationError("Token expired")
_TOO_LATE = AuthenticationError("Authentication timeout")


class Goodbye(NamedTuple):
    """The close frame that ends a connection; None if none is sent."""

    frame: bytes
    #: The client closed first, and sends nothing more.
    is_reply: bool


class Carrier(Protocol):
    """What carries a session while it has a socket: a connection."""

    async def carry(self) -> None:
        """Serve the session's client until the socket or the session ends."""
        ...

    async def say_goodbye(self, goodbye: Goodbye) -> None:
        """End the connection as its protocol requires, if there is time."""
        ...

    def close(self) -> None:
        """Close the socket; does not block."""
        ...


class Session(Participant):
    """One client: its identity, its rooms, its costs, and the reason of its end.

    As a context manager it counts and logs its end. It has no reference back to the connection that
    carries it, so both are freed at once when they end.
    """

    __slots__ = (
        *("_alarm", "_metrics", "_scope", "close_received", "frames", "outbox"),
        *("deadlines", "dialect", "gone_on", "malformed", "messages_out", "received"),
        *("rejoins", "request_id", "resumed_by", "resumption", "sent", "token"),
    )

    def __init__(
        self,
        id_: str,
        dialect: Dialect,
        outbox: Frames,
        alarm: Alarm,
        *,
        lease: ConnectionLease,
        metrics: Metrics,
        token: str | None = None,
        request_id: str | None = None,
    ) -> None:
        """Make a session without an identity; frames for its client go into `outbox`.

        `alarm` calls the function that calls `pass_time`. `lease` is the place of its connection.
        `token` came with the handshake; one in a message takes precedence. `request_id` is a
        platform's name for the handshake.
        """
        super().__init__(id_)
        self.dialect = dialect
        #: Where control frames go, and where messages go; the second may count and keep them.
        self.outbox = outbox
        self.frames: Sink = outbox
        self._alarm = alarm
        self._metrics = metrics
        self.lease: ConnectionLease = lease
        self.token = token
        self.request_id = request_id
        #: The counters of messages to clients of its dialect, by type.
        self.messages_out = metrics.messages_out[dialect.name]
        #: The number of messages from its client, and to it.
        self.received = self.sent = 0
        #: The number of consecutive malformed messages.
        self.malformed = 0
        if dialect.holds_candidates:
            self.negotiations = Negotiations()
        self.deadlines = Deadlines()
        #: The rooms to rejoin now, besides those in the notes; None for none.
        self.rejoins: tuple[str, ...] | None = None
        #: The reason that the client gave when it began the closing handshake.
        self.close_received: bytes | None = None
        #: What a later connection needs to continue it, if its client asked for that.
        self.resumption: Resumption | None = None
        #: The session that continues in place of this one, if its client had one before.
        self.gone_on: Session | None = None
        #: When the connection came that last resumed it here, by Trio's clock; 0 if none has.
        self.resumed_by = 0.0
        self._scope: trio.CancelScope | None = None

    # Connections

    @property
    def can_stay(self) -> bool:
        """Whether it may wait in its rooms for another connection.

        It may if the client can resume it, and neither the client nor the server has closed it.
        """
        if self.resumption is None or not self.memberships:
            return False
        if self.closed_with is not None:
            return self.closed_with.cause is LeaveCause.LOST
        return self.close_received is None or self.close_code in _MAY_COME_BACK

    @property
    def is_away(self) -> bool:
        """Whether it waits for a connection."""
        return self.outbox is NOWHERE and self.closed_with is None

    def go_away(self, *, for_good: bool = False) -> None:
        """Continue without a connection; frames for its client are kept. Does not block.

        With `for_good`, another replica continues the session, and its task here ends.
        """
        if for_good and self.stay is not None:
            self.stay.release()
        if for_good and self._scope is not None:
            self._scope.cancel(reason="another replica continues the session")
            self._scope = None
        self.closed_with = self.close_received = None
        self.outbox.release()
        self.outbox, self._alarm = NOWHERE, Alarm()
        if self.resumption is not None:
            self.resumption.outbox = NOWHERE

    def go_on(self, newcomer: "Session") -> None:
        """Continue on a new connection of the same client. Does not block.

        Its old connection, if any, ends, and processes no more messages. From now on only the new
        connection's task removes the session from its rooms.
        """
        if newcomer.stay is not None and self.stay is not None:
            newcomer.stay.take(self.stay)
        if self._scope is not None:
            self._scope.cancel(reason="another connection continues the session")
        self._scope = None
        self.closed_with = self.close_received = None
        self.outbox.release()
        self.outbox, self._alarm = newcomer.outbox, newcomer._alarm
        if self.resumption is not None:
            self.resumption.outbox = newcomer.outbox
        self.lease, self.request_id = newcomer.lease, newcomer.request_id
        self.last_heard, self.resumed_by = trio.current_time(), newcomer.arrived
        self.wake()
        newcomer.gone_on, newcomer.closed_with = self, _GONE_ON

    # End

    def live_in(self, scope: trio.CancelScope) -> None:
        """Set the scope that `close` cancels: that of its task."""
        self._scope = scope
        if self.closed_with is not None:
            scope.cancel(reason=self.closed_with.reason or None)

    @property
    def is_leaving(self) -> bool:
        """Whether it is about to end."""
        return self.closed_with is not None or (
            self._scope is not None and self._scope.cancel_called
        )

    def close(self, close: Close) -> None:
        """End the session; does not block. Later calls do nothing."""
        if self.closed_with is None:
            self.closed_with = close
            if close.last:
                self.send(close.last)
            if self._scope is not None:
                self._scope.cancel(reason=close.reason or None)

    @property
    def leave_cause(self) -> LeaveCause:
        """Why it leaves its rooms: it was closed, its client left, or the connection was lost."""
        if self.closed_with is not None:
            return self.closed_with.cause
        said_goodbye = self.close_received is not None and self.close_code in _GOODBYES
        return LeaveCause.CLOSED if said_goodbye else LeaveCause.LOST

    @property
    def close_code(self) -> int:
        """The close code of its connection, as RFC 6455 section 7.1.5 defines it."""
        if self.close_received is not None:
            return int.from_bytes(self.close_received[:2]) or NO_CODE
        return self.closed_with.code if self.closed_with is not None else BROKEN_OFF

    def end(self) -> None:
        """Count and log its end. Call it after the session has left its rooms."""
        now = trio.current_time()
        self.lease.payer.spend(self.owes, now)
        if self.outbox is not NOWHERE:  # else the end of its connection was counted already
            self._metrics.count_closed(self.close_code)
        rooms = [room for room in self.left if not is_internal(room)]
        logger.info(
            "connection closed",
            extra=self.names()
            | {
                "rooms": list_names(rooms[:_ROOMS_LOGGED]),
                "seconds": round(now - self.arrived, 3),
                "received": self.received,
                "sent": self.sent,
                "code": int(self.close_code),
            },
        )

    def names(self) -> dict[str, object]:
        """The fields that identify this session in the log."""
        return {
            "connection": self.id,
            "dialect": self.dialect.name,
            "user": self.identity.user_id if self.identity is not None else None,
            "request_id": self.request_id,
        }

    # Messages to the client

    def put(self, frame: bytes) -> None:
        """Put a frame into the outbox; does not block.

        A session whose outbox is full is closed as too slow.
        """
        if not self.outbox.put(frame) and self.outbox.overflowed:
            self.close(TOO_SLOW)

    def send_frame(self, frame: bytes) -> None:
        """Send a message's frame, which may be shared with other peers; does not block."""
        self.sent += 1  # `LocalRoom.tell` has the same lines, to save a call for each receiver
        if not self.frames.put(frame) and self.outbox.overflowed:
            self.close(TOO_SLOW)

    def send(self, text: bytes) -> None:
        """Send a text to this client alone; does not block."""
        type_ = type_of(text)
        self.messages_out[type_] += 1
        if self.resumption is None or type_ not in self.dialect.uncounted:
            self.send_frame(text_frame(text))
        else:
            self.sent += 1
            self.put(text_frame(text))

    def answer(self, text: bytes) -> None:
        """Send a text at the session's own cost; does not block."""
        self.owes += len(text) * ANSWER_BYTE
        self.send(text)

    def tell(self, answer: Answer) -> None:
        """Send the client the result of its command, at its own cost; does not block."""
        if isinstance(answer, Refused):
            self._metrics.count_refused(answer.reason)
        try:
            actions = list(self.dialect.answered(answer))
        except Exception:
            close_untold([self], answer)
            return
        for action in actions:
            match action:
                case Send(text=text):
                    self.answer(text)
                case Close():
                    self.close(action)

    def hear(self, event: Event) -> None:
        """Send the client an event for it alone, such as a signal; does not block."""
        try:
            notices = list(self.dialect.tell(event))
        except Exception:
            close_untold([self], event)
            return
        for notice in notices:
            self.send(notice.text)

    @property
    def dialect_name(self) -> str:
        """The name of its dialect."""
        return self.dialect.name

    @property
    def resumes(self) -> Resumes:
        """What the server restores for its client after a restart; see `Dialect`."""
        return self.dialect.resumes

    @property
    def waiting_bytes(self) -> int:
        """The bytes that wait because its client reads too slowly."""
        return self.outbox.size if self.outbox.behind else 0

    def rejoin(self, room_ids: tuple[str, ...] = ()) -> None:
        """Let its connection join these rooms, and others that the user was in; does not block."""
        self.rejoins = (self.rejoins or ()) + room_ids
        self.wake()

    def wake(self, at: float = -NEVER) -> None:
        """Wake its connection at this time, unless it wakes earlier; does not block."""
        self._alarm.set(at)

    # Deadlines

    @property
    def due(self) -> float:
        """When `pass_time` must be called next, by Trio's clock."""
        negotiations = self.negotiations.due if self.negotiations is not None else NEVER
        return min(negotiations, self.deadlines.due)

    def pass_time(self, now: float) -> None:
        """Do what is due: close the session, warn the client of the token's expiry, or ping it."""
        deadlines = self.deadlines
        if now >= deadlines.authenticate_by:
            self._metrics.count_refused(Reason.AUTHENTICATION_TIMEOUT)
            self.close(self.dialect.authentication_failed(_TOO_LATE))
            return
        if now >= deadlines.expires_at:
            close = self.dialect.authentication_failed(_EXPIRED)
            self.close(replace(close, cause=LeaveCause.TOKEN_EXPIRED))
            return
        if now >= deadlines.warn_at:
            deadlines.warn_at = NEVER
            self.tell(Expiring(deadlines.seconds_left))
        if deadlines.idle_ping is not None and now >= deadlines.idle_ping_at:
            self.send(deadlines.idle_ping.text)
            deadlines.put_off_idle_ping()


def goodbye_of(session: Session) -> Goodbye:
    """The close frame that ends a session's connection."""
    if session.close_received is not None:
        return Goodbye(close_reply(session.close_received), is_reply=True)
    if session.closed_with is not None:
        frame = close_frame(session.closed_with.code, session.closed_with.reason)
        return Goodbye(frame, is_reply=False)
    return Goodbye(b"", is_reply=False)


def close_untold(peers: Collection[Participant], untold: Struct) -> None:
    """End sessions whose dialect failed to encode an event; called in the `except` block.

    Without the event, their state of the room would be wrong; new sessions start afresh.
    """
    some = ", ".join(peer.id for peer in islice(peers, 3))
    logger.exception("cannot send %s to %d peers: %s", type(untold).__name__, len(peers), some)
    for peer in peers:
        peer.close(INTERNAL_ERROR)
