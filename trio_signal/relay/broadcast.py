"""Broadcast: relays one broadcaster of this replica, from the first viewer to the last."""

import logging
import sys
from collections.abc import Collection

import trio
from msgspec.structs import replace

from trio_signal.clock import utc_now
from trio_signal.local_room import LocalRoom
from trio_signal.messages.identity import Member, Route
from trio_signal.messages.relay import DirectDecided
from trio_signal.relay import Ingest, Lost, Node, RelayError, Up
from trio_signal.relay.counterpart import Counterpart
from trio_signal.relay.parts import ASK_AGAIN_AFTER, MOST_CANDIDATES, UP_WITHIN, Failure, Parts
from trio_signal.relay.route import (
    Candidate,
    Description,
    Places,
    can_be_relayed,
)
from trio_signal.supervision import supervise

logger = logging.getLogger(__name__)

#: Seconds without a relayed viewer after which the ingest is closed.
IDLE = 30.0
#: Seconds before another ingest is tried: the first pause, the longest one, and how long an ingest
#: must have worked to start again with the first.
_FIRST_PAUSE, _LONGEST_PAUSE, _SETTLED = 0.2, 5.0, 30.0
#: After how many failures in a row, and how many seconds after the first, all viewers are served
#: directly.
_TRIES, _PATIENCE = 3, 10.0
#: The same as `ASK_AGAIN_AFTER` for clients that make another peer connection whenever they are
#: asked. They get more time, since the first one may just be slow. Each time the media server has
#: another id: otherwise they would take the answer to the first offer for that to the second.
_ASK_ANEW_AFTER = (12.0, 24.0)
#: Seconds between two checks for a usable media server.
_LOOKING = 0.25


