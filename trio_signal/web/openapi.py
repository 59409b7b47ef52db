"""The OpenAPI document: made from the routes and their structs."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct
from quart import Response
from quart_trio import QuartTrio

from trio_signal import __version__
from trio_signal.dialects.rest import BODY, CALLER, SIGNED_IN, Detail, Operation, Route
from trio_signal.web.accounts import AccessMode, LoginRequest
from trio_signal.web.bodies import Unchanging
from trio_signal.web.whip import OPERATIONS as WHIP


class Status(Struct):
    """The state of the server."""

    status: str


class Readiness(Struct, omit_defaults=True):
    """Whether the server accepts connections, and the reason if it is degraded."""

    status: str
    reason: str | None = None


class Health(Struct):
    """Numbers that some clients read before they connect."""

    status: str
    active_connections: int
    rooms: int


class LoggedIn(Struct):
    """A token, under both names that clients read."""

    access_token: str
    token: str
    token_type: str
    user: "Me"


class LoggedOut(Struct):
    """Confirms the call."""

    message: str


class Me(Struct):
    """The caller's identity."""

    user_id: str
    username: str


class IceServers(Struct):
    """STUN and TURN servers, and the lifetime of their credentials in seconds."""

    iceServers: list[dict[str, Any]]  # noqa: N815
    ttl: int


_LOGIN = {401: Detail, 404: Detail, 429: Detail, 503: Detail, **BODY}

#: Calls that belong to no dialect, by method and path.
OPERATIONS: dict[str, Operation] = {
    "GET /healthz": Operation("Says that the process is alive", Status),
    "GET /readyz": Operation(
        "Says whether the server accepts connections", Readiness, {503: Status}
    ),
    "GET /health": Operation("Count connections and rooms", Health),
    "GET /auth/mode": Operation(
        "Say whether clients need a token, and whether there is a login", AccessMode
    ),
    "POST /auth/login": Operation("Get a token", LoggedIn, _LOGIN, LoginRequest),
    "POST /auth/token": Operation(
        "Get a token, for clients of `mesh`", LoggedIn, _LOGIN, LoginRequest
    ),
    "POST /auth/refresh": Operation(
        "Get a new token of the same user", LoggedIn, {**SIGNED_IN, 404: Detail}, query=CALLER
    ),
    "POST /auth/logout": Operation(
        "Does nothing: tokens expire by themselves", LoggedOut, {404: Detail}
    ),
    "GET /auth/me": Operation("Get the caller's identity", Me, SIGNED_IN, query=CALLER),
    "GET /auth/turn-credentials": Operation(
        "Get credentials for the TURN server",
        dict[str, Any],
        {**SIGNED_IN, 503: Detail},
        query=CALLER,
    ),
    "GET /ice-servers": Operation(
        "Get the configuration for an RTCPeerConnection", IceServers, SIGNED_IN, query=CALLER
    ),
    **WHIP,
}
#: Paths without JSON, and the path of the document.
NOT_DESCRIBED = frozenset(
    {
        *("/", "/admin", "/client/{name}", "/demo/{name}", "/metrics"),
        *("/openapi.json", "/asyncapi.json", "/api/v1/server/events"),
    }
)


def add_openapi(app: QuartTrio, routes: Iterable[Route]) -> None:
    """Add the route of the document, which covers the server's own calls and its dialects'."""

    @cache
    def document() -> Unchanging:
        """Made when somebody asks for it first."""
        return Unchanging(msgspec.json.encode(make_document(routes)), "application/json")

    @app.get("/openapi.json")
    async def openapi() -> Response:
        return document().answer()


def make_document(routes: Iterable[Route]) -> dict[str, Any]:
    """Describe these routes, and the server's own."""
    described = OPERATIONS | {route.call: route.operation for route in routes}
    types = [type_ for operation in described.values() for type_ in types_of(operation)]
    unique = list({repr(type_): type_ for type_ in types}.values())
    schemas, components = msgspec.json.schema_components(
        unique, ref_template="#/components/schemas/{name}"
    )
    by_type = {repr(type_): schema for type_, schema in zip(unique, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for call, operation in described.items():
        method, path = call.replace(":path}", "}").split(" ")
        paths.setdefault(path, {})[method.lower()] = _describe(path, operation, by_type)
    return {
        "openapi": "3.1.0",
        "info": {"title": "trio-signal", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key's secret, or a JWT signed with it.",
                },
            },
        },
    }


def types_of(operation: Operation) -> Iterator[Any]:
    """The types of an operation's answers and body."""
    yield operation.answer
    yield from operation.errors.values()
    if operation.body is not None:
        yield operation.body


def _describe(path: str, operation: Operation, schemas: Mapping[str, Any]) -> dict[str, Any]:
    def content(
        type_: Any, media_type: str = "application/json", example: Any = None
    ) -> dict[str, Any]:
        described = {"schema": schemas[repr(type_)]}
        if example is not None:
            described["example"] = msgspec.to_builtins(example)
        return {media_type: described}

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
            str(operation.status): {
                "description": _description(operation.answer),
                "content": content(operation.answer, operation.media_type, operation.example),
            }
        }
        | {str(status): {"description": "Done."} for status in operation.empty}
        | {
            str(status): {"description": _description(type_), "content": content(type_)}
            for status, type_ in operation.errors.items()
        },
    }
    if operation.body is not None:
        body = content(operation.body, operation.body_media_type, operation.body_example)
        described["requestBody"] = {"required": not operation.wants_key, "content": body}
    if operation.wants_key:
        described["security"] = [{"key": []}]
    elif 401 in operation.errors:
        described["security"] = [{}, {"bearer": []}]
    return described


def _description(type_: Any) -> str:
    is_struct = isinstance(type_, type) and issubclass(type_, Struct)
    return (is_struct and type_.__doc__) or "The answer."
