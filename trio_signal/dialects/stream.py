"""Dialect `stream`: one broadcaster, one peer connection per viewer.

Keyed by peer. A stream is a room whose id is `streamId`. The broadcaster makes
the offers. See docs/protocols/stream.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Self

from msgspec import Meta, Raw, Struct

from trio_signal.dialects.base import Dialect
from trio_signal.dialects.wire import Id, Reader, UnreadableError, encode
from trio_signal.messages.commands import (
    Action,
    Authenticate,
    Close,
    GoLive,
    Join,
    Malformed,
    Send,
    Signal,
    StartStreaming,
    StopLive,
    To,
)
from trio_signal.messages.events import (
    AnnouncementEvent,
    Answer,
    Audience,
    Displaced,
    Event,
    Joined,
    Left,
    LiveNow,
    Moved,
    NameSignalled,
    Notice,
    PrivateEvent,
    Published,
    Refusal,
    Refused,
    Rejoined,
    RelayAsked,
    RelayDone,
    RelayFailed,
    Removed,
    ServeDirectly,
    Signalled,
    StopCause,
    StoppedLive,
    StreamStarting,
    WentLive,
)
from trio_signal.messages.identity import Identity, Member, ServerInfo
from trio_signal.names import MAX_ID

#: Not empty: pages that do not know their stream yet would all meet in that one.
_StreamId = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]

# Messages from clients. Field names on the wire are in camel case.


class _OfStream(Struct, rename="camel"):
    stream_id: _StreamId


class BroadcasterReady(_OfStream, tag="broadcaster-ready"):
    """Becomes the stream's broadcaster."""


class JoinStream(_OfStream, tag="join-stream"):
    """Asks to watch a stream."""


class WebRtcOffer(_OfStream, tag="webrtc-offer"):
    """An offer for a viewer."""

    offer: Raw
    viewer_id: Id


class WebRtcAnswer(_OfStream, tag="webrtc-answer"):
    """A viewer's answer."""

    answer: Raw


class WebRtcIceCandidate(_OfStream, tag="webrtc-ice-candidate"):
    """A candidate from either side; a viewer's `viewerId` is ignored."""

    candidate: Raw
    viewer_id: Id | None = None


class IceCandidate(WebRtcIceCandidate, tag="ice-candidate"):
    """The same under another name."""


class StreamStart(Struct, tag="start-streaming", rename="camel"):
    """Announces that it will go live soon."""

    order_id: _StreamId


class EndStream(_OfStream, tag="end-stream"):
    """Ends the stream; for the broadcaster."""


_reader = Reader(
    (
        BroadcasterReady,
        JoinStream,
        WebRtcOffer,
        WebRtcAnswer,
        WebRtcIceCandidate,
        IceCandidate,
        StreamStart,
        EndStream,
    )
)

# Messages to clients


class StreamNotice(Struct, rename="camel"):
    """Something happened to the stream."""

    type: str
    stream_id: str


class ViewerNotice(Struct, rename="camel"):
    """A viewer joined or left."""

    type: str
    stream_id: str
    viewer_id: str


class ViewerCount(Struct, tag="viewer-count", rename="camel"):
    """The number of peers, including the broadcaster."""

    count: int
    stream_id: str


class Offer(Struct, tag="webrtc-offer", rename="camel"):
    """An offer from the broadcaster."""

    offer: Raw
    stream_id: str
    viewer_id: str


class AnswerFrom(Struct, tag="webrtc-answer", rename="camel"):
    """An answer from a viewer."""

    answer: Raw
    stream_id: str
    viewer_id: str


class Candidate(Struct, rename="camel"):
    """A candidate, with the type with which it was sent."""

    type: str
    candidate: Raw
    stream_id: str
    viewer_id: str


class Error(Struct, tag="error", rename="camel", omit_defaults=True):
    """An error. Old clients ignore this type."""

    code: str
    message: str
    stream_id: str | None = None


#: Why a stream cannot be joined or broadcast: code and text.
_REFUSALS = {
    Refusal.STREAM_FULL: ("stream_full", "The stream has no room for more viewers"),
    Refusal.ROOM_FULL: ("stream_full", "The stream has no room for more viewers"),
    Refusal.STREAM_TAKEN: ("stream_taken", "Somebody else broadcasts in this stream"),
    Refusal.TOO_MANY_ROOMS: ("too_many_streams", "Too many streams on one connection"),
    Refusal.NOT_ALLOWED: ("not_allowed", "Not allowed in this stream"),
}


_OfNoRoom = Published | NameSignalled | AnnouncementEvent | PrivateEvent | Moved


