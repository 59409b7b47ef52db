"""The legs of an app: one session for each."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from random import uniform

import trio

from trio_signal.cloudflare import CloudflareError
from trio_signal.relay import (
    DEADLINE,
    Ingest,
    Leg,
    LegEvent,
    Lost,
    Offered,
    RelayError,
    Up,
    Viewing,
)
from trio_signal.relay.cloudflare.app import Answer, is_over
from trio_signal.relay.cloudflare.keeper import Feed, Keeper, names_of
from trio_signal.relay.cloudflare.sdp import fingerprints, in_one_stream, sending, with_bitrate

logger = logging.getLogger(__name__)

#: Most seconds between two polls of a viewer's session.
VIEWER = 10.0
#: Seconds after which a second track of a kind counts as an additional one.
_SETTLING = 5.0
#: Seconds for a broadcaster's media to arrive, and between two checks for them.
COMING, _LOOK = 15.0, 0.25
#: Seconds for an answer that waits for subscribed media (the API waits 5), with a margin.
_PATIENT = 6.0
#: The id of the stream that viewers get.
_STREAM = "relay"


class _Session(Leg):
    """The common part of both directions: a session, which one task at a time changes."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        # Up, an offer that is not answered yet, and Lost.
        self._told, self.events = trio.open_memory_channel[LegEvent](4)
        self._lock = trio.Lock()
        self._scope = trio.CancelScope()
        self._session: str | None = None
        #: Mids of the tracks, by name.
        self._mids: dict[str, str] = {}
        self._feed: Feed | None = None
        self._is_over = self._is_closed = False

    def candidate(self, candidate: object) -> None:
        """Do nothing: the API accepts no candidates."""

    def close(self) -> None:
        """Close the leg here and at the app."""
        if self._is_closed:
            return
        self._is_closed = True
        self._finish()
        self._keeper.forget(self)
        if self._session is not None:
            self._keeper.close_tracks(self._session, self._mids.values())

    def lose(self, reason: str) -> None:
        """The leg is lost."""
        if not self._is_over:
            self._tell(Lost(reason))
            self._finish()

    def adapt(self) -> None:
        """The feed's tracks have changed. Does not block."""

    def _finish(self) -> None:
        self._is_over = True
        self._told.close()
        self._scope.cancel()
        if self._feed is not None:
            self._feed.legs.discard(self)

    def _tell(self, event: LegEvent) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            self._told.send_nowait(event)

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        """Limit the body to `DEADLINE`, and turn its failures into RelayError."""
        if self._is_over:
            raise RelayError("the leg is over")
        try:
            with trio.fail_after(DEADLINE):
                yield
        except trio.TooSlowError:
            self._fail(CloudflareError(f"no answer within {DEADLINE:g} s"))
            raise RelayError(f"{self._keeper.name}: no answer within {DEADLINE:g} s") from None
        except CloudflareError as error:
            self._fail(error)
            raise RelayError(f"{self._keeper.name}: {error}") from None

    def _fail(self, error: CloudflareError) -> None:
        self._keeper.suspect(error)
        if is_over(error):
            self.lose("the connection to the media server has ended")


class CloudflareIngest(_Session, Ingest):
    """A broadcaster's session."""

    def __init__(self, keeper: Keeper, label: str) -> None:
        """Begin without a request."""
        super().__init__(keeper)
        self._label = label
        self._fingerprints: frozenset[str] = frozenset()

    async def offer(self, sdp: str) -> str:
        """Return the answer to the broadcaster's offer."""
        mids = {f"{kind}-{mid}": mid for mid, kind in sending(sdp).items()}
        if not mids:
            raise RelayError("the broadcaster's offer sends nothing")
        with self._in_time():
            async with self._lock:
                if self._session is None:
                    answer = await self._publish(sdp, mids)
                else:
                    answer = await self._change(self._session, sdp, mids)
        return with_bitrate(answer, self._keeper.bitrate)

    def close(self) -> None:
        """Close; viewings here are lost at once, those on other replicas at their next poll."""
        feed = self._feed
        super().close()
        if feed is not None:
            feed.lose()

    async def _publish(self, sdp: str, mids: dict[str, str]) -> str:
        app = self._keeper.app
        self._fingerprints = fingerprints(sdp)
        self.feed = self._session = session = await app.new_session()
        answer = await app.publish(session, sdp, mids)
        described = answer.description("answer")
        self._mids = answer.good()
        self._keeper.start(self, self._watch)
        return described

    async def _change(self, session: str, sdp: str, mids: dict[str, str]) -> str:
        app = self._keeper.app
        if fingerprints(sdp) != self._fingerprints:
            # A session is one peer connection, so another one would never connect.
            self.lose("the broadcaster has a new peer connection")
            raise RelayError("the offer is that of a new peer connection")
        new = {name: mid for name, mid in mids.items() if name not in self._mids}
        gone = [mid for name, mid in self._mids.items() if name not in mids]
        if new:
            answer = await app.publish(session, sdp, new)
            new = answer.good()
            if gone:
                await app.close(session, gone)
        elif gone:
            answer = await app.close(session, gone, sdp)
        else:
            answer = await app.renegotiate(session, "offer", sdp)
        described = answer.description("answer")
        self._mids = new | {name: mid for name, mid in self._mids.items() if name in mids}
        if self._feed is not None:
            self._feed.look()
        return described

    async def _watch(self) -> None:
        with self._scope:
            with trio.move_on_after(COMING):
                await self._until_media_come()
                self._tell(Up())
                self._feed = self._keeper.follow(self.feed, self)
                return
            self.lose(f"no media came within {COMING:g} s")

    async def _until_media_come(self) -> None:
        """Wait until a second session, which never connects and costs nothing, can subscribe."""
        app = self._keeper.app
        session: str | None = None
        while True:
            try:
                if session is None:
                    session = await app.new_session()
                answer = await app.subscribe(session, self.feed, self._mids, _PATIENT)
            except CloudflareError as error:
                logger.debug("no media of %s yet: %s", self._label, error)
                self._keeper.suspect(error)
                session = None
            else:
                if mids := answer.good().values():
                    self._keeper.close_tracks(session, mids)
                    return
            await trio.sleep(_LOOK)


