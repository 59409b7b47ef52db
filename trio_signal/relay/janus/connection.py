"""One WebSocket to a Janus and its session: requests, answers, handles.

Janus answers each request by its transaction: with `success` or `error`, or with `ack` and a later
`event`. Its other messages name the handle that they concern. A session and its handles end with
the WebSocket, because nobody claims them.

Two defects of trio-websocket are handled here: it waits for ever if the server disappears during
the handshake, and it leaves the socket open if it is cancelled then.
"""

import logging
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing, suppress
from itertools import count
from typing import Any, Protocol, cast

import h11
import msgspec
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)
from wsproto.utilities import ProtocolError

from trio_signal.relay import DEADLINE, RelayError
from trio_signal.relay.janus import words
from trio_signal.relay.janus.words import Address, Message

logger = logging.getLogger(__name__)

#: Takes the answer to a request, or None if there will be none.
Take = Callable[[Message | None], None]
#: Seconds of silence after which Janus is probed.
QUIET = 1.0
#: Seconds without a request of ours after which we send one: Janus drops a session after 60.
KEEPALIVE = 20.0
#: Seconds between two checks for silence.
_LOOK = 0.25
#: Seconds for the last requests, and between two checks for their answers.
_GOODBYE, _POLLING = 1.0, 0.01
#: Bytes that may be queued: Janus reads at once, or has stopped.
_MAX_UNSENT = 4 * 1024 * 1024
#: Largest message from Janus: a list of thousands of rooms fits.
_MAX_MESSAGE = 16 * 1024 * 1024
#: How many candidates may wait for a handle's id: more than any browser has.
_MAX_EARLY = 100


class RefusedError(RelayError):
    """Janus or its plugin refused a request."""

    def __init__(self, code: int, reason: str) -> None:
        """Take Janus's error code and text."""
        super().__init__(f"the media server refuses: {reason} ({code})")
        self.code = code


class Owner(Protocol):
    """The owner of a handle."""

    def heard(self, message: Message) -> None:
        """Process an unasked message about the handle. Must not block."""

    def lost(self, reason: str) -> None:
        """The handle is gone, with all others of the session. Must not block."""


class Handle:
    """A handle of the VideoRoom plugin: at most one peer connection."""

    def __init__(self, session: "Session", owner: Owner) -> None:
        """A handle that `attach` creates at Janus."""
        self._session = session
        self._owner = owner
        self._id: int | None = None
        self._closed = False
        self._early: list[dict[str, Any]] = []
        self._attached = trio.Event()
        self._refusal: RelayError | None = None

    async def attach(self) -> None:
        """Create the handle at Janus, if necessary. Blocks for its answer; raises RelayError.

        If the answer comes when nobody waits any more or the handle is closed, the handle is
        detached.
        """
        if self._id is not None:
            return
        self._attached = trio.Event()
        self._session.call(self._take, {"janus": "attach", "plugin": words.PLUGIN})
        await self._attached.wait()
        if self._refusal is not None:
            raise self._refusal

    def _take(self, answer: Message | None) -> None:
        if answer is None:
            self._refusal = RelayError(self._session.ended or "the connection is lost")
        elif answer.error is not None:
            self._refusal = RefusedError(answer.error.code, answer.error.reason)
        elif answer.data is None:
            self._refusal = RelayError("the media server's answer names no handle")
        elif self._closed:
            self._session.tell({"janus": "detach", "handle_id": answer.data.id})
        else:
            self._id = answer.data.id
            self._session.handles[self._id] = self
            for value in self._early:
                self.trickle(value)
            self._early.clear()
        self._attached.set()

    async def ask(self, body: dict[str, Any], offer: str = "", answer: str = "") -> Message:
        """Send a request to the plugin, optionally with a description; raises RelayError."""
        request = {"janus": "message", "handle_id": self._id, "body": body}
        if offer or answer:
            request["jsep"] = {"type": "offer" if offer else "answer", "sdp": offer or answer}
        return await self._session.ask(request)

    def tell(self, body: dict[str, Any]) -> None:
        """Send a request to the plugin and ignore the answer. Does not block."""
        request = {"janus": "message", "handle_id": self._id, "body": body}
        self._session.call(lambda _: None, request)

    def trickle(self, candidate: dict[str, Any]) -> None:
        """Pass on a candidate, even before the handle exists. Does not block."""
        if self._id is not None:
            self._session.tell({"janus": "trickle", "handle_id": self._id, "candidate": candidate})
        elif len(self._early) < _MAX_EARLY:
            self._early.append(candidate)

    def close(self) -> None:
        """Detach the handle. Does not block; safe to call again."""
        if not self._closed:
            self._closed = True
            if self._id is not None and self._id in self._session.handles:
                del self._session.handles[self._id]
                self._session.tell({"janus": "detach", "handle_id": self._id})

    def heard(self, message: Message) -> None:
        """Process a message of Janus about the handle."""
        self._owner.heard(message)

    def lost(self, reason: str) -> None:
        """The session is over."""
        self._owner.lost(reason)


