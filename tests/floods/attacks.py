"""Clients that want no service. Each runs until it is cancelled, and comes again when it is closed.

python -m tests.floods.attacks NAME HOST:PORT [SCALE]
"""

import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from itertools import count

import trio

from tests.raw import PING, TEXT, client_frame, client_text, upgrade_head
from trio_signal.bus import Caps
from trio_signal.bus.redis import open_redis_bus
from trio_signal.messages.identity import Member
from trio_signal.room import Room

#: Seconds to wait after a refusal, for those attackers that do.
_PAUSE = 0.05
#: Each attacker stands at several addresses: what one address may do is limited.
ADDRESSES = 20

Attack = Callable[[str, int, int], Awaitable[None]]


async def connect(host: str, port: int, number: int = 0) -> trio.SocketStream:
    """From one of several addresses of this machine."""
    sock = trio.socket.socket()
    try:
        await sock.bind((f"127.0.1.{number % ADDRESSES + 1}", 0))
        await sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


async def _swallow(stream: trio.SocketStream) -> None:
    async for _ in stream:
        pass


async def _pour(path: str, flood: bytes, host: str, port: int, first: bytes = b"") -> None:
    """Send it over and over, and read what comes; again and again."""
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            stream = await connect(host, port)
            with closing(stream.socket):
                await stream.send_all(upgrade_head(path) + first)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_swallow, stream)
                    with suppress(trio.BrokenResourceError):
                        while True:
                            await stream.send_all(flood)
                    nursery.cancel_scope.cancel()
        await trio.sleep(_PAUSE)


async def messages(host: str, port: int, scale: int) -> None:
    """One client asks as fast as it can."""
    await _pour("/ws/flood/eva", client_text({"type": "keep_alive"}) * 100, host, port)


async def pings(host: str, port: int, scale: int) -> None:
    """One client pings as fast as it can, and does not wait for the pongs."""
    await _pour("/ws/flood/eva", client_frame(PING, b"x") * 1000, host, port)


async def fragments(host: str, port: int, scale: int) -> None:
    """One client sends a message of one byte a frame, for ever."""
    first = client_frame(TEXT, b'"', final=False)
    await _pour("/ws/flood/eva", client_frame(0, b"x", final=False) * 1000, host, port, first)


async def _hold(path: str, host: str, port: int, number: int) -> None:
    """Have a socket at any time, and say nothing."""
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            stream = await connect(host, port, number)
            with closing(stream.socket):
                await stream.send_all(upgrade_head(path))
                await _swallow(stream)
        await trio.sleep(1)


async def unauthenticated(host: str, port: int, scale: int) -> None:
    """So many sockets that never say who they are."""
    async with trio.open_nursery() as nursery:
        for number in range(scale):
            nursery.start_soon(_hold, "/ws/flood", host, port, number)


async def _trickle(host: str, port: int, number: int) -> None:
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            stream = await connect(host, port, number)
            with closing(stream.socket):
                await stream.send_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
                while True:
                    await trio.sleep(1)
                    await stream.send_all(b"X-More: x\r\n")
        await trio.sleep(_PAUSE)


async def heads(host: str, port: int, scale: int) -> None:
    """So many request heads that never end."""
    async with trio.open_nursery() as nursery:
        for number in range(scale):
            nursery.start_soon(_trickle, host, port, number)


async def _announce(host: str, port: int, number: int) -> None:
    # FIN and TEXT, masked, 100,000,000 bytes, and the first of them
    frame = b"\x81\xff" + (100_000_000).to_bytes(8) + b"mask" + b"x" * 1000
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            stream = await connect(host, port, number)
            with closing(stream.socket):
                await stream.send_all(upgrade_head("/ws/flood/eva") + frame)
                await _swallow(stream)
        await trio.sleep(_PAUSE)


async def announced(host: str, port: int, scale: int) -> None:
    """So many at a time announce a frame of 100 MB."""
    async with trio.open_nursery() as nursery:
        for number in range(scale):
            nursery.start_soon(_announce, host, port, number)


