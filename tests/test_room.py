"""Room: the events of each change, and indexes that always agree with the members."""

from collections.abc import Iterable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from tests.members import AT, member
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
from trio_signal.messages.identity import Live, MediaType, Member
from trio_signal.room import Room

LATER = "2026-11-20T10:15:31.456Z"
VIDEO = Live("video", AT)
AUDIO = Live("audio", AT)

ANN = member("ann")
BOB_1 = member("bob-1", "bob")
BOB_2 = member("bob-2", "bob")
CARL = member("carl")


def room_of(*members: Member) -> Room:
    room = Room("r")
    for each in members:
        room.join(each, AT)
    return room


def on_air(who: Member, live: Live = VIDEO) -> Member:
    return replace(who, live=live)


# Joining and leaving


def test_new_room_is_empty() -> None:
    room = Room("r")
    assert (room.id, len(room), room.users, room.viewers, room.live) == ("r", 0, 0, 0, ())
    assert room.broadcaster_for("mesh") is None
    assert room.peer_of("ann", but="") is None


def test_peer_that_is_taken_over_while_away_is_back() -> None:
    room, heir = room_of(ANN), replace(ANN, joined_at=LATER)
    assert room.set_away(ANN, AT, away=True) == [WentAway("r", replace(ANN, away=True), AT)]
    assert room.join(heir, LATER) == [CameBack("r", heir, LATER)]
    assert room.members["ann"] == heir


def test_who_is_away_is_told_once() -> None:
    room, away = room_of(ANN), replace(ANN, away=True)
    assert room.set_away(ANN, AT, away=False) == []
    assert room.set_away(ANN, AT, away=True) == [WentAway("r", away, AT)]
    assert room.set_away(ANN, AT, away=True) == []
    assert room.set_away(ANN, LATER, away=False) == [CameBack("r", ANN, LATER)]
    assert room.set_away(CARL, AT, away=True) == []  # is not in the room


def test_what_is_said_of_an_earlier_connection_is_ignored() -> None:
    heir = replace(ANN, joined_at=LATER)
    room = room_of(heir)
    for kind, away in ((WentAway, True), (CameBack, False)):
        assert room.apply(kind("r", ANN, LATER)) == []
        told = replace(heir, away=away)
        assert room.apply(kind("r", told, LATER)) == [kind("r", told, LATER)]


def test_others_do_not_decide_whether_our_peers_are_away() -> None:
    room = Room("r", "here")
    room.join(replace(ANN, replica="here"), AT)
    assert room.apply(WentAway("r", replace(ANN, replica="here", away=True), LATER)) == []
    assert not room.members["ann"].away


def test_join_reports_the_new_peer_count() -> None:
    room = Room("r")
    assert room.join(ANN, AT) == [Joined("r", ANN, first=True, peers=1, at=AT)]
    assert room.join(BOB_1, AT) == [Joined("r", BOB_1, first=True, peers=2, at=AT)]
    assert room.join(BOB_2, LATER) == [Joined("r", BOB_2, first=False, peers=3, at=LATER)]
    assert list(room.members) == ["ann", "bob-1", "bob-2"]
    assert room.users == 2


def test_leave_reports_the_new_peer_count() -> None:
    room = room_of(ANN, BOB_1, BOB_2)
    assert room.leave("bob-1", AT) == [Left("r", BOB_1, last=False, peers=2, at=AT)]
    assert room.leave("bob-2", LATER) == [Left("r", BOB_2, last=True, peers=1, at=LATER)]
    assert list(room.members) == ["ann"]
    assert room.users == 1


def test_returning_user_is_first_again() -> None:
    room = room_of(ANN)
    room.leave("ann", AT)
    assert room.join(ANN, LATER) == [Joined("r", ANN, first=True, peers=1, at=LATER)]


def test_leaving_live_peer_stops_first() -> None:
    room = room_of(ANN, BOB_1)
    room.go_live("bob-1", VIDEO, AT)
    assert room.leave("bob-1", LATER) == [
        StoppedLive("r", BOB_1, last=True, cause=StopCause.LEFT, at=LATER),
        Left("r", BOB_1, last=True, peers=1, at=LATER),
    ]


def test_join_with_a_known_id_replaces_silently() -> None:
    room = room_of(ANN, BOB_1)
    newer = replace(ANN, replica="elsewhere", username="Anna")
    assert room.join(newer, LATER) == []
    assert room.members["ann"] == newer
    assert (len(room), room.users) == (2, 2)


