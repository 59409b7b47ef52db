"""`make soak`: twenty minutes, 2,000 connections; exits 1 if anything is not as promised."""

import argparse
import signal
import sys
from datetime import UTC, datetime

import trio

from tests.soak.faults import FAULTS
from tests.soak.memory import slope
from tests.soak.soak import Plan, soak

#: KiB a minute that the replicas may grow by, all together: one in a thousand.
FLAT = 512

#: What all visitors do in a second.
PER_SECOND = 200
#: Seconds between two things that one visitor does, at most.
SLOWEST = 20


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", flush=True)


def main() -> None:
    """Run it, and say what came of it."""
    parser = argparse.ArgumentParser(description="A soak of three replicas behind nginx.")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--connections", type=int, default=2000)
    given = parser.parse_args()
    plan = Plan(
        connections=given.connections,
        hall=given.connections // 20,
        size=8,
        readers=20,
        pace=min(given.connections / PER_SECOND, SLOWEST),
        gap=10,
        faults=FAULTS,
        turmoil=given.minutes * 60 * 0.4,
        endurance=given.minutes * 60 * 0.6,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: all is stopped
    report = trio.run(soak, plan, say)
    happened = report.happened
    say(
        f"{report.faults} faults; {happened.came} visits, {happened.said} things done, "
        f"{happened.heard} heard; {len(happened.lost)} connections lost to faults, "
        f"{len(happened.refused)} tries to come in failed"
    )
    grows = slope(report.memory)
    say(f"memory of the replicas, after the warm-up: {grows:+.0f} KiB a minute")
    if grows > FLAT:
        report.wrong.append("the memory grows")
    for wrong in report.wrong:
        say(f"WRONG: {wrong}")
    sys.exit(bool(report.wrong))


if __name__ == "__main__":
    main()
