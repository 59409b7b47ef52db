"""WebSocket: frames and the handshake of RFC 6455, without I/O.

`websockets.server.ServerProtocol` does the handshake, unless it is an ordinary one. Frames are
parsed here, because they are most of the server's work: a masked 2 KB frame takes 0.6 us here, and
9 us in wsproto. Server frames are not masked, so a frame is made once and sent to many clients. No
extension is negotiated.
"""

import codecs
import logging
import re
import struct
from collections.abc import Sequence
from enum import IntEnum
from http import HTTPStatus
from typing import NamedTuple

from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.speedups import apply_mask
from websockets.typing import Subprotocol
from websockets.utils import accept_key

from trio_signal.errors import CloseCode, WebSocketError

#: The library logs each connection at level info; we log connections ourselves.
_logger = logging.getLogger("trio_signal.handshake")
_logger.setLevel(logging.WARNING)


class Opcode(IntEnum):
    """RFC 6455 section 5.2."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class Message(NamedTuple):
    """A whole message, or a control frame; text is valid UTF-8."""

    opcode: Opcode
    payload: bytes


_TEXT_HEAD = 0x80 | Opcode.TEXT
_UINT16 = struct.Struct("!H")
_UINT64 = struct.Struct("!Q")
#: The heads of longer frames: opcode, kind of length, length.
_HEAD16 = struct.Struct("!BBH")
_HEAD64 = struct.Struct("!BBQ")
_Utf8Decoder = codecs.getincrementaldecoder("utf-8")
_OPCODES = {int(opcode): opcode for opcode in Opcode}
#: A close frame's payload is at most 125 bytes, two of which are the code.
_MAX_REASON = 123


def text_frame(text: bytes) -> bytes:
    """A text frame, which can go to any number of clients."""
    size = len(text)
    if size < 126:
        return bytes((_TEXT_HEAD, size)) + text
    if size < 65536:
        return _HEAD16.pack(_TEXT_HEAD, 126, size) + text
    return _HEAD64.pack(_TEXT_HEAD, 127, size) + text


def text_of_frame(frame: bytes) -> bytes:
    """The text of a frame that `text_frame` made."""
    return frame[{126: 4, 127: 10}.get(frame[1], 2) :]


def control_frame(opcode: Opcode, payload: bytes = b"") -> bytes:
    """A ping, pong or close frame; its payload has at most 125 bytes."""
    return bytes((0x80 | opcode, len(payload))) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame; a reason that is too long is cut at a character."""
    cut = reason.encode()[:_MAX_REASON].decode(errors="ignore")
    return control_frame(Opcode.CLOSE, _UINT16.pack(code) + cut.encode())


def close_reply(payload: bytes) -> bytes:
    """The close frame that answers a client's close frame, with the same code."""
    return control_frame(Opcode.CLOSE, payload[:2])


def _check_close(payload: bytes) -> None:
    """Raise WebSocketError unless this is allowed in a close frame."""
    if not payload:
        return
    if len(payload) == 1:
        raise WebSocketError(CloseCode.PROTOCOL_ERROR, "Close code is incomplete")
    (code,) = _UINT16.unpack_from(payload)
    defined = 1000 <= code <= 1014 and code not in (1004, 1005, 1006)
    if not defined and not 3000 <= code <= 4999:
        raise WebSocketError(CloseCode.PROTOCOL_ERROR, "Invalid close code")
    try:
        payload[2:].decode()
    except UnicodeDecodeError:
        raise WebSocketError(CloseCode.INVALID_TEXT, "Close reason is not UTF-8") from None


