"""How much memory a process takes."""

from pathlib import Path


def resident(pid: int) -> int:
    """The bytes of a process that are in memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {pid} is no more")
