"""One announcement to many users: time to the last, and CPU per delivery.

Real servers on loopback, and a real Redis between three of them. One loop reads all
sockets, so the clock is one; `all have it` is counted, not believed.
"""

import argparse
import json
import os
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.request import Request, urlopen

from rich.console import Console
from rich.table import Table

USERS = 2000
ROUNDS = 10
_PATH = "/api/creator/broadcast"
_UPGRADE = (
    "GET {path}/ws?user_id={user} HTTP/1.1\r\nHost: bench\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_ENVIRONMENT = {
    "TRIO_SIGNAL_MAX_CONNECTIONS_PER_IP": "20000",
    "TRIO_SIGNAL_CONNECTS_PER_IP_PER_MINUTE": "1000000",
}


class Figures(NamedTuple):
    """Rounds of one announcement: seconds, and CPU seconds of all servers."""

    answered: list[float]
    last: list[float]
    cpu: list[float]


class Server:
    """A server process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        found = re.search(r":(\d+)$", process.stdout.readline().strip())
        assert found, "the server did not start"
        self.port = int(found[1])
        self._pid = process.pid

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def run_server(folder: str, redis_port: int | None) -> Iterator[Server]:
    """A replica of its own, or one of several."""
    environment = os.environ | _ENVIRONMENT | {"DATABASE_URL": f"sqlite:///{folder}/bench.db"}
    environment["REDIS_URL"] = f"redis://127.0.0.1:{redis_port}" if redis_port else ""
    command = [sys.executable, "-m", "trio_signal", "serve", "--port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Server(process)
        finally:
            process.kill()


@contextmanager
def run_redis(folder: str) -> Iterator[int]:
    """A Redis; gives its port."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--dir", folder, "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while b"Ready to accept" not in process.stdout.readline():
            pass
        try:
            yield port
        finally:
            process.kill()


def connect(server: Server, user: int) -> socket.socket:
    """A user who attends."""
    sock = socket.create_connection(("127.0.0.1", server.port))
    sock.sendall(_UPGRADE.format(path=_PATH, user=f"user{user}").encode())
    received = b""
    while b"live updates" not in received:
        chunk = sock.recv(65536)
        assert chunk, received
        received += chunk
    return sock


def announce(server: Server, number: int) -> int:
    """The number of users to whom it was sent."""
    url = f"http://127.0.0.1:{server.port}{_PATH}"
    body = json.dumps({"message": f"Announcement {number}"}).encode()
    request = Request(url, body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as answer:
        sent: int = json.load(answer)["sent_to_users"]
        return sent


def measure(servers: list[Server], users: int, rounds: int) -> Figures:
    """Announce, and wait until everybody has it, again and again."""
    figures = Figures([], [], [])
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for user in range(users):
            sock = stack.enter_context(closing(connect(servers[user % len(servers)], user)))
            selector.register(sock, selectors.EVENT_READ)
        for number in range(rounds):
            cpu = sum(server.cpu() for server in servers)
            began = time.perf_counter()
            sent = announce(servers[0], number)
            figures.answered.append(time.perf_counter() - began)
            last = wait_for_all(selector, users, f'Announcement {number}"'.encode())
            figures.last.append(last - began)
            figures.cpu.append(sum(server.cpu() for server in servers) - cpu)
            assert sent == users, f"sent to {sent} of {users}"
    return figures


def wait_for_all(selector: selectors.BaseSelector, users: int, text: bytes) -> float:
    """When the last of the users had this."""
    missing = users
    while missing:
        ready = selector.select(timeout=30)
        assert ready, f"{missing} users did not get it"
        for key, _ in ready:
            assert isinstance(key.fileobj, socket.socket)
            missing -= text in key.fileobj.recv(65536)
    return time.perf_counter()


def main() -> None:
    """Measure on one replica and on three, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    table = Table("replicas", "answered, median", "last user, median", "worst", "CPU a delivery")
    for count in (1, 3):
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            redis = stack.enter_context(run_redis(folder)) if count > 1 else None
            servers = [stack.enter_context(run_server(folder, redis)) for _ in range(count)]
            figures = measure(servers, options.users, options.rounds)
        cpu = sum(figures.cpu) / (options.users * options.rounds)
        table.add_row(
            str(count),
            f"{statistics.median(figures.answered) * 1e3:.1f} ms",
            f"{statistics.median(figures.last) * 1e3:.1f} ms",
            f"{max(figures.last) * 1e3:.1f} ms",
            f"{cpu * 1e6:.1f} us",
        )
    console = Console()
    console.print(f"{options.users} users, {options.rounds} announcements; all had each of them")
    console.print(table)


if __name__ == "__main__":
    main()
