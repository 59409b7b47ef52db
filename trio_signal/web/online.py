"""The REST of who is online, which the clients of `live` poll."""

from quart import Response
from quart_trio import QuartTrio

from trio_signal.auth import OPEN_GRANTS
from trio_signal.config import Settings
from trio_signal.hub import Hub
from trio_signal.web.bodies import json_answer
from trio_signal.web.callers import Callers


def add_online(app: QuartTrio, hub: Hub, callers: Callers, settings: Settings) -> None:
    """Add the routes."""

    @app.get("/api/v1/ws/online-users")
    async def online_users() -> Response:
        grants = (await callers.require()).grants if settings.wants_tokens else OPEN_GRANTS
        return Response(hub.online.users_for(grants.rooms), content_type="application/json")

    @app.get("/api/v1/ws/stats")
    async def online_stats() -> Response:
        return json_answer(hub.online.stats(await hub.bus.count_rooms()))
