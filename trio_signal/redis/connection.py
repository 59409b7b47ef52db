"""One connection to a Redis: opening it, and carrying requests and replies.

Redis answers the commands of a connection in order, so many tasks can share one: each request goes
to the end of a queue, and each reply belongs to the request at its head. This works only if no
reply is skipped. So a cancelled request keeps its place, and an overdue reply ends the connection:
nobody could tell any more which reply belongs to which request.

The protocol is RESP3, which tells replies from published messages by their type.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import hiredis
import trio
from redis.connection import DefaultParser
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004
    DataError,
    InvalidResponse,
    MasterDownError,
    MovedError,
    NoPermissionError,
    ReadOnlyError,
    ResponseError,
)

#: One argument of a command.
Argument: TypeAlias = str | bytes | memoryview | int | float

_INCOMPLETE = object()
#: The other side does not speak the protocol.
NOT_REDIS = (hiredis.HiredisError, InvalidResponse)
#: Errors of a server that is not the primary, or not ready; another server may be.
_WRONG_SERVER = frozenset(
    {
        *(AskError, BusyLoadingError, ClusterDownError, MasterDownError, MovedError),
        ReadOnlyError,
    }
)
#: How errors begin that end by themselves: a script blocks the server, or its disk cannot be
#: written. MISCONF answers PING too.
_PASSING = ("BUSY ", "MISCONF ")
#: Pushes that answer a request; all others are messages.
_ACKNOWLEDGEMENTS = frozenset({b"subscribe", b"unsubscribe"})


class NotConnectedError(ConnectionError):
    """There is no connection. The command was not sent: it did not run."""


class OutcomeUnknownError(ConnectionError):
    """The connection was lost after the command was sent: it may have run, or not."""


class ConfigurationError(ConnectionError):
    """The server refuses us, or we refuse it, until somebody changes a setting.

    For example a wrong password, an untrusted certificate, or a database that does not exist.
    """


class LostError(Exception):
    """The connection cannot be used any more; the text says why."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Time limits of a connection, in seconds."""

    #: For TCP, TLS and HELLO together.
    connect: float
    #: For a reply.
    reply: float
    #: How long the server may be silent before it is probed.
    probe: float


def pack(args: tuple[Argument, ...]) -> bytes:
    """Encode a command; raises DataError for what is not an Argument."""
    # The command API writes `CLIENT KILL` as one word.
    if isinstance(args[0], str) and " " in args[0]:
        args = (*args[0].split(), *args[1:])
    try:
        packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]
    except TypeError:
        kinds = ", ".join(type(arg).__name__ for arg in args[1:])
        raise DataError(f"{args[0]!r} cannot combine: {kinds}") from None
    return packed


def _error_reply(text: str) -> Exception:
    """The exception for an error reply, of redis-py's kinds."""
    if text.startswith("ERR Error running script") and "-READONLY " in text:
        return ReadOnlyError(text)  # as Redis 6 has it
    try:
        error: Exception = DefaultParser.parse_error(text)  # type: ignore[no-untyped-call]
    except ValueError:
        # A script may say `ASK` without meaning a redirection in a cluster.
        return ResponseError(text)
    return error


def is_passing(reply: object) -> bool:
    """Whether the server may accept the same command later, without a changed setting of ours."""
    return isinstance(reply, ResponseError) and str(reply).startswith(_PASSING)


class Request:
    """A command in flight. This base class ignores its reply, as a probe does."""

    __slots__ = ("cancelled", "data", "since")

    def __init__(self, *args: Argument) -> None:
        """Encode the command; raises DataError."""
        self.data = pack(args)
        #: When the request was written to the socket.
        self.since = 0.0
        #: Nobody waits for the reply. If the request was not sent yet, it will not be.
        self.cancelled = False

    def answer(self, reply: object) -> None:
        """Process the reply, or the exception that says why there is none.

        Called once, from the connection's own task; must not block.
        """


