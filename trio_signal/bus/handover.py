"""Handover: how a session moves from one replica to another.

A session is found by its tag, which is in its member's record; the session id cannot be derived
from the tag. The contract for `HandoverBus`:

- A replica that does not follow the session's room follows it first. Then it announces in the
  room's channel that it *seeks* the session. The replica that has the session releases it at once,
  if it may, and a script changes the member's replica. That change is numbered like others, but
  peers are not notified of it.
- The change divides the room's events: the old replica delivers all events before it to the
  session, the new replica all events after it. Each arrives once, and in one order for all.
- When the change comes back to the old replica, it sends the *parcel*: the messages that the client
  has not confirmed, and how many it has received from the client.
- If a session is on its way to a third replica, the seeker sees it arrive there and asks again. So
  the newest seeker wins.
"""

from collections.abc import Sequence
from typing import Protocol

from trio_signal.messages.events import Joined, RoomEvent
from trio_signal.messages.handover import NotGiven, Offered, Parcel, Sought
from trio_signal.messages.identity import Member
from trio_signal.room import Room


class Mover(Protocol):
    """How a replica moves its sessions. Nothing blocks."""

    def give(self, room_id: str, sought: Sought) -> None:
        """Another replica seeks a session, which may be one of this replica."""
        ...

    def joined(self, event: Joined) -> None:
        """Deliver a newcomer of this replica to the sessions that are being given up.

        The newcomer joined before they go; other sessions receive it when it is admitted.
        """
        ...

    def gone(self, session: str) -> None:
        """The other replica owns the member of a session now."""
        ...

    def failed(self, session: str) -> None:
        """The other replica did not get the member of a session."""
        ...

    def arrived(
        self, room_id: str, member: Member, missed: Sequence[RoomEvent], told: frozenset[str]
    ) -> None:
        """A member now belongs to this replica.

        `missed` are events of this replica to deliver first. `told` are newcomers that the member
        knows already, although nobody else here does yet.
        """
        ...


class HandoverBus(Protocol):
    """How sessions move between replicas; see the module. Only `async` methods block."""

    def serve(self, mover: Mover) -> None:
        """Use this mover for the sessions of this replica."""
        ...

    def time(self) -> float:
        """Seconds of a clock that all replicas share; 0 if unknown."""
        ...

    async def find(self, room_id: str, session: str) -> Member | None:
        """Find the member whose session has this tag."""
        ...

    async def follow(self, room: Room) -> bool:
        """Follow a room that may have no members here; return whether it is in step."""
        ...

    async def seek(self, room: Room, sought: Sought, member: Member, *, ask: bool) -> Parcel | None:
        """Seek the session of a member, until it arrives or `stop` is called.

        If its replica has ended and left a parcel, that is returned. Otherwise, if `ask`, its
        replica is asked.
        """
        ...

    def stop(self, room_id: str, session: str) -> None:
        """Stop seeking: if the session still arrives, its member leaves the room."""
        ...

    def replaces_in(self, room_id: str) -> bool:
        """Whether newer connections are about to replace members of a room here."""
        ...

    async def wait_replaced(self, room_id: str) -> None:
        """Wait until no newer connection is about to replace a member of a room here."""
        ...

    def give(self, room: Room, member: Member, sought: Sought) -> None:
        """Give a member of this replica to the replica that seeks it."""
        ...

    async def settle(self, room_id: str, peer_id: str) -> None:
        """Wait until no signal from this peer is in flight from here."""
        ...

    async def others(self, seconds: float) -> list[str]:
        """Announce for `seconds` that this replica stops; return replicas that do not stop.

        Returns an empty list if the directory cannot be asked.
        """
        ...

    async def park(self, parcels: Sequence[tuple[str, Parcel]], seconds: float) -> bool:
        """Leave sessions, each with its room, to the first replica that takes them; return success.

        Their members stay in the directory for `seconds`; the rest are removed then.
        """
        ...

    def keep(self, room_id: str, member: Member, seconds: float) -> None:
        """Record for `seconds` that a stand-in for a user exists, with the tag `member.session`."""
        ...

    async def kept(self, room_id: str, user_id: str, dialect: str) -> Member | None:
        """Take the stand-in of a user; each is returned once."""
        ...

    async def parked(self) -> list[tuple[str, str]]:
        """The tags of parked sessions, and their rooms."""
        ...

    def send(self, replica: str, told: Parcel | NotGiven | Offered) -> None:
        """Send to the replica that seeks a session."""
        ...
