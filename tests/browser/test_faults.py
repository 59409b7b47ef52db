"""The pages' code without a browser: table tests, and a simulated world."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CLIENT = HERE.parent.parent / "trio_signal" / "browser" / "trio-signal.js"
SEEDS = "8"


# The tests of some modules, of negotiation, of the sockets, and of the layout of tiles in a call.
@pytest.mark.parametrize("name", ["tables", "negotiation", "signaling", "layout"])
def test_tables_without_a_browser(name: str) -> None:
    command = ["node", str(HERE / f"{name}.mjs")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_no_peer_stays_stuck_after_faults() -> None:
    command = ["node", str(HERE / "faults.mjs"), str(CLIENT), SEEDS]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.stdout + run.stderr == ""
    assert run.returncode == 0
