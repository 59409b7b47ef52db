"""Broadcast a test pattern and a tone: python examples/publish.py URL ROOM"""

import sys

import trio
from aiortc.contrib.media import MediaPlayer

from trio_signal.client import open_client
from trio_signal.client.media import publish


async def go_live(url: str, room: str) -> None:
    """Send the pattern to everybody in the room, until Ctrl-C."""
    pattern = MediaPlayer("testsrc=size=320x240:rate=15", format="lavfi")
    async with open_client(url, room=room, username="Pattern") as client, publish(client, pattern):
        async for _ in client:
            pass  # the client ends if its events are not read


url, room = sys.argv[1:]
trio.run(go_live, url, room)
