"""The REST of rooms: which there are, who is in them, and what was said."""

from typing import Annotated
from urllib.parse import urlencode
from uuid import uuid4

from msgspec import Meta, Raw, Struct
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import BadRequest, Forbidden, NotFound, UnprocessableEntity

from trio_signal.auth import may_enter
from trio_signal.bus import RoomCount
from trio_signal.clock import utc_now
from trio_signal.config import Settings
from trio_signal.dialects.room import User, chat_message, live_broadcasters
from trio_signal.dialects.wire import Id
from trio_signal.hub import Hub
from trio_signal.messages.identity import NO_ROOM, Identity, Member, Profile, is_internal
from trio_signal.names import ANONYMOUS, clean_name, clean_picture
from trio_signal.notes import CHATS_PER_ROOM, RoomInfo
from trio_signal.pacing import cost_of_delivery
from trio_signal.web.bodies import json_answer, read_body
from trio_signal.web.callers import Callers
from trio_signal.web.listing import (
    MAX_BYTES,
    MAX_ROOMS,
    RoomEntry,
    RoomList,
    active_room,
    fit_raw,
    room_entry,
)


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


class OneRoom(RoomEntry):
    """A room, and who is in it, as far as that is not too much for an answer."""

    room_id: str
    users: list[Raw]
    broadcasters: list[Raw]


def add_rooms(app: QuartTrio, hub: Hub, callers: Callers, settings: Settings) -> None:
    """Add the routes."""
    room_list, mesh_list = RoomList(hub, room_entry), RoomList(hub, active_room)

    @app.before_request
    async def check() -> None:
        """Private messages have the path of a room, and none of a room's calls."""
        room_id = str((request.view_args or {}).get("room_id", ""))
        if is_internal(room_id) or (room_id == NO_ROOM and request.path.startswith("/rooms/")):
            raise NotFound("This is no room")

    @app.post("/rooms/<room_id>/join")
    async def join(room_id: str) -> Response:
        entrant = await callers.find_entrant(room_id)
        body = await read_body(JoinRequest)
        if entrant is not None and body.user_id != entrant.user_id:
            raise Forbidden("Identity mismatch")
        known = await hub.notes.profile(room_id, body.user_id) or Profile(ANONYMOUS)
        username, avatar_url = clean_name(body.username), clean_picture(body.avatar_url)
        profile = Profile(username or known.username, avatar_url or known.avatar_url)
        await hub.notes.remember_profile(room_id, body.user_id, profile)
        return json_answer({"status": "success", "room_id": room_id, "user_id": body.user_id})

    @app.get("/rooms")
    async def rooms() -> Response:
        return await list_rooms(room_list)

    @app.get("/api/rooms")
    async def active_rooms() -> Response:
        return await list_rooms(mesh_list)

    async def list_rooms(listed: RoomList) -> Response:
        if not settings.list_rooms:
            raise Forbidden("Rooms are not listed here")
        caller = await callers.require() if settings.wants_tokens else None
        limit = min(max(_limit(MAX_ROOMS), 1), MAX_ROOMS)
        page = await listed.page(caller, request.args.get("cursor", ""), limit)
        answer = Response(page.body, content_type="application/json")
        if page.cursor is not None:
            query = urlencode({"limit": limit, "cursor": page.cursor})
            answer.headers["Link"] = f'<{request.path}?{query}>; rel="next"'
        return answer

    @app.post("/rooms")
    async def create_room() -> Response:
        caller = await callers.require() if settings.wants_tokens else None
        body = await read_body(RoomRequest)
        name = clean_name(body.name)
        if name is None:
            raise BadRequest("A room needs a name")
        info = RoomInfo(str(uuid4()), name, utc_now(), clean_picture(body.thumbnail_url))
        if caller is not None and not may_enter(caller, info.id):
            raise Forbidden("Not allowed in this room")
        await hub.notes.keep_room(info)
        return json_answer(info)

    @app.get("/rooms/<room_id>")
    async def room(room_id: str) -> Response:
        await callers.find_entrant(room_id)
        members = await hub.members(room_id)
        info = (await hub.notes.room_infos([room_id])).get(room_id)
        return json_answer(_one_room(room_id, members, info))

    @app.get("/rooms/<room_id>/messages")
    async def messages(room_id: str) -> Response:
        await callers.find_entrant(room_id)
        chats = await hub.notes.chats(room_id, min(_limit(100), CHATS_PER_ROOM))
        # The newest are those that are wanted.
        newest = fit_raw((chat_message(chat) for chat in reversed(chats)), MAX_BYTES)
        return json_answer(newest[::-1])

    @app.post("/rooms/<room_id>/messages")
    async def post_message(room_id: str) -> Response:
        entrant = await callers.find_entrant(room_id)
        body = await read_body(MessageRequest)
        if entrant is not None and body.user_id != entrant.user_id:
            raise Forbidden("Identity mismatch")
        profile = await _speaker(room_id, body, entrant)
        peers = sum(count.peers for count in await hub.bus.count_members([room_id]))
        callers.charge(peers * cost_of_delivery(len(body.content)))
        return json_answer(chat_message(hub.say(room_id, body.user_id, profile, body.content)))

    async def _speaker(room_id: str, body: MessageRequest, entrant: Identity | None) -> Profile:
        """What to call who says something: as a socket of the same user would be called."""
        username = clean_name(body.username)
        avatar_url = None
        if entrant is not None:
            username, avatar_url = entrant.username or username, entrant.avatar_url
        known = await hub.notes.profile(room_id, body.user_id)
        if known is None and username is None:
            user = await hub.notes.user(body.user_id)
            known = Profile(user.username, user.avatar_url or None) if user is not None else None
        known = known or Profile(ANONYMOUS)
        return Profile(username or known.username, avatar_url or known.avatar_url)

    @app.post("/api/rooms/<room_id>/info")
    async def info(room_id: str) -> Response:
        await callers.find_entrant(room_id)
        count = len(await hub.members(room_id))
        return json_answer({"room_id": room_id, "connected_users": count, "is_active": count > 0})


def _one_room(room_id: str, members: tuple[Member, ...], info: RoomInfo | None) -> OneRoom:
    users = {member.user_id: member for member in members}
    broadcasters = live_broadcasters(members)
    since = members[0].joined_at if members else ""
    count = RoomCount(room_id, len(members), len(users), len(broadcasters), since)
    entry = room_entry(count, info)
    return OneRoom(
        id=entry.id,
        name=entry.name,
        created_at=entry.created_at,
        member_count=entry.member_count,
        thumbnail_url=entry.thumbnail_url,
        peers=entry.peers,
        live=entry.live,
        room_id=room_id,
        users=fit_raw(
            (User(user.user_id, user.username, user.avatar_url) for user in users.values()),
            MAX_BYTES,
        ),
        broadcasters=fit_raw(broadcasters, MAX_BYTES),
    )


def _limit(default: int) -> int:
    """What the query says of how many are wanted; aborts with 422 if it says no number."""
    limit = request.args.get("limit", str(default))
    if not limit.isdecimal() or len(limit) > 9:
        raise UnprocessableEntity("limit must be a whole number")
    return int(limit)
