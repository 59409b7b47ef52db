"""The results as tables and plots."""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

Phase = dict[str, Any]
Run = list[Phase]
Document = dict[str, Any]

OURS = "trio-signal"


#: Phases of a run: joining, the first phase after it, and the remaining slices.
_JOINING, _FIRST, _SLICES = slice(0, 1), slice(1, 2), slice(2, None)


class Figure(NamedTuple):
    """One number of a run: its name, how to read it, and whether more is better."""

    name: str
    workload: str
    #: The phases that it is read from; if there are several, the median counts.
    phases: slice
    read: Callable[[Phase, Run], float | None]
    show: str
    more_is_better: bool = False
    #: Whether it only counts if the server was the bottleneck.
    saturated: bool = False


def _rate(phase: Phase, run: Run) -> float:
    return float(phase["count"] / phase["seconds"])


def _cpu(phase: Phase, run: Run) -> float:
    return float(phase["server_cpu"] / max(phase["count"], 1) * 1e6)


def _seconds(phase: Phase, run: Run) -> float:
    return float(phase["seconds"])


def _server_cpu(phase: Phase, run: Run) -> float:
    return float(phase["server_cpu"])


def _p50(phase: Phase, run: Run) -> float | None:
    return phase.get("p50_ms")


def _p99(phase: Phase, run: Run) -> float | None:
    return phase.get("p99_ms")


def _memory(phase: Phase, run: Run) -> float:
    """KiB for each connection, one heartbeat later."""
    joined = run[0]
    return float((phase["memory"] - joined["memory_before"]) / joined["count"])


def _arrived(phase: Phase, run: Run) -> float:
    return float(phase["arrived"] / phase["due"] * 100)


def _arrived_away(phase: Phase, run: Run) -> float:
    """Percentage of the messages sent to clients while they were away."""
    return float(phase["arrived_away"] / phase["due_away"] * 100)


def _doubled(phase: Phase, run: Run) -> float:
    return float(phase["doubled"])


def _resumed(phase: Phase, run: Run) -> float:
    return float(phase["resumed"] / phase["count"] * 100)


def _idle_cpu(phase: Phase, run: Run) -> float:
    """Parts per million of a core for each connection."""
    return float(phase["server_cpu"] / phase["seconds"] / run[0]["count"] * 1e6)


FIGURES = (
    Figure("relay, messages/s", "relay", _FIRST, _rate, ",.0f", True, True),
    Figure("relay, us of CPU each", "relay", _FIRST, _cpu, ".1f"),
    Figure("relay one at a time, messages/s", "one", _FIRST, _rate, ",.0f", True, True),
    Figure("relay one at a time, us of CPU each", "one", _FIRST, _cpu, ".1f"),
    Figure("relay at 1,000/s, p50 ms", "relay", _SLICES, _p50, ".2f"),
    Figure("relay at 1,000/s, p99 ms", "relay", _SLICES, _p99, ".2f"),
    Figure("relay at 1,000/s, us of CPU each", "relay", _SLICES, _cpu, ".0f"),
    Figure("fan-out 500, deliveries/s", "fanout", _FIRST, _rate, ",.0f", True, True),
    Figure("fan-out 500, us of CPU each", "fanout", _FIRST, _cpu, ".2f"),
    Figure(
        "fan-out 500, one at a time, deliveries/s", "fanout-one", _FIRST, _rate, ",.0f", True, True
    ),
    Figure("fan-out 500, one at a time, us of CPU each", "fanout-one", _FIRST, _cpu, ".2f"),
    Figure("fan-out 2,000, deliveries/s", "storm", _FIRST, _rate, ",.0f", True, True),
    Figure("fan-out 2,000, us of CPU each", "storm", _FIRST, _cpu, ".2f"),
    Figure("connect and stay, connections/s", "connect", _JOINING, _rate, ",.0f", True, True),
    Figure("connect and stay, us of CPU each", "connect", _JOINING, _cpu, ".0f"),
    Figure("churn, connections/s", "churn", _FIRST, _rate, ",.0f", True, True),
    Figure("churn, us of CPU each", "churn", _FIRST, _cpu, ".0f"),
    Figure("idle, KiB each", "idle", _FIRST, _memory, ".1f"),
    Figure("idle, CPU ppm each", "idle", _FIRST, _idle_cpu, ".1f"),
    Figure("storm, s until all know all", "storm", _JOINING, _seconds, ".2f"),
    Figure("storm, s of CPU", "storm", _JOINING, _server_cpu, ".2f"),
    Figure("drops, % of messages that arrive", "drops", _FIRST, _arrived, ".2f", True),
    Figure("drops, % of those to absent clients", "drops", _FIRST, _arrived_away, ".1f", True),
    Figure("drops, messages that arrive twice", "drops", _FIRST, _doubled, ",.0f"),
    Figure("drops, us of CPU each", "drops", _FIRST, _cpu, ".2f"),
    Figure("deploy, s until all are back", "deploy", _FIRST, _seconds, ".2f"),
    Figure("deploy, us of CPU each", "deploy", _FIRST, _cpu, ".0f"),
)

