"""The core's vocabulary: commands in, events out.

A dialect turns a client's text into commands; the hub turns commands into
events; each dialect turns events into its own text. Everything here is an
immutable value without behaviour, and offers, answers and candidates are
`msgspec.Raw`: carried byte for byte, never parsed.

Times are RFC 3339 strings, UTC, milliseconds, ``Z``: made once per event.
"""

from enum import Enum, auto
from typing import Annotated, Literal

from msgspec import Meta, Raw, Struct

MediaType = Literal["audio", "video"]
SignalKind = Literal["offer", "answer", "candidate", "signal", "message"]
AnnouncementType = Literal["info", "warning", "alert"]

#: What another replica may have written at most, when it is read. Wider than what clients
#: may say, so that a version with other limits is understood.
Name = Annotated[str, Meta(max_length=1024)]
Address = Annotated[str, Meta(max_length=8192)]
Subject = Annotated[str, Meta(max_length=65536)]
Moment = Annotated[str, Meta(max_length=64)]
#: Whole numbers that Lua and JavaScript know exactly, and every database.
Number = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Coordinate = Annotated[float, Meta(ge=-1e12, le=1e12)]
#: What a database takes: PostgreSQL has no NUL in a text.
Line = Annotated[str, Meta(max_length=4096, pattern=r"\A[^\x00]*\Z")]
Key = Annotated[str, Meta(max_length=36, pattern=r"\A[^\x00]*\Z")]

#: How the ids of rooms begin that are the server's own. Clients cannot enter them by their names.
_INTERNAL = "\0"
#: The room of all who hear announcements.
LOBBY = f"{_INTERNAL}lobby"
_INBOX = f"{_INTERNAL}inbox:"
#: The id that is no room, since the path of users' inboxes has it in a room's place.
NO_ROOM = "dm"


def inbox_of(user_id: str) -> str:
    """The room of all connections that hear what is for this user alone."""
    return _INBOX + user_id


def is_inbox(room_id: str) -> bool:
    """Whether that is such a room."""
    return room_id.startswith(_INBOX)


def is_internal(room_id: str) -> bool:
    """Whether a room is the server's own, and not to be shown to anybody."""
    return room_id.startswith(_INTERNAL)


class Grants(Struct, frozen=True):
    """What somebody may do. `rooms` are globs of room ids, as in a shell.

    A `creator` makes announcements; who is `team_of` a creator hears who has seen them.
    """

    rooms: tuple[str, ...] = ("*",)
    publish: bool = True
    moderator: bool = False
    creator: bool = False
    team_of: str | None = None


class Identity(Struct, frozen=True):
    """Who a connection speaks for, once that is known.

    `subject` is what must be equal for one connection to take over another's
    peer id; it is not shown to anybody. `expires` is in seconds of the Unix
    clock: nobody is anybody for longer than the token says. `verified` is false
    for those whose word had to be taken, as in open mode.
    """

    subject: str
    user_id: str
    username: str | None = None
    avatar_url: str | None = None
    grants: Grants = Grants()
    expires: float | None = None
    verified: bool = False


class ServerInfo(Struct, frozen=True):
    """What a client is told of the server, once it is authenticated."""

    #: With credentials for this client.
    ice_servers: tuple[dict[str, object], ...] = ()
    #: Seconds between the server's pings.
    heartbeat: float = 20.0


class Live(Struct, frozen=True):
    """A broadcast that is running; an `exclusive` one ends older ones of the same dialect.

    `username` is what the broadcaster calls itself in it, if not as in the room.
    """

    media_type: MediaType
    started_at: Moment
    exclusive: bool = False
    username: str | None = None


class Profile(Struct, frozen=True):
    """What a user was last called in a room."""

    username: Name
    avatar_url: Address | None = None


class Member(Struct, frozen=True):
    """One peer in one room, as every replica knows it.

    `peer_id` is unique in the room. A user with two tabs has two members. Which of
    two connections has a peer id, `replica` and `joined_at` tell. A `reserved` peer id
    is for its subject alone, also for a while after it has left.
    """

    peer_id: Name
    user_id: Name
    username: Name
    dialect: Name
    replica: Name
    subject: Subject
    avatar_url: Address | None = None
    live: Live | None = None
    joined_at: Moment = ""
    reserved: bool = False


