"""A replica's room, whatever happens to changes and snapshots from the directory."""

from collections.abc import Callable
from enum import Enum, auto

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from tests.presence_model import (
    AT,
    OTHERS,
    OURS,
    ROOM,
    Audience,
    Directory,
    OurReplica,
    away_or_back,
    by_peer,
    joined,
    left,
    member,
    renamed,
    stopped,
    went_live,
)
from trio_signal import presence, room
from trio_signal.messages.events import (
    Joined,
    Left,
    ProfileChanged,
    RoomEvent,
    Routed,
    StopCause,
    StoppedLive,
    WentLive,
)
from trio_signal.messages.identity import Live, MediaType, Member
from trio_signal.presence import Change, Snapshot, reconcile
from trio_signal.room import Room

LATER = "2026-11-20T10:15:31.456Z"
VIDEO = Live("video", AT)
AUDIO = Live("audio", AT)
THEIRS = member().replica
VIDEO_AGAIN = Live("video", LATER)
EXCLUSIVE = Live("video", AT, exclusive=True)


# From one state to another

STATES: list[tuple[str, list[Member], list[Member], list[RoomEvent]]] = [
    ("nothing", [], [], []),
    ("the same", [member(live=VIDEO)], [member(live=VIDEO)], []),
    ("came", [], [member()], [joined(member())]),
    (
        "came and is live",
        [],
        [member(live=VIDEO)],
        [joined(member()), went_live(member(live=VIDEO))],
    ),
    ("went", [member()], [], [left(member())]),
    (
        "was live and went",
        [member(live=VIDEO)],
        [],
        [stopped(member(), StopCause.LEFT), left(member())],
    ),
    (
        "one goes before another comes",
        [member("p")],
        [member("q")],
        [left(member("p")), joined(member("q"))],
    ),
    ("went live", [member()], [member(live=VIDEO)], [went_live(member(live=VIDEO))]),
    (
        "took the stream over",
        [member()],
        [member(live=EXCLUSIVE)],
        [replace(went_live(member(live=EXCLUSIVE)), exclusive=True)],
    ),
    ("stopped", [member(live=VIDEO)], [member()], [stopped(member())]),
    ("away", [member()], [member(away=True)], [away_or_back(member(away=True))]),
    ("back", [member(away=True)], [member()], [away_or_back(member())]),
    (
        "came, is live and away",
        [],
        [member(live=VIDEO, away=True)],
        [
            joined(member()),
            went_live(member(live=VIDEO, away=True)),
            away_or_back(member(live=VIDEO, away=True)),
        ],
    ),
    ("was away and went", [member(away=True)], [], [left(member(away=True))]),
    (
        "was away and went live",
        [member(away=True)],
        [member(live=VIDEO)],
        [went_live(member(live=VIDEO)), away_or_back(member(live=VIDEO))],
    ),
    (
        "other media",
        [member(live=VIDEO)],
        [member(live=AUDIO)],
        [went_live(member(live=AUDIO))],
    ),
    (
        "stopped and went live",
        [member(live=VIDEO)],
        [member(live=VIDEO_AGAIN)],
        [stopped(member()), went_live(member(live=VIDEO_AGAIN))],
    ),
    ("another name", [member()], [member(name="Bea")], [renamed(member(name="Bea"), "Ann")]),
    (
        "another picture",
        [member()],
        [member(avatar="a.png")],
        [renamed(member(avatar="a.png"), "Ann")],
    ),
    (
        "another name, on two tabs",
        [member("p", user="u"), member("q", "third", user="u")],
        [member("p", user="u", name="Bea"), member("q", "third", user="u", name="Bea")],
        [renamed(member("q", "third", user="u", name="Bea"), "Ann")],
    ),
    (
        "another name, and a tab more",
        [member("p", user="u")],
        [member("p", user="u", name="Bea"), member("q", user="u", name="Bea")],
        [
            renamed(member("p", user="u", name="Bea"), "Ann"),
            joined(member("q", user="u", name="Bea")),
        ],
    ),
    (
        "taken over on the same replica",
        [member()],
        [member(name="Bea", joined_at=LATER)],
        [joined(member(name="Bea", joined_at=LATER))],
    ),
    ("taken over", [member()], [member(replica="third")], [joined(member(replica="third"))]),
    (
        "another user, by a record that was wrong",
        [member(user="x", live=VIDEO)],
        [member(live=VIDEO)],
        [joined(member()), went_live(member(live=VIDEO))],
    ),
    (
        "taken over while live",
        [member(live=VIDEO)],
        [member(replica="third")],
        [joined(member(replica="third"))],
    ),
    (
        "taken over, and live again",
        [member(live=VIDEO)],
        [member(replica="third", live=VIDEO_AGAIN)],
        [
            joined(member(replica="third")),
            went_live(member(replica="third", live=VIDEO_AGAIN)),
        ],
    ),
]


