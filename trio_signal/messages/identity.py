"""Who takes part, and what everybody may know of them."""

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

MediaType = Literal["audio", "video"]
SignalKind = Literal["offer", "answer", "candidate", "signal", "message"]
#: How what is published on a topic is worded: in which field of the message it came.
PublishedForm = Literal["data", "payload"]
#: What goes from one name to another.
NameSignalKind = Literal["offer", "answer", "candidate", "leave"]
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
#: The room of all who hear announcements on replicas of version 0.1.
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

    A `creator` makes announcements; who is `team_of` a creator hears who has seen them. An
    `admin` may ask the server what the site's own backend may.
    """

    rooms: tuple[str, ...] = ("*",)
    publish: bool = True
    moderator: bool = False
    creator: bool = False
    team_of: str | None = None
    admin: bool = False

    def admit(self, room_id: str) -> bool:
        """Whether one of the granted globs fits this room."""
        return any(fnmatchcase(room_id, glob) for glob in self.rooms)


#: Everybody may do what everybody may want; only to end others' connections is nobody's right.
OPEN_GRANTS = Grants(creator=True)


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


class SessionInfo(Struct, frozen=True):
    """By what a client can resume its session, and for how many seconds after it was lost."""

    id: str
    grace: float

    def __repr__(self) -> str:
        """Without the id, which is a secret."""
        return "SessionInfo(...)"


class ServerInfo(Struct, frozen=True):
    """What a client learns about the server once it is authenticated."""

    #: With credentials for this client.
    ice_servers: tuple[dict[str, object], ...] = ()
    #: Seconds between the server's pings.
    heartbeat: float = 20.0
    #: If the client can come back as the same peer.
    session: SessionInfo | None = None
    #: Seconds between reports of its calls' quality; 0 if none are wanted.
    quality: float = 0.0
    #: Whether there are media servers.
    relays: bool = False


class Route(Struct, frozen=True):
    """A broadcast comes from a media server, to all viewers but those that are `direct`.

    That has it as `feed`. The broadcaster's replica decides; each `epoch` is another connection
    of the broadcaster's to a media server.
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
    """What a user was last called in a room."""

    username: Name
    avatar_url: Address | None = None


#: What replicas of this version understand of each other.
WIRE = 2


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
    #: What its replica understands: `WIRE` if it confirms signals. Version 0.1 does not say.
    wire: int = 1
    #: By what its session is found, if it can be resumed; its id cannot be found out from that.
    session: Name = ""
    #: Its client knows that a broadcast may come from a media server, if it has to know.
    relays: bool = False


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
    """What holds from a number on: that an announcement is active, or is so no longer.

    Of two revisions the one with the greater stamp holds, whichever came first.
    """

    number: Number = field(name="revision")
    announcement: Announcement
    active: bool

    @property
    def stamp(self) -> tuple[int, str]:
        """Its number, and the announcement's id where two have the same."""
        return self.number, self.announcement.id