def test_replacing_a_peer_ends_its_broadcast() -> None:
    room = room_of(ANN, BOB_1)
    room.go_live("ann", VIDEO, AT)
    assert room.join(replace(ANN, replica="elsewhere"), LATER) == [
        StoppedLive("r", ANN, last=True, cause=StopCause.REPLACED, at=LATER)
    ]
    assert room.live == ()


def test_replaced_peer_may_belong_to_another_user() -> None:
    room = room_of(member("p", "ann"), member("q", "ann"))
    assert room.join(member("p", "bob"), AT) == []
    assert room.users == 2
    assert room.leave("q", AT) == [Left("r", member("q", "ann"), last=True, peers=1, at=AT)]
    assert room.leave("p", AT) == [Left("r", member("p", "bob"), last=True, peers=0, at=AT)]


def test_moving_changes_nothing_that_peers_know() -> None:
    room = Room("r", "here")
    room.restore([on_air(member("p", "ann")), member("q", "ann")])
    room.move(replace(member("p", "bob"), replica="elsewhere", session="tag"))
    moved = replace(on_air(member("p", "ann")), replica="elsewhere", session="tag")
    assert room.members["p"] == moved
    assert room.live == (moved,)
    assert room.users == 1


# Broadcasting


def test_going_live_is_reported() -> None:
    room = room_of(ANN, BOB_1)
    assert room.go_live("ann", VIDEO, AT) == [
        WentLive("r", on_air(ANN), News.FIRST, exclusive=False, at=AT)
    ]
    assert room.live == (on_air(ANN),)
    assert room.members["ann"] == on_air(ANN)
    assert room.viewers == 1


def test_going_live_with_the_same_media_is_reported_as_again() -> None:
    room = room_of(ANN)
    room.go_live("ann", VIDEO, AT)
    assert room.go_live("ann", Live("video", LATER), LATER, exclusive=True) == [
        WentLive("r", on_air(ANN), News.AGAIN, exclusive=True, at=LATER)
    ]


def test_other_media_are_reported_and_keep_the_start() -> None:
    room = room_of(ANN)
    room.go_live("ann", VIDEO, AT)
    assert room.go_live("ann", Live("audio", LATER), LATER) == [
        WentLive("r", on_air(ANN, AUDIO), News.CHANGED, exclusive=False, at=LATER)
    ]
    assert room.live == (on_air(ANN, AUDIO),)


def test_second_live_peer_of_a_user_is_another() -> None:
    room = room_of(BOB_1, ANN, BOB_2)
    room.go_live("ann", VIDEO, AT)
    (first,) = room.go_live("bob-2", AUDIO, AT)
    (another,) = room.go_live("bob-1", VIDEO, AT)
    assert isinstance(first, WentLive)
    assert isinstance(another, WentLive)
    assert (first.news, another.news) == (News.FIRST, News.ANOTHER)


def test_stopping_reports_whether_the_user_is_still_live() -> None:
    room = room_of(BOB_1, BOB_2)
    room.go_live("bob-1", VIDEO, AT)
    room.go_live("bob-2", VIDEO, AT)
    assert room.stop_live("bob-1", LATER) == [
        StoppedLive("r", BOB_1, last=False, cause=StopCause.STOPPED, at=LATER)
    ]
    assert room.stop_live("bob-2", LATER, StopCause.REPLACED) == [
        StoppedLive("r", BOB_2, last=True, cause=StopCause.REPLACED, at=LATER)
    ]
    assert room.live == ()


def test_broadcaster_is_the_last_peer_to_go_live() -> None:
    room = room_of(ANN, BOB_1, CARL)
    for peer_id in ("carl", "ann"):
        room.go_live(peer_id, VIDEO, AT)
    assert room.broadcaster_for("mesh") == on_air(ANN)
    room.go_live("carl", AUDIO, LATER)  # it is live already
    assert room.broadcaster_for("mesh") == on_air(ANN)
    room.stop_live("ann", LATER)
    assert room.broadcaster_for("mesh") == on_air(CARL, AUDIO)


def test_broadcaster_of_the_same_dialect_is_preferred() -> None:
    caster = member("caster", dialect="stream")
    room = room_of(caster, ANN, CARL)
    for peer_id in ("caster", "carl", "ann"):
        room.go_live(peer_id, VIDEO, AT)
    assert room.broadcaster_for("stream") == on_air(caster)
    assert room.broadcaster_for("live") == on_air(ANN)
    room.stop_live("caster", LATER)
    assert room.broadcaster_for("stream") == on_air(ANN)


