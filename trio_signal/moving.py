"""Moving: what is known of sessions that come to a replica, or go from it. State only."""

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
    """A connection that waits for its client's session; a context manager for that time."""

    def __init__(self, number: int, asked_at: float) -> None:
        """Wait from now on."""
        #: Its order among these connections, and when it came by the clock that all replicas share.
        self.number = number
        self.asked_at = asked_at
        #: Why it does not get the session; None if it does, or if a later connection does.
        self.reason: NotResumedReason | None = None
        self.is_chosen = False
        self.decided = trio.Event()
        self.gone = trio.Event()

    def refuse(self, reason: NotResumedReason | None) -> None:
        """It does not get it."""
        self.reason = reason
        self.decided.set()

    def choose(self) -> None:
        """It gets it."""
        self.is_chosen = True
        self.decided.set()

    def __enter__(self) -> Self:
        """Wait."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait no longer."""
        self.gone.set()


class Reception:
    """A session on its way to this replica."""

    def __init__(
        self, room_id: str, sought: Sought, session: Session, member: Member, *, ask: bool
    ) -> None:
        """Seek it; `ask` whether the replica that has it, or had it, is to be asked."""
        self.room_id = room_id
        #: Its member as it is known, perhaps of a replica that has it no more.
        self.member = member
        self.ask = ask
        self.sought = sought
        self.session = session
        self.claimants: list[Claimant] = []
        self.came, self.arrived = trio.Event(), trio.Event()
        #: The scope in which it is waited for.
        self.scope = trio.CancelScope()
        self.outcome: Parcel | NotResumedReason | None = NotResumedReason.OWNER_LOST
        #: The replica that requests it next, while it is still on its way here.
        self.next: Sought | None = None

    def is_in(self, room: Room) -> bool:
        """Whether the room still has its member, of whichever replica."""
        known = room.members.get(self.member.peer_id)
        return known is not None and known.joined_at == self.member.joined_at

    def decide(self, outcome: Parcel | NotResumedReason | None) -> None:
        """The other replica has answered."""
        self.outcome = outcome
        self.came.set()

    def refuse(self, reason: NotResumedReason | None) -> None:
        """Nobody who waits for it gets it."""
        for claimant in self.claimants:
            claimant.refuse(reason)


class Departure:
    """A session that is being given up."""

    def __init__(
        self, session: Session, peer_id: str, room: LocalRoom, sought: Sought, *, away: bool
    ) -> None:
        """Begin; the room is to be followed until the end."""
        self.session = session
        self.peer_id = peer_id
        self.room = room
        self.sought = sought
        self.was_away = away
        #: Set when the other replica has the member.
        self.moved = trio.Event()

    def pack(self) -> Parcel | NotGiven:
        """Pack what the other replica needs to continue; or why it cannot."""
        return pack(self.session, self.sought, away=self.was_away)


def is_late(sought: Sought, resumption: Resumption) -> bool:
    """Whether the request is older than the connection that has the session now.

    Clocks may differ. But what the client has confirmed since, it received on a later connection.
    """
    has_more = not resumption.overflowed and (sought.received or 0) < resumption.confirmed
    return 0 < sought.at < resumption.asked_at or (sought.received is not None and has_more)
