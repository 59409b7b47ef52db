"""Broadcasters and viewers without a browser: aiortc, whose event loop is in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import trio
from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import VideoStreamTrack

T = TypeVar("T")


class Peers:
    """Makes peer connections; `close` ends them all."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._all: list[Peer] = []

    def new(self) -> Peer:
        self._all.append(Peer(self))
        return self._all[-1]

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in asyncio's thread."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        return await trio.to_thread.run_sync(future.result, abandon_on_cancel=True)

    def close(self) -> None:
        async def close_all() -> None:
            await asyncio.gather(*(peer.pc.close() for peer in self._all if peer.pc is not None))

        asyncio.run_coroutine_threadsafe(close_all(), self._loop).result(10)


class Peer:
    """One peer connection, and its incoming video."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self.pc: RTCPeerConnection | None = None
        self._tracks: list[MediaStreamTrack] = []

    def _open(self) -> RTCPeerConnection:
        if self.pc is None:
            self.pc = RTCPeerConnection()
            self.pc.on("track", self._tracks.append)
        return self.pc

    async def offer(self) -> str:
        """Make an offer with video, as a broadcaster does, with all candidates."""

        async def offer() -> str:
            pc = self._open()
            if not pc.getTransceivers():
                pc.addTransceiver(VideoStreamTrack(), "sendonly")
            await pc.setLocalDescription(await pc.createOffer())
            sdp: str = pc.localDescription.sdp
            return sdp

        return await self._peers.call(offer())

    async def take(self, answer: str) -> None:
        """Apply the answer to it."""

        async def take() -> None:
            await self._open().setRemoteDescription(RTCSessionDescription(answer, "answer"))

        await self._peers.call(take())

    async def answer(self, offer: str) -> str:
        """Answer an offer as a viewer does."""

        async def answer() -> str:
            pc = self._open()
            await pc.setRemoteDescription(RTCSessionDescription(offer, "offer"))
            await pc.setLocalDescription(await pc.createAnswer())
            sdp: str = pc.localDescription.sdp
            return sdp

        return await self._peers.call(answer())

    async def see(self, frames: int = 2) -> None:
        """Wait for this many more frames."""

        async def see() -> None:
            for _ in range(frames):
                await self._tracks[-1].recv()

        await self._peers.call(see())

    async def close(self) -> None:
        """Close the connection, as a page does."""
        assert self.pc is not None
        await self._peers.call(self.pc.close())


@contextmanager
def run_peers() -> Iterator[Peers]:
    """Peers, and the thread that they use."""
    loop = asyncio.new_event_loop()
    with ThreadPoolExecutor(1, "peers") as executor:
        running = executor.submit(loop.run_forever)
        peers = Peers(loop)
        try:
            yield peers
        finally:
            peers.close()
            loop.call_soon_threadsafe(loop.stop)
            running.result()
            loop.close()
