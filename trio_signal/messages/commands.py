"""What a dialect asks for on behalf of its client, and of its connection."""

from enum import Enum, auto

from msgspec import UNSET, Raw, Struct, UnsetType

from trio_signal.messages.identity import MediaType, NameSignalKind, PublishedForm, SignalKind

# Commands: what a dialect asks for on behalf of its client.


class _Secretive(Struct, frozen=True):
    """Has a token, which must not be where a value is shown: in a log, in a traceback."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"


class Resume(_Secretive, frozen=True):
    """Be able to come back to this room as the same peer; with a session's id, come back so.

    The client has got `received` of the messages that it was sent in that session.
    """

    room_id: str
    session_id: str | None = None
    received: int = 0


class Authenticate(_Secretive, frozen=True):
    """Find out who this is: from a token or, in open mode, from what it claims.

    `guest_name` is for a user of whom nobody says the name. `claimed` is the
    user id that the client gave itself, if it did: a token must agree with it. With `resume`
    the client can lose its connection and stay.
    """

    user_id: str
    token: str | None = None
    username: str | None = None
    avatar_url: str | None = None
    guest_name: str | None = None
    claimed: str | None = None
    resume: Resume | None = None


class Renew(_Secretive, frozen=True):
    """Go on with a new token, of the same user, before the old one expires."""

    token: str | None


class Confirm(Struct, frozen=True):
    """Say how many messages of the session have arrived, and ask how many did here.

    `id` is told back.
    """

    received: int | None
    id: Raw | UnsetType = UNSET


class Join(Struct, frozen=True):
    """Enter a room, as `peer_id` if the client chose one.

    A `viewer` counts towards the room's cap of viewers; a `broadcaster` is about
    to have the room for its own exclusive broadcast. Who is both has announced one:
    nobody owes it a new offer if it is there already. `restore_profile` gives a
    user without a name the one that it had in the room before. `reachable` lets the
    connection hear what is for its user alone, where the user has no inbox. `reserve` keeps
    the peer id for its identity, if that is verified, for a while after it has left.
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
    """Start to broadcast; an `exclusive` broadcast replaces a running one.

    `username` is what the broadcaster is called in this broadcast, where that can be believed.
    """

    room_id: str
    media_type: MediaType = "video"
    exclusive: bool = False
    username: str | None = None


class StopLive(Struct, frozen=True):
    """Stop to broadcast."""

    room_id: str


class To(Enum):
    """How a signal is addressed."""

    PEER = auto()
    #: One of a user's peers: the live one, else the one that joined last.
    USER = auto()
    #: Everybody else in the room.
    OTHERS = auto()
    #: A viewer; only the room's broadcaster may.
    VIEWER = auto()
    #: The room's broadcaster, of the sender's dialect if there is one; it itself may not.
    BROADCASTER = auto()
    #: VIEWER from the broadcaster, BROADCASTER from anybody else.
    COUNTERPART = auto()


class Signal(Struct, frozen=True):
    """Carry an opaque payload to a peer.

    `wire_type` is the type under which it came, for a dialect that has
    several words for one kind.
    """

    room_id: str
    kind: SignalKind
    payload: Raw
    addressed: To
    target: str = ""
    wire_type: str = ""


class Chat(Struct, frozen=True):
    """Say something to everybody in the room."""

    room_id: str
    content: str
    avatar: str | None = None


class SetTyping(Struct, frozen=True):
    """Begin or cease to type."""

    room_id: str
    typing: bool


class ChangeProfile(Struct, frozen=True):
    """Be called something else from now on; None leaves a field as it is."""

    room_id: str
    wire_type: str
    username: str | None = None
    avatar_url: str | None = None
    previous_username: str | None = None
    email: str | None = None
    bio: str | None = None


class StartStreaming(Struct, frozen=True):
    """Tell the room that a stream is about to start."""

    room_id: str


class Kick(Struct, frozen=True):
    """Take another peer out of a room, and keep its user out for a while; for moderators.

    That is a ban if it says for how many seconds; else it is for a minute.
    """

    room_id: str
    peer_id: str
    reason: str
    ban_seconds: float | None = None


class Lock(Struct, frozen=True):
    """Let nobody new into a room, or again; for moderators."""

    room_id: str
    locked: bool


class ReportQuality(Struct, frozen=True):
    """How the client's calls are since its last report.

    Of peer connections that were ten seconds old, `checked` is how many should have had media, and
    `silent` how many of them had none. `connected` were made, of which `relayed` go through TURN;
    `failed` is how often ICE failed. `round_trips` are in seconds, of calls that are now.
    """

    checked: int
    silent: int
    connected: int
    relayed: int
    failed: int
    round_trips: tuple[float, ...] = ()


