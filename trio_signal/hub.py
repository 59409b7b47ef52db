"""Hub: this replica's peers and rooms; commands become events here.

State changes between checkpoints only, so there are no locks: a change, the
telling of it to the peers of this replica, and its hand-over to the bus are
one step that nothing can interrupt, neither a cancellation nor a shutdown.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import assert_never
from uuid import uuid4

import trio
from msgspec.structs import replace

from trio_signal.announcements import Announcements
from trio_signal.auth import may_enter
from trio_signal.bus import (
    Bus,
    Caps,
    Delivery,
    Kicked,
    ReplicaLost,
    RoomMembers,
    RoomsKept,
    Undelivered,
)
from trio_signal.clock import just_after, trio_time, unique_now, utc_now, wall_time
from trio_signal.dialects import DIALECTS, Dialect
from trio_signal.dialects.wire import type_of
from trio_signal.errors import CloseCode, JoinRefusedError
from trio_signal.messages.commands import (
    AskLive,
    Attend,
    ChangeProfile,
    Chat,
    Close,
    GoLive,
    Join,
    Kick,
    Leave,
    OpenInbox,
    PrivateCommand,
    RoomCommand,
    SendPrivate,
    SendReceipt,
    SetPrivateTyping,
    SetTyping,
    Signal,
    StartStreaming,
    StopLive,
    To,
)
from trio_signal.messages.events import (
    AnnouncementEvent,
    Audience,
    ChatSent,
    Chatted,
    Displaced,
    Entered,
    Event,
    Exited,
    Joined,
    Left,
    Listening,
    LiveNow,
    LivePeers,
    Moved,
    Notice,
    OnlineHere,
    PrivateEvent,
    PrivateMessage,
    PrivateTyping,
    ProfileChanged,
    ReadReceipt,
    Refusal,
    Refused,
    Rejoined,
    Removed,
    RoomEvent,
    Signalled,
    StopCause,
    StoppedLive,
    StreamStarting,
    Typing,
    UserChanged,
    WentLive,
)
from trio_signal.messages.identity import (
    LOBBY,
    Identity,
    Live,
    Member,
    Profile,
    inbox_of,
    is_internal,
)
from trio_signal.metrics import Metrics
from trio_signal.names import clean_name, clean_picture
from trio_signal.notes import TOUCH_INTERVAL, Notes
from trio_signal.notes.memory import MemoryNotes
from trio_signal.online import Online
from trio_signal.outbox import Courier
from trio_signal.pacing import DELIVERY, cost_of_delivery
from trio_signal.peer import PatientPeer, Peer, close_untold
from trio_signal.presence import reconcile
from trio_signal.room import Room
from trio_signal.websocket import text_frame

logger = logging.getLogger(__name__)

#: What a user without any name is called.
ANONYMOUS = "Anonymous"
#: How many peers are sent away in a second when the server stops.
LEAVE_RATE = 100.0
#: Users that one broadcast knows to have signalled with. No browser sends to so many.
MAX_MET = 1000
#: The signals with which two peers come to know each other. Candidates are the most by far.
_DESCRIPTIONS = frozenset({"offer", "answer"})
_NO_CAP = Caps(2**31 - 1)
#: How many connections hear what is for one user alone.
_INBOX_CAP = Caps(50)
#: Seconds for which who was kicked is kept out of the room.
BAN_SECONDS = 60.0
#: Characters of the reason for it that are told.
_MAX_REASON = 120
#: Seconds to ask the directory how many users are connected.
_COUNTING = 0.4


class LocalRoom(Room):
    """A room with peers on this replica, and how to reach these."""

    def __init__(self, room_id: str, metrics: Metrics) -> None:
        """Make an empty room."""
        super().__init__(room_id)
        self._metrics = metrics
        self.peers: dict[str, Peer] = {}
        #: The same by dialect, so that each event is put into words once.
        self._speakers: dict[type[Dialect], dict[str, Peer]] = {}
        #: By the peer id of a broadcaster here: the users of the room that it has exchanged
        #: signals with in this broadcast, or that it was told of as listeners.
        self._met: dict[str, set[str]] = {}

    def meet(self, broadcaster: str, user_id: str) -> bool:
        """Note that a broadcaster here and a user know each other; whether that is new."""
        if broadcaster not in self._live or broadcaster not in self.peers:
            return False
        met = self._met.setdefault(broadcaster, set())
        if user_id in met or len(met) >= MAX_MET:
            return False
        if user_id in self._users:
            met.add(user_id)
        return True

    def _put(self, member: Member) -> None:
        super()._put(member)
        if self._met and member.live is None:
            self._met.pop(member.peer_id, None)  # the next broadcast begins anew

    def _drop(self, member: Member) -> None:
        super()._drop(member)
        if self._met and member.user_id not in self._users:
            for met in self._met.values():
                met.discard(member.user_id)

    def admit(self, peer_id: str, peer: Peer) -> None:
        """Let a peer hear what goes on."""
        self.peers[peer_id] = peer
        self._speakers.setdefault(type(peer.dialect), {})[peer_id] = peer
        peer.memberships[self.id] = peer_id

    def dismiss(self, peer_id: str) -> Peer | None:
        """Let a peer hear no more; None if it is not here."""
        peer = self.peers.pop(peer_id, None)
        if peer is not None:
            speakers = self._speakers[type(peer.dialect)]
            del speakers[peer_id]
            if not speakers:
                del self._speakers[type(peer.dialect)]
            del peer.memberships[self.id]
            self._met.pop(peer_id, None)
        return peer

    def tell(self, event: Event, user_id: str, peer_id: str = "") -> float:
        """Tell an event of this user, or of one peer of it, to the peers on this replica.

        It is encoded once a dialect. Returns what that costs, in tokens; what other replicas
        have to do for their peers is part of it.
        """
        cost, most = 0.0, DELIVERY
        for dialect, peers, notice in self._in_words(event):
            frame = text_frame(notice.text)
            audience = self._audience(notice.audience, peers, user_id, peer_id)
            for peer in audience:
                peer.send_frame(frame)
            each = cost_of_delivery(len(frame))
            cost, most = cost + len(audience) * each, max(most, each)
            self._count(dialect, notice, len(audience))
        return cost + (len(self) - len(self.peers)) * most

    def _count(self, dialect: type[Dialect], notice: Notice, peers: int) -> None:
        """Once for all who heard it."""
        if peers:
            self._metrics.messages_out[dialect.name][type_of(notice.text)] += peers
            self._metrics.fan_out.observe(peers)

    def _in_words(self, event: Event) -> Iterator[tuple[type[Dialect], dict[str, Peer], Notice]]:
        for dialect, peers in list(self._speakers.items()):
            try:
                notices = list(dialect.tell(event))
            except Exception:
                close_untold(peers.values(), event)
                continue
            for notice in notices:
                yield dialect, peers, notice

    def _audience(
        self, audience: Audience, peers: dict[str, Peer], user_id: str, own_id: str
    ) -> Collection[Peer]:
        match audience:
            case Audience.EVERYONE:
                return peers.values()
            case Audience.ITSELF:
                return [peers[own_id]] if own_id in peers else []
            case Audience.OTHER_PEERS:
                return [peer for peer_id, peer in peers.items() if peer_id != own_id]
            case Audience.OTHER_USERS:
                members = self.members
                return [
                    peer for peer_id, peer in peers.items() if members[peer_id].user_id != user_id
                ]
            case Audience.BROADCASTERS:
                return [
                    peers[member.peer_id]
                    for member in self.live
                    if member.peer_id in peers and member.peer_id != own_id
                ]
            case Audience.TEAM:
                return [peer for peer in peers.values() if _is_of_team(peer, user_id)]
            case _:
                assert_never(audience)


class Visit:
    """A connection's stay at the hub; leaving it leaves every room.

    A plain context manager: its exit awaits nothing, so it is done whatever
    ended the connection.
    """

    __slots__ = ("_hub", "_peer")

    def __init__(self, hub: "Hub", peer: Peer) -> None:
        """Prepare the stay; it begins on entering."""
        self._hub = hub
        self._peer = peer

    def __enter__(self) -> Peer:
        """Begin the stay."""
        self._hub.arrive(self._peer)
        return self._peer

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End it, and tell all rooms."""
        self._hub.depart(self._peer)


