"""Several replicas on one port: a parent process that starts and restarts them.

Each worker is a complete server. The kernel distributes the connections (SO_REUSEPORT), and the
workers know about each other only through Redis. The parent serves nothing. A worker's standard
input is a pipe from the parent: when the parent ends, for whatever reason, the pipe ends and the
worker stops.
"""

import logging
import os
import random
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from trio_signal.config import Settings, pause_before_draining
from trio_signal.errors import WorkerError

logger = logging.getLogger(__name__)

#: Seconds until a worker that ended by itself is restarted: at first, and at most.
BACKOFF = 0.5
MAX_BACKOFF = 30.0
#: Seconds after which a worker counts as healthy, and its backoff is reset.
HEALTHY = 60.0
#: Seconds after its pause and the drain time until a worker that does not stop is killed.
GRACE = 2.0


@asynccontextmanager
async def open_workers(
    settings: Settings, hurry: trio.Event | None = None
) -> AsyncIterator[tuple[str, int]]:
    """Keep `settings.workers` workers running while the block runs; yields their address.

    The block begins when all workers serve. Leaving it stops them gracefully, and blocks for their
    pause, the drain time and `GRACE` at most; `hurry` kills them earlier. Raises OSError if the
    port or a process is not available, and WorkerError if a worker fails to start at first.
    """
    with _reserve(settings) as reserved:
        host, port, *_ = reserved.getsockname()
        worker = _Worker(settings, host, port, trio.Event() if hurry is None else hurry)
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as starting:
                for number in range(settings.workers):
                    starting.start_soon(nursery.start, partial(worker.keep_running, number))
            yield host, port
            nursery.cancel_scope.cancel()


def _reserve(settings: Settings) -> socket.socket:
    """Bind the port without listening, so that a conflict is detected only once, here."""
    (family, *_, address), *_ = socket.getaddrinfo(
        settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    with socket.socket(family) as probe:
        # Without sharing: workers of another server on this port would share it, and each server
        # would get some of the other's connections.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


class _Worker:
    """One worker: starts and restarts its process."""

    def __init__(self, settings: Settings, host: str, port: int, hurry: trio.Event) -> None:
        self._patience = pause_before_draining(settings) + settings.drain + GRACE
        self._hurry = hurry
        # A module must not come from the working directory, where `-m` looks first, unless this
        # process looks there too: an application's file may have the name of a standard module.
        is_safe = sys.path[0] not in ("", str(Path.cwd()))
        self._command = [sys.executable, *["-P"] * is_safe, "-m", "trio_signal", "serve"]
        redis_url = settings.redis_url.get_secret_value() if settings.redis_url else ""
        # Not on the command line, which everybody can see: settings may contain passwords.
        self._environment = os.environ | {
            "PORT": str(port),
            "REDIS_URL": redis_url,
            "DATABASE_URL": settings.database_url.get_secret_value(),
            "TRIO_SIGNAL_HOST": host,
            "TRIO_SIGNAL_WORKER": "1",
            "WEB_CONCURRENCY": "1",
        }

    async def keep_running(self, number: int, *, task_status: trio.TaskStatus[None]) -> None:
        """Run the worker for ever; started when it serves for the first time."""
        await self._run(number, task_status)
        backoff = BACKOFF
        while True:
            logger.error("restarting worker %d in %.1f s", number, backoff)
            await trio.sleep(backoff * random.uniform(0.8, 1.2))  # noqa: S311
            began = trio.current_time()
            try:
                await self._run(number, trio.TASK_STATUS_IGNORED)
            except* OSError as errors:  # for example, no memory for another process
                logger.warning("cannot start worker %d: %s", number, errors.exceptions[0])
            except* WorkerError:
                pass
            healthy = trio.current_time() - began > HEALTHY
            backoff = BACKOFF if healthy else min(2 * backoff, MAX_BACKOFF)

    async def _run(self, number: int, task_status: trio.TaskStatus[None]) -> None:
        """Run one process until it ends; raises WorkerError if it never serves."""
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(
                partial(
                    trio.run_process,
                    self._command,
                    env=self._environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    check=False,
                    deliver_cancel=self._stop,
                )
            )
            serves = await self._wait_ready(process)
            if serves:
                logger.info("worker %d is ready, process %d", number, process.pid)
                task_status.started()
        if not serves:
            raise WorkerError(f"worker {number} exited with {process.returncode}")
        logger.error("worker %d exited with %s", number, process.returncode)

    async def _wait_ready(self, process: trio.Process) -> bool:
        """Wait until the worker is ready: it writes one line then, and nothing else."""
        assert process.stdout is not None  # noqa: S101  it is a pipe
        line = b""
        while not line.endswith(b"\n"):
            chunk = await process.stdout.receive_some()
            if not chunk:
                return False
            line += chunk
        return True

    async def _stop(self, process: trio.Process) -> None:
        process.terminate()
        with trio.move_on_after(self._patience):
            await self._hurry.wait()
        process.kill()
