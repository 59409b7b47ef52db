"""HTTP routes of dialects: what a route is, and the interfaces for its handler.

A handler does no I/O of its own, and knows no clock and no random numbers: the `Call` that it gets
has all of that. Calls to the core may block; a handler never starts a task.
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

#: Most bytes of a list in an answer.
MAX_BYTES = 256 * 1024


class Answer(Struct, frozen=True):
    """A handler's answer."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}


class Detail(Struct):
    """Why the call was refused."""

    detail: str


class Page(NamedTuple):
    """A part of the list of rooms, encoded; and the start of the next page, if there is one."""

    body: bytes
    cursor: str | None


class Notes(Protocol):
    """Notes on rooms and users; see `trio_signal.notes`."""

    async def chats(self, room_id: str, limit: int) -> list[Chatted]:
        """The last messages of a room, oldest first."""

    async def profile(self, room_id: str, user_id: str) -> Profile | None:
        """The last profile of a user in a room."""

    async def remember_profile(self, room_id: str, user_id: str, profile: Profile) -> None:
        """Keep a profile, and wait until it is kept."""

    async def user(self, user_id: str) -> GuestUser | None:
        """A guest."""

    async def user_named(self, name: str) -> GuestUser | None:
        """The guest of this name."""

    async def keep_user(self, user: GuestUser) -> None:
        """Keep a guest."""

    async def keep_room(self, room: RoomInfo) -> None:
        """Keep a room's name."""

    async def room_infos(self, room_ids: Sequence[str]) -> dict[str, RoomInfo]:
        """The names of these rooms; rooms without a note are left out."""


class Holds(Protocol):
    """Bans."""

    async def is_banned(self, room_id: str, subject: str, user_id: str) -> bool:
        """Whether an identity is banned from a room."""


class Names(Protocol):
    """The directory of names."""

    async def list(self, namespace: str) -> list[str]:
        """The names in a namespace, without its prefix; sorted."""


class Directory(Protocol):
    """The directory of rooms and members on all replicas."""

    @property
    def names(self) -> Names:
        """The directory of names."""

    async def count_members(self, room_ids: Sequence[str]) -> list[RoomCount]:
        """Count the members of these rooms; empty rooms are left out."""

    async def count_rooms(self) -> int:
        """How many rooms have members."""

    @property
    def holds(self) -> Holds:
        """Bans."""


class Online(Protocol):
    """The users who are online on all replicas."""

    def users_for(self, rooms: tuple[str, ...]) -> bytes:
        """The users that these grants allow to see, as JSON."""

    def stats(self, rooms: int) -> Struct:
        """The number of users."""


class Announcements(Protocol):
    """See `trio_signal.announcements`. Async methods raise StoreError."""

    @property
    def users_here(self) -> int:
        """How many users receive announcements through this replica."""

    async def count_users(self) -> int:
        """How many users receive announcements on all replicas."""

    async def announce(
        self, message: str, type_: AnnouncementType, creator: Identity
    ) -> Announcement:
        """Store an announcement and notify everybody."""

    async def clear(self) -> Announcement | None:
        """End the active announcement and return it."""

    async def active_for(self, user_id: str | None) -> Announcement | None:
        """The announcement that a user should see."""

    async def acknowledge(self, announcement_id: str, user_id: str) -> None:
        """Store that this user has seen it; raises UnknownAnnouncementError."""

    async def made_since(self, creator: Identity, moment: str) -> int:
        """How many announcements a creator has made since a time."""


class Talk(Protocol):
    """Chat and profiles of users. Nothing here blocks."""

    def say(self, room_id: str, user_id: str, profile: Profile, content: str) -> Chatted:
        """Send a chat message of a user, who need not be in the room."""

    def change_user(self, change: UserChanged) -> None:
        """Publish a user's new profile to its rooms."""


class Core(Protocol):
    """The parts of the server that handlers may use: the hub is one."""

    @property
    def notes(self) -> Notes:
        """Notes on rooms and users."""

    @property
    def bus(self) -> Directory:
        """The directory."""

    @property
    def online(self) -> Online:
        """The users who are online."""

    @property
    def talk(self) -> Talk:
        """Chat and profiles."""

    @property
    def announcements(self) -> Announcements | None:
        """The announcements; None unless an enabled dialect `announces`."""

    async def members(self, room_id: str) -> tuple[Member, ...]:
        """All members of a room on all replicas, in the order of joining."""


