"""Relays: connects the rooms of this replica with media servers.

Events in rooms only mark rooms as changed, and decide who is direct. A task does the rest: it
compares the present legs with the required ones. So it does not matter how a viewer or a
broadcaster came, left, or moved to another replica.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from typing import NoReturn

import trio

from trio_signal.bus import Bus
from trio_signal.clock import utc_now
from trio_signal.local_room import LocalRoom
from trio_signal.messages.commands import Signal
from trio_signal.messages.events import (
    Joined,
    Left,
    News,
    Refusal,
    Rejoined,
    RoomEvent,
    Routed,
    Signalled,
    StoppedLive,
    WentLive,
)
from trio_signal.messages.identity import Member
from trio_signal.messages.relay import DirectAsked, DirectDecided, RelayLoads
from trio_signal.metrics import Metrics
from trio_signal.relay import Node
from trio_signal.relay.broadcast import Broadcast
from trio_signal.relay.nodes import Nodes
from trio_signal.relay.parts import Limits, Parts
from trio_signal.relay.route import (
    ON_DEMAND,
    PUBLISHED,
    RELAY,
    Description,
    can_be_relayed,
    is_for_relay,
    is_relayed,
    is_viewer,
    read_signal,
)
from trio_signal.relay.viewer import RelayedViewer
from trio_signal.relay.viewers import Viewers
from trio_signal.rooms import Rooms
from trio_signal.supervision import supervise

logger = logging.getLogger(__name__)

#: Seconds between two checks of all rooms.
TICK = 0.5
#: Seconds for which changes are collected before they are processed together.
_GATHERING = 0.02
#: Seconds between two reports to the other replicas.
_REPORTING = 5.0


class Relays:
    """The relays of one replica. Only `run` blocks."""

    def __init__(
        self, rooms: Rooms, bus: Bus, metrics: Metrics, nodes: Iterable[Node], limits: Limits
    ) -> None:
        """Use the parts of the hub. The caller runs this object, which runs the nodes."""
        self._rooms = rooms
        self._bus = bus
        self.metrics = metrics
        self.nodes = Nodes(tuple(nodes))
        self._limits = limits
        self._parts = Parts(rooms, bus, metrics, self.nodes, limits)
        #: Broadcasts of peers here, by room and peer id.
        self._broadcasts: dict[tuple[str, str], Broadcast] = {}
        self._viewers = Viewers(self._parts, self._broadcasts, self._ask_direct)
        #: Rooms to check.
        self._changed: set[str] = set()
        self._work = trio.Event()
        self._nursery: trio.Nursery | None = None
        self._reported = float("-inf")

    # Reading
    @property
    def most_viewers(self) -> int:
        """How many viewers may join one broadcast."""
        usable = self.nodes.is_usable(trio.current_time())
        return self._limits.most if usable else self._limits.most_direct

    def choose(self) -> Node | None:
        """Choose the node for one more broadcast; None if none can be used."""
        return self._parts.choose(())

    def counts(self) -> tuple[Counter[str], Counter[str]]:
        """By node: the broadcasts of peers here, and the viewers here."""
        casts = Counter(
            member.live.route.node
            for room in self._rooms.values()
            for member in room.live
            if member.peer_id in room.own and member.live and member.live.route
        )
        return casts, self._viewers.counts()

    def withholds(self, room: LocalRoom, broadcaster: str, viewer: str) -> bool:
        """Whether to hide a viewer from a broadcaster here, because the viewer is relayed."""
        return viewer in room.relayed.get(broadcaster, ())

    # Events in rooms
    def hear(self, room: LocalRoom, event: RoomEvent) -> None:
        """Process an event in a room, before its peers receive it."""
        match event:
            case StoppedLive(member=member):
                if (viewer := room.members.get(member.peer_id)) is not None:
                    self._seat(room, viewer)
            case _ if not room.live:
                return
            case WentLive(member=member):
                self._seat(room, member)
                if member.peer_id in room.own:
                    self._went_live(room, member)
            case Joined(member=member):
                self._seat(room, member)
            case Rejoined(member=member):
                self._seat(room, member)
                self._viewers.renew(room.id, member.peer_id)
            case Left() | Routed():
                pass
            case _:
                return
        self._note(room)

    def _note(self, room: LocalRoom) -> None:
        self._changed.add(room.id)
        self._work.set()

    def _went_live(self, room: LocalRoom, member: Member) -> None:
        if member.dialect == PUBLISHED:
            return
        known = self._broadcasts.get((room.id, member.peer_id))
        if known is not None and member.live and known.started_at == member.live.started_at:
            if member.dialect == "stream":  # its client has closed its peer connections
                known.again()
            return
        self._cast(room, member)

    def _cast(self, room: LocalRoom, member: Member) -> None:
        """A broadcast of a peer here has begun, or came from another replica."""
        old = self._broadcasts.pop((room.id, member.peer_id), None)
        if old is not None:
            old.end()
        broadcast = Broadcast(self._parts, room, member)
        self._broadcasts[room.id, member.peer_id] = broadcast
        self._begin(broadcast)

    def _seat(self, room: LocalRoom, viewer: Member) -> None:
        for caster in room.live:
            broadcast = self._broadcasts.get((room.id, caster.peer_id))
            if broadcast is not None:
                broadcast.seat(viewer)
                self._begin(broadcast)

    def _begin(self, broadcast: Broadcast) -> None:
        if broadcast.is_wanted and self._nursery is not None:
            broadcast.begin(self._nursery)

    # Signals of clients
    def take(
        self, room: LocalRoom, sender: Member, target: Member | Refusal | None, command: Signal
    ) -> bool:
        """Process a signal if it is for a media server; return whether it is."""
        if target is None or command.kind == "message":
            return False
        if isinstance(target, Refusal):
            broadcast = self._broadcasts.get((room.id, sender.peer_id))
            if broadcast is None:
                return False
            if not broadcast.counterpart.is_called(command.target):
                return broadcast.counterpart.was_called(command.target)
            broadcast.take(read_signal(command.kind, command.payload))
            return True
        if target.live is None or not is_viewer(sender, target) or not can_be_relayed(sender):
            return False
        if not is_for_relay(sender, command.wire_type):
            return False
        viewer = self._viewers.get((room.id, target.peer_id, sender.peer_id))
        if viewer is not None:
            viewer.take(read_signal(command.kind, command.payload))
            return True
        if sender.dialect in ON_DEMAND and command.kind in ("offer", "signal"):
            said = read_signal(command.kind, command.payload)
            if isinstance(said, Description) and said.type == "offer":
                self.want(room, target, sender)
        is_marked = command.wire_type == RELAY
        return is_marked or self._is_relayed(room, sender, target)

    def want(self, room: LocalRoom, broadcaster: Member, viewer: Member) -> None:
        """A viewer here requests a broadcast, which a media server may serve."""
        self._viewers.want((room.id, broadcaster.peer_id, viewer.peer_id))
        self._note(room)

    def _is_relayed(self, room: LocalRoom, viewer: Member, caster: Member) -> bool:
        if (room.id, caster.peer_id) in self._broadcasts:
            return self.withholds(room, caster.peer_id, viewer.peer_id)
        route = caster.live.route if caster.live is not None else None
        return route is not None and is_relayed(viewer, caster, route)

    def intercepts(self, room: LocalRoom, signal: Signalled) -> bool:
        """Whether a signal from another replica comes from a relayed viewer."""
        target = signal.target
        if target is None or not is_for_relay(signal.sender, signal.wire_type):
            return False
        return signal.kind != "message" and self.withholds(
            room, target.peer_id, signal.sender.peer_id
        )

    # Messages of other replicas
    def deliver(self, told: DirectAsked | DirectDecided | RelayLoads) -> None:
        """Process a message of another replica, or of this one."""
        match told:
            case RelayLoads():
                self.nodes.take(told, trio.current_time())
            case DirectAsked():
                broadcast = self._broadcasts.get((told.room_id, told.broadcaster))
                granted = broadcast is not None and broadcast.promote(told.viewer)
                decided = DirectDecided(told.room_id, told.broadcaster, told.viewer, granted)
                self._send(told.replica, decided)
            case DirectDecided():
                self._decided(told)

    def _send(self, replica: str, told: DirectAsked | DirectDecided) -> None:
        if replica == self._bus.replica:
            self.deliver(told)
        else:
            self._bus.send(replica, told)

    def _ask_direct(self, viewer: RelayedViewer) -> None:
        caster = viewer.room.members.get(viewer.broadcaster)
        if caster is not None:
            asked = DirectAsked(
                self._bus.replica, viewer.room.id, viewer.broadcaster, viewer.peer_id
            )
            self._send(caster.replica, asked)

    def _decided(self, told: DirectDecided) -> None:
        key = (told.room_id, told.broadcaster, told.viewer)
        viewer = self._viewers.get(key)
        if told.granted:
            if viewer is not None:
                self._viewers.close(key)
            self._have_offer(told)
        elif viewer is not None:
            viewer.refused()

    def _have_offer(self, told: DirectDecided) -> None:
        """Make a page of the `room` dialect send an offer, as it does when a user goes live."""
        room = self._rooms.get(told.room_id)
        peer = room.peers.get(told.viewer) if room is not None else None
        caster = room.members.get(told.broadcaster) if room is not None else None
        if peer is not None and peer.dialect_name == "room" and caster is not None and caster.live:
            live = caster.live
            peer.hear(WentLive(told.room_id, caster, News.AGAIN, live.exclusive, utc_now()))

    # The task

    async def run(self) -> NoReturn:
        """Run the nodes, and bring about the required legs; until cancelled."""
        with ExitStack() as stack:
            stack.callback(self._forget)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for node in self.nodes.all:
                    run = partial(supervise, f"the media server {node.name}", node.run)
                    nursery.start_soon(run)
                tick = trio.current_time()
                while True:
                    with trio.move_on_at(tick):
                        await self._work.wait()
                        await trio.sleep(_GATHERING)
                    self._work = trio.Event()
                    rooms, self._changed = self._changed, set()
                    now = trio.current_time()
                    if now >= tick:
                        tick = now + TICK
                        # Also rooms that were dropped with everybody in them.
                        rooms = {*self._rooms, *self._viewers.rooms}
                        rooms.update(room_id for room_id, _ in self._broadcasts)
                        self._report(now)
                    self._look_at(rooms, now, nursery)

    def _forget(self) -> None:
        """All tasks have ended: nothing is relayed until `run` is called again."""
        self._nursery = None
        for broadcast in self._broadcasts.values():
            broadcast.room.relayed.pop(broadcast.peer_id, None)
        self._broadcasts.clear()
        self._viewers.clear()

    def _look_at(self, ids: set[str], now: float, nursery: trio.Nursery) -> None:
        """Start and stop broadcasts and viewers of these rooms."""
        for key, broadcast in list(self._broadcasts.items()):
            if key[0] in ids and not broadcast.is_on:
                del self._broadcasts[key]
                broadcast.room.relayed.pop(broadcast.peer_id, None)
                broadcast.end()
        for room_id in ids:
            room = self._rooms.get(room_id)
            if room is not None:
                self._cast_all(room, now)
            self._viewers.look_at(room_id, now, nursery)

    def _cast_all(self, room: LocalRoom, now: float) -> None:
        for member in room.live:
            if member.peer_id not in room.own or member.peer_id not in room.peers:
                continue
            if member.dialect == PUBLISHED:
                continue
            broadcast = self._broadcasts.get((room.id, member.peer_id))
            if broadcast is None:
                self._cast(room, member)
                continue
            for decided in broadcast.pass_time(now):
                self._send(room.members[decided.viewer].replica, decided)
            self._begin(broadcast)

    def _report(self, now: float) -> None:
        """Report to the other replicas how many viewers each node serves from here."""
        viewers = self._viewers.counts()
        had_any, self._parts.viewers = bool(self._parts.viewers), viewers
        if now >= self._reported + _REPORTING and (viewers or had_any):
            self._reported = now
            self._bus.broadcast(RelayLoads(self._bus.replica, dict(viewers)))