class Connection:
    """A connection after HELLO. `run` sends what `send` queues and reads replies; `close` ends it.

    `pushed` receives the server's pushes, and must not block. If `patient`, any data from the
    server counts as a sign of life, even while a reply is overdue.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        sock: trio.socket.SocketType,
        timing: Timing,
        *,
        pushed: Callable[[list[bytes]], None],
        patient: bool,
    ) -> None:
        """Use a stream and the socket below it; `close` closes both."""
        self._stream = stream
        self._socket = sock
        self._timing = timing
        self._pushed = pushed
        self._patient = patient
        # The reader returns error replies as values.
        self._reader = hiredis.Reader(
            replyError=_error_reply,
            notEnoughData=_INCOMPLETE,
        )
        self._unsent: deque[Request] = deque()
        self._in_flight: deque[Request] = deque()
        self._filled = trio.Event()
        #: Bytes not yet written to the socket.
        self.waiting_bytes = 0
        self._heard = trio.current_time()
        self._closed_because: str | None = None
        #: Cancelled to end `run` early.
        self._scope = trio.CancelScope()
        self._ended_because: str | None = None
        #: The server has said that it is the wrong one.
        self.is_wrong = False
        #: The server's id of the connection; ids start again when the server restarts.
        self.id: int | None = None
        #: The server's mode: `cluster`, `sentinel` or `standalone`.
        self.mode = ""
        #: Seconds from writing the last request to reading its reply.
        self.round_trip: float | None = None
        self.sent = 0

    @property
    def in_flight(self) -> int:
        """How many requests are unanswered."""
        return len(self._unsent) + len(self._in_flight)

    @property
    def unanswered(self) -> float:
        """Seconds since the oldest unanswered request was written to the socket."""
        return trio.current_time() - self._in_flight[0].since if self._in_flight else 0.0

    def send(self, request: Request) -> None:
        """Queue a request. Does not block."""
        if self._closed_because is not None:
            request.answer(NotConnectedError(self._closed_because))
            return
        self._unsent.append(request)
        self.waiting_bytes += len(request.data)
        self._filled.set()

    async def greet(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """Send the first commands, before `run`; return their replies, including errors.

        Replies after an error are not awaited, as the server may close the connection, except after
        an error about a missing permission.
        """
        await self._stream.send_all(b"".join(map(pack, commands)))
        replies: list[Any] = []
        for _ in commands:
            while (reply := self._reader.gets()) is _INCOMPLETE:
                self._feed(await self._stream.receive_some())
            replies.append(reply)
            if isinstance(reply, Exception) and not isinstance(reply, NoPermissionError):
                break
        return replies

    async def ask(self, *commands: tuple[Argument, ...]) -> list[Any]:
        """Like `greet`, within the time for a reply; raises NotConnectedError if there is none."""
        try:
            with trio.fail_after(self._timing.reply):
                return await self.greet(*commands)
        except (LostError, trio.TooSlowError, trio.BrokenResourceError, *NOT_REDIS) as error:
            raise NotConnectedError(f"no answer: {error}") from error

    async def run(self) -> str:
        """Send requests and read replies until the connection is lost; return why."""
        reasons: list[str] = []
        with self._scope:
            try:
                async with trio.open_nursery() as nursery:
                    for task in (self._read, self._write, self._watch):
                        nursery.start_soon(task)
            except* (LostError, trio.BrokenResourceError, *NOT_REDIS) as lost:
                reasons += [str(error) or str(error.__cause__) for error in lost.exceptions]
        return self._ended_because or reasons[0]

    def end(self, because: str) -> None:
        """Make `run` return soon. Does not block."""
        self._ended_because = because
        self._scope.cancel(reason=because)

    def close(self, because: str = "closed") -> None:
        """Close the socket, and answer all pending requests with an exception. Does not block."""
        if self._closed_because is not None:
            return
        self._closed_because = because
        self._socket.close()
        for request in self._in_flight:
            request.answer(OutcomeUnknownError(because))
        for request in self._unsent:
            request.answer(NotConnectedError(because))
        self._in_flight.clear()
        self._unsent.clear()

    async def _write(self) -> NoReturn:
        while True:
            await self._filled.wait()
            self._filled = trio.Event()
            if data := self._take_unsent():
                await self._stream.send_all(data)
                self.waiting_bytes -= len(data)

    def _take_unsent(self) -> bytes:
        """Take all queued requests in one piece; from here on their outcome is unknown."""
        now = trio.current_time()
        data = []
        for request in self._unsent:
            if request.cancelled:
                self.waiting_bytes -= len(request.data)
                continue
            data.append(request.data)
            request.since, request.data = now, b""
            self._in_flight.append(request)
        self._unsent.clear()
        self.sent += len(data)
        return b"".join(data)

    async def _read(self) -> NoReturn:
        while True:
            self._feed(await self._stream.receive_some())
            self._take_replies()

    def _feed(self, data: bytes | bytearray) -> None:
        if not data:
            raise LostError("the server closed the connection")
        self._heard = trio.current_time()
        # Our streams return bytes, never a bytearray.
        self._reader.feed(data)  # type: ignore[arg-type]

    def _take_replies(self) -> None:
        first = self._in_flight[0] if self._in_flight else None
        reader, in_flight = self._reader, self._in_flight
        wrong: Exception | None = None
        while (reply := reader.gets()) is not _INCOMPLETE:
            if type(reply) is hiredis.PushNotification and reply[0] not in _ACKNOWLEDGEMENTS:
                self._pushed(reply)
            elif in_flight:
                in_flight.popleft().answer(reply)
                if type(reply) in _WRONG_SERVER:
                    wrong = reply
            else:
                raise LostError(f"unexpected reply: {reply!r:.80}")
        if first is not None and (not in_flight or in_flight[0] is not first):
            self.round_trip = self._heard - first.since
        if wrong is not None:
            self.is_wrong = True
            raise LostError(str(wrong))

    async def _watch(self) -> NoReturn:
        """Give up when a reply is overdue; probe the server when it is silent."""
        while True:
            if self._overdue():
                # If this process was stalled, first read what has arrived meanwhile.
                await trio.lowlevel.checkpoint()
                if self._overdue():
                    raise LostError(f"no reply within {self._timing.reply:g} s")
            elif not self.in_flight and trio.current_time() >= self._heard + self._timing.probe:
                self.send(Request("PING"))
            await trio.sleep_until(self._next_look())

    def _reply_due(self) -> float | None:
        if not self._in_flight:
            return None
        since = self._in_flight[0].since
        return (max(since, self._heard) if self._patient else since) + self._timing.reply

    def _overdue(self) -> bool:
        due = self._reply_due()
        return due is not None and trio.current_time() >= due

    def _next_look(self) -> float:
        soon = trio.current_time() + min(self._timing.probe, self._timing.reply)
        due = self._reply_due()
        return soon if due is None else due
