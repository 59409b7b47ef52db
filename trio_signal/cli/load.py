"""Load on a running server: whether a deployment carries a given load, and how fast.

All clients are in one process, which becomes busy long before a server is at its limit. So this
shows whether a deployment is good enough, not what it could do at most.
"""

import math
import sys
from contextlib import AsyncExitStack
from functools import partial
from uuid import uuid4

import msgspec
import trio
from msgspec import Struct
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from trio_signal.cli.failing import fail, first_of
from trio_signal.cli.stopping import until_stopped
from trio_signal.client import Client, Message, StateChanged, open_client
from trio_signal.errors import TrioSignalError

#: Seconds to wait after the last message was due; messages not received by then are lost.
_LAST = 5.0
#: Updates of the progress per second.
_SHOWN = 10


class Load(Struct, frozen=True):
    """The load to create."""

    url: str
    token: str | None
    pairs: int
    #: Messages per second of each pair.
    rate: float
    seconds: float
    #: Approximate bytes of a message's payload.
    size: int

    @property
    def messages(self) -> int:
        """How many messages one pair sends."""
        return max(1, round(self.rate * self.seconds))

    @property
    def total(self) -> int:
        """How many messages all pairs send."""
        return self.pairs * self.messages


class Report(Struct):
    """The result. Latencies are in milliseconds, from when a message was due."""

    pairs: int
    #: Seconds until all clients were in their rooms.
    connecting: float
    sent: int
    received: int
    messages_per_second: float
    p50: float
    p95: float
    p99: float
    slowest: float
    #: How often a client lost its connection.
    interruptions: int


class _Measured:
    """The measurements so far."""

    def __init__(self) -> None:
        self.sent = 0
        self.latencies: list[float] = []
        self.interruptions = 0
        #: When the first message was due, and when the last one came.
        self.began = self.last = 0.0

    def report(self, load: Load, connecting: float) -> Report:
        ascending = sorted(self.latencies)
        return Report(
            pairs=load.pairs,
            connecting=round(connecting, 3),
            sent=self.sent,
            received=len(ascending),
            messages_per_second=round(len(ascending) / max(self.last - self.began, 1e-9), 1),
            p50=percentile(ascending, 0.5),
            p95=percentile(ascending, 0.95),
            p99=percentile(ascending, 0.99),
            slowest=percentile(ascending, 1),
            interruptions=self.interruptions,
        )


def percentile(ascending: list[float], part: float) -> float:
    """The value below which this part of all values is, in milliseconds; 0 without values."""
    if not ascending:
        return 0.0
    return round(ascending[math.ceil(part * len(ascending)) - 1] * 1000, 2)


def run(load: Load, as_json: bool) -> None:
    """Load the server, and print the result; ends with 1 if a message did not arrive."""
    try:
        report = trio.run(_measure_until_stopped, load)
    except* TrioSignalError as errors:
        fail(f"{load.url}: {first_of(errors)}")
    if report is None:
        fail("stopped early")
    if as_json:
        sys.stdout.write(f"{msgspec.json.encode(report).decode()}\n")
    else:
        Console(highlight=False).print(_table(report))
    if report.received < load.total:
        fail(f"{load.total - report.received} of {load.total} messages did not arrive")


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in (
        ("pairs", f"{report.pairs}"),
        ("all joined after", f"{report.connecting:.2f} s"),
        ("messages sent", f"{report.sent:,}"),
        ("messages received", f"{report.received:,}"),
        ("received a second", f"{report.messages_per_second:,.0f}"),
        ("latency, median", f"{report.p50:.2f} ms"),
        ("latency, 95 %", f"{report.p95:.2f} ms"),
        ("latency, 99 %", f"{report.p99:.2f} ms"),
        ("latency, the slowest", f"{report.slowest:.2f} ms"),
        ("connections lost", f"{report.interruptions}"),
    ):
        table.add_row(name, value)
    return table


async def _measure_until_stopped(load: Load) -> Report | None:
    async with until_stopped():
        return await _measure(load)


async def _measure(load: Load) -> Report:
    measured = _Measured()
    progress = Progress(console=Console(stderr=True), disable=not sys.stderr.isatty())
    with progress:
        async with AsyncExitStack() as clients:
            began = trio.current_time()
            pairs = await _connect(load, clients, progress)
            connecting = trio.current_time() - began
            measured.began = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_show, progress, measured, load.total)
                async with trio.open_nursery() as speaking:
                    for speaker, listener in pairs:
                        speaking.start_soon(_run_pair, load, measured, speaker, listener)
                nursery.cancel_scope.cancel()
    return measured.report(load, connecting)


async def _connect(
    load: Load, clients: AsyncExitStack, progress: Progress
) -> list[tuple[Client, Client]]:
    """Connect one client after the other; all stay until `clients` is closed."""
    bar = progress.add_task("connecting", total=load.pairs)
    prefix = f"bench-{uuid4().hex[:8]}"
    pairs = []
    for number in range(load.pairs):
        enter = partial(open_client, load.url, room=f"{prefix}-{number}", token=load.token)
        speaker = await clients.enter_async_context(enter(username="bench"))
        listener = await clients.enter_async_context(enter(username="bench"))
        pairs.append((speaker, listener))
        progress.advance(bar)
    return pairs


async def _show(progress: Progress, measured: _Measured, total: int) -> None:
    bar = progress.add_task("signaling", total=total)
    while True:
        progress.update(bar, completed=len(measured.latencies))
        await trio.sleep(1 / _SHOWN)


async def _run_pair(load: Load, measured: _Measured, speaker: Client, listener: Client) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_overhear, measured, speaker)
        # The deadline includes the sender, because a client waits for as long as the server is
        # away.
        nursery.cancel_scope.deadline = measured.began + load.messages / load.rate + _LAST
        nursery.start_soon(_listen, load, measured, listener, nursery.cancel_scope)
        await _speak(load, measured, speaker, listener.id)


async def _speak(load: Load, measured: _Measured, speaker: Client, to: str) -> None:
    filler = "x" * load.size
    for number in range(load.messages):
        due = measured.began + number / load.rate
        await trio.sleep_until(due)
        measured.sent += 1
        await speaker.send([due, filler], to=to)


async def _listen(
    load: Load, measured: _Measured, listener: Client, scope: trio.CancelScope
) -> None:
    """Receive messages; the pair is done when all have arrived."""
    missing = load.messages
    async for event in listener:
        match event:
            case Message(data=[float(due), *_]):
                measured.last = trio.current_time()
                measured.latencies.append(measured.last - due)
                missing -= 1
            case StateChanged(state="waiting"):
                measured.interruptions += 1
        if not missing:
            scope.cancel()


async def _overhear(measured: _Measured, speaker: Client) -> None:
    """Read the sender's events; a client whose events are not read ends."""
    async for event in speaker:
        measured.interruptions += isinstance(event, StateChanged) and event.state == "waiting"
