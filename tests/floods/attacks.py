"""Clients that want no service. Each runs until it is cancelled, and comes again when it is closed.

python -m tests.floods.attacks NAME HOST:PORT [SCALE]
"""

import sys
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress

import trio

from tests.raw import PING, TEXT, client_frame, client_text, upgrade_head

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


#: With the scale of each in the long run.
ATTACKS: dict[str, tuple[Attack, int]] = {
    "messages": (messages, 1),
    "pings": (pings, 1),
    "fragments": (fragments, 1),
    "unauthenticated": (unauthenticated, 2000),
    "heads": (heads, 200),
    "announced": (announced, 20),
}

if __name__ == "__main__":
    name, base = sys.argv[1:3]
    attack, usual = ATTACKS[name]
    host, _, port = base.rpartition(":")
    scale = int(sys.argv[3]) if len(sys.argv) > 3 else usual
    trio.run(attack, host, int(port), scale)