@pytest.mark.parametrize(
    ("old", "new", "events"), [p[1:] for p in STATES], ids=[p[0] for p in STATES]
)
def test_reconcile_returns_the_difference(
    old: list[Member], new: list[Member], events: list[RoomEvent]
) -> None:
    assert reconcile(ROOM, by_peer(old), by_peer(new), AT) == events


@pytest.mark.parametrize(("old", "new"), [p[1:3] for p in STATES], ids=[p[0] for p in STATES])
def test_applying_the_difference_gives_the_new_state(old: list[Member], new: list[Member]) -> None:
    room = Room(ROOM)
    for event in reconcile(ROOM, {}, by_peer(old), AT):
        room.apply(event)
    for event in reconcile(ROOM, by_peer(old), by_peer(new), AT):
        room.apply(event)
    assert room.members == by_peer(new)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_record_that_does_not_say_who_is_away_changes_nothing(*, is_known: bool) -> None:
    """Replicas of version 0.2.0 write such records, and tell who is away without a number."""
    room = Room(ROOM, OURS)
    room.join(member("ours", replica=OURS), AT)
    room.join(replace(member(), away=None), AT)
    if is_known:
        assert room.apply(away_or_back(member(away=True))) == [away_or_back(member(away=True))]
    snapshot = Snapshot(1, (member("ours", replica=OURS), member(away=None)))
    assert room.catch_up(snapshot, room.numbering.losses, AT) == []
    assert bool(room.members[member().peer_id].away) == is_known
    back = room.apply(away_or_back(member(away=False)))
    assert back == ([away_or_back(member(away=False))] if is_known else [])


# A room, step by step


def change(seq: int, event: RoomEvent | None, origin: str = "other") -> Change:
    return Change(seq, origin, event)


def plain(events: list[RoomEvent]) -> list[RoomEvent]:
    """Events without their details about the rest of the room."""
    plainer: list[RoomEvent] = []
    for event in events:
        match event:
            case Joined():
                event = replace(event, first=False, peers=0)
            case Left():
                event = replace(event, last=False, peers=0)
            case StoppedLive():
                event = replace(event, last=False)
        plainer.append(event)
    return plainer


class Here:
    """Our room, with one peer of ours in it, and the events that this peer receives."""

    def __init__(self) -> None:
        self.room = Room(ROOM, OURS)
        self.room.join(member("me", OURS), AT)
        self.numbering = self.room.numbering

    @property
    def others(self) -> dict[str, Member]:
        return {p: who for p, who in self.room.members.items() if p not in self.room.own}

    @property
    def in_step(self) -> bool:
        return self.numbering.in_step

    def follow(self, change: Change) -> list[RoomEvent]:
        return plain(self.room.follow(change))

    def catch_up(
        self, snapshot: Snapshot, losses: int | None = None, *, patient: bool = False
    ) -> list[RoomEvent]:
        losses = self.numbering.losses if losses is None else losses
        return plain(self.room.catch_up(snapshot, losses, AT, patient=patient))

    def let_in(
        self, peer_id: str, *, unasked: bool = False, before: Member | None = None
    ) -> list[RoomEvent]:
        """Admit one of our peers; return the events."""
        overtaken = self.room.claim(peer_id, AT, unasked=unasked, before=before)
        events = self.room.join(member(peer_id, OURS), AT)
        assert self.room.own.keys() == {"me", peer_id}
        return plain([*events, *(told for event in overtaken for told in self.room.apply(event))])


def here_with(*members: Member, seq: int = 10) -> Here:
    """A room in step."""
    here = Here()
    here.catch_up(Snapshot(seq, members))
    assert here.in_step
    return here


def test_changes_wait_for_the_first_snapshot() -> None:
    here = Here()
    p, q = member("p"), member("q")
    assert here.follow(change(10, joined(p))) == []
    assert here.follow(change(11, joined(q))) == []
    assert not here.in_step
    assert here.catch_up(Snapshot(10, (p,))) == [joined(p), joined(q)]
    assert here.others == by_peer([p, q])
    assert here.in_step


