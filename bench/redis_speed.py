"""The speed of trio_signal.redis on this machine: python bench/redis_speed.py [URL]

It uses the keys and the channel `trio-signal-bench` of the Redis at URL.
"""

import sys
import time

import trio

from trio_signal.redis import Message, Redis, open_redis

NAME = "trio-signal-bench"
MESSAGES = 300_000
BATCH = 1_000
PAYLOAD = b"x" * 200
PUBLISH = "for i = 1, ARGV[1] do redis.call('PUBLISH', KEYS[1], ARGV[2]) end"


async def measure_gets(redis: Redis, tasks: int, count: int) -> None:
    """Print the GETs a second of several tasks, and the median time of one."""
    times: list[float] = []

    async def get() -> None:
        for _ in range(count // tasks):
            start = time.perf_counter()
            await redis.get(NAME)
            times.append(time.perf_counter() - start)

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(tasks):
            nursery.start_soon(get)
    rate = len(times) / (time.perf_counter() - start)
    median = sorted(times)[len(times) // 2]
    print(f"{tasks:4} tasks: {rate:10,.0f} GET/s, median {median * 1e3:.2f} ms")


async def measure_messages(redis: Redis) -> None:
    """Print the messages a second that are received while the server itself publishes them."""
    redis.pubsub.subscribe(NAME)
    await redis.pubsub.wait_subscribed(NAME)
    script = redis.register_script(PUBLISH)
    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, redis, MESSAGES)
        for _ in range(MESSAGES // BATCH):
            await script([NAME], [BATCH, PAYLOAD])
    print(f"received:   {MESSAGES / (time.perf_counter() - start):10,.0f} messages/s")


async def measure_publishing(redis: Redis) -> None:
    """Print the messages a second that we both publish and receive."""
    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive, redis, MESSAGES)
        for number in range(MESSAGES):
            redis.send_nowait("PUBLISH", NAME, PAYLOAD)
            if number % BATCH == 0:
                await redis.ping()
    print(f"and sent:   {MESSAGES / (time.perf_counter() - start):10,.0f} messages/s")


async def receive(redis: Redis, count: int) -> None:
    while count > 0:
        for event in await redis.pubsub.receive():
            if not isinstance(event, Message):
                raise TypeError(f"the measurement is invalid: {event}")
            count -= 1


async def main(url: str) -> None:
    async with open_redis(url) as redis:
        await redis.set(NAME, PAYLOAD)
        await measure_gets(redis, 1, 10_000)
        await measure_gets(redis, 100, 200_000)
        await measure_messages(redis)
        await measure_publishing(redis)
        await redis.delete(NAME)


if __name__ == "__main__":
    trio.run(main, sys.argv[1] if len(sys.argv) > 1 else "redis://127.0.0.1:6379")
