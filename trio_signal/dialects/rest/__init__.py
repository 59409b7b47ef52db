"""HTTP routes of dialects: what a route is, and what its handler may ask for.

A handler knows no HTTP server, no clock and no chance: all of that is in the `Call` that it
is given. What it asks of the core may block; it never starts a task.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from msgspec import Raw, Struct

from trio_signal.errors import HttpError
from trio_signal.messages.events import Chatted, UserChanged
from trio_signal.messages.identity import (
    Announcement,
    AnnouncementType,
    Identity,
    Member,
    Profile,
)
from trio_signal.messages.records import GuestUser, RoomCount, RoomInfo

T = TypeVar("T")

#: Bytes of a list in an answer, at most.
MAX_BYTES = 256 * 1024


class Answer(Struct, frozen=True):
    """What a handler answers."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}


class Detail(Struct):
    """Why the call was refused."""

    detail: str


class Page(NamedTuple):
    """A part of the list of rooms, encoded; and with what the next one begins, if there is one."""

    body: bytes
    cursor: str | None


class Notes(Protocol):
    """What is remembered of rooms and users; see `trio_signal.notes`."""

    async def chats(self, room_id: str, limit: int) -> list[Chatted]:
        """The last messages of a room, oldest first."""

    async def profile(self, room_id: str, user_id: str) -> Profile | None:
        """What a user was last called in a room."""

    async def remember_profile(self, room_id: str, user_id: str, profile: Profile) -> None:
        """Keep that."""

    async def user(self, user_id: str) -> GuestUser | None:
        """A guest."""

    async def user_named(self, name: str) -> GuestUser | None:
        """The guest of this name."""

    async def keep_user(self, user: GuestUser) -> None:
        """Keep a guest."""

    async def keep_room(self, room: RoomInfo) -> None:
        """Keep what a room is called."""

    async def room_infos(self, room_ids: Sequence[str]) -> dict[str, RoomInfo]:
        """What rooms are called, of those that are called something."""


class Holds(Protocol):
    """Who is kept out of rooms."""

    async def is_banned(self, room_id: str, subject: str, user_id: str) -> bool:
        """Whether somebody is kept out of a room, by its subject."""


class Names(Protocol):
    """Who has which name."""

    async def list(self, namespace: str) -> list[str]:
        """The names in a namespace, without that; sorted."""


class Directory(Protocol):
    """Who is in which room, on all replicas."""

    @property
    def names(self) -> Names:
        """Who has which name."""

    async def count_members(self, room_ids: Sequence[str]) -> list[RoomCount]:
        """How many are in these rooms; those in which nobody is are left out."""

    async def count_rooms(self) -> int:
        """How many rooms have members."""

    @property
    def holds(self) -> Holds:
        """Who is kept out of them."""


class Online(Protocol):
    """The users that are online on all replicas."""

    def users_for(self, rooms: tuple[str, ...]) -> bytes:
        """Those that somebody with these grants may know of, as JSON."""

    def stats(self, rooms: int) -> Struct:
        """How many there are."""


class Announcements(Protocol):
    """See `trio_signal.announcements`. What is awaited raises StoreError."""

    @property
    def users_here(self) -> int:
        """How many users hear announcements through this replica."""

    async def count_users(self) -> int:
        """How many do so on all replicas."""

    async def announce(
        self, message: str, type_: AnnouncementType, creator: Identity
    ) -> Announcement:
        """Store an announcement and tell it."""

    async def clear(self) -> Announcement | None:
        """Let nothing be shown any more; what was."""

    async def active_for(self, user_id: str | None) -> Announcement | None:
        """What a user is to see."""

    async def acknowledge(self, announcement_id: str, user_id: str) -> None:
        """Do not show it to this user again; raises UnknownAnnouncementError."""

    async def made_since(self, creator: Identity, moment: str) -> int:
        """How many announcements a creator made."""


class Talk(Protocol):
    """What users say in rooms, and what they are called there. Nothing here blocks."""

    def say(self, room_id: str, user_id: str, profile: Profile, content: str) -> Chatted:
        """Tell a room what a user says that need not be in it."""

    def change_user(self, change: UserChanged) -> None:
        """Tell the rooms in which a user is what it is called now."""


class Core(Protocol):
    """What handlers may ask of the server: the hub is one."""

    @property
    def notes(self) -> Notes:
        """What is remembered."""

    @property
    def bus(self) -> Directory:
        """Who is in which room."""

    @property
    def online(self) -> Online:
        """Who is online."""

    @property
    def talk(self) -> Talk:
        """What is said in rooms."""

    @property
    def announcements(self) -> Announcements | None:
        """There are some where a dialect `announces`."""

    async def members(self, room_id: str) -> tuple[Member, ...]:
        """All members of a room on all replicas, in the order of joining."""