class Broadcast:
    """A broadcast of a peer here: which viewers are direct, and its way to the media server.

    Only its task blocks; `begin` starts it, when `is_wanted` says so.
    """

    def __init__(self, parts: Parts, room: LocalRoom, member: Member) -> None:
        """Place the viewers that are in the room already."""
        self._parts = parts
        self.room = room
        self.peer_id = member.peer_id
        #: Distinguishes this broadcast from the peer's next one.
        self.started_at = member.live.started_at if member.live is not None else ""
        self._is_exclusive = member.live is not None and member.live.exclusive
        self.places = Places(member)
        self.counterpart = Counterpart(room, member.peer_id)
        #: The client cannot offer to a media server: all viewers are direct.
        self._is_impossible = not can_be_relayed(member)
        self.scope: trio.CancelScope | None = None
        self._idle_since: float | None = None
        #: The broadcaster's last offer, until it is processed, and the id of its peer connection.
        self._offer: Description | None = None
        self._offered = trio.Event()
        self._session = ""
        #: The ingest that has answered the broadcaster; candidates wait for it.
        self._ingest: Ingest | None = None
        self._candidates: list[object] = []
        self._why: Failure | None = None
        #: When ingests have ended since media reached one.
        self._failed_at: list[float] = []
        route = member.live.route if member.live is not None else None
        self._epoch = route.epoch if route is not None else 0
        if route is not None:  # the broadcaster came from another replica
            self.places.keep(route.direct, room.members)
            self._set_route(None)
        else:
            for viewer in room.members.values():
                self.places.take(viewer, self._limit)
        room.relayed[self.peer_id] = self.places.relayed
        self._warn(self.places.relayed)

    # Direct or relayed

    @property
    def _limit(self) -> int:
        """How many viewers are served directly."""
        parts = self._parts
        if self._is_impossible and not self._is_exclusive:
            return sys.maxsize  # as without a media server
        is_relayed = parts.nodes.is_usable(trio.current_time()) and not self._is_impossible
        return parts.limits.direct if is_relayed else parts.limits.most_direct

    @property
    def is_on(self) -> bool:
        """Whether the peer is still here, and live with this broadcast."""
        room = self._parts.rooms.get(self.room.id)
        me = room.own.get(self.peer_id) if room is self.room else None
        return me is not None and me.live is not None and me.live.started_at == self.started_at

    @property
    def is_wanted(self) -> bool:
        """Whether to start the task."""
        return self.scope is None and bool(self.places.relayed) and not self._is_impossible

    def seat(self, viewer: Member) -> None:
        """Place a new viewer: direct or relayed. One that has gone live loses its place."""
        was_relayed = viewer.peer_id in self.places.relayed
        self.places.forget_gone(self.room.members)
        me = self.room.members.get(self.peer_id)
        if was_relayed and viewer.live is not None and me is not None and me.relays:
            self.counterpart.serve_directly(viewer)  # others learn it from the event itself
        if self.places.take(viewer, self._limit):
            self._warn([viewer.peer_id])
        self._tell_direct()

    def _warn(self, viewers: Collection[str]) -> None:
        """Prepare a client that offers to all viewers, before these viewers are announced to it."""
        me = self.room.members.get(self.peer_id)
        if viewers and me is not None and me.relays:
            self.counterpart.ask(viewers)

    def promote(self, peer_id: str) -> bool:
        """Serve a relayed viewer directly if a place is free; return whether it is direct now."""
        viewer = self.room.members.get(peer_id)
        if viewer is None or not self.places.promote(viewer, self._limit):
            return False
        self._tell_direct()
        self.counterpart.serve_directly(viewer)
        return True

    def pass_time(self, now: float) -> list[DirectDecided]:
        """Close what nobody needs any more; return the viewers that must become direct."""
        self.places.forget_gone(self.room.members)
        if self.scope is None or self.places.relayed:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        elif now >= self._idle_since + IDLE:
            self.scope.cancel(reason="nobody is relayed any more")
        if self._limit <= self._parts.limits.direct:
            return []
        return [
            DirectDecided(self.room.id, self.peer_id, viewer, granted=True)
            for viewer in [*self.places.relayed]
            if self.promote(viewer)
        ]

    def _tell_direct(self) -> None:
        me = self.room.members.get(self.peer_id)
        if me is not None and me.live is not None and me.live.route is not None:
            self._set_route(replace(me.live.route, direct=self.places.direct))

    def _set_route(self, route: Route | None) -> None:
        """Announce to all replicas where the broadcast is."""
        me = self.room.own.get(self.peer_id)
        if me is None or me.live is None or me.live.started_at != self.started_at:
            return
        self._parts.tell(self.room, self.room.route(self.peer_id, route, utc_now()))

    # Messages from and to the broadcaster
    def take(self, said: Description | Candidate | None) -> None:
        """Process a message of the broadcaster to the media server."""
        match said:
            case Description(type="offer"):
                if said.session != self._session:  # of another peer connection
                    self._ingest = None
                    self._candidates.clear()
                self._offer = said
                self._offered.set()
            case Candidate(candidate=candidate) if self._ingest is not None:
                self._ingest.candidate(candidate)
            case Candidate(candidate=candidate) if len(self._candidates) < MOST_CANDIDATES:
                self._candidates.append(candidate)

    def again(self) -> None:
        """The broadcaster has started again: what it sent to the media server is void."""
        if self.scope is not None and self.counterpart.is_known:
            self.counterpart.ask(self.places.relayed)
        elif self._is_impossible:
            me = self.room.members.get(self.peer_id)
            self._is_impossible = me is None or not can_be_relayed(me)

    # Its task

    def begin(self, nursery: trio.Nursery) -> None:
        """Start its task."""
        self.scope = trio.CancelScope()
        nursery.start_soon(self.run, self.scope, name="relayed broadcast")

    async def run(self, scope: trio.CancelScope) -> None:
        """Publish the broadcast to a media server, or if that fails to another; until cancelled."""
        with scope:
            await supervise("a relayed broadcast", self._serve, self._start_over)
        if self.scope is scope:
            self.end()

    def end(self) -> None:
        """Stop relaying."""
        if self.scope is not None:
            self.scope.cancel(reason="the broadcast is over")
        self.scope = None
        self._start_over()

    def _start_over(self) -> None:
        """Forget what was negotiated, and tell the broadcaster and the room."""
        self._ingest, self._session, self._offer = None, "", None
        self._set_route(None)
        self.counterpart.dismiss()

    async def _serve(self) -> None:
        avoid: tuple[str, ...] = ()
        pause = _FIRST_PAUSE
        while not self._is_impossible:
            began = trio.current_time()
            node = self._parts.choose(avoid)
            if node is None:
                await trio.sleep(_LOOKING)
                continue
            self._expect(Failure.LOST)
            await self._publish(node)
            if self._why is None:  # publish the broadcaster's new peer connection
                self._set_route(None)
                continue
            self._parts.count(self._why, "broadcast")
            self._start_over()
            self._is_impossible = self._why in (Failure.UNANSWERED, Failure.NO_MEDIA)
            self._failed_at.append(trio.current_time())
            first, last = self._failed_at[0], self._failed_at[-1]
            if len(self._failed_at) >= _TRIES and last >= first + _PATIENCE:
                logger.warning("no media server receives a broadcast: all viewers become direct")
                self._failed_at.clear()
                self._is_impossible = True
            avoid = (node.name,)
            if trio.current_time() > began + _SETTLED:
                pause = _FIRST_PAUSE
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _publish(self, node: Node) -> None:
        """Publish to a node until that fails; `_why` says why."""
        with node.ingest(f"{self.room.id} {self.peer_id}"[:200]) as ingest:
            offer = await self._first_offer()
            if offer is None:
                self._why = Failure.UNANSWERED
                return
            if not offer.sends_media:
                self._why = Failure.NO_MEDIA
                return
            began = trio.current_time()
            self._session = offer.session
            if not await self._put(ingest, offer):
                return
            self._epoch += 1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._negotiate, ingest, nursery.cancel_scope)
                await self._follow(ingest, node, began)
                nursery.cancel_scope.cancel(reason="the ingest is over")

    async def _first_offer(self) -> Description | None:
        """The broadcaster's offer, asked for repeatedly. None if it makes none."""
        if self._offer is not None:
            return await self._next_offer()
        me = self.room.members.get(self.peer_id)
        repeats = me is not None and me.relays
        for number, seconds in enumerate(ASK_AGAIN_AFTER if repeats else _ASK_ANEW_AFTER):
            while (peer := self.counterpart.peer) and peer.is_away:  # noqa: ASYNC110
                await trio.sleep(_LOOKING)
            if number and not repeats:
                self.counterpart.dismiss()
                self._candidates.clear()
            self.counterpart.ask(self.places.relayed)
            with trio.move_on_after(seconds):
                return await self._next_offer()
        return None

    def _expect(self, why: Failure) -> None:
        self._why = why

    async def _next_offer(self) -> Description:
        while self._offer is None:
            self._offered = trio.Event()
            await self._offered.wait()
        offer, self._offer = self._offer, None
        return offer

    async def _put(self, ingest: Ingest, offer: Description) -> bool:
        """Publish the offer, or change what is published; return whether the node accepted it."""
        try:
            answer = await ingest.offer(offer.sdp)
        except RelayError as error:
            logger.warning("a media server refused a broadcast: %s", error)
            self._why = Failure.REFUSED
            return False
        self.counterpart.answer(answer)
        self._ingest = ingest
        candidates, self._candidates = self._candidates, []
        for candidate in candidates:
            ingest.candidate(candidate)
        return True

    async def _negotiate(self, ingest: Ingest, over: trio.CancelScope) -> None:
        """Process further offers; an offer of another peer connection needs another ingest."""
        while True:
            offer = await self._next_offer()
            if offer.session != self._session:
                self._parts.charge(self.counterpart.peer, 1 + len(self.places.relayed))
                self._offer, self._why = offer, None
                break
            if not await self._put(ingest, offer):
                break
        over.cancel(reason="another offer")

    async def _follow(self, ingest: Ingest, node: Node, began: float) -> None:
        """Announce the ingest to all replicas when it is up; return when it is lost."""
        with trio.move_on_after(UP_WITHIN) as waiting:
            async for event in ingest.events:
                if isinstance(event, Up) and waiting.deadline < float("inf"):
                    waiting.deadline = float("inf")
                    self._failed_at.clear()
                    self._parts.set_up("broadcast", trio.current_time() - began)
                    direct = self.places.direct
                    self._set_route(Route(node.name, ingest.feed, self._epoch, direct))
                elif isinstance(event, Lost):
                    logger.warning("a media server lost a broadcast: %s", event.reason)
                    return
        if waiting.cancelled_caught:
            self._why = Failure.NOT_CONNECTED
