"""The queries and statements for announcements."""

import hashlib
import time
from collections.abc import Collection, Sequence
from functools import partial

from sqlalchemy import Connection, RowMapping, func, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from trio_signal.clock import utc_now
from trio_signal.messages.identity import Announcement, Revision
from trio_signal.store.database import Database
from trio_signal.store.tables import acknowledgements, announcements

#: How many values one statement may have; old versions of SQLite allow 999.
CHUNK = 300
#: The longest user id that is stored as it is: PostgreSQL limits the size of index entries.
MAX_USER_ID = 255


class Store:
    """Announcements and acknowledgements. Its methods block, and raise StoreError.

    Each of them is one transaction.
    """

    def __init__(self, url: str) -> None:
        """Use a `DATABASE_URL`; does not connect yet. Raises ConfigError."""
        self._database = Database(url)

    def close(self) -> None:
        """Close idle connections; does not block."""
        self._database.close()

    async def upgrade(self) -> None:
        """Create or upgrade the tables."""
        await self._database.upgrade()

    async def newest(self) -> Revision | None:
        """Return the current revision."""
        return await self._database.read(_newest)

    async def check_writing(self) -> None:
        """Write something that changes nothing.

        Reading alone would not show that writes fail: a full disk, a read-only file or session, a
        standby.
        """
        await self._database.write(_touch)

    async def announce(self, announcement: Announcement, known: Revision | None) -> Revision:
        """Make an announcement active; `known` is the current revision as the caller knows it."""
        return await self._database.write(partial(_announce, announcement, known))

    async def clear(self, known: Revision | None) -> Revision | None:
        """End the active announcement; None if there is none."""
        return await self._database.write(partial(_clear, known))

    async def keep(self, revision: Revision) -> None:
        """Store a revision of another replica, unless there is a newer one."""
        await self._database.write(partial(_keep, revision))

    async def acknowledge(self, revision: Revision, user_ids: Collection[str]) -> int:
        """Store that users have acknowledged, each once; return how many have by now."""
        return await self._database.write(partial(_acknowledge, revision, user_ids))

    async def acknowledged(self, announcement_id: str, user_ids: Collection[str]) -> set[str]:
        """Which of these users have acknowledged."""
        return await self._database.read(partial(_acknowledged, announcement_id, user_ids))

    async def acknowledgers(self, announcement_id: str, after: str) -> list[str]:
        """The next users who have acknowledged, in the order of their ids, after this one."""
        return await self._database.read(partial(_acknowledgers, announcement_id, after))

    async def made_since(self, user_id: str, moment: str) -> int:
        """How many announcements a user has made since a time."""
        return await self._database.read(partial(_made_since, user_id, moment))


# Each runs in a thread, within a transaction.


def _newest(connection: Connection) -> Revision | None:
    order = (announcements.c.revision.desc(), announcements.c.id.desc())
    row = connection.execute(select(announcements).order_by(*order).limit(1)).mappings().first()
    return _revision(row) if row is not None else None


def _touch(connection: Connection) -> None:
    connection.execute(text("UPDATE alembic_version SET version_num = version_num"))


def _revision(row: RowMapping) -> Revision:
    announcement = Announcement(
        id=row["id"],
        message=row["message"],
        type=row["type"],
        created_by=row["created_by_id"],
        created_by_name=row["created_by_name"],
        created_at=row["created_at"],
    )
    return Revision(row["revision"], announcement, row["is_active"])


def _announce(
    announcement: Announcement, known: Revision | None, connection: Connection
) -> Revision:
    revision = Revision(_next_number(connection, known), announcement, active=True)
    _put(connection, revision)
    return revision


def _clear(known: Revision | None, connection: Connection) -> Revision | None:
    newest = _newest(connection)
    if known is not None and (newest is None or known.stamp > newest.stamp):
        newest = known
    if newest is None or not newest.active:
        return None
    revision = Revision(_next_number(connection, known), newest.announcement, active=False)
    _put(connection, revision)
    return revision