class StreamDialect(Dialect):
    """One connection that speaks `stream`."""

    name = "stream"
    address = "/ws"
    reader = _reader
    samples = (JoinStream("show"), ViewerCount(2, "show"))
    holds_candidates = True

    def __init__(self) -> None:
        """Begin; clients have no identity, except by a token."""
        super().__init__()
        self._peer_id = ""

    @classmethod
    def at(cls, path: Sequence[str], query: Mapping[str, str]) -> Self | None:
        """A dialect for `/ws`; None for other paths."""
        return cls() if path == ["ws"] else None

    def opened(self, peer_id: str) -> Iterable[Action]:
        """Authenticate with the new peer id, which cannot be guessed."""
        self._peer_id = f"client_{peer_id}"
        return [Authenticate(self._peer_id)]

    def authenticated(self, identity: Identity, server: ServerInfo, now: str) -> Iterable[Action]:
        """Send nothing until the client names a stream."""
        return []

    def unreadable(self, text: bytes, error: UnreadableError) -> Iterable[Action]:
        """Send an error. The old server sent none, but its clients ignore unknown types."""
        code = "unknown_type" if error.problem == "type" else "invalid_message"
        return [Malformed(encode(Error(code, str(error))))]

    def commands(self, message: Any, now: str) -> Iterable[Action]:
        """Translate the client's message."""
        match message:
            case WebRtcIceCandidate(stream_id=stream, candidate=candidate, viewer_id=viewer):
                wire_type = str(message.__struct_config__.tag)
                return [
                    Signal(stream, "candidate", candidate, To.COUNTERPART, viewer or "", wire_type)
                ]
            case WebRtcOffer(stream_id=stream, offer=offer, viewer_id=viewer):
                return [Signal(stream, "offer", offer, To.VIEWER, viewer)]
            case WebRtcAnswer(stream_id=stream, answer=answer):
                return [Signal(stream, "answer", answer, To.BROADCASTER)]
            case JoinStream(stream_id=stream):
                return [Join(stream, self._peer_id, viewer=True)]
            case BroadcasterReady(stream_id=stream):
                return [
                    Join(stream, self._peer_id, broadcaster=True),
                    GoLive(stream, exclusive=True),
                ]
            case StreamStart(order_id=stream):
                # A client that has only announced a broadcast counts as a viewer for the cap.
                return [
                    Join(stream, self._peer_id, viewer=True, broadcaster=True),
                    StartStreaming(stream),
                ]
            case EndStream(stream_id=stream):
                return [StopLive(stream)]
        return []

    def answered(self, answer: Answer) -> Iterable[Send | Close]:
        """Translate the outcome of the client's command."""
        match answer:
            case LiveNow(room_id=stream, others=others):
                return [Send(_viewer("viewer-joined", stream, m)) for m in others if not m.live]
            case RelayAsked(room_id=stream, relay=relay):
                return [Send(_viewer("viewer-joined", stream, relay))]
            case RelayDone(room_id=stream, relay=relay):
                return [Send(_viewer("viewer-left", stream, relay))]
            case ServeDirectly(room_id=stream, viewer=viewer):
                return [Send(_viewer("viewer-joined", stream, viewer))]
            case RelayFailed(room_id=stream):
                return [_error("relay_failed", "The stream cannot be delivered now", stream)]
            case Removed(room_id=stream, reason=reason):
                return [_error("kicked", reason, stream)]
            case Displaced(room_id=stream):
                return [_error("stream_taken", "A newer broadcaster took this stream", stream)]
            case Refused(command=Join() | GoLive() | StartStreaming() as command, reason=reason):
                known = reason in _REFUSALS
                return [_error(*_REFUSALS[reason], command.room_id)] if known else []
            case Refused(command=Signal(room_id=stream), reason=Refusal.TARGET_NOT_FOUND):
                return [_error("not_allowed", "No such peer in this stream", stream)]
            case Refused(command=Signal(room_id=stream)):
                return [_error("not_allowed", "Only broadcaster and viewer may signal", stream)]
            case Refused(command=StopLive(room_id=stream)):
                return [_error("not_allowed", "Only the broadcaster ends a stream", stream)]
        return []

    @staticmethod
    def tell(event: Event) -> Iterable[Notice]:
        """Translate a room's event."""
        if isinstance(event, _OfNoRoom):
            return []
        stream = event.room_id
        match event:
            case Signalled():
                return _signalled(event)
            case Joined(member=member) | Rejoined(member=member):
                return [
                    _count(stream, event.peers),
                    Notice(Audience.BROADCASTERS, _viewer("viewer-joined", stream, member)),
                ]
            case Left(member=member):
                return [
                    Notice(Audience.BROADCASTERS, _viewer("viewer-left", stream, member)),
                    _count(stream, event.peers),
                ]
            case WentLive():
                return [_notice(Audience.OTHER_PEERS, "broadcaster-ready-signal", stream)]
            case StoppedLive(cause=StopCause.STOPPED):
                return [
                    _notice(Audience.OTHER_PEERS, "stream-ended", stream),
                    _notice(Audience.ITSELF, "stream-end-confirmed", stream),
                ]
            case StoppedLive(cause=StopCause.REPLACED, member=Member(dialect="stream")):
                return []  # a newer broadcaster took over, and is announced next
            case StoppedLive():
                return [_notice(Audience.OTHER_PEERS, "broadcaster-disconnected", stream)]
            case StreamStarting():
                return [_notice(Audience.OTHER_PEERS, "stream-started", stream)]
        return []


def _error(code: str, message: str, stream: str) -> Send:
    return Send(encode(Error(code, message, stream)))


def _notice(audience: Audience, type_: str, stream: str) -> Notice:
    return Notice(audience, encode(StreamNotice(type_, stream)))


def _count(stream: str, count: int) -> Notice:
    return Notice(Audience.EVERYONE, encode(ViewerCount(count, stream)))


def _viewer(type_: str, stream: str, member: Member) -> bytes:
    return encode(ViewerNotice(type_, stream, member.peer_id))


def _signalled(event: Signalled) -> Iterable[Notice]:
    """Translate a signal; the viewer's own id is in all signals about it."""
    target, stream = event.target, event.room_id
    if target is None:
        return []
    viewer = event.sender.peer_id if target.live else target.peer_id
    match event.kind:
        case "offer":
            out: Struct = Offer(event.payload, stream, viewer)
        case "answer":
            out = AnswerFrom(event.payload, stream, viewer)
        case "candidate":
            wire_type = event.wire_type or "webrtc-ice-candidate"
            out = Candidate(wire_type, event.payload, stream, viewer)
        case _:
            return []
    return [Notice(Audience.EVERYONE, encode(out))]
