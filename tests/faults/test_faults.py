"""A few of the faults, in one scene; `make faults` does all of them, over and over."""

import random
from pathlib import Path

from tests.faults.faults import FAULTS
from tests.faults.scene import open_scene

SEED = 17
#: What they have in their names: a kind of each.
CHOSEN = (
    "CLIENT KILL",
    "READONLY",
    "the members of a room deleted",
    "what a replica owns deleted",
    "cut off",
)


async def test_faults(tmp_path: Path) -> None:
    """Nothing is lost in silence, and nothing is invented; see `FaultyScene.inflict`."""
    faults = [fault for name in CHOSEN for fault in FAULTS if name in fault.name]
    assert len(faults) == len(CHOSEN)
    async with open_scene(tmp_path, random.Random(SEED), actors=3) as scene:
        for fault in faults:
            seconds = await scene.inflict(fault)
            print(f"{fault.name}: {seconds:.2f} s")
