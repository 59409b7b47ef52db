"""Dialect `room`: chat rooms with live broadcast and late joiners.

One connection is one user in one room. The viewer makes the offer. See docs/protocols/room.md.

This module has all messages and their meaning, hence its length.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from trio_signal.dialects.base import Dialect
from trio_signal.dialects.rest import Route
from trio_signal.dialects.wire import Id, Reader, UnreadableError, encode, text_of
from trio_signal.errors import AuthenticationError, CloseCode
from trio_signal.messages.commands import (
    Action,
    Authenticate,
    ChangeProfile,
    Chat,
    Close,
    GoLive,
    Join,
    Malformed,
    OpenInbox,
    Send,
    SendPrivate,
    SendReceipt,
    SetPrivateTyping,
    SetTyping,
    Signal,
    StopLive,
    To,
)
from trio_signal.messages.events import (
    Answer,
    Audience,
    Chatted,
    Entered,
    Event,
    Joined,
    Left,
    Notice,
    PrivateMessage,
    PrivateTyping,
    ProfileChanged,
    ReadReceipt,
    Refusal,
    Refused,
    RelayAsked,
    RelayDone,
    RelayFailed,
    ServerSaid,
    Signalled,
    StoppedLive,
    Typing,
    WentLive,
)
from trio_signal.messages.identity import NO_ROOM, Identity, Member, ServerInfo

# Messages from clients


class KeepAlive(Struct, tag="keep_alive"):
    """Requests a pong."""


class Pong(Struct, tag="pong"):
    """Answers our `ping`."""


class Message(Struct, tag="message"):
    """A chat message."""

    content: str
    avatar: str | None = None


class TypingStart(Struct, tag="typing_start"):
    """Starts typing."""


class TypingStop(Struct, tag="typing_stop"):
    """Stops typing."""


class ProfileUpdated(Struct, tag="profile_updated"):
    """Changes the user's name or picture."""

    username: str | None = None
    prevUsername: str | None = None  # noqa: N815
    email: str | None = None
    bio: str | None = None
    avatar: str | None = None


class AvatarUpdated(ProfileUpdated, tag="avatar_updated"):
    """The same under another name."""


class WebRtcSignal(Struct, tag="webrtc-signal"):
    """An offer, answer or candidate for a user."""

    target_user_id: Id
    signal: Raw


class BroadcastStarted(Struct, tag="broadcast-started"):
    """Goes live. The name counts in open mode only."""

    username: str | None = None


class BroadcastStopped(Struct, tag="broadcast-stopped"):
    """Stops being live."""


class DmMessage(Struct, tag="dm_message"):
    """A private message to one user. The server adds sender and time."""

    receiver_id: Id
    content: str
    sender_username: str | None = None
    sender_avatar: str | None = None


class DmTyping(Struct, tag="dm_typing"):
    """Starts or stops typing a private message."""

    receiver_id: Id
    is_typing: bool


class DmRead(Struct, tag="dm_read"):
    """Confirms that this user's messages were read."""

    sender_id: Id


_reader = Reader(
    (
        KeepAlive,
        Pong,
        Message,
        TypingStart,
        TypingStop,
        ProfileUpdated,
        AvatarUpdated,
        WebRtcSignal,
        BroadcastStarted,
        BroadcastStopped,
        DmMessage,
        DmTyping,
        DmRead,
    )
)
#: Prefix of all types of private messages, known or not: none of them is chat.
_PRIVATE = "dm_"


class _Other(Struct):
    """A message of an unknown type."""

    type: str | UnsetType = UNSET
    content: Any = None


# Messages to clients


class User(Struct):
    """A participant."""

    user_id: str
    username: str
    avatar_url: str | None


class Broadcaster(Struct):
    """A participant that is live."""

    user_id: str
    username: str
    started_at: str


class RoomState(Struct, tag="room_state"):
    """All present users, including yourself."""

    room_id: str
    users: list[User]
    timestamp: str


class ActiveBroadcasts(Struct, tag="active-broadcasts"):
    """The running broadcasts, for late joiners."""

    room_id: str
    broadcasters: list[Broadcaster]
    timestamp: str


class UserJoined(Struct, tag="user_joined"):
    """A user joined."""

    room_id: str
    user_id: str
    username: str
    avatar_url: str | None
    timestamp: str


class UserLeft(Struct, tag="user_left"):
    """A user left."""

    room_id: str
    user_id: str
    username: str
    timestamp: str


class UserTyping(Struct):
    """A user started or stopped typing."""

    type: str
    room_id: str
    user_id: str
    username: str
    timestamp: str


