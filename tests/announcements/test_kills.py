"""A server that is killed at any moment of an announcement stores all of it or nothing."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from uuid import UUID

import httpx
import trio

from tests.clients import PATIENCE
from tests.effort import EFFORT
from tests.replicas.processes import STARTING

ROOT = Path(__file__).resolve().parents[2]
KILLS = 24 * EFFORT
#: The latest moment of the first kill, relative to the time that a call takes on this machine. It
#: becomes later after a kill that came too early, and earlier after one that came too late: a call
#: takes longer on a busy machine, and the first call of a server longer than others.
LATEST, LATER = 1.5, 1.3


class Zygote:
    """Starts servers, one at a time."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process

    async def start(self) -> tuple[int, str]:
        """Start a server; its process id and its base URL."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        await self._process.stdin.send_all(b"\n")
        line = b""
        with trio.fail_after(STARTING):
            while not line.endswith(b"\n"):
                chunk = await self._process.stdout.receive_some()
                assert chunk, "the zygote ended"
                line += chunk
        pid, base = line.decode().split()
        return int(pid), f"http://{base}/api/creator/broadcast"


@asynccontextmanager
async def open_zygote() -> AsyncIterator[Zygote]:
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, "-m", "tests.announcements.zygote"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                check=False,
            )
        )
        yield Zygote(process)
        assert process.stdin is not None
        await process.stdin.aclose()


def stored(url: str) -> list[tuple[str, str, int, int]]:
    """The rows in the file, read without any code under test."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        return connection.execute(
            "SELECT id, message, is_active, revision FROM announcements ORDER BY revision"
        ).fetchall()


async def announce_and_die(
    http: httpx.AsyncClient, pid: int, base: str, message: str, delay: float
) -> str | None:
    """Announce and kill; the id, or None if no successful answer came."""
    answered: list[str] = []

    async def post() -> None:
        try:
            answer = await http.post(base, json={"message": message}, timeout=PATIENCE)
        except httpx.TransportError:
            return
        assert answer.status_code == 200, answer.text
        answered.append(answer.json()["id"])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(post)
        await trio.sleep(delay)  # the moment of the kill varies
        os.kill(pid, signal.SIGKILL)
    return answered[0] if answered else None


async def time_call(http: httpx.AsyncClient, pid: int, base: str) -> float:
    """The duration of an announcement in seconds, the second one of a new server."""
    for _ in range(2):
        began = trio.current_time()
        answer = await http.post(base, json={"message": "timed"}, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
    os.kill(pid, signal.SIGKILL)
    return trio.current_time() - began


async def test_confirmed_announcements_are_stored_and_none_is_stored_partly(
    database_url: str,
) -> None:
    chance = random.Random(1)
    succeeded: dict[str, str] = {}
    said: set[str] = set()
    async with open_zygote() as zygote, httpx.AsyncClient() as http:
        latest = LATEST * await time_call(http, *await zygote.start())
        said.add("timed")
        for number in range(KILLS):
            pid, base = await zygote.start()
            rows = stored(database_url)
            await check_active(http, base, rows)
            message = f"number {number}"
            said.add(message)
            id_ = await announce_and_die(http, pid, base, message, chance.uniform(0, latest))
            if id_ is not None:
                succeeded[id_] = message
            latest *= LATER if id_ is None else 1 / LATER
            rows = stored(database_url)
            found = {row[0]: row[1] for row in rows}
            assert succeeded.items() <= found.items()
            assert set(found.values()) <= said
            assert len(set(found.values())) == len(rows) - 1, "one was stored twice"
            assert all(str(UUID(id_)) == id_ for id_ in found)
            assert [active for *_, active, _ in rows] == [0] * (len(rows) - 1) + [1] * bool(rows)
        pid, base = await zygote.start()
        await check_active(http, base, stored(database_url))
        os.kill(pid, signal.SIGKILL)
    assert 0 < len(succeeded) < KILLS, "all the kills came too early, or too late"


async def check_active(
    http: httpx.AsyncClient, base: str, rows: list[tuple[str, str, int, int]]
) -> None:
    """Check that users see the last announcement after the restart."""
    answer = (await http.get(f"{base}/active", timeout=PATIENCE)).json()["broadcast"]
    assert (answer and answer["id"]) == (rows[-1][0] if rows else None)
