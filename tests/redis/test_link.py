import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
import trio
import trustme

from tests.clients import PATIENCE
from tests.faults.wires import open_wire
from tests.redis.fake import open_fake
from tests.redis.server import Certificates, Proxy, RedisServer, free_port, open_redis_server
from tests.redis.waiting import open_sockets, until
from trio_signal.redis import (
    ConfigurationError,
    Lost,
    Message,
    NotConnectedError,
    OutcomeUnknownError,
    Redis,
    Resumed,
    open_redis,
)
from trio_signal.redis.link import FIRST_PAUSE, pauses


async def reconnected(redis: Redis, connects: int) -> None:
    """Wait until both connections were made this many times, and work."""
    await until(lambda: redis.statistics().commands.connects >= connects and redis.connected)


# Pauses


def test_pauses_grow_to_a_quarter_of_a_second_and_are_jittered() -> None:
    series = [list(islice(pauses(), 20)) for _ in range(50)]
    for pause, longest in zip(
        zip(*series, strict=True), [0.05 * 2**n for n in range(20)], strict=True
    ):
        longest = min(longest, 0.25)
        assert all(longest / 2 <= each <= longest for each in pause)
        assert max(pause) - min(pause) > longest / 10


# Opening


async def test_a_closed_port_raises_at_once() -> None:
    port = free_port()
    with trio.fail_after(PATIENCE), pytest.raises(NotConnectedError, match="refused"):
        async with open_redis(f"redis://127.0.0.1:{port}"):
            pass


async def test_a_wrong_password_raises_at_once_even_if_the_server_may_be_down(
    tmp_path: Path,
) -> None:
    async with open_redis_server(tmp_path, requirepass="right") as server:
        url = f"redis://:wrong-one@127.0.0.1:{server.port}"
        with (
            trio.fail_after(PATIENCE),
            pytest.raises(ConfigurationError, match="password") as caught,
        ):
            async with open_redis(url, must_connect=False):
                pass
        assert "wrong-one" not in str(caught.value)


async def test_a_silent_server_raises_after_the_deadline() -> None:
    async with open_fake(hello=None) as fake:
        with trio.fail_after(PATIENCE), pytest.raises(NotConnectedError, match="no answer"):
            async with open_redis(fake.url, connect_timeout=0.2):
                pass


async def test_it_may_start_without_a_server(tmp_path: Path) -> None:
    async with open_redis_server(tmp_path) as server:
        await server.kill()
        async with open_redis(server.url, must_connect=False) as redis:
            redis.pubsub.subscribe("c")
            with pytest.raises(NotConnectedError, match="refused"):
                await redis.ping()
            with trio.fail_after(PATIENCE):
                await redis.wait_disconnected()
            [lost] = await redis.pubsub.receive()
            assert isinstance(lost, Lost)
            assert "refused" in lost.reason
            await server.start()
            with trio.fail_after(PATIENCE):
                assert await redis.pubsub.receive() == [Resumed()]
            assert redis.connected
            assert await redis.pubsub_numsub("c") == [(b"c", 1)]


async def test_the_server_lists_the_name(server: RedisServer) -> None:
    async with open_redis(server.url, name="replica-7"):
        await server.wait_clients("replica-7-commands", "replica-7-pubsub")


