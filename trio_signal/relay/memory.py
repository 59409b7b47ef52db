"""A media server in memory, for tests: it carries nothing, and fails as it is told to."""

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

#: How many events of a leg wait for who has it.
_EVENTS = 16


class MemoryServer:
    """One media server, which all replicas of a process reach under its name."""

    def __init__(self, name: str) -> None:
        """Make one that works."""
        self.name = name
        #: What comes in by its feed, and what goes out.
        self.ingests: dict[str, MemoryIngest] = {}
        self.viewings: list[MemoryViewing] = []
        #: Whether it is gone; or there, and says nothing.
        self.is_down = self.is_silent = False
        #: Why it refuses everything, if it does.
        self.refuses: str | None = None
        #: Whether media flow as soon as both sides have described themselves.
        self.connects = True
        self._numbers = count(1)

    def number(self) -> int:
        """A number that nothing here had before."""
        return next(self._numbers)

    def crash(self) -> None:
        """Be gone, and all legs with it."""
        self.is_down = True
        legs: list[_MemoryLeg] = [*self.viewings, *self.ingests.values()]
        for leg in legs:
            leg.lose("the media server is gone")

    def restart(self) -> None:
        """Be there again, and know nothing."""
        self.is_down = self.is_silent = False

    async def answer(self) -> None:
        """Take the time of a question; raises RelayError."""
        await trio.lowlevel.checkpoint()
        if self.is_silent:
            await trio.sleep(DEADLINE)
            raise RelayError("the media server does not answer")
        if self.is_down:
            raise RelayError("the media server is gone")
        if self.refuses is not None:
            raise RelayError(self.refuses)


class _MemoryLeg:
    """What an ingest and a viewing have in common."""

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.number = server.number()
        #: What the browser said.
        self.descriptions: list[str] = []
        self.candidates: list[object] = []
        self.is_closed = False
        self._events, self.events = trio.open_memory_channel[LegEvent](_EVENTS)

    def candidate(self, candidate: object) -> None:
        """Keep a candidate of the browser."""
        self.candidates.append(candidate)

    def happen(self, event: LegEvent) -> None:
        """Tell who has it."""
        if not self.is_closed:
            self._events.send_nowait(event)

    def lose(self, reason: str) -> None:
        """Carry nothing any more."""
        self.happen(Lost(reason))
        self.close()

    def close(self) -> None:
        """Be forgotten."""
        self.is_closed = True
        self._events.close()

    def connect(self) -> None:
        """Media can flow, if the server connects at all."""
        if self.server.connects:
            self.happen(Up())

    def describe(self, kind: str, feed: str) -> str:
        """The text of an SDP, which names the feed and the leg."""
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
        """Take an offer in; the answer names the feed."""
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
        """No more comes in of its feed: who views it loses that."""
        super().close()
        feed = getattr(self, "feed", None)
        if feed is not None and self.server.ingests.pop(feed, None) is self:
            for viewing in [v for v in self.server.viewings if v.feed == feed]:
                viewing.lose("the broadcaster is gone")


class MemoryViewing(_MemoryLeg, Viewing):
    """See `Viewing`."""

    def __init__(self, server: MemoryServer, feed: str) -> None:
        """View a feed, once it is asked for an offer."""
        super().__init__(server)
        self.feed = feed

    async def offer(self) -> str:
        """Offer what comes in of the feed."""
        await self.server.answer()
        if self.feed not in self.server.ingests:
            raise RelayError("nothing comes in of this feed")
        if not self.is_closed:
            self.server.viewings.append(self)
        return self.describe("offer", self.feed)

    async def answer(self, sdp: str) -> None:
        """Take the viewer's answer."""
        await self.server.answer()
        self.descriptions.append(sdp)
        if len(self.descriptions) == 1:
            self.connect()

    def offer_again(self) -> None:
        """The broadcaster's tracks have changed."""
        self.happen(Offered(self.describe("offer", self.feed)))

    def close(self) -> None:
        """Be forgotten."""
        super().close()
        if self in self.server.viewings:
            self.server.viewings.remove(self)


class MemoryNode(Node):
    """One server, as a replica reaches it."""

    def __init__(self, server: MemoryServer) -> None:
        """Reach this server."""
        self.server = server
        self.name = f"memory:{server.name}"

    @property
    def degraded(self) -> str | None:
        """It is known at once when it is gone, and when it says nothing."""
        if self.server.is_down:
            return "it is gone"
        return "it does not answer" if self.server.is_silent else None

    async def run(self) -> None:
        """There is nothing to connect to."""
        await trio.sleep_forever()

    def ingest(self, label: str) -> MemoryIngest:
        """A place for a broadcast."""
        return MemoryIngest(self.server)

    def view(self, feed: str) -> MemoryViewing:
        """A place for a viewer."""
        return MemoryViewing(self.server, feed)


#: By name. A test takes one that no other has.
SERVERS: dict[str, MemoryServer] = {}


def server_named(name: str) -> MemoryServer:
    """The media server of this name, which begins to exist when it is asked for."""
    return SERVERS.setdefault(name, MemoryServer(name))


def open_memory_node(url: str, settings: Settings) -> MemoryNode:
    """A node for `memory:NAME`."""
    return MemoryNode(server_named(url.partition(":")[2]))
