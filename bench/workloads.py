"""The workloads, and one run of a workload on a server."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from bench.protocols import ANNOUNCEMENT_CALL, announcements
from bench.servers import MissingError, Running, Target, compile_c, process, running

#: A phase of a run as load.c reports it.
Phase = dict[str, Any]


class Cores(NamedTuple):
    """The cores for the server, and for everything else."""

    server: set[int]
    load: set[int]


class Workload(NamedTuple):
    """A number of clients that join, and the phases that they then run."""

    name: str
    connections: int
    room_size: int
    phases: tuple[str, ...]
    #: New connections a second; 0 means as fast as they are accepted.
    pace: int = 0
    #: Whether further rounds run it; some take long.
    again: bool = True
    #: Whether only the most important servers run it; others would need minutes.
    for_few: bool = False
    #: Whether clients lose their connections and reconnect.
    returns: bool = False
    heartbeat: float = 20
    #: The limit in seconds for all to join.
    give_up: float = 90

    @property
    def needs_rooms(self) -> bool:
        """Whether it needs a server with rooms."""
        return any(phase.startswith("fanout") for phase in self.phases)

    @property
    def deploys(self) -> bool:
        """Whether a server stops, and its clients move to the next one."""
        return any(phase.startswith("deploy") for phase in self.phases)


SIGNAL = "size=2048"
SPEECH = "fanout window=2 size=200"


def workloads(quick: bool) -> dict[str, Workload]:
    """All workloads by name; the quick ones are smaller and shorter."""
    seconds = 2 if quick else 3
    crowd = 500 if quick else 2000
    idle = 2000 if quick else 10_000
    chat = 300 if quick else 1000
    found = (
        Workload(
            "relay",
            100,
            2,
            (
                f"relay pairs=50 window=4 {SIGNAL} warmup=0.7 seconds={seconds}",
                *(f"relay pairs=50 rate=1000 {SIGNAL} warmup=0.3 seconds=1",) * (seconds + 1),
            ),
        ),
        # As in a real call: one signal at a time.
        Workload(
            "one", 100, 2, (f"relay pairs=50 window=1 {SIGNAL} warmup=0.7 seconds={seconds}",)
        ),
        Workload("fanout", 500, 500, (f"{SPEECH} warmup=0.5 seconds={seconds}",)),
        Workload(
            "fanout-one", 500, 500, (f"fanout window=1 size=200 warmup=0.5 seconds={seconds}",)
        ),
        Workload("connect", crowd, 10, ("idle seconds=0.1",)),
        Workload(
            "storm",
            crowd,
            crowd,
            (f"{SPEECH} warmup=0.5 seconds={seconds}",),
            pace=crowd,
            again=False,
            for_few=True,
        ),
        Workload("churn", 100, 2, (f"churn warmup=0.5 seconds={seconds}",)),
        Workload("idle", idle, 10, ("idle seconds=6",), again=False, heartbeat=5),
        # 5 % of all clients lose their network for two seconds, once in ten.
        Workload(
            "drops",
            chat,
            chat,
            (f"drops rate=20 size=200 lost={chat // 20} away=2 seconds=10",),
            again=False,
            returns=True,
        ),
        Workload("deploy", idle, 10, ("deploy",), returns=True),
    )
    return {workload.name: workload for workload in found}


class FailedError(Exception):
    """A failed run: the server cannot handle the load, or a message was lost."""


def run(target: Target, workload: Workload, cores: Cores) -> list[Phase]:
    """Start a server, put it under load, and stop it; raises MissingError or FailedError."""
    if workload.returns:
        target = target.returned()
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running(target, cores.server, workload.heartbeat))
            for _ in range(2 if workload.deploys else 1)
        ]
        return load(target, workload, servers, cores)


def load(target: Target, workload: Workload, servers: list[Running], cores: Cores) -> list[Phase]:
    """Run the load on running servers."""
    next_server = servers[-1:] if workload.deploys else []
    lines = [
        *(f"port {server.port}" for server in servers if server not in next_server),
        *(f"next_port {server.port}" for server in next_server),
        *(f"pid {server.pid}" for server in servers),
        f"connections {workload.connections}",
        f"room_size {workload.room_size if target.protocol.speech else 1}",
        f"pace {workload.pace}",
        f"give_up {workload.give_up}",
        *(f"phase {phase}" for phase in workload.phases),
    ]
    program = compile_c("load")
    try:
        done = subprocess.run(
            [program],
            input="\n".join(lines) + "\n" + target.protocol.settings(),
            capture_output=True,
            text=True,
            timeout=2 * workload.give_up + 60,
            check=False,
            preexec_fn=lambda: os.sched_setaffinity(0, cores.load),
        )
    except subprocess.TimeoutExpired:
        raise FailedError("the run did not end in time") from None
    if done.returncode:
        raise FailedError(done.stderr.strip()[:800] or f"the load ended with {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines()]


# Replicas


RELAY_RATE = Workload("relay", 100, 2, (f"relay pairs=50 rate=1000 {SIGNAL} warmup=0.5 seconds=4",))


def _crowd(quick: bool) -> Workload:
    members = 300 if quick else 1000
    return Workload("fanout", members, members, (f"{SPEECH} warmup=0.5 seconds=3",))


@contextmanager
def redis(cores: set[int]) -> Iterator[str]:
    """Run a Redis; yields its URL. Raises MissingError."""
    program = shutil.which("redis-server")
    if program is None:
        raise MissingError("there is no redis-server")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--save", "", "--dir", folder]
        with process(command, "Ready to accept", cores, {}):
            yield f"redis://127.0.0.1:{port}"


#: A server that is stopped in order hands over its sessions.
RESTART = Workload("deploy", 1000, 10, ("deploy signal=15",), returns=True)


def run_replicas(target: Target, count: int, quick: bool, cores: Cores) -> dict[str, list[Phase]]:
    """Workloads for several replicas: the two peers of a pair are on different ones."""
    chosen = [
        (target, RELAY_RATE),
        (target, _crowd(quick)),
        (target._replace(protocol=announcements()), _announce(quick)),
    ]
    if count > 1:
        chosen.append((target.returned(), RESTART))
    return {workload.name: _run_joined(each, workload, count, cores) for each, workload in chosen}


def _announce(quick: bool) -> Workload:
    users = 500 if quick else 2000
    return Workload(
        "announce", users, 1, (f"announce size={ANNOUNCEMENT_CALL} warmup=0.5 seconds=3",)
    )


def _run_joined(target: Target, workload: Workload, count: int, cores: Cores) -> list[Phase]:
    """One run on several replicas that share a Redis and a database."""
    with (
        redis(cores.load) as url,
        tempfile.TemporaryDirectory() as folder,
        ExitStack() as replicas,
    ):
        settings = {
            "REDIS_URL": url,
            "DATABASE_URL": f"sqlite:///{folder}/announcements.db",
            "TRIO_SIGNAL_DRAIN_PAUSE": "0",  # there is no load balancer to wait for
        }
        servers = [
            replicas.enter_context(running(target, cores.server, 20, **settings))
            for _ in range(count)
        ]
        return load(target, workload, servers, cores)


# Growth: the cost of a signal with more rooms, and with more members


def growth(quick: bool) -> dict[str, dict[int, Workload]]:
    """Workloads by the number of rooms, and by the number of members of a room."""
    phase = (f"relay pairs=50 window=4 {SIGNAL} warmup=0.7 seconds=2",)
    rooms = (50, 250, 1000) if quick else (50, 150, 500, 1500, 5000)
    members = (100, 200, 400) if quick else (100, 200, 500, 1000, 2000)
    return {
        "rooms": {count: Workload(f"{count} rooms", 2 * count, 2, phase) for count in rooms},
        "members": {count: Workload(f"{count} members", count, count, phase) for count in members},
    }
