"""What it costs to be on another replica: `make bench`.

Real servers and a real Redis on loopback. One loop over all sockets sends and
receives, so the clock is one; its own CPU is told, to show that it is not the limit.
The same is measured on one replica and on two, in turn.
"""

import argparse
import json
import os
import platform
import re
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

PAIRS = 50
RATE = 1000
MEMBERS = 1000
FAN_OUTS = 30
_SENT_AT = re.compile(rb'"data":\{"n":(\d+),"at":(\d+)')
_UPGRADE = (
    b"GET /ws/%s HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class Figures(NamedTuple):
    """One round: seconds, and messages a second."""

    p50: float
    p99: float
    fan_out_rate: float
    load_cpu: float


def frame(message: str) -> bytes:
    """A masked text frame, by a mask of zeros."""
    text = message.encode()
    size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2)
    return b"\x81" + size + bytes(4) + text


class Peer:
    """A `mesh` client that has joined."""

    def __init__(self, port: int, room: str, client_id: str) -> None:
        self.id = client_id
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(_UPGRADE % room.encode())
        self.say(type="auth_token", clientId=client_id)
        self.received = b""
        while b'"users_in_room"' not in self.received:
            self.received += self.socket.recv(1 << 20)
        self.socket.setblocking(False)

    def say(self, **message: object) -> None:
        """Send a message."""
        self.socket.sendall(frame(json.dumps(message, separators=(",", ":"))))

    def heard(self) -> list[tuple[int, int]]:
        """The numbers and times of the messages that came."""
        self.received += self.socket.recv(1 << 20)
        found = [(int(n), int(at)) for n, at in _SENT_AT.findall(self.received)]
        # What is left may be the first part of a message.
        last = self.received.rfind(b'"data"')
        self.received = self.received[last + 6 :] if found else self.received[-4096:]
        return found