class Hub:
    """The rooms in which this replica has peers.

    The bus is run by whoever made it, with this hub's `deliver`; so are the
    announcements, of which there are none where `announce` is not spoken.
    """

    def __init__(
        self,
        bus: Bus,
        notes: Notes | None = None,
        *,
        max_room_peers: int = 5000,
        max_viewers: int = 50,
        max_rooms: int = 100,
        announcements: Announcements | None = None,
        metrics: Metrics | None = None,
        live_listeners: bool = True,
    ) -> None:
        """Make a hub without peers. It counts what they are told in `metrics`.

        Without `notes` it has some of its own, in memory. Whoever made them runs them.
        """
        self.bus = bus
        self.notes = notes if notes is not None else MemoryNotes()
        self._metrics = metrics if metrics is not None else Metrics()
        self.announcements = announcements
        #: Who is online, on all replicas; whoever made the hub runs it as well.
        self.online = Online(bus, self._metrics)
        if announcements is not None:
            announcements.serve(self)
        self.rooms: dict[str, LocalRoom] = {}
        self.peers: set[Peer] = set()
        #: Sends what they are told; whoever made the hub runs it as well.
        self.courier = Courier()
        #: By user: peers whose rooms are kept for when the user comes back.
        self._returning: dict[str, set[Peer]] = {}
        #: By user: peers that hear what is for the user alone, if it has no inbox.
        self._reachable: dict[str, set[Peer]] = {}
        #: With what new peers are sent away, once the server stops.
        self.closing: Close | None = None
        self._max_room_peers = max_room_peers
        self._max_viewers = max_viewers
        #: Of one connection.
        self._max_rooms = max_rooms
        #: Whether broadcasters are told of listeners that wait for their offer.
        self._live_listeners = live_listeners

    @property
    def degraded(self) -> str | None:
        """What does not work as it should; None if all is well."""
        announcements = self.announcements.degraded if self.announcements is not None else None
        return "; ".join(filter(None, (self.bus.degraded, announcements))) or None

    def visit(self, peer: Peer) -> Visit:
        """The stay of a connection, as a context manager."""
        return Visit(self, peer)

    def arrive(self, peer: Peer) -> None:
        """Count a peer among those that are connected."""
        self.peers.add(peer)
        if self.closing is not None:
            peer.close(self.closing)

    def depart(self, peer: Peer) -> None:
        """Take a peer out of all its rooms, and tell them."""
        self.peers.discard(peer)
        self.online.remove(peer)
        if self.announcements is not None:
            self.announcements.forget(peer)
        peer.left = room_ids = tuple(peer.memberships)
        for room_id in room_ids:
            try:
                self._leave(peer, room_id)
            except Exception:
                logger.exception("a peer has left room %s, and not all were told", ascii(room_id))
        if peer.identity is not None and peer in self._returning.get(peer.identity.user_id, ()):
            rooms = dict.fromkeys([*room_ids, *peer.recalled])
            self._bequeath(peer, peer.identity.user_id, tuple(rooms))
        self._lose_reach(peer)

    def _lose_reach(self, peer: Peer) -> None:
        user_id = peer.identity.user_id if peer.identity is not None else ""
        reachable = self._reachable.get(user_id)
        if reachable is not None:
            reachable.discard(peer)
            if not reachable:
                del self._reachable[user_id]

    def _bequeath(self, peer: Peer, user_id: str, room_ids: Sequence[str]) -> None:
        """Keep rooms for the user's next connection, which may have come already.

        A client that changes networks comes back long before its old connection
        is found dead. One that came while the old one was still heard of is
        another tab, and gets nothing.
        """
        others = self._returning[user_id]
        others.discard(peer)
        if not others:
            del self._returning[user_id]
        heard = wall_time(peer.heard)
        # What the user did since on purpose holds, on whichever connection it was.
        room_ids = [room for room in room_ids if not self.notes.has_left(user_id, room, heard)]
        heir = self._heir(user_id, peer.heard)
        if heir is not None:
            heir.recalled += tuple(room_ids)
            heir.inherit(room_ids)
        elif room_ids:
            self.notes.remember_rooms(user_id, room_ids, heard)
            self.bus.tell_rooms_kept(user_id, heard)

    def _heir(self, user_id: str, heard: float) -> Peer | None:
        """One that came after another of the user was last heard of, and is not about to go."""
        for peer in self._returning.get(user_id, ()):
            if peer.arrived > heard and not peer.is_leaving:
                return peer
        return None

    async def close_all(self, close: Close, *, within: float = 0.0) -> None:
        """End all connections, and at once those that are about to come.

        Those that are here are spread over `within` seconds at most, and a second per
        `LEAVE_RATE` of them, so that they do not all come back elsewhere at one moment.
        """
        self.closing = close
        leaving = list(self.peers)
        began, seconds = trio.current_time(), min(within, len(leaving) / LEAVE_RATE)
        for number, peer in enumerate(leaving):
            peer.close(close)
            await trio.sleep_until(began + seconds * (number + 1) / len(leaving))

    async def keep_rooms(self) -> None:
        """Say to the notes which rooms are in use, again and again; until cancelled."""
        while True:
            await trio.sleep(TOUCH_INTERVAL)
            self.notes.touch_rooms(self.rooms)

    # Commands that wait for the bus

    async def join(self, peer: Peer, command: Join) -> None:
        """Enter a room, and tell the peer and the room of it."""
        await self._join(peer, command)
        # If this was cancelled, the user's next connection has to do it.
        if peer.recalled:
            peer.recalled = tuple(room for room in peer.recalled if room != command.room_id)

    async def _join(self, peer: Peer, command: Join) -> None:
        identity, room_id = peer.identity, command.room_id
        found = self._find(peer, room_id)
        if found is not None:
            self._join_again(peer, *found, viewer=command.viewer and not command.broadcaster)
            return
        if identity is None or not _may_join(identity, command):
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        if len(peer.memberships) >= self._max_rooms:
            peer.tell(Refused(command, Refusal.TOO_MANY_ROOMS, utc_now()))
            return
        caps = Caps(self._max_room_peers, self._max_viewers if command.viewer else None)
        await self._enter(peer, identity, command, caps)
        if command.reachable and room_id in peer.memberships:
            self._reachable.setdefault(identity.user_id, set()).add(peer)

    async def attend(self, peer: Peer, command: Attend) -> None:
        """Let a peer hear announcements, however many do."""
        if peer.identity is None:
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        await self._enter(peer, peer.identity, Join(LOBBY), _NO_CAP)

    async def open_inbox(self, peer: Peer, command: OpenInbox) -> None:
        """Let a peer hear what is for its user alone."""
        if peer.identity is None:
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        inbox = inbox_of(peer.identity.user_id)
        await self._enter(peer, peer.identity, Join(inbox), _INBOX_CAP)

    async def tell_user(self, peer: Peer, command: PrivateCommand) -> None:
        """Tell one user alone, on whichever replica: by its inboxes, else where it is in rooms.

        One that is not there is not told; nothing is kept.
        """
        identity = peer.identity
        if identity is None:
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        event = self._private_event(peer, identity, command)
        if isinstance(event, PrivateMessage) and event.sender_username == ANONYMOUS:
            user = await self.notes.user(identity.user_id)
            if user is not None:
                event = replace(event, sender_username=user.username)
        members = await self.bus.members(inbox_of(event.receiver_id))
        replicas = {member.replica for member in members}
        size = len(event.content) if isinstance(event, PrivateMessage) else 0
        peer.owes += max(1, len(members)) * cost_of_delivery(size)
        if not replicas:
            self._tell_user_here(event)
            self.bus.broadcast(event)
        for replica in replicas:
            if replica == self.bus.replica:
                self._tell_user_here(event)
            else:
                self.bus.send(replica, event)

    def _private_event(
        self, peer: Peer, identity: Identity, command: PrivateCommand
    ) -> PrivateEvent:
        match command:
            case SendPrivate():
                username, avatar_url = self._sender(peer, identity, command)
                return PrivateMessage(
                    command.receiver_id,
                    str(uuid4()),
                    identity.user_id,
                    username,
                    avatar_url,
                    command.content,
                    utc_now(),
                )
            case SetPrivateTyping():
                return PrivateTyping(command.receiver_id, identity.user_id, command.typing)
            case SendReceipt():
                return ReadReceipt(command.receiver_id, identity.user_id, utc_now())
            case _:
                assert_never(command)

    def _sender(
        self, peer: Peer, identity: Identity, command: SendPrivate
    ) -> tuple[str, str | None]:
        """What to call a sender: in open mode as it says, else as its room or its token does."""
        username, avatar_url = identity.username, identity.avatar_url
        for room_id, peer_id in peer.memberships.items():
            if not is_internal(room_id):
                member = self.rooms[room_id].members[peer_id]
                username, avatar_url = member.username, member.avatar_url
        if not identity.verified:
            username = clean_name(command.username) or username
            avatar_url = clean_picture(command.avatar_url) or avatar_url
        return username or ANONYMOUS, avatar_url

    def _tell_user_here(self, event: PrivateEvent) -> None:
        """Tell the user's peers on this replica, if it has any."""
        inbox = self.rooms.get(inbox_of(event.receiver_id))
        if inbox is not None:
            inbox.tell(event, event.receiver_id)
        else:
            for peer in list(self._reachable.get(event.receiver_id, ())):
                peer.hear(event)

    async def _enter(self, peer: Peer, identity: Identity, command: Join, caps: Caps) -> None:
        room_id = command.room_id
        member = await self._member(peer, identity, command)
        if command.broadcaster and identity.verified and await self._is_taken(room_id, member):
            peer.tell(Refused(command, Refusal.STREAM_TAKEN, utc_now()))
            return
        try:
            await self.bus.join(room_id, member, caps, partial(self._admit, peer, room_id, member))
        except JoinRefusedError as error:
            peer.tell(Refused(command, error.reason, utc_now()))
        except trio.Cancelled:
            self._abandon(room_id, member)
            raise
        if peer.dialect.resumes != "nothing":
            await self._resume(peer, room_id)

    async def resume(self, peer: Peer) -> None:
        """Let a peer be live again where its user was, when its server ended without a word."""
        for room_id in tuple(peer.memberships):
            await self._resume(peer, room_id)

    async def _resume(self, peer: Peer, room_id: str) -> None:
        """The same, in one room: its client does not say so again after a restart."""
        if peer.identity is None:
            return
        user_id, dialect = peer.identity.user_id, peer.dialect.name
        lost = await self.notes.lost_member(room_id, user_id, dialect)
        found = self._find(peer, room_id)
        if lost is None or lost.live is None or found is None:
            return
        room, member = found
        if peer.identity.verified and member.subject != lost.subject:
            return
        self.notes.forget_lost(room_id, user_id, dialect)
        if member.live is None and _why_not_live(peer, room, member, exclusive=False) is None:
            self._begin(peer, room, member.peer_id, lost.live)

    async def _is_taken(self, room_id: str, member: Member) -> bool:
        """Whether somebody else has the room for an exclusive broadcast."""
        room = self.rooms.get(room_id)
        members = room.live if room else await self.bus.live(room_id)
        return any(
            _is_rival(member, other) and other.subject != member.subject for other in members
        )

    def _join_again(self, peer: Peer, room: LocalRoom, me: Member, *, viewer: bool) -> None:
        if viewer:
            self._tell(peer, room, [Rejoined(room.id, me, len(room), utc_now())])
        self._tell_entered(peer, room, me)

    async def _member(self, peer: Peer, identity: Identity, command: Join) -> Member:
        username, avatar_url = identity.username, identity.avatar_url
        if command.recall_profile:
            username, avatar_url = await self._recall(command.room_id, identity)
        return Member(
            peer_id=command.peer_id or peer.id,
            user_id=identity.user_id,
            username=username or ANONYMOUS,
            avatar_url=avatar_url,
            dialect=peer.dialect.name,
            replica=self.bus.replica,
            # Peer ids are seen by all dialects, and are taken over within one only.
            subject=f"{peer.dialect.name} {identity.subject}",
            joined_at=unique_now(),
            reserved=command.reserve and identity.verified,
        )

    async def _recall(self, room_id: str, identity: Identity) -> tuple[str, str | None]:
        """What to call a user: as it says now, else as it said before."""
        user_id = identity.user_id
        known = await self.notes.profile(room_id, user_id) or Profile(ANONYMOUS)
        profile = Profile(
            identity.username or known.username, identity.avatar_url or known.avatar_url
        )
        if profile != known:
            await self.notes.remember_profile(room_id, user_id, profile)
        return profile.username, profile.avatar_url

    def _admit(self, peer: Peer, room_id: str, member: Member, others: Sequence[Member]) -> None:
        at = utc_now()
        room = self.rooms.get(room_id)
        if room is None:
            room = self.rooms[room_id] = LocalRoom(room_id, self._metrics)
            room.restore(others)
        elif room.peers.get(member.peer_id) is peer:
            # It asked twice, and waited for both: the directory has the newer.
            self._tell_joined(peer, room, room.join(member, at))
            self._tell_entered(peer, room, member)
            return
        self._replace(room, member.peer_id)
        events = room.join(member, at)
        room.admit(member.peer_id, peer)
        self._note_member(peer, room, member.peer_id)
        self._tell_joined(peer, room, events)
        self._tell_entered(peer, room, member)

    def _tell_joined(self, peer: Peer, room: LocalRoom, events: Iterable[RoomEvent]) -> None:
        """To the peers here; the bus has told the other replicas."""
        for event in events:
            self._tell_at_cost(peer, room, event)

    def _replace(self, room: LocalRoom, peer_id: str) -> None:
        """Close the connection that had this peer id; the room does not see it go."""
        replaced = room.dismiss(peer_id)
        if replaced is not None:
            replaced.close(Close(CloseCode.REPLACED, "Replaced by a newer connection"))

    def _tell_entered(self, peer: Peer, room: LocalRoom, me: Member) -> None:
        peer.tell(Entered(room.id, me, tuple(room.members.values()), utc_now()))

    def _abandon(self, room_id: str, member: Member) -> None:
        """The connection ended while it joined: the directory may have the member."""
        room = self.rooms.get(room_id)
        if room is None or member.peer_id not in room.peers:
            self.bus.publish(Left(room_id, member, last=True, peers=0, at=utc_now()))

    async def ask_live(self, peer: Peer, command: AskLive) -> None:
        """Tell a peer who is live in a room, its own user not among them."""
        if peer.identity is None or not _may_see(peer.identity, command.room_id):
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        room = self.rooms.get(command.room_id)
        members = room.live if room else await self.bus.live(command.room_id)
        user_id = peer.identity.user_id
        others = tuple(m for m in members if m.live and m.user_id != user_id)
        peer.tell(LivePeers(command.room_id, others))
        found = self._find(peer, command.room_id)
        if found is not None and command.listens and self._live_listeners:
            self._introduce(*found)
            peer.owes += len(members) * DELIVERY

    def _introduce(self, room: LocalRoom, listener: Member) -> None:
        """Tell the broadcasters of its dialect of a listener, if its user is not live itself.

        Of each user it is the peer to which its signals will go.
        """
        users = dict.fromkeys(member.user_id for member in room.live)
        if listener.user_id in users:
            return
        for user_id in users:
            target = room.peer_of(user_id, but=listener.peer_id)
            if target is None or target.dialect != listener.dialect:
                continue
            listening = Listening(room.id, listener, target, utc_now())
            if target.peer_id in room.peers:
                self._tell_of_listener(listening)
            else:
                self.bus.send(target.replica, listening)

    def _tell_of_listener(self, listening: Listening) -> None:
        """Tell the broadcaster, which is here, unless the two know each other."""
        room, target = self.rooms.get(listening.room_id), listening.target.peer_id
        if room is not None and room.meet(target, listening.listener.user_id):
            room.peers[target].tell(listening)

    async def recall_rooms(self, peer: Peer) -> tuple[str, ...]:
        """Where this user was when it lost its last connection; keeps this one's for the next."""
        if peer.identity is None:
            return ()
        user_id = peer.identity.user_id
        self._returning.setdefault(user_id, set()).add(peer)
        room_ids = await self.notes.recall_rooms(user_id)
        peer.recalled += room_ids
        return room_ids

    # What users do by REST

    def say(self, room_id: str, user_id: str, profile: Profile, content: str) -> Chatted:
        """Tell a room what a user says that need not be in it. Does not block."""
        speaker = Member(
            peer_id="",
            user_id=user_id,
            username=profile.username,
            dialect="room",
            replica=self.bus.replica,
            subject="",
            avatar_url=profile.avatar_url,
        )
        chat = Chatted(room_id, speaker, str(uuid4()), content, profile.avatar_url, utc_now())
        self.notes.keep_chat(chat)
        self.bus.publish(chat)
        room = self.rooms.get(room_id)
        if room is not None:
            self._tell_one(room, chat)
        return chat

    def change_user(self, change: UserChanged) -> None:
        """Tell the rooms in which a user is what it is called now. Does not block."""
        self._change_user_here(change)
        self.bus.broadcast(change)

    def _change_user_here(self, change: UserChanged) -> None:
        """In each room the replica of the user's first peer does it, so that it is told once."""
        for peer in list(self._reachable.get(change.user_id, ())):
            for room_id, peer_id in list(peer.memberships.items()):
                room = self.rooms[room_id]
                member = room.first_of(change.user_id, peer.dialect.name)
                if member is None or member.peer_id != peer_id:
                    continue
                command = ChangeProfile(
                    room_id,
                    wire_type="profile_updated",
                    username=change.username,
                    avatar_url=change.avatar_url,
                    previous_username=change.previous_username,
                    bio=change.bio,
                )
                self._change_profile(peer, room, member, command)

    # Announcements

    def tell_announcement(self, event: AnnouncementEvent) -> None:
        """Tell the peers here that attend."""
        lobby = self.rooms.get(LOBBY)
        if lobby is not None:
            lobby.tell(event, event.announcement.created_by)

    @property
    def attending(self) -> dict[str, Peer]:
        """The peers here that hear announcements, by their ids."""
        lobby = self.rooms.get(LOBBY)
        return lobby.peers if lobby is not None else {}

    @property
    def users_here(self) -> int:
        """How many users hear announcements through this replica."""
        return len({peer.identity.user_id for peer in self.attending.values() if peer.identity})

    async def users_everywhere(self) -> int:
        """How many hear them on all replicas, as far as this one knows; asks none of them."""
        lobby = self.rooms.get(LOBBY)
        if lobby is not None:
            await trio.lowlevel.checkpoint()
            return lobby.users
        with trio.move_on_after(_COUNTING):
            return len({member.user_id for member in await self.bus.members(LOBBY)})
        return 0

    # What everybody may know of the rooms

    async def members(self, room_id: str) -> tuple[Member, ...]:
        """All members of a room on all replicas, in the order of joining."""
        return () if is_internal(room_id) else await self.bus.members(room_id)

    # Commands that are carried out at once

    def handle(self, peer: Peer, command: RoomCommand) -> None:
        """Carry out any other command. Does not block."""
        if isinstance(command, Leave):
            self._keep_out(peer, command.room_id)
        found = self._find(peer, command.room_id)
        if found is None:
            peer.tell(Refused(command, Refusal.NOT_IN_ROOM, utc_now()))
            return
        room, member = found
        match command:
            case Signal():
                self._signal(peer, room, member, command)
            case Leave():
                self._leave(peer, room.id)
                peer.tell(Exited(room.id, utc_now()))
            case GoLive():
                self._go_live(peer, room, member, command)
            case StopLive():
                self._stop_live(peer, room, member, command)
            case Chat():
                self._chat(peer, room, member, command)
            case SetTyping():
                self._tell(peer, room, [Typing(room.id, member, command.typing, utc_now())])
            case StartStreaming():
                self._start_streaming(peer, room, member, command)
            case Kick():
                self._kick(peer, room, command)
            case ChangeProfile():
                self._change_profile(peer, room, member, command)
            case _:
                assert_never(command)

    def _find(self, peer: Peer, room_id: str) -> tuple[LocalRoom, Member] | None:
        peer_id = peer.memberships.get(room_id)
        if peer_id is None:
            return None
        room = self.rooms[room_id]
        return room, room.members[peer_id]

    def _keep_out(self, peer: Peer, room_id: str) -> None:
        """Put its user into the room no more, for what is lost on older connections of it."""
        user_id = peer.identity.user_id if peer.identity is not None else ""
        if peer in self._returning.get(user_id, ()):
            peer.recalled = tuple(room for room in peer.recalled if room != room_id)
            self.notes.keep_left(user_id, room_id, wall_time(trio.current_time()))

    def _leave(self, peer: Peer, room_id: str) -> None:
        room = self.rooms[room_id]
        peer_id = peer.memberships[room_id]
        returns = self._returns(peer)
        if peer.dialect.resumes != "nothing":
            self._note_leave(room_id, room.members[peer_id], returns=returns)
        room.dismiss(peer_id)
        events = room.leave(peer_id, utc_now())
        self._drop_if_empty(room)
        tells: list[Callable[[RoomEvent], None]] = [self.bus.publish]
        if not returns:
            tells.append(partial(self._tell_at_cost, peer, room))
        for event in events:
            for tell in tells:
                try:
                    tell(event)
                except Exception:  # it has left all the same, and the others are told
                    logger.exception("cannot tell that a peer has left")

    def _returns(self, peer: Peer) -> bool:
        """Whether the server sends it away because it stops, and gives back what it had.

        Those that are here are next. To hear of it would make their clients end what goes from
        browser to browser, and needs no server.
        """
        is_sent_away = self.closing is not None and peer.closed_with is self.closing
        return is_sent_away and peer.dialect.resumes != "nothing"

    def _note_leave(self, room_id: str, member: Member, *, returns: bool) -> None:
        """What the server takes from a user it gives back after the restart; see `Dialect`."""
        if not returns:
            self.notes.forget_member(room_id, member)
            return
        now = wall_time(trio.current_time())
        self.notes.lose_member(room_id, member, now)
        if member.live is not None:
            self.bus.tell_rooms_kept(member.user_id, now)

    def _note_member(self, peer: Peer, room: LocalRoom, peer_id: str) -> None:
        """Let the notes have a member as it is now."""
        if peer.dialect.resumes != "nothing":
            self.notes.keep_member(room.id, room.members[peer_id])

    def _drop_if_empty(self, room: LocalRoom) -> None:
        if not room.peers:
            self.rooms.pop(room.id, None)

    def _start_streaming(
        self, peer: Peer, room: LocalRoom, member: Member, command: StartStreaming
    ) -> None:
        at = utc_now()
        refusal = _why_not_live(peer, room, member, exclusive=True)
        if refusal is not None:
            peer.tell(Refused(command, refusal, at))
        else:
            self._tell(peer, room, [StreamStarting(room.id, member, at)])

    def _go_live(self, peer: Peer, room: LocalRoom, member: Member, command: GoLive) -> None:
        refusal = _why_not_live(peer, room, member, exclusive=command.exclusive)
        if refusal is not None:
            peer.tell(Refused(command, refusal, utc_now()))
            return
        at = utc_now()
        if command.exclusive:
            at = max([at, *(just_after(old.started_at) for old in _rivals(room, member).values())])
        live = Live(command.media_type, at, command.exclusive, _own_name(peer, command))
        if command.exclusive:
            self._end_older_broadcasts(room, member, live)
        self._begin(peer, room, member.peer_id, live)

    def _begin(self, peer: Peer, room: LocalRoom, peer_id: str, live: Live) -> None:
        self._tell(peer, room, room.go_live(peer_id, live, utc_now(), exclusive=live.exclusive))
        self._note_member(peer, room, peer_id)
        others = tuple(m for m in room.members.values() if m.peer_id != peer_id)
        peer.tell(LiveNow(room.id, room.members[peer_id], others))

    def _end_older_broadcasts(self, room: LocalRoom, newest: Member, live: Live) -> None:
        """A stream has one broadcaster, the newest; the page of another is a stale one.

        Each replica ends its own. Two that began at the same moment on two replicas
        agree on who is newer, since a broadcast begins later than all it knows of.
        """
        for old_id, old in _rivals(room, newest).items():
            peer = room.peers.get(old_id) if old.exclusive else None
            if peer is not None and (old.started_at, old_id) < (live.started_at, newest.peer_id):
                self._tell(peer, room, room.stop_live(old_id, utc_now(), StopCause.REPLACED))
                self._leave(peer, room.id)
                peer.tell(Displaced(room.id))

    def _stop_live(self, peer: Peer, room: LocalRoom, member: Member, command: StopLive) -> None:
        at = utc_now()
        events = room.stop_live(member.peer_id, at)
        self._tell(peer, room, events)
        self._note_member(peer, room, member.peer_id)
        if not events:
            peer.tell(Refused(command, Refusal.NOT_LIVE, at))
        elif member.live is not None and member.live.exclusive and room.viewers > self._max_viewers:
            # It was let in past the cap to broadcast, and would now only watch.
            self._leave(peer, room.id)

    def _chat(self, peer: Peer, room: LocalRoom, member: Member, command: Chat) -> None:
        avatar = clean_picture(command.avatar)
        avatar = member.avatar_url if avatar is None else avatar
        chat = Chatted(room.id, member, str(uuid4()), command.content, avatar, utc_now())
        self.notes.keep_chat(chat)
        self._tell(peer, room, [chat])
        peer.tell(ChatSent(room.id, chat.id, chat.at))

    def _change_profile(
        self, peer: Peer, room: LocalRoom, member: Member, command: ChangeProfile
    ) -> None:
        command = replace(
            command,
            username=clean_name(command.username),
            avatar_url=clean_picture(command.avatar_url),
            previous_username=clean_name(command.previous_username),
        )
        events = room.change_profile(member.peer_id, command, utc_now())
        for event in events:
            named = event.member
            profile = Profile(named.username, named.avatar_url)
            self.notes.keep_profile(room.id, named.user_id, profile)
        self._note_member(peer, room, member.peer_id)
        self._tell(peer, room, events)

    def _kick(self, peer: Peer, room: LocalRoom, command: Kick) -> None:
        if peer.identity is None or not peer.identity.grants.moderator:
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        target = room.members.get(command.peer_id)
        if target is None:
            peer.tell(Refused(command, Refusal.TARGET_NOT_FOUND, utc_now()))
            return
        kicked = Kicked(room.id, target, command.reason[:_MAX_REASON])
        # First of all: who is thrown out may be back at once, wherever it was.
        self.bus.ban(room.id, target, BAN_SECONDS)
        if target.replica == self.bus.replica:
            self._throw_out(kicked)
        else:
            self.bus.send(target.replica, kicked)

    def _throw_out(self, kicked: Kicked) -> None:
        room = self.rooms.get(kicked.room_id)
        peer = room.peers.get(kicked.target.peer_id) if room is not None else None
        if peer is None:
            return
        self._keep_out(peer, kicked.room_id)
        self._leave(peer, kicked.room_id)
        peer.tell(Removed(kicked.room_id, kicked.reason, utc_now()))
        if not peer.memberships:
            peer.close(Close(CloseCode.POLICY, kicked.reason))

    # Signals: the hot path

    def _signal(self, peer: Peer, room: LocalRoom, sender: Member, command: Signal) -> None:
        target = _resolve(room, sender, command)
        if isinstance(target, Refusal):
            peer.tell(Refused(command, target, utc_now()))
            return
        signal = Signalled(
            room.id, command.kind, command.payload, sender, target, command.wire_type, utc_now()
        )
        if target is None:
            self._tell(peer, room, [signal])
        elif (local := room.peers.get(target.peer_id)) is not None:
            local.hear(signal)
        else:
            self.bus.send(target.replica, signal)
        if command.kind in _DESCRIPTIONS:
            peer.said(signal)
            if target is not None:
                room.meet(sender.peer_id, target.user_id)
                room.meet(target.peer_id, sender.user_id)

    def pass_time(self, peer: PatientPeer, now: float) -> None:
        """Tell a peer what has waited long enough; for its connection, when it is `due`."""
        signals, unanswered = peer.take_due(now)
        for signal in signals:
            if self._find(peer, signal.room_id) and self._is_here(signal.sender, signal.room_id):
                peer.tell_late(signal)
        for offer in unanswered:
            found = self._find(peer, offer.room_id)
            viewer = found[0].members.get(offer.peer_id) if found is not None else None
            if found is not None and found[1].live and viewer is not None and not viewer.live:
                peer.tell(LiveNow(offer.room_id, found[1], (viewer,)))
            else:
                peer.forget(offer)

    def _is_here(self, member: Member, room_id: str) -> bool:
        """Whether this very peer is still in the room, on whichever replica."""
        room = self.rooms.get(room_id)
        known = room.members.get(member.peer_id) if room is not None else None
        return known is not None and known.joined_at == member.joined_at

    # What other replicas tell

    def deliver(self, delivery: Delivery) -> None:
        """Take in what another replica told."""
        if isinstance(delivery, Undelivered):
            self._bounce(delivery.signal)
            return
        if isinstance(delivery, Kicked):
            self._throw_out(delivery)
            return
        if isinstance(delivery, Moved | OnlineHere):
            self.online.take(delivery)
            return
        if isinstance(delivery, Listening):
            self._tell_of_listener(delivery)
            return
        if isinstance(delivery, RoomsKept):
            self._give_back(delivery.user_id, delivery.heard)
            return
        if isinstance(delivery, ReplicaLost):
            self._note_lost(delivery)
            return
        if isinstance(delivery, PrivateEvent):
            self._tell_user_here(delivery)
            return
        if isinstance(delivery, UserChanged):
            self._change_user_here(delivery)
            return
        room = self.rooms.get(delivery.room_id)
        if isinstance(delivery, RoomMembers):
            if room is not None:
                self._bring_in_line(room, delivery.members)
        elif isinstance(delivery, Signalled) and delivery.target is not None:
            self._deliver_signal(room, delivery, delivery.target)
        elif room is not None:
            self._tell_here(room, self._applied(room, delivery))
            self._drop_if_empty(room)

    def _bring_in_line(self, room: LocalRoom, members: Iterable[Member]) -> None:
        """Tell what differs from who is on other replicas."""
        known = {p: member for p, member in room.members.items() if p not in room.peers}
        others = {m.peer_id: m for m in members if m.peer_id not in room.peers}
        for event in reconcile(room.id, known, others, utc_now()):
            self._tell_here(room, self._applied(room, event))

    def _give_back(self, user_id: str, heard: float) -> None:
        """Let a connection of a user that came since then have what notes have of an older one."""
        moment = trio_time(heard)
        heir = self._heir(user_id, moment)
        if heir is not None:
            heir.inherit(())
        for peer in self._reachable.get(user_id, ()):
            if peer.arrived > moment and not peer.is_leaving:
                peer.inherit(())

    def _note_lost(self, lost: ReplicaLost) -> None:
        """Keep what the users of another replica are to find again; some have come already."""
        users: dict[str, None] = {}
        for room_id, member in lost.members:
            dialect = DIALECTS.get(member.dialect)
            if dialect is not None and dialect.resumes != "nothing":
                self.notes.lose_member(room_id, member, lost.heard)
                users[member.user_id] = None
        for user_id in users:
            self.bus.tell_rooms_kept(user_id, lost.heard)
            self._give_back(user_id, lost.heard)

    def _deliver_signal(self, room: LocalRoom | None, signal: Signalled, target: Member) -> None:
        peer = room.peers.get(target.peer_id) if room is not None else None
        if room is None or peer is None:
            self.bus.send(signal.sender.replica, Undelivered(signal))
            return
        peer.hear(signal)
        if signal.kind in _DESCRIPTIONS:
            room.meet(target.peer_id, signal.sender.user_id)

    def _bounce(self, signal: Signalled) -> None:
        """Tell the sender that its target is gone."""
        room = self.rooms.get(signal.room_id)
        sender = room.peers.get(signal.sender.peer_id) if room is not None else None
        if sender is None:
            return
        command = Signal(
            room_id=signal.room_id,
            kind=signal.kind,
            payload=signal.payload,
            addressed=To.PEER,
            target=signal.target.peer_id if signal.target else "",
            wire_type=signal.wire_type,
        )
        sender.tell(Refused(command, Refusal.TARGET_NOT_FOUND, utc_now()))

    def _applied(self, room: LocalRoom, event: RoomEvent) -> Sequence[RoomEvent]:
        """Make another replica's change here; the events as they are seen from here.

        What another says of our own peers is not believed. That one has joined elsewhere
        in place of ours, the directory has let it.
        """
        if isinstance(event, Left | WentLive | StoppedLive) and event.member.peer_id in room.peers:
            return []
        match event:
            case Joined(member=member):
                self._replace(room, member.peer_id)
                return room.join(member, event.at)
            case Left(member=member):
                return room.leave(member.peer_id, event.at)
            case WentLive(member=Member(live=Live() as live) as member):
                if event.exclusive:
                    self._end_older_broadcasts(room, member, live)
                return room.go_live(member.peer_id, live, event.at, exclusive=event.exclusive)
            case StoppedLive(member=member):
                return room.stop_live(member.peer_id, event.at, event.cause)
            case ProfileChanged():
                room.apply_profile(event)
                return [event]
            case Rejoined():  # the number that was told here last is the one that counts here
                return [replace(event, peers=len(room))]
            case _:
                return [event]

    # Telling

    def _tell(self, peer: Peer, room: LocalRoom, events: Iterable[RoomEvent]) -> None:
        """Tell events that `peer` began, and pays for: to the peers here, and other replicas."""
        for event in events:
            self.bus.publish(event)
            self._tell_at_cost(peer, room, event)

    def _tell_at_cost(self, peer: Peer, room: LocalRoom, event: RoomEvent) -> None:
        """Tell an event to the peers here; `peer` pays for all who hear it, wherever."""
        peer.owes += self._tell_one(room, event)

    def _tell_here(self, room: LocalRoom, events: Iterable[RoomEvent]) -> None:
        """Tell events of other replicas to the peers here; who began them has paid there."""
        for event in events:
            self._tell_one(room, event)

    def _tell_one(self, room: LocalRoom, event: RoomEvent) -> float:
        origin = event.sender if isinstance(event, Signalled) else event.member
        return room.tell(event, origin.user_id, origin.peer_id)


