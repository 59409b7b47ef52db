"""Handover: moves sessions between this replica and others.

`trio_signal.bus.handover` describes how replicas agree on a move. A session that leaves this
replica has no task any more; one that arrives has its own task until a connection takes it over.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from uuid import uuid4

import trio
from msgspec.structs import replace

from trio_signal.alarm import Alarm
from trio_signal.bus.handover import HandoverBus
from trio_signal.dialects import DIALECTS
from trio_signal.errors import NotResumedError
from trio_signal.limits import ConnectionLease, NoLease
from trio_signal.local_room import LocalRoom
from trio_signal.membership import Membership
from trio_signal.messages.commands import Authenticate, LeaveCause, Resume
from trio_signal.messages.events import Joined, NotResumedReason, RoomEvent
from trio_signal.messages.handover import NotGiven, Offered, Parcel, Sought
from trio_signal.messages.identity import Identity, Member
from trio_signal.metrics import Metrics
from trio_signal.moving import Claimant, Departure, Reception, is_late
from trio_signal.parcels import unpack
from trio_signal.participant import Host, Participant, Stay
from trio_signal.resuming import REPLACED, Resuming, owner_of, tag_of
from trio_signal.resumption import NOWHERE
from trio_signal.rooms import Rooms
from trio_signal.session import Session

logger = logging.getLogger(__name__)

#: Seconds in which a session must arrive from another replica.
TIMEOUT = 1.0
#: Seconds in which the client's last messages must arrive, before its session continues elsewhere.
_SETTLING = 0.5
#: Seconds after which a session that was given up, but did not arrive elsewhere, has left.
_GIVEN_UP = 3.0


class Handover:
    """The sessions that a replica receives or gives up. Only `resume` and `run` block."""

    def __init__(
        self,
        host: Host,
        participants: set[Participant],
        rooms: Rooms,
        membership: Membership,
        resuming: Resuming,
        metrics: Metrics,
        bus: HandoverBus,
    ) -> None:
        """Take the parts of the hub. The caller runs it."""
        self._host = host
        self._participants = participants
        self._rooms = rooms
        self._membership = membership
        self._resuming = resuming
        self._metrics = metrics
        self._bus = bus
        self._nursery: trio.Nursery | None = None
        #: By the session's tag.
        self.receptions: dict[str, Reception] = {}
        self.departures: dict[str, Departure] = {}
        #: Sessions of a stopping server, which the first replica to request them gets.
        self.parked: dict[str, Departure] = {}
        #: Set when it runs.
        self.ready = trio.Event()
        self._attempts = 0
        bus.serve(self)

    async def run(self) -> None:
        """Run the tasks of arriving and leaving sessions, until cancelled."""
        self.receptions.clear()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.ready.set()
            await trio.sleep_forever()

    # Arriving sessions

    async def resume(
        self, newcomer: Session, identity: Identity, claims: Authenticate, resume: Resume
    ) -> Session:
        """Continue the client's earlier session on a new connection.

        If another replica has the session, this blocks for about `TIMEOUT` seconds at most. Raises
        NotResumedError.
        """
        if self._rooms.closing is not None:  # the session can be resumed at another replica
            newcomer.close(self._rooms.closing)
            return newcomer
        tag, asked_at = tag_of(resume.session_id or ""), self._bus.time()
        if asked_at:  # the network may have delayed the request: the connection's age counts
            asked_at -= trio.current_time() - newcomer.arrived
        claimant = Claimant(newcomer.arrived, asked_at)
        if self._resuming.has(tag):
            return self._resume(asked_at, newcomer, identity, claims, resume)
        if tag not in self.receptions:
            member = await self._bus.find(resume.room_id, tag)
            if self._resuming.has(tag):
                return self._resume(asked_at, newcomer, identity, claims, resume)
            if tag not in self.receptions:
                if member is None:
                    raise self._resuming.unknown(resume)
                self._begin(
                    *(resume.room_id, member, newcomer.lease),
                    *(asked_at, owner_of(identity, claims), resume.received),
                )
        go_on = partial(self._resume, asked_at, newcomer, identity, claims, resume)
        session = await self._wait(tag, claimant, go_on)
        if session is None:
            newcomer.close(REPLACED)
        return session or newcomer

    async def fetch(
        self, room_id: str, member: Member, owner: bytes, take: Callable[[Session], None]
    ) -> None:
        """Fetch a member's session, unless it is here, and pass it to `take`.

        Blocks as `resume` does. Raises NotResumedError.
        """
        tag, asked_at = member.session, self._bus.time()

        def go_on() -> Session:
            session = self._resuming.with_tag(tag)
            if session is None or session.resumption is None:
                raise NotResumedError(NotResumedReason.UNKNOWN)
            if session.resumption.owner != owner:
                raise NotResumedError(NotResumedReason.OTHER_IDENTITY)
            take(session)
            return session

        if self._resuming.has(tag):
            go_on()
            return
        claimant = Claimant(trio.current_time(), asked_at)
        if tag not in self.receptions:
            self._begin(room_id, member, NoLease(), asked_at, owner, None)
        await self._wait(tag, claimant, go_on)

    async def _wait(
        self, tag: str, claimant: Claimant, go_on: Callable[[], Session]
    ) -> Session | None:
        """Wait for an arriving session; None if a newer connection gets it.

        Raises NotResumedError.
        """
        with claimant:
            self.receptions[tag].claimants.append(claimant)
            await claimant.decided.wait()
            # A newer connection at another replica may have got the session meanwhile.
            if claimant.is_chosen and self._resuming.has(tag):
                return go_on()
        if claimant.reason is not None:
            self._metrics.not_resumed[claimant.reason] += 1
            raise NotResumedError(claimant.reason)
        return None

    def _resume(
        self,
        asked_at: float,
        newcomer: Session,
        identity: Identity,
        claims: Authenticate,
        resume: Resume,
    ) -> Session:
        """Continue the session, which is here by now, on the connection."""
        session = self._resuming.resume(newcomer, identity, claims, resume)
        if session.resumption is not None:
            session.resumption.asked_at = asked_at
        return session

    def _begin(
        self,
        room_id: str,
        member: Member,
        lease: ConnectionLease,
        asked_at: float,
        owner: bytes | None,
        received: int | None,
        *,
        ask: bool = True,
    ) -> None:
        """Request the session of a member; raises NotResumedError if that is impossible."""
        kind = DIALECTS.get(member.dialect)
        dialect = kind.carried_on(room_id) if kind is not None else None
        if dialect is None or self._nursery is None or self._rooms.closing is not None:
            raise NotResumedError(NotResumedReason.OWNER_LOST)
        self._attempts += 1
        sought = Sought(
            *(member.session, self._attempts, self._rooms.replica),
            *(asked_at, owner, received),
            records_away=True,
        )
        session = Session(
            uuid4().hex,
            dialect,
            NOWHERE,
            Alarm(),
            lease=lease,
            metrics=self._metrics,
        )
        self._resuming.expect(session, member.session)
        reception = Reception(room_id, sought, session, member, ask=ask)
        self.receptions[member.session] = reception
        self._nursery.start_soon(self._guard, reception, name="reception")

    async def _guard(self, reception: Reception) -> None:
        try:
            await self._receive(reception)
        except Exception:
            logger.exception("a session that came from another replica failed")
            self.receptions.pop(reception.sought.session, None)
            reception.refuse(NotResumedReason.OWNER_LOST)

    async def _receive(self, reception: Reception) -> None:
        """The task of an arriving session, which leaves its room at the exit of a plain `with`."""
        session, sought = reception.session, reception.sought
        with Stay(self._host, session) as stay:
            with (
                self._rooms.entering(reception.room_id) as room,
                reception.scope,
            ):
                reception.scope.deadline = trio.current_time() + TIMEOUT
                if await self._bus.follow(room) and reception.is_in(room):
                    parcel = await self._bus.seek(room, sought, reception.member, ask=reception.ask)
                    if parcel is not None:
                        reception.decide(parcel)
                    if parcel is not None or reception.ask:
                        await reception.came.wait()
                    if isinstance(reception.outcome, Parcel):
                        await reception.arrived.wait()
            del self.receptions[sought.session]
            self._bus.stop(reception.room_id, sought.session)
            if not isinstance(reception.outcome, Parcel) or not session.memberships:
                reason = reception.outcome
                if isinstance(reason, Parcel):
                    reason = NotResumedReason.OWNER_LOST
                reception.refuse(None if reception.is_replaced_in(room) else reason)
                return
            self._metrics.moved["here"] += 1
            unpack(session, reception.outcome, self._resuming.grace)
            self._resuming.take(session, away=reception.outcome.away)
            if reception.next is not None:
                self.give(reception.room_id, reception.next)
            if stay.participant is None:
                reception.refuse(None)
                return
            await self._admit(reception)
            if stay.participant is None or not self._resuming.keep_waiting(session):
                return
            with trio.move_on_at(self._resuming.until(session)) as scope:
                session.live_in(scope)
                await trio.sleep_forever()
            if stay.participant is not None:
                session.pass_time(trio.current_time())
                self._resuming.expire(session)

    async def _admit(self, reception: Reception) -> None:
        """Let the newest waiting connection carry the session."""
        waiting = reception.waiting
        for claimant in waiting[:-1]:
            claimant.refuse(None)
        for claimant in waiting[-1:]:
            claimant.choose()
            await claimant.gone.wait()

    def take(self, told: Parcel | NotGiven | Offered) -> None:
        """Process another replica's offer of a session, or its answer to a request."""
        if isinstance(told, Offered):
            if self._nursery is not None and not self._rooms.is_stopping:
                self._nursery.start_soon(self.accept, told, name="offer")
            return
        reception = self.receptions.get(told.session)
        if reception is None:
            return
        if isinstance(told, Parcel):
            reception.decide(told)
        elif told.attempt == reception.sought.attempt:
            reception.decide(told.reason)

    def arrived(
        self, room_id: str, member: Member, missed: Sequence[RoomEvent], told: frozenset[str]
    ) -> None:
        """Admit a member whose session was requested here, and who belongs to this replica now.

        `missed` are the events since the move; `told` are the newcomers that it already knows.
        """
        session, room = self.receptions[member.session].session, self._rooms[room_id]
        room.admit(member.peer_id, session)
        for peer_id in told:
            room.told_elsewhere.setdefault(peer_id, set()).add(session)
        for event in missed:
            room.tell_late({member.peer_id: session}, event)
        reception = self.receptions[member.session]
        reception.arrived.set()
        # The other replica has answered, so the session's data are on their way.
        reception.scope.deadline = trio.current_time() + _GIVEN_UP

    async def accept(self, offered: Offered, *, ask: bool = True) -> None:
        """Fetch an offered session, before its client reconnects."""
        tag, room_id = offered.session, offered.room_id
        member = offered.member or await self._bus.find(room_id, tag)
        is_here = tag in self.receptions or self._resuming.has(tag)
        if member is not None and member.replica != self._rooms.replica and not is_here:
            with suppress(NotResumedError):
                self._begin(room_id, member, NoLease(), 0.0, None, None, ask=ask)

    # Leaving sessions

    def give(self, room_id: str, sought: Sought, *, at_once: bool = False) -> None:
        """Give up a session that another replica requests, if it is here.

        If newer connections are replacing peers here, wait for that first, unless `at_once`.
        """
        if not at_once and self._nursery is not None and self._bus.replaces_in(room_id):
            self._nursery.start_soon(self._give_later, room_id, sought, name="departure")
            return
        reception = self.receptions.get(sought.session)
        if reception is not None and reception.session.memberships:
            if 0 < sought.at < max((each.asked_at for each in reception.claimants), default=0):
                self._bus.send(sought.replica, NotGiven(sought.session, sought.attempt, None))
            else:
                reception.next = sought
            return
        parked = self.parked.get(sought.session)
        session = parked.session if parked else self._resuming.with_tag(sought.session)
        if session is None or self._nursery is None:
            return
        resumption = session.resumption
        if resumption is not None and is_late(sought, resumption):
            self._bus.send(sought.replica, NotGiven(sought.session, sought.attempt, None))
            return
        try:
            peer_id = self._resuming.check(session, room_id, sought)
        except NotResumedError as error:
            told = NotGiven(sought.session, sought.attempt, error.reason)
            self._bus.send(sought.replica, told)
            return
        room = self._rooms[room_id]
        if parked is not None:
            del self.parked[sought.session]
            parked.sought = sought
        departure = parked or self.release(session, room, sought)
        self.departures[sought.session] = departure
        room.depart(peer_id, session)
        self._nursery.start_soon(self._watch, departure, name="departure")
        member = replace(room.members[peer_id], session=sought.session)
        if not sought.records_away:  # what this replica recorded would stay
            member = replace(member, away=None)
        self._bus.give(room, member, sought)

    async def _give_later(self, room_id: str, sought: Sought) -> None:
        """Give up a session once newer connections have replaced peers here.

        Other replicas have told their peers already. Those here are told when the connections are
        admitted, so a session that moved just before would miss it.
        """
        with trio.move_on_after(_SETTLING):
            await self._bus.wait_replaced(room_id)
        self.give(room_id, sought, at_once=True)

    def release(self, session: Session, room: LocalRoom, sought: Sought) -> Departure:
        """End the session's task and connection; its room is still followed until `_end`."""
        self._resuming.release(session)
        self._participants.discard(session)
        session.go_away(for_good=True)
        room.joining += 1
        return Departure(session, session.memberships[room.id], room, sought)

    def park(self, session: Session, room: LocalRoom) -> None:
        """Keep a session in its room until a replica requests it; the first one gets it."""
        tag = session.session_tag
        self.parked[tag] = self.release(session, room, Sought(tag, 0, ""))

    def dissolve(self, session: Session) -> None:
        """End a session that another one replaces in its room."""
        self._resuming.release(session)
        self._participants.discard(session)
        session.go_away(for_good=True)
        if session.resumption is not None:
            session.resumption.end()

    async def _watch(self, departure: Departure) -> None:
        """Send the session's data when the member has moved; give up after `_GIVEN_UP` seconds.

        Earlier messages from the client to peers here are delivered first, so the order is kept.
        """
        tag = departure.sought.session
        with trio.move_on_after(_GIVEN_UP):
            await departure.moved.wait()
            with trio.move_on_after(_SETTLING):
                await self._bus.settle(departure.room.id, departure.peer_id)
            self._end(tag, self._pack)
            return
        self.failed(tag)

    def joined(self, event: Joined) -> None:
        """Notify the leaving sessions about a peer that has joined here."""
        room = self._rooms.get(event.room_id)
        if room is not None and room.departing and event.member.peer_id not in room.members:
            room.tell_late(room.departing, replace(event, peers=len(room) + 1))

    def gone(self, session: str) -> None:
        """Note that the other replica has the member: `_watch` then sends the session's data."""
        departure = self.departures.get(session)
        if departure is not None:
            departure.moved.set()

    def _pack(self, departure: Departure) -> None:
        self._metrics.moved["away"] += 1
        self._bus.send(departure.sought.replica, departure.pack())

    def failed(self, session: str) -> None:
        """Remove the peer of a session that the other replica did not receive."""
        self._end(session, self.drop)

    def drop(self, departure: Departure) -> None:
        for room_id in tuple(departure.session.memberships):
            self._membership.leave(departure.session, room_id, LeaveCause.LOST)

    def _end(self, tag: str, how: Callable[[Departure], None]) -> None:
        departure = self.departures.pop(tag, None)
        if departure is None:
            return
        how(departure)
        if departure.session.resumption is not None:
            departure.session.resumption.end()
        departure.session.end()
        departure.room.joining -= 1
        self._rooms.drop_if_empty(departure.room)
