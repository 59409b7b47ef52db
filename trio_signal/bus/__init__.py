"""Bus: what one replica's hub knows of the others.

Each replica owns its peers and is the authority on them. The bus has two
duties. It is the *transport* that tells a room's events to the other replicas
with peers in that room. And it is the *directory*: who is in which room on
which replica, so that a newcomer is told of all, and a cap holds for all replicas
together.

The contract, for every implementation:

- `join` is atomic. It checks the caps and the peer id, enters the member, and tells `Joined`
  to the room's other replicas. Then it puts the member into this replica's `Room`, which
  has by now who was there on other replicas at that moment, and calls `admit`. From then on
  until `forget` the bus makes the changes of other replicas in that room, each once and in
  its order, and tells `deliver` of them while the room has members of this replica.
  What happened to a peer id before it joined here is not told after.
- `publish` never blocks and never raises. Events of one room from one replica
  arrive in their order, once. Those that change who is there or who is live
  change the directory as well.
- `send` goes to one replica only, and keeps the same order. A signal is delivered, or it comes
  back once as `Undelivered`, within three seconds, also if nothing is heard of that replica, or
  within eight if this one lost a connection to Redis meanwhile, or Redis is slow to answer.
- `broadcast` goes to all other replicas; it may be lost where one cannot be reached.
- What a replica published itself is never told to it. Its own members it changes itself,
  in the room, before it publishes.
- A peer id that is `reserved` and has left, however it did, is for its subject alone
  for `RESERVED_SECONDS` more. Who is banned is not let in, nor who is new into a room that is
  locked. All are bounded in number: of too many, the one that would end first does.
- `deliver` is never called from inside `publish`. It and `admit` do not block.
- If `deliver` raises, that is logged, and the following is delivered all the same.
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
    """How many peers a room takes; `viewers` are those that are not live."""

    peers: int
    viewers: int | None = None


class Undelivered(Struct, frozen=True, tag=True):
    """A signal came back: its target is gone."""

    signal: Signalled


class Kicked(Struct, frozen=True, tag=True):
    """A moderator, or the site's backend, takes another replica's peer out of a room."""

    room_id: Name
    target: Member
    reason: str
    cause: LeaveCause = LeaveCause.KICKED


class Emptied(Struct, frozen=True, tag=True):
    """The site's backend takes all peers of a replica out of a room."""

    room_id: Name
    reason: str


class Held(Struct, frozen=True, tag=True):
    """A user is kept out of a room, or everybody new if there is no digest of one.

    `until` is in seconds since 1970; what is lifted is over already.
    """

    room_id: Name
    until: Annotated[float, Meta(ge=0, le=1e11)]
    digest: Name | None = None


class RoomsKept(Struct, frozen=True, tag=True):
    """A user's connection was lost, and its rooms are kept: one that came since may have them.

    `heard` is when the lost one was last heard of, in seconds since 1970.
    """

    user_id: Name
    replica: Name
    heard: Annotated[float, Meta(ge=0, le=1e11)]


class RoomChanged(NamedTuple):
    """Other replicas have changed a room, or said something in it; it is changed already.

    Without events there is nothing to tell: members of this replica were taken over.
    """

    room_id: str
    events: Sequence[RoomEvent]


class ReplicaLost(NamedTuple):
    """Another replica is gone without a word, and this one took its members out of their rooms.

    `heard` is when it was last heard of, in seconds since 1970.
    """

    replica: str
    heard: float
    #: Each with its room.
    members: tuple[tuple[str, Member], ...]


def count_of(room_id: str, members: Collection[Member]) -> RoomCount:
    """How many these are; they are in the order of joining."""
    users = {member.user_id for member in members}
    live = {member.user_id for member in members if member.live}
    since = next((member.joined_at for member in members), "")
    return RoomCount(room_id, len(members), len(users), len(live), since)


#: What is told to one replica, and what to all others.
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
#: What to tell of a newcomer to those who are here.
Admit = Callable[[Sequence[RoomEvent]], None]


class Posted(NamedTuple):
    """Another revision holds; `late` if it was made a while ago, and some may know it."""

    revision: Revision
    late: bool


class Counted(NamedTuple):
    """So many users have acknowledged an announcement."""

    announcement_id: str
    acknowledged: int


class BusStatistics(NamedTuple):
    """How the way to the other replicas is, for a metric; counted since the start."""

    #: Whether there is a connection for commands, and one for what others publish.
    commands_connected: bool
    events_connected: bool
    #: How often one of them was lost.
    losses: int
    #: Seconds that an answer took last; None if there was none yet.
    round_trip: float | None
    #: Seconds since the lease was renewed; None if there is none yet.
    lease_age: float | None
    #: Bytes that wait to be sent, and of what came that wait to be taken in.
    send_bytes: int
    receive_bytes: int
    #: Messages that did not come, as their numbers say; that came and were too many; and
    #: commands that found no room to wait.
    missing: int
    overflows: int
    dropped: int
    #: Values in Redis that could not be decoded, by expected kind.
    unreadable: Mapping[str, int]
    #: Rooms that are stale.
    stale_rooms: int
    #: Seconds from publishing to taking in, once a second by a message to oneself.
    delivery: Histogram