def test_absent_peers_change_nothing() -> None:
    room = room_of(ANN)
    assert room.leave("bob", AT) == []
    assert room.go_live("bob", VIDEO, AT) == []
    assert room.stop_live("bob", AT) == []
    assert room.stop_live("ann", AT) == []
    assert room.change_profile("bob", ChangeProfile("r", "profile", "Robert"), AT) == []
    assert room.members == {"ann": ANN}


def test_restored_room_keeps_join_and_live_order() -> None:
    members = (
        on_air(ANN, Live("audio", "2026-11-20T10:15:30.900Z")),
        BOB_1,
        on_air(BOB_2, Live("video", "2026-11-20T10:15:30.100Z")),
        on_air(CARL, Live("video", "2026-11-20T10:15:30.500Z")),
    )
    room = Room("r")
    room.restore(members)
    assert tuple(room.members.values()) == members
    assert [m.peer_id for m in room.live] == ["bob-2", "carl", "ann"]
    assert room.broadcaster_for("mesh") == members[0]
    assert (room.users, room.viewers) == (3, 1)


# Targets of signals to a user


@pytest.mark.parametrize(
    ("live", "but", "found"),
    [
        pytest.param([], "ann", "bob-3", id="the last that joined"),
        pytest.param(["bob-1"], "ann", "bob-1", id="the live one"),
        pytest.param(["bob-3", "bob-1"], "ann", "bob-3", id="of the live ones the last"),
        pytest.param([], "bob-3", "bob-2", id="never the sender"),
        pytest.param(["bob-3"], "bob-3", "bob-2", id="never the sender, also if it is live"),
    ],
)
def test_one_peer_of_a_user_receives_signals(live: list[str], but: str, found: str) -> None:
    room = room_of(BOB_1, ANN, BOB_2, member("bob-3", "bob"))
    for peer_id in live:
        room.go_live(peer_id, VIDEO, AT)
    peer = room.peer_of("bob", but=but)
    assert peer is not None
    assert peer.peer_id == found


def test_user_with_one_peer_cannot_signal_itself() -> None:
    assert room_of(ANN, BOB_1).peer_of("ann", but="ann") is None


# Profiles


def test_new_name_applies_to_all_peers_of_the_user() -> None:
    room = room_of(BOB_1, ANN, BOB_2)
    room.go_live("bob-2", VIDEO, AT)
    change = ChangeProfile("r", "profile_updated", "Robert", "pic", "Bob", "bob@example.com", "hi")
    renamed = replace(BOB_1, username="Robert", avatar_url="pic")
    assert room.change_profile("bob-1", change, LATER) == [
        ProfileChanged("r", renamed, "profile_updated", "Bob", "bob@example.com", "hi", LATER)
    ]
    assert {(m.username, m.avatar_url) for m in room.members.values()} == {
        ("Robert", "pic"),
        ("Ann", None),
    }
    assert room.live == (on_air(replace(BOB_2, username="Robert", avatar_url="pic")),)
    assert list(room.members) == ["bob-1", "ann", "bob-2"]


@pytest.mark.parametrize(
    ("change", "username", "avatar_url"),
    [
        (ChangeProfile("r", "t"), "Ann", "old"),
        (ChangeProfile("r", "t", username=""), "Ann", "old"),
        (ChangeProfile("r", "t", username="Anna"), "Anna", "old"),
        (ChangeProfile("r", "t", avatar_url="new"), "Ann", "new"),
        (ChangeProfile("r", "t", avatar_url=""), "Ann", ""),
    ],
)
def test_missing_profile_fields_stay_unchanged(
    change: ChangeProfile, username: str, avatar_url: str
) -> None:
    room = room_of(member("ann", avatar_url="old"))
    room.change_profile("ann", change, AT)
    assert room.members["ann"] == member("ann", username=username, avatar_url=avatar_url)


def test_remote_profile_change_has_the_same_effect() -> None:
    here, there = room_of(BOB_1, BOB_2), room_of(BOB_1, BOB_2)
    (event,) = here.change_profile("bob-1", ChangeProfile("r", "t", "Robert"), AT)
    assert isinstance(event, ProfileChanged)
    there.apply_profile(event)
    assert there.members == here.members


def test_profile_change_of_an_absent_user_changes_nothing() -> None:
    room = room_of(ANN)
    room.apply_profile(ProfileChanged("r", BOB_1, "t", None, None, None, AT))
    assert room.members == {"ann": ANN}
    assert room.users == 1


# Random sequences

PEERS = {"ann-1": "ann", "ann-2": "ann", "ann-3": "ann", "bob-1": "bob", "bob-2": "bob", "c": "c"}
peers = st.sampled_from(sorted(PEERS))
media = st.sampled_from(("audio", "video"))


