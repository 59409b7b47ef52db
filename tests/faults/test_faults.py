"""Some of the faults in one scene; `make faults` causes all of them, again and again."""

import random
from pathlib import Path

from tests.faults.faults import FAULTS
from tests.faults.scene import open_scene

SEED = 17
#: Parts of the names of faults: one of each kind.
CHOSEN = (
    "CLIENT KILL",
    "READONLY",
    "the members of a room deleted",
    "what a replica owns deleted",
    "cut off",
)


async def test_views_and_signals_are_right_after_faults(tmp_path: Path) -> None:
    """No signal is lost without notice, and none is invented; see `FaultyScene.inflict`."""
    faults = [fault for name in CHOSEN for fault in FAULTS if name in fault.name]
    assert len(faults) == len(CHOSEN)
    async with open_scene(tmp_path, random.Random(SEED), actors=3) as scene:
        for fault in faults:
            seconds = await scene.inflict(fault)
            print(f"{fault.name}: {seconds:.2f} s")