def test_room_follows_consecutive_changes() -> None:
    here = here_with()
    p, live = member(), member(live=VIDEO)
    story: list[tuple[RoomEvent, list[Member]]] = [
        (joined(p), [p]),
        (went_live(live), [live]),
        (stopped(p), [p]),
        (renamed(member(name="Bea"), "Ann"), [member(name="Bea")]),
        (left(member(name="Bea")), []),
    ]
    for seq, (event, members) in enumerate(story, 11):
        assert here.follow(change(seq, event)) == [event]
        assert here.others == by_peer(members)
    assert here.numbering.seq == 15


def test_repeated_change_is_announced_once() -> None:
    here = here_with()
    p = member()
    assert here.follow(change(11, joined(p))) == [joined(p)]
    assert here.follow(change(11, joined(p))) == []
    assert here.follow(change(10, left(p))) == []
    assert here.in_step


def test_own_changes_are_not_announced_again() -> None:
    here = here_with()
    own = member("own", OURS)
    assert here.follow(change(11, joined(own), OURS)) == []
    assert here.follow(change(12, left(own), OURS)) == []
    assert here.others == {}
    assert here.numbering.seq == 12


def test_own_members_in_a_snapshot_are_not_announced() -> None:
    here = Here()
    snapshot = Snapshot(10, (member("own", OURS), member("p")))
    assert here.catch_up(snapshot) == [joined(member("p"))]


def test_gap_waits_for_a_snapshot() -> None:
    here = here_with()
    p, q, r = member("p"), member("q"), member("r")
    assert here.follow(change(12, joined(q))) == []
    assert not here.in_step
    assert here.follow(change(13, joined(r))) == []
    # The snapshot has the missing change, and the first of the two that wait.
    assert here.catch_up(Snapshot(12, (p, q))) == [
        joined(p),
        joined(q),
        joined(r),
    ]


def test_gap_after_a_snapshot_waits_for_another() -> None:
    here = Here()
    p, q = member("p"), member("q")
    here.follow(change(12, joined(q)))
    assert here.catch_up(Snapshot(10, (p,))) == [joined(p)]
    assert not here.in_step
    assert here.catch_up(Snapshot(12, (p, q))) == [joined(q)]
    assert here.in_step


def test_change_without_an_event_requests_a_snapshot() -> None:
    here = here_with()
    assert here.follow(change(11, None)) == []
    assert not here.in_step
    # An older snapshot is not enough: the change still waits.
    p = member("p")
    assert here.catch_up(Snapshot(10, ())) == []
    assert not here.in_step
    assert here.catch_up(Snapshot(11, (p,))) == [joined(p)]
    assert here.in_step


def test_second_snapshot_changes_nothing() -> None:
    here = Here()
    losses = here.numbering.losses
    p = member("p")
    here.catch_up(Snapshot(10, (p,)), losses)
    here.follow(change(11, left(p)))
    assert here.catch_up(Snapshot(10, (p,)), losses) == []
    assert here.others == {}


def test_two_names_of_one_user_are_told_once() -> None:
    here = here_with(member("p", user="u"), member("q", user="u"))
    p, q = member("p", user="u", name="Bea"), member("q", user="u", name="Cid")
    for seq, told in (11, [renamed(q, "Ann")]), (12, []):
        here.numbering.lose_step()
        assert here.catch_up(Snapshot(seq, (p, q))) == told
        assert here.others == by_peer([p, q])


def test_broadcast_does_not_start_again_because_its_user_was_renamed() -> None:
    """The name that the broadcast had of its own ends with the user's old one."""
    live = replace(VIDEO, username="DJ Ann")
    p = replace(member("p", live=VIDEO), live=live)
    here = here_with(p)
    here.numbering.lose_step()
    after = room.renamed(p, "Bea", p.avatar_url)
    assert here.catch_up(Snapshot(11, (after,))) == [renamed(after, "Ann")]
    assert here.others == by_peer([after])
    here.numbering.lose_step()
    after = replace(after, username="Cid", live=live)  # and it has started again
    told = [type(event) for event in here.catch_up(Snapshot(12, (after,)))]
    assert told == [ProfileChanged, WentLive]


def test_snapshot_sets_fields_that_are_not_told() -> None:
    here = here_with(replace(member(live=VIDEO), dialect="x", subject="x", session="x", wire=9))
    here.numbering.lose_step()
    assert here.catch_up(Snapshot(11, (member(live=VIDEO),))) == []
    assert here.others == by_peer([member(live=VIDEO)])


def test_snapshot_requested_before_losing_step_is_ignored() -> None:
    here = Here()
    asked = here.numbering.losses
    here.catch_up(Snapshot(10, ()), asked)
    p = member("p")
    assert here.follow(change(11, joined(p))) == [joined(p)]
    here.numbering.lose_step()
    assert here.catch_up(Snapshot(10, ()), asked) == []
    assert not here.in_step
    assert here.others == by_peer([p])
    assert here.catch_up(Snapshot(11, (p,))) == []
    assert here.in_step


