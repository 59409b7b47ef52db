"""Hub: this replica's peers and rooms; commands become events here.

State changes between checkpoints only, so there are no locks: a change, the
telling of it to the peers of this replica, and its hand-over to the bus are
one step that nothing can interrupt, neither a cancellation nor a shutdown.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import assert_never
from uuid import uuid4

import trio
from msgspec.structs import replace

from trio_signal.announcements import Announcements
from trio_signal.auth import may_enter
from trio_signal.broadcasts import (
    begin_after,
    is_rival,
    name_of,
    replaced_by,
    rivals_of,
    why_not_live,
)
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
from trio_signal.clock import trio_time, unique_now, utc_now, wall_time
from trio_signal.dialects import DIALECTS
from trio_signal.errors import CloseCode, JoinRefusedError
from trio_signal.local_room import LocalRoom
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
    SetTyping,
    Signal,
    StartStreaming,
    StopLive,
    To,
)
from trio_signal.messages.events import (
    AnnouncementEvent,
    ChatSent,
    Chatted,
    Displaced,
    Entered,
    Exited,
    Joined,
    Left,
    Listening,
    LiveNow,
    LivePeers,
    Moved,
    OnlineHere,
    PrivateEvent,
    ProfileChanged,
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
from trio_signal.names import ANONYMOUS, clean_name, clean_picture
from trio_signal.notes import TOUCH_INTERVAL, Notes
from trio_signal.notes.memory import MemoryNotes
from trio_signal.online import Online
from trio_signal.outbox import Flusher
from trio_signal.pacing import DELIVERY
from trio_signal.peer import HoldingPeer, Peer
from trio_signal.presence import reconcile
from trio_signal.private import PrivateMessages
from trio_signal.returning import Returning

logger = logging.getLogger(__name__)

#: How many peers are sent away in a second when the server stops.
LEAVE_RATE = 100.0
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
        self.flusher = Flusher()
        self._returning = Returning(bus, self.notes)
        self._private = PrivateMessages(bus, self.notes, self.rooms)
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
        self._returning.depart(peer, room_ids)
        self._private.remove(peer)

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
            self._private.add(peer, identity.user_id)

    async def attend(self, peer: Peer, command: Attend) -> None:
        """Let a peer hear announcements, however many do."""
        if peer.identity is None:
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        await self._enter(peer, peer.identity, Join(LOBBY), _NO_CAP)

    async def tell_user(self, peer: Peer, command: PrivateCommand) -> None:
        """Tell one user alone, on whichever replica; see `PrivateMessages`."""
        if peer.identity is None:
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        await self._private.send(peer, peer.identity, command)

    async def open_inbox(self, peer: Peer, command: OpenInbox) -> None:
        """Let a peer hear what is for its user alone."""
        if peer.identity is None:
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        inbox = inbox_of(peer.identity.user_id)
        await self._enter(peer, peer.identity, Join(inbox), _INBOX_CAP)

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
        if (
            member.live is None
            and why_not_live(peer.identity, room, member, exclusive=False) is None
        ):
            self._begin(peer, room, member.peer_id, lost.live)

    async def _is_taken(self, room_id: str, member: Member) -> bool:
        """Whether somebody else has the room for an exclusive broadcast."""
        room = self.rooms.get(room_id)
        members = room.live if room else await self.bus.live(room_id)
        return any(is_rival(member, other) and other.subject != member.subject for other in members)

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
        return await self._returning.recall(peer)

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
        for peer in self._private.reachable(change.user_id):
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
            self._returning.keep_out(peer, command.room_id)
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

    def _leave(self, peer: Peer, room_id: str) -> None:
        room = self.rooms[room_id]
        peer_id = peer.memberships[room_id]
        returns = self._returns(peer)
        if peer.dialect.resumes != "nothing":
            self._note_leave(room_id, room.members[peer_id], returns=returns)
        room.dismiss(peer_id)
        events = room.leave(peer_id, utc_now())
        self._drop_if_empty(room)
        tell_here = partial(self._tell_at_cost, peer, room, to_resuming=not returns)
        tells: list[Callable[[RoomEvent], None]] = [self.bus.publish, tell_here]
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
        refusal = why_not_live(peer.identity, room, member, exclusive=True)
        if refusal is not None:
            peer.tell(Refused(command, refusal, at))
        else:
            self._tell(peer, room, [StreamStarting(room.id, member, at)])

    def _go_live(self, peer: Peer, room: LocalRoom, member: Member, command: GoLive) -> None:
        refusal = why_not_live(peer.identity, room, member, exclusive=command.exclusive)
        if refusal is not None:
            peer.tell(Refused(command, refusal, utc_now()))
            return
        at = utc_now()
        if command.exclusive:
            at = begin_after(at, rivals_of(room, member))
        name = name_of(peer.identity, command)
        live = Live(command.media_type, at, command.exclusive, name)
        if command.exclusive:
            self._end_older_broadcasts(room, member, live)
        self._begin(peer, room, member.peer_id, live)

    def _begin(self, peer: Peer, room: LocalRoom, peer_id: str, live: Live) -> None:
        self._tell(peer, room, room.go_live(peer_id, live, utc_now(), exclusive=live.exclusive))
        self._note_member(peer, room, peer_id)
        others = tuple(m for m in room.members.values() if m.peer_id != peer_id)
        peer.tell(LiveNow(room.id, room.members[peer_id], others))

    def _end_older_broadcasts(self, room: LocalRoom, newest: Member, live: Live) -> None:
        """Each replica ends those of its own peers."""
        for old_id in replaced_by(newest, live, room):
            peer = room.peers.get(old_id)
            if peer is not None:
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
        self._returning.keep_out(peer, kicked.room_id)
        self._leave(peer, kicked.room_id)
        peer.tell(Removed(kicked.room_id, kicked.reason, utc_now()))
        if not peer.memberships:
            peer.close(Close(CloseCode.POLICY, kicked.reason))

    # Signals: the hot path

    def _signal(self, peer: Peer, room: LocalRoom, sender: Member, command: Signal) -> None:
        target = room.target_of(sender, command)
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

    def pass_time(self, peer: HoldingPeer, now: float) -> None:
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
            self._private.tell_here(delivery)
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
        successor = self._returning.successor(user_id, moment)
        if successor is not None:
            successor.inherit(())
        for peer in self._private.reachable(user_id):
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

    def _tell_at_cost(
        self, peer: Peer, room: LocalRoom, event: RoomEvent, *, to_resuming: bool = True
    ) -> None:
        """Tell an event to the peers here; `peer` pays for all who hear it, wherever."""
        peer.owes += self._tell_one(room, event, to_resuming=to_resuming)

    def _tell_here(self, room: LocalRoom, events: Iterable[RoomEvent]) -> None:
        """Tell events of other replicas to the peers here; who began them has paid there."""
        for event in events:
            self._tell_one(room, event)

    def _tell_one(self, room: LocalRoom, event: RoomEvent, *, to_resuming: bool = True) -> float:
        origin = event.sender if isinstance(event, Signalled) else event.member
        return room.tell(event, origin.user_id, origin.peer_id, to_resuming=to_resuming)


def _may_join(identity: Identity, command: Join) -> bool:
    allowed = _may_see(identity, command.room_id)
    return allowed and (identity.grants.publish or not command.broadcaster)


def _may_see(identity: Identity, room_id: str) -> bool:
    return not is_internal(room_id) and may_enter(identity, room_id)
