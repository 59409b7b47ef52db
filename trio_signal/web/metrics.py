"""The metrics of `/metrics`, read from the hub and the counters at each request."""

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from trio_signal import __version__
from trio_signal.bus import BusStatistics
from trio_signal.config import Settings
from trio_signal.hub import Hub
from trio_signal.messages.identity import is_internal
from trio_signal.metrics import Histogram, Metrics, label_of
from trio_signal.relay.relays import Relays

#: Label values, and the number counted for them.
Values = Iterable[tuple[Sequence[str], float]]


class HubCollector(Collector):
    """The state of this replica: peers, rooms, and its connection to the others."""

    def __init__(self, hub: Hub, settings: Settings) -> None:
        """Read `hub` at each request."""
        self._hub = hub
        self._dialects = settings.dialects

    def collect(self) -> Iterator[Metric]:
        """Yield the current metrics."""
        hub = self._hub
        yield InfoMetricFamily(
            "trio_signal",
            "Version and replica",
            {"version": __version__, "replica": hub.bus.replica},
        )
        counts = Counter(each.dialect_name for each in hub.participants if not each.is_away)
        connections = [([name], counts[name]) for name in self._dialects]
        yield _gauges("connections", "Open WebSockets", ["dialect"], connections)
        away = len(hub.resuming.away)
        yield _gauge("sessions_away", "Sessions that wait for their clients to come back", away)
        kept = hub.resuming.kept_bytes
        yield _gauge("unconfirmed_bytes", "Bytes kept until clients confirm them", kept)
        rooms = [room for room in hub.rooms.values() if not is_internal(room.id)]
        yield _gauge("rooms", "Rooms with peers on this replica", len(rooms))
        peers = sum(len(room.peers) for room in rooms)
        yield _gauge("peers", "Peers of this replica, counted once for every room", peers)
        live = sum(member.peer_id in room.peers for room in rooms for member in room.live)
        yield _gauge("live", "Broadcasts of peers on this replica", live)
        names, mail = hub.names, hub.names.mailbox
        yield _gauge("names", "Ids of peerjs held on this replica", len(names))
        text = "Signals of peerjs that wait for their target or for a confirmation"
        yield _gauge("letters", text, len(mail))
        yield _gauge("letters_bytes", "Approximate memory of these in bytes", mail.size)
        text = "How often a peer of peerjs was told that its target is not connected"
        yield _counters("unreached", text, [], [([], names.unreached)])
        yield _gauge("topics", "Topics with subscribers on this replica", len(hub.topics))
        waiting = [each.waiting_bytes for each in hub.participants if each.waiting_bytes]
        yield _gauge("outbox_bytes", "Bytes queued for slow clients", sum(waiting))
        yield _gauge("outbox_clients", "Clients with queued bytes", len(waiting))
        yield _gauge("threads", "Threads of this process", threading.active_count())
        degraded = hub.degraded is not None
        yield _gauge("degraded", "1 while /readyz says degraded", int(degraded))
        text = "How often the members could not be written to the database"
        yield _counters("notes_failures", text, [], [([], hub.notes.failures)])
        left = hub.turn.seconds_left if hub.turn is not None else None
        text = "Seconds for which the hosted TURN service's credentials are still valid"
        yield _gauge("turn_credentials_seconds", text, left)
        if hub.relays is not None:
            yield from _of_relays(hub.relays)
        statistics = hub.bus.statistics()
        if statistics is not None:
            up = int(hub.bus.degraded is None)
            text = "1 if Redis is available and no room is stale, 0 while degraded"
            yield _gauge("redis_up", text, up)
            yield from _of_redis(statistics)


def _of_relays(relays: Relays) -> Iterator[Metric]:
    nodes = relays.nodes.all
    broadcasts, viewers = relays.counts()
    up = [([node.name], int(node.degraded is None)) for node in nodes]
    yield _gauges("relay_node_up", "1 for each media server that can be used", ["node"], up)
    text = "Broadcasts of peers on this replica that a media server carries"
    counts = [([node.name], broadcasts[node.name]) for node in nodes]
    yield _gauges("relayed_broadcasts", text, ["node"], counts)
    text = "Viewers on this replica that a media server serves"
    counts = [([node.name], viewers[node.name]) for node in nodes]
    yield _gauges("relayed_viewers", text, ["node"], counts)
    text = "Seconds from an offer until media could flow through a media server"
    setup = HistogramMetricFamily("trio_signal_relay_setup_seconds", text, labels=["side"])
    for side, histogram in relays.metrics.relay_setup.items():
        setup.add_metric([side], histogram.buckets(), histogram.sum)
    yield setup
    failed = [([*labels], count) for labels, count in relays.metrics.relay_failures.items()]
    text = "Connections to media servers that failed, by reason"
    yield _counters("relay_failures", text, ["side", "reason"], failed)


