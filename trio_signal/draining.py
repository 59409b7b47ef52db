"""Draining: hands over the sessions of a stopping server; a starting server adopts them.

A stopping server offers its sessions to the other replicas, which request them as they would for a
reconnected client. So clients miss nothing. If there is no other replica, or all stop at once,
sessions are parked in Redis for their grace period, and the first replica to start takes them. A
session that nobody takes is removed when its grace period is over, and its rooms are notified once.
"""

from functools import partial

import trio
from msgspec.structs import replace

from trio_signal.bus.handover import HandoverBus
from trio_signal.handover import TIMEOUT, Handover
from trio_signal.messages.handover import Offered, Parcel
from trio_signal.metrics import Metrics
from trio_signal.resuming import Resuming
from trio_signal.rooms import Rooms

#: Seconds in which a starting server takes over sessions of replicas that have ended.
_ADOPTING = 3.0
#: How many sessions are offered to other replicas at a time, and seconds between two checks.
_AT_ONCE, _POLLING = 100, 0.01
#: Minimum seconds for which it is remembered that a replica is stopping.
_STOPPING = 60.0


class Draining:
    """The sessions of one server that is stopping or starting."""

    def __init__(
        self,
        handover: Handover,
        resuming: Resuming,
        rooms: Rooms,
        bus: HandoverBus,
        metrics: Metrics,
    ) -> None:
        """Take the parts of the hub."""
        self._handover = handover
        self._resuming = resuming
        self._rooms = rooms
        self._bus = bus
        self._metrics = metrics
        #: Replicas that are not known to be stopping.
        self._others: list[str] = []

    async def adopt(self) -> None:
        """Take over the sessions of replicas that have ended, for a limited time."""
        handover = self._handover
        tried: set[str] = set()
        with trio.move_on_after(_ADOPTING):
            await handover.ready.wait()
            while found := dict(pair for pair in await self._bus.parked() if pair[0] not in tried):
                tried |= found.keys()
                async with trio.open_nursery() as nursery:
                    for tag, room_id in found.items():
                        offered = Offered(tag, room_id)
                        nursery.start_soon(partial(handover.accept, offered, ask=False))
                while handover.receptions.keys() & found.keys():  # noqa: ASYNC110  soon over
                    await trio.sleep(_POLLING)

    async def begin(self) -> None:
        """Tell the other replicas that this one is stopping. Returns those that are not."""
        with trio.move_on_after(TIMEOUT):
            self._others = await self._bus.others(max(_STOPPING, 2 * self._resuming.grace))

    async def leave(self, within: float) -> None:
        """Hand sessions over to other replicas, for at most `within` seconds.

        Those that remain must be parked.
        """
        await self.begin()
        with trio.move_on_after(within):
            await self._wait_arrived()
            if any(self._resuming.that_can_move()):
                await self._offer(self._others)
                await self._wait_arrived()
        for tag, room_id in list(self._resuming.that_can_move()):
            session, room = self._resuming.with_tag(tag), self._rooms[room_id]
            if session is not None:
                self._handover.park(session, room)

    async def _wait_arrived(self) -> None:
        """Wait until no session is on its way here: it would be closed on arrival."""
        while self._handover.receptions:  # noqa: ASYNC110  soon over
            await trio.sleep(_POLLING)

    def offer(self, offered: Offered) -> None:
        """Offer a parked session to another replica, if there is any. Does not block."""
        if self._others:
            self._others.append(self._others.pop(0))
            self._bus.send(self._others[0], offered)

    async def _offer(self, others: list[str]) -> None:
        sessions = list(self._resuming.that_can_move())
        while others and sessions:
            batch, sessions = sessions[:_AT_ONCE], sessions[_AT_ONCE:]
            for number, (tag, room_id) in enumerate(batch):
                self._bus.send(others[number % len(others)], Offered(tag, room_id))
            with trio.move_on_after(TIMEOUT):
                while any(map(self._is_here, batch)):  # noqa: ASYNC110  soon over
                    await trio.sleep(_POLLING)
            if all(map(self._is_here, batch)):
                break  # the others are stopping too, are too old for this, or are busy
        with trio.move_on_after(TIMEOUT):
            while self._handover.departures:  # noqa: ASYNC110  soon over
                await trio.sleep(_POLLING)

    def _is_here(self, session: tuple[str, str]) -> bool:
        return self._resuming.with_tag(session[0]) is not None

    async def settle(self) -> None:
        """Wait until other replicas have taken the sessions that are still here.

        Those that were there before may have stopped since then, and others may have started.
        """
        handover = self._handover
        if handover.parked:
            await self.begin()
            for tag, departure in handover.parked.items():
                member = departure.room.members.get(departure.peer_id)
                if member is not None:
                    self.offer(Offered(tag, departure.room.id, replace(member, session=tag)))
        while handover.departures or (self._others and handover.parked):  # noqa: ASYNC110  soon over
            await trio.sleep(_POLLING)

    async def park(self) -> None:
        """Park the remaining sessions, when all others have left."""
        parcels: list[tuple[str, Parcel]] = []
        parked = list(self._handover.parked.values())
        self._handover.parked.clear()
        for departure in parked:
            told = departure.pack()
            if isinstance(told, Parcel) and departure.session.memberships:
                parcels.append((departure.room.id, told))
            else:
                self._handover.drop(departure)
        self._metrics.moved["parked"] += len(parcels)
        is_done = not parcels or await self._bus.park(parcels, self._resuming.grace)
        for departure in [] if is_done else parked:
            self._handover.drop(departure)
