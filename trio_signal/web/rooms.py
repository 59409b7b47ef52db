"""The REST of rooms: who is in them, and what was said."""

from msgspec import Struct
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import Forbidden, NotFound, UnprocessableEntity

from trio_signal.auth import may_enter
from trio_signal.config import Settings
from trio_signal.dialects.room import chat_message, live_broadcasters
from trio_signal.dialects.wire import Id
from trio_signal.hub import ANONYMOUS, Hub
from trio_signal.messages import NO_ROOM, Profile
from trio_signal.names import clean_name, clean_picture
from trio_signal.web.bodies import json_answer, read_body
from trio_signal.web.callers import Callers


class JoinRequest(Struct):
    """The body of `POST /rooms/{room_id}/join`."""

    user_id: Id
    username: str | None = None
    avatar_url: str | None = None


def add_rooms(app: QuartTrio, hub: Hub, callers: Callers, settings: Settings) -> None:
    """Add the routes."""

    @app.before_request
    async def check() -> None:
        """Private messages have the path of a room, and none of a room's calls."""
        room_id = (request.view_args or {}).get("room_id")
        if room_id == NO_ROOM and request.path.startswith("/rooms/"):
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
        if not settings.list_rooms:
            raise Forbidden("Rooms are not listed here")
        caller = await callers.require() if settings.wants_tokens else None
        counts = [
            {
                "room_id": count.room_id,
                "users": count.users,
                "peers": count.peers,
                "broadcasters": count.live,
            }
            for count in await hub.bus.rooms()
            if count.room_id != NO_ROOM and (caller is None or may_enter(caller, count.room_id))
        ]
        return json_answer({"rooms": counts})

    @app.get("/rooms/<room_id>")
    async def room(room_id: str) -> Response:
        await callers.find_entrant(room_id)
        members = await hub.members(room_id)
        users = {
            member.user_id: {
                "user_id": member.user_id,
                "username": member.username,
                "avatar_url": member.avatar_url,
            }
            for member in members
        }
        return json_answer(
            {
                "room_id": room_id,
                "users": list(users.values()),
                "broadcasters": live_broadcasters(members),
            }
        )

    @app.get("/rooms/<room_id>/messages")
    async def messages(room_id: str) -> Response:
        await callers.find_entrant(room_id)
        limit = request.args.get("limit", "100")
        if not limit.isdecimal() or len(limit) > 9:
            raise UnprocessableEntity("limit must be a whole number")
        chats = await hub.notes.chats(room_id, int(limit))
        return json_answer([chat_message(chat) for chat in chats])

    @app.post("/api/rooms/<room_id>/info")
    async def info(room_id: str) -> Response:
        await callers.find_entrant(room_id)
        count = len(await hub.members(room_id))
        return json_answer({"room_id": room_id, "connected_users": count, "is_active": count > 0})
