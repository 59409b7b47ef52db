"""The server API: what a site's own backend can read and do, with an API key.

It works on any replica for any room. A change is answered when it is done.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct
from quart import Response, request
from quart_trio import QuartTrio

from trio_signal.auth import MAX_TOKEN, Auth, mint_token
from trio_signal.backend import PREFIX, PeerDetail, RoomDetail, RoomSummary
from trio_signal.config import Settings
from trio_signal.dialects.rest import MAX_BYTES, Answer, Operation, Route, fit, json_answer
from trio_signal.errors import HttpError, UnconfirmedError
from trio_signal.hub import Hub
from trio_signal.messages.identity import Grants, Member
from trio_signal.messages.states import PeerState, ReplicaState
from trio_signal.moderation import MAX_BAN
from trio_signal.names import MAX_ID, clean_name
from trio_signal.web.api_keys import KeyRing
from trio_signal.web.callers import Callers
from trio_signal.web.calls import methods_at, raw_path, read_path, to_rule
from trio_signal.web.changes import add_changes
from trio_signal.web.listing import matches, read_number

T = TypeVar("T")


#: Most rooms on one page.
MAX_ROOMS = 1000
#: Longest lifetime in seconds of a client's token.
MAX_TTL = 7 * 86400

Id = Annotated[str, Meta(min_length=1, max_length=MAX_ID)]
Reason = Annotated[str, Meta(max_length=1000)]


class RoomPage(Struct):
    """Some rooms, in the order of their ids; `next` is the cursor of the next page."""

    rooms: list[Any]
    next: str | None


class RoomSummaries(RoomPage):
    """A list of rooms."""

    rooms: list[RoomSummary]


class ReplicaList(Struct):
    """The replicas, beginning with the one that answers."""

    replicas: list[ReplicaState]


class MessageRequest(Struct):
    """Any JSON for all peers of a room, or for one."""

    data: Raw
    to: Id | None = None


class Delivery(Struct):
    """The number of peers that received it."""

    peers: int


class RemovalRequest(Struct):
    """The reason, and the duration of the ban in seconds."""

    reason: Reason | None = None
    ban_seconds: Annotated[float, Meta(gt=0, le=MAX_BAN)] | None = None


class ClosingRequest(Struct):
    """Why."""

    reason: Reason | None = None


class LockRequest(Struct):
    """Whether the room is closed to newcomers."""

    locked: bool | None = None


class Removal(Struct):
    """The number of removed peers."""

    removed: int


class TokenRequest(Struct):
    """The claims of the token; `ttl` is in seconds."""

    sub: Id
    name: Annotated[str, Meta(max_length=1000)] | None = None
    rooms: Annotated[list[Id], Meta(max_length=100)] | None = None
    publish: bool = True
    moderator: bool = False
    creator: bool = False
    team_of: Id | None = None
    ttl: Annotated[float, Meta(ge=1, le=MAX_TTL)] = 3600


class MintedToken(Struct):
    """A client's token, and its lifetime in seconds."""

    token: str
    expires_in: int


class ProblemDetail(Struct):
    """A stable code, and a text for people."""

    code: str
    message: str


class Problem(Struct):
    """Why the call was refused."""

    error: ProblemDetail


_CODES = {
    400: "invalid",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    413: "too_large",
    422: "invalid",
    429: "too_many_requests",
    503: "not_confirmed",
}


def problem_of(status: int, message: str) -> Problem:
    """An error of this API."""
    return Problem(ProblemDetail(_CODES.get(status, "error"), message))


