"""The wire dialects: their table, and the choice of one for a request.

To add a dialect, add a module and a line in `DIALECTS`.
"""

from collections.abc import Iterable
from urllib.parse import parse_qsl, unquote, urlsplit

from trio_signal.dialects.announce import AnnounceDialect
from trio_signal.dialects.base import Dialect
from trio_signal.dialects.live import LiveDialect
from trio_signal.dialects.mesh import MeshDialect
from trio_signal.dialects.peerjs import PeerJsDialect
from trio_signal.dialects.room import RoomDialect
from trio_signal.dialects.stream import StreamDialect
from trio_signal.dialects.topics import TopicsDialect
from trio_signal.dialects.wire import OTHER
from trio_signal.errors import IdTooLongError
from trio_signal.names import MAX_ID

__all__ = ["DIALECTS", "OTHER", "Dialect", "dialect_at"]


DIALECTS: dict[str, type[Dialect]] = {
    "room": RoomDialect,
    "live": LiveDialect,
    "stream": StreamDialect,
    "mesh": MeshDialect,
    "announce": AnnounceDialect,
    "topics": TopicsDialect,
    "peerjs": PeerJsDialect,
}


def dialect_at(target: str, enabled: Iterable[str]) -> Dialect | None:
    """Make the dialect for a connection to this request target; None if there is none.

    Raises IdTooLongError for ids that are too long.
    """
    try:
        url = urlsplit(target)
    except ValueError:  # such as `//[`
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
