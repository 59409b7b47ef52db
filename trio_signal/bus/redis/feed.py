"""Feed: what one replica knows, besides the members, of how a room comes to it from Redis."""

from collections import deque
from weakref import WeakValueDictionary

import trio

from trio_signal.bus.redis.wire import encode
from trio_signal.messages.events import (
    Joined,
    Left,
    ProfileChanged,
    RoomEvent,
    Routed,
    Signalled,
    StoppedLive,
    WentLive,
)
from trio_signal.messages.handover import Sought
from trio_signal.messages.identity import Member
from trio_signal.presence import Change
from trio_signal.room import Room

#: What changes who is in a room, or who is live: these are numbered.
_NUMBERED = (Joined, Left, WentLive, StoppedLive, Routed, ProfileChanged)


class Search:
    """A session that is sought, and what of this replica's own events it may have missed.

    They are those that Redis has had after the member's move, by the order in which they come
    back. So they are noted from the first question on, which comes back before all of them.
    """

    def __init__(self, sought: Sought, losses: int) -> None:
        """Note what is published from now on; `losses` is how often the room lost step."""
        self.sought = sought
        self.losses = losses
        #: Whether the question has come back.
        self.is_heard = False
        self._published: deque[tuple[bytes, RoomEvent]] = deque()

    def note(self, event: RoomEvent) -> None:
        """An event of this replica is on its way."""
        self._published.append((encode(event), event))

    def take_back(self, event: RoomEvent) -> None:
        """It has come back; those before it never will."""
        told = encode(event)
        if self.is_heard and any(told == published for published, _ in self._published):
            while self._published.popleft()[0] != told:
                pass

    @property
    def missed(self) -> list[RoomEvent]:
        """Those that have not come back."""
        return [event for _, event in self._published]


class Feed:
    """A room in which this replica has members, or is about to."""

    def __init__(self, room: Room) -> None:
        """Begin to follow a room, which belongs to the hub."""
        self.room = room
        #: By peer id: whose turn it is to join. The last that Redis lets in is the last
        #: that is let in here.
        self.turns: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        #: Members of ours on their way: the directory may have them, or not yet.
        self.entering: dict[str, Member] = {}
        #: The last number that was seen by asking, and when (Trio's clock).
        self.seen = (0, 0.0)
        #: By their tags: sessions that are sought, in other replicas.
        self.sought: dict[str, Search] = {}
        #: Those of this replica that are being given up.
        self.given: set[str] = set()
        #: Is held by who waits for the room to be in step, to seek one.
        self.catching_up = trio.Lock()
        self._progress = trio.lowlevel.ParkingLot()

    async def wait_moved(self) -> None:
        """Wait until no session is about to come or go, which relies on the room's step."""
        while (self.sought or self.given) and self.room.numbering.in_step:
            await self._progress.park()

    def note_progress(self) -> None:
        """Wake those who wait for the room to get somewhere."""
        self._progress.unpark_all()

    async def wait_reached(self, seq: int) -> None:
        """Wait until the room has this change, and all that was told before it has come."""
        numbering = self.room.numbering
        while not (numbering.in_step and numbering.seq >= seq and numbering.received >= seq):
            await self._progress.park()

    def believes(self, change: Change) -> bool:
        """Whether this may be, as far as one sees: of our own peers nobody else tells."""
        event, room = change.event, self.room
        if event is None:
            if change.sought is not None:
                return not change.seq and change.sought.replica == change.origin
            return change.seq > 0 and (change.moved is None or self._may_move(change))
        if event.room_id != room.id:
            return False
        if not change.seq:
            is_for_one = isinstance(event, Signalled) and event.target is not None
            return not is_for_one and not isinstance(event, _NUMBERED)
        if isinstance(event, ProfileChanged):
            return True
        if not isinstance(event, _NUMBERED) or event.member.replica != change.origin:
            return False
        # Somebody may have joined in place of a peer of ours; the directory has let it.
        is_ours = event.member.peer_id in room.own and change.origin != room.replica
        return isinstance(event, Joined) or not is_ours

    def own_of(self, user_id: str) -> list[Member]:
        """The peers of a user that are this replica's own."""
        return [member for member in self.room.own.values() if member.user_id == user_id]

    def _may_move(self, change: Change) -> bool:
        """A member is moved by the replica that has it, and ours by nobody else."""
        moved = change.moved
        if moved is None or moved.replica == change.origin:
            return False
        numbering, known = self.room.numbering, self.room.members.get(moved.peer_id)
        if known is None or not numbering.in_step or change.seq <= numbering.seq:
            return True  # it waits for a snapshot, or the last one has it already
        return known.replica == change.origin


class Feeds(dict[str, Feed]):
    """The rooms that this replica follows, by their ids, and which are stale."""

    def __init__(self) -> None:
        """Begin with none."""
        super().__init__()
        #: Rooms of which the directory may not say the truth, or we not know it.
        self.stale: dict[str, None] = {}
        self._marked = trio.Event()

    def mark_stale(self, room_id: str) -> None:
        """A room, whether it is followed or not, is to be restored. Does not block."""
        self.stale[room_id] = None
        self._marked.set()

    def mark_all_stale(self) -> None:
        """Nothing that came from Redis, or is on its way, is to be relied on."""
        self.start_over()
        self.stale |= dict.fromkeys(self)
        self._marked.set()

    def start_over(self) -> None:
        """The same, while Redis is away."""
        for feed in self.values():
            feed.room.numbering.start_over()

    async def wait_stale(self) -> None:
        """Wait until a room is stale."""
        while not self.stale:
            await self._marked.wait()
            self._marked = trio.Event()
