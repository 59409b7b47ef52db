"""HTTP routes of rooms: the list, their members, and chat."""

from typing import Annotated
from urllib.parse import urlencode

from msgspec import Meta, Raw, Struct

from trio_signal.dialects.rest import (
    BODY,
    MAX_BYTES,
    SIGNED_IN,
    Answer,
    Call,
    Detail,
    Operation,
    Route,
    Shape,
    fit_raw,
    json_answer,
    read_json,
)
from trio_signal.dialects.room import (
    Broadcaster,
    RoomMessage,
    User,
    chat_message,
    live_broadcasters,
)
from trio_signal.dialects.wire import Id
from trio_signal.errors import HttpError
from trio_signal.messages.identity import NO_ROOM, Identity, Member, Profile, is_internal
from trio_signal.messages.records import RoomCount, RoomInfo
from trio_signal.names import ANONYMOUS, clean_name, clean_picture

#: Most rooms on a page, and the default number of messages.
MAX_ROOMS = 1000
_MESSAGES = 100


class JoinRequest(Struct):
    """The body of `POST /rooms/{room_id}/join`."""

    user_id: Id
    username: str | None = None
    avatar_url: str | None = None


class RoomRequest(Struct):
    """The body of `POST /rooms`."""

    name: str | None = None
    thumbnail_url: str | None = None


class MessageRequest(Struct):
    """The body of `POST /rooms/{room_id}/messages`."""

    user_id: Id
    content: Annotated[str, Meta(min_length=1)]
    username: str | None = None


class RoomJoined(Struct):
    """Confirms the name."""

    room_id: str
    user_id: str
    status: str = "success"


class RoomEntry(Struct):
    """A room in a list."""

    id: str
    name: str
    #: RFC 3339; for rooms that were not created by a call, when the first present user joined.
    created_at: str | None
    #: How many users are there.
    member_count: int
    thumbnail_url: str | None
    #: How many peers these have, and how many of the users are live.
    peers: int
    live: int


class RoomSnapshot(RoomEntry):
    """A room and its users, as many as fit into an answer."""

    room_id: str
    users: list[User]
    broadcasters: list[Broadcaster]


class _RawSnapshot(RoomEntry):
    """The same, with encoded users."""

    room_id: str
    users: list[Raw]
    broadcasters: list[Raw]


class ActiveRoom(Struct):
    """A room, in the format of `mesh`'s clients."""

    room_id: str
    connected_users: int
    is_active: bool


def room_entry(count: RoomCount, info: RoomInfo | None) -> RoomEntry:
    """A room in the format of `room`'s clients."""
    return RoomEntry(
        count.room_id,
        info.name if info is not None else count.room_id,
        (info.created_at if info is not None else _to_milliseconds(count.since)) or None,
        count.users,
        info.thumbnail_url if info is not None else None,
        count.peers,
        count.live,
    )


def active_room(count: RoomCount, info: RoomInfo | None) -> ActiveRoom:
    """A room, in the format of `mesh`'s clients."""
    return ActiveRoom(count.room_id, count.peers, is_active=True)


async def list_rooms(call: Call) -> Answer:
    """Answer `GET /rooms`."""
    return await _list_rooms(call, room_entry)


async def list_active_rooms(call: Call) -> Answer:
    """Answer `GET /api/rooms`."""
    return await _list_rooms(call, active_room)


async def _list_rooms(call: Call, shape: Shape) -> Answer:
    if not call.lists_rooms:
        raise HttpError(403, "Rooms are not listed here")
    caller = await call.callers.require() if call.wants_tokens else None
    limit = min(max(_limit(call, MAX_ROOMS), 1), MAX_ROOMS)
    page = await call.list_rooms(shape, caller, call.query.get("cursor", ""), limit)
    headers = {}
    if page.cursor is not None:
        query = urlencode({"limit": limit, "cursor": page.cursor})
        headers["Link"] = f'<{call.url_path}?{query}>; rel="next"'
    return Answer(page.body, headers=headers)