@asynccontextmanager
async def _open(path: str, host: str, port: int, *first: bytes) -> AsyncIterator[trio.SocketStream]:
    """A WebSocket of the one address from which these attacks come."""
    stream = await connect(host, port)
    with closing(stream.socket):
        await stream.send_all(upgrade_head(path) + b"".join(first))
        yield stream


async def _repeat(
    path: str, first: list[bytes], said: bytes, rate: float, host: str, port: int
) -> None:
    """Enter, and say the same so often a second; come again when closed."""
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            async with _open(path, host, port, *first) as stream, trio.open_nursery() as nursery:
                nursery.start_soon(_swallow, stream)
                with suppress(trio.BrokenResourceError):
                    due = trio.current_time()
                    while True:
                        await stream.send_all(said)
                        due += 1 / rate
                        await trio.sleep_until(due)
                nursery.cancel_scope.cancel()
        await trio.sleep(1)


async def crowd(host: str, port: int, scale: int) -> None:
    """So many in one room of their own; each tells all the others something, 50 times a second."""
    said = client_text({"type": "message", "content": "x"})
    async with trio.open_nursery() as nursery:
        for number in range(scale):
            nursery.start_soon(_repeat, f"/ws/crowd/eva{number}", [], said, 50, host, port)
            await trio.sleep(0.005)


async def answers(host: str, port: int, scale: int) -> None:
    """So many that join again and again a room whose members have long names."""
    room = "r"
    join = client_text({"type": "join_room", "room_id": room})
    assert len(join) < 50
    async with trio.open_nursery() as nursery:
        for number in range(150):
            path = f"/api/v1/ws/connect?user_id={number:03}" + "%F0%9F%90%8C" * 200
            nursery.start_soon(_enter, path, join, host, port)
        await trio.sleep(0.5)
        for number in range(scale):
            path = f"/api/v1/ws/connect?user_id=eva{number}"
            nursery.start_soon(_repeat, path, [], join, 50, host, port)


async def _enter(path: str, said: bytes, host: str, port: int) -> None:
    """Say it once, and stay."""
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            async with _open(path, host, port, said) as stream:
                await _swallow(stream)
        await trio.sleep(1)


