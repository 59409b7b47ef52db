"""Relay: media servers that carry a broadcast to more viewers than its broadcaster can serve.

Media never pass through this server: it negotiates for the media server. A driver speaks to one
media server, called a node. Each broadcast has one `Ingest`, which receives the broadcaster's
media, and one `Viewing` per relayed viewer, which sends them on. Both are *legs*. Every driver
promises:

- The code that makes an ingest or a viewing closes it. `close` never blocks, and may be called when
  a plain `with` exits; the driver informs the node later. When an ingest is closed, its viewings
  are lost.
- The broadcaster offers and the node answers. The node offers to a viewer, who answers; a viewer's
  own offers are ignored.
- A leg belongs to one peer connection of the browser. After `Lost`, close it, and make a new leg
  for a new peer connection. A live peer connection cannot change its leg: the browser would keep
  its DTLS session, and get no media.
- A request without an answer fails with `RelayError` within `DEADLINE` seconds. A node that is
  gone, or silent for so long, loses all its legs: each gets `Lost` once. Only if media do not
  depend on requests (Cloudflare), legs survive the silence, and the node is degraded.
- Descriptions are SDP texts. A candidate is a browser's `RTCIceCandidate` as JSON; None ends the
  candidates.

See docs/relay.md.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import trio
from msgspec import Struct

#: Seconds for a media server to answer.
DEADLINE = 2.0


class RelayError(Exception):
    """The media server refuses, or cannot be reached; the text says why."""


class Up(Struct, frozen=True):
    """Media can flow between the browser and the node: ICE and DTLS are done."""


class Lost(Struct, frozen=True):
    """No media flow any more: the leg is over."""

    reason: str


class Offered(Struct, frozen=True):
    """The node makes a new offer to a viewer, because the broadcaster's tracks have changed."""

    sdp: str


LegEvent = Up | Lost | Offered


class Leg(ABC):
    """One peer connection between a browser and a node. As a context manager, closes itself."""

    #: State changes of the leg; ends after `Lost`, or when the leg is closed.
    events: trio.MemoryReceiveChannel[LegEvent]

    @abstractmethod
    def candidate(self, candidate: object) -> None:
        """Pass on a candidate of the browser, or None at their end. Does not block."""

    @abstractmethod
    def close(self) -> None:
        """Close the leg here and at the node. Does not block; safe to call again."""

    def __enter__(self) -> Self:
        """Return the leg, which is closed on exit."""
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
    """A broadcaster's media on the way into the node."""

    #: The name that viewings use, on every replica; known after the first answer.
    feed: str

    @abstractmethod
    async def offer(self, sdp: str) -> str:
        """Return the node's answer to the broadcaster's offer. Blocks for one or a few requests.

        The first offer publishes; each later one changes tracks, or restarts ICE. Raises
        RelayError.
        """


class Viewing(Leg):
    """A broadcast's media on the way to one viewer."""

    @abstractmethod
    async def offer(self) -> str:
        """Return the node's first offer to the viewer. Blocks for one or a few requests.

        Raises RelayError, for example if the feed receives no media.
        """

    @abstractmethod
    async def answer(self, sdp: str) -> None:
        """Pass on the viewer's answer to the last offer. Blocks for one request.

        Raises RelayError, for example if that offer was answered already.
        """


class Report(Struct, frozen=True):
    """What a node reports about itself."""

    says: str = ""
    #: By each address that it offers to browsers, whether it answers by UDP to this machine.
    addresses: Mapping[str, bool] = {}


class Node(ABC):
    """One media server, as this replica reaches it. The code that makes it runs it."""

    #: The node's name for replicas and operators: its URL without secrets.
    name: str

    @property
    @abstractmethod
    def degraded(self) -> str | None:
        """Why the node cannot be used now; None if it can."""

    @abstractmethod
    async def run(self) -> None:
        """Stay connected to the node until cancelled. Does not raise the node's errors."""

    async def probe(self) -> Report:
        """Describe the node, for the doctor; needs no `run`. Raises RelayError.

        The report is empty if the node cannot be probed.
        """
        await trio.lowlevel.checkpoint()
        return Report()

    @abstractmethod
    def ingest(self, label: str) -> Ingest:
        """Make the ingest of a new broadcast. Does not block; `label` is for logs."""

    @abstractmethod
    def view(self, feed: str) -> Viewing:
        """Make a viewing of a feed, which any replica may have made. Does not block."""
