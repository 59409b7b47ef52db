"""Traffic: guests who join, leave, go live, stop and signal, as fast as a test wants."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count

import trio

from tests.clients import Message
from tests.replicas.guests import PATIENCE, Guest, Party, open_party
from tests.replicas.processes import Cluster, Replica

#: Seconds between two signals of a pair.
RHYTHM = 0.02
#: The limit for one signal in seconds. It takes a millisecond, but the machine may be busy;
#: a replica that waited for a frozen Redis would take longer (test_outages.py).
PROMPT = 8.0
#: The limit for a join in seconds: it waits for Redis a while, and then continues without.
JOINING = 12.0


class Crowd:
    """Actors who randomly do what guests do."""

    def __init__(self, party: Party, replicas: Sequence[Replica], seed: int) -> None:
        self._party = party
        self._replicas = replicas
        self._random = random.Random(seed)
        self._names = (f"visitor-{number}" for number in count())
        self._resting = trio.Event()
        self._go_on = trio.Event()
        self._go_on.set()
        self._active = 0
        self.steps = 0
        #: Seconds of the slowest join.
        self.slowest_join = 0.0

    async def act(self) -> None:
        """Run one actor until cancelled."""
        name, guest = next(self._names), None
        self._active += 1
        while True:
            await self._rest_if_told()
            if guest is not None and guest.closed is not None:
                guest = None  # the test ended its replica while all were resting
            if guest is not None:
                guest = await self._step(guest)
            else:
                # Some rejoin under their old name before everybody knows that they left.
                name = self._random.choice((name, next(self._names)))
                guest = await self._join(name)
            self.steps += 1
            await trio.sleep(self._random.uniform(0, 0.04))

    async def _rest_if_told(self) -> None:
        if self._go_on.is_set():
            return
        self._active -= 1
        if not self._active:
            self._resting.set()
        await self._go_on.wait()
        self._active += 1

    @asynccontextmanager
    async def resting(self) -> AsyncIterator[None]:
        """Let all actors rest while the block runs, with all their requests done."""
        self._go_on = trio.Event()
        self._resting = trio.Event()
        with trio.fail_after(PATIENCE):
            await self._resting.wait()
        yield
        self._go_on.set()

    async def _step(self, guest: Guest) -> Guest | None:
        match self._random.choice(("leave", "vanish", "live", "stop", "signal", "signal")):
            case "leave":
                await guest.leave()
                return None
            case "vanish":
                guest.vanish()
                return None
            case "live":
                await guest.go_live(self._random.choice(("audio", "video")))
            case "stop":
                await guest.stop()
            case "signal":
                assert guest.view.told is not None
                target = self._random.choice(sorted(guest.view.told.here))
                await guest.say("offer", offer=self.steps, to=target)
        await guest.settle()
        return guest

    async def _join(self, name: str) -> Guest:
        began = trio.current_time()
        guest = await self._party.join(name, self._random.choice(self._replicas))
        self.slowest_join = max(self.slowest_join, trio.current_time() - began)
        assert self.slowest_join < JOINING
        return guest


class Pair:
    """Two guests of one replica; one sends to the other all the time."""

    def __init__(self, sender: Guest, receiver: Guest) -> None:
        self._sender = sender
        self._receiver = receiver
        receiver.on_signal = self._take
        self._sent = 0
        self._received = 0
        #: Seconds of the slowest signal.
        self.slowest = 0.0

    async def run(self) -> None:
        """Send signals until cancelled; each must arrive in time and in order."""
        for self._sent in count():
            sent = trio.current_time()
            await self._sender.say("message", data=self._sent, to=self._receiver.peer_id)
            await self._receiver.until(lambda: self._received > self._sent, within=PROMPT)
            self.slowest = max(self.slowest, trio.current_time() - sent)
            await trio.sleep(RHYTHM)

    def _take(self, message: Message) -> None:
        if message["type"] == "message":
            assert message["data"] == self._received
            self._received += 1


class Scene:
    """A room with traffic: three replicas, a pair and a watching user at each, and a crowd."""

    def __init__(self, cluster: Cluster, party: Party, crowd: Crowd, pairs: list[Pair]) -> None:
        self.cluster = cluster
        self.party = party
        self.crowd = crowd
        self.pairs = pairs
        self.stable = list(party.guests.values())

    async def check(self, deadline: float) -> float:
        """Let the crowd rest, and wait until all views are right; the time when they were."""
        async with self.crowd.resting():
            await self.party.agree(deadline - trio.current_time())
            return trio.current_time()

    def told_gone(self) -> Counter[str]:
        """Which of the guests that stayed were reported as left, and how often."""
        names = {guest.name for guest in self.stable}
        return Counter(
            told.name
            for guest in self.party.guests.values()
            for told in guest.told
            if told.type == "user_left" and told.name in names
        )


@asynccontextmanager
async def open_scene(cluster: Cluster, seed: int = 1, actors: int = 9) -> AsyncIterator[Scene]:
    """Traffic on the replicas of a cluster.

    No guest may lose its connection, and signals within a replica must be in time.
    """
    async with open_party() as party, trio.open_nursery() as nursery:
        crowd = Crowd(party, cluster.replicas, seed)
        pairs = []
        for i, replica in enumerate(cluster.replicas):
            sender, receiver = [await party.join(f"pair-{i}-{j}", replica) for j in "ab"]
            await sender.go_live()
            await party.watch(f"user-{i}", replica)
            pairs.append(Pair(sender, receiver))
        scene = Scene(cluster, party, crowd, pairs)
        await party.agree()
        for pair in pairs:
            nursery.start_soon(pair.run)
        for _ in range(actors):
            nursery.start_soon(crowd.act)
        yield scene
        await scene.check(trio.current_time() + PATIENCE)
        nursery.cancel_scope.cancel()
    slowest = max(pair.slowest for pair in pairs)
    print(f"{crowd.steps} steps; slowest local signal {slowest:.3f} s", end=", ")
    print(f"slowest join {crowd.slowest_join:.3f} s")
