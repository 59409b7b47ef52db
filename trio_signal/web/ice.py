"""Which STUN and TURN servers to use."""

from quart import Response
from quart_trio import QuartTrio

from trio_signal.config import Settings
from trio_signal.ice import has_turn, ice_servers, turn_credentials
from trio_signal.web.bodies import json_answer
from trio_signal.web.callers import Callers

#: Whom TURN credentials are for, if nobody says.
_GUEST = "guest"


def add_ice(app: QuartTrio, callers: Callers, settings: Settings) -> None:
    """Add the routes."""

    @app.get("/ice-servers")
    async def servers() -> Response:
        caller = await (callers.require() if settings.wants_tokens else callers.find())
        user_id = caller.user_id if caller is not None else _GUEST
        return _private({"iceServers": ice_servers(settings, user_id), "ttl": settings.turn_ttl})

    @app.get("/auth/turn-credentials")
    async def credentials() -> Response:
        caller = await callers.require()
        if not has_turn(settings):
            return json_answer({"detail": "TURN is not configured"}, 503)
        made = turn_credentials(settings, caller.user_id)
        return _private({**made._asdict(), "urls": settings.turn_urls, "ttl": settings.turn_ttl})


def _private(value: object) -> Response:
    """An answer for the caller alone, and for now."""
    answer = json_answer(value)
    answer.headers["Cache-Control"] = "no-store"
    return answer