async def test_commands_and_messages_over_tls(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    big = b"x" * 2_000_000
    async with (
        open_redis_server(tmp_path, **certificates.options()) as server,
        open_redis(f"rediss://127.0.0.1:{server.port}", ca_file=certificates.ca) as redis,
    ):
        redis.pubsub.subscribe("c")
        await redis.pubsub.wait_subscribed("c")

        async def write_and_read(number: int) -> None:
            await redis.set(f"key-{number}", big + b"%d" % number)
            assert await redis.get(f"key-{number}") == big + b"%d" % number

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for number in range(10):
                    nursery.start_soon(write_and_read, number)
            assert await redis.publish("c", big) == 1
            assert await redis.pubsub.receive() == [Message("c", big)]


# Ending


async def test_nothing_is_left_after_the_block(server: RedisServer) -> None:
    before = open_sockets()
    async with open_redis(server.url) as redis:
        redis.pubsub.subscribe("c")
        await redis.pubsub.wait_subscribed("c")
    assert open_sockets() == before
    await server.wait_clients()
    assert not redis.connected
    with pytest.raises(NotConnectedError, match="closed"):
        await redis.ping()
    assert redis.send_nowait("PING") is False


async def test_cancelling_ends_it_at_any_time(server: RedisServer) -> None:
    before = open_sockets()
    with trio.fail_after(PATIENCE), trio.CancelScope() as scope:
        async with open_redis(server.url, command_timeout=600) as redis:
            server.freeze()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(redis.ping)
                nursery.start_soon(redis.pubsub.receive)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
    assert scope.cancelled_caught
    assert open_sockets() == before


async def test_cancelling_while_it_reconnects(server: RedisServer) -> None:
    before = open_sockets()
    with trio.fail_after(PATIENCE):
        async with open_redis(server.url) as redis:
            await server.kill()
            await redis.wait_disconnected()
    assert open_sockets() == before


async def test_an_error_in_the_block_is_raised(server: RedisServer) -> None:
    with pytest.RaisesGroup(ZeroDivisionError):
        async with open_redis(server.url):
            raise ZeroDivisionError


async def test_an_error_in_a_callback_only_ends_the_connection(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    with trio.fail_after(PATIENCE):
        async with open_redis(server.url) as redis:
            redis.send_nowait("PING", on_reply=fail)
            await redis.wait_disconnected()
            await redis.wait_connected()
            await redis.ping()
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.getMessage().startswith("a connection to Redis failed")


# Reconnecting


async def test_it_reconnects_to_a_restarted_server(server: RedisServer, redis: Redis) -> None:
    await server.kill()
    with trio.fail_after(PATIENCE):
        await redis.wait_disconnected()
    assert not redis.connected
    await server.start()
    with trio.fail_after(PATIENCE):
        await redis.wait_connected()
    assert await redis.ping()
    now = redis.statistics()
    assert (now.commands.connects, now.commands.losses) == (2, 1)
    assert (now.pubsub.connects, now.pubsub.losses) == (2, 1)
    await server.wait_clients("trio-commands", "trio-pubsub")


async def test_a_server_that_loads_its_data_counts_as_down(
    server: RedisServer, redis: Redis
) -> None:
    for number in range(300):
        redis.send_nowait("SET", f"key-{number}", "x")
    await redis.save()
    await server.kill()
    # Microseconds for each key, and how often it serves clients meanwhile.
    server.options |= {"key-load-delay": "2000", "loading-process-events-interval-bytes": "1024"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.start)
        await until(lambda: "loading" in redis.link.reason)
        with pytest.raises(NotConnectedError, match="loading"):
            await redis.get("key-299")
        with trio.fail_after(PATIENCE):
            await redis.wait_connected()
        assert await redis.get("key-299") == b"x"


@pytest.mark.parametrize("which", ["trio-commands", "trio-pubsub"])
async def test_the_loss_of_either_connection_is_an_outage(
    server: RedisServer, redis: Redis, which: str
) -> None:
    await server.kill_client(which)
    with trio.fail_after(PATIENCE):
        [lost] = await redis.pubsub.receive()
        assert isinstance(lost, Lost)
        assert await redis.pubsub.receive() == [Resumed()]
    assert redis.connected
    assert await redis.ping()


async def test_pauses_start_over_once_connected(
    server: RedisServer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[float] = []

    def watched() -> Iterator[float]:
        for pause in pauses():
            taken.append(pause)
            yield pause

    monkeypatch.setattr("trio_signal.redis.link.pauses", watched)
    await server.kill()
    await until(lambda: taken and max(taken) > 4 * FIRST_PAUSE)
    await server.start()
    await reconnected(redis, 2)
    taken.clear()
    await server.kill_client("trio-commands")
    await reconnected(redis, 3)
    assert taken[0] <= FIRST_PAUSE


async def test_a_probe_notices_a_frozen_server_and_its_return(
    server: RedisServer,
) -> None:
    async with open_redis(server.url, probe_interval=0.1, command_timeout=1) as redis:
        redis.pubsub.subscribe("c")
        await redis.pubsub.wait_subscribed("c")
        server.freeze()
        with trio.fail_after(PATIENCE):
            [lost] = await redis.pubsub.receive()
            assert isinstance(lost, Lost)
            assert "no reply within 1 s" in lost.reason
            server.thaw()
            assert await redis.pubsub.receive() == [Resumed()]
        assert await redis.publish("c", "x") == 1


@pytest.mark.parametrize("number", [0, 1])
async def test_each_connection_is_probed(proxy: Proxy, number: int) -> None:
    async with open_redis(proxy.url, probe_interval=0.1, command_timeout=1.5) as redis:
        proxy.freeze(number)
        with trio.fail_after(PATIENCE):
            await redis.wait_disconnected()
            await redis.wait_connected()
        now = redis.statistics()
        assert [now.commands.losses, now.pubsub.losses] == [1 - number, number]
        assert await redis.ping()


async def test_an_idle_server_that_answers_probes_is_kept(server: RedisServer) -> None:
    async with open_redis(server.url, probe_interval=0.02, command_timeout=1) as redis:
        with trio.move_on_after(1.3):
            await redis.wait_disconnected()
        await until(lambda: redis.statistics().commands.requests > 10)
        await until(lambda: redis.statistics().pubsub.requests > 10)
        now = redis.statistics()
        assert (now.commands.losses, now.pubsub.losses) == (0, 0)
        assert now.commands.round_trip is not None


def lasting_errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]


async def test_a_changed_password_is_logged_once_and_retried(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with open_redis(f"redis://:right@127.0.0.1:{server.port}") as redis:
        await server.kill()
        server.options["requirepass"] = "another"
        await server.start()
        with trio.fail_after(PATIENCE):
            while await rejected(server) < 6:  # noqa: ASYNC110
                await trio.sleep(0.01)
        wrong = [text for text in lasting_errors(caplog) if "invalid username-password" in text]
        assert len(wrong) == 2, "once for each connection"
        assert "invalid username-password" in redis.link.reason
        await server.ask("CONFIG", "SET", "requirepass", "right")
        server.options["requirepass"] = "right"
        with trio.fail_after(PATIENCE):
            await redis.wait_connected()
        assert await redis.ping()
    assert not any("right" in record.getMessage() for record in caplog.records)
    connected = [text for text in caplog.messages if "connected to" in text]
    assert len(connected) == 2


async def rejected(server: RedisServer) -> int:
    """The number of wrong passwords so far."""
    stats: bytes = await server.ask("INFO", "errorstats")
    for line in stats.decode().splitlines():
        if line.startswith("errorstat_WRONGPASS:count="):
            return int(line.split("=")[1])
    return 0


async def test_a_changed_certificate_is_logged_once_and_retried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    good, bad = tmp_path / "good.pem", tmp_path / "bad.pem"
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(good))
    other.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(bad))
    options = {"tls_ca_cert_file": str(tmp_path / "ca.pem"), "tls_auth_clients": "no"}
    async with open_redis_server(
        tmp_path, tls_cert_file=str(good), tls_key_file=str(good), **options
    ) as server:
        url = f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={tmp_path}/ca.pem"
        async with open_redis(url) as redis:
            assert await redis.ping()
            for file, ready in (
                (bad, lambda: refused_certificate(redis)),
                (good, lambda: redis.connected),
            ):
                await server.kill()
                await redis.wait_disconnected()
                server.options["tls-cert-file"] = server.options["tls-key-file"] = str(file)
                await server.start()
                await until(ready)
            assert await redis.ping()
    refused = [text for text in lasting_errors(caplog) if "certificate refused" in text]
    assert len(refused) == 2, "once for each connection"


def refused_certificate(redis: Redis) -> bool:
    """Whether this is the reason why both connections are down."""
    return all("certificate refused" in link.reason for link in (redis.link, redis.pubsub.link))


async def test_commands_in_flight_at_the_end_are_reported(server: RedisServer) -> None:
    told: list[object] = []
    async with open_redis(server.url) as redis:
        server.freeze()
        before = redis.statistics().commands.requests
        redis.send_nowait("PING", on_reply=told.append)
        await until(lambda: redis.statistics().commands.requests > before)
        assert told == []
    assert list(map(type, told)) == [OutcomeUnknownError]


async def test_late_commands_of_an_abandoned_connection_do_not_run(
    server: RedisServer,
) -> None:
    """They arrive after those of the next connection."""
    async with open_wire(server.port) as wire, open_redis(wire.url) as redis:
        await redis.set("said", "first")
        with wire.delayed(1.0, up=True):
            redis.send_nowait("SET", "said", "by the old one")
            await trio.testing.wait_all_tasks_blocked(0.1)
            wire.cut()
        with trio.fail_after(PATIENCE):
            await redis.wait_disconnected()
            await redis.wait_connected()
        await redis.set("said", "by the new one")
        await trio.sleep(1.0)  # they have arrived by then
        assert await redis.get("said") == b"by the new one"
