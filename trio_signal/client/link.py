"""One peer connection of aiortc with one peer, and how both sides agree. In asyncio's thread.

It follows the rules of the browser client, in the fields that its signals have beside the W3C's:
`session` names this RTCPeerConnection, `re` the one of the other side, and `n` counts our offers.

aiortc cannot take an offer back. So where two first offers cross, the polite side begins anew with
another RTCPeerConnection; and once the two know each other, only the impolite one makes offers, and
the polite one asks for them. Inputs are handled one after the other, so there are two states only:
an offer of ours is out, or not.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal

from aiortc import (
    MediaStreamTrack,
    RTCBundlePolicy,
    RTCConfiguration,
    RTCIceServer,
    RTCPeerConnection,
    RTCSessionDescription,
)
from aiortc.sdp import candidate_from_sdp

logger = logging.getLogger(__name__)

Kind = Literal["offer", "answer", "candidate"]

#: Seconds until an offer is sent again, and how often: signals may be lost.
_ANSWER_WITHIN = 3.0
_TIMES = 5
#: Seconds for the goodbye of a connection.
_GOODBYE = 2.0
#: Candidates that wait for their description, and signals that wait for their turn.
_EARLY = 100
_WAITING = 500
#: How often a connection that failed is begun anew, if nothing comes of it.
_ATTEMPTS = 5


class Link:
    """A connection to one peer, for as long as `run` runs. Not to be used from other threads."""

    def __init__(
        self,
        ice_servers: Sequence[RTCIceServer],
        *,
        polite: bool,
        tell: Callable[[Kind, dict[str, Any]], None],
        send: Callable[[], list[MediaStreamTrack]],
        receives: bool,
        connected: Callable[[Sequence[MediaStreamTrack]], None],
    ) -> None:
        """`send` makes the tracks to send by a new connection, which belong to the link then.

        `connected` is given what comes, whenever a connection is up. The two must not block.
        """
        self._ice_servers = list(ice_servers)
        self._polite = polite
        self._tell = tell
        self._send = send
        self._receives = receives
        self._connected = connected
        self._inputs = asyncio.Queue[Callable[[], Awaitable[None]]](_WAITING)
        self._attempts = 0
        self._make()

    def _make(self) -> None:
        """Another connection, of which nobody knows yet."""
        self.session = secrets.token_hex(16)
        self._theirs: str | None = None
        self._paired = False
        self._offers = 0
        #: How often the offer that is out may still be sent; None if there is none.
        self._left: int | None = None
        self._last_offer: object = None
        self._answer: dict[str, Any] | None = None
        self._early: list[dict[str, Any]] | None = []
        self._outgoing: list[MediaStreamTrack] = []
        self._incoming: list[MediaStreamTrack] = []
        pc = RTCPeerConnection(
            RTCConfiguration(self._ice_servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE)
        )
        self._pc = pc
        pc.on("track", self._incoming.append)
        pc.on("connectionstatechange", lambda: self._changed(pc))

    @property
    def is_up(self) -> bool:
        """Whether the two are connected."""
        return self._pc.connectionState == "connected"

    # What is to be done, in its turn

    def open(self) -> None:
        """Make an offer, unless one is out or was taken."""
        self._put(self._open)

    def receive(self, wanted: bool) -> None:
        """Whether what comes is wanted; if it was not, the connection begins anew."""
        self._put(partial(self._set_receives, wanted))

    def hear(self, kind: Kind, payload: Any) -> None:
        """Take what the peer sent, of any content."""
        step = {"offer": self._offered, "answer": self._answered, "candidate": self._candidate}
        if isinstance(payload, dict):
            self._put(partial(step[kind], payload))

    def _put(self, step: Callable[[], Awaitable[None]]) -> None:
        with suppress(asyncio.QueueFull):  # nobody needs so many: the peer sends nonsense
            self._inputs.put_nowait(step)

    async def run(self) -> None:
        """Do it, until cancelled; then the connection is closed."""
        async with self:
            while True:
                step = await self._next()
                try:
                    await step()
                except Exception as error:
                    # What a peer sends may be anything, and aiortc raises whatever it meets.
                    logger.info("a signal cannot be followed: %r", error)

    async def __aenter__(self) -> None:
        """Nothing is open yet."""

    async def __aexit__(self, *_: object) -> None:
        """Close the connection."""
        await self._close()

    async def _next(self) -> Callable[[], Awaitable[None]]:
        patience = _ANSWER_WITHIN if self._left else None
        try:
            return await asyncio.wait_for(self._inputs.get(), patience)
        except TimeoutError:
            return self._repeat

    async def _close(self) -> None:
        for track in self._outgoing:
            track.stop()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._pc.close(), _GOODBYE)

    async def _begin(self) -> None:
        early = self._early or []  # they may be for the offer that comes next
        await self._close()
        self._make()
        self._early = early

    def _changed(self, pc: RTCPeerConnection) -> None:
        if pc is not self._pc:
            return
        if pc.connectionState == "connected":
            self._attempts = 0
            self._connected(tuple(self._incoming))
        elif pc.connectionState == "failed" and self._attempts < _ATTEMPTS:
            self._attempts += 1
            self._put(self._begin_and_open)

    async def _begin_and_open(self) -> None:
        await self._begin()
        await self._make_offer()

    async def _open(self) -> None:
        if self._left is None and not self._paired:
            await self._make_offer()

    async def _set_receives(self, wanted: bool) -> None:
        if wanted and not self._receives and (self._paired or self._offers):
            self._receives = True
            await self._begin_and_open()
        elif wanted and self.is_up:
            self._connected(tuple(self._incoming))
        self._receives = wanted

    # Offers of ours

    async def _make_offer(self) -> None:
        if not self._pc.getTransceivers():
            self._outgoing = self._send()
            self._add_transceivers()
        await self._pc.setLocalDescription(await self._pc.createOffer())  # with all candidates
        self._offers += 1
        self._left = _TIMES
        await self._repeat()

    def _add_transceivers(self) -> None:
        kinds = {track.kind for track in self._outgoing}
        for track in self._outgoing:
            self._pc.addTransceiver(track, "sendrecv" if self._receives else "sendonly")
        for kind in ("audio", "video"):
            if self._receives and kind not in kinds:
                self._pc.addTransceiver(kind, "recvonly")

    async def _repeat(self) -> None:
        """Send the offer, as often as it may take."""
        if self._left:
            self._left -= 1
            description = self._pc.localDescription
            self._say("offer", {"type": "offer", "sdp": description.sdp, "n": self._offers})

    def _say(self, kind: Kind, payload: dict[str, Any]) -> None:
        signed = {**payload, "session": self.session}
        self._tell(kind, signed | ({"re": self._theirs} if self._theirs is not None else {}))

    async def _answered(self, answer: dict[str, Any]) -> None:
        """Apply it; one for another connection or another offer is not applied."""
        if answer.get("re", self.session) != self.session:
            if self._paired and answer.get("session") != self._theirs:
                await self._begin_and_open()  # the two are apart
        elif self._left is not None and answer.get("n", self._offers) == self._offers:
            self._pair(answer)
            self._left = None
            await self._describe("answer", answer)

    def _pair(self, description: dict[str, Any]) -> None:
        session = description.get("session")
        self._theirs = session if isinstance(session, str) else None
        self._paired = True

    # Offers of theirs

    async def _offered(self, offer: dict[str, Any]) -> None:
        session, re, n = offer.get("session"), offer.get("re"), offer.get("n")
        if re is not None and re != self.session:
            # It means a connection that we had before. An offer of ours tells which there is now.
            if self._paired or self._left is None:
                await self._begin_and_open()
        elif offer.get("type") == "request":
            if offer.get("restart"):
                await self._begin_and_open()  # aiortc cannot restart ICE
            elif self._left is None:
                await self._make_offer()
        elif self._answer is not None and n is not None and (session, n) == self._last_offer:
            self._say("answer", self._answer)
        elif self._paired and session != self._theirs:
            await self._begin()  # the peer began anew
            await self._take(offer)
        elif self._left is None:
            await self._take(offer)
        elif self._yields(session):
            if re is not None:  # it has taken ours, and its answer was lost
                await self._repeat()
            else:
                await self._begin()
                await self._take(offer)

    def _yields(self, session: object) -> bool:
        """Whether an offer of ours stands back.

        Where the other side knows no sessions nobody knows whether it is polite; its offer counts,
        since it may not be able to take it back. Later ones of ours are not to be lost.
        """
        return not self._paired and (self._polite or session is None)

    async def _take(self, offer: dict[str, Any]) -> None:
        self._pair(offer)
        self._last_offer = (offer.get("session"), offer.get("n"))
        self._answer = None
        is_first = not self._pc.getTransceivers()
        await self._describe("offer", offer)
        if is_first:
            self._outgoing = self._send()
        self._attach()
        await self._pc.setLocalDescription(await self._pc.createAnswer())
        sdp = self._pc.localDescription.sdp
        self._answer = {"type": "answer", "sdp": sdp, "n": offer.get("n")}
        self._say("answer", self._answer)

    def _attach(self) -> None:
        """Send what there is by the transceivers of their offer, and refuse what is not wanted.

        What nobody takes from a track that comes would pile up.
        """
        waiting = {track.kind: track for track in self._outgoing}
        for transceiver in self._pc.getTransceivers():
            track = transceiver.sender.track or waiting.get(transceiver.kind)
            if track is not None:
                transceiver.sender.replaceTrack(track)
            receives = "recvonly" if self._receives else "inactive"
            sends = "sendrecv" if self._receives else "sendonly"
            transceiver.direction = sends if track is not None else receives

    async def _describe(self, type_: str, description: dict[str, Any]) -> None:
        await self._pc.setRemoteDescription(RTCSessionDescription(description["sdp"], type_))
        if self.is_up:
            self._connected(tuple(self._incoming))
        early, self._early = self._early or [], None
        for candidate in early:
            await self._candidate(candidate)

    # Candidates

    async def _candidate(self, candidate: dict[str, Any]) -> None:
        """Add it, or keep it until there is a description for it; an empty one says: no more."""
        if candidate.get("re", self.session) != self.session:
            return
        if self._early is not None:
            self._early = [*self._early, candidate][-_EARLY:]
        elif candidate.get("candidate") and candidate.get("session") == self._theirs:
            parsed = candidate_from_sdp(candidate["candidate"].removeprefix("candidate:"))
            parsed.sdpMid = candidate.get("sdpMid")
            parsed.sdpMLineIndex = candidate.get("sdpMLineIndex")
            await self._pc.addIceCandidate(parsed)
