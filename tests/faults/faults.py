"""Faults of Redis, of connections to it, and of replicas, under traffic."""

import random
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import trio

if TYPE_CHECKING:
    from tests.faults.scene import FaultyScene

#: The length of an outage in seconds, shorter than the lease.
AWAY = 2.0

Do = Callable[["FaultyScene", random.Random], Awaitable[None]]


class Fault(NamedTuple):
    """A fault; it is over when `do` returns."""

    name: str
    do: Do


async def restart_empty(scene: "FaultyScene", choice: random.Random) -> None:
    await scene.redis.kill()
    await trio.sleep(choice.uniform(0, AWAY))
    await scene.redis.start()


async def freeze(scene: "FaultyScene", choice: random.Random) -> None:
    scene.redis.freeze()
    await trio.sleep(choice.uniform(0, AWAY))
    scene.redis.thaw()


async def kill_clients(scene: "FaultyScene", choice: random.Random) -> None:
    for _ in range(6):
        names = await scene.redis.clients()
        if names:
            with suppress(LookupError):  # it is lost just now
                await scene.redis.kill_client(choice.choice(names))
        await trio.sleep(choice.uniform(0, 0.1))


async def pause_clients(scene: "FaultyScene", choice: random.Random) -> None:
    await scene.redis.ask("CLIENT", "PAUSE", int(choice.uniform(100, AWAY * 1000)))


async def sleep(scene: "FaultyScene", choice: random.Random) -> None:
    await scene.redis.ask("DEBUG", "SLEEP", f"{choice.uniform(0.1, AWAY):.2f}")


async def flush(scene: "FaultyScene", _: random.Random) -> None:
    await scene.redis.ask("FLUSHALL")


async def flush_scripts(scene: "FaultyScene", _: random.Random) -> None:
    await scene.redis.ask("SCRIPT", "FLUSH")


async def fill_memory(scene: "FaultyScene", choice: random.Random) -> None:
    """Refuse all writes for a while."""
    await scene.redis.ask("CONFIG", "SET", "maxmemory", 1)
    await trio.sleep(choice.uniform(0, AWAY))
    await scene.redis.ask("CONFIG", "SET", "maxmemory", 0)


async def demote(scene: "FaultyScene", choice: random.Random) -> None:
    """Answer READONLY for a while."""
    await scene.redis.ask("REPLICAOF", "127.0.0.1", 1)
    await trio.sleep(choice.uniform(0, AWAY))
    await scene.redis.ask("REPLICAOF", "NO", "ONE")


async def shrink_buffers(scene: "FaultyScene", _choice: random.Random) -> None:
    """Drop subscribers that do not receive a message at once."""
    option = "client-output-buffer-limit"
    await scene.redis.ask("CONFIG", "SET", option, "pubsub 32kb 0 0")
    for _ in range(3):
        await scene.shout("x" * 60_000)
        await trio.sleep(0.1)
    await scene.redis.ask("CONFIG", "SET", option, "pubsub 32mb 8mb 60")


def delete(pattern: str) -> Do:
    """Delete the keys with this pattern, as an eviction or a person may."""

    async def do(scene: "FaultyScene", choice: random.Random) -> None:
        keys = await scene.wait_found("KEYS", f"trio_signal:{pattern}")
        await scene.redis.ask("DEL", choice.choice(keys))

    return do


async def delete_lease(scene: "FaultyScene", choice: random.Random) -> None:
    replicas = await scene.wait_found("ZRANGE", "trio_signal:replicas", 0, -1)
    await scene.redis.ask("ZREM", "trio_signal:replicas", choice.choice(replicas))


async def cut_off(scene: "FaultyScene", choice: random.Random) -> None:
    """Cut one replica off from Redis, without notice to either."""
    wire = choice.choice(scene.wires)
    wire.pull()
    await trio.sleep(choice.uniform(0, AWAY))
    wire.plug()


def delay(*, up: bool) -> Do:
    """Delay one direction of the connections to Redis."""

    async def do(scene: "FaultyScene", choice: random.Random) -> None:
        wire = choice.choice(scene.wires)
        with wire.delayed(choice.uniform(0.05, 0.8), up=up):
            await trio.sleep(AWAY)

    return do


async def abandon(scene: "FaultyScene", choice: random.Random) -> None:
    """Cut a connection whose last commands arrive after those of its successor."""
    wire = choice.choice(scene.wires)
    with wire.delayed(0.5, up=True):
        await trio.sleep(0.3)
        wire.cut()
    await trio.sleep(1)


async def kill_replica(scene: "FaultyScene", choice: random.Random) -> None:
    await scene.replace(choice.choice(scene.cluster.replicas), signal.SIGKILL)


async def stop_replica(scene: "FaultyScene", choice: random.Random) -> None:
    await scene.replace(choice.choice(scene.cluster.replicas), signal.SIGTERM)


async def freeze_replica(scene: "FaultyScene", choice: random.Random) -> None:
    replica = choice.choice(scene.cluster.replicas)
    replica.send(signal.SIGSTOP)
    await trio.sleep(choice.uniform(0, AWAY))
    replica.send(signal.SIGCONT)


FAULTS = (
    Fault("Redis killed, and empty when it is back", restart_empty),
    Fault("Redis frozen", freeze),
    Fault("connections killed (CLIENT KILL)", kill_clients),
    Fault("clients paused (CLIENT PAUSE)", pause_clients),
    Fault("Redis asleep (DEBUG SLEEP)", sleep),
    Fault("all keys deleted (FLUSHALL)", flush),
    Fault("all scripts forgotten (SCRIPT FLUSH)", flush_scripts),
    Fault("no memory (OOM)", fill_memory),
    Fault("a demoted primary (READONLY)", demote),
    Fault("subscribers dropped (output buffers)", shrink_buffers),
    Fault("the members of a room deleted", delete("room:*:members")),
    Fault("who is live deleted", delete("room:*:live")),
    Fault("the number of a room deleted", delete("room:*:seq")),
    Fault("the list of rooms deleted", delete("rooms")),
    Fault("what a replica owns deleted", delete("owned:*")),
    Fault("the list of replicas deleted", delete("replicas")),
    Fault("any key deleted", delete("*")),
    Fault("the lease of a replica deleted", delete_lease),
    Fault("a replica cut off from Redis", cut_off),
    Fault("a replica late to speak", delay(up=True)),
    Fault("a replica late to hear", delay(up=False)),
    Fault("a connection given up whose last words come late", abandon),
    Fault("a replica killed (SIGKILL)", kill_replica),
    Fault("a replica stopped (SIGTERM)", stop_replica),
    Fault("a replica frozen (SIGSTOP)", freeze_replica),
)
