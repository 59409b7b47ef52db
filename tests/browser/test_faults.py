"""The browser client without a browser: its tables (tables.mjs, negotiation.mjs), and a world."""

from __future__ import annotations

import subprocess
from pathlib import Path

HERE = Path(__file__).parent
CLIENT = HERE.parent.parent / "trio_signal" / "browser" / "trio-signal.js"
SEEDS = "20"


def test_what_is_decided_by_tables() -> None:
    command = ["node", str(HERE / "tables.mjs")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_two_peers_always_come_to_an_agreement() -> None:
    command = ["node", str(HERE / "negotiation.mjs")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_nobody_stays_stuck_whatever_goes_wrong() -> None:
    command = ["node", str(HERE / "faults.mjs"), str(CLIENT), SEEDS]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.stdout + run.stderr == ""
    assert run.returncode == 0
