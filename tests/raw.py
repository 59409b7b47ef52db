"""A hand-written WebSocket client, for tests in which the bytes matter.

It uses none of the server's code, and does nothing on its own: it answers no ping and no close
frame, and reads only when asked.
"""

import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self

import trio

from tests.clients import PATIENCE

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

#: RFC 6455 section 1.3 has this key and its answer.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
MASK = b"\x0a\xb1\x5f\xc7"


def masked(payload: bytes, mask: bytes = MASK) -> bytes:
    """RFC 6455 section 5.3; masking twice restores the payload."""
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(size)


def client_frame(
    opcode: int, payload: bytes = b"", *, final: bool = True, mask: bytes = MASK
) -> bytes:
    """A frame as a client sends it."""
    size = len(payload)
    if size < 126:
        length = bytes((0x80 | size,))
    elif size < 65536:
        length = bytes((0x80 | 126,)) + size.to_bytes(2)
    else:
        length = bytes((0x80 | 127,)) + size.to_bytes(8)
    return bytes((final << 7 | opcode,)) + length + mask + masked(payload, mask)


def client_text(message: Mapping[str, Any] | str) -> bytes:
    """A message, or any text, as a frame."""
    text = message if isinstance(message, str) else json.dumps(message)
    return client_frame(TEXT, text.encode())


def client_close(code: int, reason: str = "") -> bytes:
    return client_frame(CLOSE, code.to_bytes(2) + reason.encode())


def upgrade_head(path: str, **headers: str | None) -> bytes:
    """An opening handshake; `Origin="..."` adds a header, None leaves one out."""
    fields = {
        "Host": "localhost",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = [f"{name}: {value}\r\n" for name, value in fields.items() if value is not None]
    return f"GET {path} HTTP/1.1\r\n{''.join(lines)}\r\n".encode("latin-1")


class Frame(NamedTuple):
    """A frame from the server, which never fragments."""

    opcode: int
    payload: bytes

    @property
    def message(self) -> dict[str, Any]:
        assert self.opcode == TEXT, self
        message = json.loads(self.payload)
        assert isinstance(message, dict)
        return message

    @property
    def close_code(self) -> int:
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2])

    @property
    def close_reason(self) -> str:
        assert self.opcode == CLOSE, self
        return self.payload[2:].decode()


def split_frame(data: bytes) -> tuple[Frame, bytes] | None:
    """The first server frame in `data` and the rest; None if the frame is incomplete."""
    if len(data) < 2:
        return None
    first, size = data[0], data[1]
    assert first & 0xF0 == 0x80, f"a fragment, or reserved bits: {data[:20]!r}"
    assert first & 0x0F in (TEXT, BINARY, CLOSE, PING, PONG), f"unknown opcode: {data[:20]!r}"
    assert size < 128, f"the server must not mask: {data[:20]!r}"
    start = 2
    if size >= 126:
        start = 4 if size == 126 else 10
        if len(data) < start:
            return None
        size = int.from_bytes(data[2:start])
    if len(data) < start + size:
        return None
    return Frame(first & 0x0F, data[start : start + size]), data[start + size :]


def split_frames(data: bytes) -> tuple[list[Frame], bytes]:
    """All complete server frames in `data`, and the rest."""
    frames = []
    while (found := split_frame(data)) is not None:
        frame, data = found
        frames.append(frame)
    return frames, data


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


def parse_answer(data: bytes) -> Answer:
    head, found, body = data.partition(b"\r\n\r\n")
    assert found, f"incomplete head: {data!r}"
    status_line, *lines = head.decode("latin-1").split("\r\n")
    version, status, _ = status_line.split(" ", 2)
    assert version == "HTTP/1.1"
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Answer(int(status), headers, body)


