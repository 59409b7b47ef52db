"""The store, on SQLite and on a real PostgreSQL."""

import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from sqlalchemy import Connection, create_engine, text

from tests.postgres import Postgres
from trio_signal.clock import utc_now
from trio_signal.errors import ConfigError, StoreError
from trio_signal.messages.identity import Announcement, Revision
from trio_signal.store import Database, Store, database, upgrade
from trio_signal.store.database import read_url
from trio_signal.store.tables import VERSION, metadata


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without tables."""
    if request.param == "SQLite":
        return f"sqlite:///{tmp_path}/new.db"
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.make_database()


@pytest.fixture
async def store(empty_url: str) -> AsyncIterator[Store]:
    store = Store(empty_url)
    await store.upgrade()
    yield store
    store.close()


def announcement(id_: str, message: str = "Hello", user_id: str = "boss") -> Announcement:
    return Announcement(id_, message, "info", user_id, user_id.title(), utc_now())


async def test_new_store_is_empty(store: Store) -> None:
    assert await store.newest() is None
    assert await store.clear(None) is None


async def test_last_announcement_is_the_newest(store: Store) -> None:
    made = await store.announce(announcement("a", "Grüße 👋"), None)
    assert made.active
    assert await store.newest() == made
    other = await store.announce(announcement("b"), None)
    assert other.stamp > made.stamp
    assert await store.newest() == other


async def test_clearing_makes_an_inactive_revision(store: Store) -> None:
    made = await store.announce(announcement("a"), None)
    cleared = await store.clear(made)
    assert cleared == Revision(cleared.number if cleared else 0, made.announcement, active=False)
    assert cleared.stamp > made.stamp
    assert await store.newest() == cleared
    assert await store.clear(cleared) is None


async def test_new_revision_has_the_highest_number(store: Store) -> None:
    future = Revision(2**50, announcement("elsewhere"), active=True)
    made = await store.announce(announcement("a"), future)
    assert made.number == 2**50 + 1
    again = await store.announce(announcement("b"), None)
    assert again.number == 2**50 + 2


async def test_newer_revision_of_another_replica_is_kept(store: Store) -> None:
    made = await store.announce(announcement("a"), None)
    newer = Revision(made.number + 5, announcement("b"), active=True)
    await store.keep(newer)
    await store.keep(newer)
    await store.keep(Revision(made.number + 1, announcement("c"), active=True))
    assert await store.newest() == newer
    cleared = Revision(made.number + 9, newer.announcement, active=False)
    await store.keep(cleared)
    assert await store.newest() == cleared


async def test_known_revision_can_be_cleared_before_it_is_stored(store: Store) -> None:
    known = Revision(5, announcement("elsewhere"), active=True)
    cleared = await store.clear(known)
    assert cleared is not None
    assert (cleared.announcement, cleared.active) == (known.announcement, False)


async def test_acknowledgements_are_stored(store: Store) -> None:
    made = await store.announce(announcement("a"), None)
    assert await store.acknowledge(made, ["ann", "bob"]) == 2
    assert await store.acknowledge(made, ["bob", "eve"]) == 3
    assert await store.acknowledged("a", ["ann", "eve", "zoe"]) == {"ann", "eve"}
    assert await store.acknowledged("b", ["ann"]) == set()
    assert await store.acknowledgers("a", "") == ["ann", "bob", "eve"]
    assert await store.acknowledgers("a", "bob") == ["eve"]


async def test_many_acknowledgements_are_stored(store: Store) -> None:
    made = await store.announce(announcement("a"), None)
    users = {f"user{number}" for number in range(1000)}
    assert await store.acknowledge(made, users) == 1000
    assert await store.acknowledged("a", users | {"nobody"}) == users
    found, last = set[str](), ""
    while chunk := await store.acknowledgers("a", last):
        found.update(chunk)
        last = chunk[-1]
    assert found == users


async def test_acknowledgement_may_arrive_before_its_announcement(store: Store) -> None:
    revision = Revision(5, announcement("elsewhere"), active=True)
    assert await store.acknowledge(revision, ["ann"]) == 1
    assert await store.newest() == revision


@pytest.mark.parametrize("user_id", ["a\0b", "x" * 5000, "\ud800", "a\nb"])
async def test_unusual_user_ids_can_be_stored(store: Store, user_id: str) -> None:
    made = await store.announce(announcement("a"), None)
    assert await store.acknowledge(made, [user_id]) == 1
    assert await store.acknowledged("a", [user_id, "b"]) == {user_id}


async def test_announcements_since_a_time_are_counted(store: Store) -> None:
    for number in range(3):
        await store.announce(announcement(f"{number}"), None)
    await store.announce(announcement("other", user_id="rival"), None)
    assert await store.made_since("boss", "2020-01-01T00:00:00.000Z") == 3
    assert await store.made_since("boss", "2099-01-01T00:00:00.000Z") == 0


async def test_writers_take_turns(store: Store) -> None:
    made: list[Revision] = []

    async def announce(id_: str) -> None:
        made.append(await store.announce(announcement(id_), None))

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(announce, f"{number}")
    assert len({revision.number for revision in made}) == 12
    assert await store.newest() == max(made, key=lambda revision: revision.stamp)


# Timeouts and cancellation


class Obstacle:
    """Work in a transaction that continues only when told to."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.ended = threading.Event()

    def __call__(self, connection: Connection) -> None:
        connection.execute(text("CREATE TABLE proof (x INT)"))
        self.begun.set()
        self.go_on.wait(10)
        self.ended.set()


