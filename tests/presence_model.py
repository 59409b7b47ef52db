"""A directory and one replica that follows it: a model to test presence with.

`Directory` does with one room what the Lua scripts do, `OurReplica` what the bus and the hub do
with theirs. Nothing here has a connection or a clock: the test decides when a command reaches
the directory, and when its answer or a change reaches us.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

from msgspec.structs import replace

from trio_signal.messages.commands import ChangeProfile
from trio_signal.messages.events import (
    CameBack,
    Joined,
    Left,
    News,
    ProfileChanged,
    RoomEvent,
    StopCause,
    StoppedLive,
    WentAway,
    WentLive,
)
from trio_signal.messages.identity import Live, Member
from trio_signal.presence import Change, Snapshot
from trio_signal.room import Room

ROOM = "room"
AT = "2026-11-20T10:15:30.123Z"
OURS = "ours"
OTHERS = ("other", "third")


def member(
    peer_id: str = "p",
    replica: str = "other",
    *,
    user: str | None = None,
    name: str = "Ann",
    avatar: str | None = None,
    live: Live | None = None,
    joined_at: str = "",
    away: bool | None = False,
) -> Member:
    return Member(
        peer_id=peer_id,
        user_id=user or f"user of {peer_id}",
        username=name,
        dialect="mesh",
        replica=replica,
        subject=peer_id,
        avatar_url=avatar,
        live=live,
        joined_at=joined_at,
        away=away,
    )


def joined(who: Member) -> Joined:
    return Joined(ROOM, replace(who, live=None, away=False), first=False, peers=0, at=AT)


def left(who: Member) -> Left:
    return Left(ROOM, replace(who, live=None), last=False, peers=0, at=AT)


def went_live(who: Member) -> WentLive:
    return WentLive(ROOM, who, News.FIRST, exclusive=False, at=AT)


def stopped(who: Member, cause: StopCause = StopCause.STOPPED) -> StoppedLive:
    return StoppedLive(ROOM, replace(who, live=None), last=False, cause=cause, at=AT)


def away_or_back(who: Member) -> WentAway | CameBack:
    return (WentAway if who.away else CameBack)(ROOM, who, AT)


def renamed(who: Member, before: str) -> ProfileChanged:
    return ProfileChanged(ROOM, who, "profile_updated", before, None, None, AT)


def by_peer(members: Iterable[Member]) -> dict[str, Member]:
    return {member.peer_id: member for member in members}


class Directory:
    """What Redis does with one room: the scripts, in a few lines."""

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.seq = 0
        self.clock = 1_000
        #: Changes on their way to us.
        self.published: list[Change] = []
        #: Connections that were here once and are gone.
        self.ended: set[str] = set()

    def join(self, who: Member) -> int:
        self._begin()
        self._put(who)
        return self._publish(joined(who), who.replica)

    def _begin(self) -> None:
        if not self.seq:
            self.clock += 1_000
            self.seq = self.clock

    def _put(self, who: Member) -> None:
        old = self.members.get(who.peer_id)
        if old is not None and old.joined_at != who.joined_at:
            self.ended.add(old.joined_at)
        self.members[who.peer_id] = who

    def _drop(self, peer_id: str) -> Member:
        who = self.members.pop(peer_id)
        self.ended.add(who.joined_at)
        return who

    def _publish(self, event: RoomEvent | None, origin: str) -> int:
        self.seq += 1
        self.published.append(Change(self.seq, origin, event))
        return self.seq

    def _end_if_empty(self) -> None:
        if not self.members:
            self.seq = 0

    def owned(self, replica: str) -> list[Member]:
        return [who for who in self.members.values() if who.replica == replica]

    def leave(self, who: Member) -> None:
        if self._has(who):
            self._publish(left(self._drop(who.peer_id)), who.replica)
            self._end_if_empty()

    def _has(self, who: Member) -> bool:
        known = self.members.get(who.peer_id)
        return known is not None and (known.replica, known.joined_at) == (
            who.replica,
            who.joined_at,
        )

    def change(self, replica: str, members: Iterable[Member], event: RoomEvent | None) -> None:
        owned = [who for who in members if self._has(who)]
        for who in owned:
            self.members[who.peer_id] = who
        if owned:
            self._publish(event, replica)

    def reap(self, replica: str) -> None:
        for who in self.owned(replica):
            self._drop(who.peer_id)
            if who.live:
                self._publish(stopped(who, StopCause.LEFT), replica)
            self._publish(left(who), replica)
        self._end_if_empty()

    def restore(self, replica: str, members: Iterable[Member]) -> Snapshot:
        mine = by_peer(members)
        self._begin()
        before = dict(self.members)
        for peer_id, who in mine.items():
            held = self.members.get(peer_id)
            if held is None or held.replica == replica or held.joined_at < who.joined_at:
                self._put(who)
        for who in self.owned(replica):
            if who.peer_id not in mine:
                self._drop(who.peer_id)
        if self.members != before:
            self._publish(None, replica)
        snapshot = self.snapshot()
        self._end_if_empty()
        return snapshot

    def snapshot(self) -> Snapshot:
        return Snapshot(self.seq, tuple(self.members.values()))


class Audience:
    """What the peers on our replica know about a room from events; each event must fit."""

    def __init__(self) -> None:
        #: Who is here, by peer id, and whether each is live.
        self.live: dict[str, Live | None] = {}
        #: Who is away.
        self.away: set[str] = set()

    def begin(self, members: Iterable[Member]) -> None:
        """The first peer receives the list of members."""
        members = list(members)
        self.live = {who.peer_id: who.live for who in members}
        self.away = {who.peer_id for who in members if who.away}

    def hear(self, events: Iterable[RoomEvent]) -> None:
        for event in events:
            match event:
                case Joined(member=who):
                    assert who.peer_id not in self.live, "joined twice"
                    assert (who.live, who.away) == (None, False)
                    self.live[who.peer_id] = None
                case Left(member=who):
                    assert self.live.pop(who.peer_id) is None, "left before it stopped"
                    self.away.discard(who.peer_id)
                case WentAway(member=who):
                    assert who.peer_id in self.live, "away, but is not there"
                    assert who.peer_id not in self.away, "away twice"
                    self.away.add(who.peer_id)
                case CameBack(member=who):
                    assert who.peer_id in self.away, "back, but was not away"
                    self.away.remove(who.peer_id)
                case WentLive(member=who, news=news):
                    was_live = news in (News.CHANGED, News.AGAIN)
                    assert bool(self.live[who.peer_id]) == was_live, "live twice"
                    self.live[who.peer_id] = who.live
                case StoppedLive(member=who):
                    assert self.live[who.peer_id], "stopped, but was not live"
                    self.live[who.peer_id] = None


class Entering:
    """A join of ours that is under way."""

    def __init__(self, who: Member, restores: int) -> None:
        self.member = who
        self.restores = restores
        #: Its number, once Redis has answered.
        self.seq: int | None = None


class OurReplica:
    """What the bus and the hub do with one room, and what the peers receive."""

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.room = Room(ROOM, OURS)
        self.audience = Audience()
        #: The command connection: commands that Redis has not run yet, and answers on their way
        #: back.
        self.commands: deque[Callable[[], Callable[[], None] | None]] = deque()
        self.answers: deque[Callable[[], None]] = deque()
        self.entering: list[Entering] = []
        self.restores = 0
        self.restoring = False
        self.stale = False
        #: Redis lost everything: other replicas may be about to return.
        self.patient = False

    # What others did

    def take(self, change: Change) -> None:
        here, in_step = bool(self.room.own), self.room.numbering.in_step
        self.tell(self.room.follow(change), here=here)
        self.stale |= in_step and not self.room.numbering.in_step
        match change.event:
            case Left(member=who):
                self.stale |= who.peer_id in self.room.own

    def tell(self, events: Iterable[RoomEvent], *, here: bool) -> None:
        for event in events:
            if isinstance(event, Left):
                assert event.member.joined_at in self.directory.ended, "is still there"
            if isinstance(event, ProfileChanged):
                self.rename(event.member)
            if here:
                self.audience.hear([event])

    def rename(self, named: Member, event: RoomEvent | None = None) -> None:
        """Rename all peers of a user; without an event if another replica sent it."""
        members = [who for who in self.room.own.values() if who.user_id == named.user_id]
        if members:
            self.commands.append(partial(self.directory.change, OURS, members, event))

    def catch_up(self, snapshot: Snapshot, losses: int) -> None:
        here, room = bool(self.room.own), self.room
        self.tell(room.catch_up(snapshot, losses, AT, patient=self.patient), here=here)
        self.stale |= not room.numbering.in_step or not room.own.keys() <= room.entered

    # What we do

    def join(self, who: Member) -> None:
        entering = Entering(who, self.restores)
        self.entering.append(entering)
        self.commands.append(
            partial(
                self._run_join,
                entering,
                self.room.numbering.losses,
                whole=not self.room.numbering.in_step,
            )
        )

    def _run_join(self, entering: Entering, losses: int, *, whole: bool) -> Callable[[], None]:
        seq = self.directory.join(entering.member)
        snapshot = self.directory.snapshot() if whole else None
        return partial(self._joined, entering, losses, seq, snapshot)

    def _joined(self, entering: Entering, losses: int, seq: int, snapshot: Snapshot | None) -> None:
        entering.seq = seq
        if snapshot is not None and not self.room.numbering.in_step:
            self.catch_up(snapshot, losses)

    def may_admit(self, entering: Entering) -> bool:
        """Joins with the same peer id wait for each other, since they are answered in order."""
        first = next(e for e in self.entering if e.member.peer_id == entering.member.peer_id)
        return (
            entering is first
            and entering.seq is not None
            and self.room.numbering.in_step
            and self.room.numbering.seq >= entering.seq
        )

    def give_up_waiting(self, entering: Entering) -> None:
        """Redis takes too long, or is gone."""
        self.admit(entering, unasked=True)

    def admit(self, entering: Entering, *, unasked: bool = False) -> None:
        self.entering.remove(entering)
        room, who = self.room, entering.member
        self.note_overlap(entering)
        overtaken = room.claim(who.peer_id, AT, unasked=unasked)
        self.stale |= unasked or who.peer_id not in room.entered
        is_first = not room.own
        events = room.join(who, AT)
        if is_first:
            self.audience.begin(room.members.values())
        else:
            self.audience.hear(events)
        for event in overtaken:
            self.tell(room.apply(event), here=True)

    def note_overlap(self, entering: Entering) -> None:
        self.stale |= entering.restores != self.restores

    def abandon(self, entering: Entering) -> None:
        """The connection ended before it was admitted."""
        self.entering.remove(entering)
        self.note_overlap(entering)
        who = entering.member
        if who.peer_id in self.room.own:
            self.stale = True
        else:
            self.commands.append(partial(self.directory.leave, who))

    def leave(self, peer_id: str) -> None:
        for event in self.room.leave(peer_id, AT):
            self._publish(event)

    def go_live(self, peer_id: str, live: Live) -> None:
        for event in self.room.go_live(peer_id, live, AT):
            self._publish(event)

    def stop_live(self, peer_id: str) -> None:
        for event in self.room.stop_live(peer_id, AT):
            self._publish(event)

    def go_away_or_come_back(self, peer_id: str) -> None:
        who = self.room.members[peer_id]
        for event in self.room.set_away(who, AT, away=not who.away):
            self._publish(event)

    def change_name(self, peer_id: str, name: str) -> None:
        change = ChangeProfile(ROOM, "profile_update", username=name)
        for event in self.room.change_profile(peer_id, change, AT):
            self._publish(event)

    def _publish(self, event: RoomEvent) -> None:
        self.audience.hear([event])
        match event:
            case Left(member=who):
                self.commands.append(partial(self.directory.leave, who))
            case WentLive() | StoppedLive() | WentAway() | CameBack():
                change = partial(self.directory.change, OURS, [event.member], event)
                self.commands.append(change)
            case ProfileChanged(member=who):
                self.rename(who, event)

    # Our failures, and how they are repaired

    def lose_connection(self) -> None:
        self.commands.clear()
        self.answers.clear()
        self.restoring = False
        self.room.numbering.start_over()
        self.stale = True
        for entering in list(self.entering):
            self.give_up_waiting(entering)

    def end_patience(self) -> None:
        self.patient = False
        self.room.numbering.start_over()
        self.stale = True

    def restore(self) -> None:
        self.restoring = True
        self.stale = False
        self.room.numbering.start_over()
        self.restores += 1
        self.commands.append(
            partial(self._run_restore, dict(self.room.own), self.room.numbering.losses)
        )

    def _run_restore(self, mine: dict[str, Member], losses: int) -> Callable[[], None]:
        snapshot = self.directory.restore(OURS, mine.values())
        return partial(self._restored, snapshot, losses)

    def _restored(self, snapshot: Snapshot, losses: int) -> None:
        self.restoring = False
        self.catch_up(snapshot, losses)

    def run_command(self) -> None:
        answer = self.commands.popleft()()
        if answer is not None:
            self.answers.append(answer)

    def read_answer(self) -> None:
        self.answers.popleft()()
