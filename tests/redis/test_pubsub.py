from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from redis.exceptions import NoPermissionError, PubSubError

from tests.clients import PATIENCE
from tests.redis.fake import FakeConnection, FakeRedis, open_fake
from tests.redis.server import RedisServer
from tests.redis.waiting import until
from trio_signal.redis import Event, Lost, Message, Overflow, Redis, Resumed, open_redis
from trio_signal.redis.pubsub import MESSAGE_OVERHEAD, Inbox


async def receive(redis: Redis, count: int) -> list[Event]:
    """The next events, at least this many."""
    events: list[Event] = []
    with trio.fail_after(PATIENCE):
        while len(events) < count:
            events += await redis.pubsub.receive()
    return events


async def subscribe(redis: Redis, *channels: str) -> None:
    for channel in channels:
        redis.pubsub.subscribe(channel)
    with trio.fail_after(PATIENCE):
        for channel in channels:
            await redis.pubsub.wait_subscribed(channel)


# Inbox

LOST, RESUMED, OVERFLOW = Lost("why"), Resumed(), Overflow()


def message(number: int, size: int = 0) -> Message:
    return Message(f"c{number}", b"x" * size)


@pytest.mark.parametrize(
    ("put", "taken"),
    [
        ([message(1), message(2)], [message(1), message(2)]),
        ([message(1, 1000), message(2)], [OVERFLOW]),
        ([message(1), message(2, 1000), message(3)], [message(1), OVERFLOW]),
        ([message(1, 1000), LOST, message(2), RESUMED], [OVERFLOW, LOST, RESUMED]),
        ([LOST, RESUMED, LOST], [LOST]),
        ([LOST, RESUMED, LOST, RESUMED] * 3, [LOST, RESUMED]),
        ([LOST, message(1), RESUMED, LOST], [LOST, message(1), RESUMED, LOST]),
        ([RESUMED, LOST, RESUMED, LOST, RESUMED], [RESUMED, LOST, RESUMED]),
    ],
)
async def test_the_inbox_merges_states_and_reports_overflows(
    put: list[Event], taken: list[Event]
) -> None:
    inbox = Inbox(5 * MESSAGE_OVERHEAD)
    for _ in range(2):  # an emptied inbox is like a new one
        for event in put:
            if isinstance(event, Message):
                inbox.put(event)
            else:
                assert not isinstance(event, Overflow)
                inbox.put_state(event)
        assert await inbox.take() == taken
    assert inbox.overflows == 2 * taken.count(OVERFLOW)


async def test_the_inbox_wakes_one_waiting_task() -> None:
    inbox = Inbox(1000)
    taken: list[list[Event]] = []

    async def take() -> None:
        taken.append(await inbox.take())

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            nursery.start_soon(take)
            await trio.testing.wait_all_tasks_blocked()
            inbox.put(message(1))
            await trio.testing.wait_all_tasks_blocked()
            assert taken == [[message(1)]]
            inbox.put(message(2))
    assert taken == [[message(1)], [message(2)]]


async def test_a_cancelled_take_takes_nothing() -> None:
    inbox = Inbox(1000)
    inbox.put(message(1))
    with trio.CancelScope() as scope:
        scope.cancel()
        await inbox.take()
    assert scope.cancelled_caught
    with trio.testing.assert_checkpoints():
        assert await inbox.take() == [message(1)]


# With a real server


async def test_messages_arrive_complete_and_in_order(redis: Redis) -> None:
    await subscribe(redis, "c", "d")
    for number in range(500):
        redis.send_nowait("PUBLISH", "cd"[number % 2], b"\x00\r\n%d" % number)
    assert await receive(redis, 500) == [
        Message("cd"[number % 2], b"\x00\r\n%d" % number) for number in range(500)
    ]
    assert redis.statistics().messages == 500


async def test_subscribe_and_unsubscribe_do_not_block(redis: Redis) -> None:
    with trio.testing.assert_no_checkpoints():
        redis.pubsub.subscribe("c")
        redis.pubsub.subscribe("c")
        redis.pubsub.subscribe("d")
        redis.pubsub.unsubscribe("d")
        redis.pubsub.unsubscribe("never")
    assert redis.pubsub.channels == ["c"]
    with trio.fail_after(PATIENCE):
        await redis.pubsub.wait_subscribed("c")
    await until(lambda: not redis.statistics().pubsub.in_flight)
    assert await redis.pubsub_channels() == [b"c"]
    # Repeating a subscription sends nothing.
    assert redis.statistics().pubsub.requests == 3


async def test_wait_subscribed_needs_a_subscription(redis: Redis) -> None:
    with pytest.raises(PubSubError, match="not subscribed to 'c'"):
        await redis.pubsub.wait_subscribed("c")
    await subscribe(redis, "c")
    with trio.testing.assert_checkpoints():
        await redis.pubsub.wait_subscribed("c")
    redis.pubsub.unsubscribe("c")
    with pytest.raises(PubSubError, match="not subscribed to 'c'"):
        await redis.pubsub.wait_subscribed("c")


