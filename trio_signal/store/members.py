"""Who is in the rooms of a server without Redis: so that a restart can put them back.

The table is scratch paper. What is in it is of use for a minute, so it has no migrations:
it is made where it is missing, and a change of its columns takes another name. A version
of before that knows nothing of it can use the same database.
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

#: Each run of a server has rows of its own, and one without a key that says when it last wrote.
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
        """Take a `DATABASE_URL`; connects to nothing yet. Raises ConfigError."""
        self._database = Database(url)
        self._run = run

    def close(self) -> None:
        """Close what is idle; does not block."""
        self._database.close()

    async def take_over(self, since: float, now: float) -> dict[str, str]:
        """Make the members of runs that wrote since then ours, by their keys; forget the others."""
        return await self._database.write(partial(_take_over, self._run, since, now))

    async def write(self, changes: Mapping[str, str | None], now: float) -> None:
        """Write members by their keys, or take out those that are None; and say when."""
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
