"""Commands: what a dialect asks of the server."""

from enum import Enum, auto

from msgspec import UNSET, Raw, Struct, UnsetType

from trio_signal.messages.identity import MediaType, NameSignalKind, PublishedForm, SignalKind

# Commands: what a dialect asks for on behalf of its client.


class _Secretive(Struct, frozen=True):
    """A value with a secret, which its `repr` hides from logs and tracebacks."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"


class Resume(_Secretive, frozen=True):
    """Make the session resumable in this room; with a `session_id`, resume that session.

    `received` is how many messages of that session the client has received.
    """

    room_id: str
    session_id: str | None = None
    received: int = 0


class Authenticate(_Secretive, frozen=True):
    """Authenticate the client: by its token or, in open mode, by what it claims.

    `guest_name` is the name of a user without one. `claimed` is the user id that the client gave,
    if any; a token must agree with it. With `resume`, the session can outlive its connection.
    """

    user_id: str
    token: str | None = None
    username: str | None = None
    avatar_url: str | None = None
    guest_name: str | None = None
    claimed: str | None = None
    resume: Resume | None = None


class Renew(_Secretive, frozen=True):
    """Replace the token by a new one of the same user, before the old one expires."""

    token: str | None


class Confirm(Struct, frozen=True):
    """Confirm how many messages of the session the client has received, and ask how many it sent.

    The answer repeats `id`.
    """

    received: int | None
    id: Raw | UnsetType = UNSET


class Join(Struct, frozen=True):
    """Join a room, as `peer_id` if the client chose one.

    A `viewer` counts towards the room's limit of viewers. A `broadcaster` is about to start an
    exclusive broadcast. A peer that is both has announced a broadcast; if it is in the room
    already, it gets no new offer. `restore_profile` gives a user without a name the last one that
    it had in the room. `reachable` lets the peer receive its user's private messages if the user
    has no inbox. `reserve` keeps the peer id for its identity, if that is verified, for a while
    after it has left. `relays` says that the client knows of media servers.
    """

    room_id: str
    peer_id: str | None = None
    viewer: bool = False
    broadcaster: bool = False
    restore_profile: bool = False
    reachable: bool = False
    reserve: bool = False
    relays: bool = False


class Leave(Struct, frozen=True):
    """Leave a room, and stay connected."""

    room_id: str


class GoLive(Struct, frozen=True):
    """Start a broadcast; an `exclusive` one replaces the running one.

    `username` is the broadcaster's name in this broadcast, used if identities are not verified.
    """

    room_id: str
    media_type: MediaType = "video"
    exclusive: bool = False
    username: str | None = None


class StopLive(Struct, frozen=True):
    """Stop the broadcast."""

    room_id: str


class To(Enum):
    """How a signal is addressed."""

    PEER = auto()
    #: One of a user's peers: the live one, else the one that joined last.
    USER = auto()
    #: Everybody else in the room.
    OTHERS = auto()
    #: A viewer; only the room's broadcaster may use this.
    VIEWER = auto()
    #: The room's broadcaster, preferably of the sender's dialect; a broadcaster may not use this.
    BROADCASTER = auto()
    #: VIEWER from the broadcaster, BROADCASTER from anybody else.
    COUNTERPART = auto()


class Signal(Struct, frozen=True):
    """Deliver an opaque payload to a peer.

    `wire_type` is the message's type in a dialect that has several types for one kind.
    """

    room_id: str
    kind: SignalKind
    payload: Raw
    addressed: To
    target: str = ""
    wire_type: str = ""


class Chat(Struct, frozen=True):
    """Send a chat message to everybody in the room."""

    room_id: str
    content: str
    avatar: str | None = None


class SetTyping(Struct, frozen=True):
    """Show that the user is typing, or has stopped."""

    room_id: str
    typing: bool


class ChangeProfile(Struct, frozen=True):
    """Change the user's name, picture or description; None leaves a field unchanged."""

    room_id: str
    wire_type: str
    username: str | None = None
    avatar_url: str | None = None
    previous_username: str | None = None
    email: str | None = None
    bio: str | None = None


class StartStreaming(Struct, frozen=True):
    """Announce to the room that a stream is about to start."""

    room_id: str


class Kick(Struct, frozen=True):
    """Remove another peer from a room, and keep its user out; for moderators.

    With `ban_seconds` the user is banned for so long, else kept out for a minute.
    """

    room_id: str
    peer_id: str
    reason: str
    ban_seconds: float | None = None


class Lock(Struct, frozen=True):
    """Lock a room, so that nobody new can join, or unlock it; for moderators."""

    room_id: str
    locked: bool


class ReportQuality(Struct, frozen=True):
    """Report the quality of the client's calls since its last report.

    `checked` peer connections were ten seconds old and should have had media; `silent` of them had
    none. `connected` were made, of which `relayed` use TURN; `failed` is how often ICE failed.
    `round_trips` are those of current calls, in seconds.
    """

    checked: int
    silent: int
    connected: int
    relayed: int
    failed: int
    round_trips: tuple[float, ...] = ()