async def test_wait_subscribed_ends_if_the_channel_is_unsubscribed(
    server: RedisServer, redis: Redis
) -> None:
    server.freeze()
    redis.pubsub.subscribe("c")
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(PubSubError):
                    await redis.pubsub.wait_subscribed("c")

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            redis.pubsub.unsubscribe("c")


async def test_subscribing_works_without_a_connection(server: RedisServer, redis: Redis) -> None:
    await server.kill()
    with trio.fail_after(PATIENCE):
        await redis.wait_disconnected()
    redis.pubsub.subscribe("c")
    redis.pubsub.subscribe("d")
    redis.pubsub.unsubscribe("d")
    await server.start()
    with trio.fail_after(PATIENCE):
        await redis.pubsub.wait_subscribed("c")
        await redis.wait_connected()
    assert await redis.pubsub_channels() == [b"c"]
    assert await redis.publish("c", "x") == 1
    assert (await receive(redis, 3))[-1] == Message("c", b"x")


async def test_all_channels_are_subscribed_when_resumed_is_reported(
    server: RedisServer, redis: Redis
) -> None:
    channels = [f"c{number}" for number in range(300)]
    await subscribe(redis, *channels)
    await server.kill()
    await server.start()
    events = await receive(redis, 2)
    assert [type(event) for event in events] == [Lost, Resumed]
    for channel in channels:
        assert await server.ask("PUBLISH", channel, "x") == 1
    assert await receive(redis, 300) == [Message(channel, b"x") for channel in channels]


async def test_too_many_messages_are_reported_as_an_overflow(server: RedisServer) -> None:
    async with open_redis(server.url, receive_limit=100_000) as redis:
        await subscribe(redis, "c")
        for number in range(1000):
            redis.send_nowait("PUBLISH", "c", b"%03d" % number + b"x" * 1000)
        await redis.ping()
        await until(lambda: redis.statistics().overflows)
        with trio.fail_after(PATIENCE):
            # The rest is read and discarded, so the connection does not stall.
            redis.pubsub.subscribe("d")
            await redis.pubsub.wait_subscribed("d")
        *kept, last = await receive(redis, 1)
        assert last == Overflow()
        assert [event.payload[:3] for event in kept if isinstance(event, Message)] == [
            b"%03d" % number for number in range(len(kept))
        ]
        assert 50 < len(kept) < 100
        # From here on all is as after an outage.
        await redis.publish("c", "new")
        assert await receive(redis, 1) == [Message("c", b"new")]
        assert redis.statistics().overflows == 1


async def test_a_forbidden_channel_raises(server: RedisServer) -> None:
    await server.ask("ACL", "SETUSER", "bob", "on", ">pw", "~*", "+@all", "resetchannels", "&a*")
    async with open_redis(f"redis://bob:pw@127.0.0.1:{server.port}") as redis:
        redis.pubsub.subscribe("forbidden")
        redis.pubsub.subscribe("allowed")
        with trio.fail_after(PATIENCE):
            with pytest.raises(NoPermissionError):
                await redis.pubsub.wait_subscribed("forbidden")
            await redis.pubsub.wait_subscribed("allowed")
            await server.kill_client("trio-pubsub")
            await redis.wait_disconnected()
            await redis.wait_connected()
            await redis.pubsub.wait_subscribed("allowed")


# With a server that the test controls


@asynccontextmanager
async def with_fake(
    fake: FakeRedis,
) -> AsyncIterator[tuple[Redis, FakeConnection, FakeConnection]]:
    """A client of it, and the server's ends of its connections for commands and for pub/sub."""
    async with open_redis(fake.url, probe_interval=60, command_timeout=60) as redis:
        with trio.fail_after(PATIENCE):
            commands, pubsub = await fake.accept(), await fake.accept()
        yield redis, commands, pubsub


async def test_an_acknowledgement_only_counts_for_its_own_request() -> None:
    async with open_fake() as fake, with_fake(fake) as (redis, _, server):
        redis.pubsub.subscribe("c")
        redis.pubsub.unsubscribe("c")
        redis.pubsub.subscribe("c")
        acknowledged = trio.Event()

        async def wait() -> None:
            await redis.pubsub.wait_subscribed("c")
            acknowledged.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            with trio.fail_after(PATIENCE):
                for kind in (b"subscribe", b"unsubscribe", b"subscribe"):
                    assert await server.command() == [kind, b"c"]
                await server.acknowledge(b"subscribe", b"c")
                await server.publish(b"c", b"for the first subscription")
                await server.acknowledge(b"unsubscribe", b"c")
                await until(lambda: redis.statistics().pubsub.in_flight == 1)
                await trio.testing.wait_all_tasks_blocked()
                assert not acknowledged.is_set()
                await server.acknowledge(b"subscribe", b"c")
                await server.publish(b"c", b"for the last")
                await acknowledged.wait()
                assert await redis.pubsub.receive() == [Message("c", b"for the last")]


