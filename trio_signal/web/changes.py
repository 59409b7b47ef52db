"""Server-sent events for the operators' page, which reloads its data after each `change`."""

from collections.abc import AsyncIterator
from types import TracebackType

import trio
from quart import Response, request
from quart_trio import QuartTrio

from trio_signal.backend import PREFIX
from trio_signal.errors import HttpError
from trio_signal.hub import Hub
from trio_signal.web.api_keys import KeyRing

#: Seconds between two checks; after so long, a list of rooms counts as changed.
_LOOKING = 1.0
_LIST = 3.0
#: Seconds without a change after which a comment shows that the connection is alive.
_QUIET = 15.0
#: How many clients may listen to one replica.
MOST = 50


class Listeners:
    """Counts listeners; each enters it as a context manager."""

    def __init__(self) -> None:
        """Begin with none."""
        self.count = 0

    def __enter__(self) -> None:
        """Count one more."""
        self.count += 1

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Count one less."""
        self.count -= 1


def add_changes(app: QuartTrio, hub: Hub, keys: KeyRing) -> None:
    """Add the route: sends `change` at first, and whenever the room or the list has changed."""
    listeners = Listeners()

    @app.get(f"{PREFIX}/events")
    async def events() -> Response:
        await keys.require()
        if listeners.count >= MOST:
            raise HttpError(429, "Too many clients listen to this replica")
        room_id = request.args.get("room") or None
        answer = Response(
            _changes(hub, room_id, listeners),
            content_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )
        answer.timeout = None
        return answer


async def _changes(hub: Hub, room_id: str | None, listeners: Listeners) -> AsyncIterator[bytes]:
    with listeners:
        last: object = None
        said = trio.current_time()
        while hub.rooms.closing is None:
            seen = await _look(hub, room_id)
            now = trio.current_time()
            if seen != last:
                last, said = seen, now
                yield b"event: change\ndata: {}\n\n"
            elif now > said + _QUIET:
                said = now
                yield b": still here\n\n"
            await trio.sleep(_LOOKING)


async def _look(hub: Hub, room_id: str | None) -> object:
    """A value that differs whenever there is something new to show."""
    if room_id is None:
        return await hub.bus.count_rooms(), trio.current_time() // _LIST
    members = await hub.members(room_id)
    there = tuple((m.peer_id, m.joined_at, m.username, m.live is None, m.away) for m in members)
    return hash(there), await hub.bus.holds.is_locked(room_id)
