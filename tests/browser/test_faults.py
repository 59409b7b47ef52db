"""What the pages run, without a browser: what is decided by tables, and a simulated world."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CLIENT = HERE.parent.parent / "trio_signal" / "browser" / "trio-signal.js"
SEEDS = "8"


# What a module decides by tables; the negotiation of two; where the tiles of a call stand.
@pytest.mark.parametrize("name", ["tables", "negotiation", "layout"])
def test_what_is_decided_without_a_browser(name: str) -> None:
    command = ["node", str(HERE / f"{name}.mjs")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_nobody_stays_stuck_whatever_goes_wrong() -> None:
    command = ["node", str(HERE / "faults.mjs"), str(CLIENT), SEEDS]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.stdout + run.stderr == ""
    assert run.returncode == 0