async def questions(host: str, port: int, scale: int) -> None:
    """So many that ask who is live in a room of another replica, with 5,000 members."""
    async with (
        open_redis_bus(os.environ["REDIS_URL"], "elsewhere") as bus,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(bus.run, lambda delivery: None)
        room = Room("elsewhere", bus.replica)
        for number in range(5000):
            name = f"u{number}"
            user = Member(name, name, name, replica="elsewhere", dialect="live", subject=name)
            await bus.join(room, user, Caps(10_000), lambda events: None)
        ask = client_text({"type": "live_status", "room_id": "elsewhere"})
        for number in range(scale):
            path = f"/api/v1/ws/connect?user_id=eva{number}"
            nursery.start_soon(_repeat, path, [], ask, 50, host, port)


async def _call(sent: bytes, host: str, port: int) -> None:
    """Ask as fast as the answers come; again and again, and always from the same address."""
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            stream = await connect(host, port)
            with closing(stream.socket):
                await stream.send_all(sent * 2)
                async for _ in stream:
                    await stream.send_all(sent)


async def _calls(sent: bytes, host: str, port: int, scale: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(scale):
            nursery.start_soon(_call, sent, host, port)


_JOIN = b'{"user_id": "eva", "username": "Eva"}'


async def joins(host: str, port: int, scale: int) -> None:
    """One address gives its name by HTTP, on so many connections."""
    head = f"POST /rooms/flood/join HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(_JOIN)}\r\n"
    await _calls(f"{head}\r\n".encode() + _JOIN, host, port, scale)


async def documents(host: str, port: int, scale: int) -> None:
    """The same asks for the greatest document."""
    sent = f"GET /openapi.json HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    await _calls(sent, host, port, scale)


async def files(host: str, port: int, scale: int) -> None:
    """The same asks for the browser client."""
    sent = f"GET /client/trio-signal.js HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    await _calls(sent, host, port, scale)


async def probes(host: str, port: int, scale: int) -> None:
    """The same asks whether the server is alive, which is not limited."""
    sent = f"GET /healthz HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    await _calls(sent, host, port, scale)


def _long_name(room: int) -> str:
    return f"{room:05}" + "x" * 200


async def unread(host: str, port: int, scale: int) -> None:
    """So many that ask for the list of 2,000 rooms and for a room's chat, and read nothing."""
    ask = "".join(
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"
        for path in ("/rooms?limit=1000", f"/rooms/{_long_name(0)}/messages?limit=200") * 10
    )
    async with trio.open_nursery() as nursery:
        for number in range(20):
            rooms = [
                client_text({"type": "join_room", "room_id": _long_name(room)})
                for room in range(100 * number, 100 * number + 100)
            ]
            path = f"/api/v1/ws/connect?user_id=eva{number}"
            nursery.start_soon(_enter, path, b"".join(rooms), host, port)
        await trio.sleep(1)
        for _ in range(scale):
            nursery.start_soon(_ask_and_wait, ask.encode(), host, port)


async def _ask_and_wait(asked: bytes, host: str, port: int) -> None:
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            stream = await connect(host, port)
            with closing(stream.socket):
                stream.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 4096)
                while True:
                    await stream.send_all(asked)
                    await trio.sleep(1)
        await trio.sleep(_PAUSE)


async def chatter(host: str, port: int, scale: int) -> None:
    """So many that say something long in one new room after the other."""
    async with trio.open_nursery() as nursery:
        for number in range(scale):
            rooms = (f"{number}-{room}" for room in count())
            nursery.start_soon(_say_in_each, f"eva{number}", rooms, host, port)


async def _say_in_each(user: str, rooms: Iterator[str], host: str, port: int) -> None:
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            path = f"/api/v1/ws/connect?user_id={user}"
            async with _open(path, host, port) as stream, trio.open_nursery() as nursery:
                nursery.start_soon(_swallow, stream)
                with suppress(trio.BrokenResourceError):
                    for room in rooms:
                        said = ({"type": "join_room"}, {"type": "leave_room"})
                        chat = {"type": "send_message", "content": "x" * 60_000}
                        for message in (said[0], chat, said[1]):
                            await stream.send_all(client_text({**message, "room_id": room}))
                nursery.cancel_scope.cancel()
        await trio.sleep(1)


async def lines(host: str, port: int, scale: int) -> None:
    """So many at a time enter twenty rooms with long names, and go: each end is logged."""
    said = b"".join(
        client_text({"type": "join_room", "room_id": _long_name(room)}) for room in range(20)
    )
    async with trio.open_nursery() as nursery:
        for number in range(scale):
            nursery.start_soon(_come_and_go, f"eva{number}", said, host, port)


async def _come_and_go(user: str, said: bytes, host: str, port: int) -> None:
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            async with _open(f"/api/v1/ws/connect?user_id={user}", host, port, said) as stream:
                await stream.receive_some()
        await trio.sleep(_PAUSE)


#: With the scale of each in the long run.
ATTACKS: dict[str, tuple[Attack, int]] = {
    "messages": (messages, 1),
    "pings": (pings, 1),
    "fragments": (fragments, 1),
    "unauthenticated": (unauthenticated, 2000),
    "heads": (heads, 200),
    "announced": (announced, 20),
    "joins": (joins, 50),
    "documents": (documents, 50),
    "files": (files, 50),
    "probes": (probes, 50),
    "crowd": (crowd, 190),
    "answers": (answers, 40),
    "questions": (questions, 40),
    "unread": (unread, 170),
    "chatter": (chatter, 5),
    "lines": (lines, 20),
}

if __name__ == "__main__":
    name, base = sys.argv[1:3]
    attack, usual = ATTACKS[name]
    host, _, port = base.rpartition(":")
    scale = int(sys.argv[3]) if len(sys.argv) > 3 else usual
    trio.run(attack, host, int(port), scale)
