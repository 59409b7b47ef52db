"""The legs of broadcasts at a Janus.

A broadcast is a room with one publisher. The room's pin is part of the feed, so whoever knows the
feed may watch, on any replica. Janus does not inform subscribers about the publisher's tracks. So
each replica has one participant in the room that publishes nothing and receives these events.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

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
from trio_signal.relay.janus import words
from trio_signal.relay.janus.connection import Handle, RefusedError, Session
from trio_signal.relay.janus.words import Feed, Message

#: Seconds for a broadcaster that has closed its peer connection to offer again; otherwise it is
#: gone.
COMES_BACK = 3.0
#: Seconds from the end of a peer connection until Janus has closed its ICE agent, which it does
#: later and does not report (`nice_agent_close_async` in its `ice.c`).
_CLOSING = 0.1
#: Seconds for an announced broadcast to appear.
PUBLISHED_WITHIN = 1.0
#: Seconds after a broadcast within which all replicas detach the handles of its viewers.
_EMPTY_AFTER = 1.0
#: How many events may be unread: each change of the tracks makes a few.
_EVENTS = 16


@contextmanager
def in_time() -> Iterator[None]:
    """A deadline for all requests of one call; raises RelayError after `DEADLINE`."""
    try:
        with trio.fail_after(DEADLINE):
            yield
    except trio.TooSlowError:
        raise RelayError(f"the media server has not answered within {DEADLINE:g} s") from None


def _description(message: Message, kind: str) -> str:
    """The SDP in an answer; raises RelayError if there is none of this kind, or it is no use."""
    if message.jsep is None or message.jsep.type != kind:
        raise RelayError(f"the media server has sent no {kind}")
    if not words.has_credentials(message.jsep.sdp):
        raise RelayError(f"the {kind} of the media server has no ICE credentials")
    return message.jsep.sdp


class _Side(Leg):
    """The common part of ingests and viewings: a handle, and a receiver of events."""

    def __init__(self, session: Session) -> None:
        """Use a session, which may be over."""
        self._session = session
        self._handle = Handle(session, self)
        self._send, self.events = trio.open_memory_channel[LegEvent](_EVENTS)
        self._closed = False

    def candidate(self, candidate: object) -> None:
        """Pass on a candidate; anything else is dropped."""
        if (found := words.candidate(candidate)) is not None:
            self._handle.trickle(found)

    def close(self) -> None:
        """Detach the handle, and send no more events."""
        self._closed = True
        self._send.close()
        self._handle.close()

    def put(self, event: LegEvent) -> None:
        """Send an event; if too many are unread, the leg is lost."""
        if self._closed:
            return
        if self._send.statistics().current_buffer_used < _EVENTS - 1:
            self._send.send_nowait(event)
        else:
            self.lost("its events are not read")

    def lost(self, reason: str) -> None:
        """The handle or the whole session is gone."""
        if not self._closed:
            self._send.send_nowait(Lost(reason))
            self.close()

    def heard(self, message: Message) -> None:
        """Process a message of Janus about the handle."""
        match message.janus:
            case "webrtcup":
                self.put(Up())
            case "hangup":
                self._hung_up(message.reason or "the media server has hung up")
            case "detached":
                self.lost("the media server has removed the handle")
            case "event" if message.room.videoroom == "destroyed":
                self.lost("the broadcast is over")
            case "event":
                self._told(message)

    def _hung_up(self, reason: str) -> None:
        """There is no peer connection any more."""
        self.lost(reason)

    def _told(self, message: Message) -> None:
        """Process a message of the plugin."""


class JanusIngest(_Side, Ingest):
    """A broadcaster's handle, and its room."""

    def __init__(self, session: Session, *, bitrate: int, rooms: set[int]) -> None:
        """An unpublished broadcast; its room is in `rooms` while it exists."""
        super().__init__(session)
        self.feed = ""
        self._room, self._pin, self._creation = words.new_room(bitrate)
        self._rooms = rooms
        #: The certificates of the peer connection that publishes; None if none does.
        self._publishing: frozenset[str] | None = None
        #: Set when the previous peer connection is gone, if a task waits for that.
        self._gone: trio.Event | None = None
        #: When the last peer connection ended (Trio's clock).
        self._ended = float("-inf")

    async def offer(self, sdp: str) -> str:
        """Publish, or change what is published; a new peer connection replaces the old one."""
        with in_time():
            if not self.feed:
                answer = await self._publish(sdp)
            elif words.fingerprints(sdp) == self._publishing:
                answer = await self._handle.ask({"request": "configure"}, offer=sdp)
            else:
                answer = await self._publish_again(sdp)
        return _description(answer, "answer")

    async def _publish(self, sdp: str) -> Message:
        await self._handle.attach()
        self._rooms.add(self._room)
        try:
            await self._session.control.ask(self._creation)
        except RefusedError as error:
            if error.code != words.ROOM_EXISTS:  # otherwise we have created it before
                raise
        self._publishing = words.fingerprints(sdp)
        join = {"request": "joinandconfigure", "ptype": "publisher"}
        answer = await self._handle.ask({**join, "room": self._room, "pin": self._pin}, offer=sdp)
        if (publisher := answer.room.id) is None:
            raise RelayError("the media server's answer names no feed")
        self.feed = str(Feed(self._room, publisher, self._pin))
        return answer

    async def _publish_again(self, sdp: str) -> Message:
        """Publish on the same handle, so that viewers keep theirs."""
        if self._publishing is not None:
            self._gone = trio.Event()
            await self._handle.ask({"request": "unpublish"})
            await self._gone.wait()
            self._gone = None
        # Until Janus has closed the previous ICE agent, it may mix up both.
        await trio.sleep_until(self._ended + _CLOSING)
        self._publishing = words.fingerprints(sdp)
        return await self._handle.ask({"request": "publish"}, offer=sdp)

    def _hung_up(self, reason: str) -> None:
        self._publishing, self._ended = None, trio.current_time()
        if self._gone is not None:
            self._gone.set()
        elif reason == words.CLOSED_BY_BROWSER:
            self._session.start_soon(self._wait_for_offer)
        else:
            self.lost(reason)

    async def _wait_for_offer(self) -> None:
        """Wait for a new peer connection: a page that changes cameras may make one."""
        await trio.sleep(COMES_BACK)
        if self._publishing is None:
            self.lost("the broadcaster has closed its peer connection")

    def close(self) -> None:
        """Remove the room as well; without a connection, the owner of `rooms` does it later."""
        is_open = not self._closed
        super().close()
        if is_open:
            self._session.start_soon(self._remove)

    async def _remove(self) -> None:
        """Remove the room when the viewers' handles are gone.

        If a handle is detached while Janus 1.1.2 tells it of the room's end, Janus may crash.
        """
        await trio.sleep(_EMPTY_AFTER)
        if self._room in self._rooms:
            self._rooms.remove(self._room)
            self._session.control.tell({"request": "destroy", "room": self._room})


