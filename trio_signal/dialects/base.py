"""The interface of a dialect."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

from msgspec import Struct

from trio_signal.dialects.rest import Detail, Route
from trio_signal.dialects.wire import OTHER, Reader, Resumes, UnreadableError
from trio_signal.errors import AuthenticationError, CloseCode
from trio_signal.messages.commands import Action, Close, Send
from trio_signal.messages.events import Answer, Event, Notice
from trio_signal.messages.identity import Identity, ServerInfo


class Dialect(ABC):
    """Translates between one family of clients and the core.

    One object serves one connection. It does no I/O and never blocks: text in,
    actions out; events in, text out. Ids and times are in what it is given.
    """

    __slots__ = ("received_type",)

    name: ClassVar[str]
    #: The path, such as `/ws/{room_id}`, and the allowed query parameters. If several dialects
    #: accept a path in `at`, the first in the table gets it.
    address: ClassVar[str]
    query: ClassVar[tuple[str, ...]] = ("token",)
    #: Decodes clients' messages. The module's other public structs are messages to clients.
    reader: ClassVar[Reader]
    #: Messages in both directions, as examples in /asyncapi.json.
    samples: ClassVar[tuple[Struct, ...]] = ()
    #: Bare texts that clients may send, which are not JSON.
    words: ClassVar[frozenset[str]] = frozenset()
    #: Whether clients authenticate in a message; otherwise they do in the handshake.
    asks_who: ClassVar[bool] = False
    #: Path prefix of HTTP calls whose clients send no identity: in open mode, a cookie from the
    #: handshake carries its `user_id`. None if there are no such calls.
    cookie_path: ClassVar[str | None] = None
    #: Path prefix of HTTP calls whose errors `problem` formats.
    http_prefix: ClassVar[str | None] = None
    #: The JSON answer of `GET /`, if clients request it.
    card: ClassVar[Struct | None] = None
    #: Whether the dialect needs announcements and their database.
    announces: ClassVar[bool] = False
    #: Whether clients may send texts as binary frames; in other dialects that closes the
    #: connection.
    reads_binary: ClassVar[bool] = False
    #: Whether clients drop candidates that come before they have applied the description.
    holds_candidates: ClassVar[bool] = False

    #: Types of messages to clients that a session does not count: see `Resumption`.
    uncounted: ClassVar[frozenset[bytes]] = frozenset()

    #: Types of messages to a single client, which wait while a stand-in has its place.
    signals: ClassVar[frozenset[bytes]] = frozenset()

    #: What clients do not send again after a restart: that they broadcast, or that and their rooms.
    resumes: ClassVar[Resumes] = "nothing"

    def __init__(self) -> None:
        """Begin a connection without messages."""
        #: The type of the last received message; `OTHER` if it is unknown or unreadable.
        self.received_type = OTHER

    @classmethod
    def sample_target(cls) -> str:
        """A request target of this dialect, for programs that test the server."""
        return re.sub(r"{\w+}", "sample", cls.address)

    @classmethod
    def routes(cls) -> Sequence[Route]:
        """The dialect's HTTP routes, which are served only while it is enabled."""
        return ()

    @staticmethod
    def problem(status: int, detail: str) -> object:
        """An error of an HTTP call below `http_prefix`, to be encoded as JSON."""
        return Detail(detail)

    @classmethod
    @abstractmethod
    def at(cls, path: Sequence[str], query: Mapping[str, str]) -> Self | None:
        """A dialect for a new connection to this path; None if the path is not one of its own."""

    @classmethod
    def carried_on(cls, room_id: str) -> Self | None:
        """A dialect for a session that moves here from another replica; None if it cannot."""
        return None

    @abstractmethod
    def opened(self, peer_id: str) -> Iterable[Action]:
        """The WebSocket is open; `peer_id` is new and cannot be guessed."""

    @abstractmethod
    def authenticated(self, identity: Identity, server: ServerInfo, now: str) -> Iterable[Action]:
        """The connection's `Authenticate` was accepted; `server` may be shown to the client now."""

    def authentication_failed(self, error: AuthenticationError) -> Close:
        """The connection's `Authenticate` was refused, or came too late."""
        return Close(CloseCode.POLICY, str(error))

    def rejoin(self, room_ids: Sequence[str]) -> Iterable[Action]:
        """The answer to `RejoinRooms`: the rooms in which this user was a moment ago."""
        return []

    def received(self, text: bytes, now: str) -> Iterable[Action]:
        """Process a text that the client sent at `now`: valid UTF-8, with any content."""
        try:
            message = self.reader.read(text)
        except UnreadableError as error:
            self.received_type = OTHER
            return self.unreadable(text, error)
        self.received_type = self.reader.names[type(message)]
        return self.commands(message, now)

    @abstractmethod
    def commands(self, message: Any, now: str) -> Iterable[Action]:
        """Translate a message, which is one of the reader's structs."""

    @abstractmethod
    def unreadable(self, text: bytes, error: UnreadableError) -> Iterable[Action]:
        """Process a text that is not a message of this dialect."""

    @abstractmethod
    def answered(self, answer: Answer) -> Iterable[Send | Close]:
        """Translate the outcome of the client's command."""

    @staticmethod
    @abstractmethod
    def tell(event: Event) -> Iterable[Notice]:
        """Translate an event of a room or an announcement.

        Called once per event, whatever the number of peers. A `Signalled` with a target goes to
        that peer, whatever the notice's audience.
        """
