"""Records of rooms and users, for HTTP calls."""

from typing import NamedTuple

from msgspec import UNSET, Struct, UnsetType


class RoomCount(NamedTuple):
    """A room in a listing."""

    room_id: str
    peers: int
    users: int
    #: How many of the users are live.
    live: int
    #: When the first of the current peers joined; RFC 3339, empty if unknown.
    since: str


class RoomInfo(Struct, frozen=True):
    """A room's name, and its appearance in lists."""

    id: str
    name: str
    #: RFC 3339.
    created_at: str = ""
    thumbnail_url: str | None = None


class GuestUser(Struct, frozen=True):
    """A user who logged in as a guest, by name only."""

    id: str
    username: str
    display_name: str = ""
    email: str = ""
    bio: str = ""
    avatar_url: str = ""
    #: RFC 3339.
    created_at: str = ""


class Location(Struct):
    """A place on the application's map."""

    x: float
    y: float


class Presence(Struct, omit_defaults=True):
    """The state of a user that is online."""

    status: str
    last_seen: str
    location: Location | UnsetType = UNSET


class OnlinePerson(Struct):
    """A user that is online."""

    user_id: str
    username: str
    presence: Presence


class OnlineUsers(Struct):
    """The users that the caller may see; `count` includes the others."""

    users: list[OnlinePerson]
    count: int


class Stats(Struct):
    """Numbers of connections, users, and rooms with peers."""

    connections: int
    users: int
    rooms: int
