"""Three replicas, a crowd, and guests that stay and signal, under faults of every kind."""

import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import trio

from tests.faults.faults import Fault
from tests.faults.traffic import Ledger
from tests.faults.wires import Wire
from tests.redis.server import RedisServer, open_redis_server
from tests.replicas.crowd import Crowd
from tests.replicas.guests import PATIENCE, Guest, Party, open_party
from tests.replicas.processes import Cluster, Replica

#: Longer than any fault, except for the end of a replica. The members of a killed replica leave
#: when its lease runs out; users of one that was stopped, when their grace period is over. The
#: defaults are 10 and 15 s.
LEASE = 3.5
GRACE = 3.0
#: Seconds until all views are right and all signals accounted for, on a quiet machine.
SOON = 5.0
#: Guests of each replica that stay: two of dialect `mesh`, of which the first is live, and one of
#: `room`.
STAYING = ("a", "b")


class FaultyScene:
    """A room with constant traffic, whatever happens."""

    def __init__(
        self,
        servers: trio.Nursery,
        nursery: trio.Nursery,
        cluster: Cluster,
        party: Party,
        choice: random.Random,
        patience: float,
    ) -> None:
        self._servers = servers
        self._nursery = nursery
        self._party = party
        self._choice = choice
        self._patience = patience
        self.cluster = cluster
        self.redis: RedisServer = cluster.redis
        self.wires: list[Wire] = []
        self._names = map(str, count())
        self.ledger = Ledger(choice)
        self.crowd = Crowd(party, cluster.replicas, choice.randrange(1 << 30))
        #: Guests that stay all the time; nobody may be told that they left.
        self._staying: dict[str, Replica] = {}

    async def open(self, replicas: int, actors: int) -> None:
        """Let the guests join."""
        for _ in range(replicas):
            await self._add_replica()
        for _ in range(actors):
            self._nursery.start_soon(self.crowd.act)

    async def _add_replica(self) -> None:
        name = next(self._names)
        wire = Wire(self.redis.port)
        await self._servers.start(wire.run)
        self.wires.append(wire)
        replica = await self.cluster.add(REDIS_URL=wire.url)
        await replica.wait_status("ready")
        for letter in STAYING:
            guest = await self._party.join(f"stays-{name}-{letter}", replica)
            if letter == STAYING[0]:
                await guest.go_live()
            self._staying[guest.name] = replica
            self.ledger.add(guest)
            self._nursery.start_soon(self.ledger.signal, guest)
        watcher = await self._party.watch(f"watches-{name}", replica)
        self._staying[watcher.name] = replica

    async def wait_found(self, *command: str | int) -> list[bytes]:
        """The sorted items that Redis lists; waits until there are any."""
        found: list[bytes] = []
        with trio.fail_after(self._patience):
            while not (found := await self.redis.ask(*command)):  # noqa: ASYNC110
                await trio.sleep(0.02)
        return sorted(found)

    async def shout(self, text: str) -> None:
        """Send a long message to the room, from a guest that stays."""
        speaker = next(guest for guest in self._guests if guest.name.startswith("stays"))
        await speaker.say("offer", offer=text)

    @property
    def _guests(self) -> list[Guest]:
        return [guest for guest in self._party.guests.values() if guest.name in self._staying]

    async def replace(self, replica: Replica, how: signal.Signals) -> None:
        """End a replica, and start another for the same guests."""
        number = self.cluster.replicas.index(replica)
        async with self.crowd.resting():
            for guest in self._party.at(replica):
                self.ledger.forget(guest)
            gone = self._party.forget_all(replica)
            del self.cluster.replicas[number], self.wires[number]
            await replica.end(how)
            for guest in gone:
                await guest.wait_gone()
            for name in [name for name, at in self._staying.items() if at is replica]:
                del self._staying[name]
            await self._add_replica()

    async def inflict(self, fault: Fault) -> float:
        """Cause a fault; seconds until all is right again. Raises AssertionError for violations."""
        told = {guest.name: len(guest.told) for guest in self._guests}
        await fault.do(self, self._choice)
        over = trio.current_time()
        async with self.crowd.resting():
            await self._party.agree(self._patience)
            took = trio.current_time() - over
            wrong = await self.ledger.settle(self._patience)
        for guest in self._guests:
            for news in guest.told[told.get(guest.name, 0) :]:
                if news.type == "user_left" and news.name in self._staying:
                    wrong.append(f"{guest} was told that {news.name} has left")
        assert not wrong, "; ".join(wrong)
        return took


@asynccontextmanager
async def open_scene(
    directory: Path,
    choice: random.Random,
    *,
    kind: str = "redis",
    replicas: int = 3,
    actors: int = 6,
    patience: float = PATIENCE,
) -> AsyncIterator[FaultyScene]:
    """When it ends, all guests leave, the replicas stop, and Redis must be empty."""
    options = {"enable_debug_command": "yes"}
    async with (
        open_redis_server(directory, kind, **options) as redis,
        trio.open_nursery() as servers,
    ):
        cluster = Cluster(
            servers, redis, {"TRIO_SIGNAL_LEASE": LEASE, "TRIO_SIGNAL_RESUME_GRACE": GRACE}
        )
        async with open_party() as party, trio.open_nursery() as nursery:
            scene = FaultyScene(servers, nursery, cluster, party, choice, patience)
            await scene.open(replicas, actors)
            yield scene
            nursery.cancel_scope.cancel()
        await cluster.stop()
        servers.cancel_scope.cancel()