def _own_name(peer: Peer, command: GoLive) -> str | None:
    """What a broadcaster calls itself, where nobody knows better."""
    known = peer.identity is not None and peer.identity.verified
    return None if known else clean_name(command.username)


def _rivals(room: Room, newest: Member) -> dict[str, Live]:
    """The broadcasts of the same dialect in a room, but one's own; by peer id."""
    return {
        member.peer_id: member.live
        for member in room.live
        if member.live and _is_rival(newest, member)
    }


def _is_rival(newest: Member, other: Member) -> bool:
    is_live = other.live is not None
    return is_live and other.dialect == newest.dialect and other.peer_id != newest.peer_id


def _may_join(identity: Identity, command: Join) -> bool:
    allowed = _may_see(identity, command.room_id)
    return allowed and (identity.grants.publish or not command.broadcaster)


def _may_see(identity: Identity, room_id: str) -> bool:
    return not is_internal(room_id) and may_enter(identity, room_id)


def _is_of_team(peer: Peer, creator: str) -> bool:
    """Whether a peer is the creator's own, or of the creator's team."""
    identity = peer.identity
    return identity is not None and creator in (identity.user_id, identity.grants.team_of)


def _why_not_live(peer: Peer, room: Room, member: Member, *, exclusive: bool) -> Refusal | None:
    """What keeps a peer from broadcasting.

    Where nobody can prove to be the same as before, the newest has an exclusive broadcast.
    """
    if peer.identity is None or not peer.identity.grants.publish:
        return Refusal.NOT_ALLOWED
    if exclusive and peer.identity.verified:
        rivals = (room.members[peer_id] for peer_id in _rivals(room, member))
        if any(rival.subject != member.subject for rival in rivals):
            return Refusal.STREAM_TAKEN
    return None


def _resolve(room: Room, sender: Member, command: Signal) -> Member | Refusal | None:
    """The member that a signal is for; None for all others."""
    addressed = command.addressed
    if addressed is To.COUNTERPART:
        addressed = To.VIEWER if sender.live else To.BROADCASTER
    match addressed:
        case To.OTHERS:
            return None
        case To.USER:
            target = room.peer_of(command.target, but=sender.peer_id)
        case To.BROADCASTER:
            if sender.live:
                return Refusal.NOT_ALLOWED
            target = room.broadcaster_for(sender.dialect)
        case To.VIEWER if not sender.live:
            return Refusal.NOT_ALLOWED
        case _:
            target = room.members.get(command.target)
    if target is None or target.peer_id == sender.peer_id:
        return Refusal.TARGET_NOT_FOUND
    return target
