"""The cost of floods for others: `make floods`, some five minutes.

    python -m tests.floods.measure [ATTACK]...

A server, two honest peers that exchange 100 signals a second, and an attacker, each in a process of
its own. The server and the honest peers have a core each, with the highest priority that we may
set. The attacker uses what the honest peers leave of theirs, since a real one is elsewhere. Each
flood is measured between two periods without a flood.
"""

import contextlib
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.floods.attacks import ATTACKS
from tests.floods.resident import resident
from tests.raw import client_text, split_frames, upgrade_head
from tests.redis.server import run_redis_server

SECONDS = float(os.environ.get("SECONDS", "10"))
#: Signals a second: 50 from each of the two, the limit for one client.
RATE = 100
#: The cores that we may use.
CORES = sorted(os.sched_getaffinity(0))
#: Seconds for a flood to reach its full rate; some prepare something first.
RISE = 3.0
RISES = {"questions": 10.0}
#: Attacks that need other replicas.
WITH_REDIS = {"questions"}


class Figures(NamedTuple):
    """The results of a measurement, in seconds and bytes."""

    p50: float
    p99: float
    lost: int
    memory: int
    #: The growth of the server's memory in bytes a second.
    slope: float
    #: The slowest answer of `/healthz` and the slowest handshake, of five a second.
    health: float
    handshake: float


class Visitors:
    """Occasional strangers, each with a new connection, and how long they wait."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._over = threading.Event()
        self.slowest = {"health": 0.0, "handshake": 0.0}
        self._threads = [
            threading.Thread(target=self._come, args=("health", _HEALTHZ, b"200")),
            threading.Thread(
                target=self._come, args=("handshake", upgrade_head("/ws/door"), b"101")
            ),
        ]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _come(self, what: str, request: bytes, status: bytes) -> None:
        while not self._over.wait(0.2):
            began = time.monotonic()
            with socket.create_connection(self._address, timeout=30) as client:
                client.sendall(request)
                # While there are too many connections that have not authenticated: 503.
                assert client.recv(4096).split(b" ")[1] in (status, b"503")
            self.slowest[what] = max(self.slowest[what], time.monotonic() - began)


_HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def read_refused(address: tuple[str, int]) -> Counter[str]:
    """The number of refusals so far, by reason."""
    with socket.create_connection(address, timeout=30) as client:
        client.sendall(_HEALTHZ.replace(b"/healthz", b"/metrics"))
        text = b"".join(iter(lambda: client.recv(65536), b"")).decode()
    counted: Counter[str] = Counter()
    for line in text.splitlines():
        if line.startswith("trio_signal_refused_total{"):
            counted[line.split('"')[1]] = int(float(line.split()[-1]))
    return counted


class Honest:
    """A `mesh` client that never waits for data."""

    def __init__(self, address: tuple[str, int], name: str) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.socket.sendall(upgrade_head("/ws/peace"))
        self.say({"type": "auth_token", "clientId": name})
        while b'"users_in_room"' not in self.received:
            self.received += self.socket.recv(65536)
        self.received = b""
        self.socket.setblocking(False)

    def say(self, message: dict[str, object]) -> None:
        self.socket.sendall(client_text(message))

    def heard(self) -> list[int]:
        """The times at which the received offers were sent, in nanoseconds."""
        data = self.socket.recv(65536)
        assert data, "the server closed an honest client"
        frames, self.received = split_frames(self.received + data)
        texts = [frame.message for frame in frames if frame.opcode == 1]
        return [int(text["offer"]) for text in texts if text["type"] == "offer"]


def exchange(ann: Honest, bob: Honest, pid: int, seconds: float) -> Figures:
    """Send offers in turn at a steady rate; their latencies, and those of strangers meanwhile."""
    visitors = Visitors(ann.socket.getpeername())
    with visitors:
        figures = _exchange(ann, bob, pid, seconds)
    slowest = visitors.slowest
    return figures._replace(health=slowest["health"], handshake=slowest["handshake"])


def _exchange(ann: Honest, bob: Honest, pid: int, seconds: float) -> Figures:
    latencies: list[float] = []
    sent = 0
    memory: list[int] = []
    began = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for honest in (ann, bob):
            selector.register(honest.socket, selectors.EVENT_READ, honest)
        while (now := time.monotonic()) < began + seconds + 1:
            due = began + sent / RATE
            if now >= due and now < began + seconds:
                sender, to = ((ann, "bob"), (bob, "ann"))[sent % 2]
                sender.say({"type": "offer", "offer": time.monotonic_ns(), "to": to})
                sent += 1
                if sent % 20 == 0:
                    memory.append(resident(pid))
            # Then wait a second for late ones, with pauses that the visitors need.
            pause = min(due - time.monotonic(), 0.1) if now < began + seconds else 0.1
            for key, _ in selector.select(max(0.0, pause)):
                at = time.monotonic_ns()
                latencies += [(at - offer) / 1e9 for offer in key.data.heard()]
    latencies.sort()
    p99 = latencies[len(latencies) * 99 // 100]
    # Compare the first and the last quarter: memory that is taken once is no growth.
    quarter = max(1, len(memory) // 4)
    growth = statistics.mean(memory[-quarter:]) - statistics.mean(memory[:quarter])
    return Figures(
        p50=statistics.median(latencies),
        p99=p99,
        lost=sent - len(latencies),
        memory=max(memory),
        slope=growth / (seconds * 0.75),
        health=0,
        handshake=0,
    )


def prefer(pid: int, priority: int) -> None:
    """Raise the priority of a process, if we may."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(priority))


