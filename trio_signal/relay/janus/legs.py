"""The legs of broadcasts at a Janus.

A broadcast is a room with one publisher. Its pin is part of the feed, so whoever is told the feed
may watch, on any replica. Subscribers are not told what becomes of the publisher's tracks; so
each replica has one participant in the room that publishes nothing, and hears it.
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

#: Seconds for a broadcaster to offer again that has closed its peer connection: then it has gone.
COMES_BACK = 3.0
#: Seconds for a broadcast to be there that should be.
PUBLISHED_WITHIN = 1.0
#: Events that wait for whoever reads them: there are some for each change of the tracks.
_EVENTS = 16


@contextmanager
def in_time() -> Iterator[None]:
    """For the questions of one call; raises RelayError after `DEADLINE`."""
    try:
        with trio.fail_after(DEADLINE):
            yield
    except trio.TooSlowError:
        raise RelayError(f"the media server has not answered within {DEADLINE:g} s") from None


def _description(message: Message, kind: str) -> str:
    """The SDP that came with an answer; raises RelayError if there is none of this kind."""
    if message.jsep is None or message.jsep.type != kind:
        raise RelayError(f"the media server has sent no {kind}")
    return message.jsep.sdp


class _Side(Leg):
    """What an ingest and a viewing have in common: a handle, and somebody who is told."""

    def __init__(self, session: Session) -> None:
        """At a session, which may be over."""
        self._session = session
        self._handle = Handle(session, self)
        self._send, self.events = trio.open_memory_channel[LegEvent](_EVENTS)
        self._closed = False

    def candidate(self, candidate: object) -> None:
        """Hand on a candidate; what is none is dropped."""
        if (found := words.candidate(candidate)) is not None:
            self._handle.trickle(found)

    def close(self) -> None:
        """Detach the handle, and tell no more."""
        self._closed = True
        self._send.close()
        self._handle.close()

    def put(self, event: LegEvent) -> None:
        """Tell whoever reads the events; who does not read them loses the leg."""
        if self._closed:
            return
        if self._send.statistics().current_buffer_used < _EVENTS - 1:
            self._send.send_nowait(event)
        else:
            self.lost("its events are not read")

    def lost(self, reason: str) -> None:
        """It is over: the handle is, or the whole session."""
        if not self._closed:
            self._send.send_nowait(Lost(reason))
            self.close()

    def heard(self, message: Message) -> None:
        """Take what Janus tells of the handle."""
        match message.janus:
            case "webrtcup":
                self.put(Up())
            case "hangup":
                self._hung_up(message.reason or "the media server has hung up")
            case "detached":
                self.lost("the media server has forgotten it")
            case "event" if message.room.videoroom == "destroyed":
                self.lost("the broadcast is over")
            case "event":
                self._told(message)

    def _hung_up(self, reason: str) -> None:
        """There is no peer connection any more."""
        self.lost(reason)

    def _told(self, message: Message) -> None:
        """The plugin says something."""


class JanusIngest(_Side, Ingest):
    """A broadcaster's handle, and its room."""

    def __init__(self, session: Session, *, bitrate: int, rooms: set[int]) -> None:
        """A broadcast that is not published yet; its room is in `rooms` as long as it is made."""
        super().__init__(session)
        self.feed = ""
        self._room, self._pin, self._creation = words.new_room(bitrate)
        self._rooms = rooms
        #: By its certificates, the peer connection that publishes; None if none does.
        self._publishing: frozenset[str] | None = None
        #: Set when the one before is gone, if that is waited for.
        self._gone: trio.Event | None = None

    async def offer(self, sdp: str) -> str:
        """Publish, or change what is published: a new peer connection takes the old one's place."""
        with in_time():
            if not self.feed:
                answer = await self._publish(sdp)
            elif words.fingerprints(sdp) == self._publishing:
                answer = await self._handle.ask({"request": "configure"}, offer=sdp)
            else:
                answer = await self._publish_again(sdp)
        self._publishing = words.fingerprints(sdp)
        return _description(answer, "answer")

    async def _publish(self, sdp: str) -> Message:
        await self._handle.attach()
        self._rooms.add(self._room)
        try:
            await self._session.control.ask(self._creation)
        except RefusedError as error:
            if error.code != words.ROOM_EXISTS:  # else we have made it before
                raise
        join = {"request": "joinandconfigure", "ptype": "publisher"}
        answer = await self._handle.ask({**join, "room": self._room, "pin": self._pin}, offer=sdp)
        if (publisher := answer.room.id) is None:
            raise RelayError("the media server has not said which feed")
        self.feed = str(Feed(self._room, publisher, self._pin))
        return answer

    async def _publish_again(self, sdp: str) -> Message:
        """On the same handle, so that viewers keep theirs."""
        if self._publishing is not None:
            self._gone = trio.Event()
            await self._handle.ask({"request": "unpublish"})
            await self._gone.wait()
            self._gone = None
        return await self._handle.ask({"request": "publish"}, offer=sdp)

    def _hung_up(self, reason: str) -> None:
        self._publishing = None
        if self._gone is not None:
            self._gone.set()
        elif reason == words.CLOSED_BY_BROWSER:
            self._session.start_soon(self._wait_for_offer)
        else:
            self.lost(reason)

    async def _wait_for_offer(self) -> None:
        """A page that changes cameras may make a new peer connection."""
        await trio.sleep(COMES_BACK)
        if self._publishing is None:
            self.lost("the broadcaster has closed its peer connection")

    def close(self) -> None:
        """Remove the room as well; if there is no connection now, whoever has `rooms` does."""
        super().close()
        if self._session.ended is None and self._room in self._rooms:
            self._rooms.remove(self._room)
            self._session.control.tell({"request": "destroy", "room": self._room})


