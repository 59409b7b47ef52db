"""Relay: media servers that carry a broadcast to more viewers than its broadcaster can.

Media never pass through this server: it negotiates for the media server. A driver speaks to one
media server, its node. Of a broadcast there is one `Ingest`, by which the broadcaster's media come
in, and one `Viewing` for each relayed viewer, by which they go out. What every driver promises:

- Who makes an ingest or a viewing closes it. `close` never blocks, and can be called from an exit
  of a plain `with`; the driver tells the node by itself, later. A viewing of an ingest that is
  closed is lost.
- The broadcaster offers and the node answers. To a viewer the node offers, and the viewer
  answers; a viewer's own offer is not looked at.
- A media server's leg belongs to one peer connection of the browser. After `Lost` it is closed,
  and a new one is made for a peer connection that is new as well: under a live one no leg is ever
  exchanged for another (a browser keeps its DTLS session, and gets no media).
- What is asked for in vain fails with `RelayError` within `DEADLINE` seconds. A node that is
  gone, or says nothing for so long, loses all its legs: each hears `Lost` once. Only where media
  do not depend on what is asked (Cloudflare), legs outlive silence; the node is degraded then.
- Descriptions are the text of an SDP; a candidate is what a browser's `RTCIceCandidate` is as
  JSON; None ends them.

See docs/relay.md.
"""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

import trio
from msgspec import Struct

#: Seconds for a media server to answer.
DEADLINE = 2.0


class RelayError(Exception):
    """The media server refuses, or cannot be reached; the text says which."""


class Up(Struct, frozen=True):
    """Media can flow between the browser and the node: ICE and DTLS are done."""


class Lost(Struct, frozen=True):
    """No media flow, nor will they: the leg is over."""

    reason: str


class Offered(Struct, frozen=True):
    """The node offers once more to a viewer, as the broadcaster's tracks have changed."""

    sdp: str


LegEvent = Up | Lost | Offered


class Leg(ABC):
    """One peer connection between a browser and a node; as a context manager it is closed."""

    #: What becomes of it; ends after `Lost`, and when it is closed.
    events: trio.MemoryReceiveChannel[LegEvent]

    @abstractmethod
    def candidate(self, candidate: object) -> None:
        """Hand on a candidate of the browser, or None for the end of them. Does not block."""

    @abstractmethod
    def close(self) -> None:
        """End it, and have the node forget it. Does not block; again does nothing."""

    def __enter__(self) -> Self:
        """It is closed on leaving."""
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()


class Ingest(Leg):
    """A broadcaster's media, on their way into the node."""

    #: By what viewings name it, on every replica; known once the first offer was answered.
    feed: str

    @abstractmethod
    async def offer(self, sdp: str) -> str:
        """The node's answer to the broadcaster's offer. Blocks for one question, or a few.

        The first one publishes, each later one changes what is published: other tracks, or an
        ICE restart. Raises RelayError.
        """


class Viewing(Leg):
    """A broadcast's media, on their way to one viewer."""

    @abstractmethod
    async def offer(self) -> str:
        """The node's first offer to the viewer. Blocks for one question, or a few.

        Raises RelayError, as when nothing comes in of that feed.
        """

    @abstractmethod
    async def answer(self, sdp: str) -> None:
        """Hand on the viewer's answer to the last offer. Blocks for a question.

        Raises RelayError.
        """


class Node(ABC):
    """One media server, as this replica reaches it. Run by whoever made it."""

    #: How replicas and operators name it: its URL, without what is secret.
    name: str

    @property
    @abstractmethod
    def degraded(self) -> str | None:
        """Why it cannot be used now; None if it can."""

    @abstractmethod
    async def run(self) -> None:
        """Be connected to it, again and again, until cancelled. Raises nothing for its faults."""

    async def probe(self) -> str:
        """What it is, in words, asked once for the doctor; needs no `run`. Raises RelayError.

        One that cannot be asked says nothing.
        """
        await trio.lowlevel.checkpoint()
        return ""

    @abstractmethod
    def ingest(self, label: str) -> Ingest:
        """A place for a broadcast that nobody else has. Does not block; `label` is for logs."""

    @abstractmethod
    def view(self, feed: str) -> Viewing:
        """A place for one more viewer of a feed that some replica has. Does not block."""
