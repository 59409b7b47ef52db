"""npm packages for tests, as listed in tests/browser/package.json."""

import fcntl
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parent / "browser"


def node_package(name: str) -> Path:
    """The folder of an installed package; if it is missing, all packages are installed."""
    found = FOLDER / "node_modules" / name
    with (FOLDER / ".npm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers may need one at the same time
        if not found.exists():
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            subprocess.run(command, cwd=FOLDER, check=True, capture_output=True, timeout=300)
    return found
