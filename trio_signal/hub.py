"""Hub: this replica's peers and rooms; commands become events here.

State changes between checkpoints only, so there are no locks: a change, the
telling of it to the peers of this replica, and its hand-over to the bus are
one step that nothing can interrupt, neither a cancellation nor a shutdown.
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

#: How many peers are sent away in a second when the server stops.
LEAVE_RATE = 100.0
#: How many connections hear what is for one user alone.
_INBOX_CAP = Caps(50)


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
        resume_grace: float = 0.0,
        max_away: int = 20_000,
        resume_bytes: int = MOST_BYTES,
        namespaces: Collection[str] = (),
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
        self.rooms = Rooms(bus, self._metrics)
        self.names = Namespace(bus, namespaces)
        self.topics = Topics(bus, self._metrics, max_rooms)
        self.participants: set[Participant] = set()
        #: Sends what they are told; whoever made the hub runs it as well.
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
        #: The same of those that come from other replicas, or go there, if there are others.
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
        #: How all replicas are, for operators.
        self.survey = Survey(bus, self.rooms, self.participants, self._metrics)
        #: What a site's backend is told, if anything; whoever made it runs it.
        self.webhooks: LocalWebhooks | SharedWebhooks | None = None
        #: Credentials of a hosted TURN service, if one is used; whoever made it runs it.
        self.turn: HostedTurn | None = None
        #: What media servers do for its rooms, if there are any; whoever made them runs it.
        self.relays: Relays | None = None
        self.moderation = Moderation(self.rooms, self._membership, self._returning, bus)
        self.talk = Talk(self.rooms, self._membership, self._private, bus, self.notes)

    @property
    def degraded(self) -> str | None:
        """What does not work as it should; None if all is well."""
        announcements = self.announcements.degraded if self.announcements is not None else None
        turn = self.turn.degraded if self.turn is not None else None
        relays = self.relays.nodes.degraded if self.relays is not None else None
        reasons = (self.bus.degraded, announcements, turn, relays)
        return "; ".join(filter(None, reasons)) or None

    def relay_through(self, nodes: Sequence[Node], limits: Limits) -> Relays:
        """Bring broadcasts to media servers; the caller runs what is returned."""
        self.relays = Relays(self.rooms, self.bus, self._metrics, nodes, limits)
        self.rooms.relays = self.relays
        return self.relays

    def stay(self, participant: Participant) -> Stay:
        """The stay of a session, or of another participant, as a context manager."""
        return Stay(self, participant)

    def arrive(self, participant: Participant) -> None:
        """Count a participant among those that are here."""
        self.participants.add(participant)
        if self.rooms.closing is not None:
            participant.close(self.rooms.closing)

    def depart(self, participant: Participant) -> None:
        """Take a participant out of all its rooms, and tell them."""
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
                    "a peer left room %s, but not everybody could be told", ascii(room_id)
                )
        self._returning.depart(participant, room_ids)
        self._private.remove(participant)

    async def close_all(self, close: Close, *, within: float = 0.0) -> None:
        """End all connections, and at once those that are about to come.

        Those that are here are spread over `within` seconds at most, and a second per
        `LEAVE_RATE` of them, so that they do not all come back elsewhere at one moment.
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
        """Say to the notes which rooms are in use, again and again; until cancelled."""
        while True:
            await trio.sleep(TOUCH_INTERVAL)
            self.notes.touch_rooms(self.rooms)

    # Commands that wait for the bus

    async def join(self, peer: Participant, command: Join) -> None:
        """Enter a room, and tell the peer and the room of it."""
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
        # If this was cancelled, the user's next connection has to do it.
        if peer.to_rejoin:
            peer.to_rejoin = tuple(room for room in peer.to_rejoin if room != command.room_id)

    async def tell_user(self, peer: Participant, command: PrivateCommand) -> None:
        """Tell one user alone, on whichever replica; see `PrivateMessages`."""
        if peer.identity is None:
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        await self._private.send(peer, peer.identity, command)

    async def resume(
        self, newcomer: Session, identity: Identity, claims: Authenticate, resume: Resume
    ) -> Session:
        """Let a connection carry its client's session, of whichever replica it is.

        Raises NotResumedError.
        """
        if self.handover is None:
            return self.resuming.resume(newcomer, identity, claims, resume)
        return await self.handover.resume(newcomer, identity, claims, resume)

    async def open_inbox(self, peer: Participant, command: OpenInbox) -> None:
        """Let a peer hear what is for its user alone."""
        if peer.identity is None:
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        inbox = inbox_of(peer.identity.user_id)
        await self._membership.enter(peer, peer.identity, Join(inbox), _INBOX_CAP)

    async def resume_live(self, peer: Participant) -> None:
        """Let a peer be live again where its user was, when its server ended without a word."""
        for room_id in tuple(peer.memberships):
            await self.live.resume(peer, room_id)

    async def rooms_to_rejoin(self, peer: Participant) -> tuple[str, ...]:
        """Where this user was when it lost its last connection; keeps this one's for the next."""
        return await self._returning.rooms_to_rejoin(peer)

    # What everybody may know of the rooms

    async def members(self, room_id: str) -> tuple[Member, ...]:
        """All members of a room on all replicas, in the order of joining."""
        return () if is_internal(room_id) else await self.bus.members(room_id)

    # Commands that are carried out at once

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

    # What other replicas tell

    def deliver(self, delivery: Delivery) -> None:
        """Take in what another replica told."""
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
        """Tell what others did in a room to the peers here; who began it has paid there."""
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
        """Have a newer connection of a user rejoin the rooms of one that was lost then."""
        moment = trio_time(heard)
        successor = self._returning.successor(user_id, moment)
        if successor is not None:
            successor.rejoin()
        for peer in self._private.reachable(user_id):
            if peer.arrived > moment and not peer.is_leaving:
                peer.rejoin()

    def _take_replica_lost(self, lost: ReplicaLost) -> None:
        """Keep where the users of a lost replica were; some have come back already."""
        users: dict[str, None] = {}
        for room_id, member in lost.members:
            dialect = DIALECTS.get(member.dialect)
            if dialect is not None and dialect.resumes != "nothing":
                self.notes.lose_member(room_id, member, lost.heard)
                users[member.user_id] = None
        for user_id in users:
            self.bus.broadcast(RoomsKept(user_id, self.bus.replica, lost.heard))
            self._rejoin(user_id, lost.heard)