class RoomMessage(Struct, tag="message"):
    """A chat message; the sender receives it too, and replaces its own copy."""

    id: str
    room_id: str
    user_id: str
    username: str
    content: str
    avatar: str | None
    timestamp: str


class Profile(Struct):
    """A user changed its name or picture."""

    type: str
    room_id: str
    user_id: str
    username: str
    avatar_url: str | None
    avatar: str | None
    prevUsername: str | None  # noqa: N815
    email: str | None
    bio: str | None
    timestamp: str


class SignalFrom(Struct, tag="webrtc-signal"):
    """An offer, answer or candidate from a user."""

    room_id: str
    target_user_id: str
    from_user_id: str
    from_username: str
    signal: Raw


class IceCandidate(Struct, tag="ice-candidate"):
    """A candidate from another dialect, as this dialect wraps it."""

    candidate: Raw


class UserBroadcast(Struct):
    """A user went live, or stopped."""

    type: str
    user_id: str
    username: str
    timestamp: str


class Private(Struct):
    """A private message."""

    id: str
    sender_id: str
    sender_username: str
    sender_avatar: str | None
    receiver_id: str
    content: str
    timestamp: str


class PrivateSaid(Struct, tag="dm_message"):
    """A private message from a user."""

    message: Private


class PrivatelyTyping(Struct, tag="dm_typing"):
    """A user started or stopped typing a private message to you."""

    sender_id: str
    is_typing: bool


class PrivateRead(Struct, tag="dm_read"):
    """A user has read your private messages; `sender` is you."""

    reader_id: str
    sender_id: str
    timestamp: str


class Ping(Struct, tag="ping"):
    """Answers `keep_alive`."""

    timestamp: str


class Error(Struct, tag="error"):
    """The client sent something wrong."""

    message: str


_INVALID = Malformed(encode(Error("Invalid message format")))