class Session:
    """A session at a Janus: `run` opens it and keeps it until it is lost."""

    def __init__(
        self, address: Address, *, last_words: Callable[[], Iterable[dict[str, Any]]] = tuple
    ) -> None:
        """Make a closed session. `last_words` are requests to send before it closes on purpose."""
        self._address = address
        self._last_words = last_words
        self._id: int | None = None
        #: The version that Janus reports.
        self.version = ""
        self._numbers = count(1)
        self._waiting: dict[str, Take] = {}
        self.handles: dict[int, Handle] = {}
        #: A handle for requests that concern no leg, such as creating and removing rooms.
        self.control = Handle(self, self)
        self._unsent: deque[str] = deque()
        self._unsent_bytes = 0
        self._filled = trio.Event()
        self._heard_at = self._told_at = 0.0
        self._scope = trio.CancelScope(shield=True)
        #: Why the session is over; None while it is not.
        self.ended: str | None = None
        self._nursery: trio.Nursery | None = None

    async def run(self, opened: Callable[[], None]) -> str:
        """Open the session, call `opened`, and keep it until it is lost; return the reason.

        Opening takes `DEADLINE` seconds at most. Raises nothing but bugs. On cancellation, Janus is
        informed.
        """
        over = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._carry, opened, over)
            try:
                await over.wait()
            except trio.Cancelled:
                with trio.move_on_after(_GOODBYE, shield=True):
                    await self._say_goodbye()
                self.end("closed")
                raise
        return self.ended or "closed"

    async def _carry(self, opened: Callable[[], None], over: trio.Event) -> None:
        """Open the session, and keep it until `end` is called."""
        reasons = []
        with self._scope:  # shielded: the last requests need the connection
            try:
                await self._open(opened)
            except* FAILURES as failures:
                reasons += [_explain(error) for error in _leaves(failures)]
        self.end(reasons[0] if reasons else "closed")
        over.set()

    async def _open(self, opened: Callable[[], None]) -> None:
        deadline = trio.current_time() + DEADLINE
        with trio.fail_at(deadline):
            stream = await trio.open_tcp_stream(self._address.host, self._address.port)
        with closing(stream.socket):
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                with trio.fail_at(deadline):
                    websocket = await self._shake_hands(nursery, stream)
                    nursery.start_soon(self._read, websocket)
                    nursery.start_soon(self._write, websocket)
                    self.version = (await self.ask({"janus": "info"})).version_string
                    made = await self.ask({"janus": "create"})
                    self._id = made.data.id if made.data else None
                    await self.control.attach()
                opened()
                nursery.start_soon(self._watch)

    async def _say_goodbye(self) -> None:
        """Remove everything that would stay at Janus for ever; handles end with the session.

        Janus ends a session at once, even if it has not come to earlier requests to its plugin.
        """
        if self._id is not None and self.ended is None:
            # Legs that end as well are closed first: Janus 1.1.2 may crash if a handle is detached
            # while its room is removed.
            await trio.sleep(_POLLING)
            for body in self._last_words():
                self.control.tell(body)
            while self._waiting:  # noqa: ASYNC110  soon over
                await trio.sleep(_POLLING)
            with suppress(RelayError):
                await self.ask({"janus": "destroy"})

    async def _shake_hands(
        self, nursery: trio.Nursery, stream: trio.SocketStream
    ) -> WebSocketConnection:
        secured: trio.abc.Stream = stream
        if self._address.secure:
            context = ssl.create_default_context()
            tls = trio.SSLStream(
                stream, context, server_hostname=self._address.host, https_compatible=True
            )
            await tls.do_handshake()
            secured = tls
        return await wrap_client_stream(
            nursery,
            cast(trio.SocketStream, secured),  # any stream will do
            self._address.netloc,
            self._address.path,
            subprotocols=["janus-protocol"],
            max_message_size=_MAX_MESSAGE,
        )

    def start_soon(self, task: Callable[..., Any], *args: object) -> None:
        """Run a task while the session lasts; not at all if it is over."""
        if self._nursery is not None and self.ended is None:
            self._nursery.start_soon(task, *args)

    def end(self, reason: str) -> None:
        """End the session, and notify all handles and waiting requests. Does not block."""
        if self.ended is not None:
            return
        self.ended = reason
        self._scope.cancel()
        waiting, self._waiting = self._waiting, {}
        for take in waiting.values():
            take(None)
        handles, self.handles = self.handles, {}
        for handle in handles.values():
            handle.lost(reason)

    # Requests

    async def ask(self, request: dict[str, Any]) -> Message:
        """Send a request, and wait for its answer; raises RelayError.

        Waits while there is a connection: the caller sets a deadline. When the caller stops
        waiting, the request is forgotten: Janus answers none for a handle that is detached before.
        """
        if self.ended is not None:
            raise RelayError(self.ended)
        answered, answers = trio.Event(), list[Message | None]()

        def take(answer: Message | None) -> None:
            answers.append(answer)
            answered.set()

        with ExitStack() as forgotten:
            forgotten.callback(self._waiting.pop, self._post(request, take), None)
            await answered.wait()
        (answer,) = answers
        if answer is None:
            raise RelayError(self.ended or "the connection is lost")
        if answer.error is not None:
            raise RefusedError(answer.error.code, answer.error.reason)
        if answer.room.error_code is not None:
            raise RefusedError(answer.room.error_code, answer.room.error)
        return answer

    def call(self, take: Take, request: dict[str, Any]) -> None:
        """Send a request; `take` receives the answer, or None if there will be none."""
        if self.ended is not None:
            take(None)
        else:
            self._post(request, take)

    def tell(self, request: dict[str, Any]) -> None:
        """Send a request and ignore the answer; does nothing if the session is over."""
        if self.ended is None:
            self._post(request)

    def _post(self, request: dict[str, Any], take: Take | None = None) -> str:
        """Queue a request; return its transaction."""
        self._told_at = trio.current_time()
        transaction = str(next(self._numbers))
        text = self._encode(request, transaction)
        if take is not None:
            self._waiting[transaction] = take
        self._unsent.append(text)
        self._unsent_bytes += len(text)
        self._filled.set()
        if self._unsent_bytes > _MAX_UNSENT:
            self.end("the media server does not read its messages")
        return transaction

    def _encode(self, request: dict[str, Any], transaction: str) -> str:
        request = request | {"transaction": transaction}
        if self._id is not None:
            request["session_id"] = self._id
        if self._address.secret:
            request["apisecret"] = self._address.secret
        try:
            return msgspec.json.encode(request).decode()
        except UnicodeEncodeError:
            raise RelayError("the description is not valid text") from None

    # Its tasks

    async def _write(self, websocket: WebSocketConnection) -> None:
        while True:
            await self._filled.wait()
            self._filled = trio.Event()
            while self._unsent:
                text = self._unsent.popleft()
                self._unsent_bytes -= len(text)
                await websocket.send_message(text)

    async def _read(self, websocket: WebSocketConnection) -> None:
        while True:
            text = await websocket.get_message()
            self._heard_at = trio.current_time()
            message = words.read(text)
            if message is None:
                logger.debug("%s: unreadable: %.200r", self._address.name, text)
            else:
                self._hear(message)

    def _hear(self, message: Message) -> None:
        """Pass a message to its receiver, if there is one."""
        if message.janus == "ack":  # the answer comes later
            return
        if message.janus == "timeout" and message.session_id == self._id:
            self.end("the media server has ended the session")
        elif message.error is not None and message.error.code == words.NO_SESSION:
            self.end("the media server does not know the session any more")
        elif take := self._waiting.pop(message.transaction or "", None):
            take(message)
        elif message.sender is not None and (handle := self.handles.get(message.sender)):
            handle.heard(message)

    async def _watch(self) -> None:
        """Probe Janus when it is silent, and give up when it does not answer."""
        asked: float | None = None
        while True:
            before = trio.current_time()
            await trio.sleep(_LOOK)
            now = trio.current_time()
            if asked is not None and self._heard_at > asked:
                asked = None
            if asked is not None and now - before > 2 * _LOOK:
                asked = now  # this task was late, not Janus
            is_due = now - self._heard_at >= QUIET or now - self._told_at >= KEEPALIVE
            if asked is None and is_due:
                asked = now
                self.tell({"janus": "keepalive"})
            if asked is not None and now - asked >= DEADLINE:
                self.end(f"the media server was silent for {DEADLINE:g} s")

    # As the owner of `control`

    def heard(self, message: Message) -> None:
        """End if Janus has removed `control`: nothing could be created any more."""
        if message.janus == "detached":
            self.end("the media server has removed the handle")

    def lost(self, reason: str) -> None:
        """Do nothing: the session ends by itself."""


