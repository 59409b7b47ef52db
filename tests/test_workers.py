"""Workers, used as an embedding program would use them; real processes."""

import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from tests.conftest import settings
from tests.raw import get
from tests.redis.server import free_port, open_redis_server
from tests.replicas.processes import serve_to_end
from trio_signal import workers
from trio_signal.config import Settings
from trio_signal.errors import WorkerError
from trio_signal.workers import open_workers

#: Time limit for processes to start or end, in seconds.
PATIENCE = 90.0
SERVES = re.compile(r"worker (\d+) is ready, process (\d+)")
AGAIN = re.compile(r"restarting worker \d+ in ([\d.]+) s")

Found = Callable[[re.Pattern[str]], list[re.Match[str]]]


@pytest.fixture
def found(caplog: pytest.LogCaptureFixture) -> Found:
    """The log lines that match a pattern."""
    caplog.set_level("INFO", "trio_signal.workers")

    def found(pattern: re.Pattern[str]) -> list[re.Match[str]]:
        return [match for line in caplog.messages if (match := pattern.fullmatch(line))]

    return found


async def wait_found(found: Found, pattern: re.Pattern[str], times: int) -> list[re.Match[str]]:
    """Wait until a pattern was logged this often; logs can only be polled."""
    with trio.fail_after(PATIENCE):
        while len(found(pattern)) < times:  # noqa: ASYNC110
            await trio.sleep(0.01)
    return found(pattern)


def two(redis_url: str, port: int = 0) -> Settings:
    return settings(workers=2, redis_url=redis_url, port=port)


def is_gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


async def test_block_starts_and_ends_with_all_workers(redis_url: str, found: Found) -> None:
    with trio.fail_after(PATIENCE):
        async with open_workers(two(redis_url)) as (host, port):
            processes = {match[1]: int(match[2]) for match in found(SERVES)}
            assert set(processes) == {"0", "1"}
            assert await get(f"{host}:{port}", "/healthz")
    assert all(map(is_gone, processes.values()))
    assert found(AGAIN) == []


async def test_dead_worker_is_restarted_after_growing_pauses(
    redis_url: str, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "BACKOFF", 0.1)
    with trio.fail_after(PATIENCE):
        async with open_workers(two(redis_url)):
            (other,) = (int(match[2]) for match in found(SERVES) if match[1] == "1")
            for times in (1, 2):
                victim = next(m for m in reversed(found(SERVES)) if m[1] == "0")
                os.kill(int(victim[2]), signal.SIGKILL)
                await wait_found(found, SERVES, 2 + times)
            assert [match[1] for match in found(AGAIN)] == ["0.1", "0.2"]
            assert not is_gone(other)


async def test_long_lived_worker_is_restarted_soon(
    redis_url: str, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "BACKOFF", 0.1)
    monkeypatch.setattr(workers, "HEALTHY", 0.0)
    with trio.fail_after(PATIENCE):
        async with open_workers(two(redis_url)):
            for times in (1, 2):
                os.kill(int(found(SERVES)[-1][2]), signal.SIGKILL)
                await wait_found(found, SERVES, 2 + times)
            assert [match[1] for match in found(AGAIN)] == ["0.1", "0.1"]


async def test_failed_worker_start_is_retried(
    redis_url: str, found: Found, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As without memory for a process; here the program is missing."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(workers, "BACKOFF", 0.1)
    failed = re.compile(r"cannot start worker (\d): .*No such file.*")
    with trio.fail_after(PATIENCE):
        async with open_workers(two(redis_url)):
            victim, other = found(SERVES)
            program.rename(tmp_path / "away")
            os.kill(int(victim[2]), signal.SIGKILL)
            assert (await wait_found(found, failed, 2))[0][1] == victim[1]
            (tmp_path / "away").rename(program)
            assert (await wait_found(found, SERVES, 3))[2][1] == victim[1]
            assert not is_gone(int(other[2]))


async def test_modules_in_the_working_directory_are_not_imported(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The application's own files may have the names of Python's modules."""
    (tmp_path / "secrets.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.chdir(tmp_path)
    with trio.fail_after(PATIENCE):
        async with open_workers(two(redis_url)):
            pass


async def test_failure_of_the_first_start_is_an_error(tmp_path: Path) -> None:
    """The settings are wrong: a retry would not help. The other worker ends the same way."""
    async with open_redis_server(tmp_path, requirepass="secret") as redis:
        with pytest.raises(ExceptionGroup) as caught, trio.fail_after(PATIENCE):
            async with open_workers(two(redis.url)):
                raise AssertionError("it came up")
    assert caught.value.split(WorkerError)[1] is None


async def test_taken_port_is_an_error(redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"):
            async with open_workers(two(redis_url, port)):
                raise AssertionError("it came up")
        ended = await serve_to_end("--workers", "2", "--port", str(port), REDIS_URL=redis_url)
    assert (ended.code, ended.output) == (1, "")
    (line,) = ended.errors.splitlines()
    assert line.startswith(f"trio-signal: cannot serve on 127.0.0.1:{port}: ")


async def test_port_of_other_workers_is_an_error(redis_url: str) -> None:
    """Otherwise both would receive some of each other's connections."""
    port = free_port()
    with trio.fail_after(PATIENCE):
        async with open_workers(two(redis_url, port)):
            with pytest.raises(OSError, match="in use"):
                async with open_workers(two(redis_url, port)):
                    raise AssertionError("it came up")
