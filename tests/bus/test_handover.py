"""What a replica still has to tell a session that moves to it: its own events not yet echoed."""

import pytest

from tests.presence_model import ROOM, left, member
from trio_signal.bus.redis.feed import Feed, Search
from trio_signal.messages.events import RoomEvent
from trio_signal.messages.handover import Sought
from trio_signal.presence import Change, Snapshot
from trio_signal.room import Room

#: Events that this replica has published.
A, B, C = (left(member(name)) for name in "abc")


@pytest.mark.parametrize(
    ("published", "heard_after", "came_back", "missed"),
    [
        ([], 0, [], []),
        ([A, B], 0, [], [A, B]),  # all published after the move
        ([A, B], 0, [A], [B]),  # the other replica has delivered A
        ([A, B, C], 0, [B], [C]),  # A never reached Redis
        ([A, A, B], 0, [A], [A, B]),  # the same event twice
        ([A], 0, [C], [A]),  # somebody else's event, or an older one
        ([A, B], 1, [A, A], [B]),  # an older one was echoed before the question was
    ],
)
def test_events_that_were_not_echoed_are_missed(
    published: list[RoomEvent],
    heard_after: int,
    came_back: list[RoomEvent],
    missed: list[RoomEvent],
) -> None:
    search = Search(Sought("s", 1, "here"), losses=0)
    for event in published:
        search.note(event)
    for number, event in enumerate(came_back):
        search.is_heard = number >= heard_after
        search.take_back(event)
    assert search.missed == missed


@pytest.mark.parametrize(
    ("seq", "origin", "believed"),
    [
        (6, "other", True),
        (6, "third", False),  # it never had that member
        (5, "third", True),  # the snapshot has it: the change is older, and has no effect
        (9, "third", True),  # after a gap nobody knows
    ],
)
def test_only_the_replica_of_a_member_can_move_it(seq: int, origin: str, believed: bool) -> None:
    room = Room(ROOM, "ours")
    room.catch_up(Snapshot(5, (member("p", "other"),)), room.numbering.losses, "")
    if seq > 6:
        room.numbering.lose_step()
    moved = member("p", "ours")
    assert Feed(room).believes(Change(seq, origin, moved=moved)) is believed
