"""Live: starts and stops broadcasts of this replica's peers, and announces listeners to them."""

from msgspec.structs import replace

from trio_signal.broadcasts import begin_after, name_of, replaced_by, rivals_of, why_not_live
from trio_signal.bus import Bus
from trio_signal.clock import utc_now
from trio_signal.local_room import LocalRoom
from trio_signal.membership import Membership, may_see
from trio_signal.messages.commands import AskLive, GoLive, StartStreaming, StopLive
from trio_signal.messages.events import (
    Displaced,
    Listening,
    LiveNow,
    LivePeers,
    Refusal,
    Refused,
    StopCause,
    StreamStarting,
)
from trio_signal.messages.identity import Identity, Live, Member, Route
from trio_signal.notes import Notes
from trio_signal.pacing import DELIVERY
from trio_signal.participant import Participant
from trio_signal.relay.route import PUBLISHED
from trio_signal.rooms import Rooms


class LiveBroadcasts:
    """Starts and stops broadcasts of peers here. Only `ask` and `resume` block."""

    def __init__(
        self,
        rooms: Rooms,
        membership: Membership,
        bus: Bus,
        notes: Notes,
        *,
        max_viewers: int,
        tell_of_listeners: bool,
    ) -> None:
        """Take the rooms of this replica.

        If `tell_of_listeners`, broadcasters are notified of listeners that wait for an offer.
        """
        self._rooms = rooms
        self._membership = membership
        self._bus = bus
        self._notes = notes
        self._max_viewers = max_viewers
        self._tell_of_listeners = tell_of_listeners

    def announce(
        self, peer: Participant, room: LocalRoom, member: Member, command: StartStreaming
    ) -> None:
        """Announce to the others that a broadcast is about to begin."""
        at = utc_now()
        refusal = why_not_live(peer.identity, room, member, exclusive=True)
        if refusal is not None:
            peer.tell(Refused(command, refusal, at))
        else:
            self._rooms.tell(peer, room, [StreamStarting(room.id, member, at)])

    def go(
        self,
        peer: Participant,
        room: LocalRoom,
        member: Member,
        command: GoLive,
        route: Route | None = None,
    ) -> None:
        """Begin a broadcast; an exclusive one ends those that it replaces.

        A `route` means that a media server has the broadcast already.
        """
        refusal = why_not_live(peer.identity, room, member, exclusive=command.exclusive)
        if refusal is not None:
            peer.tell(Refused(command, refusal, utc_now()))
            return
        at = utc_now()
        if command.exclusive:
            at = begin_after(at, rivals_of(room, member))
        name = name_of(peer.identity, command)
        live = Live(command.media_type, at, command.exclusive, name, route)
        if command.exclusive:
            self.end_older(room, member, live)
        self._begin(peer, room, member.peer_id, live)

    def _begin(self, peer: Participant, room: LocalRoom, peer_id: str, live: Live) -> None:
        went_live = room.go_live(peer_id, live, utc_now(), exclusive=live.exclusive)
        self._rooms.tell(peer, room, went_live)
        self._membership.note(peer, room, peer_id)
        withheld = room.relayed.get(peer_id, ())
        others = tuple(
            m for m in room.members.values() if m.peer_id != peer_id and m.peer_id not in withheld
        )
        peer.tell(LiveNow(room.id, room.members[peer_id], others))

    def end_older(self, room: LocalRoom, newest: Member, live: Live) -> None:
        """End the broadcasts that this one replaces; each replica ends those of its own peers."""
        for old_id in replaced_by(newest, live, room):
            peer = room.peers.get(old_id)
            if peer is not None:
                stopped = room.stop_live(old_id, utc_now(), StopCause.REPLACED)
                self._rooms.tell(peer, room, stopped)
                self._membership.leave(peer, room.id)
                peer.tell(Displaced(room.id))

    @property
    def _most_viewers(self) -> int:
        relays = self._rooms.relays
        return self._max_viewers if relays is None else relays.most_viewers

    def stop(self, peer: Participant, room: LocalRoom, member: Member, command: StopLive) -> None:
        """End a broadcast."""
        at = utc_now()
        events = room.stop_live(member.peer_id, at)
        self._rooms.tell(peer, room, events)
        self._membership.note(peer, room, member.peer_id)
        if not events:
            peer.tell(Refused(command, Refusal.NOT_LIVE, at))
        elif (
            member.live is not None and member.live.exclusive and room.viewers > self._most_viewers
        ):
            # It was admitted as a broadcaster, above the limit of viewers.
            self._membership.leave(peer, room.id)

    async def resume(self, peer: Participant, room_id: str) -> None:
        """Restore the broadcast in a room that the peer's user lost when its server crashed.

        The client does not start it again by itself. Blocks on the notes.
        """
        if peer.identity is None:
            return
        user_id, dialect = peer.identity.user_id, peer.dialect_name
        lost = await self._notes.lost_member(room_id, user_id, dialect)
        found = self._rooms.find(peer, room_id)
        if lost is None or lost.live is None or found is None:
            return
        room, member = found
        if peer.identity.verified and member.subject != lost.subject:
            return
        self._notes.forget_lost(room_id, user_id, dialect)
        if (
            member.live is None
            and why_not_live(peer.identity, room, member, exclusive=False) is None
        ):
            self._begin(peer, room, member.peer_id, replace(lost.live, route=None))

    async def ask(self, peer: Participant, command: AskLive) -> None:
        """Send a peer the live members of a room, without those of its own user.

        Blocks on the directory.
        """
        if peer.identity is None or not await self._may_see(peer, peer.identity, command.room_id):
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        members = await self._rooms.live_in(command.room_id)
        user_id = peer.identity.user_id
        others = tuple(m for m in members if m.live and m.user_id != user_id)
        peer.tell(LivePeers(command.room_id, others))
        found = self._rooms.find(peer, command.room_id)
        if found is not None and command.listens and self._tell_of_listeners:
            self._introduce(*found)
            peer.owes += len(members) * DELIVERY

    async def _may_see(self, peer: Participant, identity: Identity, room_id: str) -> bool:
        """Whether a peer may know who is live in a room: it may join, and is not banned."""
        if not may_see(identity, room_id):
            return False
        # A peer in the room is not banned. In open mode nobody can be banned.
        if room_id in peer.memberships or not identity.verified:
            return True
        return not await self._bus.holds.is_banned(room_id, identity.subject, identity.user_id)

    def _introduce(self, room: LocalRoom, listener: Member) -> None:
        """Announce a listener to the broadcasters of its dialect, unless its user is live itself.

        If a broadcaster's user has several peers, the one that will get the signals is notified.
        """
        users = dict.fromkeys(member.user_id for member in room.live)
        if listener.user_id in users:
            return
        for user_id in users:
            target = room.peer_of(user_id, but=listener.peer_id)
            if target is None or target.dialect not in (listener.dialect, PUBLISHED):
                continue
            if self._rooms.relays is not None:
                self._rooms.relays.want(room, target, listener)
            listening = Listening(room.id, listener, target, utc_now())
            if target.peer_id in room.peers:
                self.tell_of_listener(listening)
            else:
                self._bus.send(target.replica, listening)

    def tell_of_listener(self, listening: Listening) -> None:
        """Announce a listener to a broadcaster here, unless the two have signalled already."""
        room, target = self._rooms.get(listening.room_id), listening.target.peer_id
        if room is not None and listening.listener.peer_id in room.relayed.get(target, ()):
            return
        if room is not None and room.meet(target, listening.listener.user_id):
            room.peers[target].tell(listening)