class FrameParser:
    """Parses the messages of one client.

    Holds at most one message of `max_size` bytes, and the frame that is coming in.
    """

    __slots__ = (
        "_binary_is_text",
        "_buffer",
        "_decoder",
        "_fragments",
        "_fragments_opcode",
        "_fragments_size",
        "_max_size",
        "_wanted",
        "failure",
        "unfinished",
    )

    def __init__(self, max_size: int, *, binary_is_text: bool = False) -> None:
        self._max_size = max_size
        self._binary_is_text = binary_is_text
        #: The beginning of a frame, if there is one.
        self._buffer: bytearray | None = None
        #: How many bytes are needed before the next attempt to parse.
        self._wanted = 2
        #: The beginning of a message in fragments, if there is one. In one piece: as objects of
        #: their own, fragments of a byte would take fifty times their size.
        self._fragments: bytearray | None = None
        self._fragments_size = 0
        self._fragments_opcode: Opcode | None = None
        #: The number of frames in the last bytes that completed no message.
        self.unfinished = 0
        #: Created for the first fragmented message.
        self._decoder: codecs.IncrementalDecoder | None = None
        #: Set when the client violates the protocol or the size limit; nothing is parsed after it.
        self.failure: WebSocketError | None = None

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that these bytes complete. Does not block or raise.

        Check `failure` afterwards: the returned messages came before it.
        """
        self.unfinished = 0
        if self.failure is not None:
            return []
        if self._buffer is not None:
            self._buffer += data
            if len(self._buffer) < self._wanted:
                return []
            data = bytes(self._buffer)
            self._buffer = None
        messages: list[Message] = []
        try:
            position = self._parse(data, messages)
        except WebSocketError as error:
            self.failure = error
        else:
            if position < len(data):
                self._buffer = bytearray(data[position:])
        return messages

    def _parse(self, data: bytes, messages: list[Message]) -> int:
        """Append the complete messages in `data`; returns where the first partial frame begins."""
        position, end = 0, len(data)
        view = memoryview(data)
        while end - position >= 2:
            first, second = data[position], data[position + 1]
            size = second & 0x7F
            start = position + 6
            if size == 126:
                start = position + 8
            elif size == 127:
                start = position + 14
            if second < 0x80:
                raise WebSocketError(CloseCode.PROTOCOL_ERROR, "Frame is not masked")
            if first != _TEXT_HEAD or self._fragments_opcode is not None:  # most are whole texts
                self._check_head(first, size)
            if start > end:
                self._wanted = start - position
                return position
            if size == 126:
                (size,) = _UINT16.unpack_from(data, position + 2)
            elif size == 127:
                (size,) = _UINT64.unpack_from(data, position + 2)
            if size + self._fragments_size > self._max_size and first & 0x0F < Opcode.CLOSE:
                raise WebSocketError(CloseCode.TOO_BIG, "Message too big")
            stop = start + size
            if stop > end:
                self._wanted = stop - position
                return position
            payload = apply_mask(view[start:stop], data[start - 4 : start])
            if first == _TEXT_HEAD:
                if not payload.isascii():
                    _check_text(payload)
                messages.append(Message(Opcode.TEXT, payload))
            else:
                message = self._take(first, payload)
                if message is not None:
                    messages.append(message)
                    if message.opcode is Opcode.CLOSE:
                        return end  # bytes after a close frame are ignored
            position = stop
        self._wanted = 2
        return position

    def _check_head(self, first: int, size: int) -> None:
        """Raise WebSocketError for an invalid head, before the payload is read."""
        opcode = _OPCODES.get(first & 0x0F)
        if opcode is None or first & 0x70:
            raise WebSocketError(CloseCode.PROTOCOL_ERROR, "Unknown opcode or reserved bits")
        if opcode >= Opcode.CLOSE:
            if first < 0x80 or size > 125:
                raise WebSocketError(
                    CloseCode.PROTOCOL_ERROR, "Control frame is fragmented or too long"
                )
        elif (opcode is Opcode.CONTINUATION) is (self._fragments_opcode is None):
            raise WebSocketError(CloseCode.PROTOCOL_ERROR, "Fragment out of order")

    def _take(self, first: int, payload: bytes) -> Message | None:
        """A control frame, a binary message, or the last of a message's fragments."""
        opcode = _OPCODES[first & 0x0F]
        if opcode >= Opcode.CLOSE:
            if opcode is Opcode.CLOSE:
                _check_close(payload)
            return Message(opcode, payload)
        final = first >= 0x80
        if opcode is Opcode.BINARY and self._binary_is_text:
            opcode = Opcode.TEXT
            if final:
                _check_text(payload)
        if opcode is not Opcode.CONTINUATION:
            if final:
                return Message(opcode, payload)
            self._fragments_opcode = opcode
        return self._take_fragment(payload, final=final)

    def _take_fragment(self, payload: bytes, *, final: bool) -> Message | None:
        opcode = self._fragments_opcode
        assert opcode is not None  # noqa: S101  _check_head has seen to it
        if opcode is Opcode.TEXT:
            # Checked as it arrives, so that invalid text is refused at once.
            if self._decoder is None:
                self._decoder = _Utf8Decoder()
            try:
                self._decoder.decode(payload, final)
            except UnicodeDecodeError:
                raise WebSocketError(CloseCode.INVALID_TEXT, "Text is not UTF-8") from None
        if self._fragments is None:
            self._fragments = bytearray()
        self._fragments += payload
        self._fragments_size += len(payload)
        if not final:
            self.unfinished += 1
            return None
        message = Message(opcode, bytes(self._fragments))
        self._fragments, self._fragments_size = None, 0
        self._fragments_opcode = None
        self._decoder = None
        return message


def _check_text(payload: bytes) -> None:
    try:
        payload.decode()
    except UnicodeDecodeError:
        raise WebSocketError(CloseCode.INVALID_TEXT, "Text is not UTF-8") from None


# The handshake


def is_upgrade(head: bytes) -> bool:
    """Whether this request head asks for a WebSocket."""
    return _UPGRADE.search(head) is not None


