"""One WebSocket of a client, on trio-websocket.

What is mended here: trio-websocket waits for ever when the server goes in the middle of the
handshake, and leaves the socket open when it is cancelled then.
"""

import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple, Self, cast
from urllib.parse import quote, urlsplit

import h11
import trio
from msgspec import Struct
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    wrap_client_stream,
)
from wsproto.utilities import ProtocolError

from trio_signal.client.errors import ClosedError, NotConnectedError
from trio_signal.dialects import mesh
from trio_signal.dialects.wire import Reader, UnreadableError
from trio_signal.errors import TrioSignalError

#: Enough for the snapshot of a very large room.
_MAX_MESSAGE = 64 * 1024 * 1024
#: Messages between trio-websocket's task and ours: a burst costs few task switches.
_QUEUE = 64
_SCHEMES = {"http": False, "ws": False, "https": True, "wss": True}

_reader = Reader(
    (
        *(mesh.AuthRequired, mesh.AuthSuccess, mesh.UsersInRoom, mesh.ActiveBroadcasts),
        *(mesh.Resumed, mesh.NotResumed, mesh.UserAway, mesh.UserBack),
        *(mesh.UserJoined, mesh.UserLeft, mesh.BroadcastStarted, mesh.BroadcastStopped),
        *(mesh.OfferFrom, mesh.AnswerFrom, mesh.IceCandidateFrom, mesh.MessageFrom),
        *(mesh.RoomLocked, mesh.TokenExpiring, mesh.TokenRenewed, mesh.Pong, mesh.Error),
    )
)


#: How the types begin of what is not counted: docs/protocols/mesh.md.
_UNCOUNTED = ("ping", "pong", "auth_", "token_", "resumed", "not_resumed")
#: A close frame that says goodbye (1000), masked with zeros: RFC 6455 sections 5.2 and 7.4.1.
_GOODBYE = b"\x88\x82\x00\x00\x00\x00\x03\xe8"


class Unknown(Struct, frozen=True):
    """A message that we cannot read: newer servers say more."""


class Received(NamedTuple):
    """A message from the server."""

    message: Struct
    #: How many bytes long it is, if it is one of those that are counted; else 0.
    counts: int


class Address(NamedTuple):
    """Where a room is."""

    host: str
    port: int
    secure: bool
    #: As the `Host` header has it.
    netloc: str
    path: str

    @classmethod
    def of_room(cls, url: str, room: str) -> Self:
        """The room's address at a server's: `https://signal.example.com`, also with a path.

        Raises ValueError if the URL is none that can be connected to.
        """
        if not room:
            raise ValueError("a room must have a name")
        parts = urlsplit(url)
        secure = _SCHEMES.get(parts.scheme)
        if secure is None or not parts.hostname or parts.port == 0 or not _is_name(parts.hostname):
            raise ValueError(f"{url!r} is not a server's address, such as http://127.0.0.1:8000")
        port = parts.port or (443 if secure else 80)
        netloc = parts.netloc.rpartition("@")[2]
        path = f"{parts.path.rstrip('/')}/ws/{quote(room, safe='')}"
        return cls(parts.hostname, port, secure, netloc, path)


