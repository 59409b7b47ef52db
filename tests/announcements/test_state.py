"""Revisions in any order: the state that results, and who is notified."""

import pytest

from trio_signal.announcements.state import MAX_REMEMBERED, Effect, Freshness, State
from trio_signal.messages.identity import Announcement, Revision

NEW, LATE = Freshness.NEW, Freshness.LATE
NOTHING, TELL, SHOW = Effect.NOTHING, Effect.TELL, Effect.SHOW


def revision(number: int, id_: str, *, active: bool = True) -> Revision:
    made = "2026-11-20T10:46:00.000Z"
    return Revision(number, Announcement(id_, "Hi", "info", "boss", "Boss", made), active)


OLD = revision(4, "a")
ACTIVE = revision(5, "b")
TWIN = revision(5, "c")
CLEARED = revision(6, "b", active=False)
NEXT = revision(7, "d")


@pytest.mark.parametrize(
    ("held", "adopted", "freshness", "effect"),
    [
        (None, ACTIVE, NEW, TELL),
        (None, ACTIVE, LATE, SHOW),
        (None, CLEARED, NEW, TELL),
        (None, CLEARED, LATE, NOTHING),
        (ACTIVE, ACTIVE, NEW, NOTHING),
        (ACTIVE, OLD, NEW, NOTHING),
        (ACTIVE, OLD, LATE, NOTHING),
        (ACTIVE, TWIN, NEW, TELL),
        (TWIN, ACTIVE, NEW, NOTHING),
        (ACTIVE, CLEARED, NEW, TELL),
        (ACTIVE, CLEARED, LATE, TELL),
        (CLEARED, ACTIVE, NEW, NOTHING),
        (CLEARED, NEXT, NEW, TELL),
        (CLEARED, NEXT, LATE, SHOW),
    ],
)
def test_adopting_a_revision(
    held: Revision | None, adopted: Revision, freshness: Freshness, effect: Effect
) -> None:
    state = State()
    if held is not None:
        state.adopt(held, NEW)
    assert state.adopt(adopted, freshness) is effect
    newest = max((r for r in (held, adopted) if r is not None), key=lambda r: r.stamp)
    assert state.revision == newest
    assert state.active == (newest.announcement if newest.active else None)


def test_acknowledgements_are_remembered_for_one_announcement() -> None:
    state = State()
    state.adopt(ACTIVE, NEW)
    state.remember("ann")
    state.adopt(CLEARED, NEW)
    assert state.acknowledged == {"ann"}
    state.adopt(NEXT, NEW)
    assert not state.acknowledged
    for number in range(MAX_REMEMBERED + 1):
        state.remember(str(number))
    assert len(state.acknowledged) == MAX_REMEMBERED
