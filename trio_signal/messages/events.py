"""What happens, in the words of the core: events, answers, and whom they are for.

The whole vocabulary of what is told, each with what it means: hence its length.
"""

from enum import Enum, auto

from msgspec import UNSET, Raw, Struct, UnsetType

from trio_signal.messages.commands import Command, LeaveCause
from trio_signal.messages.identity import (
    Address,
    Announcement,
    Coordinate,
    Member,
    Moment,
    Name,
    NameSignalKind,
    Number,
    PublishedForm,
    SignalKind,
)

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
    """A peer left; `last` if its user has no other there.

    A replica of an older version does not say why: then it may come back.
    """

    room_id: Name
    member: Member
    last: bool
    peers: Number
    at: Moment
    cause: LeaveCause = LeaveCause.LOST


class News(Enum):
    """What a broadcast changes in a room."""

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


class Routed(Struct, frozen=True, tag=True):
    """A broadcast gets to its viewers by another way: see the member's `live.route`."""

    room_id: Name
    member: Member
    at: Moment


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


class RoomLocked(Struct, frozen=True, tag=True):
    """From now on nobody new is let in, or somebody is again; `member` said so."""

    room_id: Name
    member: Member
    locked: bool
    at: Moment


class ServerSaid(Struct, frozen=True, tag=True):
    """The site's own backend says something: JSON, for one peer or for all.

    `member` is the server itself, which is in no room.
    """

    room_id: Name
    member: Member
    data: Raw
    target: Member | None
    id: Name
    at: Moment


class WentAway(Struct, frozen=True, tag=True):
    """A peer has lost its connection, and may come back within its grace."""

    room_id: Name
    member: Member
    at: Moment


class CameBack(Struct, frozen=True, tag=True):
    """A peer that was away has a connection again."""

    room_id: Name
    member: Member
    at: Moment


RoomEvent = (
    Joined
    | Rejoined
    | Left
    | WentLive
    | StoppedLive
    | Routed
    | Signalled
    | Chatted
    | Typing
    | ProfileChanged
    | StreamStarting
    | RoomLocked
    | ServerSaid
    | WentAway
    | CameBack
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


class Published(Struct, frozen=True, tag=True):
    """Something opaque for all who subscribe to a topic; so many do, on all replicas."""

    topic: Name
    form: PublishedForm
    content: Raw
    subscribers: Number = 0


class NameSignalled(Struct, frozen=True):
    """An opaque payload from who has a name, for who has another."""

    sender: str
    target: str
    kind: NameSignalKind
    payload: Raw | UnsetType = UNSET


# Events of announcements: told to all who attend.


class Announced(Struct, frozen=True):
    """A creator made an announcement."""

    announcement: Announcement


class AnnouncementCleared(Struct, frozen=True):
    """The announcement is not to be shown any more."""

    announcement: Announcement


class Acknowledged(Struct, frozen=True):
    """So many users have acknowledged the announcement; for its creator, and the creator's team."""

    announcement: Announcement
    acknowledged: int


AnnouncementEvent = Announced | AnnouncementCleared | Acknowledged
Event = RoomEvent | PrivateEvent | Moved | Published | NameSignalled | AnnouncementEvent


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


class RelayAsked(Struct, frozen=True):
    """You are live, and a media server waits for your offer; it serves these viewers.

    It looks like one more viewer, and is no member. You may be asked again.
    """

    room_id: str
    me: Member
    relay: Member
    viewers: tuple[Member, ...]
    at: str


class RelayDone(Struct, frozen=True):
    """The media server needs your stream no more, under this name."""

    room_id: str
    me: Member
    relay: Member
    at: str


class ServeDirectly(Struct, frozen=True):
    """A viewer that a media server served waits for your offer."""

    room_id: str
    me: Member
    viewer: Member
    at: str


class RelayFailed(Struct, frozen=True):
    """A broadcast cannot be brought to you at the moment."""

    room_id: str
    broadcaster: Member
    at: str


class LocationUpdated(Struct, frozen=True):
    """You are there, and these users are near."""

    x: float
    y: float
    nearby: tuple[str, ...]
    at: str


class Claimed(Struct, frozen=True):
    """You have the name."""

    name: str


class Unreached(Struct, frozen=True):
    """Nobody claimed this name in time; what you sent there is gone. Told once."""

    target: str


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
    UNKNOWN_NAMESPACE = auto()
    INVALID_TOKEN = auto()


class Refused(Struct, frozen=True):
    """Your command was not carried out."""

    command: Command
    reason: Refusal
    at: str


class Resumed(Struct, frozen=True):
    """You are who you were: so many of your messages arrived, and so many follow."""

    received: int
    replayed: int


class NotResumedReason(Enum):
    """Why a session cannot be resumed."""

    #: There is no such session, or it has ended.
    UNKNOWN = "unknown"
    #: Its grace is over.
    EXPIRED = "expired"
    #: More was not confirmed than is kept.
    OVERFLOW = "overflow"
    #: Its replica is gone, or does not answer.
    OWNER_LOST = "owner_lost"
    #: It is somebody else's.
    OTHER_IDENTITY = "other_identity"


class NotResumed(Struct, frozen=True):
    """Your session cannot be resumed: you are a new peer."""

    reason: NotResumedReason


class Confirmed(Struct, frozen=True):
    """So many of your messages have arrived; `id` is your question's."""

    received: int
    id: Raw | UnsetType


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
    | RelayAsked
    | RelayDone
    | ServeDirectly
    | RelayFailed
    | LocationUpdated
    | ChatSent
    | ActiveAnnouncement
    | Claimed
    | Unreached
    | Refused
    | Expiring
    | Renewed
    | Resumed
    | NotResumed
    | Confirmed
)


class Audience(Enum):
    """Which of a room's peers a notice is for, seen from the event's member."""

    EVERYONE = auto()
    ITSELF = auto()
    #: All peers but the event's own.
    OTHER_PEERS = auto()
    #: All peers but those of the event's user.
    OTHER_USERS = auto()
    #: All peers but the event's own, as far as they can resume their sessions.
    OTHER_SESSIONS = auto()
    #: The peers that are live.
    BROADCASTERS = auto()


class Notice(Struct, frozen=True):
    """An event in one dialect's words, and whom to tell."""

    audience: Audience
    text: bytes
