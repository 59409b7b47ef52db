"""Routes for STUN and TURN servers."""

from quart import Response
from quart_trio import QuartTrio

from trio_signal.config import Settings
from trio_signal.hub import Hub
from trio_signal.ice import ice_servers, turn_access
from trio_signal.web.bodies import json_answer
from trio_signal.web.callers import Callers

#: The name in TURN credentials for callers without an identity.
_GUEST = "guest"


def add_ice(app: QuartTrio, callers: Callers, settings: Settings, hub: Hub) -> None:
    """Add the routes."""

    @app.get("/ice-servers")
    async def servers() -> Response:
        caller = await (callers.require() if settings.wants_tokens else callers.find())
        user_id = caller.user_id if caller is not None else _GUEST
        access = turn_access(settings, user_id, hub.turn)
        ttl = access.ttl if access is not None else settings.turn_ttl
        return _private({"iceServers": ice_servers(settings, user_id, hub.turn), "ttl": ttl})

    @app.get("/auth/turn-credentials")
    async def credentials() -> Response:
        caller = await callers.require()
        access = turn_access(settings, caller.user_id, hub.turn)
        if access is None:
            why = "TURN is not configured" if hub.turn is None else "No credentials available now"
            return json_answer({"detail": why}, 503)
        return _private(access._asdict())


def _private(value: object) -> Response:
    """An answer that nobody may cache."""
    answer = json_answer(value)
    answer.headers["Cache-Control"] = "no-store"
    return answer
