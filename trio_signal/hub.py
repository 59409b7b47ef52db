"""Hub: this replica's peers and rooms; turns commands into events.

State changes only between checkpoints, so there are no locks. The hub changes the room, notifies
the peers of this replica and passes the event to the bus in one step, which neither a cancellation
nor a shutdown can interrupt.
"""

import logging
from collections.abc import Collection, Sequence
from typing import assert_never

import trio

from trio_signal.announcements import Announcements
from trio_signal.bus import (
    Bus,
    Caps,
    Delivery,
    Emptied,
    Kicked,
    ReplicaLost,
    RoomChanged,
    RoomsKept,
    Undelivered,
)
from trio_signal.bus.names import Letter, NameClaimed, Receipt
from trio_signal.clock import trio_time, utc_now
from trio_signal.dialects import DIALECTS
from trio_signal.draining import Draining
from trio_signal.handover import Handover
from trio_signal.live import LiveBroadcasts
from trio_signal.membership import Membership
from trio_signal.messages.commands import (
    Authenticate,
    ChangeProfile,
    Chat,
    Close,
    GoLive,
    Join,
    Kick,
    Leave,
    Lock,
    OpenInbox,
    PrivateCommand,
    Resume,
    RoomCommand,
    SetTyping,
    Signal,
    StartStreaming,
    StopLive,
)
from trio_signal.messages.events import (
    Exited,
    Listening,
    Moved,
    OnlineHere,
    Published,
    Refusal,
    Refused,
    ServerSaid,
    Signalled,
    Typing,
    UserChanged,
    WentLive,
)
from trio_signal.messages.handover import NotGiven, Offered, Parcel
from trio_signal.messages.identity import (
    Identity,
    Member,
    inbox_of,
    is_internal,
)
from trio_signal.messages.relay import DirectAsked, DirectDecided, RelayLoads
from trio_signal.messages.states import StatesAsked, StatesTold
from trio_signal.metrics import Metrics
from trio_signal.moderation import Moderation
from trio_signal.namespace import Namespace
from trio_signal.notes import TOUCH_INTERVAL, Notes
from trio_signal.notes.memory import MemoryNotes
from trio_signal.online import Online
from trio_signal.outbox import Flusher
from trio_signal.participant import Participant, Stay
from trio_signal.private import PrivateMessages
from trio_signal.relay import Node
from trio_signal.relay.parts import Limits
from trio_signal.relay.relays import Relays
from trio_signal.resuming import Resuming
from trio_signal.resumption import MOST_BYTES
from trio_signal.returning import Returning
from trio_signal.rooms import Rooms
from trio_signal.session import Session, close_untold
from trio_signal.signals import Signals
from trio_signal.stand_ins import StandIns
from trio_signal.survey import Survey
from trio_signal.talk import Talk
from trio_signal.topics import Topics
from trio_signal.turn import HostedTurn
from trio_signal.webhooks.webhooks import LocalWebhooks, SharedWebhooks

logger = logging.getLogger(__name__)

#: Peers closed per second when the server stops.
LEAVE_RATE = 100.0
#: Maximum connections in the inbox of one user.
_INBOX_CAP = Caps(50)


