"""Identities, members and announcements: values that all replicas share."""

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

MediaType = Literal["audio", "video"]
SignalKind = Literal["offer", "answer", "candidate", "signal", "message"]
#: The field of the message that had the published content.
PublishedForm = Literal["data", "payload"]
#: The kinds of signals between names.
NameSignalKind = Literal["offer", "answer", "candidate", "leave"]
AnnouncementType = Literal["info", "warning", "alert"]

#: Bounds of values that other replicas wrote. They are wider than those for clients, so that a
#: version with other limits can be read.
Name = Annotated[str, Meta(max_length=1024)]
Address = Annotated[str, Meta(max_length=8192)]
Subject = Annotated[str, Meta(max_length=65536)]
Moment = Annotated[str, Meta(max_length=64)]
#: Whole numbers that Lua, JavaScript and databases represent exactly.
Number = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Coordinate = Annotated[float, Meta(ge=-1e12, le=1e12)]
#: Texts for a database: PostgreSQL allows no NUL in them.
Line = Annotated[str, Meta(max_length=4096, pattern=r"\A[^\x00]*\Z")]
Key = Annotated[str, Meta(max_length=36, pattern=r"\A[^\x00]*\Z")]

#: The prefix of ids of internal rooms. Clients cannot join these by id.
_INTERNAL = "\0"
#: The room of all who receive announcements on replicas of version 0.1.
LOBBY = f"{_INTERNAL}lobby"
_INBOX = f"{_INTERNAL}inbox:"
#: An id that no room may have: the path of inboxes has it in place of a room.
NO_ROOM = "dm"


def inbox_of(user_id: str) -> str:
    """The internal room of the connections that receive this user's private messages."""
    return _INBOX + user_id


def is_inbox(room_id: str) -> bool:
    """Whether a room is the inbox of a user."""
    return room_id.startswith(_INBOX)


def is_internal(room_id: str) -> bool:
    """Whether a room is internal, and must not be shown to anybody."""
    return room_id.startswith(_INTERNAL)


class Grants(Struct, frozen=True):
    """What a user may do. `rooms` are globs of room ids, as in a shell.

    A `creator` makes announcements; a member of the creator's team (`team_of`) learns who has seen
    them. An `admin` may make the server calls of the site's backend.
    """

    rooms: tuple[str, ...] = ("*",)
    publish: bool = True
    moderator: bool = False
    creator: bool = False
    team_of: str | None = None
    admin: bool = False

    def admit(self, room_id: str) -> bool:
        """Whether one of the granted globs matches this room."""
        return any(fnmatchcase(room_id, glob) for glob in self.rooms)


#: The grants in open mode: everything but moderation and administration.
OPEN_GRANTS = Grants(creator=True)


class Identity(Struct, frozen=True):
    """The user of an authenticated connection.

    Only a connection with the same `subject`, which is never shown to anybody, may take over
    another's peer id. `expires` is when the token expires, in seconds since 1970. `verified` is
    false in open mode, where clients claim their identities.
    """

    subject: str
    user_id: str
    username: str | None = None
    avatar_url: str | None = None
    grants: Grants = Grants()
    expires: float | None = None
    verified: bool = False


class SessionInfo(Struct, frozen=True):
    """The id by which a client can resume its session, and its grace period in seconds."""

    id: str
    grace: float

    def __repr__(self) -> str:
        """Without the id, which is a secret."""
        return "SessionInfo(...)"


class ServerInfo(Struct, frozen=True):
    """What a client learns about the server once it is authenticated."""

    #: They have credentials for this client.
    ice_servers: tuple[dict[str, object], ...] = ()
    #: Seconds between the server's pings.
    heartbeat: float = 20.0
    #: None if the client cannot resume its session.
    session: SessionInfo | None = None
    #: Seconds between reports of call quality; 0 for no reports.
    quality: float = 0.0
    #: Whether there are media servers.
    relays: bool = False


class Route(Struct, frozen=True):
    """The route of a broadcast through a media server, to all viewers except the `direct` ones.

    The media server has the broadcast as `feed`. The broadcaster's replica chooses the route. Each
    `epoch` is another connection of the broadcaster to a media server.
    """

    node: Name
    feed: Name
    epoch: Number
    direct: tuple[Name, ...] = ()


class Live(Struct, frozen=True):
    """A running broadcast. An `exclusive` one ends older ones of the same dialect.

    `username` is the broadcaster's name in it, if it differs from the name in the room. Without
    a `route` the broadcaster serves all viewers, as far as other replicas know.
    """

    media_type: MediaType
    started_at: Moment
    exclusive: bool = False
    username: str | None = None
    route: Route | None = None


class Profile(Struct, frozen=True):
    """The last name and picture of a user in a room."""

    username: Name
    avatar_url: Address | None = None


#: The version of the messages between replicas.
WIRE = 2


class Member(Struct, frozen=True):
    """One peer in one room, as every replica knows it.

    `peer_id` is unique in the room. A user with two tabs has two members. If a newer connection
    takes over a peer id, `replica` or `joined_at` differ. Only its subject may use a `reserved`
    peer id, also for a while after the peer has left.
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
    #: Its replica's version of messages: `WIRE` if it confirms signals. Version 0.1 sends none.
    wire: int = 1
    #: The tag of its session, if that can be resumed. The session's id cannot be derived from it.
    session: Name = ""
    #: Whether its client supports broadcasts from media servers, in dialects where it must.
    relays: bool = False
    #: Whether its session has no connection, and waits for its client. None if its replica, of
    #: version 0.2.0, does not record that.
    away: bool | None = None


class Announcement(Struct, frozen=True):
    """A short message from a creator to every user."""

    id: Key
    message: Line
    type: AnnouncementType
    #: The creator's user id, and its name.
    created_by: Line
    created_by_name: Line
    created_at: Moment


class Revision(Struct, frozen=True):
    """A numbered change: an announcement is active from now on, or not any more.

    Of two revisions the one with the greater stamp is valid, whichever arrives first.
    """

    number: Number = field(name="revision")
    announcement: Announcement
    active: bool

    @property
    def stamp(self) -> tuple[int, str]:
        """Its number; the announcement's id decides between equal numbers."""
        return self.number, self.announcement.id
