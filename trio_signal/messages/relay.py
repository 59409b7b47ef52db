"""What replicas tell each other of media servers and of the viewers that these serve."""

from msgspec import Struct

from trio_signal.messages.identity import Name, Number


class DirectAsked(Struct, frozen=True, tag=True):
    """A viewer of this replica gets nothing from the media server: is a direct place free?"""

    replica: Name
    room_id: Name
    broadcaster: Name
    viewer: Name


class DirectDecided(Struct, frozen=True, tag=True):
    """Whether a viewer that was relayed is direct from now on."""

    room_id: Name
    broadcaster: Name
    viewer: Name
    granted: bool


class RelayLoads(Struct, frozen=True, tag=True):
    """How many viewers a replica has at each media server."""

    replica: Name
    viewers: dict[Name, Number]
