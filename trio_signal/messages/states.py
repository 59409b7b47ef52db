"""Messages between replicas about their state and their peers, requested by operators."""

from msgspec import Struct

from trio_signal.messages.identity import Name


class QualityState(Struct, frozen=True):
    """Call quality, as reported by the clients of one replica since it started."""

    reports: int = 0
    checked: int = 0
    silent: int = 0
    connected: int = 0
    relayed: int = 0
    failed: int = 0
    #: The average round trip in seconds; None if none was reported.
    round_trip: float | None = None


class ReplicaState(Struct, frozen=True):
    """The state of one replica: its health and its load.

    `status` is `ready`, `degraded`, `stopping`, or `silent` if it did not answer in time.
    """

    replica: str
    status: str
    reason: str = ""
    host: str = ""
    version: str = ""
    started_at: str = ""
    connections: int = 0
    away: int = 0
    rooms: int = 0
    peers: int = 0
    live: int = 0
    quality: QualityState = QualityState()


class PeerState(Struct, frozen=True):
    """What only a peer's replica knows: its class of address.

    `away` is for replicas of version 0.2.0, whose members do not have it.
    """

    peer_id: Name
    address_class: str
    away: bool = False


class StatesAsked(Struct, frozen=True, tag=True):
    """An operator's question about the peers of a room, or about all replicas if none is named."""

    id: Name
    replica: Name
    room_id: Name | None = None


class StatesTold(Struct, frozen=True, tag=True):
    """A replica's answer to that."""

    id: Name
    state: ReplicaState
    peers: tuple[PeerState, ...] = ()
