"""A conversation of clients with a server, and how another server's answers differ. Pure.

Both servers get the same messages from clients. In messages from servers, ids and times are
ignored: if one server makes an id, the other makes a different one, and the client uses that from
then on.
"""

import re
from collections.abc import Iterable
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec
from msgspec import Struct

Side = Literal["client", "server"]


class Opened(Struct, tag="opened", tag_field="event"):
    """A client requested a WebSocket."""

    at: float
    socket: int
    target: str
    headers: dict[str, str]


class Said(Struct, tag="said", tag_field="event"):
    """A text was sent on a socket."""

    at: float
    socket: int
    by: Side
    text: str


class Closed(Struct, tag="closed", tag_field="event"):
    """A socket was closed, with 1006 without a close frame; or refused with an HTTP status."""

    at: float
    socket: int
    by: Side
    code: int
    reason: str = ""


class Asked(Struct, tag="asked", tag_field="event"):
    """An HTTP call whose answer is JSON, or an error."""

    at: float
    method: str
    target: str
    headers: dict[str, str]
    body: str
    status: int
    answer: str


Record = Opened | Said | Closed | Asked
decode_record = msgspec.json.Decoder(Record).decode

#: `added` harms no client: known clients ignore what they do not know.
Kind = Literal["missing", "absent", "differs", "order", "added"]


class Difference(Struct, frozen=True):
    """A difference of the new server: the message or call, and the field."""

    kind: Kind
    where: str
    field: str
    #: Describes the first occurrence.
    what: str
    times: int


_ID_NAME = re.compile(r"(^|_)(id|ids|token|session|key|credential)$|Id$|^(from|to)$")
_ID_VALUE = re.compile(r"[0-9a-fA-F-]{16,}|[\w-]{16,}\.[\w-]+\.[\w-]+|[a-zA-Z]+_[0-9a-f]+")
_TIME_NAME = re.compile(r"(_at|At|_in|time|timestamp|ttl|expires|last_seen)$")
_TIME_VALUE = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d.*")
_WORD = re.compile(r"[\w.-]+")
#: Bare texts that keep idle connections open: they depend only on time.
_BARE = frozenset({"ping", "pong"})
#: Characters of a value that are shown.
_SHOWN = 60


