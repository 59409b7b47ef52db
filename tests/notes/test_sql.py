"""Notes that outlast the process: what is stored, what is not, and a failing database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.clients import PATIENCE
from tests.members import member
from trio_signal import notes as notes_module
from trio_signal.notes import sql
from trio_signal.notes.sql import SqlNotes, open_sql_notes


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'notes.db'}"


@asynccontextmanager
async def run(url: str) -> AsyncIterator[SqlNotes]:
    """One run of a server, which stores everything before it ends."""
    async with open_sql_notes(url) as notes, trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE):
            await notes.write()
        nursery.start_soon(notes.run)
        yield notes
        with trio.fail_after(PATIENCE):
            await notes.write()
        nursery.cancel_scope.cancel()


ANN = member("a1", "ann", dialect="room", live="video")
BOB = member("b1", "bob", dialect="room")
EVE = member("e1", "eve", dialect="live", live="audio")


async def test_members_are_found_after_a_restart(url: str) -> None:
    async with run(url) as notes:
        for each in (ANN, BOB, EVE):
            notes.keep_member("r", each)
    async with run(url) as notes:
        assert await notes.lost_member("r", "ann", "room") == ANN
        assert await notes.lost_member("r", "bob", "room") is None
        profile = await notes.profile("r", "bob")
        assert profile is not None
        assert profile.username == "Bob"
        assert await notes.take_lost_rooms("eve") == ("r",)
        assert await notes.lost_member("r", "eve", "live") == EVE
        assert await notes.lost_member("r", "eve", "room") is None


async def test_members_that_left_are_not_found(url: str) -> None:
    async with run(url) as notes:
        notes.keep_member("r", ANN)
        await notes.write()
        notes.keep_member("r", EVE)
        notes.forget_member("r", ANN)
        notes.forget_member("r", EVE)
    async with run(url) as notes:
        assert await notes.lost_member("r", "ann", "room") is None
        assert await notes.take_lost_rooms("eve") == ()


async def test_members_that_did_not_return_are_found_after_two_restarts(url: str) -> None:
    """Those that did return are found in their new state."""
    async with run(url) as notes:
        notes.keep_member("r", ANN)
        notes.keep_member("r", EVE)
    async with run(url) as notes:
        notes.keep_member("r", member("a2", "ann", dialect="room"))
    async with run(url) as notes:
        assert await notes.lost_member("r", "ann", "room") is None
        assert await notes.lost_member("r", "eve", "live") == EVE


async def test_stored_bytes_are_bounded(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "MEMBER_BYTES", 3_000)
    async with run(url) as notes:
        for n in range(100):
            notes.keep_member("r", member(f"p{n}", f"u{n}", dialect="room", live="video"))
        notes.forget_member("r", member("p0", "u0"))
        notes.keep_member("r", ANN)
    async with run(url) as notes:
        found = [n for n in range(100) if await notes.lost_member("r", f"u{n}", "room")]
        assert 3 < len(found) < 20
        assert found == list(range(1, len(found) + 1))
        assert await notes.lost_member("r", "ann", "room") == ANN


async def test_members_that_are_too_old_are_forgotten(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with run(url) as notes:
        notes.keep_member("r", ANN)
    monkeypatch.setattr(notes_module, "LOST_MEMBERS", notes_module.LOST_MEMBERS._replace(seconds=0))
    async with run(url) as notes:
        assert await notes.lost_member("r", "ann", "room") is None


async def test_members_that_do_not_return_are_removed(url: str, mock_clock: MockClock) -> None:
    mock_clock.rate = 1.0
    async with run(url) as notes:
        notes.keep_member("r", ANN)
    async with run(url) as notes:
        mock_clock.jump(notes_module.LOST_MEMBERS.seconds + 1)
        await notes.write()
        assert await notes.lost_member("r", "ann", "room") is None
    async with run(url) as notes:
        assert await notes.lost_member("r", "ann", "room") is None


async def test_a_failing_database_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sql, "PAUSE", 0.05)
    folder = tmp_path / "not-yet"
    url = f"sqlite:///{folder / 'notes.db'}"
    async with run(url) as notes:
        notes.keep_member("r", ANN)
        notes.keep_member("r", EVE)
        with trio.fail_after(PATIENCE):
            while notes.failures < 3:  # noqa: ASYNC110
                await trio.sleep(0.01)
        notes.forget_member("r", EVE)
        folder.mkdir()
    assert caplog.text.count("a restart would forget them") == 1
    async with run(url) as notes:
        assert await notes.lost_member("r", "ann", "room") == ANN
        assert await notes.take_lost_rooms("eve") == ()


async def test_unreadable_rows_are_removed(url: str) -> None:
    async with run(url) as notes:
        notes.keep_member("r", ANN)
        await notes.write()
        await notes._store.write({"junk": "{", "other": '{"room_id": 1}'}, 9e9)
        alien = sql._encode(sql._Present("r", member("x", dialect="of tomorrow"))).decode()
        await notes._store.write({"alien": alien}, 9e9)
    async with run(url) as notes:
        assert await notes.lost_member("r", "ann", "room") == ANN
        await notes.write()
        assert len(notes._sizes) == 1
