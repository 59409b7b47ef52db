"""What floods cost others: `make floods`, some five minutes.

    python -m tests.floods.measure [ATTACK]...

A server, two honest peers that exchange 100 signals a second, and an attacker, each a process of
its own. Server and honest peers have a core each, and go before all else on it where we may say
so. The attacker has what they leave of the latter: a real one is elsewhere. Each flood is measured
between two times without one.
"""

import contextlib
import os
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from tests.floods.attacks import ATTACKS
from tests.floods.resident import resident
from tests.raw import client_text, split_frames, upgrade_head

SECONDS = 10.0
#: Signals a second: 50 from each of the two, which is what one client may send.
RATE = 100
#: Those of the machine that we may use.
CORES = sorted(os.sched_getaffinity(0))
#: Seconds for the flood to rise.
RISE = 2.0


class Figures(NamedTuple):
    """One measurement: seconds, and bytes."""

    p50: float
    p99: float
    lost: int
    memory: int


class Honest:
    """A `mesh` client that reads without waiting."""

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
        """When the offers that came were sent, in nanoseconds."""
        data = self.socket.recv(65536)
        assert data, "the server closed an honest client"
        frames, self.received = split_frames(self.received + data)
        texts = [frame.message for frame in frames if frame.opcode == 1]
        return [int(text["offer"]) for text in texts if text["type"] == "offer"]


def exchange(ann: Honest, bob: Honest, pid: int, seconds: float) -> Figures:
    """Offers in turn, at a steady rate; how long each took."""
    latencies: list[float] = []
    sent = memory = 0
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
                memory = max(memory, resident(pid)) if sent % 20 == 0 else memory
            for key, _ in selector.select(max(0.0, min(due - time.monotonic(), 0.1))):
                at = time.monotonic_ns()
                latencies += [(at - offer) / 1e9 for offer in key.data.heard()]
    latencies.sort()
    p99 = latencies[len(latencies) * 99 // 100]
    return Figures(statistics.median(latencies), p99, sent - len(latencies), memory)


def prefer(pid: int, priority: int) -> None:
    """Let a process go before all those of less priority, if we may."""
    with contextlib.suppress(PermissionError):
        os.sched_setscheduler(pid, os.SCHED_RR, os.sched_param(priority))


@contextlib.contextmanager
def running(command: list[str], *, priority: int, core: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process until the end of the block."""
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
    """The command of an attack."""
    if name == "slowhttptest":
        options = ["-H", "-c", "200", "-r", "200", "-i", "1", "-l", "60", "-v", "0"]
        return ["slowhttptest", *options, "-u", f"http://{base}/"]
    return [sys.executable, "-m", "tests.floods.attacks", name, base]


def measure(name: str) -> tuple[Figures, Figures, Figures]:
    """Before, during and after a flood."""
    serve = [sys.executable, "-m", "trio_signal", "serve", "--port", "0"]
    with running(serve, priority=2, core=0) as server:
        assert server.stdout is not None
        base = server.stdout.readline().decode().strip().rpartition("//")[2]
        host, _, port = base.rpartition(":")
        ann, bob = (Honest((host, int(port)), name) for name in ("ann", "bob"))
        exchange(ann, bob, server.pid, 2)
        before = exchange(ann, bob, server.pid, SECONDS)
        with running(attacker(name, base), priority=1, core=1):
            exchange(ann, bob, server.pid, RISE)
            during = exchange(ann, bob, server.pid, SECONDS)
        after = exchange(ann, bob, server.pid, SECONDS)
        ann.socket.close()
        bob.socket.close()
    return before, during, after


def main() -> None:
    """Print a table."""
    os.sched_setaffinity(0, {CORES[-1]})
    prefer(0, 2)
    print(
        "| flood | p50 without, ms | p99 without | p50 with | p99 with | lost | more memory, MB |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in sys.argv[1:] or [*ATTACKS, "slowhttptest"]:
        before, during, after = measure(name)
        p50, p99 = ((a + b) / 2 * 1e3 for a, b in zip(before[:2], after[:2], strict=True))
        lost = before.lost + during.lost + after.lost
        memory = (max(during.memory, after.memory) - before.memory) / 1e6
        print(
            f"| {name} | {p50:.2f} | {p99:.2f} | {during.p50 * 1e3:.2f} | {during.p99 * 1e3:.2f}"
            f" | {lost} | {memory:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