class AnyRoom(RuleBasedStateMachine):
    """A room and a model of it: who is here and who is live, both in order."""

    def __init__(self) -> None:
        super().__init__()
        self.room = Room("r")
        self.here: list[str] = []
        self.live: dict[str, MediaType] = {}
        self.replica = 0

    def others(self, peer_id: str, of: Iterable[str]) -> list[str]:
        """Other peers of the same user."""
        return [each for each in of if PEERS[each] == PEERS[peer_id] and each != peer_id]

    def stopped(self, peer_id: str, cause: StopCause) -> list[RoomEvent]:
        """The events when this peer's broadcast ends, if it has one."""
        if self.live.pop(peer_id, None) is None:
            return []
        last = not self.others(peer_id, self.live)
        who = replace(self.room.members[peer_id], live=None)
        return [StoppedLive("r", who, last, cause, AT)]

    @rule(peer_id=peers)
    def join(self, peer_id: str) -> None:
        self.replica += 1
        who = member(peer_id, PEERS[peer_id], replica=str(self.replica))
        told: list[RoomEvent]
        if peer_id in self.here:
            told = self.stopped(peer_id, StopCause.REPLACED)
        else:
            first = not self.others(peer_id, self.here)
            self.here.append(peer_id)
            told = [Joined("r", who, first, len(self.here), AT)]
        assert self.room.join(who, AT) == told
        assert self.room.members[peer_id] == who

    @rule(peer_id=peers)
    def leave(self, peer_id: str) -> None:
        told: list[RoomEvent] = []
        if peer_id in self.here:
            who = replace(self.room.members[peer_id], live=None)
            told = self.stopped(peer_id, StopCause.LEFT)
            self.here.remove(peer_id)
            last = not self.others(peer_id, self.here)
            told.append(Left("r", who, last, len(self.here), AT))
        assert self.room.leave(peer_id, AT) == told

    @rule(peer_id=peers, media_type=media, exclusive=st.booleans())
    def go_live(self, peer_id: str, media_type: MediaType, exclusive: bool) -> None:
        told: list[RoomEvent] = []
        if peer_id in self.here:
            news = News.ANOTHER if self.others(peer_id, self.live) else News.FIRST
            if peer_id in self.live:
                news = News.AGAIN if self.live[peer_id] == media_type else News.CHANGED
            self.live[peer_id] = media_type
            who = replace(self.room.members[peer_id], live=Live(media_type, AT))
            told = [WentLive("r", who, news, exclusive, AT)]
        assert self.room.go_live(peer_id, Live(media_type, AT), AT, exclusive=exclusive) == told

    @rule(peer_id=peers)
    def stop_live(self, peer_id: str) -> None:
        told = self.stopped(peer_id, StopCause.STOPPED)
        assert self.room.stop_live(peer_id, AT) == told

    @rule(peer_id=peers, username=st.sampled_from(("", "New", "Newer")))
    def change_profile(self, peer_id: str, username: str) -> None:
        expected = dict(self.room.members)
        told = self.room.change_profile(peer_id, ChangeProfile("r", "t", username), AT)
        assert len(told) == (peer_id in self.here)
        if told:
            username = username or expected[peer_id].username
            for each in (peer_id, *self.others(peer_id, self.here)):
                expected[each] = replace(expected[each], username=username)
        assert self.room.members == expected

    @invariant()
    def members_are_in_join_order(self) -> None:
        assert list(self.room.members) == self.here
        assert len(self.room) == len(self.here)
        assert all(m.peer_id == peer_id for peer_id, m in self.room.members.items())
        assert self.room.users == len({PEERS[peer_id] for peer_id in self.here})

    @invariant()
    def live_members_are_in_live_order(self) -> None:
        members = self.room.members
        assert self.room.live == tuple(members[peer_id] for peer_id in self.live)
        assert {p: m.live.media_type for p, m in members.items() if m.live} == self.live
        assert self.room.broadcaster_for("mesh") == (self.room.live or (None,))[-1]
        assert self.room.viewers == len(self.here) - len(self.live)

    @invariant()
    def a_signal_to_a_user_has_one_target(self) -> None:
        for sender in PEERS:
            for user_id in set(PEERS.values()):
                possible = [p for p in self.here if PEERS[p] == user_id and p != sender]
                live = [p for p in possible if p in self.live]
                found = self.room.peer_of(user_id, but=sender)
                assert ([found.peer_id] if found else []) == (live or possible)[-1:]


TestAnyRoom = AnyRoom.TestCase