#: A publisher's tracks: how often it had stopped before, and the mid.
Tracks = frozenset[tuple[int, str]]


class JanusViewing(_Side, Viewing):
    """A viewer's handle."""

    def __init__(self, session: Session, *, feed: str, watchers: "Watchers") -> None:
        """A viewer without an offer."""
        super().__init__(session)
        self._feed = feed
        self._watchers = watchers
        self._watcher: Watcher | None = None
        self._subscribed: Tracks = frozenset()
        #: Whether there is an offer, or is about to be, without an answer yet.
        self._offered = False
        #: The certificates of the peer connection that has answered.
        self._answering: frozenset[str] | None = None

    async def offer(self) -> str:
        """Subscribe to all tracks."""
        feed = Feed.of(self._feed)
        self._watcher = self._watchers.enter(feed, self)
        with in_time():
            await self._handle.attach()
            tracks = await self._watcher.wait_published()
            offer = await self._handle.ask(
                {
                    "request": "join",
                    "ptype": "subscriber",
                    "room": feed.room,
                    "pin": feed.pin,
                    "streams": words.streams(feed, tracks),
                    # We request changes of the tracks ourselves, so that there is one offer at a
                    # time.
                    "autoupdate": False,
                }
            )
        self._subscribed, self._offered = tracks, True
        return _description(offer, "offer")

    async def answer(self, sdp: str) -> None:
        """Start with the viewer's answer, or continue with it."""
        if not self._offered:
            raise RelayError("there is no offer to be answered")
        answering = words.fingerprints(sdp)
        if self._answering not in (None, answering):
            # The browser would wait for ever for a handshake, which Janus has done with the
            # previous peer connection.
            raise RelayError("the viewer has answered with another peer connection")
        with in_time():
            await self._handle.ask({"request": "start"}, answer=sdp)
        self._answering, self._offered = answering, False
        self.follow()

    def follow(self) -> None:
        """Subscribe to the publisher's tracks if they have changed; one offer at a time."""
        if self._watcher is None or self._offered or self._answering is None:
            return
        tracks = self._watcher.tracks
        if tracks and tracks != self._subscribed:
            self._offered = True
            self._session.start_soon(self._update, self._watcher.feed, tracks)

    async def _update(self, feed: Feed, tracks: Tracks) -> None:
        now = {stops for stops, _ in tracks}
        changes = {
            "subscribe": tracks - self._subscribed,
            # Tracks from before the publisher stopped are gone already.
            "unsubscribe": {track for track in self._subscribed - tracks if track[0] in now},
        }
        update = {key: words.streams(feed, some) for key, some in changes.items() if some}
        try:
            with in_time():
                answer = await self._handle.ask({"request": "update", **update})
            sdp = _description(answer, "offer")
        except RelayError as error:
            self.lost(str(error))
        else:
            self._subscribed = tracks
            self.put(Offered(sdp))

    def _told(self, message: Message) -> None:
        if message.jsep is not None and message.jsep.type == "offer":
            self._offered = True
            self.put(Offered(message.jsep.sdp))

    def close(self) -> None:
        """Leave the watcher as well."""
        super().close()
        if self._watcher is not None:
            watcher, self._watcher = self._watcher, None
            watcher.leave(self)


