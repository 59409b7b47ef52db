"""Store: announcements and their acknowledgements in an SQL database.

SQLite or PostgreSQL, through SQLAlchemy in worker threads. Other packages use only `Store`.
docs/announcements.md explains what is kept, and what happens when the database is slow or away.
"""

from trio_signal.store.database import Database, Tables, inspect, sqlite_file, upgrade
from trio_signal.store.members import MemberStore
from trio_signal.store.outbox import NewEvent, OutboxStore, Settled, Waiting
from trio_signal.store.store import Store, stored_user

__all__ = [
    "Database",
    "MemberStore",
    "NewEvent",
    "OutboxStore",
    "Settled",
    "Store",
    "Tables",
    "Waiting",
    "inspect",
    "sqlite_file",
    "stored_user",
    "upgrade",
]
