"""Fuzz all targets, one by one: `make fuzz`.

    python -m fuzz [SECONDS [TARGET]...]

Inputs that reach new code are kept in fuzz/corpus, failing ones in fuzz/crashes.
"""

import subprocess
import sys
from pathlib import Path

from fuzz.targets import TARGETS

HERE = Path(__file__).resolve().parent
#: Ten minutes in total.
SECONDS = 600


def fuzz(target: str, seconds: int) -> int:
    """Fuzz one target in a process of its own; the exit status."""
    corpus, crashes = HERE / "corpus" / target, HERE / "crashes"
    for directory in (corpus, crashes):
        directory.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        "-max_len=4096",
        "-timeout=10",
        "-rss_limit_mb=1024",
        f"-dict={HERE / 'words.dict'}",
        f"-artifact_prefix={crashes / target}-",
        "-print_final_stats=1",
        "-verbosity=1",
    ]
    command = [sys.executable, "-m", "fuzz.one", target, *options, str(corpus)]
    return subprocess.run(command, check=False).returncode


def main() -> int:
    """Fuzz all targets; whether any failed."""
    seconds, *names = sys.argv[1:] or [str(SECONDS)]
    names = names or [*TARGETS]
    statuses = {name: fuzz(name, int(seconds) // len(names)) for name in names}
    for name, status in statuses.items():
        sys.stderr.write(f"{name}: {'failed' if status else 'nothing found'}\n")
    return int(any(statuses.values()))


if __name__ == "__main__":
    sys.exit(main())
