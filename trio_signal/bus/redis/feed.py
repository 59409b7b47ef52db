"""Feed: which changes of a room have arrived from Redis, and what waits for them."""

from collections import deque
from weakref import WeakValueDictionary

import trio
from msgspec.structs import replace

from trio_signal.bus.redis.wire import encode
from trio_signal.messages.events import (
    CameBack,
    Joined,
    Left,
    ProfileChanged,
    RoomEvent,
    Routed,
    Signalled,
    StoppedLive,
    WentAway,
    WentLive,
)
from trio_signal.messages.handover import Sought
from trio_signal.messages.identity import Member
from trio_signal.presence import Change, Snapshot
from trio_signal.room import Room, renamed

#: Events that change members: these are numbered. Version 0.2.0 did not number the last two.
_ALWAYS_NUMBERED = (Joined, Left, WentLive, StoppedLive, Routed, ProfileChanged)
NUMBERED = (*_ALWAYS_NUMBERED, WentAway, CameBack)
#: Seconds for the other replicas to rename their peers of a user who was renamed here.
_RENAMED = 5.0


class Search:
    """A session that is sought, and the events of this replica that it may have missed.

    It has missed those that Redis received after the member's move; the order in which they come
    back shows which. So they are recorded from the first question on, which comes back first.
    """

    def __init__(self, sought: Sought, losses: int) -> None:
        """Record events from now on; `losses` is how often the room has lost step."""
        self.sought = sought
        self.losses = losses
        #: Whether the question has come back.
        self.is_heard = False
        self._published: deque[tuple[bytes, RoomEvent]] = deque()

    def note(self, event: RoomEvent) -> None:
        """An event of this replica was published."""
        self._published.append((encode(event), event))

    def take_back(self, event: RoomEvent) -> None:
        """An event came back; earlier ones that are still recorded are lost."""
        told = encode(event)
        if self.is_heard and any(told == published for published, _ in self._published):
            while self._published.popleft()[0] != told:
                pass

    @property
    def missed(self) -> list[RoomEvent]:
        """The events that have not come back."""
        return [event for _, event in self._published]


class Feed:
    """The changes of a room that has members of this replica, or is about to."""

    def __init__(self, room: Room) -> None:
        """Begin to follow a room, which belongs to the hub."""
        self.room = room
        #: Lets one join per peer id run at a time, so that the last one admitted by Redis is also
        #: the last one admitted here.
        self.turns: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        #: Members of this replica that are joining: the directory may have them already.
        self.entering: dict[str, Member] = {}
        #: The peer ids of those of them whose joining has come back.
        self.listed: set[str] = set()
        #: The last number read from the directory, and when (Trio's clock).
        self.seen = (0, 0.0)
        #: Sessions sought on other replicas, by their tags.
        self.sought: dict[str, Search] = {}
        #: Sessions of this replica that are being given up.
        self.given: set[str] = set()
        #: Users who were renamed here without Redis, and until when other replicas may not know it
        #: (Trio's clock).
        self.renamed: dict[str, float] = {}
        #: Held while a task waits for the room to be in step, to seek a session.
        self.catching_up = trio.Lock()
        self._progress = trio.lowlevel.ParkingLot()
        self._entrances = trio.lowlevel.ParkingLot()

    @property
    def replaces(self) -> bool:
        """Whether newer connections are about to replace members."""
        return not self.entering.keys().isdisjoint(self.room.members)

    async def wait_replaced(self) -> None:
        """Wait until no newer connection is about to replace a member."""
        while self.replaces:
            await self._entrances.park()

    def end_entering(self, peer_id: str) -> None:
        """Note that a member is not about to join any more; wakes tasks that wait for that."""
        del self.entering[peer_id]
        self.listed.discard(peer_id)
        self._entrances.unpark_all()

    async def wait_moved(self) -> None:
        """Wait until no session is about to move in or out, which relies on the room's step."""
        while (self.sought or self.given) and self.room.numbering.in_step:
            await self._progress.park()

    def note_progress(self) -> None:
        """Wake the tasks that wait for the room's progress."""
        self._progress.unpark_all()

    async def wait_reached(self, seq: int) -> None:
        """Wait until the room has this change and everything published before it has come."""
        numbering = self.room.numbering
        while not (numbering.in_step and numbering.seq >= seq and numbering.received >= seq):
            await self._progress.park()

    def believes(self, change: Change) -> bool:
        """Whether a change is plausible: no other replica may change this replica's members."""
        event, room = change.event, self.room
        if event is None:
            if change.sought is not None:
                return not change.seq and change.sought.replica == change.origin
            return change.seq > 0 and (change.moved is None or self._may_move(change))
        if event.room_id != room.id:
            return False
        if not change.seq:
            is_for_one = isinstance(event, Signalled) and event.target is not None
            return not is_for_one and not isinstance(event, _ALWAYS_NUMBERED)
        if isinstance(event, ProfileChanged):
            return True
        if not isinstance(event, NUMBERED) or event.member.replica != change.origin:
            return False
        # A newer connection may have replaced a peer of ours, which the directory has accepted.
        is_ours = event.member.peer_id in room.own and change.origin != room.replica
        return isinstance(event, Joined) or not is_ours

    def own_of(self, user_id: str) -> list[Member]:
        """The peers of a user on this replica."""
        return [member for member in self.room.own.values() if member.user_id == user_id]

    def with_new_names(self, snapshot: Snapshot) -> Snapshot:
        """A snapshot in which users who were renamed here have their new names everywhere.

        The other replicas learn those names from the same restore. If their old names counted here
        first, the user would be renamed back.
        """
        now = trio.current_time()
        for user_id, until in list(self.renamed.items()):
            self.renamed[user_id] = until = min(until, now + _RENAMED)
            if until <= now:
                del self.renamed[user_id]
        if not self.renamed:
            return snapshot
        return replace(snapshot, members=tuple(map(self._with_new_name, snapshot.members)))

    def _with_new_name(self, member: Member) -> Member:
        own = self.own_of(member.user_id) if member.user_id in self.renamed else []
        if not own or member.replica == self.room.replica:
            return member
        return renamed(member, own[0].username, own[0].avatar_url)

    def _may_move(self, change: Change) -> bool:
        """Only the replica that owns a member may move it."""
        moved = change.moved
        if moved is None or moved.replica == change.origin:
            return False
        numbering, known = self.room.numbering, self.room.members.get(moved.peer_id)
        if known is None or not numbering.in_step or change.seq <= numbering.seq:
            return True  # a snapshot has this change, or will have
        return known.replica == change.origin


class Feeds(dict[str, Feed]):
    """The rooms that this replica follows, by id, and the stale ones."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        #: Rooms that may differ between this replica and the directory.
        self.stale: dict[str, None] = {}
        self._marked = trio.Event()

    def mark_stale(self, room_id: str) -> None:
        """Have a room restored, whether it is followed or not. Does not block."""
        self.stale[room_id] = None
        self._marked.set()

    def mark_all_stale(self) -> None:
        """Have all rooms restored, and ignore changes that are still in flight."""
        self.start_over()
        self.stale |= dict.fromkeys(self)
        self._marked.set()

    def start_over(self) -> None:
        """The same, while Redis cannot be reached."""
        for feed in self.values():
            feed.room.numbering.start_over()

    async def wait_stale(self) -> None:
        """Wait until a room is stale."""
        while not self.stale:
            await self._marked.wait()
            self._marked = trio.Event()
