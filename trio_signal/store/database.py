"""Database: transactions in worker threads that can be given up.

A thread cannot be cancelled. So a transaction looks, right before it commits,
whether anybody still wants it: what was given up is rolled back, whenever the
database wakes up. Only a commit that is on its way already is waited for.
"""

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import trio
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from trio_signal.errors import SettingError, StoreError
from trio_signal.store.tables import VERSION

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds for a transaction, and beyond that for a commit that is on its way.
PATIENCE = 3.0
COMMIT_PATIENCE = 0.8
#: Seconds for the tables to be made or changed.
UPGRADE_PATIENCE = 120.0
#: Threads, and connections; SQLite lets only one write anyway.
MAX_THREADS = 4
#: Any number will do that nobody else in this database takes for a lock.
_LOCK = 0x7472696F


class GivenUpError(Exception):
    """Nobody waits for this transaction any more."""


#: What a thread may end with, and what is no mistake of ours.
_FAILURES = (GivenUpError, SQLAlchemyError, sqlite3.Error, OSError)


class Attempt:
    """A transaction that may be given up until it commits."""

    def __init__(self) -> None:
        """Begin it."""
        self._lock = threading.Lock()
        self._given_up = False
        self._commits = False

    def begin_commit(self) -> None:
        """Called by the thread; raises GivenUpError."""
        with self._lock:
            if self._given_up:
                raise GivenUpError
            self._commits = True

    def give_up(self) -> bool:
        """Called by whoever waits; False if it is too late. Does not block."""
        with self._lock:
            self._given_up = not self._commits
            return self._given_up


class Tables(NamedTuple):
    """Which tables a database has, and which we want."""

    #: None if there are none yet.
    version: str | None
    wanted: str
    #: Seconds by which the clock of the database is ahead of ours; None if it is ours.
    ahead: float | None


class Database:
    """The engine, its threads, and its version."""

    def __init__(self, url: str) -> None:
        """Take a `DATABASE_URL`; connects to nothing yet. Raises ConfigError."""
        self._url = read_url(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self._engine = _make_engine(self._url)
        self._closed = False
        self._limiter = trio.CapacityLimiter(MAX_THREADS)

    def close(self) -> None:
        """Close the connections that are idle; threads that still run close theirs."""
        self._closed = True
        self._engine.pool.dispose()

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Do this in a thread; raises StoreError if it fails or takes too long."""
        return await self._run(partial(self._read, work), None, PATIENCE)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Do this in a transaction that holds a lock against all other writers.

        Raises StoreError: then nothing is stored, or, in the rare case that the
        database falls silent while it commits, nobody knows. A cancellation
        is the same.
        """
        attempt = Attempt()
        return await self._run(partial(self._write, work, attempt), attempt, PATIENCE)

    async def upgrade(self) -> None:
        """Make or change the tables, if they are not as they should be; raises StoreError."""
        await self._run(self.upgrade_now, None, UPGRADE_PATIENCE)

    async def _run(self, work: Callable[[], T], attempt: Attempt | None, patience: float) -> T:
        results: list[T] = []
        failures: list[Exception] = []
        finished = trio.Event()

        async def run() -> None:
            try:
                results.append(
                    await trio.to_thread.run_sync(
                        work, abandon_on_cancel=True, limiter=self._limiter
                    )
                )
            except _FAILURES as error:
                failures.append(error)
            finished.set()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                with trio.move_on_after(patience):
                    await finished.wait()
                if attempt is not None and not finished.is_set() and not attempt.give_up():
                    with trio.move_on_after(COMMIT_PATIENCE):
                        await finished.wait()
                nursery.cancel_scope.cancel()
        finally:
            if attempt is not None:
                attempt.give_up()
        if failures:
            raise StoreError(_explain(failures[0])) from failures[0]
        if not results:
            raise StoreError("the database does not answer")
        return results[0]

    # In threads

    def _read(self, work: Callable[[Connection], T]) -> T:
        with self._connect("BEGIN") as connection:
            return work(connection)

    def _write(self, work: Callable[[Connection], T], attempt: Attempt) -> T:
        with self._connect("BEGIN IMMEDIATE") as connection:
            self._lock_out_others(connection)
            result = work(connection)
            attempt.begin_commit()
            connection.commit()
            return result

    @contextmanager
    def _connect(self, begin: str) -> Iterator[Connection]:
        """A connection in a transaction, which is rolled back unless it is committed."""
        try:
            with self._engine.connect() as connection:
                if self.is_sqlite:
                    connection.exec_driver_sql(begin)
                yield connection
        finally:
            if self._closed:
                self._engine.pool.dispose()

    def _lock_out_others(self, connection: Connection) -> None:
        if not self.is_sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})

    def inspect_now(self) -> Tables:
        """Which tables there are. Blocks the thread."""
        with self._connect("BEGIN") as connection:
            version = _version(connection)
            if self.is_sqlite:
                return Tables(version, VERSION, None)
            asked = time.time()
            then = connection.scalar(text("SELECT EXTRACT(EPOCH FROM clock_timestamp())"))
            return Tables(version, VERSION, float(then or 0) - (asked + time.time()) / 2)

    def upgrade_now(self) -> bool:
        """Make or change the tables; whether there was anything to do. Blocks the thread."""
        with self._connect("BEGIN") as connection:
            if _version(connection) == VERSION:
                return False
        with self._connect("BEGIN IMMEDIATE") as connection:
            self._lock_out_others(connection)
            if _version(connection) == VERSION:
                return False  # another replica was faster
            _migrate(connection)
            connection.commit()
        logger.info("migrated the tables in %r to version %s", self._url, VERSION)
        return True