class ServerCall(NamedTuple):
    """One request: the hub, the settings, and the ids in its path."""

    hub: Hub
    settings: Settings
    path: Mapping[str, str]

    async def read(self, type_: type[T]) -> T:
        """Decode the JSON body; without a body, the text fields of the query."""
        body = await request.get_data(as_text=False)
        try:
            if body:
                return msgspec.json.decode(body, type=type_)
            return msgspec.convert(request.args.to_dict(), type_, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise HttpError(422, str(error)) from None


async def list_rooms(call: ServerCall) -> Answer:
    """Answer `GET /rooms`."""
    limit = min(max(read_number("limit", MAX_ROOMS), 1), MAX_ROOMS)
    cursor, prefix = request.args.get("cursor", ""), request.args.get("prefix", "")
    ids = await call.hub.bus.room_ids()
    begin = max(bisect_left(ids, prefix), bisect_right(ids, cursor))
    some = [each for each in ids[begin : begin + limit + 1] if each.startswith(prefix)]
    counts = {count.room_id: count for count in await call.hub.bus.count_members(some[:limit])}
    # Rooms that are empty by now still count, as the page ends with the last id that was read.
    entries = [
        msgspec.json.encode(RoomSummary(each, count.peers, count.users, count.live))
        if (count := counts.get(each)) is not None and count.peers
        else b""
        for each in some[:limit]
    ]
    fitting = fit(entries, MAX_BYTES)
    following = some[len(fitting) - 1] if len(fitting) < len(some) else None
    return json_answer(RoomPage([Raw(each) for each in fitting if each], following))


async def show_room(call: ServerCall) -> Answer:
    """Answer `GET /rooms/{room_id}`."""
    return json_answer(await _detail(call))


async def _detail(call: ServerCall) -> RoomDetail:
    room_id = call.path["room_id"]
    members = await call.hub.members(room_id)
    search = request.args.get("search", "").lower()
    found = [each for each in members if matches(each, search)] if search else members
    offset = read_number("offset", 0)
    some = found[offset : offset + read_number("limit", len(found))]
    locked = await call.hub.bus.holds.is_locked(room_id)
    states = await call.hub.survey.peers(room_id, {member.replica for member in some})
    webhooks = call.hub.webhooks
    seq = await webhooks.seq(room_id) if webhooks is not None else 0
    peers = [peer_detail(member, states.get((member.replica, member.peer_id))) for member in some]
    return RoomDetail(room_id, peers, locked, seq, len(members), len(found))


async def list_replicas(call: ServerCall) -> Answer:
    """Answer `GET /replicas`."""
    return json_answer(ReplicaList(await call.hub.survey.replicas()))


def peer_detail(member: Member, state: PeerState | None) -> PeerDetail:
    """A member in the format of this API."""
    return PeerDetail(
        member.peer_id,
        member.user_id,
        member.username,
        member.dialect,
        member.live is not None,
        member.joined_at,
        member.replica,
        state.address_class if state is not None else "unknown",
        bool(member.away),
    )


async def send_message(call: ServerCall) -> Answer:
    """Answer `POST /rooms/{room_id}/messages`."""
    body = await call.read(MessageRequest)
    peers = await call.hub.moderation.say(call.path["room_id"], body.data, body.to)
    if peers is None:
        raise HttpError(
            404, "There is no such peer" if body.to is not None else "The room is empty"
        )
    return json_answer(Delivery(peers))


async def remove_peer(call: ServerCall) -> Answer:
    """Answer `DELETE /rooms/{room_id}/peers/{peer_id}`."""
    body = await call.read(RemovalRequest)
    reason = body.reason or ("Kicked" if body.ban_seconds is None else "Banned")
    member = await call.hub.moderation.remove(
        call.path["room_id"], call.path["peer_id"], reason, body.ban_seconds
    )
    if member is None:
        raise HttpError(404, "There is no such peer")
    return json_answer(Removal(1))


async def change_room(call: ServerCall) -> Answer:
    """Answer `PATCH /rooms/{room_id}`."""
    body = await call.read(LockRequest)
    if body.locked is not None:
        await call.hub.moderation.set_lock(call.path["room_id"], locked=body.locked)
    return json_answer(await _detail(call))


async def close_room(call: ServerCall) -> Answer:
    """Answer `DELETE /rooms/{room_id}`."""
    body = await call.read(ClosingRequest)
    reason = body.reason or "Room closed"
    return json_answer(Removal(await call.hub.moderation.empty(call.path["room_id"], reason)))


async def make_token(call: ServerCall) -> Answer:
    """Answer `POST /tokens`."""
    body = await call.read(TokenRequest)
    if call.settings.jwt_secret is None:
        raise HttpError(404, "The server has no TRIO_SIGNAL_JWT_SECRET to sign tokens with")
    grants = Grants(
        tuple(body.rooms) if body.rooms is not None else ("*",),
        body.publish,
        body.moderator,
        body.creator,
        body.team_of,
    )
    ttl = int(body.ttl)
    token = mint_token(call.settings, body.sub, name=clean_name(body.name), grants=grants, ttl=ttl)
    if len(token) > MAX_TOKEN:
        raise HttpError(422, f"The token is too long: {len(token)} characters, not {MAX_TOKEN}")
    return json_answer(MintedToken(token, ttl))


class ServerRoutes:
    """The routes; none without API keys."""

    def __init__(self, hub: Hub, auth: Auth, callers: Callers, settings: Settings) -> None:
        """Use these parts for the handlers."""
        self._hub = hub
        self._settings = settings
        self._keys = KeyRing(auth, callers, settings)

    @property
    def routes(self) -> tuple[Route, ...]:
        """All routes; none without API keys."""
        return ROUTES if self._settings.api_keys is not None else ()

    def add_to(self, app: QuartTrio) -> None:
        """Add the routes to the app."""
        if self.routes:
            add_changes(app, self._hub, self._keys)
        for route in self.routes:
            method, path = route.call.split(" ")
            app.add_url_rule(
                to_rule(path),
                endpoint=route.call,
                view_func=self._view(path, route.handle),
                methods=[method],
                merge_slashes=False,
                provide_automatic_options=False,
            )
        if self.routes:
            app.add_url_rule(
                f"{PREFIX}/<path:_>",
                endpoint="server API options",
                view_func=self._options,
                methods=["OPTIONS"],
                merge_slashes=False,
                provide_automatic_options=False,
            )

    async def _options(self, **_: str) -> Response:
        """The methods of a path. Routing cannot find them, as an id may look like a longer path."""
        allowed = methods_at(raw_path(), [route.call for route in self.routes])
        return Response("", headers={"Allow": ", ".join(allowed)})

    def _view(
        self, path: str, handle: Callable[[Any], Awaitable[Answer]]
    ) -> Callable[..., Awaitable[Response]]:
        async def view(**_: str) -> Response:
            await self._keys.require()
            call = ServerCall(self._hub, self._settings, read_path(path, raw_path()))
            try:
                answer = await handle(call)
            except UnconfirmedError as error:
                raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, str(error)) from error
            return Response(answer.body, answer.status, content_type=answer.content_type)

        return view


