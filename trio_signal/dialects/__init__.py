"""The wire dialects: their contract, and the table of them.

A further dialect is a module like the others and a line in `DIALECTS`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from trio_signal.dialects.announce import AnnounceDialect
from trio_signal.dialects.live import LiveDialect
from trio_signal.dialects.mesh import MeshDialect
from trio_signal.dialects.room import RoomDialect
from trio_signal.dialects.stream import StreamDialect
from trio_signal.dialects.wire import OTHER
from trio_signal.errors import AuthenticationError, IdTooLongError
from trio_signal.messages import (
    Action,
    Answer,
    Close,
    Event,
    Identity,
    Notice,
    Send,
    ServerInfo,
)
from trio_signal.names import MAX_ID

__all__ = ["DIALECTS", "OTHER", "Dialect", "dialect_at"]


class Dialect(Protocol):
    """What the core asks of a dialect.

    One object serves one connection. It does no I/O and never blocks: text in,
    actions out; events in, text out. Ids and times are in what it is given.
    """

    name: str
    #: The types of what clients may say.
    types: frozenset[str]
    #: Below it are HTTP calls whose clients do not say who they are: in open mode a cookie tells
    #: them the `user_id` in the handshake's query. None if there are no such calls.
    cookie_path: str | None
    #: Whether its clients drop candidates that come before they have applied the description.
    holds_candidates: bool
    #: The type of what `received` was given last: one of `types`, or `OTHER`.
    heard: str

    @classmethod
    def at(cls, path: Sequence[str], query: Mapping[str, str]) -> "Dialect | None":
        """A dialect for a new connection to this path, if it is one of this dialect's."""
        ...

    def opened(self, peer_id: str) -> Iterable[Action]:
        """The WebSocket is open; `peer_id` is new, and nobody can guess it."""
        ...

    def authenticated(self, identity: Identity, server: ServerInfo, now: str) -> Iterable[Action]:
        """The connection's `Authenticate` was granted; `server` may be told from here on."""
        ...

    def authentication_failed(self, error: AuthenticationError) -> Close:
        """The connection's `Authenticate` was refused, or did not come in time."""
        ...

    def recalled(self, room_ids: Sequence[str]) -> Iterable[Action]:
        """The answer to `RecallRooms`: where this user was a moment ago."""
        ...

    def received(self, text: bytes, now: str) -> Iterable[Action]:
        """The client sent this at `now`; it is UTF-8, and of any content."""
        ...

    def answered(self, answer: Answer) -> Iterable[Send | Close]:
        """What became of the client's command."""
        ...

    @staticmethod
    def tell(event: Event) -> Iterable[Notice]:
        """A room's event, or an announcement's, in this dialect's words.

        Called once an event, whatever the number of peers. A `Signalled` that
        has a target goes to that peer, whatever the notice's audience.
        """
        ...


DIALECTS: dict[str, type[Dialect]] = {
    "room": RoomDialect,
    "live": LiveDialect,
    "stream": StreamDialect,
    "mesh": MeshDialect,
    "announce": AnnounceDialect,
}


def dialect_at(target: str, enabled: Iterable[str]) -> Dialect | None:
    """A new dialect for a connection to this request target; None if there is none.

    Raises IdTooLongError for ids that nobody could use.
    """
    try:
        url = urlsplit(target)
    except ValueError:  # as of `//[`
        return None
    path = [unquote(segment) for segment in url.path.strip("/").split("/")]
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    if not all(path):
        return None
    for name in enabled:
        dialect = DIALECTS[name].at(path, query)
        if dialect is not None:
            if any(len(id_) > MAX_ID for id_ in (*path, query.get("user_id", ""))):
                raise IdTooLongError(f"An id has {MAX_ID} characters at most.")
            return dialect
    return None
