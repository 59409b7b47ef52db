"""Fuzz targets: functions of bytes that raise if our code is wrong.

The tests run them with the kept corpus; `make fuzz` searches for more.
"""

import json
import socket
from collections.abc import Callable
from functools import partial
from typing import cast

import trio

from tests.raw import split_frames
from trio_signal.alarm import Alarms
from trio_signal.auth import OpenAuth, find_token
from trio_signal.bus.memory import MemoryBus
from trio_signal.connection import Connection
from trio_signal.dialects import DIALECTS, dialect_at
from trio_signal.environment import load_settings
from trio_signal.errors import IdTooLongError
from trio_signal.hub import Hub
from trio_signal.limits import Limits, client_address, network_of
from trio_signal.listener import _token
from trio_signal.metrics import Metrics
from trio_signal.readers import Readers
from trio_signal.rounds import Rounds
from trio_signal.service import Service
from trio_signal.session import INTERNAL_ERROR
from trio_signal.websocket import FrameParser, Handshake, Message, Opcode, is_upgrade

SETTINGS = load_settings(allowed_origins="https://app.example.com,https://*.example.org")
#: Small, so that inputs above the limit are found, too.
MAX_SIZE = 1000
PATHS = {
    "room": "/ws/r/ann",
    "live": "/api/v1/ws/connect?user_id=ann",
    "stream": "/ws",
    "mesh": "/ws/r",
}


def head(data: bytes) -> None:
    """A readable request head gets an answer, and all its fields can be used."""
    first, found, _ = data.partition(b"\r\n\r\n")
    is_upgrade(first + found)
    handshake = Handshake(first + found)
    request = handshake.request
    if request is None:
        return
    accepted, answer = handshake.accept()
    assert accepted == (answer.split(b" ", 2)[1] == b"101"), answer
    _token(request, SETTINGS)
    find_token(request.get_all, {})
    for name in ("Origin", "Host"):
        for value in request.get_all(name):
            SETTINGS.allows_origin(value, value)
    for proxies in (0, 1, 2):
        forwarded = request.get_all("X-Forwarded-For")
        network_of(client_address("192.0.2.1", forwarded, proxies))
    try:
        dialect_at(request.path, DIALECTS)
    except IdTooLongError:
        return


def frames(data: bytes) -> None:
    """Frames give the same messages however they are split, and memory is bounded."""
    whole, pieces = FrameParser(MAX_SIZE), FrameParser(MAX_SIZE)
    expected = whole.feed(data)
    found: list[Message] = []
    for start in range(0, len(data), 7):
        if any(message.opcode is Opcode.CLOSE for message in found):
            break  # nothing is read after a close frame
        found += pieces.feed(data[start : start + 7])
        assert len(pieces._buffer or b"") + pieces._fragments_size <= 2 * MAX_SIZE + 14 + 7
    assert found == expected
    assert repr(pieces.failure) == repr(whole.failure)
    for message in found:
        if message.opcode is Opcode.TEXT:
            message.payload.decode()
        assert len(message.payload) <= MAX_SIZE


class _Socket:
    """Accepts and checks everything that is sent."""

    def send(self, data: bytes) -> int:
        frames, rest = split_frames(data)
        assert not rest
        for frame in frames:
            if frame.opcode == Opcode.TEXT:
                json.loads(frame.payload)
        return len(data)


def dialect(name: str, data: bytes) -> None:
    """No conversation, with one message a line, makes us fail or harms others in the room."""
    texts = [line for line in data.split(b"\n") if _is_text(line)]
    trio.run(_converse, name, texts)


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


async def _converse(name: str, texts: list[bytes]) -> None:
    hub = Hub(MemoryBus("here"))
    limits = Limits(SETTINGS)
    rounds = Rounds()
    readers = Readers(rounds)
    service = Service(hub, OpenAuth(), SETTINGS, Metrics(), rounds, Alarms(), readers)
    connections = []
    for path in (*PATHS.values(), PATHS[name].replace("ann", "eva")):
        dialect = dialect_at(path, DIALECTS)
        assert dialect is not None
        connection = Connection(
            cast(socket.socket, _Socket()),
            dialect,
            service=service,
            lease=limits.admit("192.0.2.1", 0),
        )
        hub.arrive(connection.session)
        await service.perform(connection.session, dialect.opened(connection.session.id))
        connections.append(connection)
    _, live, stream, mesh, speaker = connections
    await _say(live, b'{"type":"join_room","room_id":"r"}')
    await _say(stream, b'{"type":"broadcaster-ready","streamId":"r"}')
    await _say(mesh, b'{"type":"auth_token","clientId":"mia"}')
    for text in texts:
        await _say(speaker, text)
        if speaker.session.closed_with is not None:
            break
    for connection in connections:
        assert connection.session.closed_with is not INTERNAL_ERROR
        hub.depart(connection.session)
    assert not hub.rooms
    assert not hub.participants


async def _say(connection: Connection, text: bytes) -> None:
    """Let a connection carry out a message, as if it had been read."""
    connection._messages = [Message(Opcode.TEXT, text)]
    connection._until = float("inf")
    while (blocked_on := connection._carry_out()) is not None:
        await blocked_on()


TARGETS: dict[str, Callable[[bytes], None]] = {
    "head": head,
    "frames": frames,
    **{name: partial(dialect, name) for name in PATHS},
}
