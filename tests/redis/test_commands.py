import logging

import pytest
import trio
import trio.testing
from redis.exceptions import DataError, NoScriptError, ResponseError

from tests.clients import PATIENCE
from tests.redis.server import Proxy, RedisServer
from tests.redis.waiting import until
from trio_signal.redis import (
    NotConnectedError,
    OutcomeUnknownError,
    Redis,
    open_redis,
)

NEXT = "return redis.call('INCR', KEYS[1]) + ARGV[1]"


async def wait_sent(redis: Redis, count: int) -> None:
    """Wait until this many commands have been written to the socket."""
    await until(lambda: redis.statistics().commands.requests >= count)


async def expect(error: type[Exception], redis: Redis, *command: str) -> None:
    with pytest.raises(error):
        await redis.execute_command(*command)


# The command API


async def test_commands_of_redis_py(redis: Redis) -> None:
    assert await redis.set("key", "välue", ex=60) is True
    assert await redis.get("key") == "välue".encode()
    assert await redis.get("nothing") is None
    assert await redis.hset("hash", mapping={"a": 1, "b": 2.5}) == 2
    assert await redis.hgetall("hash") == {b"a": b"1", b"b": b"2.5"}
    assert await redis.sadd("set", "x", "y") == 2
    assert await redis.smembers("set") == {b"x", b"y"}
    assert await redis.zadd("sorted", {"x": 1, "y": 2}) == 2
    scored = await redis.zrange("sorted", 0, -1, withscores=True)
    assert [tuple(pair) for pair in scored] == [(b"x", 1.0), (b"y", 2.0)]
    assert await redis.expire("hash", 10) is True
    assert await redis.mget([]) == []
    assert (await redis.info("server"))["redis_mode"] == "standalone"
    assert (await redis.config_get("maxmemory"))["maxmemory"] == "0"
    assert {name async for name in redis.scan_iter(match="s*")} == {b"set", b"sorted"}
    assert {c["name"] for c in await redis.client_list()} == {"trio-commands", "trio-pubsub"}
    assert await redis.publish("nobody", b"\x00\xff") == 0


async def test_an_error_reply_is_raised_and_affects_no_others(redis: Redis) -> None:
    await redis.set("text", "x")
    with pytest.raises(ResponseError, match="not an integer"):
        await redis.incr("text")
    assert await redis.get("text") == b"x"
    assert redis.connected


async def test_an_error_reply_that_resembles_a_redirect_is_raised(redis: Redis) -> None:
    with pytest.raises(ResponseError, match="ASK somebody else"):
        await redis.eval("return redis.error_reply('ASK somebody else entirely')", 0)
    assert redis.statistics().commands.losses == 0


@pytest.mark.parametrize("command", ["MULTI", "select", "BLPOP", "SUBSCRIBE", "MONITOR", "HELLO"])
async def test_commands_that_change_or_block_the_connection_are_refused(
    redis: Redis, command: str
) -> None:
    with pytest.raises(DataError, match=f"{command.upper()} would change or block"):
        await redis.execute_command(command, 1)
    with pytest.raises(DataError, match=f"{command.upper()} would change or block"):
        redis.send_nowait(command, 1)


async def test_wrong_arguments_are_refused_before_anything_is_sent(redis: Redis) -> None:
    for command in [("SET", "a", None), (b"GET", "a"), ("", "a")]:
        with pytest.raises(DataError):
            await redis.execute_command(*command)  # type: ignore[arg-type]
    assert await redis.ping()


async def test_a_command_is_a_checkpoint(redis: Redis) -> None:
    with trio.testing.assert_checkpoints():
        await redis.get("key")


async def test_a_cancelled_task_sends_nothing(redis: Redis) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await redis.incr("counter")
    assert scope.cancelled_caught
    assert await redis.get("counter") is None


# One shared connection


async def test_many_tasks_share_one_connection(server: RedisServer, redis: Redis) -> None:
    for number in range(100):
        await redis.set(f"key-{number}", f"value-{number}")
    replies: dict[int, object] = {}

    async def get(number: int) -> None:
        replies[number] = await redis.get(f"key-{number}")

    before = redis.statistics().commands.requests
    server.freeze()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(get, number)
            await wait_sent(redis, before + 100)
            # All are in flight at once: none waits for the reply to another.
            assert redis.statistics().commands.in_flight >= 100
            server.thaw()
    assert replies == {number: b"value-%d" % number for number in range(100)}
    assert await server.clients() == ["trio-commands", "trio-pubsub"]


async def test_a_cancelled_command_discards_its_own_reply(
    server: RedisServer, redis: Redis
) -> None:
    for name in "abc":
        await redis.set(name, f"{name}'s")
    got: dict[str, object] = {}
    scopes = {name: trio.CancelScope() for name in "abc"}

    async def get(name: str) -> None:
        with scopes[name]:
            got[name] = await redis.get(name)

    before = redis.statistics().commands.requests
    server.freeze()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for name in "abc":
                nursery.start_soon(get, name)
            await wait_sent(redis, before + 3)
            scopes["b"].cancel()
            await trio.testing.wait_all_tasks_blocked()
            assert scopes["b"].cancelled_caught
            server.thaw()
    assert got == {"a": b"a's", "c": b"c's"}
    assert redis.statistics().commands.losses == 0


