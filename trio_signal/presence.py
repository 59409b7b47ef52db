"""Presence across replicas: one room's members elsewhere, as one replica sees them.

The directory numbers the changes of each room. A `View` follows the numbers;
where one is missing, a snapshot puts it right, and `reconcile` says what to
tell. Pure: no I/O, no clock.
"""

from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from trio_signal.messages.events import (
    Joined,
    Left,
    News,
    ProfileChanged,
    RoomEvent,
    StopCause,
    StoppedLive,
    WentLive,
)
from trio_signal.messages.identity import Member, Name, Number
from trio_signal.room import renamed

#: How many changes wait for a snapshot that is on its way; then another is fetched.
MAX_WAITING = 10_000


class Change(Struct, frozen=True):
    """A numbered change of a room, as the directory published it.

    Without an event it says only that the room changed: fetch a snapshot.
    """

    seq: Number
    origin: Name
    event: RoomEvent | None = None


class Snapshot(Struct, frozen=True):
    """A room's members on all replicas, after the change numbered `seq`."""

    seq: int
    members: tuple[Member, ...]


def reconcile(
    room_id: str, old: Mapping[str, Member], new: Mapping[str, Member], at: str
) -> list[RoomEvent]:
    """The events that lead from one picture of a room to another.

    Both are by peer id. Departures come first, so that a user who changed
    replicas is not seen twice.
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
        else:
            events += _arrival(room_id, member, at)
    return events


def _is_same(old: Member, new: Member) -> bool:
    """Whether it is the same connection still: a newer one takes over the peer id."""
    return (old.replica, old.joined_at) == (new.replica, new.joined_at)


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
    """One event for each user, however many peers it has."""
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
    if old.live == new.live:
        return []
    other = old.live and new.live and old.live.started_at != new.live.started_at
    stopped = _stop(room_id, old, at, StopCause.STOPPED) if other or not new.live else []
    return [*stopped, *_start(room_id, new, at)]


def _arrival(room_id: str, member: Member, at: str) -> list[RoomEvent]:
    joined = Joined(room_id, replace(member, live=None), first=False, peers=0, at=at)
    return [joined, *_start(room_id, member, at)]


def _start(room_id: str, member: Member, at: str) -> list[RoomEvent]:
    if member.live is None:
        return []
    return [WentLive(room_id, member, News.FIRST, exclusive=member.live.exclusive, at=at)]


class View:
    """What one replica knows of one room's members on the others.

    It begins out of step: changes wait until the first snapshot.
    """

    def __init__(self, room_id: str, replica: str) -> None:
        """Make a view for `replica`, whose own members never appear in it."""
        self.room_id = room_id
        self.members: dict[str, Member] = {}
        #: Peer ids of our own, as the directory has them.
        self.own: set[str] = set()
        #: The last change that the view has taken in.
        self.seq = 0
        #: Whether it follows; if not, a snapshot is wanted.
        self.in_step = False
        #: How often step was lost. Say it with a snapshot: one that was asked for
        #: before the last time may be older than what was told.
        self.losses = 0
        self._replica = replica
        self._waiting: list[Change] = []

    def follow(self, change: Change) -> list[RoomEvent]:
        """Take a change in; the events to tell. May get the view out of step."""
        if not self.in_step:
            self._wait(change)
            return []
        if change.seq <= self.seq:
            return []  # a snapshot held it already
        if change.seq != self.seq + 1 or change.event is None:
            self.lose_step()
            self._wait(change)
            return []
        self.seq = change.seq
        if change.origin == self._replica:
            return self._apply_own(change.event)
        self._apply(change.event)
        return [change.event]

    def _wait(self, change: Change) -> None:
        if len(self._waiting) >= MAX_WAITING:
            # Older than the snapshot that will come, or a gap that fetches another.
            self._waiting.clear()
        self._waiting.append(change)

    def lose_step(self) -> None:
        """Changes may have been missed: wait for a snapshot."""
        if self.in_step:
            self.in_step = False
            self.losses += 1

    def start_over(self) -> None:
        """The directory may be another one now: believe nothing that is still on its way."""
        self.in_step = False
        self.losses += 1
        self._waiting.clear()

    def catch_up(
        self, snapshot: Snapshot, losses: int, at: str, *, patient: bool = False
    ) -> list[RoomEvent]:
        """Take a snapshot in, and what came since; the events to tell.

        `losses` is what it was when the snapshot was asked for. The view is in
        step afterwards, unless something is missing again. If `patient`, members of
        a replica of which the snapshot has none stay: it may be about to write them.
        """
        if self.in_step or losses != self.losses:
            return []  # another one was faster
        self.own = {m.peer_id for m in snapshot.members if m.replica == self._replica}
        others = {m.peer_id: m for m in snapshot.members if m.replica != self._replica}
        others |= {p: m for p, m in self.members.items() if p in self.own}  # not let in yet
        if patient:
            others |= self._missing(snapshot)
        events = reconcile(self.room_id, self.members, others, at)
        self.members = others
        self.seq = snapshot.seq
        self.in_step = True
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            # One without an event that is newer asks for a newer snapshot.
            events += self.follow(change)
        return events

    def claim(self, peer_id: str, at: str) -> list[RoomEvent]:
        """One of our own joined and is let in; what others did to it since, to tell next."""
        member = self.members.get(peer_id)
        if member is None:
            return []
        if peer_id in self.own:
            del self.members[peer_id]
            return []
        return _arrival(self.room_id, member, at)

    def _missing(self, snapshot: Snapshot) -> dict[str, Member]:
        there = {member.peer_id for member in snapshot.members}
        back = {member.replica for member in snapshot.members}
        return {p: m for p, m in self.members.items() if p not in there and m.replica not in back}

    def claim_unasked(self, peer_id: str) -> None:
        """One of our own is let in, though the directory could not be asked.

        Whose it is, a snapshot will say that is asked for from now on.
        """
        self.members.pop(peer_id, None)
        self.in_step = False
        self.losses += 1

    def _apply_own(self, event: RoomEvent) -> list[RoomEvent]:
        """Our own changes are known here, but for a peer that we took over.

        It stays in the picture until its new connection is let in. That may have
        ended meanwhile: then it leaves.
        """
        match event:
            case Joined(member=member):
                self.own.add(member.peer_id)
            case Left(member=Member(peer_id=peer_id)):
                self.own.discard(peer_id)
                if peer_id in self.members:
                    return _departure(self.room_id, self.members.pop(peer_id), event.at)
        return []

    def _apply(self, event: RoomEvent) -> None:
        match event:
            case Joined(member=member):
                self.own.discard(member.peer_id)
                self.members[member.peer_id] = member
            case WentLive(member=member) | StoppedLive(member=member):
                if member.peer_id in self.members:  # as the room has it
                    self.members[member.peer_id] = member
            case Left(member=member):
                self.members.pop(member.peer_id, None)
            case ProfileChanged(member=named):
                self.rename(named)

    def rename(self, named: Member) -> None:
        """A user is called something else, in all its peers."""
        for peer_id, member in self.members.items():
            if member.user_id == named.user_id:
                self.members[peer_id] = renamed(member, named.username, named.avatar_url)


def by_peer(members: Iterable[Member]) -> dict[str, Member]:
    """Members by their peer ids."""
    return {member.peer_id: member for member in members}
