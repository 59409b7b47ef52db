"""The commands `announce` and `db upgrade`, run as they are typed."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from tests.announcements.office import open_office
from tests.conftest import Serve
from tests.replicas.processes import STARTING


class Ended(NamedTuple):
    code: int
    output: str
    errors: str


async def run(*arguments: str, **environment: str) -> Ended:
    with trio.fail_after(STARTING):
        ended = await trio.run_process(
            [sys.executable, "-m", "trio_signal", *arguments],
            env=os.environ | environment,
            check=False,
            capture_stdout=True,
            capture_stderr=True,
            stdin=subprocess.DEVNULL,
        )
    return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


async def test_announce_and_clear(serve: Serve) -> None:
    async with serve() as service, open_office(service) as office, office.attend("ann") as ann:
        url = f"http://{service.base}"
        said = await run("announce", "Grüße 👋", "--type", "alert", "--url", url)
        assert said == (0, "Broadcast sent successfully to 1 connected users.\n", "")
        message = await ann.expect("new_broadcast")
        assert message["broadcast"]["message"] == "Grüße 👋"
        assert message["broadcast"]["message_type"] == "alert"
        cleared = await run("announce", "--clear", "--json", TRIO_SIGNAL_URL=url)
        assert (cleared.code, '"cleared_for_users":1' in cleared.output) == (0, True)
        await ann.expect("broadcast_cleared")


async def test_refused_announcement_prints_the_reason(serve: Serve) -> None:
    async with serve() as service:
        ended = await run("announce", "x" * 281, "--url", f"http://{service.base}")
    assert (ended.code, ended.output) == (1, "")
    assert "Maximum 280 characters allowed. Current: 281" in ended.errors
    assert ended.errors.count("\n") == 1


async def test_announce_without_server_fails() -> None:
    ended = await run("announce", "Hello", "--url", "http://127.0.0.1:1")
    assert (ended.code, ended.output) == (1, "")
    assert ended.errors.startswith("trio-signal: http://127.0.0.1:1")


@pytest.mark.parametrize(
    "arguments",
    [[], ["Hello", "--clear"], ["Hello", "--type", "panic"], ["Hello", "--url", "ftp://x"]],
)
async def test_wrong_arguments_exit_with_2(arguments: list[str]) -> None:
    assert (await run("announce", *arguments)).code == 2


async def test_db_upgrade_creates_tables(tmp_path: Path) -> None:
    path = tmp_path / "new.db"
    for output in ("The tables are now up to date.\n", "The tables were already up to date.\n"):
        ended = await run("db", "upgrade", DATABASE_URL=f"sqlite:///{path}")
        assert (ended.code, ended.output) == (0, output)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM announcements").fetchone() == (0,)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("mysql://me:secret@host/x", 2),
        ("postgresql://me:secret@127.0.0.1:1/x", 1),
        ("sqlite:////no/x", 1),
    ],
)
async def test_db_upgrade_of_unreachable_database_fails(url: str, code: int) -> None:
    ended = await run("db", "upgrade", DATABASE_URL=url)
    assert (ended.code, ended.output) == (code, "")
    assert "secret" not in ended.errors
    assert ended.errors.count("\n") == 1
