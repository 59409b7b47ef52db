"""What the core asks of a dialect."""

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
    #: Where it is spoken, as `/ws/{room_id}`, and what may be in the query. Of several dialects
    #: whose `at` takes a path, the first in the table has it.
    address: ClassVar[str]
    query: ClassVar[tuple[str, ...]] = ("token",)
    #: Reads what clients say. The other public structs of the module are what they are told.
    reader: ClassVar[Reader]
    #: Messages in both directions, as examples in /asyncapi.json.
    samples: ClassVar[tuple[Struct, ...]] = ()
    #: What clients may say besides, as it is: texts that are no JSON.
    words: ClassVar[frozenset[str]] = frozenset()
    #: Whether it asks its clients who they are; else they say so in the handshake.
    asks_who: ClassVar[bool] = False
    #: Below it are HTTP calls whose clients do not say who they are: in open mode a cookie tells
    #: them the `user_id` in the handshake's query. None if there are no such calls.
    cookie_path: ClassVar[str | None] = None
    #: All errors of HTTP calls whose paths begin so are told as `problem` does.
    http_prefix: ClassVar[str | None] = None
    #: What `GET /` answers to those who ask for JSON, if its clients do.
    card: ClassVar[Struct | None] = None
    #: Whether it needs announcements, and so their database.
    announces: ClassVar[bool] = False
    #: Whether its clients may send a text as a binary frame, which ends the others' connections.
    reads_binary: ClassVar[bool] = False
    #: Whether its clients drop candidates that come before they have applied the description.
    holds_candidates: ClassVar[bool] = False

    #: The types of what clients are told that a session does not count: see `Resumption`.
    uncounted: ClassVar[frozenset[bytes]] = frozenset()

    #: The types of what is for one client alone, and waits for it while a stand-in has its place.
    signals: ClassVar[frozenset[bytes]] = frozenset()

    #: What its clients do not say by themselves when they come back after a restart: that they
    #: broadcast, or that and the rooms in which they are.
    resumes: ClassVar[Resumes] = "nothing"

    def __init__(self) -> None:
        """Begin a connection that has not said anything."""
        #: The type of what `received` was given last; `OTHER` if it could not be read.
        self.received_type = OTHER

    @classmethod
    def sample_target(cls) -> str:
        """A request target at which it is spoken, for whoever tries the server."""
        return re.sub(r"{\w+}", "sample", cls.address)

    @classmethod
    def routes(cls) -> Sequence[Route]:
        """Its HTTP calls; there are none where it is switched off."""
        return ()

    @staticmethod
    def problem(status: int, detail: str) -> object:
        """An error of an HTTP call below `http_prefix`, to be encoded as JSON."""
        return Detail(detail)

    @classmethod
    @abstractmethod
    def at(cls, path: Sequence[str], query: Mapping[str, str]) -> Self | None:
        """A dialect for a new connection to this path, if it is one of this dialect's."""

    @classmethod
    def carried_on(cls, room_id: str) -> Self | None:
        """A dialect for a session of another replica that goes on here; None if none can."""
        return None

    @abstractmethod
    def opened(self, peer_id: str) -> Iterable[Action]:
        """The WebSocket is open; `peer_id` is new, and nobody can guess it."""

    @abstractmethod
    def authenticated(self, identity: Identity, server: ServerInfo, now: str) -> Iterable[Action]:
        """The connection's `Authenticate` was granted; `server` may be told from here on."""

    def authentication_failed(self, error: AuthenticationError) -> Close:
        """The connection's `Authenticate` was refused, or did not come in time."""
        return Close(CloseCode.POLICY, str(error))

    def rejoin(self, room_ids: Sequence[str]) -> Iterable[Action]:
        """The answer to `RejoinRooms`: where this user was a moment ago."""
        return []

    def received(self, text: bytes, now: str) -> Iterable[Action]:
        """The client sent this at `now`; it is UTF-8, and of any content."""
        try:
            message = self.reader.read(text)
        except UnreadableError as error:
            self.received_type = OTHER
            return self.unreadable(text, error)
        self.received_type = self.reader.names[type(message)]
        return self.commands(message, now)

    @abstractmethod
    def commands(self, message: Any, now: str) -> Iterable[Action]:
        """What the client wants with a message, which is one of the reader's structs."""

    @abstractmethod
    def unreadable(self, text: bytes, error: UnreadableError) -> Iterable[Action]:
        """The client sent something that is no message of this dialect."""

    @abstractmethod
    def answered(self, answer: Answer) -> Iterable[Send | Close]:
        """What became of the client's command."""

    @staticmethod
    @abstractmethod
    def tell(event: Event) -> Iterable[Notice]:
        """A room's event, or an announcement's, in this dialect's words.

        Called once an event, whatever the number of peers. A `Signalled` that
        has a target goes to that peer, whatever the notice's audience.
        """
