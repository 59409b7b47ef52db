"""A broadcaster that is no browser: it shows a test card to whoever asks.

    python -m tests.client.card ws://127.0.0.1:8000/ws/lobby

It speaks the protocol by hand, so that the example is not tested with itself.
"""

import asyncio
import json
import sys
from typing import Any

from aiortc import RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, VideoStreamTrack
from websockets.asyncio.client import ClientConnection, connect


async def broadcast(url: str) -> None:
    """Be live until killed."""
    async with connect(url) as socket:
        await say(socket, type="auth_token", clientId="card", username="Card")
        await say(socket, type="broadcast_start")
        calls = [
            await answer(socket, message)
            async for message in (json.loads(text) async for text in socket)
            if message["type"] == "offer"
        ]
        assert calls == []  # the socket ended


async def say(socket: ClientConnection, **message: Any) -> None:
    await socket.send(json.dumps(message))


async def answer(socket: ClientConnection, message: dict[str, Any]) -> RTCPeerConnection:
    """Show the card to the sender of an offer."""
    offer = message["offer"]
    pc = RTCPeerConnection()
    pc.addTrack(AudioStreamTrack())
    pc.addTrack(VideoStreamTrack())
    await pc.setRemoteDescription(RTCSessionDescription(offer["sdp"], offer["type"]))
    await pc.setLocalDescription(await pc.createAnswer())
    description = {"type": "answer", "sdp": pc.localDescription.sdp, "call": offer.get("call")}
    await say(socket, type="answer", to=message["from"], answer=description)
    return pc


if __name__ == "__main__":
    asyncio.run(broadcast(sys.argv[1]))