class RawClient:
    """One socket; `buffer` holds what was received but not yet asked for."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""

    async def send(self, *frames: bytes) -> None:
        with trio.fail_after(PATIENCE):
            await self.stream.send_all(b"".join(frames))

    def send_nowait(self, *frames: bytes) -> None:
        """Send without a checkpoint; the frames are few and small."""
        data = b"".join(frames)
        assert os.write(self.stream.socket.fileno(), data) == len(data)

    async def say(self, *messages: Mapping[str, Any] | str) -> None:
        await self.send(*map(client_text, messages))

    async def upgrade(self, path: str, *stray: bytes, **headers: str | None) -> Answer:
        """The opening handshake, which must succeed; `stray` is sent along with it."""
        await self.send(upgrade_head(path, **headers), *stray)
        answer = await self.receive_head()
        assert answer.status == 101, answer
        return answer

    async def receive_head(self) -> Answer:
        while b"\r\n\r\n" not in self.buffer:
            assert await self.read_more(), f"closed after {self.buffer!r}"
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        return parse_answer(head + b"\r\n\r\n")

    async def receive_answer(self) -> Answer:
        """A complete response, after which the server must close."""
        return parse_answer(await self.read_to_end())

    async def receive(self) -> Frame:
        """The next frame, pings included."""
        while (found := split_frame(self.buffer)) is None:
            assert await self.read_more(), f"closed after {self.buffer!r}"
        frame, self.buffer = found
        return frame

    async def receive_until(self, wanted: Callable[[Frame], bool]) -> Frame:
        """The next frame that matches; others are skipped."""
        with trio.fail_after(PATIENCE):  # even if data keeps arriving
            while not wanted(frame := await self.receive()):
                pass
        return frame

    async def wait_for(self, type_: str) -> dict[str, Any]:
        """The next message of this type."""
        frame = await self.receive_until(
            lambda frame: frame.opcode == TEXT and frame.message["type"] == type_
        )
        return frame.message

    async def expect_close(self, code: int, reason: str | None = None) -> list[Frame]:
        """The server closes; return the frames that it sends before that."""
        data = await self.read_to_end()
        frames, rest = split_frames(data)
        assert rest == b"", f"a truncated frame: {rest[:100]!r}"
        assert frames, "closed without a close frame"
        *frames, last = frames
        assert (last.opcode, last.close_code) == (CLOSE, code), last
        assert reason is None or last.close_reason == reason, last
        assert CLOSE not in {frame.opcode for frame in frames}
        return frames

    async def read_more(self) -> bool:
        with trio.fail_after(PATIENCE):
            data = await self.stream.receive_some()
        self.buffer += data
        return bool(data)

    async def read_to_end(self) -> bytes:
        with trio.fail_after(PATIENCE):  # even if data keeps arriving
            while await self.read_more():
                pass
        data, self.buffer = self.buffer, b""
        return data

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()

    async def half_close(self) -> None:
        """End our side, and continue to read."""
        await self.stream.send_eof()

    @classmethod
    def of(cls, sock: socket.socket) -> Self:
        """A client on a connected socket."""
        return cls(trio.SocketStream(trio.socket.from_stdlib_socket(sock)))


@asynccontextmanager
async def open_raw(
    base: str, *, receive_buffer: int | None = None, source: str | None = None
) -> AsyncIterator[RawClient]:
    """A TCP connection to `base` (`127.0.0.1:8000`), which is closed abruptly at the end.

    With a small `receive_buffer`, a client that does not read is soon full. The connection comes
    from the address `source`.
    """
    host, _, port = base.rpartition(":")
    sock = trio.socket.socket()
    if source is not None:
        await sock.bind((source, 0))
    if receive_buffer is not None:
        # Set before connecting: later the window is already agreed on.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    with trio.fail_after(PATIENCE):
        await sock.connect((host, int(port)))
    stream = trio.SocketStream(sock)
    try:
        yield RawClient(stream)
    finally:
        sock.close()


async def get(base: str, path: str) -> bytes:
    """The body of an HTTP response, which must have status 200."""
    async with open_raw(base) as client:
        head = f"GET {path} HTTP/1.1\r\nHost: {base}\r\nConnection: close\r\n\r\n"
        await client.send(head.encode())
        answer = await client.receive_answer()
    assert answer.status == 200, answer
    return answer.body
