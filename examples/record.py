"""Record ten seconds of the first broadcaster: python examples/record.py URL ROOM talk.mp4"""

import sys

import trio

from trio_signal.client import WentLive, open_client
from trio_signal.client.media import watch


async def record(url: str, room: str, path: str) -> None:
    """Wait for a broadcast, and write ten seconds of it to a file."""
    async with open_client(url, room=room, username="Recorder") as client:
        async for event in client:
            if isinstance(event, WentLive):
                async with watch(client, event.peer) as tracks:
                    await tracks.record(path, seconds=10)
                return


url, room, path = sys.argv[1:]
trio.run(record, url, room, path)
