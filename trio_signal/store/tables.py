"""The tables. A change here needs a migration beside those in `migrations/versions`."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

#: The last migration: a database with this version needs none.
VERSION = "0001"


class Moment(TypeDecorator[str]):
    """A time as the wire has it; the database knows that it is one."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> datetime | None:
        """SQLite has no time zones: all is UTC there."""
        if value is None:
            return None
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """The same text again."""
        if value is None:
            return None
        moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        text: str = moment.isoformat(timespec="milliseconds")
        return text.removesuffix("+00:00") + "Z"


metadata = MetaData()

announcements = Table(
    "announcements",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("created_by_id", Text, nullable=False),
    Column("created_by_name", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("type", String(16), nullable=False),
    Column("is_active", Boolean, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("updated_at", Moment, nullable=False),
    #: Of the last revision that was of this announcement.
    Column("revision", BigInteger, nullable=False, index=True),
)
#: At most one is active, whoever writes.
Index(
    "one_active_announcement",
    announcements.c.is_active,
    unique=True,
    sqlite_where=announcements.c.is_active,
    postgresql_where=announcements.c.is_active,
)

acknowledgements = Table(
    "acknowledgements",
    metadata,
    Column("announcement_id", ForeignKey("announcements.id"), primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("at", Moment, nullable=False),
)
