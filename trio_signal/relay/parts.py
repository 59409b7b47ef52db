"""What broadcasts and viewers that are relayed have in common: the room's ways, and the nodes."""

from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import NamedTuple

import trio

from trio_signal.bus import Bus
from trio_signal.local_room import LocalRoom
from trio_signal.messages.events import RoomEvent
from trio_signal.metrics import Metrics
from trio_signal.relay import Node
from trio_signal.relay.nodes import Nodes
from trio_signal.rooms import Rooms

#: Seconds after which what was not answered is said again, each time; after the last it is given
#: up. A viewer of the `stream` dialect ignores offers until its old connection has failed.
ASK_AGAIN_AFTER = (3.0, 6.0, 12.0, 24.0)
#: Seconds from the answer until media can flow.
UP_WITHIN = 15.0
#: Candidates of one client that wait for an answer.
MOST_CANDIDATES = 64


class Failure(Enum):
    """Why a leg is over; the labels of a metric."""

    #: Media flowed, or were about to.
    LOST = "lost"
    #: The media server said no, or nothing.
    REFUSED = "refused"
    #: The client did not take part.
    UNANSWERED = "unanswered"
    NO_MEDIA = "no_media"
    #: No way was found between the client and the media server.
    NOT_CONNECTED = "not_connected"


class Limits(NamedTuple):
    """How many viewers of a broadcast are direct, are so without a media server, and are in all."""

    direct: int
    most_direct: int
    most: int


class Parts:
    """What they work with. Nothing here blocks."""

    def __init__(
        self, rooms: Rooms, bus: Bus, metrics: Metrics, nodes: Nodes, limits: Limits
    ) -> None:
        """Take the parts of the hub."""
        self.rooms = rooms
        self.bus = bus
        self.metrics = metrics
        self.nodes = nodes
        self.limits = limits
        #: The viewers that this replica has at each node.
        self.viewers: Mapping[str, int] = {}

    def choose(self, avoid: Collection[str]) -> Node | None:
        """On which node a broadcast is to live."""
        return self.nodes.choose(self.viewers, avoid, trio.current_time())

    def tell(self, room: LocalRoom, events: Iterable[RoomEvent]) -> None:
        """Tell what a broadcast here has changed, to all replicas."""
        for event in events:
            self.bus.publish(event)
            self.rooms.tell_here(room, [event])

    def count(self, failure: Failure, side: str) -> None:
        """Something failed on the side of the broadcaster or of a viewer."""
        self.metrics.relay_failures[side, failure.value] += 1

    def set_up(self, side: str, seconds: float) -> None:
        """Media can flow, so long after the client had been asked."""
        self.metrics.relay_setup[side].observe(seconds)
