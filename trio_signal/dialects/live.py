"""Dialect `live`: who is live, in any number of rooms on one socket.

Keyed by user. See docs/protocols/live.md.

This module has all messages and their meaning, hence its length.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Self

from msgspec import Meta, Raw, Struct

from trio_signal.dialects.base import Dialect
from trio_signal.dialects.rest import Route
from trio_signal.dialects.wire import Id, Reader, UnreadableError, encode, text_of
from trio_signal.errors import AuthenticationError, CloseCode, IdentityMismatchError
from trio_signal.messages.commands import (
    Action,
    Appear,
    AskLive,
    Authenticate,
    Chat,
    Close,
    GoLive,
    Join,
    Leave,
    Malformed,
    Move,
    RejoinRooms,
    Send,
    SetTyping,
    Signal,
    StopLive,
    To,
)
from trio_signal.messages.events import (
    Answer,
    Audience,
    ChatSent,
    Chatted,
    Entered,
    Event,
    Exited,
    Joined,
    Left,
    Listening,
    LiveNow,
    LivePeers,
    LocationUpdated,
    Moved,
    News,
    Notice,
    Refusal,
    Refused,
    RelayAsked,
    RelayDone,
    RelayFailed,
    Removed,
    ServeDirectly,
    ServerSaid,
    Signalled,
    StoppedLive,
    Typing,
    WentLive,
)
from trio_signal.messages.identity import Identity, MediaType, Member, ServerInfo, SignalKind

#: The largest coordinate on a map, in the application's units.
MAX_COORDINATE = 1e9

# Messages from clients. A missing room id has its own error.


class JoinRoom(Struct, tag="join_room"):
    """Joins a room."""

    room_id: Id | None = None


class LeaveRoom(Struct, tag="leave_room"):
    """Leaves a room."""

    room_id: Id | None = None


class LiveStart(Struct, tag="live_start"):
    """Goes live."""

    room_id: Id | None = None
    media_type: MediaType = "video"


class LiveStop(Struct, tag="live_stop"):
    """Stops being live."""

    room_id: Id | None = None


class LiveStatus(Struct, tag="live_status"):
    """Requests the list of live users."""

    room_id: Id | None = None


class _Addressed(Struct):
    target_user_id: Id
    payload: Raw
    room_id: Id | None = None


class LiveOffer(_Addressed, tag="live_offer"):
    """An offer for a user."""


class LiveAnswer(_Addressed, tag="live_answer"):
    """An answer for a user."""


class LiveIce(_Addressed, tag="live_ice"):
    """A candidate for a user."""


class SendMessage(Struct, tag="send_message"):
    """A chat message."""

    room_id: Id | None = None
    content: str | None = None


class TypingState(Struct, tag="typing"):
    """Starts or stops typing."""

    room_id: Id | None = None
    is_typing: bool = True


class UpdateLocation(Struct, tag="update_location"):
    """Moves to another place on the application's map."""

    x: Annotated[float, Meta(ge=-MAX_COORDINATE, le=MAX_COORDINATE)]
    y: Annotated[float, Meta(ge=-MAX_COORDINATE, le=MAX_COORDINATE)]


class Ping(Struct, tag="ping"):
    """Requests a pong."""


_reader = Reader(
    (
        JoinRoom,
        LeaveRoom,
        LiveStart,
        LiveStop,
        LiveStatus,
        LiveOffer,
        LiveAnswer,
        LiveIce,
        SendMessage,
        TypingState,
        UpdateLocation,
        Ping,
    )
)

_KINDS: dict[type[_Addressed], SignalKind] = {
    LiveOffer: "offer",
    LiveAnswer: "answer",
    LiveIce: "candidate",
}
_SIGNAL_TYPES: dict[SignalKind, str] = {
    "offer": "live_offer",
    "answer": "live_answer",
    "candidate": "live_ice",
}

# Messages to clients


class Connected(Struct, tag="connected"):
    """The connection is open, and the user authenticated."""

    user_id: str
    username: str
    timestamp: str
    message: str


