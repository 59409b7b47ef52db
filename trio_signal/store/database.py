"""Database: transactions in worker threads that can be given up.

A thread cannot be cancelled. So a transaction checks, immediately before its commit, whether
anybody still waits for it. If not, it is rolled back, whenever the database responds again. Only a
commit in progress is waited for.
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

#: Seconds for a transaction, and additional seconds for a commit in progress.
PATIENCE = 3.0
COMMIT_PATIENCE = 0.8
#: Seconds to create or change the tables.
UPGRADE_PATIENCE = 120.0
#: Threads and connections; SQLite allows only one writer anyway.
MAX_THREADS = 4
#: An arbitrary number that nobody else uses for a lock in this database.
_LOCK = 0x7472696F


class GivenUpError(Exception):
    """Nobody waits for this transaction any more."""


#: Exceptions that a thread may raise and that are not bugs.
_FAILURES = (GivenUpError, SQLAlchemyError, sqlite3.Error, OSError)


class Attempt:
    """A transaction that can be given up until it commits."""

    def __init__(self) -> None:
        """Begin a transaction."""
        self._lock = threading.Lock()
        self._given_up = False
        self._commits = False

    def begin_commit(self) -> None:
        """Called by the thread before the commit; raises GivenUpError."""
        with self._lock:
            if self._given_up:
                raise GivenUpError
            self._commits = True

    def give_up(self) -> bool:
        """Called by the waiting task; returns False if the commit has begun. Does not block."""
        with self._lock:
            self._given_up = not self._commits
            return self._given_up


class Tables(NamedTuple):
    """The version of a database's tables, and the version that we need."""

    #: None if there are no tables yet.
    version: str | None
    wanted: str
    #: Seconds by which the database's clock is ahead of ours; None if it uses ours.
    ahead: float | None


class Database:
    """The engine, its threads, and the version of its tables."""

    def __init__(self, url: str) -> None:
        """Use a `DATABASE_URL`; does not connect yet. Raises ConfigError."""
        self._url = read_url(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self._engine = _make_engine(self._url)
        self._closed = False
        self._limiter = trio.CapacityLimiter(MAX_THREADS)

    def close(self) -> None:
        """Close idle connections; running threads close theirs."""
        self._closed = True
        self._engine.pool.dispose()

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run this in a thread; raises StoreError if it fails or takes too long."""
        return await self._run(partial(self._read, work), None, PATIENCE)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run this in a transaction that locks out all other writers.

        Raises StoreError: then nothing is stored, except in the rare case that the database stops
        answering during the commit, when nobody knows. A cancellation has the same effect.
        """
        attempt = Attempt()
        return await self._run(partial(self._write, work, attempt), attempt, PATIENCE)

    async def upgrade(self) -> None:
        """Create or upgrade the tables if necessary; raises StoreError."""
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
        """A connection with a transaction, which is rolled back unless it is committed."""
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
        """Read the version of the tables. Blocks the thread."""
        with self._connect("BEGIN") as connection:
            version = _version(connection)
            if self.is_sqlite:
                return Tables(version, VERSION, None)
            asked = time.time()
            then = connection.scalar(text("SELECT EXTRACT(EPOCH FROM clock_timestamp())"))
            return Tables(version, VERSION, float(then or 0) - (asked + time.time()) / 2)

    def upgrade_now(self) -> bool:
        """Create or upgrade the tables; return whether that was necessary. Blocks the thread."""
        with self._connect("BEGIN") as connection:
            if _version(connection) == VERSION:
                return False
        with self._connect("BEGIN IMMEDIATE") as connection:
            self._lock_out_others(connection)
            if _version(connection) == VERSION:
                return False  # another replica has done it
            _migrate(connection)
            connection.commit()
        logger.info("migrated the tables in %r to version %s", self._url, VERSION)
        return True


def upgrade(url: str) -> bool:
    """Create or upgrade the tables at `url`; return whether that was necessary.

    Blocks; does not need Trio. Raises ConfigError and StoreError.
    """
    database = Database(url)
    try:
        return database.upgrade_now()
    except _FAILURES as error:
        raise StoreError(_explain(error)) from error
    finally:
        database.close()


def inspect(url: str) -> Tables:
    """Read the version of the tables at `url` without changing anything.

    Blocks; does not need Trio. Raises ConfigError and StoreError.
    """
    file = sqlite_file(url)
    if file is not None and not file.exists():  # connecting would create it
        if not os.access(file.parent, os.W_OK):
            raise StoreError(f"{file} cannot be created")
        return Tables(None, VERSION, None)
    database = Database(url)
    try:
        return database.inspect_now()
    except _FAILURES as error:
        raise StoreError(_explain(error)) from error
    finally:
        database.close()


def sqlite_file(url: str) -> Path | None:
    """The file of a `DATABASE_URL`; None for PostgreSQL. Raises ConfigError."""
    parsed = read_url(url)
    return Path(parsed.database or "") if parsed.get_backend_name() == "sqlite" else None


_EXTRA = "the extra `postgres`: pip install 'trio-signal[postgres]'"
_WANTED = "sqlite:///FILE or postgresql://HOST/DATABASE"


def read_url(url: str) -> URL:
    """Convert a `DATABASE_URL` for SQLAlchemy, with our driver; raises SettingError."""
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
            # A host that disappears is noticed in about ten seconds.
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 2,
            "tcp_user_timeout": 10_000,
            "application_name": "trio-signal",
        },
    )


def _prepare_sqlite(connection: Any, record: object) -> None:
    """Make readers not wait for a writer, and commits durable on the disk."""
    connection.isolation_level = None  # we begin transactions, not the driver
    _write_ahead(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch a new file to write-ahead logging, one process at a time.

    If two try at the same moment, SQLite refuses one of them at once, whatever its timeout.
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
    """The version of the tables; None if there are no tables."""
    # Does not use Alembic, which is slow to import and hardly ever needed.
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    version: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return version


def _migrate(connection: Connection) -> None:
    logging.getLogger("alembic").setLevel(logging.WARNING)  # we log the result ourselves
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
    """The first line of the driver's error, which contains no URL and no parameters."""
    cause = getattr(error, "orig", None) or error
    return str(cause).strip().partition("\n")[0] or type(cause).__name__
