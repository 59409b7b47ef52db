"""HTTP routes for users who are online, which clients of `live` poll."""

from trio_signal.dialects.rest import SIGNED_IN, Answer, Call, Operation, Route, json_answer
from trio_signal.messages.records import OnlineUsers, Stats

_EVERY_ROOM = ("*",)


async def show_users(call: Call) -> Answer:
    """Answer `GET /api/v1/ws/online-users`."""
    rooms = (await call.callers.require()).grants.rooms if call.wants_tokens else _EVERY_ROOM
    return Answer(call.core.online.users_for(rooms))


async def show_stats(call: Call) -> Answer:
    """Answer `GET /api/v1/ws/stats`."""
    return json_answer(call.core.online.stats(await call.core.bus.count_rooms()))


ROUTES = (
    Route(
        "GET /api/v1/ws/online-users",
        show_users,
        Operation(
            "List the users connected through `live`", OnlineUsers, SIGNED_IN, query=("token",)
        ),
    ),
    Route(
        "GET /api/v1/ws/stats",
        show_stats,
        Operation("Count connections of `live`", Stats),
    ),
)