class JoinedRoom(Struct, tag="joined_room"):
    """You joined the room; `users` includes you."""

    room_id: str
    room_name: str
    members: list[str]
    timestamp: str


class LeftRoom(Struct, tag="left_room"):
    """You left the room."""

    room_id: str
    timestamp: str


class UserMoved(Struct):
    """A user joined, left, or stopped being live."""

    type: str
    room_id: str
    user_id: str
    timestamp: str


class LivePeerJoined(Struct, tag="live_peer_joined", omit_defaults=True):
    """A user went live; or, with `listener`, waits for an offer without being live."""

    room_id: str
    user_id: str
    username: str
    media_type: MediaType
    timestamp: str
    listener: bool = False


class LivePeer(Struct):
    """A user that is live."""

    user_id: str
    username: str
    media_type: MediaType


class LivePeerList(Struct, tag="live_peers"):
    """The live users, without the one that asked."""

    room_id: str
    peers: list[LivePeer]


class SignalFrom(Struct):
    """An offer, answer or candidate from a user."""

    type: str
    room_id: str
    from_user_id: str
    payload: Raw
    timestamp: str


class RoomMessage(Struct, tag="message"):
    """Chat; the sender gets it too."""

    message_id: str
    room_id: str
    sender_id: str
    sender_username: str
    content: str
    is_leave_message: bool
    timestamp: str


class MessageSent(Struct, tag="message_sent"):
    """Your message was sent to the room."""

    message_id: str
    room_id: str
    timestamp: str


class UserTyping(Struct, tag="typing"):
    """A user started or stopped typing."""

    room_id: str
    user_id: str
    is_typing: bool
    timestamp: str


class LocationTaken(Struct, tag="location_updated"):
    """Your location was accepted; the ids of nearby users, in no order."""

    x: float
    y: float
    nearby_users: Sequence[str]
    timestamp: str


class PlayerLocation(Struct, tag="player_location"):
    """The location of another user."""

    user_id: str
    username: str
    x: float
    y: float
    timestamp: str


class Pong(Struct, tag="pong"):
    """Answers `ping`."""

    timestamp: str


class Error(Struct, tag="error"):
    """The client sent something wrong."""

    message: str


_ROOM_ID_REQUIRED = {
    "live_start": "room_id required for live_start",
    "live_status": "room_id required for live_status",
    "send_message": "room_id and content required",
}