@contextlib.contextmanager
def running(command: list[str], *, priority: int, core: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process until the end of the block."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    with process:
        try:
            prefer(process.pid, priority)
            os.sched_setaffinity(process.pid, {CORES[core % len(CORES)]})
            yield process
        finally:
            process.terminate()


def attacker(name: str, base: str) -> list[str]:
    """The command line of an attack."""
    if name == "slowhttptest":
        options = ["-H", "-c", "200", "-r", "200", "-i", "1", "-l", "60", "-v", "0"]
        return ["slowhttptest", *options, "-u", f"http://{base}/"]
    return [sys.executable, "-m", "tests.floods.attacks", name, base]


def measure(name: str) -> tuple[Figures, Figures, Figures, Counter[str]]:
    """Measure before, during and after a flood; and count the refusals."""
    with contextlib.ExitStack() as stack:
        if name in WITH_REDIS:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            os.environ["REDIS_URL"] = stack.enter_context(run_redis_server(folder))
            stack.callback(os.environ.pop, "REDIS_URL")
        serve = [sys.executable, "-m", "trio_signal", "serve", "--port", "0"]
        server = stack.enter_context(running(serve, priority=2, core=0))
        assert server.stdout is not None
        base = server.stdout.readline().decode().strip().rpartition("//")[2]
        host, _, port = base.rpartition(":")
        address = host, int(port)
        ann, bob = (Honest(address, name) for name in ("ann", "bob"))
        exchange(ann, bob, server.pid, 2)
        before = exchange(ann, bob, server.pid, SECONDS)
        with running(attacker(name, base), priority=1, core=1):
            exchange(ann, bob, server.pid, RISES.get(name, RISE))
            during = exchange(ann, bob, server.pid, SECONDS)
            refused = read_refused(address)
        after = exchange(ann, bob, server.pid, SECONDS)
        ann.socket.close()
        bob.socket.close()
    return before, during, after, refused


def main() -> None:
    """Print the table."""
    os.sched_setaffinity(0, {CORES[-1]})
    prefer(0, 2)
    print(
        "| flood | p50 without, ms | p99 without | p50 with | p99 with | /healthz without | with"
        " | handshake without | with | lost | more memory, MB | slope, MB/s | refused |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name in sys.argv[1:] or [*ATTACKS, "slowhttptest"]:
        before, during, after, refused = measure(name)
        p50, p99 = ((a + b) / 2 * 1e3 for a, b in zip(before[:2], after[:2], strict=True))
        lost = before.lost + during.lost + after.lost
        memory = (max(during.memory, after.memory) - before.memory) / 1e6
        health, handshake = (max(a, b) * 1e3 for a, b in zip(before[-2:], after[-2:], strict=True))
        reasons = ", ".join(f"{reason} {count}" for reason, count in refused.items() if count)
        print(
            f"| {name} | {p50:.2f} | {p99:.2f} | {during.p50 * 1e3:.2f} | {during.p99 * 1e3:.2f}"
            f" | {health:.0f} | {during.health * 1e3:.0f}"
            f" | {handshake:.0f} | {during.handshake * 1e3:.0f}"
            f" | {lost} | {memory:.1f} | {during.slope / 1e6:.2f} | {reasons} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
