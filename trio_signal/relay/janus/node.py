"""A Janus as a node: one session, replaced whenever it is lost."""

import logging
import random
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import trio

from trio_signal.config import Settings
from trio_signal.relay import Ingest, Node, RelayError, Viewing
from trio_signal.relay.janus import words
from trio_signal.relay.janus.connection import Session
from trio_signal.relay.janus.legs import JanusIngest, JanusViewing, Watchers, in_time
from trio_signal.relay.janus.words import Address

logger = logging.getLogger(__name__)

OLDEST = "1.1.2"
#: Seconds before the first try to connect again, and at most between two.
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0
#: Seconds between two looks for rooms whose replica has died.
SWEEP = 20.0


def pauses() -> Iterator[float]:
    """How long to wait before each try: jittered, since all replicas lose a node at once."""
    pause = _FIRST_PAUSE
    while True:
        yield random.uniform(pause / 2, pause)  # noqa: S311  not for secrets
        pause = min(2 * pause, _LONGEST_PAUSE)


class JanusNode(Node):
    """A Janus with its VideoRoom, as one replica reaches it."""

    def __init__(self, url: str, *, token: str = "", bitrate: int) -> None:
        """A node at a URL as `Address` has it; raises ValueError.

        `token` is its `api_secret`, if that is not in the URL; `bitrate` what a broadcaster may
        send, in bits a second.
        """
        self._address = Address.of(url, token)
        self.name = self._address.name
        self._bitrate = bitrate
        #: Those that we have made, and not removed.
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
        """Keep a session; a reason why there is none is logged once."""
        waits = pauses()
        while True:
            session = Session(self._address, last_words=self._removals)
            reason = await session.run(partial(self._use, session))
            if self._session is session:
                waits = pauses()
            self._set(session)
            if reason != self._reason:
                self._reason = reason
                logger.error("%s: %s", self.name, reason)
            await trio.sleep(next(waits))

    async def probe(self) -> str:
        """Its version, if it lets us have a session; an old one is refused."""
        session = Session(self._address)
        opened = False

        def open_() -> None:
            nonlocal opened
            opened = True
            session.end("asked")

        reason = await session.run(open_)
        if not opened:
            raise RelayError(reason)
        if words.is_older(session.version, OLDEST):
            raise RelayError(f"it is Janus {session.version}; {OLDEST} is needed, or a later one")
        return f"Janus {session.version}"

    def _use(self, session: Session) -> None:
        """A session is open: it is for all legs that are made from now on."""
        self._set(session)
        self._reason = None
        logger.info("%s: connected, Janus %s", self.name, session.version)
        for removal in self._removals():
            session.control.tell(removal)
        self._rooms.clear()
        session.start_soon(self._sweep, session)

    def _removals(self) -> Iterable[dict[str, Any]]:
        return [{"request": "destroy", "room": room} for room in self._rooms]

    async def _sweep(self, session: Session) -> None:
        """Remove the rooms of replicas that were killed: those in which nobody is.

        Nobody is in a room for a moment when it is made, so it takes two looks.
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
        """A room of its own."""
        return JanusIngest(self._session, bitrate=self._bitrate, rooms=self._rooms)

    def view(self, feed: str) -> Viewing:
        """One more subscriber."""
        return JanusViewing(self._session, feed=feed, watchers=self._watchers)


def open_janus_node(url: str, settings: Settings) -> JanusNode:
    """A node for one of the URLs of the settings; raises ValueError."""
    token = settings.relay_token.get_secret_value() if settings.relay_token else ""
    return JanusNode(url, token=token, bitrate=settings.relay_bitrate)
