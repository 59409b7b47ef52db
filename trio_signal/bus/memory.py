"""The bus of replicas that share one process: one replica alone, or tests."""

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import trio
from msgspec.structs import replace

from trio_signal.bus import (
    Admit,
    Board,
    Broadcast,
    Caps,
    Deliver,
    Delivery,
    Direct,
    RoomChanged,
    RoomsKept,
    Undelivered,
    count_of,
)
from trio_signal.bus.handover import HandoverBus
from trio_signal.bus.holds import LOCK_SECONDS, Holds, digest_of, digest_of_user
from trio_signal.bus.names import Holder, NameClaimed, Names
from trio_signal.clock import utc_now
from trio_signal.messages.events import (
    Joined,
    Left,
    Published,
    RoomEvent,
    Routed,
    Signalled,
    StoppedLive,
    WentLive,
)
from trio_signal.messages.identity import Member, is_internal
from trio_signal.messages.records import RoomCount
from trio_signal.room import Room

logger = logging.getLogger(__name__)


class MemoryHolds:
    """See `trio_signal.bus.RoomHolds`."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.known = Holds()

    def ban(self, room_id: str, member: Member, seconds: float) -> None:
        """Ban the identity of this member from a room."""
        now = trio.current_time()
        self.known.ban(room_id, digest_of(member), now + seconds, now)

    def lock(self, room_id: str, *, locked: bool) -> None:
        """Lock a room for newcomers, or unlock it."""
        now = trio.current_time()
        self.known.lock(room_id, now + LOCK_SECONDS if locked else 0, now)

    async def is_locked(self, room_id: str) -> bool:
        """Whether a room refuses newcomers."""
        await trio.lowlevel.checkpoint()
        return self.known.is_locked(room_id, trio.current_time())

    async def is_banned(self, room_id: str, subject: str, user_id: str) -> bool:
        """Whether an identity is banned from a room."""
        await trio.lowlevel.checkpoint()
        digest = digest_of_user(subject, user_id)
        return self.known.is_banned(room_id, digest, trio.current_time())


class MemoryNetwork:
    """The directory that the replicas of one process share."""

    def __init__(self) -> None:
        """Make an empty directory."""
        self.rooms: dict[str, Room] = {}
        self.replicas: dict[str, MemoryBus] = {}
        self.holds = MemoryHolds()
        self.names = Names()
        #: Number of subscribers by topic and replica.
        self.subscribers: dict[str, dict[str, int]] = {}


class MemoryNames:
    """See `trio_signal.bus.NameBus`."""

    def __init__(self, bus: "MemoryBus", network: MemoryNetwork) -> None:
        """Share the names of `network`."""
        self._bus = bus
        self._network = network

    async def claim(self, name: str, claim: str, subject: str) -> None:
        """Claim a name for this replica; raises JoinRefusedError if another subject has it."""
        await trio.lowlevel.checkpoint()
        now, names, replica = trio.current_time(), self._network.names, self._bus.replica
        names.check(name, subject, now)
        told = names.put(name, Holder(replica, claim), subject, now)
        for other in told - {replica}:
            self._bus.send(other, NameClaimed(name, replica, claim))

    def release(self, name: str, claim: str, *, hold: bool) -> None:
        """Release a name, if this claim still holds it."""
        self._network.names.release(name, claim, trio.current_time(), hold=hold)

    def find(self, name: str, stale: str, found: Callable[[Holder | None, bool], None]) -> bool:
        """Find the holder of a name, by another claim than `stale`."""
        now = trio.current_time()
        found(self._network.names.find(name, stale, self._bus.replica, now), True)
        return True

    async def list(self, namespace: str) -> list[str]:
        """The names in a namespace, without its prefix; sorted."""
        await trio.lowlevel.checkpoint()
        return self._network.names.list(namespace)


class MemoryTopics:
    """See `trio_signal.bus.TopicBus`."""

    def __init__(self, bus: "MemoryBus", network: MemoryNetwork) -> None:
        """Share the topics of `network`."""
        self._bus = bus
        self._network = network

    def count(self, counts: Mapping[str, int]) -> None:
        """Set how many connections here subscribe to each of these topics."""
        subscribers = self._network.subscribers
        for topic, count in counts.items():
            replicas = subscribers.setdefault(topic, {})
            replicas[self._bus.replica] = count
            if not any(replicas.values()):
                del subscribers[topic]

    async def settle(self, topics: Collection[str]) -> None:
        """Subscriptions in one process take effect at once."""
        await trio.lowlevel.checkpoint()

    def publish(self, published: Published, told: Callable[[int], None]) -> None:
        """Publish to the subscribers on other replicas."""
        replicas = self._network.subscribers.get(published.topic, {})
        subscribers = sum(replicas.values())
        for replica in replicas.keys() & self._network.replicas.keys() - {self._bus.replica}:
            self._network.replicas[replica]._take(replace(published, subscribers=subscribers))
        told(subscribers)


class MemoryBus:
    """The bus of one replica; see `trio_signal.bus` for the contract."""

    def __init__(self, replica: str, network: MemoryNetwork | None = None) -> None:
        """Join `network`, or run alone."""
        self.replica = replica
        self.board: Board | None = None
        self.handover: HandoverBus | None = None
        self.following: Collection[tuple[str, str]] = ()
        self._network = network or MemoryNetwork()
        self._network.replicas[replica] = self
        self.names = MemoryNames(self, self._network)
        self.topics = MemoryTopics(self, self._network)
        self.holds = self._network.holds
        #: The rooms that this replica follows; it receives events of no others.
        self._rooms: dict[str, Room] = {}
        #: Events to deliver. Unbounded: `publish` may not block, and `run` is fast.
        self._pending: deque[RoomEvent | Delivery] = deque()
        self._any_pending = trio.Event()
        self._deliver: Deliver = lambda delivery: None
        #: Called for each change of the directory; must not block.
        self.observer: Callable[[RoomEvent], None] | None = None

    @property
    def degraded(self) -> None:
        """Always None: replicas of one process cannot lose each other."""
        return

    def statistics(self) -> None:
        """Always None: there is no connection to measure."""
        return

    async def run(
        self, deliver: Deliver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Call `deliver` for what other replicas publish, until cancelled."""
        self._deliver = deliver
        task_status.started()
        while True:
            await self._any_pending.wait()
            self._any_pending = trio.Event()
            self._deliver_all()

    def _deliver_all(self) -> None:
        while self._pending:
            told = self._pending.popleft()
            try:
                self._deliver_one(told)
            except Exception:
                logger.exception("cannot deliver a %s", type(told).__name__)

    def _deliver_one(self, told: RoomEvent | Delivery) -> None:
        if not isinstance(told, RoomEvent) or (isinstance(told, Signalled) and told.target):
            self._deliver(told)
            return
        room = self._rooms.get(told.room_id)
        if room is not None:
            has_members_here = bool(room.own)
            events = room.apply(told)
            if has_members_here:
                self._deliver(RoomChanged(room.id, events))

    async def retire(self) -> None:
        """Nothing to remove: the members have left already, and there is no lease."""
        await trio.lowlevel.checkpoint()
        del self._network.replicas[self.replica]

    def _take(self, told: RoomEvent | Delivery) -> None:
        self._pending.append(told)
        self._any_pending.set()

    async def join(self, room: Room, member: Member, caps: Caps, admit: Admit) -> None:
        """Enter a room; raises JoinRefusedError."""
        await trio.lowlevel.checkpoint()
        self._deliver_all()  # newcomers must see these changes in the snapshot
        network, now = self._network, trio.current_time()
        known = network.rooms.get(room.id) or Room(room.id)
        network.holds.known.check(known, member, caps, now)
        if room.id not in self._rooms:
            self._rooms[room.id] = room
            others = (m for m in known.members.values() if m.peer_id != member.peer_id)
            room.restore(others)
        network.rooms[room.id] = known
        self._observe(known.join(member, ""))
        self._tell(Joined(room.id, member, first=True, peers=len(known), at=utc_now()))
        admit(room.join(member, utc_now()))

    def forget(self, room_id: str) -> None:
        """Stop following a room."""
        self._rooms.pop(room_id, None)

    def publish(self, event: RoomEvent) -> None:
        """Publish an event to the room's other replicas, and update the directory."""
        room = self._network.rooms.get(event.room_id)
        if room is None:
            return
        of_peer = Left | WentLive | StoppedLive | Routed
        if isinstance(event, of_peer) and not self._owns(room, event.member):
            return  # another connection took the peer over meanwhile
        if isinstance(event, Left):
            self._network.holds.known.reserve(room.id, event.member, trio.current_time())
        self._observe(room.apply(event))
        if not room:
            del self._network.rooms[room.id]
        self._tell(event)

    def _observe(self, events: Iterable[RoomEvent]) -> None:
        if self.observer is not None:
            for event in events:
                self.observer(event)

    def members_by_room(self) -> dict[str, list[Member]]:
        """The members of all rooms of the directory."""
        return {room.id: [*room.members.values()] for room in self._network.rooms.values()}

    def _owns(self, room: Room, member: Member) -> bool:
        known = room.members.get(member.peer_id)
        return known is not None and known.replica == self.replica

    def _tell(self, event: RoomEvent) -> None:
        for bus in self._network.replicas.values():
            if bus is not self and event.room_id in bus._rooms:
                bus._take(event)

    def send(self, replica: str, delivery: Direct) -> None:
        """Send to one replica."""
        bus = self._network.replicas.get(replica)
        if bus is not None:
            bus._take(delivery)
        elif isinstance(delivery, Signalled):
            self._take(Undelivered(delivery))

    def broadcast(self, event: Broadcast | RoomsKept) -> None:
        """Send to all other replicas."""
        for bus in self._network.replicas.values():
            if bus is not self:
                bus._take(event)

    async def members(self, room_id: str) -> tuple[Member, ...]:
        """All members of a room, in the order of joining."""
        await trio.lowlevel.checkpoint()
        room = self._network.rooms.get(room_id)
        return tuple(room.members.values()) if room else ()

    async def live(self, room_id: str) -> tuple[Member, ...]:
        """The live members of a room, in the order of joining."""
        return tuple(member for member in await self.members(room_id) if member.live)

    async def room_ids(self) -> list[str]:
        """The rooms that have members, sorted, without the server's internal rooms."""
        await trio.lowlevel.checkpoint()
        return sorted(room_id for room_id in self._network.rooms if not is_internal(room_id))

    async def count_members(self, room_ids: Sequence[str]) -> list[RoomCount]:
        """Count the members of these rooms; empty rooms are left out."""
        await trio.lowlevel.checkpoint()
        rooms = filter(None, map(self._network.rooms.get, room_ids))
        return [count_of(room.id, room.members.values()) for room in rooms]

    async def count_rooms(self) -> int:
        """Count the rooms that have members."""
        await trio.lowlevel.checkpoint()
        return sum(not is_internal(room_id) for room_id in self._network.rooms)
