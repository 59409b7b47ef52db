"""Moving: the state of sessions that arrive at a replica, or leave it. No I/O."""

from types import TracebackType
from typing import Self

import trio

from trio_signal.local_room import LocalRoom
from trio_signal.messages.events import NotResumedReason
from trio_signal.messages.handover import NotGiven, Parcel, Sought
from trio_signal.messages.identity import Member
from trio_signal.parcels import pack
from trio_signal.resumption import Resumption
from trio_signal.room import Room
from trio_signal.session import Session


class Claimant:
    """A connection that waits for its client's session, as a context manager."""

    def __init__(self, arrived: float, asked_at: float) -> None:
        """Make a claimant; it waits from entering to exit."""
        #: When it arrived, by Trio's clock; and when it asked, by a clock that all replicas share.
        self.arrived = arrived
        self.asked_at = asked_at
        #: Why it does not get the session; None if it does, or if a newer connection does.
        self.reason: NotResumedReason | None = None
        self.is_chosen = False
        self.decided = trio.Event()
        self.gone = trio.Event()

    def refuse(self, reason: NotResumedReason | None) -> None:
        """Refuse the session to this connection."""
        self.reason = reason
        self.decided.set()

    def choose(self) -> None:
        """Give the session to this connection."""
        self.is_chosen = True
        self.decided.set()

    def __enter__(self) -> Self:
        """Begin to wait."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop waiting."""
        self.gone.set()


class Reception:
    """A session on its way to this replica."""

    def __init__(
        self, room_id: str, sought: Sought, session: Session, member: Member, *, ask: bool
    ) -> None:
        """Prepare to receive a session; `ask` says whether to request it from its replica."""
        self.room_id = room_id
        #: Its last known member, whose replica may not have the session any more.
        self.member = member
        self.ask = ask
        self.sought = sought
        self.session = session
        self.claimants: list[Claimant] = []
        self.came, self.arrived = trio.Event(), trio.Event()
        #: The scope of the wait for the session.
        self.scope = trio.CancelScope()
        self.outcome: Parcel | NotResumedReason | None = NotResumedReason.OWNER_LOST
        #: A request of another replica that came while the session was still on its way here.
        self.next: Sought | None = None

    def is_in(self, room: Room) -> bool:
        """Whether the room still has its member, on any replica."""
        known = room.members.get(self.member.peer_id)
        return known is not None and known.joined_at == self.member.joined_at

    def is_replaced_in(self, room: Room) -> bool:
        """Whether a newer connection has the place of its member, and is not lost itself."""
        known = room.members.get(self.member.peer_id)
        return known is not None and not known.away and not self.is_in(room)

    def decide(self, outcome: Parcel | NotResumedReason | None) -> None:
        """Store the other replica's answer."""
        self.outcome = outcome
        self.came.set()

    @property
    def waiting(self) -> list[Claimant]:
        """The connections that still wait, the newest last."""
        waiting = [each for each in self.claimants if not each.gone.is_set()]
        return sorted(waiting, key=lambda claimant: claimant.arrived)

    def refuse(self, reason: NotResumedReason | None) -> None:
        """Refuse the session to all claimants.

        Only the newest is told why, and joins anew. The client has abandoned the others, which
        would replace the newest.
        """
        waiting = self.waiting
        for claimant in waiting[:-1]:
            claimant.refuse(None)
        for claimant in waiting[-1:]:
            claimant.refuse(reason)


class Departure:
    """A session that is leaving this replica."""

    def __init__(self, session: Session, peer_id: str, room: LocalRoom, sought: Sought) -> None:
        """Begin the departure. This replica must follow the room until its end."""
        self.session = session
        self.peer_id = peer_id
        self.room = room
        self.sought = sought
        self.was_away = bool(room.members[peer_id].away)
        #: Set when the other replica has the member.
        self.moved = trio.Event()

    def pack(self) -> Parcel | NotGiven:
        """The data that the other replica needs to continue the session, or why it cannot."""
        return pack(self.session, self.sought, away=self.was_away)


def is_late(sought: Sought, resumption: Resumption) -> bool:
    """Whether the request is older than the connection that has the session now.

    Clocks may differ. But if the client has confirmed more messages than the request says, a later
    connection received them.
    """
    has_more = not resumption.overflowed and (sought.received or 0) < resumption.confirmed
    return 0 < sought.at < resumption.asked_at or (sought.received is not None and has_more)