def _of_redis(bus: BusStatistics) -> Iterator[Metric]:
    connected = [(["commands"], bus.commands_connected), (["events"], bus.events_connected)]
    yield _gauges(
        "redis_connected", "1 for each connection to Redis that is up", ["connection"], connected
    )
    yield _counters(
        "redis_losses", "How often a connection to Redis was lost", [], [([], bus.losses)]
    )
    yield _gauge(
        "redis_round_trip_seconds", "Redis's latest response time in seconds", bus.round_trip
    )
    yield _gauge(
        "lease_age_seconds", "Seconds since this replica's lease was renewed", bus.lease_age
    )
    waiting = [(["send"], bus.send_bytes), (["receive"], bus.receive_bytes)]
    yield _gauges(
        "redis_queue_bytes",
        "Bytes queued for Redis to accept, or for this replica to process",
        ["queue"],
        waiting,
    )
    yield _counters(
        "redis_gaps",
        "Messages lost between replicas",
        ["cause"],
        [(["missing"], bus.missing), (["overflow"], bus.overflows), (["dropped"], bus.dropped)],
    )
    unreadable = [([kind], count) for kind, count in bus.unreadable.items()]
    text = "Values in Redis that could not be decoded, by expected kind"
    yield _counters("redis_unreadable", text, ["kind"], unreadable)
    yield _gauge("stale_rooms", "Rooms that are being restored from Redis", bus.stale_rooms)
    yield _histogram("delivery_seconds", "Seconds that a message takes through Redis", bus.delivery)


class CountCollector(Collector):
    """Counters of events."""

    def __init__(self, metrics: Metrics) -> None:
        """Read `metrics` at each request."""
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Yield the current counters."""
        counted = self._metrics
        labels = ["dialect", "type"]
        came = [
            ([dialect, type_], count)
            for dialect, counts in counted.messages_in.items()
            for type_, count in counts.items()
        ]
        yield _counters("messages_in", "Messages from clients", labels, came)
        went = [
            ([dialect, type_.decode()], count)
            for dialect, counts in counted.messages_out.items()
            for type_, count in counts.items()
        ]
        yield _counters("messages_out", "Messages to clients", labels, went)
        refused = [([label_of(reason)], count) for reason, count in counted.refused.items()]
        yield _counters("refused", "Client requests that were refused", ["reason"], refused)
        closed = [([str(code)], count) for code, count in counted.closed.items()]
        yield _counters("closed", "WebSockets that ended, by close code", ["code"], closed)
        webhooks = [([outcome], count) for outcome, count in counted.webhooks.items()]
        yield _counters("webhooks", "Attempts to send webhooks, by outcome", ["outcome"], webhooks)
        issued = [([outcome], count) for outcome, count in counted.turn_credentials.items()]
        text = "Attempts to get credentials from a hosted TURN service, by outcome"
        yield _counters("turn_credentials", text, ["outcome"], issued)
        text = "Quality reports from clients"
        yield _counters("quality_reports", text, [], [([], counted.quality_reports)])
        calls = [([outcome], count) for outcome, count in counted.calls.items()]
        text = "Peer connections that clients reported, by what became of them"
        yield _counters("calls", text, ["outcome"], calls)
        text = "Round-trip time of calls in seconds, as clients reported it"
        yield _histogram("call_round_trip_seconds", text, counted.call_round_trip)
        text = "Sessions that were resumed"
        yield _counters("sessions_resumed", text, [], [([], counted.resumed)])
        moved = [([where], count) for where, count in counted.moved.items()]
        text = "Sessions that moved between replicas, seen from this one"
        yield _counters("sessions_moved", text, ["to"], moved)
        refusals = [([reason.value], count) for reason, count in counted.not_resumed.items()]
        text = "Attempts to resume that failed, by reason"
        yield _counters("sessions_not_resumed", text, ["reason"], refusals)
        text = "Messages replayed to clients that resumed"
        yield _counters("messages_replayed", text, [], [([], counted.replayed)])
        yield _histogram(
            "fan_out_peers", "Peers of this replica that received the same event", counted.fan_out
        )
        yield _histogram(
            "loop_lag_seconds", "Seconds that the event loop was late", counted.loop_lag
        )


def _gauge(name: str, text: str, value: float | None) -> GaugeMetricFamily:
    """One value; none while it is unknown."""
    return GaugeMetricFamily(f"trio_signal_{name}", text, value)


def _gauges(name: str, text: str, labels: list[str], values: Values) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"trio_signal_{name}", text, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def _counters(name: str, text: str, labels: list[str], values: Values) -> CounterMetricFamily:
    family = CounterMetricFamily(f"trio_signal_{name}", text, labels=labels)
    for label, value in values:
        family.add_metric(label, value)
    return family


def _histogram(name: str, text: str, values: Histogram) -> HistogramMetricFamily:
    return HistogramMetricFamily(
        f"trio_signal_{name}", text, buckets=values.buckets(), sum_value=values.sum
    )


def render_metrics(hub: Hub, settings: Settings, metrics: Metrics) -> bytes:
    """The metrics in Prometheus text format."""
    registry = CollectorRegistry()
    for collector in (HubCollector(hub, settings), CountCollector(metrics)):
        registry.register(collector)
    ProcessCollector(registry=registry)
    return generate_latest(registry)
