"""What relayed broadcasts and viewers share: rooms, bus, metrics, nodes and time limits."""

from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import NamedTuple

import trio

from trio_signal.bus import Bus
from trio_signal.local_room import LocalRoom
from trio_signal.messages.events import RoomEvent
from trio_signal.metrics import Metrics
from trio_signal.participant import Participant
from trio_signal.relay import Node
from trio_signal.relay.nodes import Nodes
from trio_signal.rooms import Rooms

#: Seconds to wait before each repetition of an unanswered message; after the last it fails. A
#: viewer of the `stream` dialect ignores offers until its old peer connection has failed.
ASK_AGAIN_AFTER = (3.0, 6.0, 12.0, 24.0)
#: Seconds from the answer within which media must be able to flow.
UP_WITHIN = 15.0
#: What a new leg costs the client that causes it, in tokens: some requests to the media server,
#: and an offer. A broadcaster can cause one for each viewer, and pays for so many at most.
_LEG_COST, _MOST_LEGS = 8.0, 25
#: How many candidates of one client may wait for an answer.
MOST_CANDIDATES = 64


class Failure(Enum):
    """Why a leg ended; used as labels of a metric."""

    #: Media flowed, or were about to.
    LOST = "lost"
    #: The media server refused, or did not answer.
    REFUSED = "refused"
    #: The client did not answer.
    UNANSWERED = "unanswered"
    NO_MEDIA = "no_media"
    #: No connection between the client and the media server.
    NOT_CONNECTED = "not_connected"


class Limits(NamedTuple):
    """How many viewers of a broadcast are direct, direct without a media server, and allowed."""

    direct: int
    most_direct: int
    most: int


class Parts:
    """The shared objects. Nothing here blocks."""

    def __init__(
        self, rooms: Rooms, bus: Bus, metrics: Metrics, nodes: Nodes, limits: Limits
    ) -> None:
        """Use the parts of the hub."""
        self.rooms = rooms
        self.bus = bus
        self.metrics = metrics
        self.nodes = nodes
        self.limits = limits
        #: This replica's viewers by node.
        self.viewers: Mapping[str, int] = {}

    def choose(self, avoid: Collection[str]) -> Node | None:
        """Choose the node for a broadcast."""
        return self.nodes.choose(self.viewers, avoid, trio.current_time())

    def tell(self, room: LocalRoom, events: Iterable[RoomEvent]) -> None:
        """Publish changes of a broadcast of this replica to all replicas."""
        for event in events:
            self.bus.publish(event)
            self.rooms.tell_here(room, [event])

    def charge(self, peer: Participant | None, legs: int = 1) -> None:
        """Charge a client for legs that it has caused."""
        if peer is not None:
            peer.owes += min(legs, _MOST_LEGS) * _LEG_COST

    def count(self, failure: Failure, side: str) -> None:
        """Count a failure on the broadcaster's or a viewer's side."""
        self.metrics.relay_failures[side, failure.value] += 1

    def set_up(self, side: str, seconds: float) -> None:
        """Record how long it took from the offer until media could flow."""
        self.metrics.relay_setup[side].observe(seconds)
