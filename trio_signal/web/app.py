"""The HTTP side: health, the dialects' REST, pages."""

import mimetypes
from importlib import resources
from typing import TypeVar

import msgspec
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import (
    Forbidden,
    HTTPException,
    NotFound,
    Unauthorized,
    UnprocessableEntity,
)

from trio_signal.auth import make_login_token, read_login_token
from trio_signal.config import Settings
from trio_signal.dialects import dialect_at
from trio_signal.dialects.room import chat_message, live_broadcasters
from trio_signal.hub import ANONYMOUS, Hub
from trio_signal.messages import Profile
from trio_signal.web.metrics import render_metrics

T = TypeVar("T")

#: Bytes of a request's body.
MAX_BODY = 65536


class JoinRequest(Struct):
    """The body of `POST /rooms/{room_id}/join`."""

    user_id: str
    username: str | None = None
    avatar_url: str | None = None


class LoginRequest(Struct):
    """The body of `POST /auth/login`."""

    username: str
    password: str


def create_app(hub: Hub, settings: Settings) -> QuartTrio:
    """The app around a hub; `open_http_server` serves it."""
    app = QuartTrio(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    _add_health(app, hub)
    _add_metrics(app, hub, settings)
    _add_rooms(app, hub, settings)
    _add_accounts(app)
    _add_pages(app)
    _add_errors(app, settings)
    _add_cors(app, settings)
    return app


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, content_type="application/json")


async def _read_body(type_: type[T]) -> T:
    """The request's JSON; aborts with 422 if it does not fit."""
    body = await request.get_data(as_text=False)
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnprocessableEntity(str(error)) from None


async def _read_form(type_: type[T]) -> T:
    """The request's form; aborts with 422 if it does not fit."""
    try:
        return msgspec.convert((await request.form).to_dict(), type_)
    except msgspec.ValidationError as error:
        raise UnprocessableEntity(str(error)) from None


def _add_health(app: QuartTrio, hub: Hub) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> Response:
        if hub.closing is not None:
            return _json({"status": "stopping"}, 503)
        if hub.bus.degraded is not None:
            return _json({"status": "degraded", "reason": hub.bus.degraded})
        return _json({"status": "ready"})

    @app.get("/health")
    async def health() -> Response:
        rooms = await hub.bus.rooms()
        return _json(
            {"status": "healthy", "active_connections": len(hub.peers), "rooms": len(rooms)}
        )


def _add_metrics(app: QuartTrio, hub: Hub, settings: Settings) -> None:
    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(render_metrics(hub, settings), content_type=CONTENT_TYPE_LATEST)


def _add_rooms(app: QuartTrio, hub: Hub, settings: Settings) -> None:
    @app.post("/rooms/<room_id>/join")
    async def join(room_id: str) -> Response:
        body = await _read_body(JoinRequest)
        known = await hub.bus.profile(room_id, body.user_id) or Profile(ANONYMOUS)
        profile = Profile(body.username or known.username, body.avatar_url or known.avatar_url)
        await hub.bus.remember_profile(room_id, body.user_id, profile)
        return _json({"status": "success", "room_id": room_id, "user_id": body.user_id})

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
            for count in await hub.bus.rooms()
        ]
        return _json({"rooms": counts})

    @app.get("/rooms/<room_id>")
    async def room(room_id: str) -> Response:
        members = await hub.bus.members(room_id)
        users = {
            member.user_id: {
                "user_id": member.user_id,
                "username": member.username,
                "avatar_url": member.avatar_url,
            }
            for member in members
        }
        return _json(
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
        return _json([chat_message(chat) for chat in chats])

    @app.post("/api/rooms/<room_id>/info")
    async def info(room_id: str) -> Response:
        count = len(await hub.bus.members(room_id))
        return _json({"room_id": room_id, "connected_users": count, "is_active": count > 0})


def _add_accounts(app: QuartTrio) -> None:
    @app.post("/auth/login")
    async def login() -> Response:
        """Open mode: any password does."""
        if request.mimetype == "application/json":
            body = await _read_body(LoginRequest)
        else:  # as OAuth 2 clients send it
            body = await _read_form(LoginRequest)
        token = make_login_token(body.username)
        return _json(
            {
                "access_token": token,
                "token_type": "bearer",
                "token": token,
                "user": {"user_id": body.username, "username": body.username},
            }
        )

    @app.get("/auth/me")
    async def me() -> Response:
        name = _bearer_name()
        return _json({"user_id": name, "username": name})

    @app.get("/auth/turn-credentials")
    async def turn_credentials() -> Response:
        _bearer_name()
        return _json({"detail": "TURN is not configured"}, 503)


def _bearer_name() -> str:
    """Whom the request's token names; aborts with 401 if it names nobody."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    login = read_login_token(token.strip()) if scheme.lower() == "bearer" else None
    if login is None:
        raise Unauthorized("Not authenticated", www_authenticate=WWWAuthenticate("bearer"))
    return login.name


def _add_pages(app: QuartTrio) -> None:
    files = {
        file.name: file.read_bytes()
        for file in (resources.files("trio_signal") / "browser").iterdir()
        if file.name.endswith((".html", ".js", ".css", ".svg"))
    }

    def page(name: str) -> Response:
        if name not in files:
            raise NotFound
        content_type, _ = mimetypes.guess_type(name)
        return Response(files[name], content_type=f"{content_type}; charset=utf-8")

    @app.get("/")
    async def index() -> Response:
        return page("index.html")

    @app.get("/demo/<name>")
    async def demo(name: str) -> Response:
        return page(name if name in files else f"{name}.html")

    @app.get("/client/trio-signal.js")
    async def client() -> Response:
        return page("trio-signal.js")


def _add_errors(app: QuartTrio, settings: Settings) -> None:
    @app.errorhandler(HTTPException)
    async def error(problem: HTTPException) -> Response:
        if problem.code == 404 and dialect_at(request.full_path, settings.dialects):
            answer = Response("Speak WebSocket here.\n", 426, content_type="text/plain")
            answer.headers["Upgrade"] = "websocket"
            return answer
        answer = _json({"detail": problem.description}, problem.code or 500)
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