def _is_name(host: str) -> bool:
    """Whether it can be looked up: each part has 1 to 63 characters (RFC 1035 section 2.3.4)."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


class _Wire(trio.abc.Stream):
    """A stream that knows when something came last, and complains if it ends too early."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream
        self._stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = stream
        #: When something came last; Trio's clock.
        self.heard = trio.current_time()
        #: Whether the WebSocket is open: from then on its end is told by trio-websocket.
        self.open = False

    async def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Speak TLS; raises NotConnectedError."""
        self._stream = trio.SSLStream(
            self._socket, context, server_hostname=host, https_compatible=True
        )
        try:
            await self._stream.do_handshake()
        except trio.BrokenResourceError as error:
            raise NotConnectedError(explain_tls(error.__cause__)) from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            self._check_open()
            raise

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError:
            self._check_open()
            raise
        if data:
            self.heard = trio.current_time()
        else:
            self._check_open()
        return data

    def _check_open(self) -> None:
        if not self.open:
            raise NotConnectedError("the server closed the connection before it answered")

    async def aclose(self) -> None:
        await self._stream.aclose()

    def close(self) -> None:
        """Close at once; does not block. Whoever waits for the stream gets an exception."""
        self._socket.socket.close()


class Connection:
    """A WebSocket of dialect `mesh`: structs in, structs out.

    Not safe to be cancelled while it sends: half a frame may be out. Then close it.
    """

    def __init__(self, wire: _Wire) -> None:
        """Take a wire; see `dial`."""
        self._wire = wire
        self._websocket: WebSocketConnection | None = None

    @classmethod
    async def dial(cls, address: Address) -> Self:
        """Connect to a server by TCP. The caller closes the connection, whatever comes next."""
        return cls(_Wire(await trio.open_tcp_stream(address.host, address.port)))

    async def open(
        self, nursery: trio.Nursery, address: Address, context: ssl.SSLContext | None
    ) -> None:
        """Do the handshakes. What is wrong later, on reading, is raised in the nursery."""
        if address.secure:
            await self._wire.secure(context or ssl.create_default_context(), address.host)
        self._websocket = await wrap_client_stream(
            nursery,
            cast(trio.SocketStream, self._wire),  # any stream will do
            address.netloc,
            address.path,
            message_queue_size=_QUEUE,
            max_message_size=_MAX_MESSAGE,
        )
        self._wire.open = True

    @property
    def heard(self) -> float:
        """When something came last from the server; Trio's clock."""
        return self._wire.heard

    async def send(self, message: str) -> None:
        """Send a message, as it is encoded; raises ClosedError."""
        assert self._websocket is not None  # noqa: S101  it is open
        try:
            await self._websocket.send_message(message)
        except ConnectionClosed as error:
            raise _closed(error) from None

    async def receive(self) -> Received:
        """The next message; raises ClosedError."""
        assert self._websocket is not None  # noqa: S101  it is open
        try:
            text = await self._websocket.get_message()
        except ConnectionClosed as error:
            raise _closed(error) from None
        try:
            message: Struct = _reader.read(text if isinstance(text, bytes) else text.encode())
        except UnreadableError as error:
            message, name = Unknown(), error.type or ""
        else:
            name = _reader.names[type(message)]
        return Received(message, 0 if name.startswith(_UNCOUNTED) else len(text))

    async def say_goodbye(self) -> None:
        """The closing handshake."""
        assert self._websocket is not None  # noqa: S101  it is open
        await self._websocket.aclose()

    async def drop(self) -> None:
        """Say goodbye when nobody reads any more, and wait until the server has heard it.

        Not if something is being sent. To close before it has heard may be to send a reset.
        """
        if self._wire.open:
            with suppress(OSError, trio.BusyResourceError, *_BROKEN):
                await self._wire.send_all(_GOODBYE)
                while await self._wire.receive_some():
                    pass

    def close(self) -> None:
        """Close at once; does not block."""
        self._wire.close()


def explain_tls(error: BaseException | None) -> str:
    """Why there is no TLS, in words."""
    match error:
        case ssl.SSLCertVerificationError(verify_message=words):
            return f"TLS: certificate verify failed: {words}"
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "RECORD_LAYER_FAILURE"):
            return "TLS: the server speaks http, not https"
        case ssl.SSLError(reason=str(word)):
            return f"TLS: {word.replace('_', ' ').lower()}"
        case _:
            return f"TLS: {error or 'no handshake'}"


def _closed(closed: ConnectionClosed) -> ClosedError:
    if closed.reason is None:
        return ClosedError(1006, "")
    return ClosedError(closed.reason.code, closed.reason.reason or "")


_BROKEN = (trio.BrokenResourceError, trio.ClosedResourceError)

#: How a connection fails, apart from bugs.
FAILURES = (
    ClosedError,
    NotConnectedError,
    OSError,
    trio.TooSlowError,
    *_BROKEN,
    HandshakeError,
    ConnectionClosed,
    ProtocolError,
    # trio-websocket answers nonsense in a way that h11 does not let a client answer.
    h11.ProtocolError,
)


def explain(errors: BaseExceptionGroup[Exception]) -> TrioSignalError:
    """The one of these failures that says most, in our words."""
    leaves = list(_leaves(errors))
    for error in leaves:
        if isinstance(error, ClosedError):
            return error
    return _explain(leaves[0])


def _leaves(group: BaseExceptionGroup[Exception]) -> Iterable[Exception]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _explain(error: Exception) -> TrioSignalError:
    match error:
        case NotConnectedError():
            return error
        case ConnectionRejected():
            body = (error.body or b"").decode("utf-8", "replace").strip()
            reason = f"the server refused: {error.status_code} {body[:200]}".rstrip()
            return NotConnectedError(reason, error.status_code)
        case ConnectionClosed():
            return _closed(error)
        case OSError(strerror=str(words)):
            return NotConnectedError(words)
        case trio.TooSlowError():
            return NotConnectedError("the server took too long")
        case _:
            return NotConnectedError(str(error) or type(error).__name__)
