"""The REST of rooms: who is in them, and what was said."""

from msgspec import Struct
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import Forbidden, UnprocessableEntity

from trio_signal.config import Settings
from trio_signal.dialects.room import chat_message, live_broadcasters
from trio_signal.hub import ANONYMOUS, Hub
from trio_signal.messages import Profile
from trio_signal.web.bodies import json_answer, read_body


class JoinRequest(Struct):
    """The body of `POST /rooms/{room_id}/join`."""

    user_id: str
    username: str | None = None
    avatar_url: str | None = None


def add_rooms(app: QuartTrio, hub: Hub, settings: Settings) -> None:
    """Add the routes."""

    @app.post("/rooms/<room_id>/join")
    async def join(room_id: str) -> Response:
        body = await read_body(JoinRequest)
        known = await hub.bus.profile(room_id, body.user_id) or Profile(ANONYMOUS)
        profile = Profile(body.username or known.username, body.avatar_url or known.avatar_url)
        await hub.bus.remember_profile(room_id, body.user_id, profile)
        return json_answer({"status": "success", "room_id": room_id, "user_id": body.user_id})

    @app.get("/rooms")
    async def rooms() -> Response:
        if not settings.list_rooms:
            raise Forbidden("Rooms are not listed here")
        counts = [
            {
                "room_id": count.room_id,
                "users": count.users,
                "peers": count.peers,
                "broadcasters": count.live,
            }
            for count in await hub.room_counts()
        ]
        return json_answer({"rooms": counts})

    @app.get("/rooms/<room_id>")
    async def room(room_id: str) -> Response:
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
        limit = request.args.get("limit", "100")
        if not limit.isdecimal() or len(limit) > 9:
            raise UnprocessableEntity("limit must be a whole number")
        chats = await hub.bus.chats(room_id, int(limit))
        return json_answer([chat_message(chat) for chat in chats])

    @app.post("/api/rooms/<room_id>/info")
    async def info(room_id: str) -> Response:
        count = len(await hub.members(room_id))
        return json_answer({"room_id": room_id, "connected_users": count, "is_active": count > 0})