#: Targets: the figure, the other server, and the ratio of ours to theirs.
TARGETS = (
    ("relay, messages/s", "node ws", 2.0),
    ("relay, messages/s", "fastapi", 2.0),
    ("relay one at a time, messages/s", "node ws", 1.5),
    ("relay at 1,000/s, p99 ms", "node ws", 1.0),
    ("relay at 1,000/s, p99 ms", "fastapi", 0.7),
    ("fan-out 500, deliveries/s", "node ws", 1.25),
    ("fan-out 500, deliveries/s", "fastapi", 2.0),
    ("fan-out 500, deliveries/s", "C floor", 0.8),
    ("fan-out 500, one at a time, deliveries/s", "node ws", 1.5),
    ("fan-out 2,000, us of CPU each", "node ws", 0.8),
    ("connect and stay, connections/s", "node ws", 1.2),
    ("churn, connections/s", "node ws", 0.8),
    ("churn, connections/s", "fastapi", 4.0),
    ("idle, KiB each", "fastapi", 0.4),
    ("idle, CPU ppm each", "node ws", 0.6),
    ("storm, s until all know all", "node ws", 0.14),
    ("storm, s until all know all", "fastapi", 0.5),
    ("deploy, s until all are back", "node ws", 1.0),
    ("deploy, s until all are back", "socket.io", 0.5),
)
#: The share of a core that a server must have had, so that its rate is not limited by the load.
FULL = 0.9
#: The corresponding CPU figures, which hardly depend on other load on the machine.
BY_CPU = {
    "relay, messages/s": "relay, us of CPU each",
    "relay one at a time, messages/s": "relay one at a time, us of CPU each",
    "fan-out 500, deliveries/s": "fan-out 500, us of CPU each",
    "fan-out 500, one at a time, deliveries/s": "fan-out 500, one at a time, us of CPU each",
    "connect and stay, connections/s": "connect and stay, us of CPU each",
    "churn, connections/s": "churn, us of CPU each",
    "storm, s until all know all": "storm, s of CPU",
    "deploy, s until all are back": "deploy, us of CPU each",
}
#: Targets that do not depend on other servers.
ABSOLUTE = (("idle, KiB each", 10.0), ("drops, % of messages that arrive", 100.0))


def value(document: Document, figure: Figure, server: str) -> float | None:
    """The median over rounds and slices, or None without data."""
    runs = document["runs"].get(figure.workload, {}).get(server, [])
    values = [
        number
        for run in runs
        for phase in run[figure.phases]
        if (number := figure.read(phase, run)) is not None
    ]
    return statistics.median(values) if values else None


def shares(document: Document, figure: Figure, server: str) -> tuple[float, float]:
    """How busy the server and the load were, each as a share of a core."""
    runs = document["runs"][figure.workload][server]
    phases = [phase for run in runs for phase in run[figure.phases]]
    return (
        statistics.median(phase["server_cpu"] / phase["seconds"] for phase in phases),
        statistics.median(phase["load_cpu"] / phase["seconds"] for phase in phases),
    )


def servers_in(document: Document) -> list[str]:
    """All measured servers, in the order of the columns."""
    measured = {server for runs in document["runs"].values() for server in runs}
    return [name for name in document["order"] if name in measured]


def print_tables(document: Document) -> None:
    """Print everything."""
    console = Console()
    if document["runs"]:
        console.print(_main_table(document))
        console.print(_shares_table(document))
        console.print(_targets_table(document))
    if document["replicas"]:
        console.print(_replicas_table(document))
    if document["growth"]:
        console.print(_growth_table(document))
    for server, reason in document["missing"].items():
        console.print(f"missing: {server}: {reason}", style="yellow")
    for server, workload, reason in document["failed"]:
        console.print(f"failed: {server} at {workload}: {reason}", style="red")


def _title(document: Document) -> str:
    machine = document["machine"]
    versions = machine["versions"]
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}, "
        f"Python {versions['python']}, Trio {versions['trio']}, Node {versions.get('node', '-')}"
    )


def _show(figure: Figure, number: float | None) -> str:
    return "-" if number is None else format(number, figure.show)


