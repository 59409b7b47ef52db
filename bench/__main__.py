"""Measure this server and its peers: `make bench`, or `make bench ARGS='--quick'`."""

import argparse
import datetime
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.report import print_tables, write_page, write_plots
from bench.servers import (
    HERE,
    TARGETS,
    MissingError,
    Target,
    compile_c,
    other_checkout,
    versions,
)
from bench.workloads import (
    Cores,
    FailedError,
    Phase,
    Workload,
    growth,
    run,
    run_replicas,
    workloads,
)

OURS = TARGETS[0]
QUICK_PEERS = ("trio-signal", "node ws", "fastapi", "C floor")
EXTRAS = ("replicas", "growth")
IMAGES = HERE.parent / "docs" / "img"
PAGE = HERE.parent / "docs" / "performance.md"


#: The server, the workload, and the function that runs it.
Step = tuple[str, str, Callable[[], None]]


def choose_cores() -> Cores:
    """One core for the server, another for the load; the same if there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return Cores({cores[0]}, {cores[-1]})


class Results:
    """All results so far."""

    def __init__(self) -> None:
        #: A list of runs for each workload and server.
        self.runs: dict[str, dict[str, list[list[Phase]]]] = defaultdict(lambda: defaultdict(list))
        self.replicas: dict[str, dict[str, list[list[Phase]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self.growth: dict[str, dict[int, list[list[Phase]]]] = defaultdict(
            lambda: defaultdict(list)
        )
        self.missing: dict[str, str] = {}
        #: The reasons of failed runs, by server and workload.
        self.failed: dict[tuple[str, str], str] = {}

    def document(self) -> dict[str, Any]:
        """All results, for JSON."""
        failed = [[*what, why] for what, why in self.failed.items()]
        return {**vars(self), "failed": failed}


def measure(options: argparse.Namespace, targets: list[Target], results: Results) -> None:
    """Run everything once, the servers in turn; repeat the quick runs while there is time."""
    cores = choose_cores()
    there = [target for target in targets if is_there(target, results)]
    first, further = plan(options, there, results, cores)
    with Progress(
        TextColumn("{task.description:36}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    ) as progress:
        planned = 0
        bar = progress.add_task("", total=planned)
        for steps in in_time(first, further, options.minutes * 60):
            planned += len(steps)
            progress.update(bar, total=planned)
            for server, workload, step in steps:
                progress.update(bar, description=f"{server}: {workload}")
                if (server, workload) not in results.failed:
                    try:
                        step()
                    except (FailedError, MissingError) as error:
                        results.failed[server, workload] = str(error)
                        progress.console.print(f"{server}, {workload}: {error}", style="red")
                progress.advance(bar)


def in_time(first: list[Step], further: list[Step], seconds: float) -> Iterator[list[Step]]:
    """Yield the first round, however long it takes, and further rounds while they fit."""
    began = time.monotonic()
    yield first
    took = (time.monotonic() - began) * len(further) / max(1, len(first))
    while further and time.monotonic() + took < began + seconds:
        yield further


def is_there(target: Target, results: Results) -> bool:
    """Whether a server is available; installs it if necessary."""
    with Console(stderr=True).status(f"preparing {target.name}"):
        try:
            target.prepare()
        except MissingError as error:
            results.missing[target.name] = str(error)
            return False
    return True


def plan(
    options: argparse.Namespace, targets: list[Target], results: Results, cores: Cores
) -> tuple[list[Step], list[Step]]:
    """The first round, with everything, and further ones, in the order of their runs."""
    chosen = [each for each in workloads(options.quick).values() if each.name in options.only]
    first, further = (
        [
            one_run(results, target, workload, cores)
            for workload in chosen
            if workload.again or not again
            for target in targets
            if target.name in options.all_for or not again
            if target.protocol.speech or not workload.needs_rooms
            if target.returning or not workload.returns
            if target.name in options.all_for or not workload.for_few
        ]
        for again in (False, True)
    )
    if "replicas" in options.only:
        ours = [target for target in targets if target.protocol == OURS.protocol]
        joined = [
            replica_run(results, target, count, options.quick, cores)
            for count in (1, 2)
            for target in ours
        ]
        first += joined
        further += joined
    if "growth" in options.only:
        first += [
            growth_run(results, what, count, workload, cores)
            for what, sizes in growth(options.quick).items()
            for count, workload in sizes.items()
        ]
    return first, further


def one_run(results: Results, target: Target, workload: Workload, cores: Cores) -> Step:
    """A step that runs one server under one workload."""

    def step() -> None:
        results.runs[workload.name][target.name].append(run(target, workload, cores))

    return target.name, workload.name, step


def replica_run(results: Results, target: Target, count: int, quick: bool, cores: Cores) -> Step:
    """A step that runs our server, or another checkout of it, with one or two replicas."""
    column = ("one replica", "two replicas")[count - 1]
    if target is not OURS:
        column = f"{column} of {target.name}"

    def step() -> None:
        for name, phases in run_replicas(target, count, quick, cores).items():
            results.replicas[name][column].append(phases)

    return target.name, f"replicas: {count}", step


def growth_run(results: Results, what: str, count: int, workload: Workload, cores: Cores) -> Step:
    """A step that runs our server with more rooms or members."""

    def step() -> None:
        results.growth[what][count].append(run(OURS, workload, cores))

    return OURS.name, workload.name, step


def describe_machine() -> dict[str, Any]:
    """Describe the machine and the software that was measured."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = choose_cores()
    kernel = platform.release().partition("-")[0]
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "shared_core": cores.server == cores.load,
        "system": f"{platform.system()} {kernel} {platform.machine()}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load_average": os.getloadavg()[0],
        "versions": versions(),
    }


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    names = (*workloads(quick=False), *EXTRAS)
    targets = {target.name: target for target in TARGETS}
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one short round with the most informative servers"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=11,
        help="run further rounds of the most informative servers within this time  [11]",
    )
    parser.add_argument("--only", help=f"some of {', '.join(names)}")
    parser.add_argument("--peers", help=f"some of {', '.join(targets)}")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FOLDER",
        help="measure another checkout of this server as well, with its own .venv",
    )
    parser.add_argument("--json", type=Path, default=HERE / "results.json")
    parser.add_argument(
        "--publish",
        action="store_true",
        help="write the tables into docs/performance.md, and the plots into docs/img",
    )
    parser.add_argument("--from-json", type=Path, help="measure nothing: show stored results")
    options = parser.parse_args(arguments)
    if options.publish and (options.quick or options.only or options.peers):
        parser.error("--publish replaces all tables, so it excludes --quick, --only and --peers")
    if options.quick:
        options.minutes = 0
    options.only = choose(parser, options.only, names, names)
    everybody = tuple(targets)
    options.all_for = choose(parser, options.peers, everybody, QUICK_PEERS)
    options.peers = choose(
        parser, options.peers, everybody, QUICK_PEERS if options.quick else everybody
    )
    options.targets = [target for name, target in targets.items() if name in options.peers]
    if options.against:
        options.targets.insert(0, other_checkout(options.against))
        options.all_for += (options.targets[0].name,)
    return options


def choose(
    parser: argparse.ArgumentParser, given: str | None, names: tuple[str, ...], default: Any
) -> tuple[str, ...]:
    """The names in a comma-separated list; exits if one is unknown."""
    if given is None:
        return tuple(default)
    chosen = tuple(name.strip() for name in given.split(","))
    for name in chosen:
        if name not in names:
            parser.error(f"{name!r} is none of {', '.join(names)}")
    return chosen


def main() -> None:
    """Measure, and report."""
    options = read_options()
    if options.from_json:
        document = json.loads(options.from_json.read_text())
    else:
        compile_c("load")
        results = Results()
        machine = describe_machine()
        if machine["shared_core"]:
            Console(stderr=True).print("one core only: the load shares it with the server")
        measure(options, options.targets, results)
        document = {
            "machine": machine,
            "quick": options.quick,
            "order": [target.name for target in options.targets],
            **results.document(),
        }
        options.json.write_text(json.dumps(document, indent=1))
    print_tables(document)
    if options.publish:
        write_page(document, PAGE)
        write_plots(document, IMAGES)


if __name__ == "__main__":
    main()