class LiveDialect(Dialect):
    """One connection that speaks `live`."""

    __slots__ = ("_query",)

    name = "live"
    resumes = "rooms"
    signals = frozenset({b"live_offer", b"live_answer", b"live_ice"})
    address = "/api/v1/ws/connect"
    query = ("user_id", "username", "token")
    reader = _reader
    samples = (JoinRoom("lobby"), JoinedRoom("lobby", "lobby", ["ann"], "2026-11-20T10:46:00.543Z"))

    def __init__(self, query: Mapping[str, str]) -> None:
        """Take the identity that the client claims."""
        super().__init__()
        self._query = query

    @classmethod
    def routes(cls) -> Sequence[Route]:
        """HTTP routes for the users who are online."""
        from trio_signal.dialects.rest import online

        return online.ROUTES

    @classmethod
    def at(cls, path: Sequence[str], query: Mapping[str, str]) -> Self | None:
        """A dialect for `/api/v1/ws/connect`; None for other paths."""
        if path != ["api", "v1", "ws", "connect"]:
            return None
        return cls(query)

    @classmethod
    def carried_on(cls, room_id: str) -> Self | None:
        """A dialect for a stand-in."""
        return cls({})

    def opened(self, peer_id: str) -> Iterable[Action]:
        """Authenticate with the query; without an identity there, the client is a guest."""
        return [
            Authenticate(
                user_id=self._query.get("user_id") or peer_id,
                claimed=self._query.get("user_id") or None,
                username=self._query.get("username") or None,
                guest_name=f"Guest-{peer_id[:4]}",
            )
        ]

    def authenticated(self, identity: Identity, server: ServerInfo, now: str) -> Iterable[Action]:
        """Greet the user, and let it rejoin its rooms after a short interruption."""
        greeting = Connected(
            identity.user_id, identity.username or "", now, "Connected to live updates"
        )
        return [Send(encode(greeting)), Appear(), RejoinRooms()]

    def rejoin(self, room_ids: Sequence[str]) -> Iterable[Action]:
        """Join the rooms, as the client does not do so by itself."""
        return [Join(room_id) for room_id in room_ids]

    def authentication_failed(self, error: AuthenticationError) -> Close:
        """Close with the code that clients know."""
        if isinstance(error, IdentityMismatchError):
            return Close(CloseCode.POLICY, str(error))
        return Close(CloseCode.AUTHENTICATION_FAILED, "Authentication failed")

    def unreadable(self, text: bytes, error: UnreadableError) -> Iterable[Action]:
        """Send an error that says what is wrong."""
        return [_error(_explain(error))]

    def commands(self, message: Any, now: str) -> Iterable[Action]:
        """Translate a message; all but pings and locations concern one room."""
        if isinstance(message, Ping):
            return [Send(encode(Pong(now)))]
        if isinstance(message, UpdateLocation):
            return [Move(message.x, message.y)]
        if not message.room_id:
            tag = message.__struct_config__.tag
            return [_error(_ROOM_ID_REQUIRED.get(str(tag), "room_id required"))]
        return self._in_room(message, message.room_id)

    def _in_room(self, message: Struct, room_id: str) -> Iterable[Action]:
        match message:
            case _Addressed(target_user_id=target, payload=payload):
                return [Signal(room_id, _KINDS[type(message)], payload, To.USER, target)]
            case JoinRoom():
                return [Join(room_id)]
            case LeaveRoom():
                return [Leave(room_id)]
            case LiveStart(media_type=media_type):
                return [GoLive(room_id, media_type)]
            case LiveStop():
                return [StopLive(room_id)]
            case LiveStatus():
                return [AskLive(room_id, listens=True)]
            case SendMessage(content=content):
                if not content:
                    return [_error("room_id and content required")]
                return [Chat(room_id, content)]
            case TypingState(is_typing=is_typing):
                return [SetTyping(room_id, is_typing)]
        return []

    def answered(self, answer: Answer) -> Iterable[Send | Close]:
        """Translate the outcome of the client's command."""
        match answer:
            case Entered(room_id=room_id, members=members, at=at):
                users = dict.fromkeys(member.user_id for member in members)
                return [Send(encode(JoinedRoom(room_id, room_id, list(users), at)))]
            case Exited(room_id=room_id, at=at):
                return [Send(encode(LeftRoom(room_id, at)))]
            case Removed(room_id=room_id, reason=reason, at=at):
                return [Send(encode(LeftRoom(room_id, at))), Send(encode(Error(reason)))]
            case LiveNow(room_id=room_id, me=me, others=others):
                live = [m for m in others if m.live and m.user_id != me.user_id]
                return [Send(encode(_live_peers(room_id, live)))]
            case LivePeers(room_id=room_id, live=members):
                return [Send(encode(_live_peers(room_id, members)))]
            case Listening(room_id=room_id, listener=listener, at=at):
                joined = LivePeerJoined(
                    room_id, listener.user_id, listener.username, "audio", at, listener=True
                )
                return [Send(encode(joined))]
            case RelayAsked(me=me, relay=viewer) | ServeDirectly(me=me, viewer=viewer):
                media = me.live.media_type if me.live is not None else "video"
                joined = LivePeerJoined(
                    answer.room_id, viewer.user_id, viewer.username, media, answer.at, listener=True
                )
                return [Send(encode(joined))]
            case RelayDone(room_id=room_id, relay=relay, at=at):
                return [Send(encode(UserMoved("live_peer_left", room_id, relay.user_id, at)))]
            case RelayFailed():
                return [Send(encode(Error("The broadcast cannot be delivered now")))]
            case LocationUpdated(x=x, y=y, nearby=nearby, at=at):
                return [Send(encode(LocationTaken(x, y, nearby, at)))]
            case ChatSent(room_id=room_id, id=message_id, at=at):
                return [Send(encode(MessageSent(message_id, room_id, at)))]
            case Refused():
                return _refused(answer)
        return []

    @staticmethod
    def tell(event: Event) -> Iterable[Notice]:
        """Translate a room's event; no tab of a user receives events about that user."""
        match event:
            case Signalled():
                return _signalled(event)
            case Joined(first=True, member=member):
                out: Struct = UserMoved("user_joined", event.room_id, member.user_id, event.at)
            case Left(last=True, member=member):
                out = UserMoved("user_left", event.room_id, member.user_id, event.at)
            case WentLive(news=News.FIRST | News.CHANGED, member=member):
                media_type = member.live.media_type if member.live else "video"
                out = LivePeerJoined(
                    event.room_id, member.user_id, member.username, media_type, event.at
                )
            case StoppedLive(last=True, member=member):
                out = UserMoved("live_peer_left", event.room_id, member.user_id, event.at)
            case Moved():
                out = PlayerLocation(event.user_id, event.username, event.x, event.y, event.at)
            case Typing(member=member):
                out = UserTyping(event.room_id, member.user_id, event.typing, event.at)
            case Chatted():
                return [Notice(Audience.EVERYONE, encode(_message(event)))]
            case ServerSaid():
                return [Notice(Audience.EVERYONE, encode(_said(event)))]
            case _:
                return []
        return [Notice(Audience.OTHER_USERS, encode(out))]


