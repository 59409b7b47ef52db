"""Presence across replicas: how they agree on who is in a room. No I/O, no clock.

The directory numbers the changes of each room. A replica applies them in order. If one is missing,
its room is stale; a snapshot repairs that, and `reconcile` returns the events to send.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from trio_signal.messages.events import (
    CameBack,
    Joined,
    Left,
    News,
    ProfileChanged,
    RoomEvent,
    Routed,
    StopCause,
    StoppedLive,
    WentAway,
    WentLive,
)
from trio_signal.messages.handover import Sought
from trio_signal.messages.identity import Member, Name, Number

#: Maximum changes that wait for a snapshot; beyond it another snapshot is fetched.
MAX_WAITING = 10_000


class Change(Struct, frozen=True):
    """A numbered change of a room, as the directory published it.

    `moved` is a member that another replica has from now on; peers get no event about that. A
    change without an event or a member only says that the room changed: fetch a snapshot.
    """

    seq: Number
    origin: Name
    event: RoomEvent | None = None
    moved: Member | None = None
    #: A replica requests a session; the room does not change.
    sought: Sought | None = None


class Snapshot(Struct, frozen=True):
    """A room's members on all replicas, after the change numbered `seq`.

    If the room was deleted recently, `written` are the replicas that have written their members
    since.
    """

    seq: int
    members: tuple[Member, ...]
    written: frozenset[str] | None = None


class Numbering:
    """The changes of a room that a replica has. It is out of step until the first snapshot."""

    __slots__ = ("_waiting", "in_step", "losses", "received", "seq")

    def __init__(self) -> None:
        #: The last change that the room has, from a snapshot or directly.
        self.seq = 0
        #: The last change that came directly; a snapshot may contain later ones.
        self.received = 0
        #: Whether the next change can be applied; if not, the room is stale.
        self.in_step = False
        #: How often step was lost. Note it when a snapshot is requested: if it has changed when
        #: the snapshot arrives, that may be older than changes that were applied since.
        self.losses = 0
        self._waiting: list[Change] = []

    def accept(self, change: Change) -> bool:
        """Whether this is the next change, to be applied now.

        A change after a gap waits, and is applied after the next snapshot. A change that the room
        already has is ignored.
        """
        self.received = max(self.received, change.seq)
        if self.in_step:
            if change.seq <= self.seq:
                return False
            if change.seq == self.seq + 1 and (change.event or change.moved) is not None:
                self.seq = change.seq
                return True
            self.lose_step()
        if len(self._waiting) >= MAX_WAITING:
            # The coming snapshot contains them, or the gap will request another snapshot.
            self._waiting.clear()
        self._waiting.append(change)
        return False

    def lose_step(self) -> None:
        """Note that changes may have been missed: wait for a snapshot."""
        if self.in_step:
            self.in_step = False
            self.losses += 1

    def start_over(self) -> None:
        """Discard everything received or on its way: the directory may be a different one now."""
        self.in_step = False
        self.losses += 1
        self.received = 0
        self._waiting.clear()

    def resume(self, seq: int) -> list[Change]:
        """Continue after a snapshot's number. Returns the changes that waited."""
        self.seq = seq
        self.in_step = True
        waiting, self._waiting = self._waiting, []
        return waiting


def reconcile(
    room_id: str, old: Mapping[str, Member], new: Mapping[str, Member], at: str
) -> list[RoomEvent]:
    """The events that lead from one state of a room to another.

    Both map peer ids to members. Departures come first, so that a user who changed replicas is
    never in the room twice.
    """
    events: list[RoomEvent] = []
    for peer_id, member in old.items():
        if peer_id not in new:
            events += _departure(room_id, member, at)
    stayed = {p: m for p, m in new.items() if p in old and _is_same(old[p], m)}
    events += _renamings(room_id, old, stayed, at)
    for peer_id, member in new.items():
        if peer_id in stayed:
            events += _live_change(room_id, old[peer_id], member, at)
            events += _away_change(room_id, old[peer_id].away, member, at)
        else:
            events += arrival(room_id, member, at)
    return events


def completed(member: Member, known: Member | None) -> Member:
    """A member's record. If it does not say whether the member is away, what was known counts."""
    if member.away is not None or known is None or known.joined_at != member.joined_at:
        return member
    return replace(member, away=known.away)


def _is_same(old: Member, new: Member) -> bool:
    """Whether both are the same peer: a newer one may have taken over the peer id.

    The peer may have moved to another replica. Its user and its time of joining identify it.
    """
    is_same = old.joined_at == new.joined_at and old.user_id == new.user_id
    return is_same and (old.replica == new.replica or bool(new.session))


def _departure(room_id: str, member: Member, at: str) -> list[RoomEvent]:
    left = Left(room_id, replace(member, live=None), last=False, peers=0, at=at)
    return [*_stop(room_id, member, at, StopCause.LEFT), left]


def _stop(room_id: str, member: Member, at: str, cause: StopCause) -> list[RoomEvent]:
    if member.live is None:
        return []
    return [StoppedLive(room_id, replace(member, live=None), last=False, cause=cause, at=at)]


def _renamings(
    room_id: str, old: Mapping[str, Member], stayed: Mapping[str, Member], at: str
) -> Iterable[RoomEvent]:
    """One event for each renamed user, however many peers it has."""
    events: dict[str, RoomEvent] = {}
    for peer_id, member in stayed.items():
        before = old[peer_id]
        if (before.username, before.avatar_url) != (member.username, member.avatar_url):
            events[member.user_id] = ProfileChanged(
                room_id,
                member,
                wire_type="profile_updated",
                previous_username=before.username,
                email=None,
                bio=None,
                at=at,
            )
    return events.values()


def _live_change(room_id: str, old: Member, new: Member, at: str) -> list[RoomEvent]:
    if old.live and old.username != new.username:
        # A new name also replaces that in the broadcast, which did not start again.
        old = replace(old, live=replace(old.live, username=None))
    if old.live == new.live:
        return []
    if old.live and new.live and replace(old.live, route=new.live.route) == new.live:
        return [Routed(room_id, new, at)]
    other = old.live and new.live and old.live.started_at != new.live.started_at
    stopped = _stop(room_id, old, at, StopCause.STOPPED) if other or not new.live else []
    return [*stopped, *_start(room_id, new, at)]


def arrival(room_id: str, member: Member, at: str) -> list[RoomEvent]:
    """The events for a member that joined."""
    joined = Joined(room_id, replace(member, live=None, away=False), first=False, peers=0, at=at)
    return [joined, *_start(room_id, member, at), *_away_change(room_id, False, member, at)]


def _start(room_id: str, member: Member, at: str) -> list[RoomEvent]:
    if member.live is None:
        return []
    return [WentLive(room_id, member, News.FIRST, exclusive=member.live.exclusive, at=at)]


def _away_change(room_id: str, was_away: bool | None, member: Member, at: str) -> list[RoomEvent]:
    if member.away is None or bool(was_away) == member.away:
        return []
    return [(WentAway if member.away else CameBack)(room_id, member, at)]