async def create_room(call: Call) -> Answer:
    """Answer `POST /rooms`."""
    caller = await call.callers.require() if call.wants_tokens else None
    body = await read_json(call, RoomRequest)
    name = clean_name(body.name)
    if name is None:
        raise HttpError(400, "A room needs a name")
    info = RoomInfo(call.new_id(), name, call.now, clean_picture(body.thumbnail_url))
    if caller is not None and not caller.grants.admit(info.id):
        raise HttpError(403, "Not allowed in this room")
    await call.core.notes.keep_room(info)
    return json_answer(info)


async def show_room(call: Call) -> Answer:
    """Answer `GET /rooms/{room_id}`."""
    room_id = _room_of(call)
    await _find_entrant(call, room_id)
    members = await call.core.members(room_id)
    info = (await call.core.notes.room_infos([room_id])).get(room_id)
    return json_answer(_snapshot(room_id, members, info))


async def join_room(call: Call) -> Answer:
    """Answer `POST /rooms/{room_id}/join`."""
    room_id, notes = _room_of(call), call.core.notes
    entrant = await _find_entrant(call, room_id)
    body = await read_json(call, JoinRequest)
    if entrant is not None and body.user_id != entrant.user_id:
        raise HttpError(403, "Identity mismatch")
    known = await notes.profile(room_id, body.user_id) or Profile(ANONYMOUS)
    username, avatar_url = clean_name(body.username), clean_picture(body.avatar_url)
    profile = Profile(username or known.username, avatar_url or known.avatar_url)
    await notes.remember_profile(room_id, body.user_id, profile)
    return json_answer(RoomJoined(room_id, body.user_id))


async def show_messages(call: Call) -> Answer:
    """Answer `GET /rooms/{room_id}/messages`."""
    room_id = _room_of(call)
    await _find_entrant(call, room_id)
    chats = await call.core.notes.chats(room_id, _limit(call, _MESSAGES))
    # Keep the newest messages if not all fit.
    newest = fit_raw((chat_message(chat) for chat in reversed(chats)), MAX_BYTES)
    return json_answer(newest[::-1])


async def post_message(call: Call) -> Answer:
    """Answer `POST /rooms/{room_id}/messages`."""
    room_id = _room_of(call)
    entrant = await _find_entrant(call, room_id)
    body = await read_json(call, MessageRequest)
    if entrant is not None and body.user_id != entrant.user_id:
        raise HttpError(403, "Identity mismatch")
    profile = await _speaker(call, room_id, body, entrant)
    peers = sum(count.peers for count in await call.core.bus.count_members([room_id]))
    call.callers.charge_deliveries(peers, len(body.content))
    return json_answer(
        chat_message(call.core.talk.say(room_id, body.user_id, profile, body.content))
    )


async def count_room(call: Call) -> Answer:
    """Answer `POST /api/rooms/{room_id}/info`."""
    room_id = call.path["room_id"]
    if is_internal(room_id):
        raise HttpError(404, "This is not a room")
    await _find_entrant(call, room_id)
    count = len(await call.core.members(room_id))
    return json_answer(ActiveRoom(room_id, count, is_active=count > 0))


async def _speaker(
    call: Call, room_id: str, body: MessageRequest, entrant: Identity | None
) -> Profile:
    """The profile of a user who sends a message: the same as for a socket of that user."""
    notes, username, avatar_url = call.core.notes, clean_name(body.username), None
    if entrant is not None:
        username, avatar_url = entrant.username or username, entrant.avatar_url
    known = await notes.profile(room_id, body.user_id)
    if known is None and username is None:
        user = await notes.user(body.user_id)
        known = Profile(user.username, user.avatar_url or None) if user is not None else None
    known = known or Profile(ANONYMOUS)
    return Profile(username or known.username, avatar_url or known.avatar_url)


