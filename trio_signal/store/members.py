"""The members of rooms on a server without Redis, so that a restart can restore them.

The table is temporary data, useful for a minute. So it has no migrations: it is created if missing,
and a change of its columns gets a new table name. Older versions ignore the table, and can use the
same database.
"""

from collections.abc import Mapping
from functools import partial

from sqlalchemy import (
    Column,
    Connection,
    Float,
    MetaData,
    String,
    Table,
    Text,
    delete,
    insert,
    or_,
    select,
    update,
)

from trio_signal.store.database import Database
from trio_signal.store.store import chunks

_metadata = MetaData()

#: Each run of a server has its own rows, and one without a key with the time of its last write.
_members = Table(
    "present_members",
    _metadata,
    Column("run", String(32), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("member", Text, nullable=False),
    #: Seconds since 1970.
    Column("at", Float, nullable=False),
)


class MemberStore:
    """The members of one run of a server. Its methods block, and raise StoreError."""

    def __init__(self, url: str, run: str) -> None:
        """Use a `DATABASE_URL`; does not connect yet. Raises ConfigError."""
        self._database = Database(url)
        self._run = run

    def close(self) -> None:
        """Close idle connections; does not block."""
        self._database.close()

    async def take_over(self, since: float, now: float) -> dict[str, str]:
        """Take over the members of runs that wrote after `since`, by key; delete all others."""
        return await self._database.write(partial(_take_over, self._run, since, now))

    async def write(self, changes: Mapping[str, str | None], now: float) -> None:
        """Write members by key, or delete those that are None; record the time."""
        await self._database.write(partial(_write, self._run, changes, now))


# Each runs in a thread, within a transaction.


def _take_over(run: str, since: float, now: float, connection: Connection) -> dict[str, str]:
    _metadata.create_all(connection)
    recent = select(_members.c.run).where(_members.c.key == "", _members.c.at >= since)
    runs = list(connection.execute(recent).scalars())
    connection.execute(
        delete(_members).where(or_(_members.c.run.not_in(runs), _members.c.key == ""))
    )
    found: dict[str, str] = {}
    for row in connection.execute(select(_members)).mappings():
        found[row["key"]] = row["member"]
    # Two runs may have had the same peer id in a room, one after the other.
    connection.execute(delete(_members))
    _write(run, found, now, connection)
    return found


def _write(run: str, changes: Mapping[str, str | None], now: float, connection: Connection) -> None:
    ours = _members.c.run == run
    for keys in chunks(list(changes)):
        connection.execute(delete(_members).where(ours, _members.c.key.in_(keys)))
    rows = [
        {"run": run, "key": key, "member": member, "at": now}
        for key, member in changes.items()
        if member is not None
    ]
    if rows:
        connection.execute(insert(_members), rows)
    wrote = update(_members).where(ours, _members.c.key == "").values(at=now)
    if connection.execute(wrote).rowcount == 0:
        connection.execute(insert(_members).values(run=run, key="", member="", at=now))