def test_changes_from_before_an_outage_are_ignored() -> None:
    here = here_with(seq=1_000)
    p, q = member("p"), member("q")
    here.numbering.lose_step()
    asked = here.numbering.losses
    here.follow(change(1_002, joined(q)))
    here.numbering.start_over()
    assert here.catch_up(Snapshot(1_001, (p,)), asked) == []
    # The numbers of another Redis may be lower.
    assert here.catch_up(Snapshot(5, ())) == []
    assert here.follow(change(6, joined(p))) == [joined(p)]
    assert here.in_step


def test_members_of_a_replica_that_may_return_are_kept() -> None:
    p, q, r = member("p", "third"), member("q"), member("r", "third")
    here = here_with(p, q, r)
    here.numbering.start_over()
    # The replica that is back has lost a peer; the other is missing, except one peer that moved
    # here.
    s = member("s")
    snapshot = Snapshot(1, (s, member("r", OURS)))
    events = here.catch_up(snapshot, patient=True)
    assert events == [left(q), joined(s)]
    assert here.others == by_peer([p, r, s])
    assert here.let_in("r") == []
    here.numbering.lose_step()
    assert here.catch_up(snapshot) == [left(p)]


def test_overflow_of_waiting_changes_is_repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presence, "MAX_WAITING", 3)
    here = Here()
    peers = [member(f"p{n}") for n in range(5)]
    for seq, peer in enumerate(peers, 11):
        here.follow(change(seq, joined(peer)))
    # Too old for the remaining waiting changes.
    assert here.catch_up(Snapshot(11, (peers[0],))) == [joined(peers[0])]
    assert not here.in_step
    told = here.catch_up(Snapshot(14, tuple(peers[:4])))
    assert told == [joined(peer) for peer in peers[1:]]
    assert here.in_step


# A peer id that moves between replicas


def test_another_replica_takes_over_a_peer() -> None:
    here = here_with(member("p", live=VIDEO))
    newer = member("p", "third")
    ended = stopped(member("p"), StopCause.REPLACED)
    assert here.follow(change(11, joined(newer), "third")) == [ended]
    assert here.others == by_peer([newer])
    # The old replica no longer owns the peer, so it announces nothing about it.
    assert here.follow(change(12, left(newer), "third")) == [left(newer)]


def test_another_replica_takes_over_our_peer() -> None:
    here = here_with()
    here.follow(change(11, joined(member("p", OURS)), OURS))
    assert here.let_in("p") == [joined(member("p", OURS))]
    theirs = member("p")
    assert here.follow(change(12, joined(theirs))) == []
    assert here.others == by_peer([theirs])
    assert here.room.own.keys() == {"me"}


@pytest.mark.parametrize(
    ("written", "told"),
    [
        pytest.param({OURS}, [], id="they have not written theirs yet"),
        pytest.param({OURS, THEIRS}, [left(member("p"))], id="they have, but not this one"),
    ],
)
def test_deleted_room_is_restored(written: set[str], told: list[RoomEvent]) -> None:
    here = here_with(member("p"), member("q"))
    here.numbering.lose_step()
    # A newly joined member does not show that the others were written.
    snapshot = Snapshot(12, (member("q"),), frozenset(written))
    assert here.catch_up(snapshot) == told


def test_room_that_is_deleted_again_is_restored() -> None:
    """A snapshot taken before anybody has noticed still lists who had written the room before."""
    here = here_with(member("p"), member("q", "third"))
    here.numbering.lose_step()
    snapshot = Snapshot(12, (member("q", "third"),), frozenset({OURS, THEIRS, "third"}))
    assert here.catch_up(snapshot) == []
    assert here.others.keys() == {"p", "q"}
    here.numbering.lose_step()
    assert here.catch_up(replace(snapshot, written=None)) == [left(member("p"))]


def test_we_take_over_a_peer() -> None:
    here = here_with(member("p"))
    assert here.follow(change(11, joined(member("p", OURS)), OURS)) == []
    # The older connection stays until the new one is admitted.
    assert set(here.others) == {"p"}
    assert here.let_in("p") == []
    assert here.others == {}


def test_we_take_over_a_peer_while_a_snapshot_is_pending() -> None:
    here = here_with(member("p"))
    here.numbering.lose_step()
    snapshot = Snapshot(12, (member("p", OURS),))
    assert here.catch_up(snapshot) == []
    assert set(here.others) == {"p"}
    assert here.let_in("p") == []
    assert here.others == {}