async def test_resumed_is_reported_after_all_acknowledgements() -> None:
    async with open_fake() as fake, with_fake(fake) as (redis, commands, server):
        with trio.fail_after(PATIENCE):
            for channel in (b"c", b"d"):
                redis.pubsub.subscribe(channel.decode())
                assert await server.command() == [b"subscribe", channel]
                await server.acknowledge(b"subscribe", channel)
            await redis.pubsub.wait_subscribed("d")
            # Both connections are lost; the one for commands is back first.
            commands.close()
            server.close()
            [lost] = await redis.pubsub.receive()
            assert isinstance(lost, Lost)
            ends = [await fake.accept(), await fake.accept()]
            async with trio.open_nursery() as nursery:
                for end in ends:
                    nursery.start_soon(answer_requests, end, redis)
                assert await redis.pubsub.receive() == [Message("c", b"before all are there")]
                assert await redis.pubsub.receive() == [Resumed()]
                nursery.cancel_scope.cancel()
        assert redis.connected


async def answer_requests(end: FakeConnection, redis: Redis) -> None:
    """Acknowledge late, and check that nothing is reported too early."""
    assert await end.command() == [b"subscribe", b"c"]
    assert await end.command() == [b"subscribe", b"d"]
    assert await end.command() == [b"PING"]
    await end.acknowledge(b"subscribe", b"c")
    await end.publish(b"c", b"before all are there")
    await redis.pubsub.wait_subscribed("c")
    await trio.testing.wait_all_tasks_blocked()
    assert not redis.connected
    await end.acknowledge(b"subscribe", b"d")
    await end.say(b"+PONG\r\n")


@pytest.mark.parametrize("refused", ["subscribe", "PING"])
async def test_what_is_refused_for_now_is_asked_again(refused: str) -> None:
    """As while somebody's script blocks the server; it keeps the connection."""
    async with open_fake() as fake, with_fake(fake) as (redis, _, server):
        with trio.fail_after(PATIENCE):
            redis.pubsub.subscribe("c")
            assert await server.command() == [b"subscribe", b"c"]
            if refused == "PING":
                server.close()
                server = await fake.accept()
                assert await server.command() == [b"subscribe", b"c"]
                await server.acknowledge(b"subscribe", b"c")
            await server.say(b"-BUSY Redis is busy running a script\r\n")
            server = await fake.accept()
            assert await server.command() == [b"subscribe", b"c"]
            assert await server.command() == [b"PING"]
            await server.acknowledge(b"subscribe", b"c")
            await server.say(b"+PONG\r\n")
            await redis.pubsub.wait_subscribed("c")
            await redis.wait_connected()


async def test_messages_after_unsubscribing_are_ignored() -> None:
    async with open_fake() as fake, with_fake(fake) as (redis, _, server):
        with trio.fail_after(PATIENCE):
            for channel in (b"c", b"d"):
                redis.pubsub.subscribe(channel.decode())
                assert await server.command() == [b"subscribe", channel]
                await server.acknowledge(b"subscribe", channel)
            await redis.pubsub.wait_subscribed("d")
            redis.pubsub.unsubscribe("c")
            await server.publish(b"c", b"the server does not know yet")
            await server.publish(b"d", b"x")
            assert await redis.pubsub.receive() == [Message("d", b"x")]


async def test_replies_behind_a_flood_of_messages_are_not_overdue() -> None:
    async with (
        open_fake() as fake,
        open_redis(fake.url, probe_interval=60, command_timeout=1) as redis,
    ):
        _, server = await fake.accept(), await fake.accept()
        redis.pubsub.subscribe("c")
        with trio.move_on_after(2.5):
            while True:
                await server.publish(b"d", b"x")
                await trio.sleep(0.01)
        assert redis.connected
        await server.acknowledge(b"subscribe", b"c")
        with trio.fail_after(PATIENCE):
            await redis.pubsub.wait_subscribed("c")
        assert redis.statistics().pubsub.losses == 0


async def test_a_wrong_acknowledgement_ends_the_connection() -> None:
    async with open_fake() as fake, with_fake(fake) as (redis, _, server):
        redis.pubsub.subscribe("c")
        with trio.fail_after(PATIENCE):
            await server.command()
            await server.acknowledge(b"subscribe", b"d")
            [lost] = await redis.pubsub.receive()
        assert isinstance(lost, Lost)
        assert "answers another request" in lost.reason
