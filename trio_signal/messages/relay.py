"""Messages between replicas about media servers and their viewers."""

from msgspec import Struct

from trio_signal.messages.identity import Name, Number


class DirectAsked(Struct, frozen=True, tag=True):
    """A viewer of `replica` gets no media from the media server: may it become direct?"""

    replica: Name
    room_id: Name
    broadcaster: Name
    viewer: Name


class DirectDecided(Struct, frozen=True, tag=True):
    """The answer to that: whether the relayed viewer is direct from now on."""

    room_id: Name
    broadcaster: Name
    viewer: Name
    granted: bool


class RelayLoads(Struct, frozen=True, tag=True):
    """The number of a replica's viewers at each media server."""

    replica: Name
    viewers: dict[Name, Number]