# Faults


#: More than the kernel takes for a server that does not read, so later data are not sent.
HUGE = "x" * (64 * 2**20)


async def test_a_sent_command_has_an_unknown_outcome_if_the_connection_is_lost(
    server: RedisServer, redis: Redis
) -> None:
    before = redis.statistics().commands.requests
    server.freeze()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(expect, OutcomeUnknownError, redis, "INCR", "counter")
            await wait_sent(redis, before + 3)
            await server.kill()


async def test_an_unsent_command_raises_not_connected(server: RedisServer, redis: Redis) -> None:
    server.freeze()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            before = redis.statistics().commands.requests
            nursery.start_soon(expect, OutcomeUnknownError, redis, "SET", "huge", HUGE)
            await wait_sent(redis, before + 1)
            nursery.start_soon(expect, NotConnectedError, redis, "INCR", "counter")
            await trio.testing.wait_all_tasks_blocked()
            await server.kill()


async def test_a_command_cancelled_before_it_is_sent_never_runs(
    server: RedisServer,
) -> None:
    async with open_redis(server.url, command_timeout=60) as redis:
        server.freeze()
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                before = redis.statistics().commands.requests
                nursery.start_soon(redis.set, "huge", HUGE)
                await wait_sent(redis, before + 1)
                nursery.start_soon(redis.incr, "kept")
                async with trio.open_nursery() as inner:
                    inner.start_soon(redis.incr, "cancelled")
                    await trio.testing.wait_all_tasks_blocked()
                    inner.cancel_scope.cancel()
                server.thaw()
        assert await redis.mget("kept", "cancelled") == [b"1", None]


async def test_without_a_connection_commands_fail_at_once(server: RedisServer) -> None:
    async with open_redis(server.url, command_timeout=600, connect_timeout=600) as redis:
        await server.kill()
        await until(lambda: not redis.statistics().commands.connected)
        with trio.fail_after(PATIENCE), pytest.raises(NotConnectedError, match=f"{server.port}"):
            await redis.get("key")


async def test_failing_at_once_is_a_checkpoint_too(server: RedisServer, redis: Redis) -> None:
    await server.kill()
    await until(lambda: not redis.statistics().commands.connected)
    with trio.CancelScope() as scope:
        scope.cancel()
        await redis.get("key")
    assert scope.cancelled_caught


async def test_a_timeout_replaces_the_connection(
    server: RedisServer,
) -> None:
    async with open_redis(server.url, command_timeout=1, probe_interval=60) as redis:
        server.freeze()
        start = trio.current_time()
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(expect, OutcomeUnknownError, redis, "GET", "key")
        assert trio.current_time() - start >= 1
        assert "no reply within 1 s" in redis.link.reason
        server.thaw()
        with trio.fail_after(PATIENCE):
            await redis.wait_connected()
        assert await redis.ping()
        assert redis.statistics().commands.losses >= 1


async def test_nothing_is_sent_twice(server: RedisServer, proxy: Proxy) -> None:
    async with open_redis(proxy.url) as redis:
        proxy.tear(0)
        with pytest.raises(OutcomeUnknownError):
            await redis.incr("counter")
        with trio.fail_after(PATIENCE):
            await redis.wait_disconnected()
            await redis.wait_connected()
        # It ran, and its reply was cut in half.
        assert await redis.get("counter") == b"1"
        assert await server.ask("GET", "counter") == b"1"


# Without waiting


async def test_send_nowait_keeps_the_order_and_does_not_block(redis: Redis) -> None:
    with trio.testing.assert_no_checkpoints():
        for number in range(1000):
            assert redis.send_nowait("RPUSH", "list", number)
    assert await redis.lrange("list", 0, -1) == [b"%d" % number for number in range(1000)]


async def test_send_nowait_precedes_later_commands(redis: Redis) -> None:
    redis.send_nowait("SET", "key", "a")
    assert await redis.get("key") == b"a"


async def test_send_nowait_returns_false_without_a_connection(
    server: RedisServer, redis: Redis
) -> None:
    await server.kill()
    await until(lambda: not redis.statistics().commands.connected)
    assert redis.send_nowait("SET", "key", "a") is False
    assert redis.statistics().dropped == 1


async def test_send_nowait_returns_false_if_too_much_is_waiting(server: RedisServer) -> None:
    chunk = b"x" * 100_000
    async with open_redis(server.url, send_limit=1_000_000) as redis:
        taken = 0
        while redis.send_nowait("RPUSH", "list", chunk):
            taken += 1
        assert taken == 10
        assert redis.statistics().dropped == 1
        assert await redis.llen("list") == 10
        # Sent data make room.
        assert redis.send_nowait("RPUSH", "list", chunk)
        assert await redis.llen("list") == 11


