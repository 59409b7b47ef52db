"""A real PostgreSQL for the tests, with its own port and directory."""

import grp
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

from tests.redis.server import HOST, free_port

#: PostgreSQL refuses to run as root; in that case it runs as this user.
_USER = "nobody"
_FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "16MB",
    "listen_addresses": HOST,
    "unix_socket_directories": "",
}


def _program(name: str) -> str:
    """Debian keeps the programs out of the path."""
    found = shutil.which(name)
    if found is None:
        versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
        assert versions, f"{name} is not installed; see tools/system-deps"
        found = str(versions[-1])
    return found


def _as_user(command: list[str]) -> list[str]:
    if os.getuid() != 0:
        return command
    return ["setpriv", f"--reuid={_USER}", f"--regid={_group()}", "--clear-groups", *command]


def _group() -> str:
    return grp.getgrgid(pwd.getpwnam(_USER).pw_gid).gr_name


class Postgres:
    """A running server."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self.port = port
        self._numbers = count()

    def url(self, database: str) -> str:
        return f"postgresql://test@{HOST}:{self.port}/{database}"

    def make_database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def freeze(self) -> None:
        """SIGSTOP: the kernel still accepts connections and bytes."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, which: signal.Signals) -> None:
        """To the server first, then to the processes that serve its connections."""
        server = self.process.pid
        os.kill(server, which)
        for child in Path(f"/proc/{server}/task/{server}/children").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(child), which)


def ask(url: str, query: str) -> list[tuple[Any, ...]]:
    """The rows, without any code under test."""
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


@contextmanager
def run_postgres() -> Iterator[Postgres]:
    """A server that runs as long as the block."""
    with TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        data.mkdir()
        if os.getuid() == 0:
            shutil.chown(folder, _USER)
            shutil.chown(data, _USER)
        initdb = [_program("initdb"), "-D", str(data), "-U", "test", "-A", "trust", "-E", "UTF8"]
        initdb += ["--locale=C", "--no-sync"]
        subprocess.run(_as_user(initdb), cwd=folder, check=True, capture_output=True)
        port = free_port()
        settings = [part for item in _FAST.items() for part in ("-c", "=".join(item))]
        command = [_program("postgres"), "-D", str(data), "-p", str(port), *settings]
        with subprocess.Popen(_as_user(command), cwd=folder, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            log = b""
            while b"ready to accept connections" not in (line := process.stderr.readline()):
                log += line
                assert line, f"postgres ended: {log.decode()}"
            server = Postgres(process, port)
            yield server
            server.thaw()
            process.send_signal(signal.SIGINT)  # it does not wait for clients
            process.stderr.read()