async def _find_entrant(call: Call, room_id: str) -> Identity | None:
    """The caller's identity for a call about a room; None in open mode. 403 for banned users."""
    entrant = await call.callers.find_entrant(room_id)
    if entrant is not None and await call.core.bus.holds.is_banned(
        room_id, entrant.subject, entrant.user_id
    ):
        raise HttpError(403, "Not allowed in this room")
    return entrant


def _room_of(call: Call) -> str:
    """The room of a call. The path of private messages looks like a room, but is none."""
    room_id = call.path["room_id"]
    if room_id == NO_ROOM or is_internal(room_id):
        raise HttpError(404, "This is not a room")
    return room_id


def _snapshot(room_id: str, members: tuple[Member, ...], info: RoomInfo | None) -> _RawSnapshot:
    users = {member.user_id: member for member in members}
    broadcasters = live_broadcasters(members)
    since = members[0].joined_at if members else ""
    count = RoomCount(room_id, len(members), len(users), len(broadcasters), since)
    entry = room_entry(count, info)
    return _RawSnapshot(
        **{name: getattr(entry, name) for name in entry.__struct_fields__},
        room_id=room_id,
        users=fit_raw(
            (User(user.user_id, user.username, user.avatar_url) for user in users.values()),
            MAX_BYTES,
        ),
        broadcasters=fit_raw(broadcasters, MAX_BYTES),
    )


def _limit(call: Call, default: int) -> int:
    """The number of entries that the query requests; 422 if it is not a number."""
    limit = call.query.get("limit", str(default))
    if not limit.isdecimal() or len(limit) > 9:
        raise HttpError(422, "limit must be a whole number")
    return int(limit)


def _to_milliseconds(moment: str) -> str:
    """Convert RFC 3339 with microseconds to the format of all other times."""
    seconds, dot, fraction = moment.partition(".")
    return f"{seconds}.{fraction[:3]}Z" if dot else moment


_IN_ROOM = {**SIGNED_IN, 404: Detail}
_PAGE = ("limit", "cursor")

#: Our own programs use it too, although they speak `mesh`.
_LIST = Route(
    "GET /rooms",
    list_rooms,
    Operation(
        "List the rooms that have peers", list[RoomEntry], {**SIGNED_IN, 422: Detail}, query=_PAGE
    ),
)
ROUTES = (
    _LIST,
    Route(
        "POST /rooms",
        create_room,
        Operation(
            "Create a room with a name", RoomInfo, {**SIGNED_IN, **BODY, 400: Detail}, RoomRequest
        ),
    ),
    Route(
        "GET /rooms/{room_id}",
        show_room,
        Operation("List the peers of a room", RoomSnapshot, _IN_ROOM),
    ),
    Route(
        "GET /rooms/{room_id}/messages",
        show_messages,
        Operation(
            "Get the last messages of a room",
            list[RoomMessage],
            {**_IN_ROOM, 422: Detail},
            query=("limit",),
        ),
    ),
    Route(
        "POST /rooms/{room_id}/messages",
        post_message,
        Operation("Send a message to a room", RoomMessage, {**_IN_ROOM, **BODY}, MessageRequest),
    ),
    Route(
        "POST /rooms/{room_id}/join",
        join_room,
        Operation("Set a user's name in a room", RoomJoined, {**_IN_ROOM, **BODY}, JoinRequest),
    ),
)
MESH_ROUTES = (
    _LIST,
    Route(
        "GET /api/rooms",
        list_active_rooms,
        Operation(
            "List the rooms that have peers, for clients of `mesh`",
            list[ActiveRoom],
            {**SIGNED_IN, 422: Detail},
            query=_PAGE,
        ),
    ),
    Route(
        "POST /api/rooms/{room_id}/info",
        count_room,
        Operation("Count the peers of a room", ActiveRoom, _IN_ROOM),
    ),
)
