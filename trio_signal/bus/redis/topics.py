"""Topics in Redis: a channel for each topic with subscribers here, and the subscriber counts.

A replica's counts expire, and are rewritten long before. A replica without a lease does not count.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import NoReturn

import trio

from trio_signal.bus.announcements import read_script
from trio_signal.bus.redis.wire import OnTopic, decode_on_topic, encode
from trio_signal.messages.events import Published
from trio_signal.redis import Argument, PubSubError, Redis, RedisError

#: Seconds for which Redis keeps a replica's counts, and after which they are rewritten.
KEPT, AGAIN = 900.0, 300.0
#: How many topics one script writes: it blocks all of Redis.
_AT_ONCE = 200
#: How many topics are remembered whose last subscriber left without Redis knowing.
MOST_UNSAID = 10_000
#: Seconds to wait for Redis before a subscription is answered without it.
_SETTLING = 3.0


class RedisTopics:
    """The topics of one replica; see `trio_signal.bus.TopicBus`. Only `async` methods block."""

    def __init__(self, redis: Redis, replica: str, key: Callable[..., str]) -> None:
        """Use an open connection, which the caller closes; `key` names keys and channels."""
        self._redis = redis
        self._replica = replica
        self._key = key
        self._replicas = key("replicas")
        self._counts: dict[str, int] = {}
        #: Followed topics, by their channels.
        self._followed: dict[str, str] = {}
        #: Topics whose count in Redis may be out of date.
        self._unsaid: dict[str, None] = {}
        reading = read_script("reading")
        self._write = redis.register_script(reading + read_script("subscribers"))
        self._publish = redis.register_script(reading + read_script("publish"))

    def count(self, counts: Mapping[str, int]) -> None:
        """Set how many connections here subscribe to each of these topics."""
        for topic, count in counts.items():
            channel = self._key("topic", topic)
            if not count:
                self._counts.pop(topic, None)
                if self._followed.pop(channel, None) is not None:
                    self._redis.pubsub.unsubscribe(channel)
                continue
            self._counts[topic] = count
            if channel not in self._followed:
                self._followed[channel] = topic
                self._redis.pubsub.subscribe(channel)
        self._write_counts(counts)

    def write_again(self) -> None:
        """Rewrite all counts: Redis may have forgotten or missed some."""
        counts = dict.fromkeys(self._unsaid, 0) | self._counts
        self._unsaid.clear()
        self._write_counts(counts)

    def _write_counts(self, counts: Mapping[str, int]) -> None:
        """Write counts; failed writes are repeated when there is a connection."""
        topics = list(counts)
        for first in range(0, len(topics), _AT_ONCE):
            some = topics[first : first + _AT_ONCE]
            keys = [self._key("subscribers", topic) for topic in some]
            args: list[Argument] = [
                self._replica,
                int(KEPT * 1000),
                *(counts[topic] for topic in some),
            ]
            note = partial(self._note_unsaid, some)
            if not self._write.send_nowait(keys, args, on_reply=note):
                note(None)

    def _note_unsaid(self, topics: list[str], reply: object) -> None:
        """Remember topics whose count was not written, for `write_again`."""
        if not isinstance(reply, int):
            self._unsaid.update(dict.fromkeys(topics[: MOST_UNSAID - len(self._unsaid)]))

    async def settle(self, topics: Collection[str]) -> None:
        """Wait, for a bounded time, until other replicas' messages on these topics arrive here."""
        with trio.move_on_after(_SETTLING):
            try:
                for topic in topics:
                    await self._redis.pubsub.wait_subscribed(self._key("topic", topic))
                await self._redis.ping()  # answered after the counts were written
            except (PubSubError, RedisError):
                return  # dropped meanwhile, or no Redis: subscribed later, by itself

    def publish(self, published: Published, told: Callable[[int], None]) -> None:
        """Publish to the subscribers on other replicas, then call `told` for those here."""
        own = self._counts.get(published.topic, 0)

        def answer(reply: object) -> None:
            # Without Redis, the subscribers here still receive the message.
            told(reply if isinstance(reply, int) else own)

        channel = self._key("topic", published.topic)
        head, tail = encode(OnTopic(self._replica, 0, published)).split(b'"subscribers":0,', 1)
        keys = [self._key("subscribers", published.topic), self._replicas]
        args: list[Argument] = [self._replica, own, channel, head + b'"subscribers":', b"," + tail]
        if not self._publish.send_nowait(keys, args, on_reply=answer):
            told(own)

    def take(self, channel: str, payload: bytes) -> Published | None:
        """Decode what another replica published on a topic; None if unreadable or our own."""
        came = self._redis.reader.read("topic", decode_on_topic, payload, channel)
        if came is None or came.origin == self._replica:
            return None
        topic = self._followed.get(channel)
        if came.event.topic != topic:
            self._redis.reader.drop("topic", channel, "it names another topic")
            return None
        return came.published

    def follows(self, channel: str) -> bool:
        """Whether this channel belongs to a topic with subscribers here."""
        return channel in self._followed

    async def keep(self) -> NoReturn:
        """Rewrite the counts long before they expire; until cancelled."""
        while True:
            await trio.sleep(AGAIN)
            self.write_again()