#: Tracks of a publisher: how often it had stopped before, and the mid.
Tracks = frozenset[tuple[int, str]]


class JanusViewing(_Side, Viewing):
    """A viewer's handle."""

    def __init__(self, session: Session, *, feed: str, watchers: "Watchers") -> None:
        """A viewer that has no offer yet."""
        super().__init__(session)
        self._feed = feed
        self._watchers = watchers
        self._watcher: Watcher | None = None
        self._subscribed: Tracks = frozenset()
        #: Whether Janus has offered, or is about to, and there is no answer yet.
        self._offered = False
        #: By its certificates, the peer connection that has answered.
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
                    # Changes of the tracks are ours to ask for, so there is one offer at a time.
                    "autoupdate": False,
                }
            )
        self._subscribed, self._offered = tracks, True
        return _description(offer, "offer")

    async def answer(self, sdp: str) -> None:
        """Start, or go on, with the viewer's answer."""
        if not self._offered:
            raise RelayError("there is no offer to be answered")
        answering = words.fingerprints(sdp)
        if self._answering not in (None, answering):
            # It would wait for ever for a handshake that Janus has done with the one before.
            raise RelayError("the viewer has answered with another peer connection")
        with in_time():
            await self._handle.ask({"request": "start"}, answer=sdp)
        self._answering, self._offered = answering, False
        self.follow()

    def follow(self) -> None:
        """Subscribe to other tracks, if the publisher has others; one offer after the other."""
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
            # Those from before it had stopped are gone by themselves.
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
        """Leave what tells of the tracks as well."""
        super().close()
        if self._watcher is not None:
            watcher, self._watcher = self._watcher, None
            watcher.leave(self)


class Watcher:
    """A participant of a broadcast's room, which hears of its publisher for a replica's viewers."""

    def __init__(self, session: Session, feed: Feed, forget: Callable[[], object]) -> None:
        """One that `run` lets join. `forget` is called when it is over."""
        self.feed = feed
        self.tracks: Tracks = frozenset()
        self._forget = forget
        self._handle = Handle(session, self)
        self._viewings: set[JanusViewing] = set()
        self._stops = 0
        self._changed = trio.Event()
        self._over: str | None = None

    async def run(self) -> None:
        """Join."""
        join = {"request": "join", "ptype": "publisher", "room": self.feed.room}
        try:
            with in_time():
                await self._handle.attach()
                self.heard(await self._handle.ask({**join, "pin": self.feed.pin}))
        except RefusedError as error:
            gone = error.code == words.NO_ROOM
            self.lost("the broadcast is not there any more" if gone else str(error))
        except RelayError as error:
            self.lost(str(error))

    def enter(self, viewing: JanusViewing) -> None:
        """One more viewer that hears of changes, and of the end."""
        self._viewings.add(viewing)

    def leave(self, viewing: JanusViewing) -> None:
        """One less; it leaves with the last one."""
        self._viewings.discard(viewing)
        if not self._viewings:
            self.lost("nobody watches")

    async def wait_published(self) -> Tracks:
        """What is published, as soon as something is.

        Raises RelayError if that is over, or not so for a while.
        """
        with trio.move_on_after(PUBLISHED_WITHIN):
            while not self.tracks and self._over is None:
                await self._changed.wait()
        if not self.tracks:
            raise RelayError(self._over or "the broadcaster sends nothing there")
        return self.tracks

    def heard(self, message: Message) -> None:
        """Take what becomes of the publisher."""
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
        """It is over, and so are its viewings."""
        if self._over is None:
            self._over = reason
            self._forget()
            self._handle.close()
            self._change(frozenset())
            for viewing in tuple(self._viewings):
                viewing.lost(reason)


class Watchers:
    """Those of one session, by feed."""

    def __init__(self, session: Session) -> None:
        """There are none yet."""
        self._session = session
        self._watchers: dict[Feed, Watcher] = {}

    def enter(self, feed: Feed, viewing: JanusViewing) -> Watcher:
        """The one for a feed, made if need be."""
        watcher = self._watchers.get(feed)
        if watcher is None:
            watcher = Watcher(self._session, feed, lambda: self._watchers.pop(feed, None))
            self._watchers[feed] = watcher
            self._session.start_soon(watcher.run)
        watcher.enter(viewing)
        return watcher