class CloudflareViewing(_Session, Viewing):
    """A viewer's session."""

    def __init__(self, keeper: Keeper, feed: str) -> None:
        """Begin without a request."""
        super().__init__(keeper)
        self._of = feed
        #: Whether an offer waits for its answer, and whether there was an answer.
        self._is_offered = self._is_answered = False
        self._changed = trio.Event()
        #: Tracks that the viewer does not get yet, and when each was first seen.
        self._seen: dict[str, float] = {}

    async def offer(self) -> str:
        """Return the app's offer."""
        with self._in_time():
            async with self._lock:
                if self._session is not None:
                    raise RelayError("there was an offer already")
                app = self._keeper.app
                names = self._keeper.known_names(self._of) or await names_of(app, self._of)
                if not names:
                    raise RelayError("the broadcast has no media")
                self._session = session = await app.new_session()
                offer = self._take(await app.subscribe(session, self._of, names))
                self._feed = self._keeper.follow(self._of, self)
                self._keeper.start(self, self._watch)
        return offer

    async def answer(self, sdp: str) -> None:
        """Pass on the viewer's answer."""
        with self._in_time():
            async with self._lock:
                if self._session is None or not self._is_offered:
                    raise RelayError("there is no offer to answer")
                await self._keeper.app.renegotiate(self._session, "answer", sdp)
                self._is_offered = False
        if self._is_over:
            return
        if not self._is_answered:
            self._is_answered = True
            self._tell(Up())
        self._changed.set()

    def adapt(self) -> None:
        """Wake the task that changes the tracks."""
        self._changed.set()

    def _take(self, answer: Answer) -> str:
        """Record the tracks of an answer; return the offer with them."""
        offer = in_one_stream(answer.description("offer"), _STREAM)
        self._mids |= answer.good()
        self._is_offered = True
        return offer

    async def _watch(self) -> None:
        with self._scope:
            while True:
                with trio.move_on_after(uniform(0.5, 1.0) * VIEWER):  # noqa: S311
                    await self._changed.wait()
                self._changed = trio.Event()
                try:
                    async with self._lock:
                        await self._look()
                except RelayError as error:
                    logger.debug("a viewer does not get new tracks yet: %s", error)
                except CloudflareError as error:
                    self._fail(error)

    async def _look(self) -> None:
        session, app = self._session, self._keeper.app
        assert session is not None  # noqa: S101  it offered
        state = await app.state(session)
        if self._is_offered:
            return  # the offer must be answered first
        if not state.active("remote"):
            self.lose("the viewer's connection to the media server has ended")
            return
        names = self._feed.names if self._feed is not None else None
        if names is None:
            return
        missing = sorted(names - self._mids.keys())
        for old in self._mids.keys() - names:
            mid = self._mids[old]
            new = next((name for name in missing if _kind(name) == _kind(old)), None)
            if new is not None:
                await app.replace(session, self._of, {new: mid})
                self._mids[new] = mid
                missing.remove(new)
            else:
                await app.close(session, [mid])
            del self._mids[old]
        # A track of a kind that the viewer has may soon replace the old one.
        now, kinds = trio.current_time(), {_kind(name) for name in self._mids}
        self._seen = {name: self._seen.get(name, now) for name in missing}
        added = [
            name
            for name, since in self._seen.items()
            if _kind(name) not in kinds or now >= since + _SETTLING
        ]
        if added:
            offer = self._take(await app.subscribe(session, self._of, added))
            self._tell(Offered(offer))


def _kind(name: str) -> str:
    return name.partition("-")[0]
