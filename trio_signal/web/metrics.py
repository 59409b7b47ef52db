"""What `/metrics` says: read from the hub when it is asked, so nothing is counted twice."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from trio_signal.config import Settings
from trio_signal.hub import Hub
from trio_signal.messages import LOBBY
from trio_signal.metrics import Metrics


class HubCollector(Collector):
    """The peers and rooms of this replica, and whether it is one with the others."""

    def __init__(self, hub: Hub, settings: Settings) -> None:
        """Look at `hub` whenever metrics are asked for."""
        self._hub = hub
        self._dialects = settings.dialects
        self._has_redis = settings.redis_url is not None

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The metrics, as they are now."""
        counts = Counter(peer.dialect.name for peer in self._hub.peers)
        connections = GaugeMetricFamily(
            "trio_signal_connections", "WebSockets that are open here", labels=["dialect"]
        )
        for dialect in self._dialects:
            connections.add_metric([dialect], counts[dialect])
        yield connections
        rooms = [room for room in self._hub.rooms.values() if room.id != LOBBY]
        yield GaugeMetricFamily("trio_signal_rooms", "Rooms with peers here", len(rooms))
        live = sum(member.peer_id in room.peers for room in rooms for member in room.live)
        yield GaugeMetricFamily("trio_signal_live", "Broadcasts of peers here", live)
        if self._has_redis:
            up = self._hub.bus.degraded is None
            text = "1 if Redis is there and all pictures are right, 0 while degraded"
            yield GaugeMetricFamily("trio_signal_redis_up", text, int(up))


def render_metrics(hub: Hub, settings: Settings, metrics: Metrics) -> bytes:
    """The Prometheus text."""
    registry = CollectorRegistry()
    registry.register(HubCollector(hub, settings))
    return generate_latest(registry) + generate_latest(metrics.registry)