def _keep(revision: Revision, connection: Connection) -> None:
    newest = _newest(connection)
    if newest is None or newest.stamp < revision.stamp:
        _put(connection, revision)


def _next_number(connection: Connection, known: Revision | None) -> int:
    """A number above all known ones, and near the time in milliseconds.

    So later revisions have greater numbers even if another database counts.
    """
    stored = connection.execute(select(func.max(announcements.c.revision))).scalar() or 0
    last = max(stored, known.number if known is not None else 0)
    return max(last + 1, time.time_ns() // 1_000_000)


def _put(connection: Connection, revision: Revision) -> None:
    """Write a revision; end the announcement that was active before."""
    now = utc_now()
    announcement = revision.announcement
    ended = update(announcements).where(announcements.c.is_active)
    connection.execute(ended.values(is_active=False, updated_at=now))
    changes = {"is_active": revision.active, "revision": revision.number, "updated_at": now}
    same = announcements.c.id == announcement.id
    if connection.execute(update(announcements).where(same).values(changes)).rowcount == 0:
        values = {
            "id": announcement.id,
            "created_by_id": stored_user(announcement.created_by),
            "created_by_name": _name(announcement.created_by_name),
            "message": announcement.message,
            "type": announcement.type,
            "created_at": announcement.created_at,
        }
        connection.execute(insert(announcements).values(values | changes))


def _acknowledge(revision: Revision, user_ids: Collection[str], connection: Connection) -> int:
    announcement_id = revision.announcement.id
    _keep(revision, connection)  # a database of this replica alone may lack it
    known = select(announcements.c.id).where(announcements.c.id == announcement_id)
    if connection.execute(known).first() is None:
        return 0  # a newer revision came first
    at = utc_now()
    rows = [
        {"announcement_id": announcement_id, "user_id": stored_user(user_id), "at": at}
        for user_id in user_ids
    ]
    make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    connection.execute(make(acknowledgements).on_conflict_do_nothing(), rows)
    count = select(func.count()).where(acknowledgements.c.announcement_id == announcement_id)
    return connection.execute(count).scalar_one()


def _acknowledged(
    announcement_id: str, user_ids: Collection[str], connection: Connection
) -> set[str]:
    stored = {stored_user(user_id): user_id for user_id in user_ids}
    found: set[str] = set()
    for chunk in chunks(list(stored)):
        rows = connection.execute(
            select(acknowledgements.c.user_id).where(
                acknowledgements.c.announcement_id == announcement_id,
                acknowledgements.c.user_id.in_(chunk),
            )
        )
        found.update(stored[user_id] for user_id in rows.scalars())
    return found


def chunks(values: Sequence[str]) -> list[Sequence[str]]:
    """Split values into parts that fit into one statement."""
    return [values[i : i + CHUNK] for i in range(0, len(values), CHUNK)]


def _acknowledgers(announcement_id: str, after: str, connection: Connection) -> list[str]:
    rows = connection.execute(
        select(acknowledgements.c.user_id)
        .where(
            acknowledgements.c.announcement_id == announcement_id,
            acknowledgements.c.user_id > after,
        )
        .order_by(acknowledgements.c.user_id)
        .limit(CHUNK)
    )
    return list(rows.scalars())


def _made_since(user_id: str, moment: str, connection: Connection) -> int:
    return connection.execute(
        select(func.count()).where(
            announcements.c.created_by_id == stored_user(user_id),
            announcements.c.created_at >= moment,
        )
    ).scalar_one()


def stored_user(user_id: str) -> str:
    """A user id as it is stored; ids that the database would refuse are stored as a digest."""
    text = user_id.encode(errors="surrogatepass")
    if len(text) <= MAX_USER_ID and b"\0" not in text and user_id.isprintable():
        return user_id
    return "sha256:" + hashlib.sha256(text).hexdigest()


def _name(name: str) -> str:
    """A name without characters that the database would refuse."""
    return name.encode(errors="replace").decode().replace("\0", "")
