"""Replicas as they are run: server processes, joined by a redis-server of their own."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import trio

from tests.raw import open_raw
from tests.redis.server import HOST, RedisServer, open_redis_server

#: Seconds for a process to come up or to go.
STARTING = 90.0
#: The lease of the replicas, where a test does not say otherwise.
LEASE = 2.0
#: One that nothing outlasts that is over in a moment.
LONG_LEASE = 8.0

_COMMAND = (sys.executable, "-m", "trio_signal", "serve", "--port", "0")


#: The tests talk more than a client may, and take more time if the machine is slow.
_SETTINGS = {
    "TRIO_SIGNAL_AUTH_TIMEOUT": "600",
    "TRIO_SIGNAL_HEARTBEAT_TIMEOUT": "600",
    "LOG_FORMAT": "json",
    "TRIO_SIGNAL_CONNECTS_PER_IP_PER_MINUTE": "1000000",
    "TRIO_SIGNAL_MAX_CONNECTIONS_PER_IP": "10000",
    "TRIO_SIGNAL_HTTP_REQUESTS_PER_SECOND": "1000000",
    "TRIO_SIGNAL_HTTP_BURST": "1000000",
    "TRIO_SIGNAL_MESSAGES_PER_SECOND": "1000000",
    "TRIO_SIGNAL_MESSAGE_BURST": "1000000",
    "TRIO_SIGNAL_DRAIN_PAUSE": "0",
}


def server_environment(given: dict[str, object]) -> dict[str, str]:
    """That of the tests, but no settings of a server except ours and those that are given."""
    ours = ("TRIO_SIGNAL_", "REDIS_URL", "WEB_CONCURRENCY", "PORT", "LOG_", "COVERAGE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return kept | _SETTINGS | {name: str(value) for name, value in given.items()}


class Ended(NamedTuple):
    """What became of a server that was to run by itself."""

    code: int
    output: str
    errors: str


async def serve_to_end(*options: str, **environment: object) -> Ended:
    """Run `serve` until it ends by itself, as when it cannot start."""
    with trio.fail_after(STARTING):
        ended = await trio.run_process(
            [*_COMMAND, *options],
            env=server_environment(environment),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


async def _kill(process: trio.Process) -> None:
    """How a process ends with its test; a frozen one does not heed SIGTERM."""
    process.kill()


class Replica:
    """A server process."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.base = ""
        #: What it wrote to standard error.
        self.log: list[str] = []
        self._logged = trio.Event()
        self._all_gone = trio.Event()

    async def wait_serving(self) -> None:
        assert self.process.stdout is not None
        line = b""
        with trio.move_on_after(STARTING):
            while not line.endswith(b"\n"):
                chunk = await self.process.stdout.receive_some()
                if not chunk:
                    break
                line += chunk
        assert line.endswith(b"\n"), f"the server did not start: {self.log}"
        begin, _, self.base = line.decode().strip().rpartition("http://")
        assert begin == "listening on ", line

    async def follow_log(self) -> None:
        """Until nobody can write to it any more."""
        assert self.process.stderr is not None
        text = b""
        async for chunk in self.process.stderr:
            *lines, text = (text + chunk).split(b"\n")
            self.log += [line.decode() for line in lines]
            self._logged.set()
            self._logged = trio.Event()
        self._all_gone.set()

    async def wait_all_gone(self) -> None:
        """Wait until the process, and all that it started, is gone."""
        with trio.fail_after(STARTING):
            await self._all_gone.wait()

    def logged(self, text: str) -> list[str]:
        """The lines of the log that have this text."""
        return [line for line in self.log if text in line]

    async def wait_logged(self, text: str, times: int = 1) -> None:
        """Wait until so many lines of the log have this text."""
        with trio.fail_after(STARTING):
            while len(self.logged(text)) < times:
                await self._logged.wait()

    def send(self, which: signal.Signals) -> None:
        self.process.send_signal(which)

    async def end(self, how: signal.Signals) -> int:
        """Send a signal, and wait until the process is gone."""
        self.process.send_signal(how)
        with trio.fail_after(STARTING):
            return await self.process.wait()

    async def get(self, path: str) -> Any:
        """What HTTP answers."""
        async with open_raw(self.base) as client:
            head = f"GET {path} HTTP/1.1\r\nHost: {self.base}\r\nConnection: close\r\n\r\n"
            await client.send(head.encode())
            return json.loads((await client.receive_answer()).body)

    async def stop(self) -> None:
        """End gracefully; nothing must have gone wrong that we did not ask for."""
        assert await self.end(signal.SIGTERM) == 0, self.log
        assert self.logged("Traceback") == []

    async def wait_status(self, status: str) -> None:
        """Wait until /readyz says so. It can only be polled."""
        with trio.fail_after(STARTING):
            while (await self.get("/readyz"))["status"] != status:  # noqa: ASYNC110
                await trio.sleep(0.02)


