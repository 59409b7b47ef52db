"""Events to be sent to a site's backend, and visits whose start was sent and whose end was not.

The tables are created if missing, like those of members: older versions ignore them, and can use
the same database.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    Select,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from trio_signal.store.database import Database
from trio_signal.store.store import chunks

#: Most events waiting for one URL; beyond that, the newest are dropped.
MOST_WAITING = 200_000

_metadata = MetaData()

_outbox = Table(
    "webhook_outbox",
    _metadata,
    Column("position", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    #: The SHA-256 of URL and room, which has a fixed length.
    Column("url", String(64), nullable=False),
    Column("id", String(64), nullable=False),
    Column("room", String(64), nullable=False),
    Column("body", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    #: Send not before this time, in seconds since 1970. Only the first event of a room has one.
    Column("due", Float, nullable=False),
    sqlite_autoincrement=True,
)
Index("one_webhook_for_a_url", _outbox.c.url, _outbox.c.id, unique=True)
Index("webhooks_that_are_due", _outbox.c.url, _outbox.c.due)

_visits = Table(
    "webhook_visits",
    _metadata,
    #: The SHA-256 of the room and of the peer id.
    Column("key", String(64), primary_key=True),
    Column("visit", Text, nullable=False),
)


class Waiting(NamedTuple):
    """An event that waits for a URL."""

    position: int
    id: str
    room: str
    body: str
    attempts: int


class NewEvent(NamedTuple):
    """An encoded event to store; events of no room have no common order."""

    id: str
    room: str | None
    body: str


class Settled(NamedTuple):
    """The outcome of an attempt: when to retry, or None if it is settled."""

    waiting: Waiting
    again: float | None


class OutboxStore:
    """Its methods block, and raise StoreError. Each is one transaction."""

    def __init__(self, url: str) -> None:
        """Use a `DATABASE_URL`; does not connect yet. Raises ConfigError."""
        self._database = Database(url)

    def close(self) -> None:
        """Close idle connections; does not block."""
        self._database.close()

    async def prepare(self) -> list[str]:
        """Create the tables if missing; return the stored visits."""
        return await self._database.write(_prepare)

    async def add(
        self,
        urls: Sequence[str],
        events: Sequence[NewEvent],
        visits: Mapping[tuple[str, str], str | None],
    ) -> int:
        """Store events once per URL, and the changed visits; return how many were dropped.

        Events that still wait for any URL are not stored again.
        """
        return await self._database.write(partial(_add, [*map(digest, urls)], events, visits))

    async def waiting(
        self, url: str, now: float, most: int, without: Collection[str]
    ) -> list[Waiting]:
        """The events that may be sent to a URL now, in order, except those of some rooms."""
        return await self._database.read(partial(_waiting, digest(url), now, most, [*without]))

    async def next_due(self, url: str, without: Collection[str]) -> float | None:
        """When the next event may be sent to a URL, except those of some rooms."""
        return await self._database.read(partial(_next_due, digest(url), [*without]))

    async def count(self, url: str) -> int:
        """How many events wait for a URL."""
        return await self._database.read(partial(_count, digest(url)))

    async def settle(self, settled: Collection[Settled]) -> list[str]:
        """Record outcomes; return the ids of events that no URL waits for any more."""
        return await self._database.write(partial(_settle, settled))


def digest(text: str) -> str:
    """A digest of fixed length for any text."""
    return sha256(text.encode(errors="surrogatepass")).hexdigest()


# Each runs in a thread, within a transaction.


def _insert_new(connection: Connection) -> Callable[[Table], sqlite.Insert | postgresql.Insert]:
    return sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert


def _prepare(connection: Connection) -> list[str]:
    _metadata.create_all(connection)
    return list(connection.execute(select(_visits.c.visit)).scalars())


def _add(
    urls: Sequence[str],
    events: Sequence[NewEvent],
    visits: Mapping[tuple[str, str], str | None],
    connection: Connection,
) -> int:
    dropped = 0
    # An event that still waits for any URL was stored for all of them, and may have been delivered
    # to these.
    stored_before = _remaining([event.id for event in events], connection)
    events = [event for event in events if event.id not in stored_before]
    for url in urls:
        room = max(MOST_WAITING - _count(url, connection), 0) if events else 0
        rows = [
            {
                "url": url,
                "id": event.id,
                "room": digest(event.room) if event.room is not None else "",
                "body": event.body,
                "attempts": 0,
                "due": 0.0,
            }
            for event in events[:room]
        ]
        dropped += len(events) - len(rows)
        if rows:
            connection.execute(_insert_new(connection)(_outbox).on_conflict_do_nothing(), rows)
    keys = {digest("\0".join(key)): visit for key, visit in visits.items()}
    for some in chunks(list(keys)):
        connection.execute(delete(_visits).where(_visits.c.key.in_(some)))
    stored = [{"key": k, "visit": v} for k, v in keys.items() if v is not None]
    if stored:
        connection.execute(insert(_visits), stored)
    return dropped


def _waiting(
    url: str, now: float, most: int, without: Sequence[str], connection: Connection
) -> list[Waiting]:
    held = select(_outbox.c.room).where(_outbox.c.url == url, _outbox.c.due > now)
    columns = (_outbox.c.position, _outbox.c.id, _outbox.c.room, _outbox.c.body)
    rows = connection.execute(
        select(*columns, _outbox.c.attempts)
        .where(_outbox.c.url == url, _outbox.c.room.not_in(held), _outbox.c.room.not_in(without))
        .order_by(_outbox.c.position)
        .limit(most)
    )
    return [Waiting(*row) for row in rows]


def _next_due(url: str, without: Sequence[str], connection: Connection) -> float | None:
    # If an event of a room must wait, so must the room's later ones.
    due: float | None = connection.scalar(
        select(func.min(_outbox.c.due)).where(
            _outbox.c.url == url, _outbox.c.due > 0, _outbox.c.room.not_in(without)
        )
    )
    return due


def _count(url: str, connection: Connection) -> int:
    query = select(func.count()).select_from(_outbox).where(_outbox.c.url == url)
    return connection.execute(query).scalar_one()


def _settle(settled: Collection[Settled], connection: Connection) -> list[str]:
    over = [each.waiting for each in settled if each.again is None]
    for begin in range(0, len(over), 300):
        positions = [each.position for each in over[begin : begin + 300]]
        connection.execute(delete(_outbox).where(_outbox.c.position.in_(positions)))
    for each in settled:
        if each.again is not None:
            changed = {"attempts": each.waiting.attempts + 1, "due": each.again}
            same = _outbox.c.position == each.waiting.position
            connection.execute(update(_outbox).where(same).values(changed))
    ids = list(dict.fromkeys(each.id for each in over))
    remaining = _remaining(ids, connection)
    return [id_ for id_ in ids if id_ not in remaining]


def _remaining(ids: Sequence[str], connection: Connection) -> set[str]:
    """Which of these events still wait for a URL, even for one of other settings."""
    remaining: set[str] = set()
    url = ""
    # The index begins with the URL, so this reads no more of it than necessary.
    while ids and (url := connection.scalar(_first_url_after(url))) is not None:
        for some in chunks(ids):
            waiting = _outbox.c.url == url, _outbox.c.id.in_(some)
            remaining.update(connection.execute(select(_outbox.c.id).where(*waiting)).scalars())
    return remaining


def _first_url_after(url: str) -> Select[tuple[str | None]]:
    return select(func.min(_outbox.c.url)).where(_outbox.c.url > url)