class Announcement(Struct, frozen=True):
    """A short message from a creator to every user."""

    id: Key
    message: Line
    type: AnnouncementType
    #: The creator's user id, and its name.
    created_by: Line
    created_by_name: Line
    created_at: Moment


class Edition(Struct, frozen=True):
    """What holds from a revision on: that an announcement is active, or is so no longer.

    Of two editions the one with the greater revision holds, whichever came first;
    of two with the same, that with the greater id.
    """

    revision: Number
    announcement: Announcement
    active: bool


# Commands: what a dialect asks for on behalf of its client.


class _Secretive(Struct, frozen=True):
    """Has a token, which must not be where a value is shown: in a log, in a traceback."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"


class Authenticate(_Secretive, frozen=True):
    """Find out who this is: from a token or, in open mode, from what it claims.

    `guest_name` is for a user of whom nobody says the name. `claimed` is the
    user id that the client gave itself, if it did: a token must agree with it.
    """

    user_id: str
    token: str | None = None
    username: str | None = None
    avatar_url: str | None = None
    guest_name: str | None = None
    claimed: str | None = None


class Renew(_Secretive, frozen=True):
    """Go on with a new token, of the same user, before the old one expires."""

    token: str | None


class Join(Struct, frozen=True):
    """Enter a room, as `peer_id` if the client chose one.

    A `viewer` counts towards the room's cap of viewers; a `broadcaster` is about
    to have the room for its own exclusive broadcast. Who is both has announced one:
    nobody owes it a new offer if it is there already. `recall_profile` gives a
    user without a name the one that it had in the room before. `reachable` lets the
    connection hear what is for its user alone, where the user has no inbox. `reserve` keeps
    the peer id for its identity, if that is verified, for a while after it has left.
    """

    room_id: str
    peer_id: str | None = None
    viewer: bool = False
    broadcaster: bool = False
    recall_profile: bool = False
    reachable: bool = False
    reserve: bool = False


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
    """Take another peer out of a room, and keep its identity out for a while; for moderators."""

    room_id: str
    peer_id: str
    reason: str


class AskLive(Struct, frozen=True):
    """Ask who is live in a room, joined or not.

    Who `listens` does not offer: the broadcasters of its dialect are to do so, and are told.
    """

    room_id: str
    listens: bool = False


class RecallRooms(Struct, frozen=True):
    """Ask which rooms this user was in when its connection was lost."""


class Attend(Struct, frozen=True):
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


#: Commands of a member of a room, carried out at once.
RoomCommand = (
    Leave | GoLive | StopLive | Signal | Chat | SetTyping | ChangeProfile | StartStreaming | Kick
)
#: Commands that tell one user something, whether they share a room or not.
PrivateCommand = SendPrivate | SetPrivateTyping | SendReceipt
Command = (
    Authenticate
    | Renew
    | Join
    | AskLive
    | RecallRooms
    | Attend
    | Appear
    | Move
    | OpenInbox
    | PrivateCommand
    | AskAnnouncement
    | Acknowledge
    | RoomCommand
)


# What a dialect wants besides: done by the connection itself.


class Send(Struct, frozen=True):
    """Send this text to the client."""

    text: bytes


class Malformed(Struct, frozen=True):
    """The client sent nonsense: answer with this text, and count it."""

    text: bytes


class Nudge(Struct, frozen=True):
    """Send this text whenever the client has said nothing for so many seconds."""

    text: bytes
    after: float


class Close(Struct, frozen=True):
    """Close the connection."""

    code: int
    reason: str = ""


Action = Command | Send | Malformed | Nudge | Close


# Events of a room: told to its members, on every replica. Their names are on the
# bus, so that replicas understand each other.


class Joined(Struct, frozen=True, tag=True):
    """A peer entered; `first` if its user had no other there."""

    room_id: Name
    member: Member
    first: bool
    peers: Number
    at: Moment


class Rejoined(Struct, frozen=True, tag=True):
    """A viewer that is here asked to be let in once more: it wants a new offer."""

    room_id: Name
    member: Member
    peers: Number
    at: Moment


class Left(Struct, frozen=True, tag=True):
    """A peer left; `last` if its user has no other there."""

    room_id: Name
    member: Member
    last: bool
    peers: Number
    at: Moment


class News(Enum):
    """What a broadcast changes in the picture of a room."""

    #: The user was not live before.
    FIRST = "first"
    #: The user was live, through another peer.
    ANOTHER = "another"
    #: The peer was live, with other media.
    CHANGED = "changed"
    #: The peer was live just so.
    AGAIN = "again"


class WentLive(Struct, frozen=True, tag=True):
    """A peer broadcasts.

    An `exclusive` broadcast ends the others of the same dialect.
    """

    room_id: Name
    member: Member
    news: News
    exclusive: bool
    at: Moment


class StopCause(Enum):
    """Why a broadcast ended."""

    STOPPED = "stopped"
    LEFT = "left"
    REPLACED = "replaced"


class StoppedLive(Struct, frozen=True, tag=True):
    """A peer broadcasts no longer; `last` if its user has no other live.

    `username` is what it called itself in the broadcast, if not as in the room.
    """

    room_id: Name
    member: Member
    last: bool
    cause: StopCause
    at: Moment
    username: str | None = None


class Signalled(Struct, frozen=True, tag=True):
    """An opaque payload from a member, for one other or for all others."""

    room_id: Name
    kind: SignalKind
    payload: Raw
    sender: Member
    target: Member | None
    wire_type: Name
    at: Moment


class Chatted(Struct, frozen=True, tag=True):
    """A member said something."""

    room_id: Name
    member: Member
    id: Name
    content: str
    avatar: Address | None
    at: Moment


class Typing(Struct, frozen=True, tag=True):
    """A member began or ceased to type."""

    room_id: Name
    member: Member
    typing: bool
    at: Moment


class ProfileChanged(Struct, frozen=True, tag=True):
    """A user is called something else from now on."""

    room_id: Name
    member: Member
    wire_type: Name
    previous_username: Name | None
    email: str | None
    bio: str | None
    at: Moment


class StreamStarting(Struct, frozen=True, tag=True):
    """A stream is about to start."""

    room_id: Name
    member: Member
    at: Moment


RoomEvent = (
    Joined
    | Rejoined
    | Left
    | WentLive
    | StoppedLive
    | Signalled
    | Chatted
    | Typing
    | ProfileChanged
    | StreamStarting
)


# Events for one user alone, on whichever replica it is. They are on the bus as well.


class PrivateMessage(Struct, frozen=True, tag=True):
    """A user says something to another one."""

    receiver_id: str
    id: str
    sender_id: str
    sender_username: str
    sender_avatar: str | None
    content: str
    at: str


class PrivateTyping(Struct, frozen=True, tag=True):
    """A user begins or ceases to type to another one."""

    receiver_id: str
    sender_id: str
    typing: bool


class ReadReceipt(Struct, frozen=True, tag=True):
    """A user has read what the receiver of this sent to it."""

    receiver_id: str
    reader_id: str
    at: str


PrivateEvent = PrivateMessage | PrivateTyping | ReadReceipt


class UserChanged(Struct, frozen=True, tag=True):
    """A user is called something else from now on, in all its rooms; told to all replicas.

    None leaves a field as it is.
    """

    user_id: Name
    username: Name | None = None
    avatar_url: Address | None = None
    previous_username: Name | None = None
    bio: str | None = None


# Who is online: told to the other replicas.


class Moved(Struct, frozen=True, tag=True):
    """A user is at another place; told to those who may know of it.

    `rooms` are its grants, which have to have a room in common with theirs.
    """

    user_id: Name
    username: Name
    rooms: tuple[Address, ...]
    x: Coordinate
    y: Coordinate
    at: Moment


class OnlineUser(Struct, frozen=True, omit_defaults=True):
    """A user that is connected to a replica; `grants` is the number of its grants there."""

    user_id: Name
    username: Name
    grants: Number
    x: Coordinate | None = None
    y: Coordinate | None = None


class OnlineHere(Struct, frozen=True, tag=True):
    """All users that are online on a replica, and the grants that they have."""

    replica: Name
    connections: Number
    grants: tuple[tuple[Address, ...], ...]
    users: tuple[OnlineUser, ...]


# Events of announcements: told to all who attend.


class Announced(Struct, frozen=True):
    """A creator made an announcement."""

    announcement: Announcement


class AnnouncementCleared(Struct, frozen=True):
    """The announcement is not to be shown any more."""

    announcement: Announcement


class Acknowledged(Struct, frozen=True):
    """So many users have acknowledged the announcement."""

    announcement: Announcement
    acknowledged: int


AnnouncementEvent = Announced | AnnouncementCleared | Acknowledged
Event = RoomEvent | PrivateEvent | Moved | AnnouncementEvent


# Answers: told to the peer whose command it was, and to nobody else.


class Entered(Struct, frozen=True):
    """You are in the room, with these members, yourself among them."""

    room_id: str
    me: Member
    members: tuple[Member, ...]
    at: str


class Exited(Struct, frozen=True):
    """You are no longer in the room."""

    room_id: str
    at: str


class Removed(Struct, frozen=True):
    """A moderator has taken you out of the room; the connection ends if it is in no other."""

    room_id: str
    reason: str
    at: str


class Displaced(Struct, frozen=True):
    """A newer broadcaster has taken your place; you are no longer in the room."""

    room_id: str


class LiveNow(Struct, frozen=True):
    """You are live, and these are the others in the room."""

    room_id: str
    me: Member
    others: tuple[Member, ...]


class LivePeers(Struct, frozen=True):
    """These members are live in the room; none of them is you."""

    room_id: str
    live: tuple[Member, ...]


class ChatSent(Struct, frozen=True):
    """Your message was told to the room under this id."""

    room_id: str
    id: str
    at: str


class Listening(Struct, frozen=True, tag=True):
    """A member that is not live waits for your offer, since you are live."""

    room_id: str
    listener: Member
    target: Member
    at: str


class LocationUpdated(Struct, frozen=True):
    """You are there, and these users are near."""

    x: float
    y: float
    nearby: tuple[str, ...]
    at: str


class Refusal(Enum):
    """Why a command was not carried out."""

    NOT_IN_ROOM = auto()
    TARGET_NOT_FOUND = auto()
    NOT_ALLOWED = auto()
    NOT_LIVE = auto()
    ROOM_FULL = auto()
    STREAM_FULL = auto()
    STREAM_TAKEN = auto()
    TOO_MANY_ROOMS = auto()
    PEER_ID_IN_USE = auto()
    INVALID_TOKEN = auto()


class Refused(Struct, frozen=True):
    """Your command was not carried out."""

    command: Command
    reason: Refusal
    at: str


class Expiring(Struct, frozen=True):
    """Your token expires in so many seconds, and the connection with it."""

    expires_in: int


class Renewed(Struct, frozen=True):
    """Your new token is good for so many seconds."""

    expires_in: int


class ActiveAnnouncement(Struct, frozen=True):
    """There is an announcement that you have not acknowledged."""

    announcement: Announcement


Answer = (
    Entered
    | Exited
    | Removed
    | Displaced
    | LiveNow
    | LivePeers
    | Listening
    | LocationUpdated
    | ChatSent
    | ActiveAnnouncement
    | Refused
    | Expiring
    | Renewed
)


class Audience(Enum):
    """Which of a room's peers a notice is for, seen from the event's member."""

    EVERYONE = auto()
    ITSELF = auto()
    #: All peers but the event's own.
    OTHER_PEERS = auto()
    #: All peers but those of the event's user.
    OTHER_USERS = auto()
    #: The peers that are live.
    BROADCASTERS = auto()
    #: Of an announcement: the peers of its creator, and of the creator's team.
    TEAM = auto()


class Notice(Struct, frozen=True):
    """An event in one dialect's words, and whom to tell."""

    audience: Audience
    text: bytes
