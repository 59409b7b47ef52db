"""What the legs of one app share: the app itself, and the feeds that they follow."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import trio

from trio_signal.cloudflare import CloudflareError
from trio_signal.relay import RelayError
from trio_signal.relay.cloudflare.app import App, is_over

logger = logging.getLogger(__name__)

#: Seconds between two looks at a feed.
FEED = 2.0
#: Seconds after which tracks are closed again that could not be.
_AGAIN = (1.0, 5.0)


class Follower(Protocol):
    """A leg, as a feed knows it. Nothing blocks."""

    def lose(self, reason: str) -> None:
        """Nothing flows any more."""

    def adapt(self) -> None:
        """The feed has other tracks."""


class Keeper:
    """The app while the node runs, and who uses it."""

    def __init__(self, name: str, bitrate: int) -> None:
        """Without an app until `begin`."""
        self.name = name
        self.bitrate = bitrate
        #: Somebody had no answer, or a bad one.
        self.suspicion = trio.Event()
        self._app: App | None = None
        self._nursery: trio.Nursery | None = None
        self._legs: set[Follower] = set()
        self._feeds: dict[str, Feed] = {}

    def begin(self, app: App, nursery: trio.Nursery) -> None:
        """The node runs."""
        self._app, self._nursery = app, nursery

    def end(self) -> None:
        """It does not any more: all legs are lost."""
        self._app = self._nursery = None
        for leg in tuple(self._legs):
            leg.lose("the relay has stopped")
        self._feeds.clear()

    @property
    def app(self) -> App:
        """The app; raises RelayError if the node does not run."""
        if self._app is None:
            raise RelayError(f"{self.name} is not connected")
        return self._app

    def suspect(self, error: CloudflareError) -> None:
        """Somebody had no answer, or a bad one: look whether the API is there."""
        if error.status is None or error.status >= 500:
            self.suspicion.set()

    def start(self, leg: Follower, task: Callable[[], Awaitable[object]]) -> None:
        """Run a task of a leg, which runs on in the leg's own scope."""
        self._legs.add(leg)
        if self._nursery is not None:
            self._nursery.start_soon(task)

    def known_names(self, session: str) -> frozenset[str] | None:
        """The tracks of a feed that somebody here sends or watches."""
        feed = self._feeds.get(session)
        return feed.names if feed is not None and feed.legs else None

    def follow(self, session: str, leg: Follower) -> "Feed":
        """Look at a feed for as long as a leg needs it."""
        feed = self._feeds.get(session)
        if feed is None:
            feed = self._feeds[session] = Feed(self, session)
            if self._nursery is not None:
                self._nursery.start_soon(feed.watch)
        feed.legs.add(leg)
        return feed

    def unfollow(self, feed: "Feed") -> None:
        """No leg needs it any more."""
        self._feeds.pop(feed.session, None)

    def forget(self, leg: Follower) -> None:
        """A leg is closed."""
        self._legs.discard(leg)

    def close_tracks(self, session: str, mids: Iterable[str]) -> None:
        """Have the app end tracks of a session, or all if none is known. Does not block."""
        if self._nursery is not None:
            self._nursery.start_soon(self._close_tracks, session, tuple(mids))

    async def _close_tracks(self, session: str, mids: tuple[str, ...]) -> None:
        app = self.app
        for pause in (*_AGAIN, None):
            try:
                if not mids:
                    state = await app.state(session)
                    mids = (*state.active("local").values(), *state.active("remote").values())
                if mids:
                    await app.close(session, mids)
            except CloudflareError as error:
                self.suspect(error)
                if is_over(error):
                    return
            else:
                return
            if pause is not None:
                await trio.sleep(pause)
        logger.info("cannot close tracks at %s; they end when their connection does", self.name)


class Feed:
    """What comes in of a broadcast, as it is seen for all here who need it."""

    def __init__(self, keeper: Keeper, session: str) -> None:
        """Look at nothing yet."""
        self.session = session
        self.legs: set[Follower] = set()
        #: The names of its tracks; None if nobody looks at it.
        self.names: frozenset[str] | None = None
        self._keeper = keeper
        self._changed = trio.Event()

    def look(self) -> None:
        """It has changed."""
        self._changed.set()

    async def watch(self) -> None:
        """Look again and again, while there are legs."""
        while self.legs:
            with trio.move_on_after(FEED):
                await self._changed.wait()
            self._changed = trio.Event()
            try:
                names = await names_of(self._keeper.app, self.session)
            except CloudflareError as error:
                self._keeper.suspect(error)
                if is_over(error):
                    self.lose()
                continue
            if not names:
                self.lose()
            elif names != self.names:
                self.names = names
                for leg in tuple(self.legs):
                    leg.adapt()
        self._keeper.unfollow(self)

    def lose(self) -> None:
        """Nothing comes in any more."""
        for leg in tuple(self.legs):
            leg.lose("the broadcaster's connection to the media server has ended")


async def names_of(app: App, feed: str) -> frozenset[str]:
    """Which tracks come in. Raises CloudflareError."""
    return frozenset((await app.state(feed)).active("local"))
