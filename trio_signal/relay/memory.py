"""A media server in memory, for tests: it carries no media, and fails on demand."""

from itertools import count

import trio

from trio_signal.config import Settings
from trio_signal.relay import (
    DEADLINE,
    Ingest,
    LegEvent,
    Lost,
    Node,
    Offered,
    RelayError,
    Up,
    Viewing,
)

#: How many events of a leg may be unread.
_EVENTS = 16


class MemoryServer:
    """One media server, which all replicas of a process share by its name."""

    def __init__(self, name: str) -> None:
        """Make a working server."""
        self.name = name
        #: Ingests by feed, and viewings.
        self.ingests: dict[str, MemoryIngest] = {}
        self.viewings: list[MemoryViewing] = []
        #: Whether the server is gone, or running but silent.
        self.is_down = self.is_silent = False
        #: Why it refuses all requests; None if it does not.
        self.refuses: str | None = None
        #: Whether media flow as soon as both sides have described themselves.
        self.connects = True
        self._numbers = count(1)

    def number(self) -> int:
        """A number that this server has not used before."""
        return next(self._numbers)

    def crash(self) -> None:
        """Stop, and lose all legs."""
        self.is_down = True
        legs: list[_MemoryLeg] = [*self.viewings, *self.ingests.values()]
        for leg in legs:
            leg.lose("the media server is gone")

    def restart(self) -> None:
        """Start again, without any state."""
        self.is_down = self.is_silent = False

    async def answer(self) -> None:
        """Take as long as a request does; raises RelayError."""
        await trio.lowlevel.checkpoint()
        if self.is_silent:
            await trio.sleep(DEADLINE)
            raise RelayError("the media server does not answer")
        if self.is_down:
            raise RelayError("the media server is gone")
        if self.refuses is not None:
            raise RelayError(self.refuses)


class _MemoryLeg:
    """The common part of ingests and viewings."""

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.number = server.number()
        #: The browser's descriptions.
        self.descriptions: list[str] = []
        self.candidates: list[object] = []
        self.is_closed = False
        self._events, self.events = trio.open_memory_channel[LegEvent](_EVENTS)

    def candidate(self, candidate: object) -> None:
        """Record a candidate of the browser."""
        self.candidates.append(candidate)

    def happen(self, event: LegEvent) -> None:
        """Deliver an event to the leg's owner."""
        if not self.is_closed:
            self._events.send_nowait(event)

    def lose(self, reason: str) -> None:
        """Lose the leg."""
        self.happen(Lost(reason))
        self.close()

    def close(self) -> None:
        """Remove the leg."""
        self.is_closed = True
        self._events.close()

    def connect(self) -> None:
        """Let media flow, if the server connects at all."""
        if self.server.connects:
            self.happen(Up())

    def describe(self, kind: str, feed: str) -> str:
        """An SDP text that names the feed and the leg."""
        lines = (
            *("v=0", f"o=- {self.number} {len(self.descriptions) + 1} IN IP4 127.0.0.1"),
            *(f"s={kind} of {feed}", "t=0 0", "a=ice-ufrag:relay"),
            f"a=ice-pwd:{self.number:024}",
            *("m=video 9 UDP/TLS/RTP/SAVPF 96", "a=msid:relay video"),
        )
        return "".join(f"{line}\r\n" for line in lines)


class MemoryIngest(_MemoryLeg, Ingest):
    """See `Ingest`."""

    async def offer(self, sdp: str) -> str:
        """Process an offer; the answer names the feed."""
        await self.server.answer()
        if not self.descriptions:
            self.feed = f"feed-{self.number}"
            self.server.ingests[self.feed] = self
            self.connect()
        self.descriptions.append(sdp)
        for viewing in self.server.viewings:
            if viewing.feed == self.feed and len(self.descriptions) > 1:
                viewing.offer_again()
        return self.describe("answer", self.feed)

    def close(self) -> None:
        """Remove the ingest; its viewings are lost."""
        super().close()
        feed = getattr(self, "feed", None)
        if feed is not None and self.server.ingests.pop(feed, None) is self:
            for viewing in [v for v in self.server.viewings if v.feed == feed]:
                viewing.lose("the broadcaster is gone")


class MemoryViewing(_MemoryLeg, Viewing):
    """See `Viewing`."""

    def __init__(self, server: MemoryServer, feed: str) -> None:
        """View a feed, once `offer` is called."""
        super().__init__(server)
        self.feed = feed
        #: Whether the last offer has no answer yet.
        self.is_offered = False

    async def offer(self) -> str:
        """Offer the feed's media."""
        await self.server.answer()
        if self.feed not in self.server.ingests:
            raise RelayError("the feed has no media")
        self.is_offered = True
        if not self.is_closed:
            self.server.viewings.append(self)
        return self.describe("offer", self.feed)

    async def answer(self, sdp: str) -> None:
        """Process the viewer's answer."""
        await self.server.answer()
        if not self.is_offered:
            raise RelayError("there is no offer to be answered")
        self.is_offered = False
        self.descriptions.append(sdp)
        if len(self.descriptions) == 1:
            self.connect()

    def offer_again(self) -> None:
        """The broadcaster's tracks have changed: offer again."""
        self.is_offered = True
        self.happen(Offered(self.describe("offer", self.feed)))

    def close(self) -> None:
        """Remove the viewing."""
        super().close()
        if self in self.server.viewings:
            self.server.viewings.remove(self)


class MemoryNode(Node):
    """A server, as one replica reaches it."""

    def __init__(self, server: MemoryServer) -> None:
        """Use this server."""
        self.server = server
        self.name = f"memory:{server.name}"

    @property
    def degraded(self) -> str | None:
        """Why the server cannot be used; a failure is known at once."""
        if self.server.is_down:
            return "it is gone"
        return "it does not answer" if self.server.is_silent else None

    async def run(self) -> None:
        """There is nothing to connect to."""
        await trio.sleep_forever()

    def ingest(self, label: str) -> MemoryIngest:
        """Make an ingest."""
        return MemoryIngest(self.server)

    def view(self, feed: str) -> MemoryViewing:
        """Make a viewing."""
        return MemoryViewing(self.server, feed)


#: Servers by name; each test uses a new name.
SERVERS: dict[str, MemoryServer] = {}


def server_named(name: str) -> MemoryServer:
    """Return the media server of this name; create it if necessary."""
    return SERVERS.setdefault(name, MemoryServer(name))


def open_memory_node(url: str, settings: Settings) -> MemoryNode:
    """A node for `memory:NAME`."""
    return MemoryNode(server_named(url.partition(":")[2]))
