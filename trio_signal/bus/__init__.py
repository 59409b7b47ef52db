"""Bus: how the hub of one replica learns what the other replicas do.

Each replica owns its peers and is the authority on them. The bus has two duties. It is the
*transport*: it carries a room's events to the other replicas with peers in that room. And it is the
*directory*: it records who is in which room on which replica, so that newcomers receive the full
member list and caps count the peers of all replicas.

The contract, for every implementation:

- `join` is atomic. It checks the caps and the peer id, enters the member, and publishes `Joined` to
  the room's other replicas. Then it puts the member into this replica's `Room`, which by then has
  the members of other replicas at that moment, and calls `admit`. From then on until `forget`, the
  bus applies the changes of other replicas in that room, each once and in its order, and passes
  them to `deliver` while this replica has members in the room. Events about a peer id from before
  it joined here are not delivered afterwards.
- `publish` never blocks and never raises. Events of one room from one replica arrive in order,
  once. Events that change who is there or who is live change the directory as well.
- `send` goes to one replica only, and keeps the same order. A signal is either delivered or
  returned once as `Undelivered`: within three seconds, even if the other replica is silent, or
  within eight if this replica lost a connection to Redis meanwhile or Redis is slow to answer.
- `broadcast` goes to all other replicas; a replica that cannot be reached may miss it.
- A replica never receives what it published itself. It changes its own members in the room before
  it publishes.
- After a `reserved` peer id has left, for whatever reason, only its subject may use it for
  `RESERVED_SECONDS` more. Banned users are refused, and so are newcomers to a locked room. The
  number of reservations, bans and locks is bounded: beyond the bound, those that would end first
  are dropped.
- `deliver` is never called from inside `publish`. `deliver` and `admit` do not block.
- If `deliver` raises, the error is logged and delivery continues with the next event.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, NamedTuple, Protocol

import trio
from msgspec import Meta, Struct

from trio_signal.bus.handover import HandoverBus
from trio_signal.bus.names import Letter, NameBus, NameClaimed, Receipt
from trio_signal.messages.commands import LeaveCause
from trio_signal.messages.events import (
    Listening,
    Moved,
    OnlineHere,
    PrivateEvent,
    Published,
    RoomEvent,
    ServerSaid,
    Signalled,
    UserChanged,
)
from trio_signal.messages.handover import NotGiven, Offered, Parcel
from trio_signal.messages.identity import Member, Name, Revision
from trio_signal.messages.records import RoomCount
from trio_signal.messages.relay import DirectAsked, DirectDecided, RelayLoads
from trio_signal.messages.states import StatesAsked, StatesTold
from trio_signal.metrics import Histogram
from trio_signal.room import Room


class Caps(NamedTuple):
    """How many peers a room admits; `viewers` counts the peers that are not live."""

    peers: int
    viewers: int | None = None


class Undelivered(Struct, frozen=True, tag=True):
    """A signal came back: its target is gone."""

    signal: Signalled


class Kicked(Struct, frozen=True, tag=True):
    """Removes a peer of another replica from a room, for a moderator or the site's backend."""

    room_id: Name
    target: Member
    reason: str
    cause: LeaveCause = LeaveCause.KICKED


class Emptied(Struct, frozen=True, tag=True):
    """Removes all peers of a replica from a room, for the site's backend."""

    room_id: Name
    reason: str


class Held(Struct, frozen=True, tag=True):
    """A user is banned from a room; without a digest, the room is locked for newcomers.

    `until` is in seconds since 1970. A time in the past lifts the ban or the lock.
    """

    room_id: Name
    until: Annotated[float, Meta(ge=0, le=1e11)]
    digest: Name | None = None


class RoomsKept(Struct, frozen=True, tag=True):
    """A user's connection was lost; a newer connection of the same user may claim its rooms.

    `heard` is when the lost connection was last heard from, in seconds since 1970.
    """

    user_id: Name
    replica: Name
    heard: Annotated[float, Meta(ge=0, le=1e11)]


class RoomChanged(NamedTuple):
    """Other replicas changed a room or published in it; the `Room` has the changes already.

    Without events there is nothing to announce: members of this replica were taken over.
    """

    room_id: str
    events: Sequence[RoomEvent]