_PEER = PeerDetail(
    *("ann-1", "ann", "Ann", "mesh", True, "2026-11-20T10:15:30.123456Z", "4f3c9d1e", "public")
)
_REPLICA = ReplicaState(
    *("4f3c9d1e", "ready", "", "web-1", "0.2.0", "2026-11-20T08:00:00.000000Z", 12, 0, 3, 12, 1)
)
_ERRORS: Mapping[int, Any] = {
    **dict.fromkeys((400, 401, 403, 404, 413, 422, 429, 503), Problem),
}


def _route(
    call: str,
    handle: Callable[[ServerCall], Awaitable[Answer]],
    summary: str,
    answer: Any,
    example: object,
    *,
    body: Any = None,
    body_example: object = None,
    query: tuple[str, ...] = (),
) -> Route:
    method, path = call.split(" ")
    operation = Operation(
        summary,
        answer,
        _ERRORS,
        body,
        query,
        example=example,
        body_example=body_example,
        wants_key=True,
    )
    return Route(f"{method} {PREFIX}{path}", handle, operation)  # type: ignore[arg-type]


ROUTES = (
    _route(
        "GET /rooms",
        list_rooms,
        "List the rooms that have peers",
        RoomSummaries,
        RoomSummaries([RoomSummary("lobby", 3, 2, 1)], None),
        query=("limit", "cursor", "prefix"),
    ),
    _route(
        "GET /rooms/{room_id:path}",
        show_room,
        "List the peers of a room",
        RoomDetail,
        RoomDetail("lobby", [_PEER], False, 7, 1, 1),
        query=("limit", "offset", "search"),
    ),
    _route(
        "GET /replicas",
        list_replicas,
        "List the replicas and their health",
        ReplicaList,
        ReplicaList([_REPLICA]),
    ),
    _route(
        "POST /rooms/{room_id:path}/messages",
        send_message,
        "Send a message to a room, or to one peer",
        Delivery,
        Delivery(3),
        body=MessageRequest,
        body_example={"data": {"notice": "The break is over"}, "to": "ann-1"},
    ),
    _route(
        "DELETE /rooms/{room_id:path}/peers/{peer_id:path}",
        remove_peer,
        "Remove a peer from a room, and optionally ban its user",
        Removal,
        Removal(1),
        body=RemovalRequest,
        body_example=RemovalRequest("Be kind", 3600),
    ),
    _route(
        "PATCH /rooms/{room_id:path}",
        change_room,
        "Lock or unlock a room",
        RoomDetail,
        RoomDetail("lobby", [_PEER], True, 7, 1, 1),
        body=LockRequest,
        body_example=LockRequest(True),
    ),
    _route(
        "DELETE /rooms/{room_id:path}",
        close_room,
        "Remove everybody from a room",
        Removal,
        Removal(3),
        body=ClosingRequest,
        body_example=ClosingRequest("The lesson is over"),
    ),
    _route(
        "POST /tokens",
        make_token,
        "Create a token for a client",
        MintedToken,
        MintedToken("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbm4ifQ.c2ln", 3600),
        body=TokenRequest,
        body_example=TokenRequest("ann", "Ann", ["lesson-*"]),
    ),
)