def _error(message: str) -> Malformed:
    return Malformed(encode(Error(message)))


def _explain(error: UnreadableError) -> str:
    if error.problem == "json":
        return "Invalid JSON"
    if error.type is None:
        return "type required"
    if error.problem == "type":
        return f"Unknown message type: {error.type}"
    if error.type == "update_location":
        return "x and y coordinates required"
    return f"Invalid {error.type}: {error}"


def _refused(refused: Refused) -> Iterable[Send | Close]:
    command = refused.command
    if refused.reason is Refusal.ROOM_FULL:
        return [Send(encode(Error("Room is full")))]
    if refused.reason is Refusal.TOO_MANY_ROOMS:
        return [Send(encode(Error("Too many rooms on one connection")))]
    if refused.reason is Refusal.NOT_ALLOWED and isinstance(command, GoLive):
        return [Send(encode(Error("Not allowed to go live")))]
    if refused.reason is Refusal.NOT_ALLOWED:
        return [Send(encode(Error("Not allowed in this room")))]
    if refused.reason is Refusal.NOT_IN_ROOM:
        match command:
            case GoLive():
                return [Send(encode(Error("Join the room before going live")))]
            case Chat():
                return [Send(encode(Error("Join the room before sending messages")))]
            case Leave(room_id=room_id):
                return [Send(encode(LeftRoom(room_id, refused.at)))]
    return []  # a signal that cannot be delivered is dropped


def _live_peers(room_id: str, members: Iterable[Member]) -> LivePeerList:
    live: dict[str, LivePeer] = {}
    for member in members:
        if member.live is not None:
            peer = LivePeer(member.user_id, member.username, member.live.media_type)
            live.setdefault(member.user_id, peer)
    return LivePeerList(room_id, list(live.values()))


def _signalled(event: Signalled) -> Iterable[Notice]:
    type_ = _SIGNAL_TYPES.get(event.kind)
    if event.target is None or type_ is None:
        return []
    out = SignalFrom(type_, event.room_id, event.sender.user_id, event.payload, event.at)
    return [Notice(Audience.EVERYONE, encode(out))]


def _said(said: ServerSaid) -> RoomMessage:
    server = said.member
    content = text_of(said.data)
    return RoomMessage(
        said.id, said.room_id, server.user_id, server.username, content, False, said.at
    )


def _message(chat: Chatted) -> RoomMessage:
    member = chat.member
    return RoomMessage(
        chat.id, chat.room_id, member.user_id, member.username, chat.content, False, chat.at
    )