class Hub:
    """The rooms in which this replica has peers.

    The caller makes and runs the bus, which calls `deliver`. The caller also makes and runs the
    announcements; they are None if the dialect `announce` is off.
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
        resume_grace: float = 0.0,
        max_away: int = 20_000,
        resume_bytes: int = MOST_BYTES,
        namespaces: Collection[str] = (),
    ) -> None:
        """Make a hub without peers. The caller runs the notes; without `notes`, memory is used."""
        self.bus = bus
        self.notes = notes if notes is not None else MemoryNotes()
        self._metrics = metrics if metrics is not None else Metrics()
        self.announcements = announcements
        #: The users that are online, on all replicas. The caller runs it.
        self.online = Online(bus, self._metrics)
        self.rooms = Rooms(bus, self._metrics)
        self.names = Namespace(bus, namespaces)
        self.topics = Topics(bus, self._metrics, max_rooms)
        self.participants: set[Participant] = set()
        #: Sends the frames in all outboxes. The caller runs it.
        self.flusher = Flusher()
        self._returning = Returning(bus, self.notes)
        self._private = PrivateMessages(bus, self.notes, self.rooms)
        self._membership = Membership(
            self.rooms,
            bus,
            self.notes,
            max_room_peers=max_room_peers,
            max_viewers=max_viewers,
            max_rooms=max_rooms,
        )
        #: The sessions that can be resumed.
        self.resuming = Resuming(
            self.rooms,
            self._metrics,
            bus.replica,
            grace=resume_grace,
            most_away=max_away,
            limit=resume_bytes,
        )
        #: Moves sessions between replicas; None if this is the only one.
        self.handover: Handover | None = None
        self.draining: Draining | None = None
        self.stand_ins: StandIns | None = None
        if bus.handover is not None:
            self.handover = handover = Handover(
                *(self, self.participants, self.rooms, self._membership, self.resuming),
                *(self._metrics, bus.handover),
            )
            self.draining = Draining(
                *(handover, self.resuming, self.rooms, bus.handover, self._metrics)
            )
            self.stand_ins = StandIns(
                *(handover, self.resuming, self.rooms, self.notes, bus.handover, bus.holds),
                self._metrics,
            )
        self.live = LiveBroadcasts(
            self.rooms,
            self._membership,
            bus,
            self.notes,
            max_viewers=max_viewers,
            tell_of_listeners=live_listeners,
        )
        self.signals = Signals(self.rooms, bus)
        #: The state of all replicas, for operators.
        self.survey = Survey(bus, self.rooms, self.participants, self._metrics)
        #: Webhooks for a site's backend, if there are any. The caller runs them.
        self.webhooks: LocalWebhooks | SharedWebhooks | None = None
        #: Credentials of a hosted TURN service, if one is used. The caller runs it.
        self.turn: HostedTurn | None = None
        #: Broadcasts through media servers, if there are any. The caller runs it.
        self.relays: Relays | None = None
        self.moderation = Moderation(self.rooms, self._membership, self._returning, bus)
        self.talk = Talk(self.rooms, self._membership, self._private, bus, self.notes)

    @property
    def degraded(self) -> str | None:
        """What is out of order, for operators; None if everything works."""
        announcements = self.announcements.degraded if self.announcements is not None else None
        turn = self.turn.degraded if self.turn is not None else None
        relays = self.relays.nodes.degraded if self.relays is not None else None
        reasons = (self.bus.degraded, announcements, turn, relays)
        return "; ".join(filter(None, reasons)) or None

    def relay_through(self, nodes: Sequence[Node], limits: Limits) -> Relays:
        """Relay broadcasts through these media servers. The caller runs the returned object."""
        self.relays = Relays(self.rooms, self.bus, self._metrics, nodes, limits)
        self.rooms.relays = self.relays
        return self.relays

    def stay(self, participant: Participant) -> Stay:
        """Return a context manager: the participant leaves all rooms on exit."""
        return Stay(self, participant)

    def arrive(self, participant: Participant) -> None:
        """Add a participant; if the server is stopping, close it."""
        self.participants.add(participant)
        if self.rooms.closing is not None:
            participant.close(self.rooms.closing)

    def depart(self, participant: Participant) -> None:
        """Remove a participant from all its rooms, and notify them. Does not block."""
        self.participants.discard(participant)
        if isinstance(participant, Session):
            self.resuming.forget(participant)
            self.online.remove(participant)
            self.topics.remove(participant)
            self.names.remove(participant)
            if self.announcements is not None:
                self.announcements.unsubscribe(participant)
        participant.left = room_ids = tuple(participant.memberships)
        for room_id in room_ids:
            try:
                self._membership.leave(participant, room_id, participant.leave_cause)
            except Exception:
                logger.exception(
                    "a peer left room %s, but notifying the others failed", ascii(room_id)
                )
        self._returning.depart(participant, room_ids)
        self._private.remove(participant)

    async def close_all(self, close: Close, *, within: float = 0.0) -> None:
        """Close all connections; later ones are closed on arrival. Blocks for `within` s at most.

        `LEAVE_RATE` connections are closed per second, or more if `within` is too short for that.
        So the clients do not all reconnect at the same moment.
        """
        self.rooms.is_stopping, self.rooms.closing = True, close
        leaving = list(self.participants)
        began, seconds = trio.current_time(), min(within, len(leaving) / LEAVE_RATE)
        for number, peer in enumerate(leaving):
            if self.stand_ins is not None and self.draining is not None:
                self.stand_ins.leave(peer, self.draining.offer)
            peer.close(close)
            await trio.sleep_until(began + seconds * (number + 1) / len(leaving))

    async def keep_rooms(self) -> None:
        """Keep the notes of rooms in use from expiring, until cancelled."""
        while True:
            await trio.sleep(TOUCH_INTERVAL)
            self.notes.touch_rooms(self.rooms)

    # Commands that wait for the bus

    async def join(self, peer: Participant, command: Join) -> None:
        """Let a peer join a room, and notify the peer and the room. Blocks on the bus."""
        if self.stand_ins is None or peer.resumes == "nothing":
            entered = await self._membership.join(peer, command)
        else:
            async with self.stand_ins.turn(peer, command.room_id):
                entered = await self.stand_ins.replace(peer, command)
                if entered:
                    self.talk.call_as_it_says(peer, command.room_id)
                else:
                    entered = await self._membership.join(peer, command)
        if entered and peer.resumes != "nothing":
            await self.live.resume(peer, command.room_id)
        identity, is_in = peer.identity, command.room_id in peer.memberships
        if entered and command.reachable and identity is not None and is_in:
            self._private.add(peer, identity.user_id)
        # Not after a cancellation: then the user's next connection rejoins the room.
        if peer.to_rejoin:
            peer.to_rejoin = tuple(room for room in peer.to_rejoin if room != command.room_id)

    async def tell_user(self, peer: Participant, command: PrivateCommand) -> None:
        """Send a private message to one user, on any replica; see `PrivateMessages`."""
        if peer.identity is None:
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        await self._private.send(peer, peer.identity, command)

    async def resume(
        self, newcomer: Session, identity: Identity, claims: Authenticate, resume: Resume
    ) -> Session:
        """Continue the client's earlier session, from any replica, on this connection.

        Blocks if another replica has the session. Raises NotResumedError.
        """
        if self.handover is None:
            return self.resuming.resume(newcomer, identity, claims, resume)
        return await self.handover.resume(newcomer, identity, claims, resume)

    async def open_inbox(self, peer: Participant, command: OpenInbox) -> None:
        """Let a peer receive the private messages for its user."""
        if peer.identity is None:
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        inbox = inbox_of(peer.identity.user_id)
        await self._membership.enter(peer, peer.identity, Join(inbox), _INBOX_CAP)

    async def resume_live(self, peer: Participant) -> None:
        """Restore the broadcasts that the peer's user lost when its server crashed."""
        for room_id in tuple(peer.memberships):
            await self.live.resume(peer, room_id)

    async def rooms_to_rejoin(self, peer: Participant) -> tuple[str, ...]:
        """The rooms that this user was in when its last connection was lost.

        If this connection is lost too, its rooms are remembered for the next one.
        """
        return await self._returning.rooms_to_rejoin(peer)

    # Queries

    async def members(self, room_id: str) -> tuple[Member, ...]:
        """All members of a room on all replicas, in the order of joining. Blocks on the bus."""
        return () if is_internal(room_id) else await self.bus.members(room_id)

    # Commands that do not block

    def handle(self, peer: Participant, command: RoomCommand) -> None:
        """Carry out any other command. Does not block."""
        if isinstance(command, Leave):
            self._returning.keep_out(peer, command.room_id)
        found = self.rooms.find(peer, command.room_id)
        if found is None:
            peer.tell(Refused(command, Refusal.NOT_IN_ROOM, utc_now()))
            return
        room, member = found
        match command:
            case Signal():
                self.signals.send(peer, room, member, command)
            case Leave():
                self._membership.leave(peer, room.id)
                peer.tell(Exited(room.id, utc_now()))
            case GoLive():
                self.live.go(peer, room, member, command)
            case StopLive():
                self.live.stop(peer, room, member, command)
            case Chat():
                self.talk.chat(peer, room, member, command)
            case SetTyping():
                self.rooms.tell(peer, room, [Typing(room.id, member, command.typing, utc_now())])
            case StartStreaming():
                self.live.announce(peer, room, member, command)
            case Kick():
                self.moderation.kick(peer, room, command)
            case Lock():
                self.moderation.lock(peer, room, member, command)
            case ChangeProfile():
                self.talk.change_profile(peer, room, member, command)
            case _:
                assert_never(command)

    # Messages from other replicas

    def deliver(self, delivery: Delivery) -> None:
        """Process a message from another replica. Does not block."""
        match delivery:
            case Signalled():
                self.signals.deliver(delivery)
            case RoomChanged():
                self._tell_changes(delivery)
            case Undelivered(signal=signal):
                self.signals.bounce(signal)
            case Kicked():
                self.moderation.throw_out(delivery)
            case Emptied():
                self.moderation.empty_here(delivery)
            case ServerSaid():
                self.moderation.hear(delivery)
            case Moved() | OnlineHere():
                self.online.take(delivery)
            case Parcel() | NotGiven() | Offered():
                if self.handover is not None:
                    self.handover.take(delivery)
            case Letter() | Receipt() | NameClaimed():
                self.names.take(delivery)
            case StatesAsked() | StatesTold():
                self.survey.take(delivery)
            case Published():
                self.topics.tell(delivery)
            case DirectAsked() | DirectDecided() | RelayLoads():
                if self.relays is not None:
                    self.relays.deliver(delivery)
            case Listening():
                self.live.tell_of_listener(delivery)
            case RoomsKept(user_id=user_id, heard=heard):
                self._rejoin(user_id, heard)
            case ReplicaLost():
                self._take_replica_lost(delivery)
            case UserChanged():
                self.talk.change_user_here(delivery)
            case _:
                self._private.tell_here(delivery)

    def _tell_changes(self, changed: RoomChanged) -> None:
        """Send other replicas' changes to the peers here; the sender has paid at its replica."""
        room = self.rooms[changed.room_id]
        for event in changed.events:
            try:
                if isinstance(event, WentLive) and event.exclusive and event.member.live:
                    self.live.end_older(room, event.member, event.member.live)
                self.rooms.tell_here(room, [event])
                room.tell_late(room.departing, event)
            except Exception:
                close_untold(room.peers.values(), event)
        self.rooms.drop_if_empty(room)

    def _rejoin(self, user_id: str, heard: float) -> None:
        """Let a user's newer connection rejoin the rooms of the one that was lost at `heard`."""
        moment = trio_time(heard)
        successor = self._returning.successor(user_id, moment)
        if successor is not None:
            successor.rejoin()
        for peer in self._private.reachable(user_id):
            if peer.arrived > moment and not peer.is_leaving:
                peer.rejoin()

    def _take_replica_lost(self, lost: ReplicaLost) -> None:
        """Remember the rooms of a lost replica's users; some users have reconnected already."""
        users: dict[str, None] = {}
        for room_id, member in lost.members:
            dialect = DIALECTS.get(member.dialect)
            if dialect is not None and dialect.resumes != "nothing":
                self.notes.lose_member(room_id, member, lost.heard)
                users[member.user_id] = None
        for user_id in users:
            self.bus.broadcast(RoomsKept(user_id, self.bus.replica, lost.heard))
            self._rejoin(user_id, lost.heard)