async def test_send_nowait_is_bounded_for_a_frozen_server(
    server: RedisServer,
) -> None:
    chunk = b"x" * 100_000
    async with open_redis(server.url, send_limit=1_000_000, command_timeout=60) as redis:
        server.freeze()
        taken = 0
        with trio.fail_after(PATIENCE):
            while redis.send_nowait("RPUSH", "list", chunk):
                taken += 1
                await trio.testing.wait_all_tasks_blocked()
        assert 1_000_000 <= redis.statistics().waiting_bytes < 1_200_000
        server.thaw()
        assert await redis.llen("list") == taken


async def test_send_nowait_counts_data_being_written(server: RedisServer) -> None:
    async with open_redis(server.url, send_limit=1_000_000, command_timeout=60) as redis:
        before = redis.statistics().commands.requests
        server.freeze()
        assert redis.send_nowait("SET", "huge", HUGE)
        await wait_sent(redis, before + 1)
        assert redis.send_nowait("SET", "small", "x") is False
        server.thaw()
        assert await redis.ping()
        assert redis.send_nowait("SET", "small", "x") is True


async def test_send_nowait_reports_the_outcome(server: RedisServer, redis: Redis) -> None:
    told: list[object] = []
    assert redis.send_nowait("INCR", "counter", on_reply=told.append)
    assert redis.send_nowait("INCR", on_reply=told.append)
    await redis.ping()
    assert told[0] == 1
    assert isinstance(told[1], ResponseError)
    before = redis.statistics().commands.requests
    server.freeze()
    assert redis.send_nowait("INCR", "counter", on_reply=told.append)
    await wait_sent(redis, before + 1)
    await server.kill()
    await until(lambda: len(told) == 3)
    assert isinstance(told[2], OutcomeUnknownError)
    assert redis.statistics().refused == 0


async def test_unhandled_errors_are_counted_and_logged_once(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        redis.send_nowait("INCR")
    await redis.ping()
    assert redis.statistics().refused == 5
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "wrong number of arguments" in errors[0].getMessage()


# Scripts


async def count_calls(server: RedisServer, command: str) -> int:
    """The number of times that the server ran a command."""
    stats: bytes = await server.ask("INFO", "commandstats")
    for line in stats.decode().splitlines():
        if line.startswith(f"cmdstat_{command}:"):
            return int(line.split("calls=")[1].split(",")[0])
    return 0


async def test_a_script_is_sent_once_and_runs_by_its_hash(
    server: RedisServer, redis: Redis
) -> None:
    script = redis.register_script(NEXT)
    assert [await script(keys=["n"], args=[10]) for _ in range(3)] == [11, 12, 13]
    assert await count_calls(server, "evalsha") == 3
    assert await count_calls(server, "eval") == 0
    assert await count_calls(server, "script|load") == 1


async def test_a_script_that_the_server_forgot_is_sent_again_once(
    server: RedisServer, redis: Redis
) -> None:
    script = redis.register_script(NEXT)
    assert await script(["n"], [0]) == 1
    await server.ask("SCRIPT", "FLUSH")
    assert await script(["n"], [0]) == 2
    assert await script(["n"], [0]) == 3
    assert await count_calls(server, "eval") == 1


async def test_a_script_error_is_raised(redis: Redis) -> None:
    script = redis.register_script("return redis.call('INCR', KEYS[1])")
    await redis.set("text", "x")
    with pytest.raises(ResponseError, match="not an integer"):
        await script(["text"])


async def test_scripts_are_loaded_again_after_a_restart(server: RedisServer, redis: Redis) -> None:
    script = redis.register_script("return redis.call('RPUSH', KEYS[1], ARGV[1])")
    await server.kill()
    await server.start()
    with trio.fail_after(PATIENCE):
        await redis.wait_connected()
    for number in range(100):
        assert script.send_nowait(["list"], [number])
    # They are loaded first, so even the first calls stay in order.
    assert await redis.lrange("list", 0, -1) == [b"%d" % number for number in range(100)]
    assert await count_calls(server, "eval") == 0


async def test_send_nowait_of_a_script_works_after_a_flush(
    server: RedisServer, redis: Redis
) -> None:
    script = redis.register_script(NEXT)
    told: list[object] = []
    await redis.ping()
    await server.ask("SCRIPT", "FLUSH")
    assert script.send_nowait(["n"], [0], on_reply=told.append)
    await redis.ping()
    await redis.ping()
    assert told == [1]


async def test_an_unregistered_script_raises_no_script_error(redis: Redis) -> None:
    with pytest.raises(NoScriptError):
        await redis.evalsha("0" * 40, 0)


# Statistics


async def test_statistics(redis: Redis) -> None:
    for _ in range(10):
        await redis.ping()
    now = redis.statistics()
    assert (now.commands.connected, now.pubsub.connected) == (True, True)
    assert (now.commands.connects, now.pubsub.connects) == (1, 1)
    assert (now.commands.losses, now.pubsub.losses) == (0, 0)
    assert now.commands.requests >= 10
    assert now.commands.in_flight == 0
    assert now.waiting_bytes == 0
    assert now.commands.round_trip is not None
    assert 0 < now.commands.round_trip < PATIENCE
