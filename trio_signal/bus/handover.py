"""Handover: what replicas say to each other when a session moves from one to another.

A session is found by its tag, which its member's record has and from which its id cannot be
found out. The contract, for whoever implements `HandoverBus`:

- Who has no connection to a session's room follows it first. Then it says in the room's channel
  that it *seeks* the session. The replica that has it gives it up at once, if it may be given, and
  a script changes the member's replica: that change is numbered, and tells nobody anything.
- The change parts the room's events in two. All before it the session is told by the replica that
  gave it up, all after it by the one that has it now: each once, in one order for all.
- When the change has come back to the giver, it sends the *parcel*: what the client has not
  confirmed, and how much came from it.
- Who seeks a session that is under way to somebody else sees it arrive there, and asks again.
  So the newest wins.
"""

from collections.abc import Sequence
from typing import Protocol

from trio_signal.messages.events import Joined, RoomEvent
from trio_signal.messages.handover import NotGiven, Offered, Parcel, Sought
from trio_signal.messages.identity import Member
from trio_signal.room import Room


class Mover(Protocol):
    """What a replica does with sessions that move. Nothing blocks."""

    def give(self, room_id: str, sought: Sought) -> None:
        """Another replica seeks a session, which may be of this one."""
        ...

    def joined(self, event: Joined) -> None:
        """Sessions that are being given up are to be told of a newcomer of this replica.

        It came before they go; those who stay are told when it is let in.
        """
        ...

    def gone(self, session: str) -> None:
        """The member of a session that was given up is the other replica's now."""
        ...

    def failed(self, session: str) -> None:
        """It could not be made so."""
        ...

    def arrived(
        self, room_id: str, member: Member, missed: Sequence[RoomEvent], told: frozenset[str]
    ) -> None:
        """A member has become this replica's own.

        `missed` are events of this replica that it is to be told first. Of the newcomers `told`
        it knows already, though nobody here does yet.
        """
        ...


class HandoverBus(Protocol):
    """How sessions move between replicas; see above. Only `async` ones block."""

    def serve(self, mover: Mover) -> None:
        """Have this one do what is to be done with the sessions of this replica."""
        ...

    def time(self) -> float:
        """Seconds of a clock that all replicas share; 0 if that is not known yet."""
        ...

    async def find(self, room_id: str, session: str) -> Member | None:
        """The member whose session has this tag."""
        ...

    async def follow(self, room: Room) -> bool:
        """Follow a room in which nobody of this replica need be; whether it is in step."""
        ...

    async def seek(self, room: Room, sought: Sought, member: Member, *, ask: bool) -> Parcel | None:
        """Seek the session of a member, until it has arrived or `stop` is called.

        If its replica has ended and left a parcel, that is returned; else it is asked, if `ask`.
        """
        ...

    def stop(self, room_id: str, session: str) -> None:
        """Want it no longer: if it comes all the same, it leaves the room."""
        ...

    def give(self, room: Room, member: Member, sought: Sought) -> None:
        """Let the other replica have a member of ours."""
        ...

    async def settle(self, room_id: str, peer_id: str) -> None:
        """Wait until no signal of this peer is under way from here."""
        ...

    async def others(self, seconds: float) -> list[str]:
        """Say for so long that we stop; which other replicas do not. None if none can be asked."""
        ...

    async def park(self, parcels: Sequence[tuple[str, Parcel]], seconds: float) -> bool:
        """Leave sessions, each with its room, to whoever comes first in this time; if it worked.

        Their members stay in the directory. Whom nobody takes over is reaped then.
        """
        ...

    def keep(self, room_id: str, member: Member, seconds: float) -> None:
        """Keep for so long that there is a stand-in for a user, which has `member.session`."""
        ...

    async def kept(self, room_id: str, user_id: str, dialect: str) -> Member | None:
        """Such a member, once."""
        ...

    async def parked(self) -> list[tuple[str, str]]:
        """Sessions that were left so, and the rooms in which they are."""
        ...

    def send(self, replica: str, told: Parcel | NotGiven | Offered) -> None:
        """Tell the replica that seeks a session."""
        ...
