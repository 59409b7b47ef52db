"""Many tasks and random faults: no reply is mixed up, nothing runs twice, no loss is silent."""

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import pytest
import trio
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.redis.server import Proxy, RedisServer
from tests.redis.waiting import until
from trio_signal.redis import (
    Lost,
    Message,
    NotConnectedError,
    OutcomeUnknownError,
    Overflow,
    Redis,
    Resumed,
    open_redis,
)

TASKS = 100
FAULTS = 20
KINDS = ["kill", "cut", "tear", "stall", "hiccup", "freeze"]


class Worker:
    """Counts in a key of its own, reads another, and is cancelled at times."""

    def __init__(self, number: int, chance: random.Random) -> None:
        self.number = number
        self.chance = chance
        #: Increments that did run, and those that may have.
        self.certain = 0
        self.possible = 0
        self.last = 0

    async def run(self, redis: Redis) -> None:
        while True:
            with trio.move_on_after(0.003 if self.chance.random() < 0.05 else 60):
                try:
                    await self.count(redis)
                    assert await redis.get(f"name-{self.number}") == b"task %d" % self.number
                except (NotConnectedError, OutcomeUnknownError):
                    await redis.wait_connected()

    async def count(self, redis: Redis) -> None:
        self.possible += 1
        try:
            value = await redis.incr(f"counter-{self.number}")
        except NotConnectedError:
            self.possible -= 1
            raise
        self.certain += 1
        assert self.last < value <= self.possible
        self.last = value


class Appender:
    """Appends numbers to a list without waiting, and keeps the outcome of each."""

    def __init__(self) -> None:
        self.count = 0
        self.ran: set[int] = set()
        self.did_not: set[int] = set()

    async def run(self, redis: Redis) -> None:
        while True:
            for _ in range(5):
                self.append(redis, self.count)
                self.count += 1
            await trio.sleep(0.001)

    def append(self, redis: Redis, number: int) -> None:
        def note(reply: object) -> None:
            if isinstance(reply, NotConnectedError):
                self.did_not.add(number)
            elif not isinstance(reply, RedisConnectionError):
                self.ran.add(number)

        if not redis.send_nowait("RPUSH", "list", number, on_reply=note):
            self.did_not.add(number)


class Listener:
    """Receives numbers, and knows when one may be missing."""

    def __init__(self) -> None:
        self.heard = 0
        self.last = -1
        self.gap_allowed = False
        self.outage = False
        self.events: Counter[type] = Counter()

    async def run(self, redis: Redis) -> None:
        while True:
            for event in await redis.pubsub.receive():
                self.events[type(event)] += 1
                match event:
                    case Message(channel="numbers", payload=payload):
                        self.hear(int(payload))
                    case Lost():
                        assert not self.outage
                        self.outage = self.gap_allowed = True
                    case Resumed():
                        assert self.outage
                        self.outage = False
                    case Message() | Overflow():
                        raise AssertionError(event)

    def hear(self, number: int) -> None:
        assert number == self.last + 1 or (number > self.last and self.gap_allowed)
        self.last = number
        self.heard += 1
        self.gap_allowed = self.outage


async def publish(server: RedisServer) -> None:
    number = 0
    while True:
        await server.ask("PUBLISH", "numbers", number)
        number += 1


async def fault(kind: str, server: RedisServer, proxy: Proxy, chance: random.Random) -> None:
    number = proxy.accepted - 1 - chance.randrange(2)
    match kind:
        case "kill":
            with suppress(LookupError):  # it is lost just now
                await server.kill_client(chance.choice(["trio-commands", "trio-pubsub"]))
        case "cut":
            proxy.cut(number)
        case "tear":
            proxy.tear(number)
        case "stall":
            proxy.freeze(number)
        case "hiccup" | "freeze":
            server.freeze()
            await trio.sleep(0.05 if kind == "hiccup" else 0.5)
            server.thaw()


def shuffled(kinds: list[str], chance: random.Random) -> Iterator[str]:
    """All kinds again and again, each time in a new order."""
    while True:
        yield from chance.sample(kinds, len(kinds))


async def until_reply(redis: Redis) -> None:
    """Wait until a command works, so that all earlier ones have their replies."""
    while True:
        await redis.wait_connected()
        with suppress(NotConnectedError, OutcomeUnknownError):
            await redis.ping()
            return


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_reply_or_message_is_wrong_under_stress(
    server: RedisServer, proxy: Proxy, seed: int
) -> None:
    chance = random.Random(seed)
    workers = [Worker(number, chance) for number in range(TASKS)]
    appender, listener = Appender(), Listener()
    for worker in workers:
        await server.ask("SET", f"name-{worker.number}", f"task {worker.number}")

    def stressed() -> bool:
        """Whether there was enough stress."""
        statistics = redis.statistics()
        return (
            min(statistics.commands.losses, statistics.pubsub.losses) >= 3
            # One increment of each may be in flight.
            and sum(worker.possible > worker.certain + 1 for worker in workers) > TASKS / 2
            and min(worker.certain for worker in workers) > 20
            and len(appender.ran) > 500
            and listener.heard > 100
            and listener.events[Resumed] >= 3
        )

    with trio.fail_after(180):
        async with open_redis(proxy.url, command_timeout=0.3, probe_interval=0.1) as redis:
            redis.pubsub.subscribe("numbers")
            await redis.pubsub.wait_subscribed("numbers")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(publish, server)
                nursery.start_soon(listener.run, redis)
                nursery.start_soon(appender.run, redis)
                for worker in workers:
                    nursery.start_soon(worker.run, redis)
                for count, kind in enumerate(shuffled(KINDS, chance)):
                    if count >= FAULTS:
                        if stressed():
                            break
                        # A slow machine: the missing conditions need a connection.
                        await until_reply(redis)
                        await redis.pubsub.wait_subscribed("numbers")
                    await trio.sleep(chance.uniform(0, 0.15))
                    await fault(kind, server, proxy, chance)
                await until_reply(redis)
                nursery.cancel_scope.cancel()
            # The effects of the last faults may only show now.
            await until_reply(redis)
            await until(lambda: redis.statistics().commands.in_flight == 0)
            await server.wait_clients("trio-commands", "trio-pubsub")
            losses = redis.statistics().commands.losses, redis.statistics().pubsub.losses

    for worker in workers:
        counted = int(await server.ask("GET", f"counter-{worker.number}") or 0)
        assert worker.certain <= counted <= worker.possible

    listed = [int(number) for number in await server.ask("LRANGE", "list", 0, -1)]
    assert listed == sorted(set(listed))
    assert appender.ran <= set(listed)
    assert appender.did_not.isdisjoint(listed)
    print(
        f"losses {losses}, counted {sum(worker.certain for worker in workers)} to "
        f"{sum(worker.possible for worker in workers)}, appended {len(listed)} of "
        f"{appender.count}, heard {listener.heard} of {listener.last + 1}, {dict(listener.events)}"
    )