class AskLive(Struct, frozen=True):
    """Ask who is live in a room, joined or not.

    Who `listens` does not offer: the broadcasters of its dialect are to do so, and are told.
    """

    room_id: str
    listens: bool = False


class RejoinRooms(Struct, frozen=True):
    """Ask which rooms this user was in when its connection was lost."""


class HearAnnouncements(Struct, frozen=True):
    """Hear announcements from now on."""


class OpenInbox(Struct, frozen=True):
    """Hear what is for this user alone from now on."""


class SendPrivate(Struct, frozen=True):
    """Say something to one user alone; in open mode the client may say what it is called."""

    receiver_id: str
    content: str
    username: str | None = None
    avatar_url: str | None = None


class SetPrivateTyping(Struct, frozen=True):
    """Begin or cease to type to one user alone."""

    receiver_id: str
    typing: bool


class SendReceipt(Struct, frozen=True):
    """Let a user know that what it sent to this one has been read."""

    receiver_id: str


class AskAnnouncement(Struct, frozen=True):
    """Ask for the active announcement, unless this user has acknowledged it."""


class Appear(Struct, frozen=True):
    """Be known to be online from now on, and hear where others are."""


class Move(Struct, frozen=True):
    """Be at another place of the application's map."""

    x: float
    y: float


class Acknowledge(Struct, frozen=True):
    """Do not show an announcement to this user any more."""

    announcement_id: str


class Claim(Struct, frozen=True):
    """Have a name, which begins with its namespace and a colon, for as long as one is here."""

    name: str


class Release(Struct, frozen=True):
    """Give one's name back; anybody may have it then."""


class SignalName(Struct, frozen=True):
    """Carry an opaque payload to who has a name, or claims it within a few seconds.

    `leave` does not wait, and reaches those only with whom signals were exchanged.
    """

    target: str
    kind: NameSignalKind
    payload: Raw | UnsetType = UNSET


class Subscribe(Struct, frozen=True):
    """Hear what is published on these topics, from now on."""

    topics: tuple[str, ...]


class Unsubscribe(Struct, frozen=True):
    """Hear it no longer."""

    topics: tuple[str, ...]


class Publish(Struct, frozen=True):
    """Tell something opaque to all who subscribe to a topic."""

    topic: str
    form: PublishedForm
    content: Raw


#: Commands of a member of a room, carried out at once.
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
#: Commands that tell one user something, whether they share a room or not.
PrivateCommand = SendPrivate | SetPrivateTyping | SendReceipt
Command = (
    Authenticate
    | Renew
    | Confirm
    | Join
    | ReportQuality
    | AskLive
    | RejoinRooms
    | HearAnnouncements
    | Appear
    | Move
    | OpenInbox
    | PrivateCommand
    | AskAnnouncement
    | Acknowledge
    | Claim
    | Release
    | SignalName
    | Subscribe
    | Unsubscribe
    | Publish
    | RoomCommand
)


# What a dialect wants besides: done by the connection itself.


class Send(Struct, frozen=True):
    """Send this text to the client."""

    text: bytes


class Malformed(Struct, frozen=True):
    """The client sent nonsense: answer with this text, if there is any, and count it.

    Whether a session counts it among its messages is another question: see `Resumption`.
    """

    text: bytes
    counted: bool = True


class IdlePing(Struct, frozen=True):
    """Send this text whenever the client has said nothing for so many seconds."""

    text: bytes
    after: float


class LeaveCause(Enum):
    """Why a peer left. These words are on the bus, and told to clients."""

    #: Its client said so: it left the room, or closed the connection.
    CLOSED = "closed"
    #: Its connection broke, or it gave no sign of life. It may come back.
    LOST = "lost"
    KICKED = "kicked"
    BANNED = "banned"
    #: Its replica ended in order.
    SHUTDOWN = "shutdown"
    #: Its replica ended without a word.
    REPLICA_LOST = "replica_lost"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105
    TOO_SLOW = "too_slow"
    #: It broke a rule, or the server failed.
    ERROR = "error"

    @classmethod
    def _missing_(cls, value: object) -> "LeaveCause":
        """What a newer replica calls otherwise: nobody knows whether it comes back."""
        return cls.LOST


class Close(Struct, frozen=True):
    """Close the connection; its rooms are told that the peer left for this `cause`.

    `last` is a text that the client is sent before, if there is any.
    """

    code: int
    reason: str = ""
    cause: LeaveCause = LeaveCause.ERROR
    last: bytes = b""


Action = Command | Send | Malformed | IdlePing | Close
