"""The HTTP application: health, the dialects' routes, pages."""

import math

from prometheus_client import CONTENT_TYPE_LATEST
from quart import Response, request
from quart_trio import QuartTrio
from structlog.contextvars import bind_contextvars
from werkzeug.exceptions import BadRequest, HTTPException

from trio_signal.auth import Auth
from trio_signal.backend import PREFIX
from trio_signal.config import Settings
from trio_signal.dialects import DIALECTS, dialect_at
from trio_signal.dialects.rest import Detail
from trio_signal.errors import HttpError, IdTooLongError, RequestRefusedError
from trio_signal.hub import Hub
from trio_signal.limits import Limits
from trio_signal.logs import find_request_id
from trio_signal.metrics import Metrics
from trio_signal.names import MAX_ID
from trio_signal.publishing import Publishers
from trio_signal.sharing import Sharing
from trio_signal.web.accounts import add_accounts
from trio_signal.web.asyncapi import add_asyncapi
from trio_signal.web.backend import ServerRoutes, problem_of
from trio_signal.web.bodies import json_answer
from trio_signal.web.callers import Callers, require_bearer
from trio_signal.web.calls import DialectRoutes
from trio_signal.web.gate import ALIVE, open_calls, readiness, sharing_headers
from trio_signal.web.ice import add_ice
from trio_signal.web.metrics import render_metrics
from trio_signal.web.openapi import add_openapi
from trio_signal.web.pages import add_pages
from trio_signal.web.whip import WhipRoutes

#: Most bytes of a request's body.
MAX_BODY = 65536


def create_app(
    hub: Hub,
    auth: Auth,
    settings: Settings,
    limits: Limits,
    metrics: Metrics,
    sharing: Sharing | None = None,
    publishers: Publishers | None = None,
) -> QuartTrio:
    """Make the app for a hub; `open_http_server` serves it."""
    app = QuartTrio(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    # Old clients may request `/rooms/`; few of them follow a redirect.
    app.url_map.strict_slashes = False
    _add_health(app, hub)
    _add_metrics(app, hub, settings, metrics)
    callers = Callers(auth, settings, limits, metrics)
    add_accounts(app, callers, settings)
    add_ice(app, callers, settings, hub)
    dialects = DialectRoutes(hub, callers, settings)
    dialects.add_to(app)
    WhipRoutes(publishers or Publishers(hub), callers, settings, limits).add_to(app)
    backend = ServerRoutes(hub, auth, callers, settings)
    backend.add_to(app)
    cards = (DIALECTS[name].card for name in settings.dialects)
    add_pages(app, sharing, next(filter(None, cards), None))
    _add_request_ids(app)
    _add_id_limit(app)
    add_openapi(app, [*dialects.routes.values(), *backend.routes])
    add_asyncapi(app, settings)
    _add_errors(app, settings)
    _add_refusals(app, metrics)
    _add_cors(app, settings)
    return app


def _add_health(app: QuartTrio, hub: Hub) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        return json_answer(ALIVE)

    @app.get("/readyz")
    async def readyz() -> Response:
        status, answer = readiness(hub)
        return json_answer(answer, status)

    @app.get("/health")
    async def health() -> Response:
        # Anybody may request this at any rate, so rooms are counted without reading them.
        rooms = await hub.bus.count_rooms()
        here = sum(not each.is_away for each in hub.participants)
        return json_answer({"status": "healthy", "active_connections": here, "rooms": rooms})


def _add_metrics(app: QuartTrio, hub: Hub, settings: Settings, counted: Metrics) -> None:
    @app.get("/metrics")
    async def metrics() -> Response:
        if settings.metrics_token is not None:
            require_bearer(settings.metrics_token.get_secret_value())
        text = render_metrics(hub, settings, counted)
        return Response(text, content_type=CONTENT_TYPE_LATEST)


def _add_request_ids(app: QuartTrio) -> None:
    @app.before_request
    async def bind() -> None:
        """Add the platform's request id to all log lines of this request."""
        request_id = find_request_id(request.headers.getlist)
        if request_id is not None:
            bind_contextvars(request_id=request_id)


def _add_id_limit(app: QuartTrio) -> None:
    @app.before_request
    async def check() -> None:
        if any(len(str(id_)) > MAX_ID for id_ in (request.view_args or {}).values()):
            raise BadRequest(f"An id has {MAX_ID} characters at most.")


def _add_errors(app: QuartTrio, settings: Settings) -> None:
    @app.errorhandler(HTTPException)
    async def error(problem: HTTPException) -> Response:
        if problem.code == 404 and _is_for_websockets(settings):
            answer = Response("This path is for WebSockets.\n", 426, content_type="text/plain")
            answer.headers["Upgrade"] = "websocket"
            return answer
        headers = {
            name: value
            for name, value in problem.get_headers()
            if name.lower() not in ("content-type", "content-length")
        }
        return await describe(HttpError(problem.code or 500, problem.description or "", headers))

    @app.errorhandler(HttpError)
    async def describe(error: HttpError) -> Response:
        answer = json_answer(_problem(settings, error), error.status)
        answer.headers.extend(error.headers)
        return answer


def _problem(settings: Settings, error: HttpError) -> object:
    """An error in the format of the dialect or API that owns the path."""
    if request.path.startswith(PREFIX):
        return problem_of(error.status, error.detail)
    for dialect in map(DIALECTS.__getitem__, settings.dialects):
        if dialect.http_prefix is not None and request.path.startswith(dialect.http_prefix):
            return dialect.problem(error.status, error.detail)
    return Detail(error.detail)


def _add_refusals(app: QuartTrio, metrics: Metrics) -> None:
    @app.errorhandler(RequestRefusedError)
    async def refuse(refusal: RequestRefusedError) -> Response:
        metrics.count_refused(refusal.reason)
        said: object = {"detail": str(refusal)}
        if request.path.startswith(PREFIX):
            said = problem_of(refusal.status, str(refusal))
        answer = json_answer(said, refusal.status)
        if refusal.retry_after is not None:
            answer.headers["Retry-After"] = f"{math.ceil(refusal.retry_after)}"
        return answer


def _is_for_websockets(settings: Settings) -> bool:
    try:
        return dialect_at(request.full_path, settings.dialects) is not None
    except IdTooLongError:
        return True


def _add_cors(app: QuartTrio, settings: Settings) -> None:
    calls = open_calls(settings)

    @app.after_request
    async def allow(answer: Response) -> Response:
        headers, asked = answer.headers, request.headers
        sharing = sharing_headers(settings, asked.get("Origin"), asked.get("Host"))
        if "Origin" in asked and calls.fullmatch(request.path):
            sharing.setdefault("Access-Control-Allow-Origin", "*")
        for name, value in sharing.items():
            headers[name] = value
        if request.method == "OPTIONS" and "Access-Control-Allow-Origin" in sharing:
            headers["Access-Control-Allow-Methods"] = headers.get("Allow", "GET, POST")
            # Allow all headers that the page asks for: they decide nothing.
            wanted = ("Authorization, Content-Type", asked.get("Access-Control-Request-Headers"))
            headers["Access-Control-Allow-Headers"] = ", ".join(filter(None, wanted))
            headers["Access-Control-Max-Age"] = "600"
        headers["X-Content-Type-Options"] = "nosniff"
        return answer
