"""One WebSocket of a client, on trio-websocket.

It fixes two defects: trio-websocket waits for ever if the server disappears during the handshake,
and leaves the socket open if it is cancelled then.
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

#: Largest message: the snapshot of a very large room fits.
_MAX_MESSAGE = 64 * 1024 * 1024
#: Messages buffered between trio-websocket's task and ours, so that a burst costs few task
#: switches.
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


#: Types, or their prefixes, of messages that are not counted: docs/protocols/mesh.md.
_UNCOUNTED = ("ping", "pong", "auth_", "token_", "resumed", "not_resumed")
#: A close frame with code 1000, masked with zeros: RFC 6455 sections 5.2 and 7.4.1.
_GOODBYE = b"\x88\x82\x00\x00\x00\x00\x03\xe8"


class Unknown(Struct, frozen=True):
    """A message of an unknown type; newer servers may send more types."""


class Received(NamedTuple):
    """A message from the server."""

    message: Struct
    #: Its length in bytes if the message is counted, else 0.
    counts: int


class Address(NamedTuple):
    """The address of a room."""

    host: str
    port: int
    secure: bool
    #: Host and port, for the `Host` header.
    netloc: str
    path: str

    @classmethod
    def of_room(cls, url: str, room: str) -> Self:
        """Make a room's address from the server's URL, such as `https://signal.example.com/path`.

        Raises ValueError if no connection can be made to the URL.
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
    """Whether a host name is valid: each part has 1 to 63 characters (RFC 1035 section 2.3.4)."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


class _Wire(trio.abc.Stream):
    """A stream that records when data last came, and raises if it ends before the handshake."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = stream
        self._stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = stream
        #: When data last came (Trio's clock).
        self.heard = trio.current_time()
        #: Whether the WebSocket is open: from then on, trio-websocket reports its end.
        self.open = False

    async def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Start TLS; raises NotConnectedError."""
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
        """Close at once; does not block. Waiting tasks get an exception."""
        self._socket.socket.close()


class Connection:
    """A WebSocket of the dialect `mesh`: structs in, texts out.

    If a send is cancelled, half a frame may have been sent: close the connection then.
    """

    def __init__(self, wire: _Wire) -> None:
        """Use a wire; see `dial`."""
        self._wire = wire
        self._websocket: WebSocketConnection | None = None

    @classmethod
    async def dial(cls, address: Address) -> Self:
        """Connect to a server over TCP. The caller closes the connection, whatever happens next."""
        return cls(_Wire(await trio.open_tcp_stream(address.host, address.port)))

    async def open(
        self, nursery: trio.Nursery, address: Address, context: ssl.SSLContext | None
    ) -> None:
        """Do the handshakes. Later read errors are raised in the nursery."""
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
        """When data last came from the server (Trio's clock)."""
        return self._wire.heard

    async def send(self, message: str) -> None:
        """Send an encoded message; raises ClosedError."""
        assert self._websocket is not None  # noqa: S101  it is open
        try:
            await self._websocket.send_message(message)
        except ConnectionClosed as error:
            raise _closed(error) from None

    async def receive(self) -> Received:
        """Return the next message; raises ClosedError."""
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
        """Do the closing handshake."""
        assert self._websocket is not None  # noqa: S101  it is open
        await self._websocket.aclose()

    async def drop(self) -> None:
        """Close when nobody reads any more, and wait until the server has read the close frame.

        Does nothing while something is being sent. Closing the socket earlier may send a reset.
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
    """Why TLS failed, in words."""
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
    # trio-websocket answers invalid responses in a way that h11 refuses.
    h11.ProtocolError,
)


def explain(errors: BaseExceptionGroup[Exception]) -> TrioSignalError:
    """Choose the most specific of these failures, and turn it into our exception."""
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
