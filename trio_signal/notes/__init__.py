"""Notes: what is remembered of rooms and users, beside the bus.

Chat, profiles, guests, room names, and the rooms of users whose connection was lost. The service
works without them: a note may be forgotten at any time.

The contract, for every implementation:

- `keep_...` methods that are not `async` never block and never raise. Of several values for the
  same room or user, the last one wins. `async` methods return when every replica can read the
  value; if the notes cannot be reached, they return as well.
- Reading raises nothing. Notes that cannot be reached or decoded count as missing.
- Each kind of note is bounded in bytes, per entry and in total. Beyond the total, the entry that
  was kept longest ago is forgotten first. An entry above its bound is not kept. See `Bounds`.
- An entry expires after a time, counted from when it was last kept.
- All replicas that share the notes can read them, including replicas of neighbouring versions.

A further kind of note needs a line of `Bounds`, a method that keeps and one that reads.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import msgspec

from trio_signal.messages.events import Chatted
from trio_signal.messages.identity import Member, Profile
from trio_signal.messages.records import GuestUser, RoomInfo


class Bounds(NamedTuple):
    """The bounds of one kind of note: total bytes, bytes per entry, and seconds."""

    total: int
    each: int
    seconds: int


#: Bytes that an entry takes besides its key and value; estimated high.
OVERHEAD = 400
#: How often an entry's key is stored: with the value, in the order, and with the size.
KEY_COPIES = 4

#: Most messages kept per room, whatever their size.
CHATS_PER_ROOM = 200
#: Per room.
CHATS = Bounds(64 << 20, 1 << 20, 3600)
#: Per user and room.
PROFILES = Bounds(32 << 20, 16 << 10, 86400)
#: Per user.
LOST_ROOMS = Bounds(16 << 20, 64 << 10, 60)
#: Per user: the rooms that it left on purpose.
LEFT_ROOMS = Bounds(16 << 20, 16 << 10, 60)
#: Per user and room: the member when its server ended.
LOST_MEMBERS = Bounds(16 << 20, 16 << 10, 60)
#: Per guest.
USERS = Bounds(16 << 20, 16 << 10, 86400)
#: Per room: its name; until an hour after somebody was there.
ROOMS = Bounds(16 << 20, 16 << 10, 4500)
#: Most seconds after which the note of a room in use is renewed.
TOUCH_INTERVAL = 900.0


class Notes(Protocol):
    """See the contract above."""

    @property
    def failures(self) -> int:
        """How often notes that must survive a restart could not be written."""
        ...

    async def run(self) -> None:
        """Forget expired notes, until cancelled."""
        ...

    async def write(self) -> None:
        """Wait until everything that must survive a restart is written; called before shutdown.

        Also called at startup: then the notes of the last run are available.
        """
        ...

    def keep_chat(self, chat: Chatted) -> None:
        """Keep a message of a room."""
        ...

    async def chats(self, room_id: str, limit: int) -> list[Chatted]:
        """The last messages of a room, oldest first."""
        ...

    def keep_profile(self, room_id: str, user_id: str, profile: Profile) -> None:
        """Keep a user's name and picture in a room."""
        ...

    async def remember_profile(self, room_id: str, user_id: str, profile: Profile) -> None:
        """Keep a profile, and wait until it is kept."""
        ...

    async def profile(self, room_id: str, user_id: str) -> Profile | None:
        """The last profile of a user in a room."""
        ...

    def remember_rooms(self, user_id: str, room_ids: Iterable[str], heard: float = 0.0) -> None:
        """Keep the rooms in which a user's connection was lost, in addition to earlier ones.

        Leaves out rooms that the user left on purpose after `heard`, when the connection was last
        heard from, in seconds since 1970.
        """
        ...

    def keep_left(self, user_id: str, room_id: str, at: float) -> None:
        """Keep that a user left a room on purpose at this time, so that it is not rejoined."""
        ...

    def has_left(self, user_id: str, room_id: str, since: float) -> bool:
        """Whether a user left a room on purpose on this replica, after this time."""
        ...

    async def take_lost_rooms(self, user_id: str) -> tuple[str, ...]:
        """Return the rooms of a user's lost connections once; then they are forgotten."""
        ...

    def keep_member(self, room_id: str, member: Member) -> None:
        """Keep the present state of a member, in case the server ends without closing."""
        ...

    def forget_member(self, room_id: str, member: Member) -> None:
        """Forget a member that has left by itself."""
        ...

    def lose_member(self, room_id: str, member: Member, heard: float) -> None:
        """Keep for a minute what a member must find again after its server has removed it.

        This is what the clients of its dialect do not send again (`Dialect.resumes`). `heard` is as
        for `remember_rooms`.
        """
        ...

    async def lost_member(self, room_id: str, user_id: str, dialect: str) -> Member | None:
        """The user that was live in a room when its server removed it."""
        ...

    def forget_lost(self, room_id: str, user_id: str, dialect: str) -> None:
        """Forget a lost member: it is live again, or need not be."""
        ...

    async def keep_user(self, user: GuestUser) -> None:
        """Keep a guest under its id and its name, and wait until it is kept."""
        ...

    async def user(self, user_id: str) -> GuestUser | None:
        """The guest with this id."""
        ...

    async def user_named(self, name: str) -> GuestUser | None:
        """The guest that has this name now, in any case."""
        ...

    async def keep_room(self, room: RoomInfo) -> None:
        """Keep a room's name, and wait until it is kept."""
        ...

    async def room_infos(self, room_ids: Sequence[str]) -> dict[str, RoomInfo]:
        """The names of these rooms, by id; rooms without a note are left out."""
        ...

    def touch_rooms(self, room_ids: Iterable[str]) -> None:
        """Renew the notes of these rooms, which have members."""
        ...


def room_size(room_id: str) -> int:
    """Bytes of one room of a lost connection: its id, and the overhead of a set."""
    return len(room_id.encode()) + 64


def lost_key(room_id: str, user_id: str, dialect: str) -> str:
    """Three parts as one key: JSON separates them, whatever they contain."""
    return msgspec.json.encode((room_id, user_id, dialect)).decode()
