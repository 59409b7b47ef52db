"""Many connections over three replicas for a while, with everything killed in turn.

What is promised: nobody is told anything twice or out of order; connections end only by
what was done to the servers; after each fault all views are equal and true; no program logs
an error that no fault explains; and when all have left nothing remains.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import trio

from deploy.cluster import Cluster, Program, open_cluster
from tests.replicas.guests import Party
from tests.soak.faults import Fault, Log, Window
from tests.soak.memory import Sample, files_of, resident
from tests.soak.visitors import (
    PATIENCE,
    Entrance,
    Happened,
    Reader,
    Rest,
    Room,
    Seat,
    share_out,
)

#: Seconds for all to be as it should be after a fault.
RECOVERY = 600.0
#: What a replica without clients has open at most: its stores, and connections that nginx keeps.
FILES = 80
SETTINGS = {
    "LOG_FORMAT": "json",
    "TRIO_SIGNAL_AUTH": "open",
    "TRIO_SIGNAL_DRAIN": "5",
    # Nothing is tested by a machine that is too slow for them.
    "TRIO_SIGNAL_AUTH_TIMEOUT": "600",
    "TRIO_SIGNAL_HEARTBEAT_TIMEOUT": "600",
}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much, and for how long."""

    connections: int
    #: In one large room; the others are in rooms of `size`.
    hall: int
    size: int
    readers: int
    #: Seconds between two things that a visitor does.
    pace: float
    #: Seconds between two faults.
    gap: float
    #: What is done to the cluster, in turn.
    faults: Sequence[Fault]
    #: Seconds in which replicas are killed too, and then seconds in which they live on. Each
    #: fault is done once in the first at least, and none in the second if that is 0.
    turmoil: float
    endurance: float


@dataclass
class Report:
    """What came of it."""

    happened: Happened
    faults: int = 0
    #: Of all replicas together, with all visitors there, while no replica ends.
    memory: list[Sample] = field(default_factory=list, repr=False)
    #: What is not as promised, in words.
    wrong: list[str] = field(default_factory=list)


class Soak:
    """One run."""

    def __init__(self, cluster: Cluster, plan: Plan, log: Log, say: Say) -> None:
        self._cluster = cluster
        self._plan = plan
        self._log = log
        self._say = say
        self._rest = Rest()
        self._rooms: dict[str, Room] = {}
        self._checks = 0
        self.entrance = Entrance(cluster.base)
        self.readers = [
            Reader(plan.connections + number, self.entrance) for number in range(plan.readers)
        ]
        self.report = Report(Happened())

    def start_visitors(self, nursery: trio.Nursery) -> None:
        plan = self._plan
        for number, room_id in enumerate(share_out(plan.connections, plan.hall, plan.size)):
            if room_id not in self._rooms:
                self._rooms[room_id] = Room(Party(nursery, room_id))
            room, happened = self._rooms[room_id], self.report.happened
            seat = Seat(number, room, self.entrance, self._rest, happened, plan.pace)
            nursery.start_soon(seat.occupy)
        for reader in self.readers:
            nursery.start_soon(reader.read)

    async def inflict(self, fault: Fault) -> None:
        """Do it, and see that all is well again."""
        began = trio.current_time()
        window = Window(fault, began)
        self._log.windows.append(window)
        await fault.do(self._cluster)
        done = trio.current_time()
        await self.check()
        window.end = trio.current_time()
        self.report.faults += 1
        self._say(
            f"{fault.name}: {done - began:.1f} s, all is well {window.end - done:.1f} s later; "
            f"{self.report.memory[-1].kib / 1024:.1f} MiB"
        )

    async def check(self) -> None:
        """Wait until all are there; then see that all know the same, and that it is true."""
        with trio.fail_after(RECOVERY):
            for base in self._cluster.replica_bases:
                await wait_ready(base)
            async with self._rest.everybody():
                while self._present() < self._plan.connections:  # noqa: ASYNC110  so many may come
                    await trio.sleep(0.05)
                self._checks += 1
                await self._compare()
                await self._announce()
                memory = resident(self._cluster.replicas)
                self.report.memory.append(Sample(trio.current_time(), memory))

    def _present(self) -> int:
        return sum(len(room.party.guests) for room in self._rooms.values())

    async def _compare(self) -> None:
        """Each visitor's view of its room, and each replica's of all rooms, with the truth."""
        async with trio.open_nursery() as nursery:
            for room in self._rooms.values():
                nursery.start_soon(room.party.agree, PATIENCE)
        true = {name: len(room.party.guests) for name, room in self._rooms.items()}
        for base in self._cluster.replica_bases:
            await self._compare_list(base, true)
        for room in self._rooms.values():
            await room.probe(self._checks)

    async def _compare_list(self, base: str, true: dict[str, int]) -> None:
        """It is read once a second."""
        listed: dict[str, int] = {}
        with trio.move_on_after(PATIENCE):
            while True:
                listed = {room["id"]: room["peers"] for room in await ask(base, "/rooms")}
                if listed == true:
                    return
                await trio.sleep(0.2)
        assert listed == true

    async def _announce(self) -> None:
        """An announcement reaches all readers."""
        text = f"Announcement {self._checks}"
        async with httpx.AsyncClient(base_url=f"http://{self._cluster.base}") as http:
            while True:
                answer = await http.post(
                    "/api/creator/broadcast", params={"user_id": "boss"}, json={"message": text}
                )
                if answer.status_code == 200:
                    break
                assert answer.status_code == 503, answer.text
                await trio.sleep(0.2)
        for reader in self.readers:
            await reader.wait_shown(text)


