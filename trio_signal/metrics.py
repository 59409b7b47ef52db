"""Metrics: counters of this server. Other values are read when metrics are requested.

The counters are plain ints in dictionaries that are made in advance, so a message costs one
addition.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import trio

from trio_signal.dialects import DIALECTS, OTHER, Dialect
from trio_signal.errors import CloseCode, Reason
from trio_signal.messages.commands import ReportQuality
from trio_signal.messages.events import NotResumedReason, Refusal

#: Close codes of connections that end without one of ours: RFC 6455 section 7.1.5.
NO_CODE = 1005
BROKEN_OFF = 1006

#: Seconds between two measurements of the event loop's delay.
LAG_INTERVAL = 0.1

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_ROUND_TRIPS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
_PEERS = (1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0)


class Histogram:
    """A histogram: the number of values up to each bound."""

    def __init__(self, bounds: Sequence[float] = _SECONDS) -> None:
        """Start at 0; the bounds ascend."""
        self._bounds = bounds
        #: One more than there are bounds: the last one counts the values above all bounds.
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    @property
    def mean(self) -> float | None:
        """The mean of the values; None if there is none."""
        count = sum(self._counts)
        return self.sum / count if count else None

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Each bound as text, the last one `+Inf`, and the number of values up to it."""
        counted, buckets = 0, []
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            counted += count
            buckets.append((str(bound), float(counted)))
        return buckets


class Metrics:
    """The counters of one server. Labels come from fixed lists, whatever clients send."""

    def __init__(self) -> None:
        """Start at 0."""
        self.refused: dict[Reason | Refusal, int] = dict.fromkeys((*Reason, *Refusal), 0)
        self.closed: dict[int | str, int] = {
            **dict.fromkeys(map(int, CloseCode), 0),
            **{NO_CODE: 0, BROKEN_OFF: 0, OTHER: 0},
        }
        #: Sessions that were resumed, the messages that they got again, and failures by reason.
        self.resumed = self.replayed = 0
        #: Sessions that arrived from other replicas, moved there, and were parked for one.
        self.moved: dict[str, int] = dict.fromkeys(("here", "away", "parked"), 0)
        self.not_resumed = dict.fromkeys(NotResumedReason, 0)
        #: By dialect, the messages from clients, by type.
        self.messages_in: dict[str, dict[str, int]] = {
            name: dict.fromkeys((*sorted(_types(dialect)), OTHER), 0)
            for name, dialect in DIALECTS.items()
        }
        #: By dialect, the messages to clients. The types are those that its encoder writes.
        self.messages_out: dict[str, defaultdict[bytes, int]] = {
            name: defaultdict(int) for name in DIALECTS
        }
        #: How many peers of this replica received the same encoded event.
        self.fan_out: Final = Histogram(_PEERS)
        self.loop_lag: Final = Histogram()
        #: Call quality, as browser clients report it; see `ReportQuality`.
        self.calls: dict[str, int] = dict.fromkeys(
            ("checked", "silent", "connected", "relayed", "failed"), 0
        )
        self.quality_reports = 0
        self.call_round_trip: Final = Histogram(_ROUND_TRIPS)
        #: By side, `broadcast` or `viewer`: connections to media servers that failed, by reason,
        #: and how long it took until media could flow.
        self.relay_failures: dict[tuple[str, str], int] = {
            (side, reason): 0
            for side in ("broadcast", "viewer")
            for reason in ("lost", "refused", "unanswered", "no_media", "not_connected")
        }
        self.relay_setup: Final = {side: Histogram() for side in ("broadcast", "viewer")}
        #: The results of webhooks: an attempt that `failed` is repeated.
        self.webhooks: dict[str, int] = dict.fromkeys(("delivered", "failed", "dropped"), 0)
        #: The results of requests for credentials from a hosted TURN service.
        self.turn_credentials: dict[str, int] = dict.fromkeys(("issued", "failed"), 0)

    def count_refused(self, reason: Reason | Refusal) -> None:
        """Count a refusal."""
        self.refused[reason] += 1

    def count_closed(self, code: int) -> None:
        """Count the end of a WebSocket; clients may close with codes of their own."""
        self.closed[code if code in self.closed else OTHER] += 1

    def count_quality(self, report: ReportQuality) -> None:
        """Count a client's report about the quality of its calls."""
        self.quality_reports += 1
        for name in self.calls:
            self.calls[name] += getattr(report, name)
        for seconds in report.round_trips:
            self.call_round_trip.observe(seconds)

    async def watch_loop(self) -> None:
        """Measure the event loop's delay ten times a second, until cancelled."""
        while True:
            due = trio.current_time() + LAG_INTERVAL
            await trio.sleep_until(due)
            self.loop_lag.observe(trio.current_time() - due)


def label_of(reason: Reason | Refusal | NotResumedReason) -> str:
    """The label of a reason: `room_full`."""
    return reason.name.lower()


def _types(dialect: type[Dialect]) -> set[str]:
    """The types of messages that clients of a dialect may send."""
    return {*dialect.reader.names.values(), *dialect.words}