def _main_table(document: Document) -> Table:
    servers = servers_in(document)
    table = Table(title=_title(document))
    table.add_column("")
    for server in [*servers, *document["missing"]]:
        table.add_column(server, justify="right")
    for figure in FIGURES:
        if figure.workload in document["runs"]:
            row = [_show(figure, value(document, figure, server)) for server in servers]
            table.add_row(figure.name, *row, *("missing" for _ in document["missing"]))
    return table


def _shares_table(document: Document) -> Table:
    table = Table(
        title="CPU of the server / of the load, each as a share of a core",
        caption="below 90 % the server was not the limit: its rate is too low, its CPU is valid",
    )
    servers = servers_in(document)
    table.add_column("")
    for server in servers:
        table.add_column(server, justify="right")
    for figure in FIGURES:
        runs = document["runs"].get(figure.workload, {})
        if not figure.saturated or not runs:
            continue
        cells = []
        for server in servers:
            if not runs.get(server):
                cells.append("-")
                continue
            ours, load = shares(document, figure, server)
            style = "" if ours >= FULL else "[red]" if load > ours else "[yellow]"
            cells.append(f"{style}{ours:.0%} / {load:.0%}")
        table.add_row(
            figure.name.partition(",")[0] if "fan" not in figure.name else figure.name, *cells
        )
    return table


class Ratio(NamedTuple):
    """The ratio of ours to theirs, and its target."""

    figure: str
    against: str
    wanted: float
    found: float
    #: The ratio by CPU alone; None if the figure is not a rate.
    by_cpu: float | None
    reached: bool
    #: Both servers had a core to themselves; otherwise the ratio by CPU decides, if there is one.
    undisturbed: bool = True
    #: The figure is a time, and the machine was busy, so it means nothing.
    open: bool = False

    @property
    def verdict(self) -> str:
        """The result in words."""
        if self.open:
            return "open: the machine was busy"
        return ("reached" if self.reached else "missed") + ("" if self.undisturbed else " by CPU")


#: Figures that mean nothing if a server had no core to itself.
_TIMED = (
    "relay at 1,000/s, p99 ms",
    "storm, s until all know all",
    "deploy, s until all are back",
)


def _is_undisturbed(document: Document, server: str) -> bool:
    """Whether we and this server had a core each, according to the relay workload."""
    relay = FIGURES[0]
    return all(
        shares(document, relay, name)[0] >= FULL
        for name in (OURS, server)
        if document["runs"].get(relay.workload, {}).get(name)
    )


def ratios(document: Document) -> list[Ratio]:
    """The ratios for all targets."""
    by_name = {figure.name: figure for figure in FIGURES}
    found = []
    for name, server, wanted in TARGETS:
        figure = by_name[name]
        ratio = _ratio(document, figure, server)
        if ratio is None:
            continue
        cpu = _ratio(document, by_name[BY_CPU[name]], server) if name in BY_CPU else None
        if cpu and figure.more_is_better:
            cpu = 1 / cpu
        undisturbed = not (figure.saturated or name in _TIMED) or _is_undisturbed(document, server)
        counts = ratio if undisturbed or cpu is None else cpu
        reached = counts >= wanted if figure.more_is_better else counts <= wanted
        is_open = not undisturbed and cpu is None
        found.append(Ratio(name, server, wanted, ratio, cpu, reached, undisturbed, is_open))
    for name, wanted in ABSOLUTE:
        number = value(document, by_name[name], OURS)
        if number is not None:
            more = by_name[name].more_is_better
            reached = number >= wanted if more else number <= wanted
            found.append(Ratio(name, "-", wanted, number, None, reached))
    return found


def _ratio(document: Document, figure: Figure, server: str) -> float | None:
    ours, theirs = value(document, figure, OURS), value(document, figure, server)
    return ours / theirs if ours is not None and theirs else None


def _targets_table(document: Document) -> Table:
    table = Table(title=f"{OURS} against the others: ratios in this run")
    for column in ("", "against", "target", "is", "by CPU", " "):
        table.add_column(column, justify="left" if not column else "right")
    more = {figure.name for figure in FIGURES if figure.more_is_better}
    for ratio in ratios(document):
        sign = "≥" if ratio.figure in more else "≤"
        table.add_row(
            ratio.figure,
            ratio.against,
            f"{sign} {ratio.wanted:g}",
            f"{ratio.found:.2f}",
            "" if ratio.by_cpu is None else f"{ratio.by_cpu:.2f}",
            ("[yellow]" if ratio.open else "[green]" if ratio.reached else "[red]") + ratio.verdict,
        )
    return table