class Watcher:
    """A participant of a broadcast's room that observes the publisher for a replica's viewers."""

    def __init__(self, session: Session, feed: Feed, forget: Callable[[], object]) -> None:
        """A watcher that `run` lets join. `forget` is called when it has ended."""
        self.feed = feed
        self.tracks: Tracks = frozenset()
        self._forget = forget
        self._handle = Handle(session, self)
        self._viewings: set[JanusViewing] = set()
        self._stops = 0
        self._changed = trio.Event()
        self._over: str | None = None

    async def run(self) -> None:
        """Join the room."""
        join = {"request": "join", "ptype": "publisher", "room": self.feed.room}
        try:
            with in_time():
                await self._handle.attach()
                self.heard(await self._handle.ask({**join, "pin": self.feed.pin}))
        except RefusedError as error:
            gone = error.code == words.NO_ROOM
            self.lost("the broadcast does not exist any more" if gone else str(error))
        except RelayError as error:
            self.lost(str(error))

    def enter(self, viewing: JanusViewing) -> None:
        """Add a viewing to notify of changes and of the end."""
        self._viewings.add(viewing)

    def leave(self, viewing: JanusViewing) -> None:
        """Remove a viewing; the watcher leaves with the last one."""
        self._viewings.discard(viewing)
        if not self._viewings:
            self.lost("nobody watches")

    async def wait_published(self) -> Tracks:
        """Wait until tracks are published, and return them.

        Raises RelayError if the broadcast is over, or nothing is published for a while.
        """
        with trio.move_on_after(PUBLISHED_WITHIN):
            while not self.tracks and self._over is None:
                await self._changed.wait()
        if not self.tracks:
            raise RelayError(self._over or "the broadcaster sends nothing there")
        return self.tracks

    def heard(self, message: Message) -> None:
        """Process an event of the publisher."""
        room, publisher = message.room, self.feed.publisher
        if message.janus == "detached" or room.videoroom == "destroyed":
            self.lost("the broadcast is over")
        elif room.leaving == publisher:
            self.lost("the broadcaster has left")
        elif room.unpublished == publisher:
            self._stops += 1
            self._change(frozenset())
        for found in room.publishers:
            if found.id == publisher:
                mids = (stream.mid for stream in found.streams if not stream.disabled)
                self._change(frozenset((self._stops, mid) for mid in mids))

    def _change(self, tracks: Tracks) -> None:
        self.tracks = tracks
        self._changed.set()
        self._changed = trio.Event()
        for viewing in self._viewings:
            viewing.follow()

    def lost(self, reason: str) -> None:
        """The watcher has ended, and with it its viewings."""
        if self._over is None:
            self._over = reason
            self._forget()
            self._handle.close()
            self._change(frozenset())
            for viewing in tuple(self._viewings):
                viewing.lost(reason)


class Watchers:
    """The watchers of one session, by feed."""

    def __init__(self, session: Session) -> None:
        """Begin empty."""
        self._session = session
        self._watchers: dict[Feed, Watcher] = {}

    def enter(self, feed: Feed, viewing: JanusViewing) -> Watcher:
        """Return the watcher of a feed; create it if necessary."""
        watcher = self._watchers.get(feed)
        if watcher is None:
            watcher = Watcher(self._session, feed, lambda: self._watchers.pop(feed, None))
            self._watchers[feed] = watcher
            self._session.start_soon(watcher.run)
        watcher.enter(viewing)
        return watcher
