"""Topics: subscriptions on this replica, and how published messages reach them.

A topic is not a room: it has no members, and nobody learns who else subscribes.
"""

from functools import partial

from msgspec.structs import replace

from trio_signal.bus import Bus
from trio_signal.clock import utc_now
from trio_signal.dialects import Dialect
from trio_signal.messages.commands import Publish, Subscribe, Unsubscribe
from trio_signal.messages.events import Published, Refusal, Refused
from trio_signal.metrics import Metrics
from trio_signal.pacing import DELIVERY, cost_of_delivery
from trio_signal.session import Session, close_untold
from trio_signal.websocket import text_frame

#: Maximum topics of one connection, and maximum topics and subscriptions of one replica.
MAX_TOPICS = 256
MOST_TOPICS = 50_000
MOST_SUBSCRIPTIONS = 500_000
#: Extra cost of a subscription, in tokens: it is written to the directory.
_SUBSCRIBING = 1 / 10
#: The type under which published messages are counted: not all of them have a `type`.
_PUBLISH = b"publish"


class Topics:
    """The topics of this replica. Only `subscribe` blocks."""

    def __init__(self, bus: Bus, metrics: Metrics, max_each: int) -> None:
        """Start without topics; a connection may have `max_each`, and at most `MAX_TOPICS`."""
        self._bus = bus
        self._metrics = metrics
        self._max_each = min(max_each, MAX_TOPICS)
        #: By topic and by connection, in the order of subscribing.
        self._subscribers: dict[str, dict[Session, None]] = {}
        self._topics: dict[Session, dict[str, None]] = {}
        self.subscriptions = 0

    def __len__(self) -> int:
        """The number of topics with subscribers here."""
        return len(self._subscribers)

    async def subscribe(self, peer: Session, command: Subscribe) -> None:
        """Subscribe a connection to topics, on all replicas.

        Blocks until the subscriptions are active, if the bus can be reached. Topics that are not
        allowed, or exceed the limit, are left out.
        """
        identity, own = peer.identity, self._topics.setdefault(peer, {})
        new = [topic for topic in command.topics if topic not in own]
        allowed = [t for t in new if identity is not None and identity.grants.admit(t)]
        if len(allowed) < len(new):
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
        for topic in allowed:
            if not self._has_room(own, topic):
                peer.tell(Refused(command, Refusal.TOO_MANY_ROOMS, utc_now()))
                break
            own[topic] = None
            self._subscribers.setdefault(topic, {})[peer] = None
            self.subscriptions += 1
        entered = [topic for topic in allowed if topic in own]
        peer.owes += len(entered) * _SUBSCRIBING
        if not own:
            del self._topics[peer]
        if entered:
            self._tell_counts(entered)
            await self._bus.topics.settle(entered)

    def _has_room(self, own: dict[str, None], topic: str) -> bool:
        return (
            len(own) < self._max_each
            and self.subscriptions < MOST_SUBSCRIPTIONS
            and (topic in self._subscribers or len(self._subscribers) < MOST_TOPICS)
        )

    def unsubscribe(self, peer: Session, command: Unsubscribe) -> None:
        """Unsubscribe a connection from topics."""
        own = self._topics.get(peer)
        if own is None:
            return
        left = [topic for topic in command.topics if topic in own]
        for topic in left:
            del own[topic]
        if not own:
            del self._topics[peer]
        self._drop(peer, left)

    def remove(self, peer: Session) -> None:
        """Remove a connection that has ended, if it was here."""
        own = self._topics.pop(peer, None)
        if own is not None:
            self._drop(peer, list(own))

    def _drop(self, peer: Session, topics: list[str]) -> None:
        for topic in topics:
            subscribers = self._subscribers[topic]
            del subscribers[peer]
            if not subscribers:
                del self._subscribers[topic]
        self.subscriptions -= len(topics)
        if topics:
            self._tell_counts(topics)

    def _tell_counts(self, topics: list[str]) -> None:
        counts = {topic: len(self._subscribers.get(topic, ())) for topic in topics}
        self._bus.topics.count(counts)

    def publish(self, peer: Session, command: Publish) -> None:
        """Send a message to all subscribers of a topic, on all replicas."""
        identity = peer.identity
        if identity is None or not identity.grants.admit(command.topic):
            peer.tell(Refused(command, Refusal.NOT_ALLOWED, utc_now()))
            return
        published = Published(command.topic, command.form, command.content)
        self._bus.topics.publish(published, partial(self._tell_published, peer, published))

    def _tell_published(self, publisher: Session, published: Published, subscribers: int) -> None:
        """Send a message to the subscribers here, and charge the publisher for all replicas."""
        each = cost_of_delivery(len(memoryview(published.content))) if subscribers else DELIVERY
        publisher.owes += max(subscribers, 1) * each
        self.tell(replace(published, subscribers=subscribers))

    def tell(self, published: Published) -> None:
        """Send a published message to the subscribers here; it is encoded once for each dialect."""
        subscribers = self._subscribers.get(published.topic)
        if subscribers is None:
            return
        frames: dict[type[Dialect], list[bytes]] = {}
        for peer in subscribers:
            dialect = type(peer.dialect)
            if dialect not in frames:
                frames[dialect] = self._frames(dialect, published)
            for frame in frames[dialect]:
                peer.send_frame(frame)
                self._metrics.messages_out[dialect.name][_PUBLISH] += 1
        self._metrics.fan_out.observe(len(subscribers))

    def _frames(self, dialect: type[Dialect], published: Published) -> list[bytes]:
        try:
            return [text_frame(notice.text) for notice in dialect.tell(published)]
        except Exception:
            subscribers = self._subscribers[published.topic]
            close_untold([p for p in subscribers if type(p.dialect) is dialect], published)
            return []
