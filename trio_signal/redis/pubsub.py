"""Channels: the desired subscriptions, and the messages received.

Subscriptions are desired state. Requesting one never blocks or fails; each connection is brought in
line with that state.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import trio
from redis.exceptions import InvalidResponse, PubSubError, ResponseError

from trio_signal.redis.connection import Connection, LostError, Request, Timing, is_passing
from trio_signal.redis.link import Link
from trio_signal.redis.locating import Locator

logger = logging.getLogger(__name__)

#: Approximate memory of a message in bytes, besides its payload.
MESSAGE_OVERHEAD = 200


class Message(NamedTuple):
    """A message was published on a subscribed channel."""

    channel: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """A connection is lost: messages may be missed, and commands in flight may or may not have
    run.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """Commands work again, and all channels are subscribed again. Missed messages stay missed."""


@dataclass(frozen=True, slots=True)
class Overflow:
    """Later messages were discarded, because earlier ones were not received in time."""


Event: TypeAlias = Message | Lost | Resumed | Overflow


class Inbox:
    """Events waiting to be received; at most about `limit` bytes of messages."""

    def __init__(self, limit: int) -> None:
        """Make an empty inbox."""
        self._limit = limit
        self._events: list[Event] = []
        self._filled = trio.Event()
        #: Approximate bytes waiting.
        self.size = 0
        self._overflowed = False
        self.overflows = 0

    def put(self, message: Message) -> None:
        """Add a message; if it does not fit, add `Overflow` once. Does not block."""
        if self._overflowed:
            return
        self.size += len(message.payload) + MESSAGE_OVERHEAD
        if self.size > self._limit:
            self._overflowed = True
            self.overflows += 1
        self._events.append(Overflow() if self._overflowed else message)
        self._filled.set()

    def put_state(self, event: Lost | Resumed) -> None:
        """Add a change of state, which always fits; unread outages are merged."""
        match event, self._events[-2:]:
            case Lost(), [Lost(), Resumed()]:
                self._events.pop()
            case _:
                self._events.append(event)
                self._filled.set()

    async def take(self) -> list[Event]:
        """Wait until there are events, and take all."""
        while True:
            await self._filled.wait()
            self._filled = trio.Event()
            if self._events:
                events, self._events = self._events, []
                self.size = 0
                self._overflowed = False
                return events


class _Subscription:
    """One desired subscription. Subscribing again after unsubscribing makes a new one.

    So a late acknowledgement of the earlier one does not count for the later one.
    """

    __slots__ = ("acknowledged", "channel", "name", "refusal", "settled")

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.name = channel.encode()
        self.acknowledged = False
        self.refusal: ResponseError | None = None
        self.settled = trio.Event()

    def reset(self) -> None:
        """Forget the server's answer; it will be asked again."""
        self.acknowledged = False
        self.refusal = None
        if self.settled.is_set():
            self.settled = trio.Event()


class _SubscriptionRequest(Request):
    """SUBSCRIBE or UNSUBSCRIBE, whose answer comes as a push."""

    __slots__ = ("_command", "_subscription")

    def __init__(
        self, command: Literal["subscribe", "unsubscribe"], subscription: _Subscription
    ) -> None:
        super().__init__(command, subscription.name)
        self._command = command
        self._subscription = subscription

    def answer(self, reply: object) -> None:
        subscription = self._subscription
        match reply:
            case [bytes() as command, bytes() as name, int()]:
                if (command.decode(), name) != (self._command, subscription.name):
                    raise InvalidResponse(f"{reply!r} answers another request")
                subscription.acknowledged = True
            case _ if is_passing(reply):
                raise LostError(f"cannot {self._command} {subscription.channel!r}: {reply}")
            case ResponseError():
                logger.error("cannot %s %r: %s", self._command, subscription.channel, reply)
                subscription.refusal = reply
            case _:
                return  # the connection is lost; the next one asks again
        subscription.settled.set()


class _Marker(Request):
    """A PING after all requests: its reply shows that they are answered."""

    __slots__ = ("_pubsub",)

    def __init__(self, pubsub: "PubSub") -> None:
        super().__init__("PING")
        self._pubsub = pubsub

    def answer(self, reply: object) -> None:
        if is_passing(reply):
            raise LostError(str(reply))
        if not isinstance(reply, Exception):
            self._pubsub.caught_up()


class PubSub:
    """Subscriptions and their events.

    Only `receive` and `wait_subscribed` block.
    """

    def __init__(
        self,
        locator: Locator,
        name: str,
        timing: Timing,
        *,
        limit: int,
        changed: Callable[[], None],
    ) -> None:
        """Make one without a connection."""
        # Patient, because a reply may come after a flood of messages.
        self.link = Link(
            locator,
            name,
            timing,
            opened=self._bring_in_line,
            changed=self._link_changed,
            pushed=self._take,
            patient=True,
        )
        self._changed = changed
        self._wanted: dict[bytes, _Subscription] = {}
        self.inbox = Inbox(limit)
        #: Whether all subscriptions desired when the connection was made are acknowledged.
        self.ready = False
        self.messages = 0

    def subscribe(self, channel: str) -> None:
        """Subscribe to a channel, now and after every outage. Does not block."""
        subscription = _Subscription(channel)
        if subscription.name in self._wanted:
            return
        self._wanted[subscription.name] = subscription
        if self.link.connection is not None:
            self.link.connection.send(_SubscriptionRequest("subscribe", subscription))

    def unsubscribe(self, channel: str) -> None:
        """Unsubscribe from a channel. Waiting messages are still received. Does not block."""
        subscription = self._wanted.pop(channel.encode(), None)
        if subscription is None:
            return
        subscription.settled.set()
        if self.link.connection is not None:
            self.link.connection.send(_SubscriptionRequest("unsubscribe", subscription))

    @property
    def channels(self) -> list[str]:
        """The desired channels."""
        return [subscription.channel for subscription in self._wanted.values()]

    async def wait_subscribed(self, channel: str) -> None:
        """Wait until the server has acknowledged the subscription, through outages too.

        Raises PubSubError if the subscription is not (or no longer) desired, and the server's
        ResponseError if it refuses.
        """
        name = channel.encode()
        while True:
            await trio.lowlevel.checkpoint()
            subscription = self._wanted.get(name)
            if subscription is None:
                raise PubSubError(f"not subscribed to {channel!r}")
            if subscription.refusal is not None:
                raise subscription.refusal
            if subscription.acknowledged:
                return
            await subscription.settled.wait()

    def receive(self) -> Awaitable[list[Event]]:
        """Wait for events, and return all that are there, oldest first.

        Includes only messages published after the server acknowledged the current subscription.
        """
        return self.inbox.take()

    def caught_up(self) -> None:
        """All subscriptions desired when the connection was made are acknowledged."""
        self.ready = True
        self._changed()

    def _bring_in_line(self, connection: Connection) -> None:
        for subscription in self._wanted.values():
            connection.send(_SubscriptionRequest("subscribe", subscription))
        if self._wanted:
            connection.send(_Marker(self))
        else:
            self.ready = True

    def _link_changed(self) -> None:
        if self.link.connection is None:
            self.ready = False
            for subscription in self._wanted.values():
                subscription.reset()
        self._changed()

    def _take(self, push: list[bytes]) -> None:
        if push[0] != b"message":
            return
        subscription = self._wanted.get(push[1])
        if subscription is not None and subscription.acknowledged:
            self.messages += 1
            self.inbox.put(Message(subscription.channel, push[2]))
