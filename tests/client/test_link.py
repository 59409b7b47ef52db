"""Two links over a simulated wire: offers cross, signals are lost, candidates wait.

The peer connections are aiortc's, over loopback.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import pytest
from aiortc import MediaStreamTrack
from aiortc.mediastreams import VideoStreamTrack

from tests.clients import PATIENCE
from trio_signal.client import link as link_module
from trio_signal.client.link import Kind, Link

Signal = tuple[Kind, dict[str, Any]]


class Side:
    """One of the two peers."""

    def __init__(self, *, polite: bool, sends: bool) -> None:
        self.outbox = asyncio.Queue[Signal]()
        self.made: list[MediaStreamTrack] = []
        self.tracks = asyncio.Queue[MediaStreamTrack]()
        self._sends = sends
        self.link = Link(
            [],
            polite=polite,
            tell=lambda kind, payload: self.outbox.put_nowait((kind, payload)),
            send=self._make,
            receives=not sends,
            connected=self._connected,
        )

    def _connected(self, tracks: Sequence[MediaStreamTrack]) -> None:
        for track in tracks:
            self.tracks.put_nowait(track)

    def _make(self) -> list[MediaStreamTrack]:
        if not self._sends:
            return []
        self.made.append(VideoStreamTrack())
        return [self.made[-1]]


#: How candidates are sent: in the description, or separately before or after it.
Trickle = Literal["in", "before", "behind"]


async def carry(source: Side, target: Side, lost: set[int], trickle: Trickle) -> None:
    """Deliver signals, except for those with these numbers."""
    number = 0
    while True:
        kind, payload = await source.outbox.get()
        if number not in lost:
            candidates = take_out_candidates(payload) if trickle != "in" else []
            signals: list[Signal] = [("candidate", candidate) for candidate in candidates]
            signals.insert(0 if trickle == "behind" else len(signals), (kind, payload))
            for signal in signals:
                target.link.hear(*signal)
        number += 1


def take_out_candidates(description: dict[str, Any]) -> list[dict[str, Any]]:
    """Remove the candidates from a description, and return them as a browser sends them."""
    lines = description["sdp"].splitlines()
    of_candidates = ("a=candidate:", "a=end-of-candidates")
    description["sdp"] = "".join(
        f"{line}\r\n" for line in lines if not line.startswith(of_candidates)
    )
    signed: dict[str, Any] = {
        name: description[name] for name in ("session", "re") if name in description
    }
    texts = [line.removeprefix("a=") for line in lines if line.startswith("a=candidate:")]
    return [{"candidate": text, "sdpMid": "0", "sdpMLineIndex": 0, **signed} for text in texts]


def meet(
    polite_sends: bool,
    begin: Callable[[Side, Side], None],
    lost: tuple[set[int], set[int]],
    trickle: Trickle,
) -> None:
    """Connect a sender and a viewer, until the viewer has received a frame."""

    async def run() -> None:
        sender = Side(polite=polite_sends, sends=True)
        viewer = Side(polite=not polite_sends, sends=False)
        tasks = [
            asyncio.ensure_future(work)
            for work in (
                *(sender.link.run(), viewer.link.run()),
                carry(sender, viewer, lost[0], trickle),
                carry(viewer, sender, lost[1], trickle),
            )
        ]
        begin(sender, viewer)
        async with asyncio.timeout(PATIENCE):
            track = await viewer.tracks.get()
            await track.recv()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not sender.link.is_up
        assert not viewer.link.is_up
        assert all(track.readyState == "ended" for track in sender.made)

    asyncio.run(run())


def sender_offers(sender: Side, _: Side) -> None:
    sender.link.open()


def viewer_offers(_: Side, viewer: Side) -> None:
    viewer.link.open()


def both_offer(sender: Side, viewer: Side) -> None:
    sender.link.open()
    viewer.link.open()


def viewer_comes_late(sender: Side, viewer: Side) -> None:
    """By then the sender has given up repeating its offer, which nobody has heard."""
    sender.link.open()
    asyncio.get_running_loop().call_later(1.5, viewer.link.open)


def sender_is_asked(sender: Side, _: Side) -> None:
    sender.link.hear("offer", {"type": "request", "session": "another"})


def sender_is_asked_late(sender: Side, viewer: Side) -> None:
    sender.link.open()
    asyncio.get_running_loop().call_later(1.5, sender_is_asked, sender, viewer)


def nonsense_comes_first(sender: Side, viewer: Side) -> None:
    nonsense: Iterable[Any] = (None, [], {}, {"sdp": 1}, {"sdp": "v=0"}, {"candidate": "x"})
    for payload in nonsense:
        for kind in ("offer", "answer", "candidate"):
            viewer.link.hear(kind, payload)
    sender.link.open()


NOTHING: tuple[set[int], set[int]] = (set(), set())


@pytest.mark.parametrize(
    ("begin", "lost", "trickle"),
    [
        (sender_offers, NOTHING, "in"),
        (sender_offers, NOTHING, "before"),
        (sender_offers, NOTHING, "behind"),
        (viewer_offers, NOTHING, "in"),
        (both_offer, NOTHING, "behind"),
        (both_offer, ({0}, {0}), "in"),
        (both_offer, ({0, 1}, set()), "in"),
        (both_offer, (set(), {0, 1}), "in"),
        (viewer_comes_late, (set(range(5)), set()), "in"),
        (sender_is_asked, NOTHING, "in"),
        (sender_is_asked_late, (set(range(5)), set()), "in"),
        (nonsense_comes_first, NOTHING, "in"),
    ],
)
@pytest.mark.parametrize("polite_sends", [True, False])
def test_two_peers_connect(
    polite_sends: bool,
    begin: Callable[[Side, Side], None],
    lost: tuple[set[int], set[int]],
    trickle: Trickle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link_module, "_ANSWER_WITHIN", 0.2)
    meet(polite_sends, begin, lost, trickle)
