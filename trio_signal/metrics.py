"""What is counted as it happens; what can be looked up is read when metrics are asked for."""

from prometheus_client import CollectorRegistry, Counter

from trio_signal.errors import CloseCode, Reason
from trio_signal.messages import Refusal

#: How a connection can end without a close code of ours: RFC 6455 section 7.1.5.
NO_CODE = 1005
BROKEN_OFF = 1006


class Metrics:
    """The counters of one server. Labels come from fixed lists, whatever clients send."""

    def __init__(self) -> None:
        """Begin with zeros."""
        self.registry = CollectorRegistry()
        refused = Counter(
            "trio_signal_refused",
            "What clients asked for and did not get",
            ["reason"],
            registry=self.registry,
        )
        closed = Counter(
            "trio_signal_closed",
            "WebSockets that ended, by close code",
            ["code"],
            registry=self.registry,
        )
        self._refused = {reason: refused.labels(label_of(reason)) for reason in (*Reason, *Refusal)}
        self._closed = {
            int(code): closed.labels(f"{int(code)}") for code in (*CloseCode, NO_CODE, BROKEN_OFF)
        }
        self._closed_otherwise = closed.labels("other")

    def count_refused(self, reason: Reason | Refusal) -> None:
        """Somebody was refused something."""
        self._refused[reason].inc()

    def count_closed(self, code: int) -> None:
        """A WebSocket ended; clients may close with codes of their own."""
        self._closed.get(code, self._closed_otherwise).inc()


def label_of(reason: Reason | Refusal) -> str:
    """The label of a reason: `room_full`."""
    return reason.name.lower()
