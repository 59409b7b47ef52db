"""Viewer: serves one viewer of this replica from the media server."""

import logging
from collections.abc import Callable
from itertools import chain, repeat

import trio

from trio_signal.clock import utc_now
from trio_signal.local_room import LocalRoom
from trio_signal.messages.events import RelayFailed, Signalled
from trio_signal.messages.identity import Route
from trio_signal.relay import Lost, Offered, RelayError, Up, Viewing
from trio_signal.relay.parts import ASK_AGAIN_AFTER, MOST_CANDIDATES, UP_WITHIN, Failure, Parts
from trio_signal.relay.route import (
    RELAY,
    Candidate,
    Description,
    is_for_relay,
    keep_session,
    write_description,
)
from trio_signal.supervision import supervise

logger = logging.getLogger(__name__)

#: How many attempts are made before a direct place is requested.
TRIES = 3
#: Seconds before the next attempt; and before starting over if there was no direct place.
_PAUSE, _LONG_PAUSE = 0.5, 30.0
#: Seconds after which a connection does not count as a failed attempt any more.
_SETTLED = 30.0


class RelayedViewer:
    """A viewer of this replica, and its leg at the media server.

    Only `run` blocks.
    """

    def __init__(
        self,
        parts: Parts,
        room: LocalRoom,
        broadcaster: str,
        viewer: str,
        route: Route,
        ask_direct: Callable[["RelayedViewer"], None],
    ) -> None:
        """Take the ids, and where the broadcast is.

        `ask_direct` is called when the media server does not work out; then call `refused` or
        `close`.
        """
        self._parts = parts
        self.room = room
        self.broadcaster = broadcaster
        self.peer_id = viewer
        self.route = route
        self._ask_direct = ask_direct
        #: Whether media flow, as far as is known.
        self.is_up = False
        self._scope = trio.CancelScope()
        #: The scope of one attempt, and of the pause after it.
        self._try = trio.CancelScope()
        self._viewing: Viewing | None = None
        #: The offer to the viewer, whether an answer is due, and the answer until it is processed.
        self._sdp = ""
        self._is_asked = False
        self._answer: Description | None = None
        self._answered = trio.Event()
        #: The answer that was passed to the media server.
        self._taken: Description | None = None
        self._candidates: list[object] = []
        self._why: Failure | None = None

    def close(self) -> None:
        """The viewer is not relayed any more, or gone: close its leg. Does not block."""
        self._scope.cancel(reason="not relayed any more")

    def renew(self) -> None:
        """The viewer wants a new offer, for a new peer connection."""
        self._parts.charge(self.room.peers.get(self.peer_id))
        self._why = None
        self._try.cancel(reason="the viewer wants a new offer")

    def refused(self) -> None:
        """There is no free direct place."""
        peer = self.room.peers.get(self.peer_id)
        caster = self.room.members.get(self.broadcaster)
        if peer is not None and caster is not None:
            peer.tell(RelayFailed(self.room.id, caster, utc_now()))

    def take(self, said: Description | Candidate | None) -> None:
        """Process a signal of the viewer to the broadcaster."""
        match said:
            case Description(type="answer"):
                self._answer = said
                self._answered.set()
            case Description(session=session):  # the viewer's own offer: send it ours instead
                if self._viewing is not None and self._taken is None:
                    self._say()
                elif self._taken is None or session != self._taken.session:
                    self.renew()
            case Candidate(candidate=candidate) if self._taken is not None:
                if self._viewing is not None and self._taken.fits(candidate):
                    self._viewing.candidate(candidate)
            case Candidate(candidate=candidate) if len(self._candidates) < MOST_CANDIDATES:
                self._candidates.append(candidate)

    def _say(self) -> None:
        """Send the offer, in the broadcaster's name."""
        peer, members = self.room.peers.get(self.peer_id), self.room.members
        viewer, caster = members.get(self.peer_id), members.get(self.broadcaster)
        if self._sdp and peer is not None and viewer is not None and caster is not None:
            payload = write_description("offer", self._sdp)
            mark = "" if is_for_relay(viewer, "") else RELAY
            peer.hear(Signalled(self.room.id, "offer", payload, caster, viewer, mark, utc_now()))

    # Its task

    async def run(self) -> None:
        """Serve the viewer, and retry after failures; until closed."""
        with self._scope:
            await supervise("a relayed viewer", self._serve_again, self._forget)

    def _forget(self) -> None:
        """The leg is over."""
        self._viewing, self.is_up = None, False

    async def _serve_again(self) -> None:
        tries = 0
        while True:
            began = trio.current_time()
            self._try = trio.CancelScope()
            self._expect(Failure.LOST)
            with self._try:
                await self._serve()
            if trio.current_time() > began + _SETTLED or self._why is None:
                tries = 0
            if self._why is None:  # the viewer wants another offer
                continue
            self._forget()
            self._parts.count(self._why, "viewer")
            tries += 1
            self._try = trio.CancelScope()
            with self._try:
                if tries >= TRIES:
                    tries = 0
                    self._ask_direct(self)
                    await trio.sleep(_LONG_PAUSE)
                await trio.sleep(_PAUSE)

    def _expect(self, why: Failure) -> None:
        self._why = why

    async def _serve(self) -> None:
        """Serve one leg until it ends; `_why` says why."""
        node = self._parts.nodes.named(self.route.node)
        if node is None:
            logger.error("this replica does not know the media server %s", self.route.node)
            self._why = Failure.REFUSED
            return
        self._taken = None
        self.is_up, self._sdp = False, ""
        began = trio.current_time()
        with node.view(self.route.feed) as self._viewing:
            viewing = self._viewing
            try:
                self._sdp = await viewing.offer()
            except RelayError as error:
                logger.warning("a media server refused a viewer: %s", error)
                self._why = Failure.REFUSED
                return
            # What has come until now is for an offer of an earlier leg.
            self._answer, self._answered = None, trio.Event()
            self._candidates.clear()
            self._is_asked = True
            self._say()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._negotiate, viewing, nursery.cancel_scope)
                await self._follow(viewing, began)
                nursery.cancel_scope.cancel(reason="the leg is over")

    async def _negotiate(self, viewing: Viewing, over: trio.CancelScope) -> None:
        """Pass on the viewer's answers; repeat the offer while there is none."""
        waits = chain(ASK_AGAIN_AFTER, repeat(0.0))
        while True:
            seconds = next(waits) if self._taken is None else UP_WITHIN
            if not seconds:
                self._why = Failure.UNANSWERED
                break
            with trio.move_on_after(float("inf") if self.is_up else seconds):
                await self._answered.wait()
            answer, self._answer = self._answer, None
            self._answered = trio.Event()
            if answer is None and self._taken is None:
                self._say()
            elif answer is None and not self.is_up:
                self._why = Failure.NOT_CONNECTED
                break
            elif answer is None:
                continue
            elif self._taken is not None and self._taken.session != answer.session:
                self.renew()  # another peer connection needs another leg
                break
            elif not self._is_asked:
                continue  # the offer was repeated, and the viewer answers both
            elif not await self._hand_on(viewing, answer):
                break
        over.cancel(reason="no usable answer of the viewer")

    async def _hand_on(self, viewing: Viewing, answer: Description) -> bool:
        self._is_asked = False
        try:
            await viewing.answer(answer.sdp)
        except RelayError as error:
            logger.warning("a media server refused a viewer's answer: %s", error)
            self._why = Failure.REFUSED
            return False
        self._taken = answer
        candidates, self._candidates = self._candidates, []
        for candidate in filter(answer.fits, candidates):
            viewing.candidate(candidate)
        return True

    async def _follow(self, viewing: Viewing, began: float) -> None:
        """Offer again when the tracks change; return when no media flow any more."""
        async for event in viewing.events:
            match event:
                case Up():
                    if not self.is_up:
                        self._parts.set_up("viewer", trio.current_time() - began)
                    self.is_up = True
                case Offered(sdp=sdp):
                    self._sdp, self._is_asked = keep_session(sdp, self._sdp), True
                    self._say()
                case Lost(reason=reason):
                    logger.info("a media server lost a viewer: %s", reason)
                    break
