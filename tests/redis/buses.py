"""Conditions to wait for what is sent through Redis."""

from collections.abc import Iterable
from uuid import uuid4
from weakref import WeakKeyDictionary

import trio
from msgspec import Raw

from tests.members import member
from trio_signal.bus import Bus, Delivery, Undelivered
from trio_signal.bus.redis import RedisBus
from trio_signal.messages.events import Signalled

#: By replica: the events that its watcher waits for, by the name of each mark.
_marks: WeakKeyDictionary[RedisBus, dict[str, trio.Event]] = WeakKeyDictionary()


async def drain(bus: RedisBus, others: Iterable[Bus]) -> None:
    """Wait until everything that was sent so far has been delivered to this replica."""
    for other in others:
        assert isinstance(other, RedisBus)
        await other.redis.ping()  # all that it published is sent now
    # Messages arrive in order, so a mark arrives after them.
    marks, name = _marks_of(bus), str(uuid4())
    marks[name] = trio.Event()
    mark = Signalled(name, "message", Raw(b"0"), member("x"), None, "", "")
    bus.send(bus.replica, Undelivered(mark))
    await marks[name].wait()
    del marks[name]


def _marks_of(bus: RedisBus) -> dict[str, trio.Event]:
    """The marks on their way to a replica; several tasks may wait for theirs."""
    if bus not in _marks:
        marks = _marks[bus] = dict[str, trio.Event]()
        deliver = bus._deliver

        def watch(delivery: Delivery) -> None:
            if isinstance(delivery, Undelivered) and delivery.signal.room_id in marks:
                marks[delivery.signal.room_id].set()
            else:
                deliver(delivery)

        bus._deliver = watch
    return _marks[bus]
