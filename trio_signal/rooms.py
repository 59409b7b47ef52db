"""Rooms: those in which this replica has peers, and how their events are sent."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from trio_signal.bus import Bus
from trio_signal.local_room import LocalRoom
from trio_signal.messages.commands import Close, Signal
from trio_signal.messages.events import Refusal, RoomEvent, Signalled
from trio_signal.messages.identity import Member
from trio_signal.metrics import Metrics
from trio_signal.participant import Participant


class Relaying(Protocol):
    """Broadcasts through media servers, as the rooms see them. Nothing blocks."""

    @property
    def most_viewers(self) -> int:
        """Maximum viewers of one broadcast."""
        ...

    def hear(self, room: LocalRoom, event: RoomEvent) -> None:
        """Receive an event of a room, before its peers do."""
        ...

    def take(
        self, room: LocalRoom, sender: Member, target: Member | Refusal | None, command: Signal
    ) -> bool:
        """Take the signal if it is for a media server; return whether it is."""
        ...

    def intercepts(self, room: LocalRoom, signal: Signalled) -> bool:
        """Whether a signal from another replica comes from a relayed viewer."""
        ...

    def want(self, room: LocalRoom, broadcaster: Member, viewer: Member) -> None:
        """Process a viewer's request for a broadcast, which a media server may serve."""
        ...

    def withholds(self, room: LocalRoom, broadcaster: str, viewer: str) -> bool:
        """Whether to hide a viewer from a broadcaster here, because the viewer is relayed."""
        ...


class Rooms(dict[str, LocalRoom]):
    """The rooms of this replica, by id. Only `live_in` blocks."""

    def __init__(self, bus: Bus, metrics: Metrics) -> None:
        """Start without rooms."""
        super().__init__()
        self._bus = bus
        self.replica = bus.replica
        self._metrics = metrics
        #: Whether the server is stopping, and should get no more clients.
        self.is_stopping = False
        #: How to close peers, once the server is closing connections.
        self.closing: Close | None = None
        #: Broadcasts through media servers, if there are any.
        self.relays: Relaying | None = None

    @contextmanager
    def entering(self, room_id: str) -> Iterator[LocalRoom]:
        """The room, made if needed, and kept at least until the block ends."""
        room = self.get(room_id)
        if room is None:
            room = self[room_id] = LocalRoom(room_id, self._bus.replica, self._metrics)
        room.joining += 1
        try:
            yield room
        finally:
            room.joining -= 1
            self.drop_if_empty(room)

    def drop_if_empty(self, room: LocalRoom) -> None:
        """Forget a room if no peer of this replica is left in it, or about to join."""
        if not room.peers and not room.joining and self.get(room.id) is room:
            del self[room.id]
            self._bus.forget(room.id)

    async def live_in(self, room_id: str) -> Sequence[Member]:
        """The live members of a room. Blocks on the directory if no peer here is in the room."""
        room = self.get(room_id)
        return room.live if room is not None and room.peers else await self._bus.live(room_id)

    def find(self, peer: Participant, room_id: str) -> tuple[LocalRoom, Member] | None:
        """The room and the peer's member in it; None if the peer is not in the room."""
        peer_id = peer.memberships.get(room_id)
        if peer_id is None:
            return None
        room = self[room_id]
        return room, room.members[peer_id]

    def tell(self, peer: Participant, room: LocalRoom, events: Iterable[RoomEvent]) -> None:
        """Send events to all peers, on all replicas; `peer` caused them, and pays for them."""
        for event in events:
            self._bus.publish(event)
            self.tell_at_cost(peer, room, event)

    def tell_at_cost(
        self, peer: Participant, room: LocalRoom, event: RoomEvent, *, to_resuming: bool = True
    ) -> None:
        """Send an event to the peers here; `peer` pays for the receivers on all replicas."""
        peer.owes += self._tell_one(room, event, to_resuming=to_resuming)

    def tell_here(self, room: LocalRoom, events: Iterable[RoomEvent]) -> None:
        """Send events to the peers here, free of charge."""
        for event in events:
            self._tell_one(room, event)

    def _tell_one(self, room: LocalRoom, event: RoomEvent, *, to_resuming: bool = True) -> float:
        if self.relays is not None:
            self.relays.hear(room, event)
        origin = event.sender if isinstance(event, Signalled) else event.member
        return room.tell(event, origin.user_id, origin.peer_id, to_resuming=to_resuming)
