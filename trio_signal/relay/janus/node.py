"""A Janus as a node: one session, replaced whenever it is lost."""

import logging
import random
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import trio

from trio_signal.config import Settings
from trio_signal.relay import Ingest, Node, RelayError, Report, Viewing
from trio_signal.relay.janus import words
from trio_signal.relay.janus.connection import Session
from trio_signal.relay.janus.legs import JanusIngest, JanusViewing, Watchers, in_time
from trio_signal.relay.janus.reach import try_addresses
from trio_signal.relay.janus.words import Address

logger = logging.getLogger(__name__)

OLDEST = "1.1.2"
#: Seconds before the first reconnect, and at most between two.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
#: Seconds between two checks for rooms whose replica has died.
SWEEP = 20.0


def pauses() -> Iterator[float]:
    """The pause before each attempt; jittered, since all replicas lose a node at once."""
    pause = _FIRST_PAUSE
    while True:
        yield random.uniform(pause / 2, pause)  # noqa: S311  not for secrets
        pause = min(2 * pause, _LONGEST_PAUSE)


class JanusNode(Node):
    """A Janus with its VideoRoom, as one replica reaches it."""

    def __init__(self, url: str, *, token: str = "", bitrate: int) -> None:
        """Make a node from a URL that `Address` reads; raises ValueError.

        `token` is the `api_secret`, if it is not in the URL; `bitrate` limits broadcasters, in bits
        per second.
        """
        self._address = Address.of(url, token)
        self.name = self._address.name
        self._bitrate = bitrate
        #: Rooms that this node has created and not removed.
        self._rooms: set[int] = set()
        self._reason: str | None = None
        self._set(Session(self._address))
        self._session.end("not connected yet")

    def _set(self, session: Session) -> None:
        self._session, self._watchers = session, Watchers(session)

    @property
    def degraded(self) -> str | None:
        """Why there is no session."""
        return self._session.ended

    async def run(self) -> None:
        """Keep a session until cancelled; log each reason for a failure once."""
        waits = pauses()
        while True:
            session = Session(self._address, last_words=lambda: _removals(self._rooms))
            reason = await session.run(partial(self._use, session))
            if self._session is session:
                waits = pauses()
            self._set(session)
            if reason != self._reason:
                self._reason = reason
                logger.error("%s: %s", self.name, reason)
            await trio.sleep(next(waits))

    async def probe(self) -> Report:
        """Open a session, and a broadcast for a moment; raises RelayError if Janus is too old."""
        rooms: set[int] = set()
        session = Session(self._address, last_words=lambda: _removals(rooms))
        reports: list[Report] = []

        async def look() -> None:
            version = session.version
            if words.is_older(version, OLDEST):
                raise RelayError(f"it is Janus {version}; {OLDEST} is needed, or a later one")
            ingest = JanusIngest(session, bitrate=self._bitrate, rooms=rooms)
            reports.append(Report(f"Janus {version}", await try_addresses(ingest)))
            scope.cancel(reason="asked")  # which removes the room

        reason = ""
        with trio.CancelScope() as scope:
            reason = await session.run(partial(session.start_soon, look))
        if not reports:
            raise RelayError(reason)
        return reports[0]

    def _use(self, session: Session) -> None:
        """A session is open: new legs use it."""
        self._set(session)
        self._reason = None
        logger.info("%s: connected, Janus %s", self.name, session.version)
        for removal in _removals(self._rooms):
            session.control.tell(removal)
        self._rooms.clear()
        session.start_soon(self._sweep, session)

    async def _sweep(self, session: Session) -> None:
        """Remove empty rooms, which killed replicas have left.

        A new room is empty for a moment, so a room must be empty in two checks.
        """
        seen: set[int | str] = set()
        while True:
            await trio.sleep(SWEEP)
            try:
                with in_time():
                    rooms = (await session.control.ask({"request": "list"})).room.rooms
            except RelayError as error:
                logger.debug("%s: %s", self.name, error)
                continue
            empty = {
                room.room
                for room in rooms
                if room.description == words.DESCRIPTION and not room.num_participants
            }
            for room in seen & empty:
                session.control.tell({"request": "destroy", "room": room})
            seen = empty

    def ingest(self, label: str) -> Ingest:
        """Make an ingest with a room of its own."""
        return JanusIngest(self._session, bitrate=self._bitrate, rooms=self._rooms)

    def view(self, feed: str) -> Viewing:
        """Make one more subscriber."""
        return JanusViewing(self._session, feed=feed, watchers=self._watchers)


def _removals(rooms: Iterable[int]) -> Iterable[dict[str, Any]]:
    return [{"request": "destroy", "room": room} for room in rooms]


def open_janus_node(url: str, settings: Settings) -> JanusNode:
    """Make a node from one of the URLs of the settings; raises ValueError."""
    token = settings.relay_token.get_secret_value() if settings.relay_token else ""
    return JanusNode(url, token=token, bitrate=settings.relay_bitrate)