def test_we_take_over_a_peer_and_lose_it_before_admission() -> None:
    here = here_with(member("p"))
    here.follow(change(11, joined(member("p", OURS)), OURS))
    theirs = member("p", live=VIDEO)
    here.follow(change(12, joined(theirs)))
    here.follow(change(13, went_live(theirs)))
    assert here.let_in("p") == [stopped(member("p"), StopCause.REPLACED), went_live(theirs)]
    assert here.others == by_peer([theirs])


def test_we_take_over_a_peer_of_a_room_that_is_deleted_before_admission() -> None:
    """Its last connection, which is kept while its replica is awaited, is not a newer one."""
    theirs = member("p", live=VIDEO)
    here = here_with(theirs)
    here.follow(change(11, joined(member("p", OURS)), OURS))
    here.numbering.lose_step()
    assert here.catch_up(Snapshot(12, (member("me", OURS),)), patient=True) == []
    assert here.let_in("p", before=theirs) == [stopped(member("p"), StopCause.REPLACED)]
    assert here.room.own.keys() == {"me", "p"}


def test_we_take_over_a_peer_that_leaves_before_admission() -> None:
    here = here_with(member("p", live=VIDEO))
    own = member("p", OURS)
    assert here.follow(change(11, joined(own), OURS)) == []
    assert here.follow(change(12, left(own), OURS)) == [
        stopped(member("p"), StopCause.LEFT),
        left(member("p")),
    ]
    assert here.others == {}


def test_peer_admitted_without_redis_is_kept() -> None:
    here = here_with(member("p"), member("q"))
    assert here.let_in("p", unasked=True) == []
    assert here.others == by_peer([member("q")])
    # Changes to it elsewhere are ignored until a snapshot shows who owns it.
    assert here.follow(change(11, left(member("p")))) == []
    snapshot = Snapshot(12, (member("p", OURS), member("q")))
    assert here.catch_up(snapshot) == []
    assert here.others == by_peer([member("q")])


def test_peer_admitted_without_redis_is_given_back() -> None:
    here = here_with(member("p"))
    assert here.let_in("p", unasked=True) == []
    snapshot = Snapshot(11, (member("p"),))
    assert here.catch_up(snapshot) == []
    assert here.others == by_peer([member("p")])
    assert here.room.own.keys() == {"me"}


def test_peer_admitted_without_redis_is_not_taken_for_one_that_was_there_before() -> None:
    """Its predecessor left, but that event was lost. Nobody deleted its record."""
    here = here_with()
    assert here.follow(change(11, joined(member("p", OURS)), OURS)) == []
    here.let_in("p")
    here.room.leave("p", AT)
    here.let_in("p", unasked=True)
    assert "p" not in here.room.entered
    # A snapshot that has the record again settles it.
    here.catch_up(Snapshot(14, (member("p", OURS),)))
    assert here.room.entered == {"p"}


# Junk: anybody may publish changes and write records


def test_forged_join_does_not_make_a_peer_live() -> None:
    here = here_with(member("p", live=VIDEO))
    again = Joined(ROOM, member("p", live=VIDEO), first=False, peers=0, at=AT)
    assert here.follow(change(11, again)) == [stopped(member("p"), StopCause.REPLACED)]
    here.numbering.lose_step()
    assert here.catch_up(Snapshot(11, (member("p", live=VIDEO),))) == [
        went_live(member("p", live=VIDEO))
    ]


@pytest.mark.parametrize("event", [went_live(member()), Routed(ROOM, member(), AT)])
def test_broadcast_events_without_a_broadcast_are_not_told(event: RoomEvent) -> None:
    assert here_with(member()).follow(change(11, event)) == []


FORGED: list[Callable[[Member], RoomEvent]] = [
    lambda who: Joined(ROOM, who, first=False, peers=0, at=AT),
    lambda who: Left(ROOM, who, last=False, peers=0, at=AT),
    lambda who: StoppedLive(ROOM, who, last=False, cause=StopCause.STOPPED, at=AT),
    lambda who: Routed(ROOM, who, AT),
    lambda who: renamed(who, "Ann"),
    went_live,
    away_or_back,
]
someone = st.builds(
    member,
    st.sampled_from(["p", "q", "me"]),
    st.sampled_from(OTHERS),
    user=st.sampled_from(["u", "v"]),
    name=st.sampled_from(["Ann", "Bea"]),
    live=st.sampled_from([None, VIDEO, AUDIO, VIDEO_AGAIN, EXCLUSIVE]),
    joined_at=st.sampled_from(["", LATER]),
    away=st.none() | st.booleans(),
)
#: A change reports something about a member, or moves one. Or somebody writes these records.
forgeries = st.tuples(st.none() | st.sampled_from(FORGED), someone)
records = st.lists(someone, max_size=3)