class ReplicaLost(NamedTuple):
    """Another replica is gone without closing; this one removed its members from their rooms.

    `heard` is when that replica was last heard from, in seconds since 1970.
    """

    replica: str
    heard: float
    #: Each member with its room.
    members: tuple[tuple[str, Member], ...]


def count_of(room_id: str, members: Collection[Member]) -> RoomCount:
    """Count these members, which must be in the order of joining."""
    users = {member.user_id for member in members}
    live = {member.user_id for member in members if member.live}
    since = next((member.joined_at for member in members), "")
    return RoomCount(room_id, len(members), len(users), len(live), since)


#: What goes to one replica, and what goes to all others.
Direct = (
    Signalled
    | Undelivered
    | Kicked
    | Emptied
    | ServerSaid
    | PrivateEvent
    | Listening
    | Letter
    | Receipt
    | NameClaimed
    | Parcel
    | NotGiven
    | Offered
    | StatesAsked
    | StatesTold
    | DirectAsked
    | DirectDecided
)
Broadcast = PrivateEvent | UserChanged | Moved | OnlineHere | StatesAsked | RelayLoads
Delivery = RoomChanged | Published | RoomsKept | ReplicaLost | Direct | Broadcast
Deliver = Callable[[Delivery], None]
#: Announces a newcomer to the members of this replica.
Admit = Callable[[Sequence[RoomEvent]], None]


class Posted(NamedTuple):
    """A newer revision is current; if `late`, it was made a while ago and may be known already."""

    revision: Revision
    late: bool


class Counted(NamedTuple):
    """How many users have acknowledged an announcement."""

    announcement_id: str
    acknowledged: int


class BusStatistics(NamedTuple):
    """The state of the connections to the other replicas, for metrics; counters never reset."""

    #: Whether the connection for commands is up, and the one for published messages.
    commands_connected: bool
    events_connected: bool
    #: How often either connection was lost.
    losses: int
    #: Seconds of the last round trip; None before the first one.
    round_trip: float | None
    #: Seconds since the lease was renewed; None before the first lease.
    lease_age: float | None
    #: Bytes waiting to be sent, and received bytes waiting to be processed.
    send_bytes: int
    receive_bytes: int
    #: Messages missing by their numbers, messages dropped because the inbox was full, and commands
    #: dropped because the send queue was full.
    missing: int
    overflows: int
    dropped: int
    #: Values in Redis that could not be decoded, by expected kind.
    unreadable: Mapping[str, int]
    #: Rooms that are stale.
    stale_rooms: int
    #: Seconds from publishing to receiving, measured once a second with a message to itself.
    delivery: Histogram


class Board(Protocol):
    """What replicas share about announcements.

    A board may forget everything at any time, and calls `resync` then; the store keeps what must
    last. Methods that block raise BoardError after a second at most.
    """

    @property
    def reachable(self) -> bool:
        """Whether the board can be asked, as far as is known."""
        ...

    async def run(self) -> None:
        """Keep this replica's users on the board, until cancelled."""
        ...

    def listen(self, hear: Callable[[Posted | Counted], None], resync: Callable[[], None]) -> None:
        """Call `hear` for each post and count from now on, including this replica's own.

        `resync` is called when something may have been missed or forgotten. Neither may block.
        """
        ...

    async def post(self, revision: Revision, *, late: bool = False) -> Revision:
        """Post a revision unless a newer one is current; return the current one."""
        ...

    async def holding(self) -> Revision | None:
        """Return the current revision."""
        ...

    async def acknowledge(self, announcement_id: str, user_ids: Collection[str]) -> None:
        """Record that users have acknowledged, and publish how many have."""
        ...

    async def acknowledged(self, announcement_id: str, user_ids: Collection[str]) -> set[str]:
        """Return which of these users have acknowledged."""
        ...

    def add_user(self, user_id: str) -> None:
        """Count a user who receives announcements through this replica. Does not block."""
        ...

    def remove_user(self, user_id: str) -> None:
        """Stop counting a user of this replica. Does not block."""
        ...

    async def count_users(self) -> int:
        """Count the users who receive announcements on all replicas; does not ask the replicas."""
        ...


