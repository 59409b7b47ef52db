"""Membership: how peers of this replica enter rooms and leave them."""

import logging
from collections.abc import Callable, Iterable
from functools import partial

import trio

from trio_signal.broadcasts import is_rival
from trio_signal.bus import Bus, Caps, RoomsKept
from trio_signal.clock import unique_now, utc_now, wall_time
from trio_signal.errors import JoinRefusedError
from trio_signal.local_room import LocalRoom
from trio_signal.messages.commands import Join, LeaveCause
from trio_signal.messages.events import Entered, Left, Refusal, Refused, Rejoined, RoomEvent
from trio_signal.messages.identity import WIRE, Identity, Member, Profile, is_internal
from trio_signal.names import ANONYMOUS
from trio_signal.notes import Notes
from trio_signal.participant import Participant
from trio_signal.rooms import Rooms

logger = logging.getLogger(__name__)


class Membership:
    """Lets peers join and leave rooms."""

    def __init__(
        self,
        rooms: Rooms,
        bus: Bus,
        notes: Notes,
        *,
        max_room_peers: int,
        max_viewers: int,
        max_rooms: int,
    ) -> None:
        """Take the rooms of this replica. A connection may be in `max_rooms`."""
        self._rooms = rooms
        self._bus = bus
        self._notes = notes
        self._max_room_peers = max_room_peers
        self._max_viewers = max_viewers
        self._max_rooms = max_rooms

    async def join(self, peer: Participant, command: Join) -> bool:
        """Let a peer join, and notify it and the room; return whether it was not there before.

        Blocks on the bus.
        """
        identity, room_id = peer.identity, command.room_id
        found = self._rooms.find(peer, room_id)
        if found is not None:
            self._join_again(peer, *found, viewer=command.viewer and not command.broadcaster)
            return False
        if identity is None or not _may_join(identity, command):
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return False
        if len(peer.memberships) >= self._max_rooms:
            peer.tell(Refused(command, Refusal.TOO_MANY_ROOMS, utc_now()))
            return False
        relays = self._rooms.relays
        viewers = self._max_viewers if relays is None else relays.most_viewers
        caps = Caps(self._max_room_peers, viewers if command.viewer else None)
        return await self.enter(peer, identity, command, caps)

    async def enter(self, peer: Participant, identity: Identity, command: Join, caps: Caps) -> bool:
        """Join without checking permissions; also for internal rooms."""
        room_id = command.room_id
        member = await self._member(peer, identity, command)
        if command.broadcaster and identity.verified and await self._is_taken(room_id, member):
            peer.tell(Refused(command, Refusal.STREAM_TAKEN, utc_now()))
            return False
        with self._rooms.entering(room_id) as room:
            try:
                await self._bus.join(room, member, caps, partial(self._admit, peer, room, member))
            except JoinRefusedError as error:
                peer.tell(Refused(command, error.reason, utc_now()))
                return False
            except trio.Cancelled:
                if member.peer_id not in room.peers:  # the directory may have added it
                    self._bus.publish(Left(room.id, member, last=True, peers=0, at=utc_now()))
                raise
        return True

    async def _is_taken(self, room_id: str, member: Member) -> bool:
        """Whether somebody else has an exclusive broadcast in the room."""
        members = await self._rooms.live_in(room_id)
        return any(is_rival(member, other) and other.subject != member.subject for other in members)

    def _join_again(self, peer: Participant, room: LocalRoom, me: Member, *, viewer: bool) -> None:
        if viewer:
            self._rooms.tell(peer, room, [Rejoined(room.id, me, len(room), utc_now())])
        self._tell_entered(peer, room, me)

    async def _member(self, peer: Participant, identity: Identity, command: Join) -> Member:
        username, avatar_url = identity.username, identity.avatar_url
        if command.restore_profile:
            username, avatar_url = await self._recall(command.room_id, identity)
        return Member(
            peer_id=command.peer_id or peer.id,
            user_id=identity.user_id,
            username=username or ANONYMOUS,
            avatar_url=avatar_url,
            dialect=peer.dialect_name,
            replica=self._bus.replica,
            # All dialects see peer ids, but only a client of the same dialect may take one over.
            subject=f"{peer.dialect_name} {identity.subject}",
            joined_at=unique_now(),
            reserved=command.reserve and identity.verified,
            wire=WIRE,
            session=peer.session_tag,
            relays=command.relays,
            away=False,
        )

    async def _recall(self, room_id: str, identity: Identity) -> tuple[str, str | None]:
        """The name and picture of a user: those given now, else the last ones given."""
        user_id = identity.user_id
        known = await self._notes.profile(room_id, user_id) or Profile(ANONYMOUS)
        profile = Profile(
            identity.username or known.username, identity.avatar_url or known.avatar_url
        )
        if profile != known:
            await self._notes.remember_profile(room_id, user_id, profile)
        return profile.username, profile.avatar_url

    def _admit(
        self, peer: Participant, room: LocalRoom, member: Member, events: Iterable[RoomEvent]
    ) -> None:
        """Add the peer to the room, notify the others here, and send the peer the room's state."""
        # If the peer joined twice at the same time, the room already has it.
        if room.peers.get(member.peer_id) is not peer:
            room.replace(member.peer_id)
            room.admit(member.peer_id, peer)
            self.note(peer, room, member.peer_id)
        for event in events:  # the bus has already told the other replicas
            self._rooms.tell_at_cost(peer, room, event)
        self._tell_entered(peer, room, member)

    def _tell_entered(self, peer: Participant, room: LocalRoom, me: Member) -> None:
        peer.tell(Entered(room.id, me, tuple(room.members.values()), utc_now()))

    def leave(self, peer: Participant, room_id: str, cause: LeaveCause = LeaveCause.CLOSED) -> None:
        """Let a peer leave a room, and notify the others. Does not block."""
        room = self._rooms[room_id]
        peer_id = peer.memberships[room_id]
        returns = self._returns(peer)
        if peer.resumes != "nothing":
            self._note_leave(room_id, room.members[peer_id], returns=returns)
        room.dismiss(peer_id)
        events = room.leave(peer_id, utc_now(), cause)
        tell_here = partial(self._rooms.tell_at_cost, peer, room, to_resuming=not returns)
        tells: list[Callable[[RoomEvent], None]] = [self._bus.publish, tell_here]
        for event in events:
            for tell in tells:
                try:
                    tell(event)
                except Exception:  # the peer has left nevertheless; notify the others
                    logger.exception("cannot report that a peer left")
        self._rooms.drop_if_empty(room)

    def _returns(self, peer: Participant) -> bool:
        """Whether the peer leaves only because the server stops, and will get its place back.

        If the others here were notified, their clients would end media that flow directly between
        browsers, and could continue.
        """
        closing = self._rooms.closing
        is_sent_away = closing is not None and peer.closed_with is closing
        return is_sent_away and peer.resumes != "nothing"

    def _note_leave(self, room_id: str, member: Member, *, returns: bool) -> None:
        """Note what to restore for the user after a restart, if it `returns`; see `Dialect`."""
        if not returns:
            self._notes.forget_member(room_id, member)
            return
        now = wall_time(trio.current_time())
        self._notes.lose_member(room_id, member, now)
        if member.live is not None:
            self._bus.broadcast(RoomsKept(member.user_id, self._bus.replica, now))

    def note(self, peer: Participant, room: LocalRoom, peer_id: str) -> None:
        """Write a member's current state into the notes. Does not block."""
        if peer.resumes != "nothing":
            self._notes.keep_member(room.id, room.members[peer_id])


def _may_join(identity: Identity, command: Join) -> bool:
    allowed = may_see(identity, command.room_id)
    return allowed and (identity.grants.publish or not command.broadcaster)


def may_see(identity: Identity, room_id: str) -> bool:
    """Whether this participant may know who is live in a room."""
    return not is_internal(room_id) and identity.grants.admit(room_id)
