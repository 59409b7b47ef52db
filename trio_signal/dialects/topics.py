"""Dialect `topics`: publish and subscribe by topic, as y-webrtc and trystero do.

There are no rooms, and clients do not learn who else is connected. See docs/protocols/topics.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Self

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from trio_signal.dialects.base import Dialect
from trio_signal.dialects.wire import Reader, UnreadableError, encode
from trio_signal.messages.commands import (
    Action,
    Authenticate,
    Close,
    Malformed,
    Publish,
    Send,
    Subscribe,
    Unsubscribe,
)
from trio_signal.messages.events import Answer, Audience, Event, Notice, Published
from trio_signal.messages.identity import Identity, ServerInfo
from trio_signal.names import MAX_ID

_Topic = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]

# Messages from clients


class SubscribeTo(Struct, tag="subscribe"):
    """Subscribes to topics: `topics` in y-webrtc, `topic` in trystero."""

    topics: list[_Topic] | UnsetType = UNSET
    topic: _Topic | UnsetType = UNSET


class UnsubscribeFrom(Struct, tag="unsubscribe"):
    """Unsubscribes."""

    topics: list[_Topic] | UnsetType = UNSET
    topic: _Topic | UnsetType = UNSET


class PublishOn(Struct, tag="publish"):
    """Publishes opaque data: `data` in y-webrtc, `payload` in trystero."""

    topic: _Topic
    data: Raw | UnsetType = UNSET
    payload: Raw | UnsetType = UNSET


class Ping(Struct, tag="ping"):
    """Keeps the connection alive."""


# Messages to clients


class Heard(Struct, tag="publish"):
    """Published data, possibly your own; `clients` is the number of subscribers."""

    topic: str
    data: Raw
    clients: int


class Pong(Struct, tag="pong"):
    """The answer to `ping`."""


class Delivered(Struct):
    """Somebody published `payload`, perhaps you; it has no `type`."""

    topic: str
    payload: Raw


_PONG = Send(encode(Pong()))
_NONSENSE = Malformed(b"")


class TopicsDialect(Dialect):
    """One connection that speaks `topics`."""

    __slots__ = ()

    name = "topics"
    address = "/topics"
    reader = Reader((SubscribeTo, UnsubscribeFrom, PublishOn, Ping))
    samples = (
        SubscribeTo(topics=["sheet-7"]),
        PublishOn("sheet-7", Raw(b'{"type":"announce","from":"5a1c"}')),
        Heard("sheet-7", Raw(b'{"type":"announce","from":"5a1c"}'), 2),
    )

    @classmethod
    def at(cls, path: Sequence[str], query: Mapping[str, str]) -> Self | None:
        """A dialect for `/topics` and all paths below it."""
        return cls() if path[0] == "topics" else None

    def opened(self, peer_id: str) -> Iterable[Action]:
        """Authenticate; the identity does not matter, only the grants."""
        return [Authenticate(peer_id)]

    def authenticated(self, identity: Identity, server: ServerInfo, now: str) -> Iterable[Action]:
        """Send nothing."""
        return []

    def commands(self, message: Any, now: str) -> Iterable[Action]:
        """Translate the client's message."""
        match message:
            case PublishOn(topic=topic):
                if message.data is not UNSET:
                    return [Publish(topic, "data", message.data)]
                if message.payload is not UNSET:
                    return [Publish(topic, "payload", message.payload)]
            case SubscribeTo():
                if (topics := _topics(message)) is not None:
                    return [Subscribe(topics)]
            case UnsubscribeFrom():
                if (topics := _topics(message)) is not None:
                    return [Unsubscribe(topics)]
            case Ping():
                return [_PONG]
        return [_NONSENSE]

    def unreadable(self, text: bytes, error: UnreadableError) -> Iterable[Action]:
        """Ignore and count it."""
        return [_NONSENSE]

    def answered(self, answer: Answer) -> Iterable[Send | Close]:
        """Send nothing: clients do not learn the outcome of commands."""
        return []

    @staticmethod
    def tell(event: Event) -> Iterable[Notice]:
        """Send a publication in the form in which it came."""
        if not isinstance(event, Published):
            return []
        heard: Struct
        if event.form == "data":
            heard = Heard(event.topic, event.content, event.subscribers)
        else:
            heard = Delivered(event.topic, event.content)
        return [Notice(Audience.EVERYONE, encode(heard))]


def _topics(message: SubscribeTo | UnsubscribeFrom) -> tuple[str, ...] | None:
    """The topics of a message, each once; None if it names none."""
    topics = [] if message.topics is UNSET else message.topics
    if message.topic is not UNSET:
        topics = [*topics, message.topic]
    elif message.topics is UNSET:
        return None
    return tuple(dict.fromkeys(topics))
