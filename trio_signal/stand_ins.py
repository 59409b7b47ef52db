"""Stand-ins: keep the places of users whose clients cannot resume, while a server restarts.

Clients of `room` and `live` reconnect after a restart, but do not restore their state. So a session
without a connection stands in for each of them. It moves to another replica like any session, and
keeps the signals for the user, until the user's next connection replaces it. The other peers see
the user neither leave nor come back.
"""

import secrets
from collections.abc import Callable
from hashlib import sha256
from uuid import uuid4
from weakref import WeakValueDictionary

import trio
from msgspec.structs import replace

from trio_signal.alarm import Alarm
from trio_signal.bus import RoomHolds
from trio_signal.bus.handover import HandoverBus
from trio_signal.clock import utc_now, wall_time
from trio_signal.dialects.wire import type_of
from trio_signal.errors import NotResumedError
from trio_signal.handover import Handover
from trio_signal.limits import NoLease
from trio_signal.local_room import LocalRoom
from trio_signal.membership import may_see
from trio_signal.messages.commands import Join
from trio_signal.messages.events import Entered, LiveNow, NotResumedReason
from trio_signal.messages.handover import Offered
from trio_signal.messages.identity import Identity, Member, is_internal
from trio_signal.metrics import Metrics
from trio_signal.notes import Notes
from trio_signal.participant import Participant
from trio_signal.resuming import Resuming, tag_of
from trio_signal.resumption import NOWHERE
from trio_signal.rooms import Rooms
from trio_signal.session import Session
from trio_signal.websocket import text_of_frame


class StandIns:
    """The stand-ins that this server makes when it stops, or replaces when users reconnect."""

    def __init__(
        self,
        handover: Handover,
        resuming: Resuming,
        rooms: Rooms,
        notes: Notes,
        bus: HandoverBus,
        holds: RoomHolds,
        metrics: Metrics,
    ) -> None:
        """Take the parts of the hub."""
        self._handover = handover
        self._resuming = resuming
        self._rooms = rooms
        self._notes = notes
        self._bus = bus
        self._holds = holds
        self._metrics = metrics
        self._turns: WeakValueDictionary[tuple[str, str], trio.Lock] = WeakValueDictionary()

    # When the server stops

    def leave(self, peer: Participant, offer: Callable[[Offered], None]) -> None:
        """Make a stand-in in each room of a peer that is about to be closed. Does not block."""
        if self._resuming.grace <= 0 or peer.resumes == "nothing" or peer.is_leaving:
            return
        identity = peer.identity
        if not isinstance(peer, Session) or identity is None:
            return
        for room_id in list(peer.memberships):
            if is_internal(room_id):
                continue
            dialect = peer.dialect.carried_on(room_id)
            if dialect is not None:
                session = Session(
                    *(uuid4().hex, dialect, NOWHERE, Alarm()),
                    lease=NoLease(),
                    metrics=self._metrics,
                )
                session.identity = identity
                self._put(session, peer, identity, self._rooms[room_id], offer)

    def _put(
        self,
        session: Session,
        peer: Session,
        identity: Identity,
        room: LocalRoom,
        offer: Callable[[Offered], None],
    ) -> None:
        """Put a stand-in in the place of a peer."""
        peer_id, tag = peer.memberships[room.id], tag_of(secrets.token_urlsafe(16))
        self._resuming.expect(session, tag).owner = _owner_of(identity)
        member = replace(room.members[peer_id], session=tag)
        room.dismiss(peer_id)
        room.admit(peer_id, session)
        self._resuming.take(session, away=False)
        self._handover.park(session, room)
        self._keep(room.id, member)
        # For users who return after the stand-in has expired.
        self._notes.lose_member(room.id, member, wall_time(trio.current_time()))
        if peer.resumes == "rooms":
            peer.to_rejoin += (room.id,)
        offer(Offered(tag, room.id, member))

    # When the user reconnects

    def turn(self, newcomer: Participant, room_id: str) -> trio.Lock:
        """A lock to hold while the peer joins the room, so that two joins do not overlap."""
        return self._turns.setdefault((newcomer.id, room_id), trio.Lock())

    async def replace(self, newcomer: Participant, command: Join) -> bool:
        """Replace a user's stand-in by its new connection; return whether there was one.

        If another replica has the stand-in, this blocks for as long as `Handover.resume`.
        """
        identity, room_id = newcomer.identity, command.room_id
        if not isinstance(newcomer, Session) or identity is None:
            return False
        if room_id in newcomer.memberships or not may_see(identity, room_id):
            return False
        member = await self._bus.kept(room_id, identity.user_id, newcomer.dialect_name)
        if member is None or member.user_id != identity.user_id:
            return False
        if identity.verified and await self._holds.is_banned(
            room_id, identity.subject, identity.user_id
        ):
            return False

        def give(session: Session) -> None:
            self._give(session, newcomer, self._rooms[room_id])

        try:
            await self._handover.fetch(room_id, member, _owner_of(identity), give)
        except NotResumedError as error:
            if error.reason is NotResumedReason.OTHER_IDENTITY:
                self._keep(room_id, member)
            return False
        except trio.Cancelled:
            if room_id not in newcomer.memberships:
                self._keep(room_id, member)
            raise
        if room_id not in newcomer.memberships:
            self._keep(room_id, member)
        return room_id in newcomer.memberships

    def _keep(self, room_id: str, member: Member) -> None:
        """Record that a stand-in waits for another connection."""
        self._bus.keep(room_id, member, self._resuming.grace)

    def _give(self, session: Session, newcomer: Session, room: LocalRoom) -> None:
        """Replace the stand-in by the newcomer in one step, with the room's state and its signals.

        The newcomer finds everything else that it has missed in the room's state.
        """
        if room.id in newcomer.memberships or newcomer.is_leaving:
            return
        peer_id, resumption = session.memberships[room.id], session.resumption
        kept = (resumption.give() if resumption is not None else None) or ()
        self._handover.dissolve(session)
        room.dismiss(peer_id)
        room.admit(peer_id, newcomer)
        me = room.members[peer_id]
        self._rooms.tell(newcomer, room, room.set_away(me, utc_now(), away=False))
        me = room.members[peer_id]
        others = tuple(member for member in room.members.values() if member.peer_id != peer_id)
        # Hide the client's own broadcast: the client might watch it.
        shown = tuple(replace(m, live=None) if m is me else m for m in room.members.values())
        newcomer.tell(Entered(room.id, me, shown, utc_now()))
        if me.live is not None:
            newcomer.tell(LiveNow(room.id, me, others))
        for frame in kept:
            if type_of(text_of_frame(frame)) in newcomer.dialect.signals:
                newcomer.send_frame(frame)


def _owner_of(identity: Identity) -> bytes:
    """The owner of a stand-in. If identities are not verified, the same user id suffices."""
    who = identity.subject if identity.verified else f"\0{identity.user_id}"
    return sha256(who.encode(errors="replace")).digest()[:16]
