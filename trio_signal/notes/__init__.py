"""Notes: what is remembered of rooms and users, beside the bus.

Chat, names, guests, what rooms are called, and the rooms of users whose connection
was lost. None of it is transport, and the service works without it: a note may be
forgotten at any time.

The contract, for every implementation:

- What `keep_...` takes is kept without waiting: it never blocks and never raises. Of
  several for the same room or user the last one wins. A method that is awaited
  returns when every replica can read what it wrote; if the notes cannot be reached,
  it returns as well.
- Reading raises nothing. What cannot be reached, or cannot be read, is not there.
- Each kind of note is bounded in bytes, for each entry and in all. If there are too
  many, the one that was kept longest ago is forgotten first. An entry that is greater
  than its bound is not kept. See `Bounds`.
- An entry goes when its time is over, counted from when it was last kept.
- All replicas that share the notes read what one of them wrote, and replicas of
  neighbouring versions do.

A further kind of note is a line of `Bounds`, and a method that keeps and one that reads.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from trio_signal.messages.events import Chatted
from trio_signal.messages.identity import Member, Profile
from trio_signal.messages.records import GuestUser, RoomInfo


class Bounds(NamedTuple):
    """How much is kept of one kind of note: bytes of all, bytes of each, and seconds."""

    total: int
    each: int
    seconds: int


#: What an entry takes besides its key and its value, in bytes; rather too much.
OVERHEAD = 400
#: How often an entry's key is stored: with the value, by its time, and by its size.
KEY_COPIES = 4

#: Messages of a room that are kept at most, whatever their bytes.
CHATS_PER_ROOM = 200
#: For each room.
CHATS = Bounds(64 << 20, 1 << 20, 3600)
#: For each user in each room.
PROFILES = Bounds(32 << 20, 16 << 10, 86400)
#: For each user.
LOST_ROOMS = Bounds(16 << 20, 64 << 10, 60)
#: For each user: the rooms that it left on purpose.
LEFT_ROOMS = Bounds(16 << 20, 16 << 10, 60)
#: For each user in each room: what it was when its server ended.
LOST_MEMBERS = Bounds(16 << 20, 16 << 10, 60)
#: For each guest.
USERS = Bounds(16 << 20, 16 << 10, 86400)
#: For each room: what it is called; an hour after somebody was there.
ROOMS = Bounds(16 << 20, 16 << 10, 4500)
#: Seconds after which a room that is in use is kept anew, at most.
TOUCH_INTERVAL = 900.0


class Notes(Protocol):
    """See the contract above."""

    @property
    def failures(self) -> int:
        """How often what is to outlast the server could not be written."""
        ...

    async def run(self) -> None:
        """Forget what is over, until cancelled."""
        ...

    async def write(self) -> None:
        """Wait until what is to outlast the server is where it does; called before its end.

        Called also before it serves: then what was kept of the run before is there.
        """
        ...

    def keep_chat(self, chat: Chatted) -> None:
        """Keep a message of a room."""
        ...

    async def chats(self, room_id: str, limit: int) -> list[Chatted]:
        """The last messages of a room, oldest first."""
        ...

    def keep_profile(self, room_id: str, user_id: str, profile: Profile) -> None:
        """Keep what a user is called in a room."""
        ...

    async def remember_profile(self, room_id: str, user_id: str, profile: Profile) -> None:
        """The same, and wait until it is kept."""
        ...

    async def profile(self, room_id: str, user_id: str) -> Profile | None:
        """What a user was last called in a room."""
        ...

    def remember_rooms(self, user_id: str, room_ids: Iterable[str], heard: float = 0.0) -> None:
        """Keep that a user's connection was lost in these rooms, beside those of others.

        But not those that the user left on purpose after the connection was last heard of, at
        `heard`, in seconds since 1970.
        """
        ...

    def keep_left(self, user_id: str, room_id: str, at: float) -> None:
        """Keep that a user left a room on purpose, at this time; then it is not remembered."""
        ...

    def has_left(self, user_id: str, room_id: str, since: float) -> bool:
        """Whether a user did that on this replica, after this time."""
        ...

    async def take_lost_rooms(self, user_id: str) -> tuple[str, ...]:
        """Those rooms, once: then they are forgotten."""
        ...

    def keep_member(self, room_id: str, member: Member) -> None:
        """Keep that a member is in a room as it is now, in case the server ends without a word."""
        ...

    def forget_member(self, room_id: str, member: Member) -> None:
        """It has left by itself: that is not kept any more."""
        ...

    def lose_member(self, room_id: str, member: Member, heard: float) -> None:
        """Its server took it out of a room: keep for a minute what it is to find again.

        That is what its dialect's clients do not say by themselves (`Dialect.resumes`).
        `heard` is as for `remember_rooms`.
        """
        ...

    async def lost_member(self, room_id: str, user_id: str, dialect: str) -> Member | None:
        """The user that was live in a room when its server took it out."""
        ...

    def forget_lost(self, room_id: str, user_id: str, dialect: str) -> None:
        """It is live again, or need not be."""
        ...

    async def keep_user(self, user: GuestUser) -> None:
        """Keep a guest under its id and under its name, and wait until it is kept."""
        ...

    async def user(self, user_id: str) -> GuestUser | None:
        """The guest with this id."""
        ...

    async def user_named(self, name: str) -> GuestUser | None:
        """The guest that is called so now, whatever the case."""
        ...

    async def keep_room(self, room: RoomInfo) -> None:
        """Keep what a room is called, and wait until it is kept."""
        ...

    async def room_infos(self, room_ids: Sequence[str]) -> dict[str, RoomInfo]:
        """What these rooms are called, by their ids; those of which nothing is kept are missing."""
        ...

    def touch_rooms(self, room_ids: Iterable[str]) -> None:
        """Somebody is in these rooms: keep on keeping what they are called."""
        ...


def room_size(room_id: str) -> int:
    """What a lost user's room takes: the bytes of its id, and what a set needs for it."""
    return len(room_id.encode()) + 64


def lost_key(room_id: str, user_id: str, dialect: str) -> str:
    """One key of three: JSON keeps them apart, whatever is in them."""
    return msgspec.json.encode((room_id, user_id, dialect)).decode()
