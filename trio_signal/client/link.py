"""How a program and one peer negotiate a peer connection. Runs in asyncio's thread.

It follows the rules of the browser client, with its additional fields in signals: `session` names
this RTCPeerConnection, `re` the other side's, and `n` counts our offers.

aiortc cannot roll back an offer. So if two first offers cross, the polite side starts again with a
new RTCPeerConnection. Once both sides know each other, only the impolite side makes offers, and the
polite one asks for them. Inputs are processed one after the other, so there are only two states: an
offer of ours is pending, or not.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, Literal

from aiortc import MediaStreamTrack, RTCIceServer

from trio_signal.client.peer_connection import PeerConnection

logger = logging.getLogger(__name__)

Kind = Literal["offer", "answer", "candidate"]

#: Seconds before an offer is repeated, and how often: signals may be lost.
_ANSWER_WITHIN = 3.0
_TIMES = 5
#: How many inputs may wait.
_WAITING = 500
#: How often a failed connection is restarted without success.
_ATTEMPTS = 5


class Link:
    """A connection to one peer while `run` runs. Not safe in other threads."""

    def __init__(
        self,
        ice_servers: Sequence[RTCIceServer],
        *,
        polite: bool,
        tell: Callable[[Kind, dict[str, Any]], None],
        send: Callable[[], list[MediaStreamTrack]],
        receives: bool,
        connected: Callable[[Sequence[MediaStreamTrack]], None],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """`send` makes the tracks for a new connection; they belong to the link then.

        `connected` receives the incoming tracks whenever a connection is up. `ended` is called when
        the connection has failed, or the peer has closed it. None of them may block.
        """
        self._ice_servers = ice_servers
        self._polite = polite
        self._tell = tell
        self._send = send
        self._receives = receives
        self._connected = connected
        self._ended = ended
        self._inputs = asyncio.Queue[Callable[[], Awaitable[None]]](_WAITING)
        self._attempts = 0
        self._make()

    def _make(self, early: Sequence[dict[str, Any]] = ()) -> None:
        """Make another connection, which the peer does not know yet."""
        self._connection = PeerConnection(
            self._ice_servers, send=self._send, changed=self._changed, early=early
        )
        self._paired = False
        self._offers = 0
        #: How often the pending offer may still be sent; None if there is none.
        self._left: int | None = None
        self._last_offer: object = None
        self._answer: dict[str, Any] | None = None

    @property
    def session(self) -> str:
        """The name of the present connection."""
        return self._connection.session

    @property
    def is_up(self) -> bool:
        """Whether the connection is up."""
        return self._connection.is_up

    # Inputs, processed in order

    def open(self) -> None:
        """Make an offer, unless one is pending or was answered."""
        self._put(self._open)

    def receive(self, wanted: bool) -> None:
        """Whether to receive media; turning this on restarts the connection."""
        self._put(partial(self._set_receives, wanted))

    def hear(self, kind: Kind, payload: Any) -> None:
        """Process a signal of the peer, which may contain anything."""
        step = {"offer": self._offered, "answer": self._answered, "candidate": self._candidate}
        if isinstance(payload, dict):
            self._put(partial(step[kind], payload))

    def _put(self, step: Callable[[], Awaitable[None]]) -> None:
        with suppress(asyncio.QueueFull):  # nobody needs so many: the peer misbehaves
            self._inputs.put_nowait(step)

    async def run(self) -> None:
        """Process inputs until cancelled, then close the connection."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(lambda: self._connection.close())
            while True:
                step = await self._next()
                try:
                    await step()
                except Exception as error:
                    # A peer may send anything, and aiortc then raises arbitrary exceptions.
                    logger.info("ignoring a signal that does not fit: %r", error)

    async def _next(self) -> Callable[[], Awaitable[None]]:
        patience = _ANSWER_WITHIN if self._left else None
        try:
            return await asyncio.wait_for(self._inputs.get(), patience)
        except TimeoutError:
            return self._repeat

    async def _begin(self) -> None:
        await self._connection.close()
        self._make(self._connection.early or ())  # they may belong to the next offer

    def _changed(self, connection: PeerConnection) -> None:
        if connection is not self._connection:
            return
        if connection.is_up:
            self._attempts = 0
            self._connected(tuple(connection.incoming))
        elif connection.has_ended:
            if connection.has_failed and self._attempts < _ATTEMPTS:
                self._attempts += 1
                self._put(self._begin_and_open)
            self._ended()

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
            self._connected(tuple(self._connection.incoming))
        self._receives = wanted

    # Our offers

    async def _make_offer(self) -> None:
        await self._connection.make_offer(receives=self._receives)
        self._offers += 1
        self._left = _TIMES
        await self._repeat()

    async def _repeat(self) -> None:
        """Send the offer, repeatedly if necessary."""
        if self._left:
            self._left -= 1
            sdp = self._connection.local_sdp
            self._say("offer", {"type": "offer", "sdp": sdp, "n": self._offers})

    def _say(self, kind: Kind, payload: dict[str, Any]) -> None:
        signed, theirs = {**payload, "session": self.session}, self._connection.theirs
        self._tell(kind, signed | ({"re": theirs} if theirs is not None else {}))

    async def _answered(self, answer: dict[str, Any]) -> None:
        """Apply an answer, unless it is for another connection or another offer."""
        if answer.get("re", self.session) != self.session:
            if self._paired and answer.get("session") != self._connection.theirs:
                await self._begin_and_open()  # the sides have different connections
        elif self._left is not None and answer.get("n", self._offers) == self._offers:
            self._pair(answer)
            self._left = None
            await self._connection.describe("answer", answer)

    def _pair(self, description: dict[str, Any]) -> None:
        session = description.get("session")
        self._connection.theirs = session if isinstance(session, str) else None
        self._paired = True

    # The peer's offers

    async def _offered(self, offer: dict[str, Any]) -> None:
        session, re, n = offer.get("session"), offer.get("re"), offer.get("n")
        if re is not None and re != self.session:
            # The offer is for an earlier connection of ours. An offer of ours names the present
            # one.
            if self._paired or self._left is None:
                await self._begin_and_open()
        elif offer.get("type") == "request":
            if offer.get("restart"):
                await self._begin_and_open()  # aiortc cannot restart ICE
            elif self._left is None:
                await self._make_offer()
            else:
                await self._remind()
        elif self._answer is not None and n is not None and (session, n) == self._last_offer:
            self._say("answer", self._answer)
        elif self._paired and session != self._connection.theirs:
            await self._begin()  # the peer has a new connection
            await self._take(offer)
        elif self._left is None:
            await self._take(offer)
        elif self._yields(session):
            if re is not None:  # the peer accepted our offer, and its answer was lost
                await self._repeat()
            else:
                await self._begin()
                await self._take(offer)
        else:
            await self._remind()

    async def _remind(self) -> None:
        """The peer has not got the pending offer: repeat it again if we gave up."""
        if self._left == 0:
            self._left = _TIMES
            await self._repeat()

    def _yields(self, session: object) -> bool:
        """Whether our offer gives way.

        A peer that sends no sessions may not be polite, and may be unable to roll back: its offer
        counts, and our later ones must not be lost.
        """
        return not self._paired and (self._polite or session is None)

    async def _take(self, offer: dict[str, Any]) -> None:
        self._pair(offer)
        self._last_offer = (offer.get("session"), offer.get("n"))
        self._answer = None
        await self._connection.make_answer(offer, receives=self._receives)
        sdp = self._connection.local_sdp
        self._answer = {"type": "answer", "sdp": sdp, "n": offer.get("n")}
        self._say("answer", self._answer)

    async def _candidate(self, candidate: dict[str, Any]) -> None:
        await self._connection.add_candidate(candidate)