def upgrade(url: str) -> bool:
    """Make or change the tables at `url`; whether there was anything to do.

    Blocks, outside of Trio as well. Raises ConfigError and StoreError.
    """
    database = Database(url)
    try:
        return database.upgrade_now()
    except _FAILURES as error:
        raise StoreError(_explain(error)) from error
    finally:
        database.close()


def inspect(url: str) -> Tables:
    """Look at the tables at `url`, and change nothing.

    Blocks, outside of Trio as well. Raises ConfigError and StoreError.
    """
    file = sqlite_file(url)
    if file is not None and not file.exists():  # to connect would make it
        if not os.access(file.parent, os.W_OK):
            raise StoreError(f"{file} cannot be made")
        return Tables(None, VERSION, None)
    database = Database(url)
    try:
        return database.inspect_now()
    except _FAILURES as error:
        raise StoreError(_explain(error)) from error
    finally:
        database.close()


def sqlite_file(url: str) -> Path | None:
    """The file that a `DATABASE_URL` names; None if it is PostgreSQL's. Raises ConfigError."""
    parsed = read_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


_EXTRA = "the extra `postgres`: pip install 'trio-signal[postgres]'"
_WANTED = "sqlite:///FILE or postgresql://HOST/DATABASE"


def read_url(url: str) -> URL:
    """A `DATABASE_URL` for SQLAlchemy, with the driver that is used; raises SettingError."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise SettingError(f"DATABASE_URL must be {_WANTED}") from None
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        if find_spec("psycopg") is None:
            raise SettingError(f"PostgreSQL as DATABASE_URL requires {_EXTRA}")
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    raise SettingError(f"DATABASE_URL must be {_WANTED}, not {parsed!r}")


def _make_engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(
            url, pool_size=MAX_THREADS, max_overflow=0, connect_args={"timeout": PATIENCE - 0.5}
        )
        event.listen(engine, "connect", _prepare_sqlite)
        return engine
    milliseconds = int((PATIENCE - 0.5) * 1000)
    return create_engine(
        url,
        pool_size=MAX_THREADS,
        max_overflow=0,
        pool_timeout=PATIENCE,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": 2,
            "options": f"-c statement_timeout={milliseconds} -c lock_timeout={milliseconds}",
            # A host that is gone without a word is noticed in some ten seconds.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 2,
            "tcp_user_timeout": 10_000,
            "application_name": "trio-signal",
        },
    )


def _prepare_sqlite(connection: Any, record: object) -> None:
    """Readers do not wait for a writer, and what is committed is on the disk."""
    connection.isolation_level = None  # transactions are begun here, not by the driver
    _write_ahead(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Turn a new file to its write-ahead log. The first to do so is all alone.

    Two that try at one moment hold each other up, so SQLite refuses one of them at once, whatever
    its timeout.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _version(connection: Connection) -> str | None:
    """The version of the tables; None if there are none."""
    # Without Alembic, which is slow to import, and hardly ever needed.
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    version: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return version


def _migrate(connection: Connection) -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)  # we say ourselves what was done
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    if connection.dialect.name != "sqlite":
        connection.execute(text("SET LOCAL statement_timeout = 0"))
    config = Config(attributes={"connection": connection})
    folder = str(Path(__file__).parent / "migrations")
    config.set_main_option("script_location", folder.replace("%", "%%"))
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise OSError(f"the tables cannot be upgraded: {error}") from error


def _explain(error: Exception) -> str:
    """Its first line, as the driver has it: there is no URL in it, and no parameters."""
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().partition("\n")[0] or type(cause).__name__
