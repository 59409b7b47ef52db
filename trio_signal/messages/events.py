"""Events and answers: everything that the core sends to clients, before a dialect encodes it."""

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

# Events of a room, for its members on every replica. The names of the classes are sent on the bus,
# so replicas of different versions depend on them.


class Joined(Struct, frozen=True, tag=True):
    """A peer joined; `first` if its user had no other peer in the room."""

    room_id: Name
    member: Member
    first: bool
    peers: Number
    at: Moment


class Rejoined(Struct, frozen=True, tag=True):
    """A viewer that is in the room has joined again: it wants a new offer."""

    room_id: Name
    member: Member
    peers: Number
    at: Moment


class Left(Struct, frozen=True, tag=True):
    """A peer left; `last` if its user has no other peer in the room.

    A replica of an older version sends no cause: then the peer may come back.
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
    #: The peer was live, with the same media.
    AGAIN = "again"


class WentLive(Struct, frozen=True, tag=True):
    """A peer has started a broadcast. An `exclusive` one ends the others of the same dialect."""

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
    """A broadcast has ended; `last` if its user has no other live peer.

    `username` is the broadcaster's name in the broadcast, if it differs from that in the room.
    """

    room_id: Name
    member: Member
    last: bool
    cause: StopCause
    at: Moment
    username: str | None = None


class Routed(Struct, frozen=True, tag=True):
    """A broadcast has another route to its viewers: see the member's `live.route`."""

    room_id: Name
    member: Member
    at: Moment


class Signalled(Struct, frozen=True, tag=True):
    """A member sent an opaque payload to another member, or to all others."""

    room_id: Name
    kind: SignalKind
    payload: Raw
    sender: Member
    target: Member | None
    wire_type: Name
    at: Moment


class Chatted(Struct, frozen=True, tag=True):
    """A member sent a chat message."""

    room_id: Name
    member: Member
    id: Name
    content: str
    avatar: Address | None
    at: Moment


class Typing(Struct, frozen=True, tag=True):
    """A member is typing, or has stopped."""

    room_id: Name
    member: Member
    typing: bool
    at: Moment


class ProfileChanged(Struct, frozen=True, tag=True):
    """A user has changed its name, picture or description."""

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
    """The room was locked or unlocked by `member`."""

    room_id: Name
    member: Member
    locked: bool
    at: Moment


class ServerSaid(Struct, frozen=True, tag=True):
    """The site's backend sent a JSON message to one peer, or to all.

    `member` stands for the server, which is in no room.
    """

    room_id: Name
    member: Member
    data: Raw
    target: Member | None
    id: Name
    at: Moment


class WentAway(Struct, frozen=True, tag=True):
    """A peer has lost its connection, and may come back within its grace period."""

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


# Events for one user, on any replica. They are sent on the bus, too.


class PrivateMessage(Struct, frozen=True, tag=True):
    """A user sent a private message to another one."""

    receiver_id: str
    id: str
    sender_id: str
    sender_username: str
    sender_avatar: str | None
    content: str
    at: str


class PrivateTyping(Struct, frozen=True, tag=True):
    """A user is typing to another one, or has stopped."""

    receiver_id: str
    sender_id: str
    typing: bool


class ReadReceipt(Struct, frozen=True, tag=True):
    """A user has read the receiver's private messages."""

    receiver_id: str
    reader_id: str
    at: str


PrivateEvent = PrivateMessage | PrivateTyping | ReadReceipt


class UserChanged(Struct, frozen=True, tag=True):
    """A user has changed its profile in all its rooms; sent to all replicas.

    None leaves a field unchanged.
    """

    user_id: Name
    username: Name | None = None
    avatar_url: Address | None = None
    previous_username: Name | None = None
    bio: str | None = None


# Users online; sent to the other replicas.


class Moved(Struct, frozen=True, tag=True):
    """A user has moved on the map.

    `rooms` are its grants. Only users whose grants have a room in common with them receive this.
    """

    user_id: Name
    username: Name
    rooms: tuple[Address, ...]
    x: Coordinate
    y: Coordinate
    at: Moment


class OnlineUser(Struct, frozen=True, omit_defaults=True):
    """A user that is connected to a replica; `grants` is an index into `OnlineHere.grants`."""

    user_id: Name
    username: Name
    grants: Number
    x: Coordinate | None = None
    y: Coordinate | None = None


