"""The services of compose.yaml without Docker: replicas behind nginx, Redis, PostgreSQL and Janus.

    python deploy/cluster.py --port 8000

Ctrl-C or closing the terminal stops everything. A program that ends or is killed is started
again. Everything is on loopback, except for the media of Janus; stored data are deleted at the end.
The replicas take their settings from the environment, as `trio-signal serve` does. Without Janus,
or if another media server is set, none is started.
"""

import argparse
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import trio

from trio_signal.cli.failing import first_of

HOST = "127.0.0.1"
#: Seconds for a program to stop before it is killed.
STOPPING = 20.0
#: Seconds until a program that ended by itself is started again.
PAUSE = 0.5

#: Run as root, start programs that refuse to be root, or need not be root, without privileges.
_UNPRIVILEGED: Mapping[str, Any] = (
    {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}
    if os.getuid() == 0
    else {}
)
_POSTGRES = "/usr/lib/postgresql/*/bin"
_JANUS_CONF = Path(__file__).parent / "janus"
_NGINX_CONF = Path(__file__).parent / "nginx.conf.template"

#: Called with the name of a program and a line of its output.
OnLine = Callable[[str, str], None]


class ClusterError(Exception):
    """A program is missing, or did not start."""


class Program:
    """A server that is kept running: it is started again when it ends, unless it was stopped."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        ready: str,
        on_line: OnLine,
        goodbye: signal.Signals = signal.SIGTERM,
        **options: Any,
    ) -> None:
        """A program for `run`. It prints `ready` when it serves; `options` are those of Popen."""
        self.name = name
        self.pid = 0
        self._command = command
        self._ready = ready
        self._on_line = on_line
        self._goodbye = goodbye
        self._options = options
        self._wanted = trio.Event()
        self._wanted.set()
        self._serving = trio.Event()
        self._gone = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep it running until cancelled; reports as started when it serves.

        Raises ClusterError if it ends before it has served for the first time.
        """
        if not await self._run_once(task_status):
            raise ClusterError(f"{self.name} did not start")
        while True:
            if self._wanted.is_set():
                await trio.sleep(PAUSE)
                self._on_line(self.name, "has exited: restarting it")
            await self._wanted.wait()
            await self._run_once(trio.TASK_STATUS_IGNORED)

    async def stop(self, how: signal.Signals) -> None:
        """Send a signal, and wait until it has ended. It is not started again until `start`."""
        self._wanted = trio.Event()
        os.kill(self.pid, how)
        await self._gone.wait()

    async def start(self) -> None:
        """Start it after `stop`, and wait until it serves."""
        self._wanted.set()
        await self._serving.wait()

    async def _run_once(self, task_status: trio.TaskStatus[None]) -> bool:
        """Run it from start to end; whether it ever served."""
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(
                partial(
                    trio.run_process,
                    self._command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    check=False,
                    deliver_cancel=self._say_goodbye,
                    # A separate group: Ctrl-C is for us, and programs stop in order.
                    process_group=0,
                    **self._options,
                )
            )
            self.pid = process.pid
            self._gone = trio.Event()
            async for line in _lines(process):
                self._on_line(self.name, line)
                if self._ready in line and not self._serving.is_set():
                    self._serving.set()
                    task_status.started()
        served, self._serving = self._serving.is_set(), trio.Event()
        self._gone.set()
        return served

    async def _say_goodbye(self, process: trio.Process) -> None:
        process.send_signal(self._goodbye)
        await trio.sleep(STOPPING)
        process.kill()


