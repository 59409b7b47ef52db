"""The dialects' HTTP routes in the app, and what their handlers are given."""

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from uuid import uuid4

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from trio_signal.clock import utc_now
from trio_signal.config import Settings
from trio_signal.dialects import DIALECTS
from trio_signal.dialects.rest import Page, Route, Shape
from trio_signal.errors import HttpError
from trio_signal.hub import Hub
from trio_signal.messages.identity import Identity
from trio_signal.pacing import cost_of_delivery
from trio_signal.web.callers import Callers
from trio_signal.web.listing import RoomList


class HttpCall:
    """The current request; see `trio_signal.dialects.rest.Call`."""

    def __init__(self, site: "DialectRoutes", path: Mapping[str, str]) -> None:
        """Take the values of the path's variables."""
        self._site = site
        self.core = site.hub
        self.path = path
        self.query = request.args
        self.url_path = request.path
        self.media_type = request.mimetype
        self.now = utc_now()
        self.wants_tokens = site.settings.wants_tokens
        self.lists_rooms = site.settings.list_rooms

    def new_id(self) -> str:
        """An id that nobody can foresee."""
        return str(uuid4())

    async def body(self) -> bytes:
        """The whole body."""
        with _told_by_status():
            body = await request.get_data(as_text=False)
        assert isinstance(body, bytes)  # noqa: S101  as it was asked for
        return body

    async def find(self, said: str | None = None) -> Identity | None:
        """Who calls; None if it does not say."""
        with _told_by_status():
            return await self._site.callers.find(said)

    async def require(self) -> Identity:
        """Who calls."""
        with _told_by_status():
            return await self._site.callers.require()

    async def find_entrant(self, room_id: str) -> Identity | None:
        """Who asks about a room; None in open mode."""
        with _told_by_status():
            return await self._site.callers.find_entrant(room_id)

    async def find_remembered(self) -> Identity | None:
        """Whose browser it is in open mode."""
        with _told_by_status():
            return await self._site.callers.find_remembered()

    def charge(self, tokens: float) -> None:
        """Let the caller's address pay."""
        self._site.callers.charge(tokens)

    def charge_deliveries(self, peers: int, size: int) -> None:
        """The same for so many bytes that so many peers hear."""
        self._site.callers.charge(peers * cost_of_delivery(size))

    async def list_rooms(
        self, shape: Shape, caller: Identity | None, cursor: str, limit: int
    ) -> Page:
        """The rooms behind `cursor` that the caller may enter."""
        lists = self._site.lists
        if shape not in lists:
            lists[shape] = RoomList(self._site.hub, shape)
        return await lists[shape].page(caller, cursor, limit)


@contextmanager
def _told_by_status() -> Iterator[None]:
    """What the HTTP side raises is told to handlers, which know none, in their words."""
    try:
        yield
    except HTTPException as error:
        raise to_http_error(error) from error


def to_http_error(error: HTTPException) -> HttpError:
    """The same error as handlers raise it."""
    headers = {
        name: value
        for name, value in error.get_headers()
        if name.lower() not in ("content-type", "content-length")
    }
    return HttpError(error.code or 500, error.description or "", headers)


class DialectRoutes:
    """The routes of the dialects that are spoken here."""

    def __init__(self, hub: Hub, callers: Callers, settings: Settings) -> None:
        """Take what handlers ask."""
        self.hub = hub
        self.callers = callers
        self.settings = settings
        #: The list of rooms in each of the shapes that dialects give it.
        self.lists: dict[Shape, RoomList] = {}

    @property
    def routes(self) -> dict[str, Route]:
        """By method and path, as a dialect has them."""
        dialects = map(DIALECTS.__getitem__, self.settings.dialects)
        return {route.call: route for dialect in dialects for route in dialect.routes()}

    def add_to(self, app: QuartTrio) -> None:
        """Let the app serve them."""
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
    """A dialect's path as the app has it: `/rooms/{room_id}` is `/rooms/<room_id>`."""
    return re.sub(r"{(\w+)}", r"<\1>", re.sub(r"{(\w+):path}", r"<path:\1>", path))