async def start_replica(nursery: trio.Nursery, *options: str, **environment: object) -> Replica:
    """A running server, which lives in `nursery`; killed with it, if it still runs."""
    process: trio.Process = await nursery.start(
        partial(
            trio.run_process,
            [*_COMMAND, *options],
            env=server_environment(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
            deliver_cancel=_kill,
        )
    )
    replica = Replica(process)
    nursery.start_soon(replica.follow_log)
    await replica.wait_serving()
    return replica


@asynccontextmanager
async def open_replica(*options: str, **environment: object) -> AsyncIterator[Replica]:
    """One that stands alone."""
    async with trio.open_nursery() as nursery:
        yield await start_replica(nursery, *options, **environment)
        nursery.cancel_scope.cancel()


class Wire:
    """Between a replica and Redis. Pulled out, it carries nothing, and nobody is told."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._plugged = trio.Event()
        self._plugged.set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def pull(self) -> None:
        """Carry nothing any more; connections stay open, and new ones are accepted."""
        self._plugged = trio.Event()

    def plug(self) -> None:
        """Carry again, also what was said meanwhile, as TCP does."""
        self._plugged.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host=HOST)
        self.port = listeners[0].socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, listeners)

    async def _serve(self, client: trio.SocketStream) -> None:
        await self._plugged.wait()
        try:
            server = await trio.open_tcp_stream(HOST, self._target)
        except OSError:
            client.socket.close()
            return
        with closing(client.socket), closing(server.socket):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, client, server)
                nursery.start_soon(self._carry, server, client)

    async def _carry(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        """One direction; it ends for itself, so that what was sent before arrives."""
        with suppress(trio.BrokenResourceError):
            while data := await source.receive_some():
                await self._plugged.wait()
                await sink.send_all(data)
        with suppress(trio.BrokenResourceError):
            await sink.send_eof()


async def kept_keys(redis: RedisServer) -> list[str]:
    """All that Redis holds and does not forget by itself."""
    keys: list[bytes] = await redis.ask("KEYS", "*")
    return sorted([key.decode() for key in keys if await redis.ask("TTL", key) == -1])


class Cluster:
    """Replicas with a Redis of their own."""

    def __init__(
        self, nursery: trio.Nursery, redis: RedisServer, environment: dict[str, object]
    ) -> None:
        self._nursery = nursery
        self._environment = environment
        self.redis = redis
        self.replicas: list[Replica] = []

    async def add(self, **environment: object) -> Replica:
        replica = await start_replica(self._nursery, **self._environment | environment)
        self.replicas.append(replica)
        return replica

    async def add_wired(self) -> Wire:
        """One more replica, and what is between it and Redis."""
        wire = Wire(self.redis.port)
        await self._nursery.start(wire.run)
        await self.add(REDIS_URL=wire.url)
        return wire

    async def kill(self, replica: Replica) -> None:
        """SIGKILL; no goodbye."""
        self.replicas.remove(replica)
        await replica.end(signal.SIGKILL)

    async def wait_status(self, status: str) -> None:
        for replica in self.replicas:
            await replica.wait_status(status)

    async def keys(self) -> list[str]:
        """All that Redis holds and does not forget by itself."""
        return await kept_keys(self.redis)

    async def stop_replicas(self) -> None:
        """End all of them gracefully."""
        async with trio.open_nursery() as nursery:
            for replica in self.replicas:
                nursery.start_soon(replica.stop)
        self.replicas.clear()

    async def stop(self) -> None:
        """End gracefully, and look whether something stays behind."""
        await self.stop_replicas()
        with trio.move_on_after(STARTING):  # Redis may still have to read the last words
            while await self.keys():  # noqa: ASYNC110
                await trio.sleep(0.02)
        left = await self.keys()
        assert not left, left


@asynccontextmanager
async def open_cluster(
    directory: Path, count: int = 3, **environment: object
) -> AsyncIterator[Cluster]:
    """Replicas that start together; at the end they stop, and leave nothing in Redis for good."""
    async with open_redis_server(directory) as redis, trio.open_nursery() as nursery:
        given = {"REDIS_URL": redis.url, "TRIO_SIGNAL_LEASE": LEASE, **environment}
        cluster = Cluster(nursery, redis, given)
        async with trio.open_nursery() as starting:
            for _ in range(count):
                starting.start_soon(cluster.add)
        await cluster.wait_status("ready")
        yield cluster
        await cluster.stop()
        nursery.cancel_scope.cancel()