@settings(max_examples=500)
@given(st.lists(forgeries | records, max_size=8))
def test_peers_are_told_the_room_state_despite_forgeries(
    junk: list[tuple[Callable[[Member], RoomEvent] | None, Member] | list[Member]],
) -> None:
    room, audience = here_with().room, Audience()
    audience.begin(room.members.values())
    for seq, each in enumerate(junk, 11):
        if isinstance(each, list):
            room.numbering.lose_step()
            events = room.catch_up(Snapshot(seq, tuple(each)), room.numbering.losses, AT)
        else:
            forge, who = each
            event, moved = (forge(who), None) if forge else (None, who)
            events = room.follow(Change(seq, who.replica, event, moved))
        audience.hear(events)
        if not room.own:  # the last of ours was taken over
            break
        told = {peer_id: bool(live) for peer_id, live in audience.live.items()}
        assert told == {peer_id: bool(who.live) for peer_id, who in room.members.items()}
        assert audience.away == {peer_id for peer_id, who in room.members.items() if who.away}


# Random sequences


PEERS = {"p": "u", "q": "u", "r": "v"}
peers = st.sampled_from(sorted(PEERS))
others = st.sampled_from(OTHERS)
media: st.SearchStrategy[MediaType] = st.sampled_from(["audio", "video"])
#: An index or a count, modulo the number of choices.
number = st.integers(0, 9)


class Trouble(Enum):
    """What goes wrong; they are separate, since repairs of one kind may hide other mistakes."""

    NONE = auto()
    #: Changes are lost, repeated or reordered.
    LOSSES = auto()
    #: Connections and replicas fail too.
    FAILURES = auto()


