"""The bus of replicas that share one process: one replica alone, or tests."""

from collections import OrderedDict, deque
from collections.abc import Iterable
from typing import TypeVar

import trio

from trio_signal.bus import (
    CHAT_BYTES_PER_ROOM,
    CHATS_PER_ROOM,
    PROFILES,
    Admit,
    Board,
    Caps,
    Deliver,
    Delivery,
    Direct,
    Kicked,
    RoomCount,
    RoomsKept,
    Undelivered,
)
from trio_signal.clock import utc_now
from trio_signal.errors import JoinRefusedError
from trio_signal.messages import (
    Chatted,
    Joined,
    Left,
    Live,
    Member,
    PrivateEvent,
    Profile,
    ProfileChanged,
    Refusal,
    RoomEvent,
    Signalled,
    StoppedLive,
    WentLive,
    is_internal,
)
from trio_signal.room import Room

#: What else is kept at most; the oldest goes first.
ROOMS_WITH_CHATS = 2_000
CHAT_BYTES = 64 << 20
LOST_CONNECTIONS = 50_000
#: What a message takes besides its words.
_OVERHEAD = 500
#: How long a user may be away and be put into its rooms again, in seconds.
RECALL_SECONDS = 60.0

K = TypeVar("K")
V = TypeVar("V")


class RoomChats:
    """The last messages of a room."""

    __slots__ = ("messages", "size")

    def __init__(self) -> None:
        """Begin without any."""
        self.messages: deque[Chatted] = deque()
        #: In bytes, roughly.
        self.size = 0

    def add(self, chat: Chatted) -> None:
        """Keep one more, and forget the oldest that are too many."""
        self.messages.append(chat)
        self.size += _size(chat)
        while len(self.messages) > CHATS_PER_ROOM or self.size > CHAT_BYTES_PER_ROOM:
            self.size -= _size(self.messages.popleft())


class MemoryNetwork:
    """The directory that the replicas of one process share."""

    def __init__(self) -> None:
        """Make an empty directory."""
        self.rooms: dict[str, Room] = {}
        self.replicas: dict[str, MemoryBus] = {}
        self.chats: OrderedDict[str, RoomChats] = OrderedDict()
        #: Of all of them.
        self.chat_size = 0
        self.profiles: OrderedDict[tuple[str, str], Profile] = OrderedDict()
        #: By user: until when to remember, and what.
        self.lost: OrderedDict[str, tuple[float, tuple[str, ...]]] = OrderedDict()


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
            deliver(delivery)

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
        old = room.members.get(member.peer_id)
        if old is not None and old.subject != member.subject:
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
                room.leave(member.peer_id, event.at)
            case WentLive(member=Member(live=Live() as live) as member):
                room.go_live(member.peer_id, live, event.at)
            case StoppedLive(member=member):
                room.stop_live(member.peer_id, event.at)
            case ProfileChanged():
                room.apply_profile(event)
                self._keep_profile(
                    event.room_id,
                    event.member.user_id,
                    Profile(event.member.username, event.member.avatar_url),
                )
            case Chatted():
                self._keep_chat(event)
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

    def broadcast(self, event: PrivateEvent) -> None:
        """Tell all other replicas."""
        for bus in self._network.replicas.values():
            if bus is not self:
                bus._take(event)

    async def members(self, room_id: str) -> tuple[Member, ...]:
        """All members of a room, in the order of joining."""
        await trio.lowlevel.checkpoint()
        room = self._network.rooms.get(room_id)
        return tuple(room.members.values()) if room else ()

    async def rooms(self) -> list[RoomCount]:
        """The rooms that have members, but the server's own, by their ids."""
        await trio.lowlevel.checkpoint()
        return [
            RoomCount(room.id, len(room), room.users, room.live_users)
            for room_id, room in sorted(self._network.rooms.items())
            if not is_internal(room_id)
        ]

    async def count_rooms(self) -> int:
        """How many those are."""
        await trio.lowlevel.checkpoint()
        return sum(not is_internal(room_id) for room_id in self._network.rooms)

    def _keep_chat(self, chat: Chatted) -> None:
        network = self._network
        chats = network.chats.setdefault(chat.room_id, RoomChats())
        network.chats.move_to_end(chat.room_id)
        network.chat_size -= chats.size
        chats.add(chat)
        network.chat_size += chats.size
        while len(network.chats) > ROOMS_WITH_CHATS or network.chat_size > CHAT_BYTES:
            _, oldest = network.chats.popitem(last=False)
            network.chat_size -= oldest.size

    async def chats(self, room_id: str, limit: int) -> list[Chatted]:
        """The last messages that were published in a room, oldest first."""
        await trio.lowlevel.checkpoint()
        chats = self._network.chats.get(room_id)
        return list(chats.messages)[-limit:] if chats is not None and limit > 0 else []

    async def remember_profile(self, room_id: str, user_id: str, profile: Profile) -> None:
        """Keep what a user is called in a room."""
        await trio.lowlevel.checkpoint()
        self._keep_profile(room_id, user_id, profile)

    def _keep_profile(self, room_id: str, user_id: str, profile: Profile) -> None:
        self._network.profiles[room_id, user_id] = profile
        _trim(self._network.profiles, (room_id, user_id), PROFILES)

    async def profile(self, room_id: str, user_id: str) -> Profile | None:
        """What a user was last called in a room."""
        await trio.lowlevel.checkpoint()
        return self._network.profiles.get((room_id, user_id))

    def remember_rooms(self, user_id: str, room_ids: Iterable[str], heard: float) -> None:
        """Keep for a minute that a user's connection was lost in these rooms."""
        now = trio.current_time()
        until, known = self._network.lost.get(user_id, (0.0, ()))
        rooms = dict.fromkeys([*(known if now < until else ()), *room_ids])
        self._network.lost[user_id] = now + RECALL_SECONDS, tuple(rooms)
        _trim(self._network.lost, user_id, LOST_CONNECTIONS)
        for bus in self._network.replicas.values():
            if bus is not self:
                bus._take(RoomsKept(user_id, self.replica, heard))

    async def recall_rooms(self, user_id: str) -> tuple[str, ...]:
        """Those rooms, once: then they are forgotten."""
        await trio.lowlevel.checkpoint()
        until, room_ids = self._network.lost.pop(user_id, (0.0, ()))
        return room_ids if trio.current_time() < until else ()


def _size(chat: Chatted) -> int:
    """The bytes that a message takes, rather too many. What `sys.getsizeof` says may change."""
    texts = (chat.content, chat.avatar or "")
    return _OVERHEAD + sum(len(text) * (1 if text.isascii() else 4) for text in texts)


def _is_of_room(delivery: Delivery, room_id: str) -> bool:
    """Whether this is about a room, and not for one peer: that may have to be sent back."""
    if isinstance(delivery, Undelivered | Kicked | RoomsKept | PrivateEvent):
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


def _trim(kept: OrderedDict[K, V], newest: K, limit: int) -> None:
    """Make `newest` the newest, and forget the oldest over `limit`."""
    kept.move_to_end(newest)
    while len(kept) > limit:
        kept.popitem(last=False)
