"""Dialect `peerjs`: peers that know each other's ids, as in the npm package of that name.

There are no rooms, and a peer learns nothing about peers that it has not talked to. See
docs/protocols/peerjs.md.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from sys import intern
from typing import Any, Self

from msgspec import UNSET, Raw, Struct, UnsetType

from trio_signal.dialects.base import Dialect
from trio_signal.dialects.rest import Route
from trio_signal.dialects.wire import Id, Reader, UnreadableError, encode
from trio_signal.errors import AuthenticationError, CloseCode
from trio_signal.messages.commands import (
    Action,
    Authenticate,
    Claim,
    Close,
    Malformed,
    Release,
    Send,
    SignalName,
)
from trio_signal.messages.events import (
    Answer,
    Audience,
    Claimed,
    Event,
    NameSignalled,
    Notice,
    Refusal,
    Refused,
    Unreached,
)
from trio_signal.messages.identity import Identity, NameSignalKind, ServerInfo
from trio_signal.names import MAX_ID

_ID = re.compile(r"[A-Za-z0-9]+([ _-][A-Za-z0-9]+)*")

# Messages from clients


class SendOffer(Struct, tag="OFFER"):
    """An offer to a peer."""

    dst: Id
    payload: Raw | UnsetType = UNSET


class SendAnswer(Struct, tag="ANSWER"):
    """An answer to a peer."""

    dst: Id
    payload: Raw | UnsetType = UNSET


class SendCandidate(Struct, tag="CANDIDATE"):
    """A candidate for a peer."""

    dst: Id
    payload: Raw | UnsetType = UNSET


class SendLeave(Struct, tag="LEAVE"):
    """Tells a peer that you left; without `dst`, releases your id."""

    dst: Id | UnsetType | None = UNSET


class Heartbeat(Struct, tag="HEARTBEAT"):
    """Keeps the connection alive."""


# Messages to clients


class Open(Struct, tag="OPEN"):
    """You own the id."""


class Reason(Struct, frozen=True):
    """What went wrong."""

    msg: str


class Error(Struct, tag="ERROR"):
    """You are refused; the connection ends."""

    payload: Reason


class IdTaken(Struct, tag="ID-TAKEN"):
    """Another client has the id; the connection ends."""

    payload: Reason = Reason("ID is taken")


class Offer(Struct, tag="OFFER"):
    """An offer from a peer."""

    src: str
    dst: str
    payload: Raw | UnsetType = UNSET


class GotAnswer(Struct, tag="ANSWER"):
    """An answer from a peer."""

    src: str
    dst: str
    payload: Raw | UnsetType = UNSET


class Candidate(Struct, tag="CANDIDATE"):
    """A candidate from a peer."""

    src: str
    dst: str
    payload: Raw | UnsetType = UNSET


class Leave(Struct, tag="LEAVE"):
    """A peer with which you exchanged signals left."""

    src: str
    dst: str


class Expire(Struct, tag="EXPIRE"):
    """No client took the id `src` in time. Your signals to it are lost."""

    src: str
    dst: str


class _Card(Struct):
    """The kind of server, which clients request at `/`."""

    name: str = "PeerJS Server"
    description: str = "A server side element to broker connections between PeerJS clients."
    website: str = "https://peerjs.com/"


_KINDS: dict[type[Struct], NameSignalKind] = {
    SendOffer: "offer",
    SendAnswer: "answer",
    SendCandidate: "candidate",
}
_TOLD = {"offer": Offer, "answer": GotAnswer, "candidate": Candidate}
_NONSENSE = [Malformed(b"")]
_OPEN = Send(encode(Open()))
_TAKEN = "ID is taken"
_WRONG_KEY = "Invalid key provided"
_WRONG_TOKEN = "Invalid token provided"  # noqa: S105
_WRONG_ID = "Invalid id provided"
_INCOMPLETE = "No id, token, or key supplied to websocket server"


def _refuse(message: str) -> list[Send | Close]:
    told = encode(IdTaken() if message == _TAKEN else Error(Reason(message)))
    return [Send(told), Close(CloseCode.POLICY, message)]


class PeerJsDialect(Dialect):
    """One connection that speaks `peerjs`."""

    __slots__ = ("_id", "_key", "_token")

    name = "peerjs"
    address = "/peerjs"
    query = ("key", "id", "token", "version")
    reader = Reader((SendOffer, SendAnswer, SendCandidate, SendLeave, Heartbeat))
    samples = (
        SendOffer("bob", Raw(b'{"sdp":{"type":"offer","sdp":"v=0..."},"type":"data"}')),
        Offer("ann", "bob", Raw(b'{"sdp":{"type":"offer","sdp":"v=0..."},"type":"data"}')),
        Expire("bob", "ann"),
    )
    card = _Card()

    def __init__(self, key: str, id_: str, token: str) -> None:
        """Take the values of the query."""
        super().__init__()
        self._key = intern(key)  # nearly all clients have the same
        self._id = id_
        self._token = token

    @classmethod
    def routes(cls) -> Sequence[Route]:
        """HTTP routes for a new id, and for the list of ids."""
        from trio_signal.dialects.rest import peers

        return peers.ROUTES

    @classmethod
    def at(cls, path: Sequence[str], query: Mapping[str, str]) -> Self | None:
        """A dialect for any path that ends in `peerjs`."""
        if path[-1] != "peerjs":
            return None
        return cls(query.get("key", ""), query.get("id", ""), query.get("token", ""))

    def opened(self, peer_id: str) -> Iterable[Action]:
        """Authenticate with the query."""
        if not (self._key and self._id and self._token):
            return _refuse(_INCOMPLETE)
        if len(self._id) > MAX_ID or not _ID.fullmatch(self._id):
            return _refuse(_WRONG_ID)
        return [Authenticate(self._id, self._token)]

    def authenticated(self, identity: Identity, server: ServerInfo, now: str) -> Iterable[Action]:
        """Claim the id; the client's token proves ownership."""
        return [Claim(self._full(self._id))]

    def authentication_failed(self, error: AuthenticationError) -> Close:
        """Send an error message, as clients do not read close codes."""
        return Close(CloseCode.POLICY, _WRONG_TOKEN, last=encode(Error(Reason(_WRONG_TOKEN))))

    def commands(self, message: Any, now: str) -> Iterable[Action]:
        """Translate the client's message."""
        kind = _KINDS.get(type(message))
        if kind is not None:
            return [SignalName(f"{self._key}:{message.dst}", kind, message.payload)]
        match message:
            case SendLeave(dst=str() as dst) if dst:
                return [SignalName(self._full(dst), "leave")]
            case SendLeave():
                return [Release()]
        return []

    def unreadable(self, text: bytes, error: UnreadableError) -> Iterable[Action]:
        """Ignore unreadable messages; count them unless they have another type."""
        return [] if error.problem == "type" and error.type is not None else _NONSENSE

    def answered(self, answer: Answer) -> Iterable[Send | Close]:
        """Send whether the id is claimed, and which targets cannot be reached."""
        match answer:
            case Claimed():
                return [_OPEN]
            case Unreached(target=target):
                return [Send(encode(Expire(_short(target), self._id)))]
            case Refused(command=Claim(), reason=Refusal.UNKNOWN_NAMESPACE):
                return _refuse(_WRONG_KEY)
            case Refused(command=Claim()):
                return _refuse(_TAKEN)
        return []

    @staticmethod
    def tell(event: Event) -> Iterable[Notice]:
        """Translate a signal of another peer."""
        if not isinstance(event, NameSignalled):
            return []
        sender, target = _short(event.sender), _short(event.target)
        struct = _TOLD.get(event.kind)
        if struct is None:
            return [Notice(Audience.ITSELF, encode(Leave(sender, target)))]
        return [Notice(Audience.ITSELF, encode(struct(sender, target, event.payload)))]

    def _full(self, id_: str) -> str:
        """An id with its namespace, which is the key."""
        return f"{self._key}:{id_}"


def _short(name: str) -> str:
    """The id without its namespace."""
    return name[name.index(":") + 1 :]