class Board(Protocol):
    """What replicas know together of announcements.

    It may forget everything at any time, and says so by `resync`; what is to last is in
    the store. The methods that block raise BoardError, after a second at most.
    """

    @property
    def reachable(self) -> bool:
        """Whether it can be asked, as far as one knows."""
        ...

    async def run(self) -> None:
        """See to it that it has the users of this replica, until cancelled."""
        ...

    def listen(self, hear: Callable[[Posted | Counted], None], resync: Callable[[], None]) -> None:
        """From now on tell what is posted and counted, also by oneself. Neither may block.

        `resync` is called when something may have been missed or forgotten.
        """
        ...

    async def post(self, revision: Revision, *, late: bool = False) -> Revision:
        """Let a revision hold, and tell it, unless a newer one does; the one that holds."""
        ...

    async def holding(self) -> Revision | None:
        """The revision that holds."""
        ...

    async def acknowledge(self, announcement_id: str, user_ids: Collection[str]) -> None:
        """Keep that users have acknowledged, and tell how many have."""
        ...

    async def acknowledged(self, announcement_id: str, user_ids: Collection[str]) -> set[str]:
        """Which of these users have."""
        ...

    def add_user(self, user_id: str) -> None:
        """A user hears announcements through this replica. Does not block."""
        ...

    def remove_user(self, user_id: str) -> None:
        """It does so no longer. Does not block."""
        ...

    async def count_users(self) -> int:
        """How many users hear announcements on all replicas; asks none of these."""
        ...


class TopicBus(Protocol):
    """What replicas tell each other on topics, and how many subscribe to each."""

    def count(self, counts: Mapping[str, int]) -> None:
        """So many connections here subscribe to these topics from now on. Does not block."""
        ...

    async def settle(self, topics: Collection[str]) -> None:
        """Wait until what others publish on these is delivered here; not for long."""
        ...

    def publish(self, published: Published, told: Callable[[int], None]) -> None:
        """Tell all who subscribe on other replicas. Does not block.

        `told` is called once, perhaps at once, with how many subscribe on all replicas: those
        here are to be told then. One replica's are told in their order.
        """
        ...


class RoomHolds(Protocol):
    """Who is kept out of rooms, and which rooms are locked, on all replicas."""

    def ban(self, room_id: str, member: Member, seconds: float) -> None:
        """Let who this member is not enter a room for so long, in no dialect. Never blocks.

        Before anything that this replica sends after it arrives.
        """
        ...

    async def is_banned(self, room_id: str, subject: str, user_id: str) -> bool:
        """Whether somebody is kept out of a room; `subject` is that of no dialect."""
        ...

    def lock(self, room_id: str, *, locked: bool) -> None:
        """Let nobody new into a room, or again; for `LOCK_SECONDS` at most. Never blocks.

        In the same order as bans. A peer that joins at the same time is in the room before, on
        all replicas, or not at all.
        """
        ...

    async def is_locked(self, room_id: str) -> bool:
        """Whether nobody new is let into a room."""
        ...


class Bus(Protocol):
    """See the contract above."""

    replica: str

    @property
    def names(self) -> NameBus:
        """Who has which name, of which rooms know nothing either."""
        ...

    @property
    def handover(self) -> HandoverBus | None:
        """How sessions move to other replicas; None where there is one replica only."""
        ...

    @property
    def following(self) -> Collection[tuple[str, str]]:
        """Rooms and peers of them whose signals wait: some are under way to where the peer was.

        To these, signals are sent by `send` also if they are of this replica.
        """
        ...

    @property
    def topics(self) -> TopicBus:
        """What is published by topic, of which rooms know nothing."""
        ...

    @property
    def board(self) -> Board | None:
        """What the replicas know of announcements; None where there is one replica only."""
        ...

    @property
    def holds(self) -> RoomHolds:
        """Who is kept out of rooms, and which rooms are locked."""
        ...

    @property
    def degraded(self) -> str | None:
        """Why other replicas may not be seen as they are; None if all is well."""
        ...

    def statistics(self) -> BusStatistics | None:
        """How it is doing; None where there is one replica only."""
        ...

    async def run(
        self, deliver: Deliver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; `deliver` gets what other replicas tell."""
        ...

    async def retire(self) -> None:
        """Take leave of the other replicas: nothing of this one stays behind.

        Called when all its members have left, while `run` still runs.
        """
        ...

    async def join(self, room: Room, member: Member, caps: Caps, admit: Admit) -> None:
        """Enter a room; raises JoinRefusedError, or calls `admit` once and returns.

        `room` is this replica's own of that id, the same from its first join until `forget`.
        A peer id that is there under the same subject is taken over. When this
        is cancelled the member may be in the directory: publish its `Left`.
        """
        ...

    def forget(self, room_id: str) -> None:
        """Nobody of this replica is in a room any more, nor about to enter: follow it no longer."""
        ...

    def publish(self, event: RoomEvent) -> None:
        """Tell the room's other replicas, and bring the directory up to date."""
        ...

    def send(self, replica: str, delivery: Direct) -> None:
        """Tell one replica."""
        ...

    def broadcast(self, event: Broadcast | RoomsKept) -> None:
        """Tell all other replicas. Never blocks."""
        ...

    async def members(self, room_id: str) -> tuple[Member, ...]:
        """All members of a room on all replicas, in the order of joining."""
        ...

    async def live(self, room_id: str) -> tuple[Member, ...]:
        """The members of a room that are live, in the order of joining; reads no others."""
        ...

    async def room_ids(self) -> list[str]:
        """The rooms that have members, but the server's own; sorted."""
        ...

    async def count_members(self, room_ids: Sequence[str]) -> list[RoomCount]:
        """How many are in these rooms; those in which nobody is are left out.

        Members are read of those rooms only that have changed since they were counted last.
        """
        ...

    async def count_rooms(self) -> int:
        """How many those are, which is found out at little cost."""
        ...
