"""Waiting for what goes through Redis, by conditions."""

from collections.abc import Iterable
from uuid import uuid4

import trio
from msgspec import Raw

from tests.members import member
from trio_signal.bus import Bus, Delivery, Undelivered
from trio_signal.bus.redis import RedisBus
from trio_signal.messages.events import Signalled


async def drain(bus: RedisBus, others: Iterable[Bus]) -> None:
    """Wait until all that was told up to now has been delivered to this replica."""
    for other in others:
        assert isinstance(other, RedisBus)
        await other._redis.ping()  # what it published is out
    # What is published comes in its order, so a mark comes last.
    mark = Undelivered(Signalled(str(uuid4()), "message", Raw(b"0"), member("x"), None, "", ""))
    heard = trio.Event()
    deliver = bus._deliver

    def watch(delivery: Delivery) -> None:
        if delivery == mark:
            heard.set()
        else:
            deliver(delivery)

    bus._deliver = watch
    bus.send(bus.replica, mark)
    await heard.wait()
    bus._deliver = deliver
