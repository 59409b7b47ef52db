"""The tables. A change here needs a migration in `migrations/versions`."""

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

#: The newest migration; a database of this version needs none.
VERSION = "0001"


class Moment(TypeDecorator[str]):
    """A time in the format of the wire, stored as a timestamp."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> datetime | None:
        """Convert the text; SQLite has no time zones, so everything is UTC."""
        if value is None:
            return None
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:
        """Convert back to the same text."""
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
    #: The last revision of this announcement.
    Column("revision", BigInteger, nullable=False, index=True),
)
#: At most one announcement is active.
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