def relay(peers: list[Peer], seconds: float) -> list[float]:
    """Latencies of signals at a steady rate, from the first half to the second."""
    senders, receivers = peers[: len(peers) // 2], peers[len(peers) // 2 :]
    latencies: list[float] = []
    count = int(RATE * seconds)
    with selectors.DefaultSelector() as selector:
        for peer in receivers:
            selector.register(peer.socket, selectors.EVENT_READ, peer)
        start, sent, expected = time.monotonic_ns(), 0, set(range(count))
        give_up = start + int((seconds + 5) * 1e9)
        while expected and time.monotonic_ns() < give_up:
            now = time.monotonic_ns()
            while sent < count and now >= start + sent * 1_000_000_000 // RATE:
                pair = sent % len(senders)
                data = {"n": sent, "at": time.monotonic_ns(), "sdp": "x" * 200}
                senders[pair].say(type="message", to=receivers[pair].id, data=data)
                sent += 1
            for key, _ in selector.select(0.0002):
                for n, at in key.data.heard():
                    latencies.append((time.monotonic_ns() - at) / 1e9)
                    expected.discard(n)
    if expected or len(latencies) != count:
        raise SystemExit(f"{len(expected)} of {count} signals are lost, {len(latencies)} came")
    return latencies


def fan_out(peers: list[Peer]) -> float:
    """Deliveries a second when one peer speaks to all others, again and again."""
    speaker, *others = peers
    with selectors.DefaultSelector() as selector:
        for peer in others:
            selector.register(peer.socket, selectors.EVENT_READ, peer)
        start = time.monotonic()
        for n in range(FAN_OUTS):
            speaker.say(type="message", data={"n": n, "at": 0, "text": "x" * 150})
        missing = FAN_OUTS * len(others)
        while missing > 0:
            ready = selector.select(5)
            if not ready:
                raise SystemExit(f"{missing} deliveries are lost")
            missing -= sum(len(key.data.heard()) for key, _ in ready)
    return FAN_OUTS * len(others) / (time.monotonic() - start)


@contextmanager
def running(command: list[str], ready: bytes, **environment: str) -> Iterator[bytes]:
    """A server process, from the line that says that it is ready."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, env={**os.environ, **environment}
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if ready in line:
                    break
            else:
                raise SystemExit(f"{command[0]} did not start")
            yield line
        finally:
            process.send_signal(signal.SIGTERM)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def measure(ports: list[int], name: str, seconds: float) -> Figures:
    """One round; the second half of the peers is on the last replica."""
    cpu, clock = time.process_time(), time.monotonic()
    pairs = [
        Peer(ports[n * len(ports) // (2 * PAIRS)], f"relay-{name}", f"p{n}")
        for n in range(2 * PAIRS)
    ]
    latencies = sorted(relay(pairs, seconds))
    crowd = [Peer(ports[n % len(ports)], f"fan-{name}", f"f{n}") for n in range(MEMBERS + 1)]
    time.sleep(1)  # all have been told of each other
    for peer in crowd:
        drain(peer)
    rate = fan_out(crowd)
    for peer in pairs + crowd:
        peer.socket.close()
    load_cpu = (time.process_time() - cpu) / (time.monotonic() - clock)
    middle, tail = len(latencies) // 2, len(latencies) * 99 // 100
    return Figures(latencies[middle], latencies[tail], rate, load_cpu)


def drain(peer: Peer) -> None:
    """Forget what was said of those who joined."""
    while True:
        try:
            if not peer.socket.recv(1 << 20):
                raise SystemExit("a peer was closed")
        except BlockingIOError:
            peer.received = b""
            return


def main() -> None:
    """Measure, and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="of signals, each round")
    parser.add_argument("--json", type=Path, default=Path("bench/replicas.json"))
    options = parser.parse_args()
    results: dict[int, list[Figures]] = {1: [], 2: []}
    serve = [sys.executable, "-m", "trio_signal", "serve", "--port", "0"]
    with ExitStack() as stack:
        redis_port = str(free_port())
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        redis = ["redis-server", "--port", redis_port, "--save", "", "--dir", folder]
        stack.enter_context(running(redis, b"Ready to accept"))
        url = f"redis://127.0.0.1:{redis_port}"
        ports = {
            count: [
                int(
                    stack.enter_context(
                        running(serve, b"listening on", REDIS_URL=url, LOG_LEVEL="error")
                    ).rpartition(b":")[2]
                )
                for _ in range(count)
            ]
            for count in results
        }
        for number in track(range(options.rounds * 2), "measuring"):
            count = 1 + number % 2
            results[count].append(measure(ports[count], f"{number}", options.seconds))
    report(results, options.json)


def report(results: dict[int, list[Figures]], path: Path) -> None:
    """Medians of the rounds, side by side."""
    machine = (
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"Trio {version('trio')}, redis-py {version('redis')}"
    )
    table = Table(title=machine)
    for column in ("", "one replica", "two replicas"):
        table.add_column(column, justify="right" if column else "left")
    medians = {
        count: Figures(*map(statistics.median, zip(*rounds, strict=True)))
        for count, rounds in results.items()
    }
    rows: tuple[tuple[str, Callable[[Figures], str]], ...] = (
        (f"signal at {RATE}/s, p50", lambda f: f"{f.p50 * 1000:.2f} ms"),
        (f"signal at {RATE}/s, p99", lambda f: f"{f.p99 * 1000:.2f} ms"),
        (f"fan-out to {MEMBERS}, deliveries/s", lambda f: f"{f.fan_out_rate:,.0f}"),
        ("CPU of the load, of one core", lambda f: f"{f.load_cpu:.0%}"),
    )
    for name, show in rows:
        table.add_row(name, *(show(medians[count]) for count in results))
    Console().print(table)
    path.write_text(
        json.dumps(
            {
                "machine": machine,
                "rounds": {k: [f._asdict() for f in v] for k, v in results.items()},
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