#: How a connection fails, apart from bugs.
FAILURES = (
    *(RelayError, OSError, trio.TooSlowError),
    *(trio.BrokenResourceError, trio.ClosedResourceError),
    *(HandshakeError, ConnectionClosed, ProtocolError),
    h11.ProtocolError,
)


def _leaves(group: BaseExceptionGroup[Any]) -> Iterable[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _explain(error: BaseException) -> str:
    """Why there is no connection, in words."""
    match error:
        case RefusedError(code=words.UNAUTHORIZED):
            return "the media server refuses the secret: TRIO_SIGNAL_RELAY_TOKEN is its api_secret"
        case RefusedError(code=words.NO_PLUGIN):
            return "this Janus has no VideoRoom plugin"
        case trio.TooSlowError():
            return f"the media server has not answered within {DEADLINE:g} s"
        case ConnectionClosed() | trio.BrokenResourceError(__cause__=None):
            return "the media server has closed the connection"
        case trio.BrokenResourceError(__cause__=ssl.SSLError() as cause):
            return f"TLS: {getattr(cause, 'verify_message', None) or cause.reason or cause}"
        case ConnectionRejected(status_code=status):
            return f"the media server refuses a WebSocket: {status}"
        case OSError(strerror=str(text)):
            return f"cannot connect: {text}"
        case _:
            return str(error) or type(error).__name__
