"""One RTCPeerConnection of aiortc: its tracks, its descriptions, and early candidates.

Runs in asyncio's thread. `client/link.py` negotiates between the two sides.
"""

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.sdp import candidate_from_sdp

#: Seconds to close a connection.
_GOODBYE = 2.0
#: How many candidates may wait for their description.
_EARLY = 100


class PeerConnection:
    """A connection to one peer, until `close`."""

    def __init__(
        self,
        ice_servers: Sequence[RTCIceServer],
        *,
        send: Callable[[], list[MediaStreamTrack]],
        changed: Callable[["PeerConnection"], None],
        early: Iterable[dict[str, Any]] = (),
    ) -> None:
        """`send` makes the tracks to send; they belong to the connection then.

        `changed` is called for a new state or a new description. `early` are candidates that came
        before. Neither function may block.
        """
        self.session = secrets.token_hex(16)
        #: The name of the other side's connection.
        self.theirs: str | None = None
        #: The incoming tracks.
        self.incoming: list[MediaStreamTrack] = []
        #: Candidates waiting for a description; None once there is one.
        self.early: list[dict[str, Any]] | None = list(early)
        self._send = send
        self._changed = changed
        self._outgoing: list[MediaStreamTrack] = []
        configuration = RTCConfiguration(list(ice_servers), bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        self._pc = RTCPeerConnection(configuration)
        self._pc.on("track", self.incoming.append)
        self._pc.on("connectionstatechange", lambda: changed(self))

    @property
    def is_up(self) -> bool:
        """Whether the connection is up."""
        return self._pc.connectionState == "connected"

    @property
    def has_failed(self) -> bool:
        """Whether the connection has failed."""
        return self._pc.connectionState == "failed"

    @property
    def has_ended(self) -> bool:
        """Whether the connection has failed, or is closed."""
        return self._pc.connectionState in ("failed", "closed")

    @property
    def local_sdp(self) -> str:
        """The last offer or answer of this side."""
        sdp: str = self._pc.localDescription.sdp
        return sdp

    async def make_offer(self, *, receives: bool) -> None:
        """Make an offer with all candidates."""
        if not self._pc.getTransceivers():
            self._outgoing = self._send()
            kinds = {track.kind for track in self._outgoing}
            for track in self._outgoing:
                self._pc.addTransceiver(track, "sendrecv" if receives else "sendonly")
            for kind in ("audio", "video"):
                if receives and kind not in kinds:
                    self._pc.addTransceiver(kind, "recvonly")
        await self._pc.setLocalDescription(await self._pc.createOffer())

    async def make_answer(self, offer: dict[str, Any], *, receives: bool) -> None:
        """Apply an offer, and make an answer with all candidates."""
        is_first = not self._pc.getTransceivers()
        await self.describe("offer", offer)
        if is_first:
            self._outgoing = self._send()
        self._attach(receives=receives)
        await self._pc.setLocalDescription(await self._pc.createAnswer())

    def _attach(self, *, receives: bool) -> None:
        """Send our tracks on the offer's transceivers, and refuse unwanted media.

        Frames of an incoming track that nobody reads would pile up.
        """
        waiting = {track.kind: track for track in self._outgoing}
        for transceiver in self._pc.getTransceivers():
            track = transceiver.sender.track or waiting.get(transceiver.kind)
            if track is not None:
                transceiver.sender.replaceTrack(track)
            alone = "recvonly" if receives else "inactive"
            both = "sendrecv" if receives else "sendonly"
            transceiver.direction = both if track is not None else alone

    async def describe(self, type_: str, description: dict[str, Any]) -> None:
        """Apply the other side's offer or answer."""
        await self._pc.setRemoteDescription(RTCSessionDescription(description["sdp"], type_))
        if self.is_up:
            self._changed(self)
        early, self.early = self.early or [], None
        for candidate in early:
            await self.add_candidate(candidate)

    async def add_candidate(self, candidate: dict[str, Any]) -> None:
        """Add a candidate, or keep it until there is a description; an empty one marks the end."""
        if candidate.get("re", self.session) != self.session:
            return
        if self.early is not None:
            self.early = [*self.early, candidate][-_EARLY:]
        elif candidate.get("candidate") and candidate.get("session") == self.theirs:
            parsed = candidate_from_sdp(candidate["candidate"].removeprefix("candidate:"))
            parsed.sdpMid = candidate.get("sdpMid")
            parsed.sdpMLineIndex = candidate.get("sdpMLineIndex")
            await self._pc.addIceCandidate(parsed)

    async def close(self) -> None:
        """Stop the tracks and end the connection, within two seconds."""
        for track in self._outgoing:
            track.stop()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._pc.close(), _GOODBYE)