class RoomDialect(Dialect):
    """One connection that speaks `room`."""

    __slots__ = ("_claims", "_room_id", "_user_id", "_username")

    name = "room"
    resumes = "broadcasts"
    signals = frozenset({b"webrtc-signal"})
    address = "/ws/{room_id}/{user_id}"
    query = ("username", "avatar_url", "token")
    reader = _reader
    samples = (Message("Hello"), UserLeft("lobby", "ann", "Ann", "2026-11-20T10:46:00.543Z"))

    def __init__(self, room_id: str, claims: Authenticate) -> None:
        """Take the room, and the identity that the client claims."""
        super().__init__()
        self._room_id = room_id
        self._claims = claims
        self._user_id = ""
        self._username = ""

    @classmethod
    def routes(cls) -> Sequence[Route]:
        """HTTP routes for rooms and guests, which use the messages above."""
        from trio_signal.dialects.rest import rooms, users

        return *rooms.ROUTES, *users.ROUTES

    @classmethod
    def at(cls, path: Sequence[str], query: Mapping[str, str]) -> "RoomDialect | None":
        """A dialect for `/ws/{room_id}/{user_id}`, or for a user's inbox at `/ws/dm/{user_id}`."""
        match path:
            case ["ws", room_id, user_id]:
                dialect = InboxDialect if room_id == NO_ROOM else cls
                return dialect(
                    room_id,
                    Authenticate(
                        user_id=user_id,
                        claimed=user_id,
                        username=query.get("username") or None,
                        avatar_url=query.get("avatar_url") or None,
                    ),
                )
        return None

    @classmethod
    def carried_on(cls, room_id: str) -> "RoomDialect | None":
        """A dialect for a stand-in."""
        return cls(room_id, Authenticate(user_id=""))

    def opened(self, peer_id: str) -> Iterable[Action]:
        """Authenticate with the path."""
        return [self._claims]

    def authenticated(self, identity: Identity, server: ServerInfo, now: str) -> Iterable[Action]:
        """Join the one room at once."""
        self._user_id = identity.user_id
        return [Join(self._room_id, restore_profile=True, reachable=True)]

    def authentication_failed(self, error: AuthenticationError) -> Close:
        """Close with a code after which clients do not retry."""
        return Close(CloseCode.NOT_ALLOWED_HERE, str(error))

    def commands(self, message: Any, now: str) -> Iterable[Action]:
        """Translate the client's message."""
        room_id = self._room_id
        match message:
            case WebRtcSignal(target_user_id=target, signal=signal):
                return [Signal(room_id, "signal", signal, To.USER, target)]
            case KeepAlive():
                return [Send(encode(Ping(now)))]
            case Message(content=content, avatar=avatar):
                return [Chat(room_id, content, avatar)] if content else []
            case TypingStart() | TypingStop():
                return [SetTyping(room_id, isinstance(message, TypingStart))]
            case ProfileUpdated():
                return [self._change(message)]
            case BroadcastStarted(username=username):
                return [GoLive(room_id, username=username)]
            case BroadcastStopped():
                return [StopLive(room_id)]
            case DmMessage() | DmTyping() | DmRead():
                return _private(message)
        return []  # a pong

    def _change(self, message: ProfileUpdated) -> ChangeProfile:
        self._username = message.username or self._username
        tag = message.__struct_config__.tag
        return ChangeProfile(
            self._room_id,
            wire_type=str(tag),
            username=message.username,
            avatar_url=message.avatar,
            previous_username=message.prevUsername,
            email=message.email,
            bio=message.bio,
        )

    def unreadable(self, text: bytes, error: UnreadableError) -> Iterable[Action]:
        """Treat other types as chat if they have content and are not private; else ignore them."""
        if error.problem != "type":
            return [_INVALID]
        try:
            other = msgspec.json.decode(text, type=_Other)
        except (msgspec.DecodeError, RecursionError):
            return [_INVALID]
        if other.type is not UNSET and other.type.startswith(_PRIVATE):
            return []
        if not other.content:
            return [_INVALID] if other.type is UNSET else []
        if not isinstance(other.content, str):
            return [_INVALID]
        return [Chat(self._room_id, other.content)]

    def answered(self, answer: Answer) -> Iterable[Send | Close]:
        """Send the members of the room; clients learn everything else from events."""
        match answer:
            case Entered():
                self._username = answer.me.username
                return _snapshot(answer)
            case RelayAsked(relay=relay, at=at):
                return [Send(_broadcast("broadcast-started", relay, None, at))]
            case RelayDone(relay=relay, at=at):
                return [Send(_broadcast("broadcast-stopped", relay, None, at))]
            case RelayFailed():
                return [Send(encode(Error("The broadcast cannot be delivered now")))]
            case Refused(reason=Refusal.ROOM_FULL):
                return [Close(CloseCode.TRY_AGAIN_LATER, "Room is full")]
            case Refused(command=GoLive(), reason=Refusal.NOT_ALLOWED):
                return [Send(encode(Error("Not allowed to broadcast")))]
            case Refused(reason=Refusal.NOT_ALLOWED):
                return [Close(CloseCode.NOT_ALLOWED_HERE, "Not allowed in this room")]
            case Refused(reason=Refusal.NOT_LIVE):
                stopped = UserBroadcast(
                    "broadcast-stopped", self._user_id, self._username, answer.at
                )
                return [Send(encode(stopped))]
        return []

    @staticmethod
    def tell(event: Event) -> Iterable[Notice]:
        """Translate a room's event; a user with several tabs is shown as one participant."""
        match event:
            case Signalled():
                return _signalled(event)
            case Chatted():
                return [Notice(Audience.EVERYONE, encode(chat_message(event)))]
            case ServerSaid():
                return [Notice(Audience.EVERYONE, encode(_said(event)))]
            case Joined(first=True, member=member):
                joined = UserJoined(event.room_id, *_user(member), event.at)
                return [Notice(Audience.OTHER_USERS, encode(joined))]
            case Left(last=True, member=member):
                left = UserLeft(event.room_id, member.user_id, member.username, event.at)
                return [Notice(Audience.OTHER_USERS, encode(left))]
            case WentLive(member=member):
                name = member.live.username if member.live is not None else None
                started = _broadcast("broadcast-started", member, name, event.at)
                return [Notice(Audience.OTHER_PEERS, started)]
            case StoppedLive(member=member):
                audience = Audience.EVERYONE if event.last else Audience.ITSELF
                stopped = _broadcast("broadcast-stopped", member, event.username, event.at)
                return [Notice(audience, stopped)]
            case Typing(member=member):
                typing = UserTyping(
                    "typing_start" if event.typing else "typing_stop",
                    event.room_id,
                    member.user_id,
                    member.username,
                    event.at,
                )
                return [Notice(Audience.OTHER_USERS, encode(typing))]
            case ProfileChanged():
                return [Notice(Audience.EVERYONE, encode(_profile(event)))]
            case PrivateMessage() | PrivateTyping() | ReadReceipt():
                return [Notice(Audience.EVERYONE, encode(_said_privately(event)))]
        return []