class OnlineHere(Struct, frozen=True, tag=True):
    """All users that are online on a replica, and their different grants."""

    replica: Name
    connections: Number
    grants: tuple[tuple[Address, ...], ...]
    users: tuple[OnlineUser, ...]


class Published(Struct, frozen=True, tag=True):
    """An opaque message to the subscribers of a topic, whose number is that on all replicas."""

    topic: Name
    form: PublishedForm
    content: Raw
    subscribers: Number = 0


class NameSignalled(Struct, frozen=True):
    """An opaque payload from the holder of one name to that of another."""

    sender: str
    target: str
    kind: NameSignalKind
    payload: Raw | UnsetType = UNSET


# Announcements, for all subscribers.


class Announced(Struct, frozen=True):
    """A creator made an announcement."""

    announcement: Announcement


class AnnouncementCleared(Struct, frozen=True):
    """The announcement must not be shown any more."""

    announcement: Announcement


class Acknowledged(Struct, frozen=True):
    """How many users have acknowledged the announcement; for its creator and the creator's team."""

    announcement: Announcement
    acknowledged: int


AnnouncementEvent = Announced | AnnouncementCleared | Acknowledged
Event = RoomEvent | PrivateEvent | Moved | Published | NameSignalled | AnnouncementEvent


# Answers, only for the peer whose command it was.


class Entered(Struct, frozen=True):
    """You are in the room; `members` are all its members, including you."""

    room_id: str
    me: Member
    members: tuple[Member, ...]
    at: str


class Exited(Struct, frozen=True):
    """You are no longer in the room."""

    room_id: str
    at: str


class Removed(Struct, frozen=True):
    """A moderator has removed you from the room; your connection ends if it is in no other."""

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
    """Your chat message was sent to the room with this id."""

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

    The media server acts as one more viewer, but is no member. You may be asked again.
    """

    room_id: str
    me: Member
    relay: Member
    viewers: tuple[Member, ...]
    at: str


class RelayDone(Struct, frozen=True):
    """The media server with this name does not need your stream any more."""

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
    """A broadcast cannot be delivered to you at the moment."""

    room_id: str
    broadcaster: Member
    at: str


class LocationUpdated(Struct, frozen=True):
    """Your place was noted, and these users are near."""

    x: float
    y: float
    nearby: tuple[str, ...]
    at: str


class Claimed(Struct, frozen=True):
    """You have the name."""

    name: str


class Unreached(Struct, frozen=True):
    """Nobody claimed this name in time; your signals to it are lost. Sent once."""

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
    """Your session continues: `received` of your messages arrived; `replayed` to you follow."""

    received: int
    replayed: int


class NotResumedReason(Enum):
    """Why a session cannot be resumed."""

    #: There is no such session, or it has ended.
    UNKNOWN = "unknown"
    #: Its grace period is over.
    EXPIRED = "expired"
    #: There were more unconfirmed messages than the server keeps.
    OVERFLOW = "overflow"
    #: Its replica is gone, or does not answer.
    OWNER_LOST = "owner_lost"
    #: It belongs to another client.
    OTHER_IDENTITY = "other_identity"


class NotResumed(Struct, frozen=True):
    """Your session cannot be resumed: you are a new peer."""

    reason: NotResumedReason


class Confirmed(Struct, frozen=True):
    """The number of your messages that have arrived; `id` is that of your question."""

    received: int
    id: Raw | UnsetType


class Expiring(Struct, frozen=True):
    """Your token expires in `expires_in` seconds; then the connection ends."""

    expires_in: int


class Renewed(Struct, frozen=True):
    """Your new token is valid for `expires_in` seconds."""

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
    """The peers of a room that receive a notice, relative to the event's member."""

    EVERYONE = auto()
    ITSELF = auto()
    #: All peers but the event's own.
    OTHER_PEERS = auto()
    #: All peers but those of the event's user.
    OTHER_USERS = auto()
    #: All peers that can resume their sessions, but the event's own.
    OTHER_SESSIONS = auto()
    #: The peers that are live.
    BROADCASTERS = auto()


class Notice(Struct, frozen=True):
    """An event encoded in one dialect, and its receivers."""

    audience: Audience
    text: bytes
