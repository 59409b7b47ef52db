"""What the legs of one app share: the app itself, and the feeds that they follow."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import trio

from trio_signal.cloudflare import CloudflareError
from trio_signal.relay import RelayError
from trio_signal.relay.cloudflare.app import App, is_over

logger = logging.getLogger(__name__)

#: Seconds between two polls of a feed.
FEED = 2.0
#: Seconds before each repeated attempt to close tracks.
_AGAIN = (1.0, 5.0)


class Follower(Protocol):
    """A leg that follows a feed. Nothing blocks."""

    def lose(self, reason: str) -> None:
        """The leg is lost."""

    def adapt(self) -> None:
        """The feed's tracks have changed."""


class Keeper:
    """The app while the node runs, and its legs."""

    def __init__(self, name: str, bitrate: int) -> None:
        """Begin without an app."""
        self.name = name
        self.bitrate = bitrate
        #: A request had no answer, or a bad one.
        self.suspicion = trio.Event()
        self._app: App | None = None
        self._nursery: trio.Nursery | None = None
        self._legs: set[Follower] = set()
        self._feeds: dict[str, Feed] = {}

    def begin(self, app: App, nursery: trio.Nursery) -> None:
        """The node has started."""
        self._app, self._nursery = app, nursery

    def end(self) -> None:
        """The node has stopped: all legs are lost."""
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
        """A request had no answer or a bad one: check the API."""
        if error.status is None or error.status >= 500:
            self.suspicion.set()

    def start(self, leg: Follower, task: Callable[[], Awaitable[object]]) -> None:
        """Run a task of a leg, in the leg's own scope."""
        self._legs.add(leg)
        if self._nursery is not None:
            self._nursery.start_soon(task)

    def known_names(self, session: str) -> frozenset[str] | None:
        """The tracks of a feed that a leg here sends or watches."""
        feed = self._feeds.get(session)
        return feed.names if feed is not None and feed.legs else None

    def follow(self, session: str, leg: Follower) -> "Feed":
        """Poll a feed while a leg needs it."""
        feed = self._feeds.get(session)
        if feed is None:
            feed = self._feeds[session] = Feed(self, session)
            if self._nursery is not None:
                self._nursery.start_soon(feed.watch)
        feed.legs.add(leg)
        return feed

    def unfollow(self, feed: "Feed") -> None:
        """No leg needs the feed any more."""
        self._feeds.pop(feed.session, None)

    def forget(self, leg: Follower) -> None:
        """A leg is closed."""
        self._legs.discard(leg)

    def close_tracks(self, session: str, mids: Iterable[str]) -> None:
        """Close tracks of a session; without mids, all of them. Does not block."""
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
    """The tracks of a broadcast, polled for all legs here that need them."""

    def __init__(self, keeper: Keeper, session: str) -> None:
        """Begin without polling."""
        self.session = session
        self.legs: set[Follower] = set()
        #: The names of the tracks; None while nobody polls.
        self.names: frozenset[str] | None = None
        self._keeper = keeper
        self._changed = trio.Event()

    def look(self) -> None:
        """Poll now: the feed has changed."""
        self._changed.set()

    async def watch(self) -> None:
        """Poll while there are legs."""
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
        """The feed has ended: all its legs are lost."""
        for leg in tuple(self.legs):
            leg.lose("the broadcaster's connection to the media server has ended")


async def names_of(app: App, feed: str) -> frozenset[str]:
    """The tracks that a feed receives. Raises CloudflareError."""
    return frozenset((await app.state(feed)).active("local"))