class InboxDialect(RoomDialect):
    """A connection that receives messages for its user only, and is in no room."""

    __slots__ = ()

    def authenticated(self, identity: Identity, server: ServerInfo, now: str) -> Iterable[Action]:
        """Receive messages for this user from now on."""
        return [OpenInbox()]

    def commands(self, message: Any, now: str) -> Iterable[Action]:
        """Translate private messages; there is no room for others."""
        match message:
            case KeepAlive() | DmMessage() | DmTyping() | DmRead():
                return super().commands(message, now)
        return []  # there is no room to send it to

    def unreadable(self, text: bytes, error: UnreadableError) -> Iterable[Action]:
        """Ignore other types."""
        return [] if error.problem == "type" else [_INVALID]

    def answered(self, answer: Answer) -> Iterable[Send | Close]:
        """Close the connection if it was refused; send nothing otherwise."""
        match answer:
            case Refused(reason=Refusal.ROOM_FULL):
                return [Close(CloseCode.TRY_AGAIN_LATER, "Too many connections of this user")]
        return []

    @staticmethod
    def tell(event: Event) -> Iterable[Notice]:
        """Translate messages for the user; other receivers are not shown."""
        match event:
            case PrivateMessage() | PrivateTyping() | ReadReceipt():
                return RoomDialect.tell(event)
        return []


def _private(message: DmMessage | DmTyping | DmRead) -> Iterable[Action]:
    match message:
        case DmMessage(receiver_id=receiver_id, content=content):
            if not content:
                return []
            return [
                SendPrivate(receiver_id, content, message.sender_username, message.sender_avatar)
            ]
        case DmTyping(receiver_id=receiver_id, is_typing=typing):
            return [SetPrivateTyping(receiver_id, typing)]
        case DmRead(sender_id=sender_id):
            return [SendReceipt(sender_id)]


def _said_privately(event: PrivateMessage | PrivateTyping | ReadReceipt) -> Struct:
    match event:
        case PrivateMessage():
            return PrivateSaid(
                Private(
                    event.id,
                    event.sender_id,
                    event.sender_username,
                    event.sender_avatar,
                    event.receiver_id,
                    event.content,
                    event.at,
                )
            )
        case PrivateTyping():
            return PrivatelyTyping(event.sender_id, event.typing)
        case ReadReceipt():
            return PrivateRead(event.reader_id, event.receiver_id, event.at)


def _user(member: Member) -> tuple[str, str, str | None]:
    return member.user_id, member.username, member.avatar_url


def _snapshot(entered: Entered) -> list[Send | Close]:
    users = {member.user_id: member for member in entered.members}
    state = RoomState(
        entered.room_id, [User(*_user(member)) for member in users.values()], entered.at
    )
    sends: list[Send | Close] = [Send(encode(state))]
    broadcasters = live_broadcasters(entered.members)
    if broadcasters:
        active = ActiveBroadcasts(entered.room_id, broadcasters, entered.at)
        sends.append(Send(encode(active)))
    return sends


def live_broadcasters(members: Iterable[Member]) -> list[Broadcaster]:
    """The live users, each once, since its first broadcast."""
    live: dict[str, Broadcaster] = {}
    for member in members:
        if member.live is not None:
            username = member.live.username or member.username
            broadcaster = Broadcaster(member.user_id, username, member.live.started_at)
            live.setdefault(member.user_id, broadcaster)
    return list(live.values())


def chat_message(chat: Chatted) -> RoomMessage:
    """A chat message in the format of the room and its history."""
    member = chat.member
    return RoomMessage(
        chat.id,
        chat.room_id,
        member.user_id,
        member.username,
        chat.content,
        chat.avatar,
        chat.at,
    )


def _said(said: ServerSaid) -> RoomMessage:
    server = said.member
    content = text_of(said.data)
    return RoomMessage(
        said.id, said.room_id, server.user_id, server.username, content, None, said.at
    )


def _broadcast(type_: str, member: Member, username: str | None, at: str) -> bytes:
    """`username` is the name that the broadcaster uses in this broadcast, if any."""
    return encode(UserBroadcast(type_, member.user_id, username or member.username, at))


def _profile(event: ProfileChanged) -> Profile:
    member = event.member
    return Profile(
        event.wire_type,
        event.room_id,
        member.user_id,
        member.username,
        member.avatar_url,
        member.avatar_url,
        event.previous_username,
        event.email,
        event.bio,
        event.at,
    )


def _signalled(event: Signalled) -> Iterable[Notice]:
    """Translate a signal for one peer; the field `signal` has its kind."""
    target = event.target
    if target is None or event.kind == "message":
        return []
    signal = event.payload
    if event.kind == "candidate":
        signal = Raw(encode(IceCandidate(signal)))
    out = SignalFrom(
        event.room_id,
        target.user_id,
        event.sender.user_id,
        event.sender.username,
        signal,
    )
    return [Notice(Audience.EVERYONE, encode(out))]