async def has_proof(database: Database) -> bool:
    def look(connection: Connection) -> bool:
        return connection.dialect.has_table(connection, "proof")

    return await database.read(look)


@pytest.mark.parametrize("how", ["too slow", "cancelled"])
async def test_abandoned_transaction_is_rolled_back(
    how: str, empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, obstacle = Database(empty_url), Obstacle()
    if how == "too slow":
        monkeypatch.setattr(database, "PATIENCE", 0.2)
        with pytest.raises(StoreError, match="does not answer"):
            await data.write(obstacle)
    else:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(data.write, obstacle)
            await trio.to_thread.run_sync(obstacle.begun.wait, 10)
            nursery.cancel_scope.cancel()
    monkeypatch.undo()
    obstacle.go_on.set()
    await trio.to_thread.run_sync(obstacle.ended.wait, 10)

    def nothing(connection: Connection) -> None:
        """The next writer waits for the lock, until the abandoned transaction is rolled back."""

    await data.write(nothing)
    assert not await has_proof(data)
    data.close()


def test_started_commit_is_not_abandoned() -> None:
    attempt = database.Attempt()
    attempt.begin_commit()
    assert not attempt.give_up()
    attempt = database.Attempt()
    assert attempt.give_up()
    with pytest.raises(database.GivenUpError):
        attempt.begin_commit()


# The tables


def test_migrations_match_the_tables_in_the_code(empty_url: str) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    assert upgrade(empty_url)
    assert not upgrade(empty_url)
    engine = create_engine(read_url(empty_url))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() == VERSION
        assert compare_metadata(context, metadata) == []
    engine.dispose()


async def test_concurrent_upgrades_take_turns(empty_url: str) -> None:
    stores = [Store(empty_url) for _ in range(4)]
    async with trio.open_nursery() as nursery:
        for store in stores:
            nursery.start_soon(store.upgrade)
    for store in stores:
        assert await store.newest() is None
        store.close()


def test_concurrent_opening_of_a_new_file_works(tmp_path: Path) -> None:
    # When two connections switch a file to WAL mode, SQLite refuses one at once.
    failures: list[Exception] = []

    def open_it(url: str, start: threading.Barrier) -> None:
        start.wait()
        try:
            opened = Database(url)
            opened.inspect_now()
            opened.close()
        except Exception as error:
            failures.append(error)

    for number in range(100):
        start = threading.Barrier(4)
        threads = [
            threading.Thread(target=open_it, args=(f"sqlite:///{tmp_path}/{number}.db", start))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


async def test_newer_schema_version_is_refused(empty_url: str) -> None:
    upgrade(empty_url)
    engine = create_engine(read_url(empty_url))
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    store = Store(empty_url)
    with pytest.raises(StoreError, match="9999"):
        await store.upgrade()
    store.close()


# Addresses


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_urls(scheme: str) -> None:
    url = read_url(f"{scheme}://me:secret@db.example.com:5433/signal?sslmode=require")
    assert url.drivername == "postgresql+psycopg"
    assert (url.host, url.port, url.database) == ("db.example.com", 5433, "signal")
    assert url.query["sslmode"] == "require"


@pytest.mark.parametrize(
    "url",
    ["mysql://me:secret@host/x", "sqlite://", "sqlite:///:memory:", "secret", ""],
)
def test_invalid_database_urls_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL") as caught:
        Store(url)
    assert "secret" not in str(caught.value)


def test_error_names_the_extra_of_a_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install 'trio-signal\[postgres\]'"):
        Store("postgresql://me:secret@db.example.com/signal")


async def test_errors_hide_the_password(unused_port: int) -> None:
    store = Store(f"postgresql://me:secret@127.0.0.1:{unused_port}/signal")
    with pytest.raises(StoreError) as caught:
        await store.newest()
    assert "secret" not in str(caught.value)
    store.close()


@pytest.fixture
async def unused_port() -> int:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port: int = listener.socket.getsockname()[1]
    await listener.aclose()
    return port