class TopicBus(Protocol):
    """Publishing on topics across replicas, and how many subscribe to each."""

    def count(self, counts: Mapping[str, int]) -> None:
        """Set how many connections here subscribe to each of these topics. Does not block."""
        ...

    async def settle(self, topics: Collection[str]) -> None:
        """Wait, for a bounded time, until other replicas' messages on these topics arrive here."""
        ...

    def publish(self, published: Published, told: Callable[[int], None]) -> None:
        """Publish to the subscribers on other replicas. Does not block.

        `told` is called once, perhaps before this returns, with the number of subscribers on all
        replicas; the caller delivers to its own subscribers then. Messages of one replica keep
        their order.
        """
        ...


class RoomHolds(Protocol):
    """Who is banned from rooms, and which rooms are locked, on all replicas."""

    def ban(self, room_id: str, member: Member, seconds: float) -> None:
        """Ban the identity of this member from a room, in every dialect. Never blocks.

        The ban takes effect before anything that this replica sends afterwards.
        """
        ...

    async def is_banned(self, room_id: str, subject: str, user_id: str) -> bool:
        """Whether an identity is banned from a room; `subject` belongs to no dialect."""
        ...

    def lock(self, room_id: str, *, locked: bool) -> None:
        """Lock a room for newcomers, for `LOCK_SECONDS` at most, or unlock it. Never blocks.

        Keeps the same order as bans. A peer that joins at the same time is in the room before the
        lock, on all replicas, or is refused.
        """
        ...

    async def is_locked(self, room_id: str) -> bool:
        """Whether a room refuses newcomers."""
        ...


class Bus(Protocol):
    """See the contract above."""

    replica: str

    @property
    def names(self) -> NameBus:
        """The directory of names, which are independent of rooms."""
        ...

    @property
    def handover(self) -> HandoverBus | None:
        """How sessions move to other replicas; None if there is only one replica."""
        ...

    @property
    def following(self) -> Collection[tuple[str, str]]:
        """Peers, as room and peer id, with signals still in flight to the replica that they left.

        Signals to these peers go through `send`, even if the peer is of this replica.
        """
        ...

    @property
    def topics(self) -> TopicBus:
        """Publishing by topic, which is independent of rooms."""
        ...

    @property
    def board(self) -> Board | None:
        """What replicas share about announcements; None if there is only one replica."""
        ...

    @property
    def holds(self) -> RoomHolds:
        """Who is banned from rooms, and which rooms are locked."""
        ...

    @property
    def degraded(self) -> str | None:
        """Why the view of other replicas may be out of date; None if all is well."""
        ...

    def statistics(self) -> BusStatistics | None:
        """Return the state of the connections; None if there is only one replica."""
        ...

    async def run(
        self, deliver: Deliver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; `deliver` receives what other replicas publish and send."""
        ...

    async def retire(self) -> None:
        """Remove everything of this replica from the directory.

        Call it when all its members have left, while `run` still runs.
        """
        ...

    async def join(self, room: Room, member: Member, caps: Caps, admit: Admit) -> None:
        """Enter a room, then call `admit` once; raises JoinRefusedError.

        `room` is this replica's own `Room` of that id, the same object from its first join until
        `forget`. A peer id that is present under the same subject is taken over. If this is
        cancelled, the member may be in the directory: publish its `Left`.
        """
        ...

    def forget(self, room_id: str) -> None:
        """Stop following a room that has no members of this replica, and none entering."""
        ...

    def publish(self, event: RoomEvent) -> None:
        """Publish an event to the room's other replicas, and update the directory."""
        ...

    def send(self, replica: str, delivery: Direct) -> None:
        """Send to one replica."""
        ...

    def broadcast(self, event: Broadcast | RoomsKept) -> None:
        """Send to all other replicas. Never blocks."""
        ...

    async def members(self, room_id: str) -> tuple[Member, ...]:
        """All members of a room on all replicas, in the order of joining."""
        ...

    async def live(self, room_id: str) -> tuple[Member, ...]:
        """The live members of a room, in the order of joining; reads no other records."""
        ...

    async def room_ids(self) -> list[str]:
        """The rooms that have members, sorted, without the server's internal rooms."""
        ...

    async def count_members(self, room_ids: Sequence[str]) -> list[RoomCount]:
        """Count the members of these rooms; empty rooms are left out.

        Reads the members only of rooms that have changed since the last count.
        """
        ...

    async def count_rooms(self) -> int:
        """Count the rooms that have members, cheaply."""
        ...
