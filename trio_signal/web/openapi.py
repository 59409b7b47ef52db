"""The OpenAPI document: made from the routes, and from the structs that they read and write."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from quart import Response
from quart_trio import QuartTrio

from trio_signal import __version__
from trio_signal.dialects.room import Broadcaster, RoomMessage, User
from trio_signal.notes import RoomInfo
from trio_signal.online import OnlineUsers, Stats
from trio_signal.web import announcements as announced
from trio_signal.web.accounts import AccessMode, LoginRequest
from trio_signal.web.bodies import Unchanging
from trio_signal.web.listing import ActiveRoom, RoomEntry
from trio_signal.web.rooms import JoinRequest, MessageRequest, RoomRequest
from trio_signal.web.users import ProfileRequest, UserAnswer, UserRequest


class Detail(Struct):
    """Why it was not done."""

    detail: str


class Status(Struct):
    """How the server is."""

    status: str


class Readiness(Struct, omit_defaults=True):
    """Whether the server takes connections, and what does not work as it should."""

    status: str
    reason: str | None = None


class Health(Struct):
    """What some clients look at before they connect."""

    status: str
    active_connections: int
    rooms: int


class LoggedIn(Struct):
    """A token, under both its names."""

    access_token: str
    token: str
    token_type: str
    user: "Me"


class LoggedOut(Struct):
    """That it was heard."""

    message: str


class Me(Struct):
    """Who one is."""

    user_id: str
    username: str


class RoomPicture(RoomEntry):
    """A room, and who is in it."""

    room_id: str
    users: list[User]
    broadcasters: list[Broadcaster]


class RoomJoined(Struct):
    """The name is known now."""

    status: str
    room_id: str
    user_id: str


class ProfileChanged(Struct):
    """The user as it is now."""

    success: bool
    user: UserAnswer


class IceServers(Struct):
    """STUN and TURN servers, and for how many seconds their credentials are good."""

    iceServers: list[dict[str, Any]]  # noqa: N815
    ttl: int


class Operation(NamedTuple):
    """What is said of a call that its route does not say."""

    summary: str
    answer: Any
    errors: Mapping[int, Any] = {}
    body: Any = None
    query: tuple[str, ...] = ()


_CALLER = ("user_id", "token")
_SIGNED_IN = {401: Detail, 403: Detail, 429: Detail}
_IN_ROOM = {**_SIGNED_IN, 404: Detail}
_BODY = {413: Detail, 422: Detail}
_LOGIN = {401: Detail, 404: Detail, 429: Detail, 503: Detail} | _BODY
_ANNOUNCED = {**_SIGNED_IN, 503: announced.Problem}
_ANNOUNCED_BODY = dict.fromkeys((400, 413, 415, 422), announced.Problem)

#: By method and path, as the routes have them.
OPERATIONS: dict[str, Operation] = {
    "GET /healthz": Operation("Whether the process is alive", Status),
    "GET /readyz": Operation("Whether it takes connections", Readiness, {503: Status}),
    "GET /health": Operation("Numbers of connections and rooms", Health),
    "GET /api/v1/ws/online-users": Operation(
        "The users that are connected by `live`", OnlineUsers, _SIGNED_IN, query=("token",)
    ),
    "GET /api/v1/ws/stats": Operation("Numbers of what is connected by `live`", Stats),
    "GET /rooms": Operation(
        "The rooms in which somebody is",
        list[RoomEntry],
        _SIGNED_IN | {422: Detail},
        query=("limit", "cursor"),
    ),
    "POST /rooms": Operation(
        "Give a new room a name", RoomInfo, _SIGNED_IN | _BODY | {400: Detail}, RoomRequest
    ),
    "GET /api/rooms": Operation(
        "The same, for clients of `mesh`",
        list[ActiveRoom],
        _SIGNED_IN | {422: Detail},
        query=("limit", "cursor"),
    ),
    "GET /rooms/<room_id>": Operation("Who is in a room", RoomPicture, _IN_ROOM),
    "GET /rooms/<room_id>/messages": Operation(
        "The last messages of a room",
        list[RoomMessage],
        _IN_ROOM | {422: Detail},
        query=("limit",),
    ),
    "POST /rooms/<room_id>/messages": Operation(
        "Say something to a room", RoomMessage, _IN_ROOM | _BODY, MessageRequest
    ),
    "POST /rooms/<room_id>/join": Operation(
        "Say what a user is called in a room", RoomJoined, _IN_ROOM | _BODY, JoinRequest
    ),
    "POST /api/rooms/<room_id>/info": Operation("How many are in a room", ActiveRoom, _IN_ROOM),
    "POST /users": Operation(
        "Get an identity by name", UserAnswer, _SIGNED_IN | _BODY | {400: Detail}, UserRequest
    ),
    "GET /users/<user_id>": Operation(
        "What is known of a user", UserAnswer, _SIGNED_IN | {404: Detail}
    ),
    "PUT /users/<user_id>/profile": Operation(
        "Say more of oneself, also to the rooms in which one is",
        ProfileChanged,
        _SIGNED_IN | _BODY | {404: Detail},
        ProfileRequest,
    ),
    "GET /auth/mode": Operation("What it takes to be let in", AccessMode),
    "POST /auth/login": Operation("Get a token", LoggedIn, _LOGIN, LoginRequest),
    "POST /auth/token": Operation("The same", LoggedIn, _LOGIN, LoginRequest),
    "POST /auth/refresh": Operation(
        "Get a new token of the same user", LoggedIn, _SIGNED_IN | {404: Detail}, query=_CALLER
    ),
    "POST /auth/logout": Operation("Nothing, as tokens expire", LoggedOut, {404: Detail}),
    "GET /auth/me": Operation("Who one is", Me, _SIGNED_IN, query=_CALLER),
    "GET /auth/turn-credentials": Operation(
        "Credentials for the TURN server", dict[str, Any], _SIGNED_IN | {503: Detail}, query=_CALLER
    ),
    "GET /ice-servers": Operation(
        "What goes into an RTCPeerConnection", IceServers, _SIGNED_IN, query=_CALLER
    ),
    "POST /api/creator/broadcast": Operation(
        "Announce something to every user",
        announced.Sent,
        _ANNOUNCED | _ANNOUNCED_BODY,
        announced.BroadcastRequest,
        _CALLER,
    ),
    "POST /api/creator/broadcast/clear": Operation(
        "Take the announcement away", announced.Cleared, _ANNOUNCED, query=_CALLER
    ),
    "POST /api/creator/broadcast/acknowledge": Operation(
        "Do not show it to the caller again",
        announced.Success,
        _ANNOUNCED | _ANNOUNCED_BODY | {404: announced.Problem},
        announced.AcknowledgeRequest,
        _CALLER,
    ),
    "GET /api/creator/broadcast/active": Operation(
        "What the caller is to see", announced.Active, _ANNOUNCED, query=_CALLER
    ),
    "GET /api/creator/broadcast/limits": Operation(
        "What may be announced", announced.Limits, _ANNOUNCED, query=_CALLER
    ),
    "GET /api/creator/broadcast/stats": Operation(
        "Numbers for creators", announced.StatsAnswer, _ANNOUNCED, query=_CALLER
    ),
}
#: What is no JSON, or is this document.
NOT_DESCRIBED = frozenset(
    {
        *("/", "/client/<name>", "/demo/<name>", "/metrics"),
        *("/openapi.json", "/asyncapi.json"),
    }
)


def add_openapi(app: QuartTrio) -> None:
    """Add the route; call it when all others have been added."""
    document = Unchanging(msgspec.json.encode(make_document(routes(app))), "application/json")

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return document.answer()


def routes(app: QuartTrio) -> Iterator[str]:
    """The calls that are to be described, as `OPERATIONS` has them."""
    for rule in app.url_map.iter_rules():
        if rule.rule not in NOT_DESCRIBED:
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield f"{method} {rule.rule}"


def make_document(calls: Iterable[str]) -> dict[str, Any]:
    """The document that describes these calls; those that are in no table are left out."""
    described = {call: OPERATIONS[call] for call in calls if call in OPERATIONS}
    types = [type_ for operation in described.values() for type_ in _types(operation)]
    unique = list({repr(type_): type_ for type_ in types}.values())
    schemas, components = msgspec.json.schema_components(
        unique, ref_template="#/components/schemas/{name}"
    )
    by_type = {repr(type_): schema for type_, schema in zip(unique, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for call, operation in described.items():
        method, rule = call.split(" ")
        path = re.sub(r"<(\w+)>", r"{\1}", rule)
        paths.setdefault(path, {})[method.lower()] = _describe(path, operation, by_type)
    return {
        "openapi": "3.1.0",
        "info": {"title": "trio-signal", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _types(operation: Operation) -> Iterator[Any]:
    yield operation.answer
    yield from operation.errors.values()
    if operation.body is not None:
        yield operation.body


def _describe(path: str, operation: Operation, schemas: Mapping[str, Any]) -> dict[str, Any]:
    def content(type_: Any) -> dict[str, Any]:
        return {"application/json": {"schema": schemas[repr(type_)]}}

    answers = {200: operation.answer, **operation.errors}
    text = {"type": "string"}
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": text}
        for name in re.findall(r"{(\w+)}", path)
    ]
    parameters += [
        {"name": name, "in": "query", "required": False, "schema": text} for name in operation.query
    ]
    described: dict[str, Any] = {
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {
            str(status): {"description": _description(type_), "content": content(type_)}
            for status, type_ in answers.items()
        },
    }
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": content(operation.body)}
    if 401 in operation.errors:
        described["security"] = [{}, {"bearer": []}]
    return described


def _description(type_: Any) -> str:
    is_struct = isinstance(type_, type) and issubclass(type_, Struct)
    return (is_struct and type_.__doc__) or "The answer."
