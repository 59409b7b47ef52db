"""What is done to a cluster while it is used, and what its parts may say of that."""

import json
import os
import re
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

import trio

from deploy.cluster import Cluster

#: Seconds that something is away.
AWAY = 1.0
#: Seconds after a fault in which it may still be spoken of.
AFTER = 3.0

_REDIS = (
    r"Redis is (lost|back)|lost its connection|resynchroniz|too many messages from Redis"
    r"|lease of this|replica \w+ is gone|no longer waits|cannot connect|command timed out"
)
_DATABASE = r"cannot make announcements|database is back|acknowledge"
_REPLICA = r"replica \w+ is gone"
_UPSTREAM = r"\[error\].*upstream|\[error\].*recv\(\)|\[warn\].*upstream"
_STORE = r"FATAL|terminat|shut ?down|WARNING"


class Fault(NamedTuple):
    """Something that is done, and what replicas and others may say of it."""

    name: str
    do: Callable[[Cluster], Awaitable[None]]
    #: A pattern of what may be logged.
    said: str
    #: Whether clients lose their connections.
    cuts: bool = False
    #: Whether replicas end.
    deadly: bool = False


def kill(number: int) -> Callable[[Cluster], Awaitable[None]]:
    async def do(cluster: Cluster) -> None:
        await cluster.replicas[number].stop(signal.SIGKILL)
        await cluster.replicas[number].start()

    return do


def terminate(number: int) -> Callable[[Cluster], Awaitable[None]]:
    async def do(cluster: Cluster) -> None:
        await cluster.replicas[number].stop(signal.SIGTERM)
        await cluster.replicas[number].start()

    return do


async def restart_redis(cluster: Cluster) -> None:
    """It comes back empty."""
    await cluster.redis.stop(signal.SIGTERM)
    await trio.sleep(AWAY)
    await cluster.redis.start()


async def kill_redis(cluster: Cluster) -> None:
    await cluster.redis.stop(signal.SIGKILL)
    await cluster.redis.start()


async def freeze_redis(cluster: Cluster) -> None:
    os.kill(cluster.redis.pid, signal.SIGSTOP)
    await trio.sleep(AWAY)
    os.kill(cluster.redis.pid, signal.SIGCONT)


async def restart_postgres(cluster: Cluster) -> None:
    await cluster.postgres.stop(signal.SIGINT)
    await trio.sleep(AWAY)
    await cluster.postgres.start()


async def kill_postgres(cluster: Cluster) -> None:
    await cluster.postgres.stop(signal.SIGKILL)
    await cluster.postgres.start()


async def restart_nginx(cluster: Cluster) -> None:
    await cluster.nginx.stop(signal.SIGTERM)
    await cluster.nginx.start()


#: Those of the short soak; in the long one there are more.
ONCE = (
    Fault("replica killed", kill(0), f"{_REPLICA}|{_UPSTREAM}", cuts=True, deadly=True),
    Fault("Redis restarted", restart_redis, _REDIS),
    Fault("replica stopped", terminate(1), _UPSTREAM, cuts=True, deadly=True),
    Fault("PostgreSQL killed", kill_postgres, f"{_DATABASE}|{_STORE}"),
    Fault("nginx restarted", restart_nginx, _UPSTREAM, cuts=True),
    Fault("Redis frozen", freeze_redis, _REDIS),
)
FAULTS = (
    *ONCE,
    Fault("replica killed", kill(2), f"{_REPLICA}|{_UPSTREAM}", cuts=True, deadly=True),
    Fault("PostgreSQL restarted", restart_postgres, f"{_DATABASE}|{_STORE}"),
    Fault("Redis killed", kill_redis, _REDIS),
)


@dataclass
class Window:
    """When a fault was there; it is over when all is well again."""

    fault: Fault
    begin: float
    end: float = float("inf")

    def covers(self, at: float) -> bool:
        return self.begin <= at <= self.end + AFTER


class Log:
    """What all programs say, and which of it is bad."""

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self._bad: list[tuple[float, str, str]] = []

    def take(self, name: str, line: str) -> None:
        """A line of a program."""
        if is_bad(name, line):
            self._bad.append((trio.current_time(), name, line))

    def unexplained(self) -> list[str]:
        """The bad lines that are no consequence of a fault."""
        return [
            f"{name}: {line}"
            for at, name, line in self._bad
            if not any(
                window.covers(at) and re.search(window.fault.said, line) for window in self.windows
            )
        ]

    def uncaused(self, lost: list[tuple[float, str]]) -> list[str]:
        """What happened to visitors while nothing was done that could be the cause."""
        return [
            f"{what} at {at:.1f}"
            for at, what in lost
            if not any(window.covers(at) and window.fault.cuts for window in self.windows)
        ]


def is_bad(name: str, line: str) -> bool:
    """Whether a line tells of something that is not as it should be."""
    if name.startswith("replica"):
        if line.startswith("listening on"):
            return False
        try:
            entry = json.loads(line)
        except ValueError:
            return True
        return entry["level"] not in ("debug", "info")
    if name == "nginx":
        # It may not raise the number of files here; it says so when it starts.
        return bool(re.search(r"\[(warn|error|crit|alert|emerg)\]", line)) and "RLIMIT" not in line
    if name == "postgres":
        return bool(re.search(r"(WARNING|ERROR|FATAL|PANIC):", line))
    return "has ended" in line
