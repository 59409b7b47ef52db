"""Packages of npm for tests, as tests/browser/package.json has them."""

import fcntl
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parent / "browser"


def node_package(name: str) -> Path:
    """The folder of an installed package; all are installed if this one is missing."""
    found = FOLDER / "node_modules" / name
    with (FOLDER / ".npm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers that need one at the same time
        if not found.exists():
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            subprocess.run(command, cwd=FOLDER, check=True, capture_output=True, timeout=300)
    return found
