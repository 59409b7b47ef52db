"""The servers that are measured: how to install, start and address each."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from bench.protocols import (
    MESH,
    MESH_WITH_SESSION,
    MESH_WITH_TOKEN,
    PEERJS,
    SECRET,
    SOCKET_IO,
    SOCKET_IO_WITH_SESSION,
    Protocol,
)

HERE = Path(__file__).parent
PEERS = HERE / "peers"
#: Built and installed files; made again when their sources change.
CACHE = HERE / ".cache"
#: The log of the servers.
LOG = CACHE / "servers.log"

#: The settings of our server: as in production, but for many clients on one machine.
OURS: Mapping[str, str] = {
    "LOG_LEVEL": "info",
    "LOG_FORMAT": "json",
    "TRIO_SIGNAL_AUTH": "token",
    "TRIO_SIGNAL_JWT_SECRET": SECRET,
    "DATABASE_URL": f"sqlite:///{CACHE / 'announcements.db'}",
    "TRIO_SIGNAL_MAX_CONNECTIONS": "20000",
    # All limits are on. Normal clients never reach those below, but thousands of clients on one
    # machine do.
    "TRIO_SIGNAL_MAX_CONNECTIONS_PER_IP": "20000",
    "TRIO_SIGNAL_CONNECTS_PER_IP_PER_MINUTE": "10000000",
    "TRIO_SIGNAL_MAX_UNAUTHENTICATED": "20000",
    "TRIO_SIGNAL_MESSAGES_PER_SECOND": "1000000",
    "TRIO_SIGNAL_MESSAGE_BURST": "1000000",
}


class MissingError(Exception):
    """A server is not available on this machine; the message has the reason."""


class Target(NamedTuple):
    """A server to measure."""

    name: str
    #: Installs what is missing; the command that starts the server, without options.
    prepare: Callable[[], list[str]]
    protocol: Protocol = MESH
    #: The protocol of clients that reconnect; None if that is not measured.
    returning: Protocol | None = None
    environment: Mapping[str, str] = {}

    def returned(self) -> "Target":
        """The same target with clients that reconnect."""
        assert self.returning is not None
        environment = {**self.environment, "RECOVERY": "1"}  # read by the Socket.IO server
        return self._replace(protocol=self.returning, environment=environment)


class Running(NamedTuple):
    """A running server."""

    pid: int
    port: int


# Installing


def _check(command: Sequence[str], cwd: Path | None = None) -> None:
    """Run a command that installs something; MissingError has the end of its output if it fails."""
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, check=False, timeout=600
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingError(str(error)) from None
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise MissingError(f"{command[0]}: {words[-1] if words else done.returncode}")


def _is_fresh(made: Path, *sources: Path) -> bool:
    return made.exists() and all(
        made.stat().st_mtime >= source.stat().st_mtime for source in sources
    )


def compile_c(name: str) -> Path:
    """Compile a C file; the path of the program. Raises MissingError."""
    program, source = CACHE / name, HERE / f"{name}.c"
    if not _is_fresh(program, source, HERE / "ws.h"):
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise MissingError("there is no C compiler")
        CACHE.mkdir(exist_ok=True)
        _check([compiler, "-O2", "-std=gnu11", "-o", str(program), str(source)])
    return program


def _floor() -> list[str]:
    return [str(compile_c("floor"))]


def _ours() -> list[str]:
    return [str(Path(sysconfig.get_path("scripts")) / "trio-signal"), "serve", "--port", "0"]


def _node(folder: str) -> Callable[[], list[str]]:
    """A peer on Node; its packages are installed into a copy, which Git ignores."""

    def prepare() -> list[str]:
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            raise MissingError("there is no Node with npm")
        source, copy = PEERS / folder, CACHE / folder
        done = copy / ".installed"
        if not _is_fresh(done, source / "package-lock.json"):
            shutil.rmtree(copy, ignore_errors=True)
            copy.mkdir(parents=True)
            for name in ("package.json", "package-lock.json"):
                shutil.copy(source / name, copy)
            _check([npm, "ci", "--no-audit", "--no-fund", "--omit=dev"], copy)
            done.touch()
        shutil.copy(source / "server.js", copy)
        return [node, str(copy / "server.js")]

    return prepare


def _python(folder: str) -> Callable[[], list[str]]:
    """A peer in Python, in an environment of its own."""

    def prepare() -> list[str]:
        requirements, environment = PEERS / folder / "requirements.txt", CACHE / folder
        python, done = environment / "bin" / "python", environment / ".installed"
        if not _is_fresh(done, requirements):
            try:
                venv.create(environment, clear=True, with_pip=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise MissingError(str(error)) from None
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            _check([*pip, "--requirement", str(requirements)])
            done.touch()
        return [str(python), str(PEERS / folder / "server.py")]

    return prepare


TARGETS = (
    Target("trio-signal", _ours, MESH_WITH_TOKEN, MESH_WITH_SESSION, OURS),
    Target("node ws", _node("ws"), returning=MESH),
    Target("socket.io", _node("socketio"), SOCKET_IO, SOCKET_IO_WITH_SESSION),
    Target("peerjs", _node("peerjs"), PEERJS),
    Target("trio-signal peerjs", _ours, PEERJS, environment={**OURS, "TRIO_SIGNAL_AUTH": "open"}),
    Target("fastapi", _python("fastapi")),
    Target("starlette", _python("starlette")),
    Target("python-socketio", _python("python_socketio"), SOCKET_IO),
    Target("websockets trio", _python("websockets_trio")),
    Target("trio-websocket", _python("trio_websocket")),
    Target("C floor", _floor),
)


def other_checkout(folder: Path) -> Target:
    """A target for this server in another folder, such as the previous commit."""
    program = folder / ".venv" / "bin" / "trio-signal"
    return TARGETS[0]._replace(
        name=str(folder), prepare=lambda: [str(program.absolute()), "serve", "--port", "0"]
    )


def versions() -> dict[str, str]:
    """The versions of the servers."""
    found = {"python": sys.version.split()[0], "trio": version("trio")}
    node = shutil.which("node")
    if node is not None:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
        found["node"] = said.stdout.strip()
    for file in sorted(PEERS.glob("*/requirements.txt")):
        found[file.parent.name] = ", ".join(file.read_text().split())
    for file in sorted(PEERS.glob("*/package.json")):
        found[file.parent.name] = ", ".join(
            f"{name} {number}"
            for name, number in re.findall(r'"(ws|socket\.io|peer)": "([\d.]+)"', file.read_text())
        )
    return found


# Running


@contextmanager
def process(
    command: Sequence[str], ready: str, cores: set[int], environment: Mapping[str, str]
) -> Iterator[tuple[int, str]]:
    """Run a process on some cores; yields when it prints that it is ready, with that line."""
    CACHE.mkdir(exist_ok=True)
    with (
        LOG.open("a") as log,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **environment},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        ) as started,
    ):
        try:
            assert started.stdout is not None
            for line in started.stdout:
                if ready in line:
                    break
            else:
                raise MissingError(f"{command[0]} does not start; see {LOG}")
            yield started.pid, line
        finally:
            started.send_signal(signal.SIGTERM)
            try:
                started.wait(15)
            except subprocess.TimeoutExpired:
                started.kill()


@contextmanager
def running(
    target: Target, cores: set[int], heartbeat: float, **environment: str
) -> Iterator[Running]:
    """Run a server on a loopback port."""
    told = {
        **target.environment,
        "HEARTBEAT": f"{heartbeat:g}",
        "TRIO_SIGNAL_HEARTBEAT": f"{heartbeat:g}",
        "TRIO_SIGNAL_HEARTBEAT_TIMEOUT": f"{heartbeat:g}",
        **environment,
    }
    command = target.prepare()
    if target.name == "C floor":
        command = [*command, f"{heartbeat:.0f}"]
    with process(command, "listening on", cores, told) as (pid, line):
        yield Running(pid, int(line.rpartition(":")[2]))
