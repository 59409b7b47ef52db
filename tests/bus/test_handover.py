"""What a replica has to tell a session that comes: its own events, by how they come back."""

import pytest

from tests.presence_model import ROOM, left, member
from trio_signal.bus.redis.feed import Feed, Search
from trio_signal.messages.events import RoomEvent
from trio_signal.messages.handover import Sought
from trio_signal.presence import Change, Snapshot
from trio_signal.room import Room

#: Events of this replica, as they are published.
A, B, C = (left(member(name)) for name in "abc")


@pytest.mark.parametrize(
    ("published", "heard_after", "came_back", "missed"),
    [
        ([], 0, [], []),
        ([A, B], 0, [], [A, B]),  # all after the move
        ([A, B], 0, [A], [B]),  # the other replica has told A
        ([A, B, C], 0, [B], [C]),  # A never came to Redis
        ([A, A, B], 0, [A], [A, B]),  # the same words twice
        ([A], 0, [C], [A]),  # somebody else's words, or older ones
        ([A, B], 1, [A, A], [B]),  # an older one came back before the question did
    ],
)
def test_missed_are_those_that_have_not_come_back(
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
        (5, "third", True),  # the snapshot has it: it is an older one, and changes nothing
        (9, "third", True),  # after a gap nobody knows
    ],
)
def test_a_member_is_moved_by_the_replica_that_has_it(
    seq: int, origin: str, believed: bool
) -> None:
    room = Room(ROOM, "ours")
    room.catch_up(Snapshot(5, (member("p", "other"),)), room.numbering.losses, "")
    if seq > 6:
        room.numbering.lose_step()
    moved = member("p", "ours")
    assert Feed(room).believes(Change(seq, origin, moved=moved)) is believed