class Presence(RuleBasedStateMachine):
    """Three replicas, one of them ours, in one room.

    Changes may arrive late, twice, in the wrong order or never; snapshots are requested and
    answered at any time. What our peers receive is checked at once; in the end the room is the
    same for everybody.
    """

    def __init__(self) -> None:
        super().__init__()
        self.directory = Directory()
        self.ours = OurReplica(self.directory)
        self.names = dict.fromkeys(PEERS.values(), "name 0")
        self.count = 0
        self.trouble = Trouble.NONE
        #: Replicas that have not reconnected to Redis, and their members.
        self.away: dict[str, list[Member]] = {}

    @initialize(trouble=st.sampled_from(Trouble))
    def begin(self, trouble: Trouble) -> None:
        self.trouble = trouble
        self.we_join("p")
        self.time_passes(1, 1, 1)
        self.one_is_let_in(0)

    @property
    def losing(self) -> bool:
        return self.trouble is not Trouble.NONE

    @property
    def failing(self) -> bool:
        return self.trouble is Trouble.FAILURES

    def next(self) -> int:
        self.count += 1
        return self.count

    def new(self, replica: str, peer_id: str, live: Live | None = None) -> Member:
        user = PEERS[peer_id]
        return member(
            peer_id,
            replica,
            user=user,
            name=self.names[user],
            live=live,
            joined_at=f"{self.next():09}",
        )

    def live(self, media_type: MediaType, before: Live | None = None) -> Live:
        return Live(media_type, before.started_at if before else f"{self.next():09}")

    # On other replicas

    @property
    def theirs(self) -> list[Member]:
        return [who for who in self.directory.members.values() if who.replica != OURS]

    @rule(replica=others, peer_id=peers)
    def they_join(self, replica: str, peer_id: str) -> None:
        self.they_find_redis_again(replica)
        self.directory.join(self.new(replica, peer_id))

    @precondition(lambda self: self.theirs)
    @rule(nth=number)
    def they_leave(self, nth: int) -> None:
        who = self.theirs[nth % len(self.theirs)]
        self.they_stop(who)
        self.directory.leave(replace(who, live=None))

    @precondition(lambda self: self.theirs)
    @rule(nth=number, media_type=media)
    def they_go_live_or_stop(self, nth: int, media_type: MediaType) -> None:
        who = self.theirs[nth % len(self.theirs)]
        if who.live and who.live.media_type == media_type:
            self.they_stop(who)
        else:
            who = replace(who, live=self.live(media_type, who.live))
            self.directory.change(who.replica, [who], went_live(who))

    def they_stop(self, who: Member) -> None:
        if who.live:
            who = replace(who, live=None)
            self.directory.change(who.replica, [who], stopped(who))

    @precondition(lambda self: self.theirs)
    @rule(nth=number)
    def they_go_away_or_come_back(self, nth: int) -> None:
        who = self.theirs[nth % len(self.theirs)]
        who = replace(who, away=not who.away)
        self.directory.change(who.replica, [who], away_or_back(who))

    @precondition(lambda self: self.theirs)
    @rule(nth=number)
    def they_rename(self, nth: int) -> None:
        who = self.theirs[nth % len(self.theirs)]
        name = self.names[who.user_id] = f"name {self.next()}"
        event = renamed(replace(who, username=name), who.username)
        self.directory.change(who.replica, self.named(who.replica, who.user_id), event)

    def named(self, replica: str, user_id: str) -> list[Member]:
        return [
            replace(who, username=self.names[user_id])
            for who in self.directory.owned(replica)
            if who.user_id == user_id
        ]

    @rule(replica=others)
    def they_hear_of_names(self, replica: str) -> None:
        """Another replica renamed a user: this replica writes its peers again."""
        for user_id in self.names:
            members = self.named(replica, user_id)
            if any(who != self.directory.members[who.peer_id] for who in members):
                self.directory.change(replica, members, None)

    @precondition(lambda self: self.failing)
    @rule(
        replica=others,
        now=st.dictionaries(peers, st.sampled_from(["new", "live", "same"])),
    )
    def they_come_back(self, replica: str, now: dict[str, str]) -> None:
        """After an outage, during which changes were not announced."""
        self.they_find_redis_again(replica)
        members = []
        for peer_id, how in now.items():
            who = self.directory.members.get(peer_id)
            if how == "same" and who is not None and who.replica == replica:
                members.append(who)
            elif how != "same":
                live = self.live("video") if how == "live" else None
                members.append(self.new(replica, peer_id, live))
        self.directory.restore(replica, members)

    @precondition(lambda self: self.failing)
    @rule(replica=st.sampled_from([OURS, *OTHERS]))
    def one_is_reaped(self, replica: str) -> None:
        self.directory.reap(replica)
        if replica == OURS:
            self.ours.stale = True

    # On ours

    @rule(peer_id=peers)
    def we_join(self, peer_id: str) -> None:
        self.ours.join(self.new(OURS, peer_id))

    @precondition(lambda self: self.ours.room.own)
    @rule(nth=number)
    def we_leave(self, nth: int) -> None:
        self.ours.leave(self.one_of_ours(nth))

    def one_of_ours(self, nth: int) -> str:
        return sorted(self.ours.room.own)[nth % len(self.ours.room.own)]

    @precondition(lambda self: self.ours.room.own)
    @rule(nth=number, media_type=media)
    def we_go_live(self, nth: int, media_type: MediaType) -> None:
        self.ours.go_live(self.one_of_ours(nth), self.live(media_type))

    @precondition(lambda self: self.ours.room.own)
    @rule(nth=number)
    def we_stop(self, nth: int) -> None:
        self.ours.stop_live(self.one_of_ours(nth))

    @precondition(lambda self: self.ours.room.own)
    @rule(nth=number)
    def we_go_away_or_come_back(self, nth: int) -> None:
        self.ours.go_away_or_come_back(self.one_of_ours(nth))

    @precondition(lambda self: self.ours.room.own)
    @rule(nth=number)
    def we_rename(self, nth: int) -> None:
        peer_id = self.one_of_ours(nth)
        name = self.names[PEERS[peer_id]] = f"name {self.next()}"
        self.ours.change_name(peer_id, name)

    # In transit

    @rule(commands=number, answers=number, changes=number)
    def time_passes(self, commands: int, answers: int, changes: int) -> None:
        ours, published = self.ours, self.directory.published
        if ours.stale and not ours.restoring:
            ours.restore()
        for _ in range(min(commands, len(ours.commands))):
            ours.run_command()
        for _ in range(min(answers, len(ours.answers))):
            ours.read_answer()
        for _ in range(min(changes, len(published))):
            ours.take(published.pop(0))

    @rule()
    def redis_is_quick(self) -> None:
        self.time_passes(99, 99, 0)

    @rule(nth=number)
    def one_is_let_in(self, nth: int) -> None:
        ready = [entering for entering in self.ours.entering if self.ours.may_admit(entering)]
        if ready:
            self.ours.admit(ready[nth % len(ready)])

    @precondition(lambda self: self.ours.entering)
    @rule(nth=number)
    def one_goes_before_it_is_let_in(self, nth: int) -> None:
        entering = self.ours.entering
        self.ours.abandon(entering[nth % len(entering)])

    @precondition(lambda self: self.losing and self.directory.published)
    @rule(nth=number)
    def a_change_comes_twice(self, nth: int) -> None:
        published = self.directory.published
        self.ours.take(published[nth % len(published)])

    @precondition(lambda self: self.losing and self.directory.published)
    @rule(nth=number)
    def a_change_overtakes(self, nth: int) -> None:
        published = self.directory.published
        self.ours.take(published.pop(nth % len(published)))

    @precondition(lambda self: self.losing and self.directory.published)
    @rule(nth=number)
    def a_change_is_lost(self, nth: int) -> None:
        published = self.directory.published
        published.pop(nth % len(published))

    @precondition(lambda self: self.failing and self.ours.entering)
    @rule(nth=number)
    def one_waits_too_long(self, nth: int) -> None:
        entering = self.ours.entering
        self.ours.give_up_waiting(entering[nth % len(entering)])

    @precondition(lambda self: self.failing and not self.ours.restoring)
    @rule()
    def we_restore(self) -> None:
        self.ours.restore()

    @precondition(lambda self: self.failing)
    @rule()
    def we_lose_the_connection(self) -> None:
        self.ours.lose_connection()

    @precondition(lambda self: self.failing)
    @rule(back=st.booleans())
    def redis_restarts_empty(self, *, back: bool) -> None:
        """Maybe on another machine, whose clock is behind."""
        directory = self.directory
        for replica in OTHERS:
            self.away.setdefault(replica, directory.owned(replica))
        directory.ended |= {who.joined_at for who in directory.owned(OURS)}
        directory.published.clear()
        directory.members.clear()
        directory.seq = 0
        directory.clock = 1_000 if back else directory.clock
        self.ours.lose_connection()
        self.ours.patient = True

    @rule(replica=others)
    def they_find_redis_again(self, replica: str) -> None:
        members = self.away.pop(replica, [])
        if members:
            self.directory.restore(replica, members)
            kept = {who.joined_at for who in self.directory.owned(replica)}
            self.directory.ended |= {who.joined_at for who in members} - kept

    @rule(replica=others)
    def they_are_gone_for_good(self, replica: str) -> None:
        self.directory.ended |= {who.joined_at for who in self.away.pop(replica, [])}

    @precondition(lambda self: self.ours.patient and not self.away)
    @rule()
    def we_wait_no_longer(self) -> None:
        self.ours.end_patience()

    # Invariants

    @invariant()
    def room_matches_received_events(self) -> None:
        room = self.ours.room
        if room.own:
            assert {p: m.live for p, m in room.members.items()} == self.ours.audience.live
            away = {peer_id for peer_id, who in room.members.items() if who.away}
            assert away == self.ours.audience.away

    @invariant()
    def own_members_belong_to_our_replica(self) -> None:
        room = self.ours.room
        assert room.own == {p: m for p, m in room.members.items() if m.replica == OURS}

    def teardown(self) -> None:
        """From here on nothing fails any more: all must agree."""
        # The next change shows what was lost.
        self.they_find_redis_again("other")
        self.they_are_gone_for_good("third")
        self.directory.join(member("last", "other"))
        if self.ours.patient:
            self.ours.end_patience()
        for _ in range(10):
            self.settle()
            if self.ours.room.numbering.in_step and not self.ours.stale:
                break
            self.ours.restore()
        else:
            raise AssertionError("never in step")
        ours, directory = self.ours, self.directory
        assert not ours.entering
        assert essence(ours.room.own) == essence(by_peer(directory.owned(OURS)))
        assert essence(ours.room.members) == essence(directory.members)

    def settle(self) -> None:
        ours = self.ours
        while True:
            for replica in OTHERS:
                self.they_hear_of_names(replica)
            if not (ours.commands or ours.answers or self.directory.published):
                break
            while ours.commands or ours.answers or self.directory.published:
                self.time_passes(99, 99, 99)
            while ready := [entering for entering in ours.entering if ours.may_admit(entering)]:
                ours.admit(ready[0])
        if self.losing and ours.room.numbering.in_step and not ours.stale:
            for entering in list(ours.entering):
                ours.give_up_waiting(entering)


def essence(
    members: dict[str, Member],
) -> dict[str, tuple[str, str, str, Live | None, bool | None]]:
    return {p: (m.replica, m.user_id, m.username, m.live, m.away) for p, m in members.items()}


TestPresence = Presence.TestCase
TestPresence.settings = settings(
    max_examples=300, stateful_step_count=50, report_multiple_bugs=False
)