async def ask(base: str, path: str) -> Any:
    """What HTTP answers."""
    async with httpx.AsyncClient(base_url=f"http://{base}", timeout=PATIENCE) as http:
        answer = await http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def wait_ready(base: str) -> None:
    """Wait until a replica works with nothing missing. It can only be polled."""
    async with httpx.AsyncClient(base_url=f"http://{base}", timeout=PATIENCE) as http:
        while b'"ready"' not in (await http.get("/readyz")).content:  # noqa: ASYNC110
            await trio.sleep(0.1)


async def soak(plan: Plan, say: Say) -> Report:
    """Run a plan; raises an AssertionError, in a group, at once if a view is wrong."""
    log = Log()
    async with open_cluster(log.take, environment=SETTINGS) as cluster:
        run = Soak(cluster, plan, log, say)
        report = run.report
        async with trio.open_nursery() as visitors:
            run.start_visitors(visitors)
            await run.check()
            say(f"{plan.connections} visitors are in")
            await inflict_for(run, plan.faults, plan.turmoil, plan.gap, len(plan.faults))
            report.memory.clear()
            spared = [fault for fault in plan.faults if not fault.deadly]
            await inflict_for(run, spared, plan.endurance, plan.gap)
            await run.check()
            visitors.cancel_scope.cancel()
        report.wrong += await remains(cluster)
    report.wrong += log.unexplained()
    report.wrong += log.uncaused(report.happened.lost + report.happened.refused)
    return report


async def inflict_for(
    run: Soak, faults: Sequence[Fault], seconds: float, gap: float, at_least: int = 0
) -> None:
    """One fault after the other, for so long, and so many at least."""
    end = trio.current_time() + seconds
    done = 0
    while trio.current_time() < end or done < at_least:
        await trio.sleep(gap)
        await run.inflict(faults[done % len(faults)])
        done += 1


async def remains(cluster: Cluster) -> list[str]:
    """What is left of visitors who are all gone; empty if nothing is."""
    found: list[str] = []
    with trio.move_on_after(PATIENCE):
        while True:
            found = [
                f"{program.name} has {what}"
                for program, base in zip(cluster.replicas, cluster.replica_bases, strict=True)
                for what in await left_in(program, base)
            ]
            if not found:
                return []
            await trio.sleep(0.2)
    return found


async def left_in(program: Program, base: str) -> list[str]:
    health = await ask(base, "/health")
    left = [f"{health[what]} {what}" for what in ("active_connections", "rooms") if health[what]]
    files = files_of(program.pid)
    return left + ([f"{files} files open"] if files > FILES else [])