class AskLive(Struct, frozen=True):
    """Ask who is live in a room, which the peer need not have joined.

    A peer that `listens` makes no offers: the broadcasters of its dialect are asked to offer.
    """

    room_id: str
    listens: bool = False


class RejoinRooms(Struct, frozen=True):
    """Rejoin the rooms that this user was in when its connection was lost."""


class HearAnnouncements(Struct, frozen=True):
    """Subscribe to announcements."""


class OpenInbox(Struct, frozen=True):
    """Receive this user's private messages from now on."""


class SendPrivate(Struct, frozen=True):
    """Send a private message to one user; in open mode the client may give its name."""

    receiver_id: str
    content: str
    username: str | None = None
    avatar_url: str | None = None


class SetPrivateTyping(Struct, frozen=True):
    """Show one user that this one is typing to it, or has stopped."""

    receiver_id: str
    typing: bool


class SendReceipt(Struct, frozen=True):
    """Tell a user that its private messages to this one have been read."""

    receiver_id: str


class AskAnnouncement(Struct, frozen=True):
    """Ask for the active announcement, unless this user has acknowledged it."""


class Appear(Struct, frozen=True):
    """Show the user as online, and receive the places of others."""


class Move(Struct, frozen=True):
    """Move the user to another place on the application's map."""

    x: float
    y: float


class Acknowledge(Struct, frozen=True):
    """Stop showing an announcement to this user."""

    announcement_id: str


class Claim(Struct, frozen=True):
    """Claim a name until the connection ends. It begins with its namespace and a colon."""

    name: str


class Release(Struct, frozen=True):
    """Release the claimed name, which anybody may claim then."""


class SignalName(Struct, frozen=True):
    """Deliver an opaque payload to the holder of a name, who may claim it some seconds later.

    A `leave` does not wait, and reaches only peers that have exchanged signals with the sender.
    """

    target: str
    kind: NameSignalKind
    payload: Raw | UnsetType = UNSET


class Subscribe(Struct, frozen=True):
    """Subscribe to these topics."""

    topics: tuple[str, ...]


class Unsubscribe(Struct, frozen=True):
    """Unsubscribe from these topics."""

    topics: tuple[str, ...]


class Publish(Struct, frozen=True):
    """Send an opaque message to all subscribers of a topic."""

    topic: str
    form: PublishedForm
    content: Raw


#: Commands of a member of a room; carrying them out does not block.
RoomCommand = (
    Leave
    | GoLive
    | StopLive
    | Signal
    | Chat
    | SetTyping
    | ChangeProfile
    | StartStreaming
    | Kick
    | Lock
)
#: Private messages to one user, who need not be in the same room.
PrivateCommand = SendPrivate | SetPrivateTyping | SendReceipt
#: Commands that may block, on the bus, the database or a key set. The others never do.
Blocking = (
    Authenticate
    | Renew
    | Join
    | AskLive
    | RejoinRooms
    | OpenInbox
    | PrivateCommand
    | AskAnnouncement
    | Claim
    | Subscribe
)
Command = (
    Blocking
    | Confirm
    | ReportQuality
    | HearAnnouncements
    | Appear
    | Move
    | Acknowledge
    | Release
    | SignalName
    | Unsubscribe
    | Publish
    | RoomCommand
)


# Other actions of a dialect, for the connection.


class Send(Struct, frozen=True):
    """Send this text to the client."""

    text: bytes


class Malformed(Struct, frozen=True):
    """Count a malformed message, and answer with this text, if any.

    `counted` says whether it counts among the messages of a session; see `Resumption`.
    """

    text: bytes
    counted: bool = True


class IdlePing(Struct, frozen=True):
    """Send this text whenever the client has been silent for `after` seconds."""

    text: bytes
    after: float


class LeaveCause(Enum):
    """Why a peer left. The values are sent on the bus and to clients."""

    #: Its client left the room, or closed the connection.
    CLOSED = "closed"
    #: Its connection broke, or timed out. It may come back.
    LOST = "lost"
    KICKED = "kicked"
    BANNED = "banned"
    #: Its replica was shut down.
    SHUTDOWN = "shutdown"
    #: Its replica crashed, or cannot be reached.
    REPLICA_LOST = "replica_lost"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105
    TOO_SLOW = "too_slow"
    #: It broke a rule, or the server failed.
    ERROR = "error"

    @classmethod
    def _missing_(cls, value: object) -> "LeaveCause":
        """A cause of a newer version: the peer may come back."""
        return cls.LOST


class Close(Struct, frozen=True):
    """Close the connection; its rooms receive `cause` as the reason for the departure.

    `last` is a text to send to the client before, if any.
    """

    code: int
    reason: str = ""
    cause: LeaveCause = LeaveCause.ERROR
    last: bytes = b""


Action = Command | Send | Malformed | IdlePing | Close