_UPGRADE = re.compile(rb"\r?\nupgrade[ \t]*:[^\r\n]*websocket", re.IGNORECASE)


def _select_bearer(protocol: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Accept `bearer`, with which browsers send a token, and no other.

    A browser that offers subprotocols drops the connection unless one is chosen.
    """
    return Subprotocol("bearer") if "bearer" in offered else None


def _new_protocol() -> ServerProtocol:
    return ServerProtocol(
        extensions=None,
        subprotocols=[Subprotocol("bearer")],
        select_subprotocol=_select_bearer,
        logger=_logger,
    )


class Head(NamedTuple):
    """The parts of a request head that matter here."""

    #: The request target.
    path: str
    #: The values of each field, by its name in lower case.
    fields: dict[str, list[str]]

    def get_all(self, name: str) -> list[str]:
        """The values of the fields of this name."""
        return self.fields.get(name.lower(), [])

    def get_only(self, name: str) -> str | None:
        """The value of a field that came once."""
        values = self.get_all(name)
        return values[0] if len(values) == 1 else None


class Handshake:
    """One opening handshake, RFC 6455 section 4.2, for a complete head."""

    def __init__(self, head: bytes) -> None:
        """Parse `head`. Does not raise: a bad head leaves `request` None."""
        #: The library's request, if the request is unusual.
        self._unusual: tuple[ServerProtocol, Request] | None = None
        self.request = _read_ordinary(head)
        if self.request is None:
            self._unusual = _read(head)
            self.request = _as_head(self._unusual[1]) if self._unusual is not None else None
        if self.request is not None and self.request.path.startswith("//"):
            # `urlsplit` would take the first segment for a host.
            self.request = self.request._replace(path="/" + self.request.path.lstrip("/"))

    def accept(self, cookie: str | None = None) -> tuple[bool, bytes]:
        """Return whether the client is accepted, and the answer; `request` must not be None.

        `cookie` is a value of `Set-Cookie`.
        """
        if self._unusual is not None:
            protocol, request = self._unusual
            response = protocol.accept(request)
            if cookie is not None:
                response.headers["Set-Cookie"] = cookie
            return response.status_code == HTTPStatus.SWITCHING_PROTOCOLS, response.serialize()
        assert self.request is not None  # noqa: S101
        (key,) = self.request.fields["sec-websocket-key"]
        setting = b"" if cookie is None else b"Set-Cookie: %s\r\n" % cookie.encode("ascii")
        return True, _ACCEPTED % (accept_key(key).encode(), setting)


def _read(head: bytes) -> tuple[ServerProtocol, Request] | None:
    protocol = _new_protocol()
    protocol.receive_data(head)
    events = protocol.events_received()
    return (protocol, events[0]) if events and isinstance(events[0], Request) else None


def _as_head(request: Request) -> Head:
    fields: dict[str, list[str]] = {}
    for name, value in request.headers.raw_items():
        fields.setdefault(name.lower(), []).append(value)
    return Head(request.path, fields)


_ORDINARY = re.compile(
    r"GET (/[!-~]*) HTTP/1\.1\r\n((?:[A-Za-z0-9-]+: [!-~](?:[ -~]*[!-~])?\r\n){3,40})\r\n"
)
#: Maximum bytes of an ordinary head: no line in it can exceed the library's limit.
_MAX_ORDINARY = 4096
_KEY = re.compile(r"[A-Za-z0-9+/]{21}[AQgw]==")
_ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\n"
    b"Upgrade: websocket\r\n"
    b"Connection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %s\r\n%s\r\n"
)
_UNUSUAL = {"sec-websocket-protocol", "content-length", "transfer-encoding"}


def _read_ordinary(head: bytes) -> Head | None:
    """Parse an ordinary request; None if the library must parse it.

    Nearly all clients send ordinary requests: each field once, in plain characters, and only those
    that an upgrade needs. Parsing them here takes a tenth of the time.
    """
    if len(head) > _MAX_ORDINARY or not head.isascii():
        return None
    match = _ORDINARY.fullmatch(head.decode("ascii"))
    if match is None:
        return None
    target, lines = match.groups()
    listed = lines.split("\r\n")[:-1]
    known: dict[str, str] = {}
    for line in listed:
        name, _, value = line.partition(": ")
        known[name.lower()] = value
    if (
        len(known) < len(listed)  # a field came twice
        or known.get("upgrade", "").lower() != "websocket"
        or known.get("connection", "").lower() not in ("upgrade", "keep-alive, upgrade")
        or known.get("sec-websocket-version") != "13"
        or _KEY.fullmatch(known.get("sec-websocket-key", "")) is None
        or not _UNUSUAL.isdisjoint(known)
    ):
        return None
    return Head(target, {name: [value] for name, value in known.items()})
