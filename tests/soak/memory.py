"""How much memory processes take, and whether it grows."""

from collections import defaultdict
from pathlib import Path
from statistics import linear_regression

import trio

from deploy.cluster import Program

#: Seconds between two looks.
RHYTHM = 1.0


class Memory:
    """Resident memory of programs over time; a program that is started again begins anew."""

    def __init__(self) -> None:
        #: By name and process: when, in seconds, and how many KiB.
        self.samples: dict[tuple[str, int], list[tuple[float, int]]] = defaultdict(list)

    async def watch(self, *programs: Program) -> None:
        """Until cancelled."""
        while True:
            for program in programs:
                resident = resident_of(program.pid)
                if resident:
                    sample = trio.current_time(), resident
                    self.samples[program.name, program.pid].append(sample)
            await trio.sleep(RHYTHM)

    def slope(self, name: str, pid: int, since: float) -> float:
        """KiB a minute, by least squares, of what was seen since then; 0 if that is too little."""
        samples = [sample for sample in self.samples[name, pid] if sample[0] >= since]
        if len(samples) < 2:
            return 0
        times, sizes = zip(*samples, strict=True)
        return linear_regression(times, sizes).slope * 60


def resident_of(pid: int) -> int:
    """KiB; 0 if there is no such process."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    sizes = [line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(sizes[0]) if sizes else 0


def files_of(pid: int) -> int:
    """How many file descriptors a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
