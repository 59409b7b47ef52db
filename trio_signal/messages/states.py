"""What replicas tell each other of themselves and of their peers, when an operator looks."""

from msgspec import Struct

from trio_signal.messages.identity import Name


class QualityState(Struct, frozen=True):
    """What the clients of one replica reported of their calls since it started."""

    reports: int = 0
    checked: int = 0
    silent: int = 0
    connected: int = 0
    relayed: int = 0
    failed: int = 0
    #: Of calls, in seconds, on average; None if none was reported.
    round_trip: float | None = None


class ReplicaState(Struct, frozen=True):
    """How one replica is: its health, and what it has to do.

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
    """What only a peer's replica knows of it: from what kind of address it came, if it is away."""

    peer_id: Name
    address_class: str
    away: bool


class StatesAsked(Struct, frozen=True, tag=True):
    """An operator looks at a room, or at all replicas if none is named."""

    id: Name
    replica: Name
    room_id: Name | None = None


class StatesTold(Struct, frozen=True, tag=True):
    """What a replica answers to that."""

    id: Name
    state: ReplicaState
    peers: tuple[PeerState, ...] = ()