def parse(text: str) -> Any:
    """Decode a text as JSON; return the text itself if it is not JSON."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def type_of(text: str) -> str:
    """The type of a message."""
    message = parse(text)
    if isinstance(message, dict):
        return str(message.get("type", "(no type)"))
    return f"text {_show(text)}"


class Comparison:
    """Compares both sides in the order of the recorded conversation, and collects differences."""

    def __init__(self) -> None:
        """Begin without messages."""
        #: The new server's ids, by the old server's.
        self._ids: dict[str, str] = {}
        #: Values that the client sent first: servers must return them unchanged.
        self._given: set[str] = set()
        #: Messages of the new server that are not compared yet, with their numbers, by socket.
        self._waiting: dict[int, list[tuple[int, str]]] = {}
        self._received: dict[int, int] = {}
        #: The last compared message of each socket.
        self._last: dict[int, tuple[int, str]] = {}
        self._found: dict[tuple[Kind, str, str], tuple[str, int]] = {}

    # The client's side

    def client_says(self, text: str) -> str:
        """Convert a client's text for the new server."""
        message = parse(text)
        mapped = self._map(message)
        return text if mapped == message else msgspec.json.encode(mapped).decode()

    def address(self, text: str) -> str:
        """Convert a request target or a header value for the new server."""
        url = urlsplit(text)
        values = [*url.path.split("/"), *(value for _, value in parse_qsl(url.query))]
        for word in (*map(unquote, values), *_WORD.findall(text)):
            self._give(word)
        return _WORD.sub(lambda word: self._ids.get(word[0], word[0]), text)

    def _map(self, value: Any) -> Any:
        match value:
            case str():
                self._give(value)
                return self._ids.get(value, value)
            case dict():
                return {key: self._map(item) for key, item in value.items()}
            case list():
                return [self._map(item) for item in value]
        return value

    def _give(self, value: str) -> None:
        if value not in self._ids:
            self._given.add(value)

    # The servers' side

    def new_says(self, socket: int, text: str) -> None:
        """Record a message of the new server."""
        number = self._received[socket] = self._received.get(socket, 0) + 1
        if text not in _BARE:
            self._waiting.setdefault(socket, []).append((number, text))

    def old_says(self, socket: int, text: str, *, exactly: bool = False) -> bool:
        """Compare a message of the old server with a new one of this type; False if there is none.

        Of several, the most similar is used; with `exactly`, only one without differences.
        """
        if text in _BARE:
            return True
        type_, old = type_of(text), parse(text)
        waiting = self._waiting.get(socket, [])
        alike = [
            (self._distance(old, parse(candidate)), index)
            for index, (_, candidate) in enumerate(waiting)
            if type_of(candidate) == type_
        ]
        distance, index = min(alike, default=(1, -1))
        if index < 0 or (exactly and distance):
            return False
        number, candidate = waiting.pop(index)
        self._check_order(socket, number, type_)
        self.compare(type_, old, parse(candidate))
        return True

    def _distance(self, old: Any, new: Any) -> int:
        trial = Comparison()
        trial._ids, trial._given = self._ids.copy(), self._given
        trial.compare("", old, new)
        return sum(kind != "added" for kind, *_ in trial._found)

    def _check_order(self, socket: int, number: int, type_: str) -> None:
        last, last_type = self._last.get(socket, (0, ""))
        if number < last and type_ != last_type:
            self.note("order", type_, "", f"came before {last_type} instead of after it")
        self._last[socket] = max((last, last_type), (number, type_))

    def lacks(self, text: str) -> None:
        """The new server did not send in time what the old one sent."""
        self.note("missing", type_of(text), "", "the new server did not send it")

    def differs(self, kind: Kind, text: str) -> bool:
        """Whether messages of this type have differed in this way before."""
        return any(found[:2] == (kind, type_of(text)) for found in self._found)

    def finish(self) -> list[Difference]:
        """All differences, including additional messages of the new server."""
        for waiting in self._waiting.values():
            for _, text in waiting:
                self.note("added", type_of(text), "", "only the new server sends it")
            waiting.clear()
        found = (Difference(*key, *value) for key, value in self._found.items())
        return sorted(found, key=lambda found: (found.kind == "added", found.where, found.field))

    def note(self, kind: Kind, where: str, field: str, what: str) -> None:
        """Record a difference; only the first of its kind is described."""
        first, times = self._found.get((kind, where, field), (what, 0))
        self._found[kind, where, field] = first, times + 1

    def compare(self, where: str, old: Any, new: Any, field: str = "") -> None:
        """Record how a value differs, down to its last field."""
        if isinstance(old, dict) and isinstance(new, dict):
            for name, value in old.items():
                inner = f"{field}.{name}".lstrip(".")
                if name in new:
                    self.compare(where, value, new[name], inner)
                else:
                    self.note("absent", where, inner, f"was {_show(value)}")
            for name in new.keys() - old.keys():
                inner = f"{field}.{name}".lstrip(".")
                self.note("added", where, inner, f"is {_show(new[name])}")
        elif isinstance(old, list) and isinstance(new, list):
            if len(old) != len(new):
                counts = f"{len(old)} entries became {len(new)}"
                self.note("differs", where, f"{field}[]", counts)
            for one, other in zip(old, new, strict=False):
                self.compare(where, one, other, f"{field}[]")
        elif not self._is_same(field.rpartition(".")[2].removesuffix("[]"), old, new):
            self.note("differs", where, field, f"{_show(old)} became {_show(new)}")

    def _is_same(self, name: str, old: Any, new: Any) -> bool:
        if type(old) is not type(new):
            return {type(old), type(new)} == {int, float} and bool(old == new)
        if _TIME_NAME.search(name) or (isinstance(old, str) and _TIME_VALUE.fullmatch(old)):
            return True
        if not isinstance(old, str):
            return bool(old == new)
        if old not in self._ids and old not in self._given and _is_id(name, old):
            self._ids[old] = new
        return bool(self._ids.get(old, old) == new)


def _is_id(name: str, value: str) -> bool:
    return bool(_ID_NAME.search(name) or _ID_VALUE.fullmatch(value))


def _show(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def matters(differences: Iterable[Difference]) -> bool:
    """Whether a client may notice any of these differences."""
    return any(difference.kind != "added" for difference in differences)