#: Figures of runs through Redis, always from the second phase.
_REPLICA_FIGURES = (
    Figure("relay at 1,000/s, p50 ms", "relay", _FIRST, _p50, ".2f"),
    Figure("relay at 1,000/s, p99 ms", "relay", _FIRST, _p99, ".2f"),
    Figure("relay, us of CPU each", "relay", _FIRST, _cpu, ".0f"),
    Figure("fan-out, deliveries/s", "fanout", _FIRST, _rate, ",.0f", True),
    Figure("fan-out, us of CPU each", "fanout", _FIRST, _cpu, ".2f"),
    Figure("announcement, p50 ms", "announce", _FIRST, _p50, ".1f"),
    Figure("announcement, p99 ms", "announce", _FIRST, _p99, ".1f"),
    Figure("announcement, us of CPU a user", "announce", _FIRST, _cpu, ".1f"),
    Figure("deploy, % that resume", "deploy", _FIRST, _resumed, ".1f", True),
    Figure("deploy, us of CPU each", "deploy", _FIRST, _cpu, ".0f"),
)


def _replica_columns(document: Document) -> list[str]:
    """One replica, two, and the same for another checkout if there is one."""
    return list(document["replicas"]["relay"])


def _replica_rows(document: Document) -> list[list[str]]:
    """Each figure for one replica and for two."""
    rows = []
    for figure in _REPLICA_FIGURES:
        by_count = document["replicas"].get(figure.workload, {})
        cells = []
        for column in _replica_columns(document):
            values = [figure.read(run[1], run) for run in by_count.get(column, [])]
            numbers = [number for number in values if number is not None]
            cells.append(format(statistics.median(numbers), figure.show) if numbers else "-")
        rows.append([figure.name, *cells])
    return rows


def _replicas_table(document: Document) -> Table:
    table = Table(title="through Redis: both clients of a pair on one replica, or on two")
    for column in ("", *_replica_columns(document)):
        table.add_column(column, justify="left" if not column else "right")
    for row in _replica_rows(document):
        table.add_row(*row)
    return table


def _growth_table(document: Document) -> Table:
    table = Table(title="what a targeted signal costs as the server fills")
    for column in ("", "us of CPU", "signals/s"):
        table.add_column(column, justify="left" if not column else "right")
    for what, sizes in document["growth"].items():
        for count, runs in sizes.items():
            cpu = statistics.median(_cpu(run[1], run) for run in runs)
            rate = statistics.median(_rate(run[1], run) for run in runs)
            table.add_row(f"{int(count):,} {what}", f"{cpu:.1f}", f"{rate:,.0f}")
    return table


# The page

#: The latest results are between these two marks of the page.
_BEGIN, _END = "<!-- measured -->", "<!-- end of measured -->"


def write_page(document: Document, page: Path) -> None:
    """Put the tables between the marks of the page."""
    before, _, rest = page.read_text().partition(_BEGIN)
    _, _, after = rest.partition(_END)
    page.write_text(f"{before}{_BEGIN}\n\n{_markdown(document)}\n{_END}{after}")


def _markdown(document: Document) -> str:
    runs = document["runs"].values()
    rounds = max((len(of_one) for by_server in runs for of_one in by_server.values()), default=0)
    parts = [
        f"{document['machine']['date']}. {_title(document)}. "
        + ("One round. " if rounds < 2 else f"Medians of up to {rounds} rounds. ")
        + ("Smaller than a whole run: crowds of 500, 2,000 idle. " if document["quick"] else "")
        + _say_shares(document)
        + "\n",
        _markdown_servers(document),
        "### The targets\n",
        _markdown_targets(document),
    ]
    if document["replicas"]:
        table = _rows_of(["", *_replica_columns(document)], _replica_rows(document))
        parts += ["### Through Redis\n", table]
    absent = [f"- {name} is missing: {why}" for name, why in document["missing"].items()]
    absent += [f"- {name} failed at {what}: {why}" for name, what, why in document["failed"]]
    if absent:
        parts.append("\n".join(absent) + "\n")
    return "\n".join(parts)


def _say_shares(document: Document) -> str:
    found = [
        shares(document, figure, server)[0]
        for figure in FIGURES
        if figure.saturated
        for server, runs in document["runs"].get(figure.workload, {}).items()
        if runs
    ]
    if not found:
        return ""
    least, most = min(found), max(found)
    return f"In runs at full speed, servers used {least:.0%} to {most:.0%} of a core."


def _markdown_servers(document: Document) -> str:
    servers = servers_in(document)
    rows = [
        [figure.name, *(_show(figure, value(document, figure, server)) for server in servers)]
        for figure in FIGURES
        if figure.workload in document["runs"]
    ]
    names = (f"**{server}**" if server == OURS else server for server in servers)
    return _rows_of(["", *names], rows)