class Callers(Protocol):
    """Identifies and charges the sender of the request; refusals raise HttpError."""

    async def find(self, said: str | None = None) -> Identity | None:
        """The caller's identity; None if the request names none.

        `said` is a claim found elsewhere than in the query. 401 if the token is invalid, 403 if
        another site may have made a browser send it.
        """

    async def require(self) -> Identity:
        """The caller's identity; 401 if the request names none."""

    async def find_entrant(self, room_id: str) -> Identity | None:
        """The caller's identity for a question about a room; None in open mode. Else 401 or 403."""

    async def find_remembered(self) -> Identity | None:
        """In open mode, the identity in the cookie from the caller's handshake."""

    def charge(self, tokens: float) -> None:
        """Charge the caller's address for what the request makes the server do."""

    def charge_deliveries(self, peers: int, size: int) -> None:
        """Charge the caller's address for sending `size` bytes to `peers` peers."""


class Call(Protocol):
    """One HTTP request for a handler. Failures raise HttpError."""

    #: The values of the path's variables.
    path: Mapping[str, str]
    #: The path itself.
    url_path: str
    #: When the request came: RFC 3339, UTC, milliseconds.
    now: str
    #: Whether callers need a token. If not, anybody can claim any identity.
    wants_tokens: bool
    #: Whether rooms may be listed.
    lists_rooms: bool

    @property
    def query(self) -> Mapping[str, str]:
        """The first value of each parameter."""

    @property
    def callers(self) -> Callers:
        """Identifies and charges the caller."""

    @property
    def core(self) -> Core:
        """The parts of the server."""

    def new_id(self) -> str:
        """A new random id that cannot be guessed."""

    async def body(self) -> bytes:
        """The whole body; 413 if it is too big."""

    async def list_rooms(
        self, shape: "Shape", caller: Identity | None, cursor: str, limit: int
    ) -> Page:
        """The rooms after `cursor` that the caller may enter, by id."""


Handler = Callable[[Call], Awaitable[Answer]]
#: Makes an entry of the list of rooms.
Shape = Callable[[RoomCount, RoomInfo | None], Struct]


class Operation(NamedTuple):
    """An HTTP call as /openapi.json describes it."""

    summary: str
    #: The type of the answer with `status`.
    answer: Any
    #: The types of other answers, by status.
    errors: Mapping[int, Any] = {}
    #: The type of the body, and the query parameters.
    body: Any = None
    query: tuple[str, ...] = ()
    #: The media type of the answer with `status`.
    media_type: str = "application/json"
    body_media_type: str = "application/json"
    #: Examples of the answer and of the body.
    example: Any = None
    body_example: Any = None
    #: Whether the call needs an API key.
    wants_key: bool = False
    status: int = 200
    #: Other success statuses, without a body.
    empty: tuple[int, ...] = ()


class Route(NamedTuple):
    """An HTTP call of a dialect."""

    #: Such as `GET /rooms/{room_id}`; `{name:path}` stands for one or more segments.
    call: str
    handle: Handler
    operation: Operation
    #: Whether any site's pages may make the call in open mode.
    public: bool = False

    @property
    def path(self) -> str:
        """The path in `call`."""
        return self.call.partition(" ")[2]


#: Query parameters by which callers may identify themselves.
CALLER = ("user_id", "token")
#: Errors for callers who are refused, and for invalid bodies.
SIGNED_IN: Mapping[int, Any] = {401: Detail, 403: Detail, 429: Detail}
BODY: Mapping[int, Any] = {413: Detail, 422: Detail}


def json_answer(value: object, status: int = 200) -> Answer:
    """Make a JSON answer."""
    return Answer(msgspec.json.encode(value), status)


async def read_json(call: Call, type_: type[T]) -> T:
    """Decode the request's JSON; 422 if it does not fit."""
    try:
        return msgspec.json.decode(await call.body(), type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HttpError(422, str(error)) from None


def fit(encoded: Iterable[bytes], most: int) -> list[bytes]:
    """The first values that fit into `most` bytes; at least one."""
    fitting: list[bytes] = []
    for each in encoded:
        most -= len(each) + 1
        if most < 0 and fitting:
            break
        fitting.append(each)
    return fitting


def fit_raw(values: Iterable[Struct], most: int) -> list[Raw]:
    """The same, encoding values one by one until they do not fit."""
    return [Raw(each) for each in fit(map(msgspec.json.encode, values), most)]
