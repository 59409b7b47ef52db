"""The HTTP side: health, the dialects' REST, pages."""

from prometheus_client import CONTENT_TYPE_LATEST
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from trio_signal.auth import Auth
from trio_signal.config import Settings
from trio_signal.dialects import dialect_at
from trio_signal.hub import Hub
from trio_signal.web import announcements
from trio_signal.web.accounts import add_accounts
from trio_signal.web.bodies import json_answer
from trio_signal.web.metrics import render_metrics
from trio_signal.web.openapi import add_openapi
from trio_signal.web.pages import add_pages
from trio_signal.web.rooms import add_rooms

#: Bytes of a request's body.
MAX_BODY = 65536


def create_app(hub: Hub, auth: Auth, settings: Settings) -> QuartTrio:
    """The app around a hub; `open_http_server` serves it."""
    app = QuartTrio(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    _add_health(app, hub)
    _add_metrics(app, hub, settings)
    add_rooms(app, hub, settings)
    add_accounts(app, auth, settings)
    if hub.announcements is not None:
        announcements.add_announcements(app, hub, hub.announcements, auth, settings)
    add_pages(app)
    add_openapi(app)
    _add_errors(app, settings)
    _add_cors(app, settings)
    return app


def _add_health(app: QuartTrio, hub: Hub) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        return json_answer({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> Response:
        if hub.closing is not None:
            return json_answer({"status": "stopping"}, 503)
        reason = hub.degraded
        if reason is not None:
            return json_answer({"status": "degraded", "reason": reason})
        return json_answer({"status": "ready"})

    @app.get("/health")
    async def health() -> Response:
        rooms = await hub.room_counts()
        return json_answer(
            {"status": "healthy", "active_connections": len(hub.peers), "rooms": len(rooms)}
        )


def _add_metrics(app: QuartTrio, hub: Hub, settings: Settings) -> None:
    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(render_metrics(hub, settings), content_type=CONTENT_TYPE_LATEST)


def _add_errors(app: QuartTrio, settings: Settings) -> None:
    @app.errorhandler(HTTPException)
    async def error(problem: HTTPException) -> Response:
        if problem.code == 404 and dialect_at(request.full_path, settings.dialects):
            answer = Response("Speak WebSocket here.\n", 426, content_type="text/plain")
            answer.headers["Upgrade"] = "websocket"
            return answer
        if request.path.startswith(announcements.PREFIX):
            answer = announcements.describe(problem)
        else:
            answer = json_answer({"detail": problem.description}, problem.code or 500)
        answer.headers.extend(
            (name, value)
            for name, value in problem.get_headers()
            if name.lower() not in ("content-type", "content-length")
        )
        return answer


def _add_cors(app: QuartTrio, settings: Settings) -> None:
    @app.after_request
    async def allow(answer: Response) -> Response:
        origin = request.headers.get("Origin")
        if origin is not None and settings.allows_origin(origin, request.headers.get("Host")):
            headers = answer.headers
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Allow-Methods"] = "GET, POST"
            headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
            headers["Vary"] = "Origin"
        return answer