async def _lines(process: trio.Process) -> AsyncIterator[str]:
    """The lines of its output, until nobody can write any more."""
    assert process.stdout is not None  # noqa: S101  it is a pipe
    text = b""
    async for chunk in process.stdout:
        *lines, text = (text + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")


class Cluster(NamedTuple):
    """The running programs and their addresses."""

    #: Host and port of nginx.
    base: str
    #: Host and port of each replica.
    replica_bases: Sequence[str]
    redis_url: str
    database_url: str
    nginx: Program
    replicas: Sequence[Program]
    redis: Program
    postgres: Program
    #: The media server and its URL, if there is one.
    janus: Program | None = None
    janus_url: str | None = None


@asynccontextmanager
async def open_cluster(
    on_line: OnLine,
    *,
    port: int = 0,
    count: int = 3,
    environment: Mapping[str, str] | None = None,
    with_media_server: bool = False,
) -> AsyncIterator[Cluster]:
    """Start everything, and stop it when the block ends; port 0 picks a free one.

    Begins when all programs serve. The replicas stop first, so that their clients are told, and the
    stores last. Raises ClusterError, in a group, if a program is missing or does not start.
    """
    with TemporaryDirectory(prefix="trio-signal-") as name:
        directory = Path(name)
        if _UNPRIVILEGED:
            shutil.chown(directory, _UNPRIVILEGED["user"], _UNPRIVILEGED["group"])
        chosen, redis_port, postgres_port, janus_port, *replica_ports = free_ports(4 + count)
        base = f"{HOST}:{port or chosen}"
        redis_url = f"redis://{HOST}:{redis_port}"
        database_url = f"postgresql://trio_signal@{HOST}:{postgres_port}/postgres"
        settings = os.environ | (environment or {})
        settings |= {
            "REDIS_URL": redis_url,
            "DATABASE_URL": database_url,
            "TRIO_SIGNAL_TRUSTED_PROXIES": "1",
        }
        janus, janus_url = None, None
        if with_media_server:
            secret = secrets.token_hex(16)
            janus, janus_url = _janus(directory, janus_port, secret, on_line)
            settings |= {"TRIO_SIGNAL_RELAY_URLS": janus_url, "TRIO_SIGNAL_RELAY_TOKEN": secret}
        redis = _redis(directory, redis_port, on_line)
        postgres = await _postgres(directory, postgres_port, on_line)
        replica_bases = [f"{HOST}:{port}" for port in replica_ports]
        nginx = _nginx(directory, base, replica_bases, on_line)
        replicas = [
            _replica(number, port, settings, on_line)
            for number, port in enumerate(replica_ports, 1)
        ]
        neighbours = [redis, postgres, *([janus] if janus is not None else [])]
        async with _running(*neighbours), _running(nginx):
            await _release(settings)
            async with _running(*replicas):
                yield Cluster(
                    base=base,
                    replica_bases=replica_bases,
                    redis_url=redis_url,
                    database_url=database_url,
                    nginx=nginx,
                    replicas=replicas,
                    redis=redis,
                    postgres=postgres,
                    janus=janus,
                    janus_url=janus_url,
                )


@asynccontextmanager
async def _running(*programs: Program) -> AsyncIterator[None]:
    """Keep programs running that can start and stop at the same time."""
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as starting:
            for program in programs:
                starting.start_soon(nursery.start, program.run)
        yield
        nursery.cancel_scope.cancel()


def _redis(directory: Path, port: int, on_line: OnLine) -> Program:
    options = {"bind": HOST, "port": str(port), "dir": str(directory), "save": ""}
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    command: list[str | Path] = [_program("redis-server"), *arguments]
    ready = "Ready to accept connections"
    return Program("redis", command, ready=ready, on_line=on_line, **_UNPRIVILEGED)


async def _postgres(directory: Path, port: int, on_line: OnLine) -> Program:
    """PostgreSQL, with a new database."""
    data = directory / "postgres"
    postgres, initdb = (_program(name, _POSTGRES) for name in ("postgres", "initdb"))
    options = ["-U", "trio_signal", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
    await trio.run_process(
        [initdb, "-D", data, *options], capture_stdout=True, cwd=directory, **_UNPRIVILEGED
    )
    settings = {"listen_addresses": HOST, "port": str(port), "unix_socket_directories": ""}
    arguments = [part for item in settings.items() for part in ("-c", "=".join(item))]
    command: list[str | Path] = [postgres, "-D", data, *arguments]
    return Program(
        "postgres",
        command,
        ready="ready to accept connections",
        on_line=on_line,
        goodbye=signal.SIGINT,  # it does not wait for its clients
        cwd=directory,
        **_UNPRIVILEGED,
    )


def _janus(directory: Path, port: int, secret: str, on_line: OnLine) -> tuple[Program, str]:
    """A media server whose API is on loopback, and its URL."""
    conf = directory / "janus"
    shutil.copytree(_JANUS_CONF, conf)
    transport = conf / "janus.transport.websockets.jcfg"
    here = f'ws_ip = "{HOST}"\n    ws_port = {port}'
    transport.write_text(transport.read_text().replace("ws_port = 8188", here))
    command: list[str | Path] = [_program("janus"), "-F", conf, "-C", conf / "janus.jcfg"]
    command.append(f"--apisecret={secret}")
    ready = "WebSockets thread started"
    program = Program("janus", command, ready=ready, on_line=on_line, **_UNPRIVILEGED)
    return program, f"janus+ws://{HOST}:{port}"


def _nginx(directory: Path, base: str, replicas: Sequence[str], on_line: OnLine) -> Program:
    names = {
        "LISTEN": base,
        "REPLICAS": " ".join(f"server {replica};" for replica in replicas),
        "STATE": str(directory),
    }
    conf = directory / "nginx.conf"
    conf.write_text(Template(_NGINX_CONF.read_text()).safe_substitute(names))
    # Only at this level does it log that it has started.
    own = f"daemon off; pid {directory}/nginx.pid; error_log stderr notice;"
    nginx = _program("nginx", "/usr/sbin")
    command: list[str | Path] = [nginx, "-p", directory, "-c", conf, "-g", own]
    return Program("nginx", command, ready="start worker process", on_line=on_line, **_UNPRIVILEGED)


def _replica(number: int, port: int, settings: Mapping[str, str], on_line: OnLine) -> Program:
    command = [sys.executable, "-m", "trio_signal", "serve", "--port", str(port)]
    return Program(
        f"replica-{number}", command, ready="listening on", on_line=on_line, env=settings
    )


async def _release(settings: Mapping[str, str]) -> None:
    """Do what a platform does before it starts a version: `release:` in the Procfile."""
    command = [sys.executable, "-m", "trio_signal", "db", "upgrade"]
    await trio.run_process(command, env=settings, capture_stdout=True)


def _program(name: str, *where: str) -> Path:
    """The path of a program, even if Debian keeps it out of PATH."""
    found = shutil.which(name)
    places = [Path(found)] if found else []
    for pattern in where:
        places += sorted(Path("/").glob(f"{pattern.lstrip('/')}/{name}"), reverse=True)
    if not places:
        raise ClusterError(f"{name} is not installed; `make cluster` installs it")
    return places[0]


def free_ports(count: int) -> list[int]:
    """Different ports for servers that are down at times.

    The kernel must not use them for outgoing connections: while the server is down, a client
    that tries to reach it could be given that port, and connect to itself.
    """
    found: list[int] = []
    with ExitStack() as sockets:
        for port in random.sample(range(20_000, 32_000), 200):
            sock = sockets.enter_context(socket.socket())
            with suppress(OSError):
                sock.bind((HOST, port))
                found.append(port)
            if len(found) == count:
                return found
    raise ClusterError("there are no free ports")


# The command line


def _print_line(name: str, line: str) -> None:
    print(f"{name:<9} | {line}", flush=True)


def _stop_printing() -> None:
    """Discard output: the terminal is gone, and writing to it would fail."""
    with Path(os.devnull).open("wb") as nowhere:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere.fileno(), stream.fileno())


async def _until_told(port: int, count: int) -> None:
    """Run until SIGINT, SIGTERM or SIGHUP; a second signal stops everything at once."""
    stopping = trio.Event()
    goodbyes = {signal.SIGINT, signal.SIGTERM}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as with nohup
        goodbyes.add(signal.SIGHUP)
    with trio.open_signal_receiver(*goodbyes) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_heed, signals, stopping, nursery.cancel_scope)
            has_own = "TRIO_SIGNAL_RELAY_URLS" in os.environ or shutil.which("janus") is None
            async with open_cluster(
                _print_line, port=port, count=count, with_media_server=not has_own
            ) as cluster:
                for program, base in zip(cluster.replicas, cluster.replica_bases, strict=True):
                    print(f"{program.name} is http://{base}, process {program.pid}")
                print(f"redis is {cluster.redis_url}, database {cluster.database_url}")
                if cluster.janus_url is not None:
                    print(f"media server is {cluster.janus_url}")
                print(f"listening on http://{cluster.base}", flush=True)
                await stopping.wait()
            nursery.cancel_scope.cancel()
    print("stopped", flush=True)


async def _heed(signals: AsyncIterator[int], stopping: trio.Event, scope: trio.CancelScope) -> None:
    if await anext(signals) == signal.SIGHUP:
        _stop_printing()
    stopping.set()
    await anext(signals)
    scope.cancel()


def main() -> None:
    """Run everything until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Three replicas behind nginx, without Docker.")
    parser.add_argument("--port", type=int, default=8000, help="port of nginx; 0 picks a free one")
    parser.add_argument("--replicas", type=int, default=3, help="how many")
    given = parser.parse_args()
    try:
        trio.run(_until_told, given.port, given.replicas)
    except* (ClusterError, OSError, subprocess.CalledProcessError) as errors:
        sys.exit(f"cluster: {first_of(errors)}")


if __name__ == "__main__":
    main()
