"""The bus of replicas that share one process: one replica alone, or tests."""

import logging
from collections import deque
from collections.abc import Sequence

import trio

from trio_signal.bus import (
    Admit,
    Board,
    Broadcast,
    Caps,
    Deliver,
    Delivery,
    Direct,
    Kicked,
    ReplicaLost,
    RoomMembers,
    RoomsKept,
    Undelivered,
)
from trio_signal.bus.holds import Holds, identity_of
from trio_signal.clock import utc_now
from trio_signal.errors import JoinRefusedError
from trio_signal.messages.events import (
    Joined,
    Left,
    Listening,
    ProfileChanged,
    Refusal,
    RoomEvent,
    Signalled,
    StoppedLive,
    WentLive,
)
from trio_signal.messages.identity import Live, Member, is_internal
from trio_signal.messages.records import RoomCount
from trio_signal.room import Room

logger = logging.getLogger(__name__)


class MemoryNetwork:
    """The directory that the replicas of one process share."""

    def __init__(self) -> None:
        """Make an empty directory."""
        self.rooms: dict[str, Room] = {}
        self.replicas: dict[str, MemoryBus] = {}
        self.holds = Holds()


class MemoryBus:
    """One replica's end; see `trio_signal.bus` for what it promises."""

    def __init__(self, replica: str, network: MemoryNetwork | None = None) -> None:
        """Join `network`, or be alone."""
        self.replica = replica
        self.board: Board | None = None
        self._network = network or MemoryNetwork()
        self._network.replicas[replica] = self
        #: Its peers by room; of these rooms it is told, and of no others.
        self._peers: dict[str, set[str]] = {}
        #: What is to be delivered. Unbounded: `publish` may not block, and `run` is fast.
        self._told: deque[Delivery] = deque()
        self._was_told = trio.Event()

    @property
    def degraded(self) -> None:
        """Nothing can come between replicas of one process."""
        return

    def statistics(self) -> None:
        """There is no way that one could measure."""
        return

    async def run(
        self, deliver: Deliver, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Call `deliver` for what other replicas tell, until cancelled."""
        task_status.started()
        while True:
            await self._was_told.wait()
            if not self._told:
                self._was_told = trio.Event()
                continue
            delivery = self._told.popleft()
            if isinstance(delivery, Joined):  # perhaps in place of a peer of ours
                self._forget_peer(delivery.room_id, delivery.member.peer_id)
            try:
                deliver(delivery)
            except Exception:
                logger.exception("cannot deliver a %s", type(delivery).__name__)
                self._look_again(delivery)

    def _look_again(self, delivery: Delivery) -> None:
        """What was not taken in is told once more, by who is in the room now."""
        room = self._network.rooms.get(getattr(delivery, "room_id", ""))
        if room is not None and room.id in self._peers and not isinstance(delivery, RoomMembers):
            others = (m for m in room.members.values() if m.replica != self.replica)
            self._take(RoomMembers(room.id, tuple(others)))

    async def retire(self) -> None:
        """Take leave; its members are gone already, and there is no lease."""
        await trio.lowlevel.checkpoint()
        del self._network.replicas[self.replica]

    def _take(self, delivery: Delivery) -> None:
        self._told.append(delivery)
        self._was_told.set()

    def _forget_peer(self, room_id: str, peer_id: str) -> None:
        peers = self._peers.get(room_id)
        if peers is None:
            return
        peers.discard(peer_id)
        if not peers:
            del self._peers[room_id]
            # Whoever joins from here next gets a picture in which this is contained.
            self._told = deque(told for told in self._told if not _is_of_room(told, room_id))

    def _add_peer(self, room_id: str, peer_id: str) -> None:
        self._peers.setdefault(room_id, set()).add(peer_id)
        # What happened to the peer elsewhere, before it came here, is over.
        self._told = deque(told for told in self._told if not _changes(told, room_id, peer_id))

    async def join(self, room_id: str, member: Member, caps: Caps, admit: Admit) -> None:
        """Enter a room; raises JoinRefusedError."""
        await trio.lowlevel.checkpoint()
        room = self._network.rooms.get(room_id) or Room(room_id)
        now = trio.current_time()
        if self._network.holds.is_banned(room_id, member, now):
            raise JoinRefusedError(Refusal.NOT_ALLOWED)
        old = room.members.get(member.peer_id)
        if old is not None and old.subject != member.subject:
            raise JoinRefusedError(Refusal.PEER_ID_IN_USE)
        if old is None and self._network.holds.is_reserved(room_id, member, now):
            raise JoinRefusedError(Refusal.PEER_ID_IN_USE)
        if old is None:
            _check_caps(room, caps)
        others = tuple(
            other
            for other in room.members.values()
            if other.replica != self.replica and other.peer_id != member.peer_id
        )
        self._network.rooms[room_id] = room
        room.join(member, "")
        self._tell(Joined(room_id, member, first=True, peers=len(room), at=utc_now()))
        self._add_peer(room_id, member.peer_id)
        admit(others)

    def publish(self, event: RoomEvent) -> None:
        """Tell the room's other replicas, and bring the directory up to date."""
        if isinstance(event, Left):
            self._forget_peer(event.room_id, event.member.peer_id)
        room = self._network.rooms.get(event.room_id)
        if room is None:
            return
        if isinstance(event, Left | WentLive | StoppedLive) and not self._owns(room, event.member):
            return  # it was taken over meanwhile
        match event:
            case Left(member=member):
                self._network.holds.reserve(event.room_id, member, trio.current_time())
                room.leave(member.peer_id, event.at)
            case WentLive(member=Member(live=Live() as live) as member):
                room.go_live(member.peer_id, live, event.at)
            case StoppedLive(member=member):
                room.stop_live(member.peer_id, event.at)
            case ProfileChanged():
                room.apply_profile(event)
        if not room:
            del self._network.rooms[event.room_id]
        self._tell(event)

    def _owns(self, room: Room, member: Member) -> bool:
        known = room.members.get(member.peer_id)
        return known is not None and known.replica == self.replica

    def _tell(self, event: RoomEvent) -> None:
        for bus in self._network.replicas.values():
            if bus is not self and event.room_id in bus._peers:
                bus._take(event)

    def send(self, replica: str, delivery: Direct) -> None:
        """Tell one replica."""
        bus = self._network.replicas.get(replica)
        if bus is not None:
            bus._take(delivery)
        elif isinstance(delivery, Signalled):
            self._take(Undelivered(delivery))

    def broadcast(self, event: Broadcast) -> None:
        """Tell all other replicas."""
        for bus in self._network.replicas.values():
            if bus is not self:
                bus._take(event)

    def ban(self, room_id: str, member: Member, seconds: float) -> None:
        """Let who this member is not enter a room for so long."""
        now = trio.current_time()
        self._network.holds.ban(room_id, identity_of(member), now + seconds, now)

    async def members(self, room_id: str) -> tuple[Member, ...]:
        """All members of a room, in the order of joining."""
        await trio.lowlevel.checkpoint()
        room = self._network.rooms.get(room_id)
        return tuple(room.members.values()) if room else ()

    async def live(self, room_id: str) -> tuple[Member, ...]:
        """The members of a room that are live, in the order of joining."""
        return tuple(member for member in await self.members(room_id) if member.live)

    async def room_ids(self) -> list[str]:
        """The rooms that have members, but the server's own; sorted."""
        await trio.lowlevel.checkpoint()
        return sorted(room_id for room_id in self._network.rooms if not is_internal(room_id))

    async def count_members(self, room_ids: Sequence[str]) -> list[RoomCount]:
        """How many are in these rooms; those in which nobody is are left out."""
        await trio.lowlevel.checkpoint()
        rooms = filter(None, map(self._network.rooms.get, room_ids))
        return [
            RoomCount(room.id, len(room), room.users, room.live_users, room.since) for room in rooms
        ]

    async def count_rooms(self) -> int:
        """How many those are."""
        await trio.lowlevel.checkpoint()
        return sum(not is_internal(room_id) for room_id in self._network.rooms)

    def tell_rooms_kept(self, user_id: str, heard: float) -> None:
        """Tell all other replicas that a user's rooms are kept."""
        for bus in self._network.replicas.values():
            if bus is not self:
                bus._take(RoomsKept(user_id, self.replica, heard))


def _is_of_room(delivery: Delivery, room_id: str) -> bool:
    """Whether this is about a room, and not for one peer: that may have to be sent back."""
    if isinstance(delivery, Undelivered | Kicked | RoomsKept | ReplicaLost | Listening | Broadcast):
        return False
    if isinstance(delivery, Signalled) and delivery.target is not None:
        return False
    return delivery.room_id == room_id


def _changes(delivery: Delivery, room_id: str, peer_id: str) -> bool:
    """Whether this changes what is known of a peer."""
    return (
        isinstance(delivery, Joined | Left | WentLive | StoppedLive)
        and delivery.room_id == room_id
        and delivery.member.peer_id == peer_id
    )


def _check_caps(room: Room, caps: Caps) -> None:
    if len(room) >= caps.peers:
        raise JoinRefusedError(Refusal.ROOM_FULL)
    if caps.viewers is not None and room.viewers >= caps.viewers:
        raise JoinRefusedError(Refusal.STREAM_FULL)