def _markdown_targets(document: Document) -> str:
    rows = []
    more = {figure.name for figure in FIGURES if figure.more_is_better}
    for ratio in ratios(document):
        sign = "at least" if ratio.figure in more else "at most"
        by_cpu = "" if ratio.by_cpu is None else f"{ratio.by_cpu:.2f}"
        verdict = ratio.verdict.replace("missed", "**missed**")
        wanted = f"{sign} {ratio.wanted:g}"
        rows.append([ratio.figure, ratio.against, wanted, f"{ratio.found:.2f}", by_cpu, verdict])
    return _rows_of(["", "against", "target", "is", "by CPU", ""], rows)


def _rows_of(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# Plots

#: CPU instead of rates: it says the same, and is also valid on a busy machine.
_PANELS = (
    ("relay, us of CPU each", "Relay of a 2 KB offer: CPU, µs"),
    ("fan-out 500, us of CPU each", "Fan-out to 500: CPU of a delivery, µs"),
    ("churn, us of CPU each", "Connect, join, leave: CPU, µs"),
    ("idle, KiB each", "Memory of an idle connection, KiB"),
    ("relay at 1,000/s, p99 ms", "Relay at 1,000/s: p99 latency, ms"),
    ("storm, s until all know all", "2,000 join within a second: s until all know all"),
    ("connect and stay, us of CPU each", "Connect and stay: CPU, µs"),
    ("deploy, us of CPU each", "10,000 lose their server, until all are back: CPU each, µs"),
)
_OURS_COLOR, _OTHERS_COLOR, _FLOOR_COLOR = "#0b6e4f", "#b8c4ce", "#e3e3e3"


def write_plots(document: Document, folder: Path) -> None:
    """Draw bars for all servers, and lines for growth, as SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update(
        {
            "svg.hashsalt": "bench",
            "svg.fonttype": "none",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
            "axes.titlelocation": "left",
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    if document["runs"]:
        _plot_bars(document, folder / "bench.svg")
    if document["growth"]:
        _plot_growth(document, folder / "bench-growth.svg")


def _plot_bars(document: Document, path: Path) -> None:
    from matplotlib import pyplot as plt

    by_name = {figure.name: figure for figure in FIGURES}
    panels = [
        (name, title)
        for name, title in _PANELS
        if by_name[name].workload in document["runs"]
        and (name not in _TIMED or _is_undisturbed(document, "node ws"))
    ]
    figure, axes = plt.subplots(
        -(-len(panels) // 2), 2, figsize=(10, 1.9 * len(panels)), squeeze=False
    )
    for axis, (name, title) in zip(axes.flat, panels, strict=False):
        of = by_name[name]
        bars = [
            (server, number)
            for server in servers_in(document)
            if (number := value(document, of, server)) is not None
        ]
        bars.sort(key=lambda bar: bar[1], reverse=not of.more_is_better)
        colors = [
            _OURS_COLOR if s == OURS else _FLOOR_COLOR if s == "C floor" else _OTHERS_COLOR
            for s, _ in bars
        ]
        drawn = axis.barh([s for s, _ in bars], [n for _, n in bars], color=colors)
        axis.bar_label(drawn, [format(n, of.show) for _, n in bars], padding=3, fontsize=8)
        axis.set_title(title)
        axis.margins(x=0.15)
        axis.xaxis.set_visible(False)
        axis.spines["bottom"].set_visible(False)
        axis.tick_params(left=False)
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    figure.text(0.01, 0.005, _title(document), fontsize=7, color="#666")
    figure.tight_layout(rect=(0, 0.02, 1, 1))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _plot_growth(document: Document, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3), sharey=True)
    titles = {"rooms": "rooms on the server", "members": "members in the room"}
    for axis, (what, sizes) in zip(axes, document["growth"].items(), strict=True):
        counts = [int(count) for count in sizes]
        costs = [statistics.median(_cpu(run[1], run) for run in runs) for runs in sizes.values()]
        axis.plot(counts, costs, marker="o", color=_OURS_COLOR)
        axis.set_xscale("log")
        axis.set_ylim(0, max(costs) * 1.4)
        axis.set_xticks(counts, [f"{count:,}" for count in counts])
        axis.minorticks_off()
        axis.set_xlabel(titles[what])
        axis.grid(axis="y", color="#eee")
    axes[0].set_ylabel("CPU of a signal to one peer, µs")
    figure.text(0.01, 0.01, _title(document), fontsize=7, color="#666")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
