"""`make faults`: twenty minutes of faults; exits with 1 if any promise is broken.

    python -m tests.faults [--minutes 20] [--server redis|valkey] [--only TEXT] [SEED]

All faults are caused again and again, in an order that the seed decides, with Redis and Valkey
in turn unless chosen. It prints the number of each fault, and the time until all views were right
again; for a violation also the seed.
"""

import argparse
import random
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import trio

from tests.faults.faults import FAULTS
from tests.faults.scene import SOON, open_scene
from tests.redis.server import SERVERS


async def run_round(
    kind: str, seed: int, took: dict[str, list[float]], only: str, until: float
) -> list[str]:
    """Cause all faults once, in one scene; the violations."""
    choice = random.Random(seed)
    faults = [fault for fault in FAULTS if only in fault.name]
    choice.shuffle(faults)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        try:
            async with open_scene(Path(directory), choice, kind=kind) as scene:
                for fault in faults:
                    try:
                        seconds = await scene.inflict(fault)
                    except AssertionError as error:
                        wrong.append(f"{fault.name}: {error}")
                        print(f"  WRONG {wrong[-1]}", flush=True)
                        continue
                    took[fault.name].append(seconds)
                    late = " LATE" if seconds > SOON else ""
                    print(f"  {fault.name}: {seconds:.2f} s{late}", flush=True)
                    if trio.current_time() > until:
                        break
                sent, told = scene.ledger.sent, scene.ledger.told
                print(f"  {sent} signals, of which {told} were reported", flush=True)
        except* Exception as errors:
            wrong.append(f"the round ended: {describe(errors)}")
            print(f"  WRONG {wrong[-1]}", flush=True)
    return wrong


def describe(error: BaseException) -> str:
    """The error, or the errors in a group."""
    if isinstance(error, BaseExceptionGroup):
        return ", ".join(map(describe, error.exceptions))
    return repr(error)


async def run(kinds: Sequence[str], seed: int, minutes: float, only: str) -> int:
    """Run rounds until the time is over; the number of violations."""
    took: dict[str, list[float]] = defaultdict(list)
    wrong: list[str] = []
    until = trio.current_time() + 60 * minutes
    number = 0
    while trio.current_time() < until:
        kind = kinds[number % len(kinds)]
        print(f"round {number + 1} over {kind}: seed {seed + number}", flush=True)
        found = await run_round(kind, seed + number, took, only, until)
        wrong += [f"seed {seed + number} over {kind}: {each}" for each in found]
        number += 1
    print("\n| fault | times | all views right after, median and slowest, s |\n|---|---|---|")
    for fault in FAULTS:
        seconds = took[fault.name]
        if seconds:
            print(
                f"| {fault.name} | {len(seconds)} | "
                f"{statistics.median(seconds):.2f}, {max(seconds):.2f} |"
            )
    for each in wrong:
        print(f"WRONG: {each}")
    return len(wrong)


def main() -> None:
    """Run, and print the result."""
    parser = argparse.ArgumentParser(description="Faults under traffic.")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--server", choices=[*SERVERS])
    parser.add_argument("--only", default="", help="the faults with this in their name")
    parser.add_argument("seed", type=int, nargs="?", default=random.randrange(10**6))
    given = parser.parse_args()
    kinds = [given.server] if given.server else [*SERVERS]
    violations = trio.run(run, kinds, given.seed, given.minutes, given.only)
    sys.exit(bool(violations))


if __name__ == "__main__":
    main()
