"""The wire dialects: one module each, and the table of them.

A dialect is sans-I/O; `trio_signal.peer.Dialect` is the contract. A further
one is a module like the others and a line in `DIALECTS`.
"""

from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, unquote, urlsplit

from trio_signal.dialects.live import LiveDialect
from trio_signal.dialects.mesh import MeshDialect
from trio_signal.dialects.room import RoomDialect
from trio_signal.dialects.stream import StreamDialect

AnyDialect = RoomDialect | LiveDialect | StreamDialect | MeshDialect

DIALECTS: Mapping[str, type[AnyDialect]] = {
    dialect.name: dialect for dialect in (RoomDialect, LiveDialect, StreamDialect, MeshDialect)
}


def dialect_at(target: str, enabled: Iterable[str]) -> AnyDialect | None:
    """A new dialect for a connection to this request target; None if there is none."""
    url = urlsplit(target)
    path = [unquote(segment) for segment in url.path.strip("/").split("/")]
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    if not all(path):
        return None
    for name in enabled:
        dialect = DIALECTS[name].at(path, query)
        if dialect is not None:
            return dialect
    return None
