"""Watch a broadcast from a program, and count its frames.

    python examples/record_broadcast.py http://127.0.0.1:8000 lobby --frames 100

Waits until somebody in the room is live, asks for sound and picture, and counts what arrives.
Two event loops take part, each in a thread of its own: Trio for the signaling, and asyncio for
aiortc, which knows nothing else. What they have to say to each other goes through two queues.

It needs aiortc (`pip install aiortc`). To record instead of counting, give the tracks to aiortc's
`MediaRecorder`.
"""

import argparse
import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

import trio
from aiortc import (
    MediaStreamTrack,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.mediastreams import MediaStreamError
from aiortc.sdp import candidate_from_sdp

from trio_signal.client import (
    Answer,
    Candidate,
    Client,
    Error,
    Offer,
    Stopped,
    WentLive,
    open_client,
)

#: What one side has to say to the other: a kind, and its payload.
Signal = tuple[str, Any]


class Viewer:
    """One peer connection that watches, in asyncio's thread."""

    def __init__(self, ice_servers: list[RTCIceServer], tell: Callable[[Signal], None]) -> None:
        """`tell` takes what the broadcaster has to hear, and `frame` for each kind of frame."""
        self._ice_servers = ice_servers
        self._tell = tell
        self._loop = asyncio.new_event_loop()
        self._heard = asyncio.Queue[Signal | None]()

    def hear(self, signal: Signal | None) -> None:
        """Take what the broadcaster said; None ends it. From any thread, until `run` is over."""
        with suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._heard.put_nowait, signal)

    def run(self) -> None:
        """Watch until told to end. Blocks."""
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._watch())

    async def _watch(self) -> None:
        pc = RTCPeerConnection(RTCConfiguration(self._ice_servers))
        counting: set[asyncio.Task[None]] = set()
        pc.on("track", lambda track: counting.add(asyncio.create_task(self._count(track))))
        pc.addTransceiver("audio", direction="recvonly")
        pc.addTransceiver("video", direction="recvonly")
        await pc.setLocalDescription(await pc.createOffer())  # with all candidates in it
        self._tell(("offer", as_json(pc.localDescription)))
        while (signal := await self._heard.get()) is not None:
            await self._take(pc, *signal)
        await pc.close()
        for task in counting:
            task.cancel()
        await asyncio.gather(*counting, return_exceptions=True)

    async def _take(self, pc: RTCPeerConnection, kind: str, payload: Mapping[str, Any]) -> None:
        if kind == "candidate":
            await add_candidate(pc, payload)
        else:
            await pc.setRemoteDescription(RTCSessionDescription(payload["sdp"], payload["type"]))
        if kind == "offer":  # the broadcaster has other tracks than before
            await pc.setLocalDescription(await pc.createAnswer())
            self._tell(("answer", as_json(pc.localDescription)))

    async def _count(self, track: MediaStreamTrack) -> None:
        with suppress(MediaStreamError):
            while True:
                await track.recv()
                self._tell(("frame", track.kind))


def as_json(description: RTCSessionDescription) -> dict[str, str]:
    """As a browser writes it."""
    return {"type": description.type, "sdp": description.sdp}


async def add_candidate(pc: RTCPeerConnection, payload: Mapping[str, Any] | None) -> None:
    """Add what a browser tells of an address; an empty one says that there are no more."""
    if payload and payload.get("candidate"):
        candidate = candidate_from_sdp(payload["candidate"].removeprefix("candidate:"))
        candidate.sdpMid = payload.get("sdpMid")
        candidate.sdpMLineIndex = payload.get("sdpMLineIndex")
        await pc.addIceCandidate(candidate)


def for_aiortc(server: Mapping[str, Any]) -> RTCIceServer:
    """A server of `Client.ice_servers`, for aiortc."""
    return RTCIceServer(server["urls"], server.get("username"), server.get("credential"))


class Watching:
    """One broadcast that is watched: Trio's side of it."""

    def __init__(self, client: Client, broadcaster: str, wanted: int) -> None:
        """Watch `broadcaster` until so many frames of its video have come."""
        self._client = client
        self._broadcaster = broadcaster
        self._wanted = wanted
        #: Says which peer connection a signal is for, when there have been several.
        self._call = uuid4().hex
        self._said, self._saying = trio.open_memory_channel[Signal](10_000)
        token = trio.lowlevel.current_trio_token()
        servers = [for_aiortc(server) for server in client.ice_servers]
        self._viewer = Viewer(servers, lambda signal: token.run_sync_soon(self._hear, signal))
        self.frames = Counter[str]()

    async def run(self) -> None:
        """Watch until there are enough frames, or the broadcast has ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, self._viewer.run)
            nursery.start_soon(self._follow)
            try:
                await self._count()
            finally:
                self._viewer.hear(None)  # the thread ends when it has hung up
            nursery.cancel_scope.cancel()

    def _hear(self, signal: Signal) -> None:
        """Take what the viewer says; after the end, and when there is too much, it is lost."""
        with suppress(trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
            self._said.send_nowait(signal)

    async def _count(self) -> None:
        async for kind, payload in self._saying:
            match kind:
                case "offer":
                    await self._client.offer({**payload, "call": self._call}, to=self._broadcaster)
                case "answer":
                    await self._client.answer({**payload, "call": self._call}, to=self._broadcaster)
                case _:
                    self.frames[payload] += 1
            if self.frames["video"] >= self._wanted:
                return

    async def _follow(self) -> None:
        """Pass on what the broadcaster says."""
        async for event in self._client:
            match event:
                case Stopped(peer=peer) if peer.id == self._broadcaster:
                    self._said.close()
                    return
                case Answer(sender=self._broadcaster, answer=payload):
                    self._viewer.hear(("answer", payload))
                case Offer(sender=self._broadcaster, offer=payload):
                    self._viewer.hear(("offer", payload))
                case Candidate(sender=self._broadcaster, candidate=payload):
                    self._viewer.hear(("candidate", payload))
                case Error(message=message):
                    print(message)


async def record(url: str, room: str, frames: int, token: str | None) -> Counter[str]:
    """Watch whoever is live first; how many frames came of each kind."""
    async with open_client(url, room=room, token=token, username="Recorder") as client:
        async for event in client:
            if isinstance(event, WentLive):
                print(f"{event.peer.username} is live", flush=True)
                watching = Watching(client, event.peer.id, frames)
                await watching.run()
                return watching.frames
    raise AssertionError("the events of a client do not end")


def main() -> None:
    """Read the command line, and say what came."""
    parser = argparse.ArgumentParser(description="Watch a broadcast, and count its frames.")
    parser.add_argument("url", help="like http://127.0.0.1:8000")
    parser.add_argument("room")
    parser.add_argument("--frames", type=int, default=100, help="of video, after which to end")
    parser.add_argument("--token")
    given = parser.parse_args()
    counted = trio.run(record, given.url, given.room, given.frames, given.token)
    print(", ".join(f"{number} {kind} frames" for kind, number in sorted(counted.items())))


if __name__ == "__main__":
    main()
