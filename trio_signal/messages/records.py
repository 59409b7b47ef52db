"""What is known of rooms and users beside who is there."""

from typing import NamedTuple

from msgspec import UNSET, Struct, UnsetType


class RoomCount(NamedTuple):
    """A room in a listing."""

    room_id: str
    peers: int
    users: int
    #: How many of the users are live.
    live: int
    #: When the first of those who are there joined; RFC 3339, empty if nobody knows.
    since: str


class RoomInfo(Struct, frozen=True):
    """A room's name, and its appearance in lists."""

    id: str
    name: str
    #: RFC 3339.
    created_at: str = ""
    thumbnail_url: str | None = None


class GuestUser(Struct, frozen=True):
    """Somebody who was given an identity by name alone."""

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
    """A user is online."""

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
