"""Serves the dialects' HTTP routes, and passes requests to their handlers."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from urllib.parse import unquote
from uuid import uuid4

from quart import Response, request
from quart_trio import QuartTrio

from trio_signal.clock import utc_now
from trio_signal.config import Settings
from trio_signal.dialects import DIALECTS
from trio_signal.dialects.rest import Page, Route, Shape
from trio_signal.errors import HttpError
from trio_signal.hub import Hub
from trio_signal.messages.identity import Identity
from trio_signal.names import MAX_ID
from trio_signal.web.callers import Callers
from trio_signal.web.listing import RoomList


class HttpCall:
    """The current request; see `trio_signal.dialects.rest.Call`."""

    def __init__(self, site: "DialectRoutes", path: Mapping[str, str]) -> None:
        """Take the values of the path's variables."""
        self._site = site
        self.core = site.hub
        self.callers = site.callers
        self.path = path
        self.query = request.args
        self.url_path = request.path
        self.now = utc_now()
        self.wants_tokens = site.settings.wants_tokens
        self.lists_rooms = site.settings.list_rooms

    def new_id(self) -> str:
        """A new random id that cannot be guessed."""
        return str(uuid4())

    async def body(self) -> bytes:
        """The whole body."""
        body = await request.get_data(as_text=False)
        assert isinstance(body, bytes)  # noqa: S101  as it was asked for
        return body

    async def list_rooms(
        self, shape: Shape, caller: Identity | None, cursor: str, limit: int
    ) -> Page:
        """The rooms after `cursor` that the caller may enter."""
        lists = self._site.lists
        if shape not in lists:
            lists[shape] = RoomList(self._site.hub, shape)
        return await lists[shape].page(caller, cursor, limit)


class DialectRoutes:
    """The routes of the enabled dialects."""

    def __init__(self, hub: Hub, callers: Callers, settings: Settings) -> None:
        """Use these parts for the handlers."""
        self.hub = hub
        self.callers = callers
        self.settings = settings
        #: The list of rooms in each of the dialects' formats.
        self.lists: dict[Shape, RoomList] = {}

    @property
    def routes(self) -> dict[str, Route]:
        """All routes, by method and path in the dialects' notation."""
        dialects = map(DIALECTS.__getitem__, self.settings.dialects)
        return {route.call: route for dialect in dialects for route in dialect.routes()}

    def add_to(self, app: QuartTrio) -> None:
        """Add the routes to the app."""
        for call, route in self.routes.items():
            method, path = call.split(" ")
            app.add_url_rule(
                to_rule(path), endpoint=call, view_func=self._view(route), methods=[method]
            )

    def _view(self, route: Route) -> Callable[..., Awaitable[Response]]:
        async def view(**variables: str) -> Response:
            answer = await route.handle(HttpCall(self, variables))
            return Response(
                answer.body, answer.status, {**answer.headers}, content_type=answer.content_type
            )

        return view


def to_rule(path: str) -> str:
    """Convert a dialect's path for Quart: `/rooms/{room_id}` becomes `/rooms/<room_id>`."""
    return re.sub(r"{(\w+)}", r"<\1>", re.sub(r"{(\w+):path}", r"<path:\1>", path))


def raw_path() -> bytes:
    """The path of the current request, undecoded."""
    raw = request.scope["raw_path"]
    assert isinstance(raw, bytes)  # noqa: S101  as Hypercorn has it
    return raw


def read_path(path: str, raw: bytes) -> dict[str, str]:
    """Read the ids in a path, where `%2F` is a slash within an id. Raises HttpError with 404.

    Routing has decoded the path already, and could take a part of one id for another.
    """
    wanted, parts = path.split("/"), raw.decode("latin-1").split("/")
    if len(wanted) != len(parts):
        raise HttpError(404, "Ids in a path must be percent-encoded: a slash is %2F")
    ids = {}
    for name, part in zip(wanted, parts, strict=True):
        if name.startswith("{"):
            ids[name[1:].partition(":")[0].rstrip("}")] = unquote(part, errors="replace")
    if any(len(id_) > MAX_ID for id_ in ids.values()):
        raise HttpError(400, f"An id has {MAX_ID} characters at most.")
    return ids


def methods_at(raw: bytes, calls: Iterable[str]) -> list[str]:
    """The methods that these calls allow for a path; raises HttpError with 404 if none."""
    wanted, methods = raw.split(b"/"), {"OPTIONS"}
    for method, path in (call.split(" ") for call in calls):
        parts = path.encode().split(b"/")
        fits = (a == b or a.startswith(b"{") for a, b in zip(parts, wanted, strict=False))
        if len(parts) == len(wanted) and all(fits):
            methods |= {method, "HEAD"} if method == "GET" else {method}
    if len(methods) == 1:
        raise HttpError(404, "There is no such call")
    return sorted(methods)
