"""How much memory processes take, and whether it grows."""

from collections.abc import Sequence
from pathlib import Path
from statistics import linear_regression
from typing import NamedTuple

from deploy.cluster import Program

#: What part of the samples does not count: at first memory grows to what the work takes.
WARM_UP = 1 / 3


class Sample(NamedTuple):
    """The resident memory of some programs at one time."""

    #: Seconds.
    at: float
    kib: int


def slope(samples: Sequence[Sample]) -> float:
    """KiB a minute, by least squares, after the warm-up; 0 if there are too few."""
    warm = samples[int(len(samples) * WARM_UP) :]
    if len(warm) < 2:
        return 0
    times, sizes = zip(*warm, strict=True)
    return linear_regression(times, sizes).slope * 60


def resident(programs: Sequence[Program]) -> int:
    """KiB of all of them together."""
    return sum(_resident(program.pid) for program in programs)


def _resident(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (size,) = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
    return int(size)


def files_of(pid: int) -> int:
    """How many file descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