class Callers(Protocol):
    """Who sends the request, and what that costs it; what is not allowed raises HttpError."""

    async def find(self, said: str | None = None) -> Identity | None:
        """Who calls; None if it does not say. `said` is what it says elsewhere than in the query.

        401 if its token is not valid, 403 where another site may have made a browser send it.
        """

    async def require(self) -> Identity:
        """Who calls; 401 if it does not say."""

    async def find_entrant(self, room_id: str) -> Identity | None:
        """Who asks about a room; None in open mode, where anybody may. Else 401 or 403."""

    async def find_remembered(self) -> Identity | None:
        """Whose browser it is in open mode, as the cookie of its handshake says."""

    def charge(self, tokens: float) -> None:
        """Let the caller's address pay for what the request makes the server do."""

    def charge_deliveries(self, peers: int, size: int) -> None:
        """The same for so many bytes that so many peers hear."""


class Call(Protocol):
    """One HTTP request, as its handler sees it. What fails raises HttpError."""

    #: What the variables of the route's path are.
    path: Mapping[str, str]
    #: The path itself.
    url_path: str
    #: When it came; RFC 3339, UTC, milliseconds.
    now: str
    #: Whether callers need a token. If not, anybody may be anybody.
    wants_tokens: bool
    #: Whether anybody may see which rooms there are.
    lists_rooms: bool

    @property
    def query(self) -> Mapping[str, str]:
        """The first value of each name."""

    @property
    def callers(self) -> Callers:
        """Who calls."""

    @property
    def core(self) -> Core:
        """What the server knows and does."""

    def new_id(self) -> str:
        """An id that nobody can foresee."""

    async def body(self) -> bytes:
        """The whole body; 413 if that is too much."""

    async def list_rooms(
        self, shape: "Shape", caller: Identity | None, cursor: str, limit: int
    ) -> Page:
        """The rooms behind `cursor` that the caller may enter, by their ids."""


Handler = Callable[[Call], Awaitable[Answer]]
#: Makes an entry of the list of rooms.
Shape = Callable[[RoomCount, RoomInfo | None], Struct]


class Operation(NamedTuple):
    """An HTTP call as /openapi.json describes it."""

    summary: str
    #: The type of what it answers with `status`.
    answer: Any
    #: The types of other answers, by status.
    errors: Mapping[int, Any] = {}
    #: The type of its body, and what may be in the query.
    body: Any = None
    query: tuple[str, ...] = ()
    #: Of what it answers with `status`.
    media_type: str = "application/json"
    body_media_type: str = "application/json"
    #: What it may answer, and what its body may be.
    example: Any = None
    body_example: Any = None
    #: Whether it wants an API key.
    wants_key: bool = False
    status: int = 200
    #: Other successes, without a body.
    empty: tuple[int, ...] = ()


class Route(NamedTuple):
    """An HTTP call of a dialect."""

    #: As `GET /rooms/{room_id}`; `{name:path}` stands for one or more segments.
    call: str
    handle: Handler
    operation: Operation
    #: Whether any site's pages may call it where no tokens are wanted.
    public: bool = False

    @property
    def path(self) -> str:
        """Its path, as in `call`."""
        return self.call.partition(" ")[2]


#: What any caller may say of itself in the query.
CALLER = ("user_id", "token")
#: Why a caller is not let in, and what may be wrong with a body.
SIGNED_IN: Mapping[int, Any] = {401: Detail, 403: Detail, 429: Detail}
BODY: Mapping[int, Any] = {413: Detail, 422: Detail}


def json_answer(value: object, status: int = 200) -> Answer:
    """An answer that is JSON."""
    return Answer(msgspec.json.encode(value), status)


async def read_json(call: Call, type_: type[T]) -> T:
    """The request's JSON; 422 if it does not fit."""
    try:
        return msgspec.json.decode(await call.body(), type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpError(422, str(error)) from None


def fit(encoded: Iterable[bytes], most: int) -> list[bytes]:
    """The first of these that take `most` bytes at most; always the very first."""
    fitting: list[bytes] = []
    for each in encoded:
        most -= len(each) + 1
        if most < 0 and fitting:
            break
        fitting.append(each)
    return fitting


def fit_raw(values: Iterable[Struct], most: int) -> list[Raw]:
    """The same of values that are encoded one by one, and no more of them than fit."""
    return [Raw(each) for each in fit(map(msgspec.json.encode, values), most)]
