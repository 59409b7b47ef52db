"""The soak, made short: everything is killed once, and all is well each time."""

import trio

from tests.soak.faults import ONCE
from tests.soak.soak import Plan, soak

#: Seconds; it takes less than a minute when the machine has nothing else to do.
PATIENCE = 900.0
SHORT = Plan(
    connections=100,
    hall=10,
    size=5,
    readers=6,
    pace=2,
    gap=0.5,
    faults=ONCE,
    turmoil=0,
    endurance=0,
)


async def test_everything_is_killed_in_turn() -> None:
    with trio.fail_after(PATIENCE):
        report = await soak(SHORT, print)
    print(report)
    assert report.wrong == []
    assert report.faults == len(ONCE)
    assert report.happened.lost
