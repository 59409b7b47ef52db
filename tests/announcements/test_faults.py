"""Faults: of the database, of Redis, and two creators at once."""

import gc
import json
import resource
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from tests.announcements.office import Office, open_office
from tests.clients import PATIENCE, Client, Service, settle
from tests.conftest import serve_once, serve_replicas
from tests.postgres import Postgres, run_postgres
from tests.redis.server import RedisServer, open_redis_server
from tests.replicas.processes import open_replica
from trio_signal.announcements import announcements as core
from trio_signal.bus import announcements as board
from trio_signal.session import Session

UNAVAILABLE = (
    503,
    {"status": "error", "message": "Announcements are not available now, try again later"},
)


# Two creators at once


async def test_one_of_two_simultaneous_announcements_stays_active(office: Office) -> None:
    """All replicas agree on the active one, and every user sees that one last."""
    bases = range(len(office.service.bases))
    async with AsyncExitStack() as stack:
        users = [await stack.enter_async_context(office.attend(f"u{at}", at=at)) for at in bases]
        for number in range(5):
            made = await announce_twice(office, number, -1)
            (active,) = {await office.active(f"new{number}", at=at) for at in bases}
            assert active in made
            for user in users:
                await wait_shown(user, active)


async def announce_twice(office: Office, number: int, at: int) -> list[str]:
    """Announce twice at the same time, by the first replica and another; the ids."""
    made: list[str] = []

    async def announce(caller: str, at: int) -> None:
        made.append(await office.announce(f"{number} {caller}", caller, at=at))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(announce, "boss", 0)
        nursery.start_soon(announce, "rival", at)
    return made


async def wait_shown(user: Client, id_: str | None) -> None:
    """Wait until this announcement is the last one shown to a user."""
    shown = None
    with trio.fail_after(PATIENCE):
        while shown != id_:
            message = await user.receive()
            if message["type"] in ("new_broadcast", "active_broadcast"):
                shown = message["broadcast"]["id"]
    for message in await user.settle():
        assert message["type"] != "new_broadcast"


@asynccontextmanager
async def open_apart(databases: Iterator[str], redis_url: str) -> AsyncIterator[Office]:
    """Two replicas on two machines, with one Redis and a database each."""
    async with AsyncExitStack() as stack:
        prefix = next(databases).replace("/", ".")
        services = [
            await stack.enter_async_context(
                serve_once(redis_url=redis_url, redis_prefix=prefix, database_url=next(databases))
            )
            for _ in range(2)
        ]
        service = Service(*(service.bases[0] for service in services))
        yield await stack.enter_async_context(open_office(service))


async def test_replicas_with_separate_databases_agree(
    databases: Iterator[str], redis_url: str
) -> None:
    async with (
        open_apart(databases, redis_url) as office,
        office.attend("ann", at=0) as ann,
        office.attend("bob", at=1) as bob,
    ):
        for at in (0, 1):
            id_ = await office.announce("Hello", at=at)
            for user in (ann, bob):
                message = await user.expect("new_broadcast")
                assert message["broadcast"]["id"] == id_
            await ann.send("acknowledge_broadcast", broadcast_id=id_)
            await settle(ann)
            assert await office.active("ann", at=1) is None
        async with office.attend("ann", at=1) as again:
            await again.expect_nothing()
        for number in range(5):
            await announce_twice(office, number, 1)
            one, other = [await office.active("eve", at=at) for at in (0, 1)]
            assert one == other
            for user in (ann, bob):
                await wait_shown(user, one)
        assert (await office.call("POST", "/clear", "boss", at=1))[0] == 200
        for user in (ann, bob):
            await user.wait_for("broadcast_cleared")
        assert await office.active("eve", at=0) is None


# The database


def test_the_deadlines_leave_five_seconds_for_an_answer() -> None:
    assert core.DEADLINE + board.TIMEOUT <= 5


@contextmanager
def lock(url: str) -> Iterator[None]:
    """Hold a write transaction on an SQLite file open."""
    path = url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@contextmanager
def frozen_postgres() -> Iterator[tuple[str, Any]]:
    with run_postgres() as server:

        @contextmanager
        def freeze() -> Iterator[None]:
            server.freeze()
            yield
            server.thaw()

        yield server.make_database(), freeze


@contextmanager
def locked_sqlite(url: str) -> Iterator[tuple[str, Any]]:
    yield url, lambda: lock(url)


@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
async def test_an_unresponsive_database_makes_changes_fail_and_nothing_else(
    kind: str, database_url: str
) -> None:
    opened = locked_sqlite(database_url) if kind == "SQLite" else frozen_postgres()
    with opened as (url, fail):
        async with serve_once(database_url=url) as service, open_office(service) as office:
            old = await office.announce("Hello")
            async with office.attend("ann") as ann, office.attend("boss") as boss:
                for client in (ann, boss):
                    await client.expect("active_broadcast")
                with fail():
                    await check_unavailable(office, ann)
                    await ann.send("acknowledge_broadcast", broadcast_id=old)
                await boss.wait_for("broadcast_acknowledged", acknowledged=1)
                assert boss.log[-1]["broadcast_id"] == old
                assert await office.active("bob") == old
                assert (await office.stats())["broadcasts_today"] == 1
                await ann.expect_nothing()
                new = await office.announce("Again")
                message = await ann.expect("new_broadcast")
                assert message["broadcast"]["id"] == new


async def check_unavailable(office: Office, ann: Client) -> None:
    """Every change is refused, and WebSockets keep working."""
    body = {"message": "Lost"}
    assert await office.call("POST", "", "boss", json=body) == UNAVAILABLE
    assert await office.call("POST", "/clear", "boss") == UNAVAILABLE
    await ann.send_text("ping")
    assert await ann.receive_text() == "pong"
    async with office.attend("eve") as eve:
        await eve.send_text("ping")
        while await eve.receive_text() != "pong":
            pass
    answer = await office.http.get(f"http://{office.service.base}/readyz")
    assert answer.status_code == 200


@contextmanager
def full_disk() -> Iterator[None]:
    """Files of this process cannot grow: writes beyond that fail as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def read_only(url: str, postgres: Postgres) -> Iterator[None]:
    """Make all transactions read-only, as an administrator or a cloud provider may do."""
    name = url.rpartition("/")[2]
    end = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        for value in ("on", "off"):
            change = f"ALTER DATABASE {name} SET default_transaction_read_only = {value}"
            connection.execute(change.encode())
            connection.execute(end.encode())
            if value == "on":
                yield


@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
async def test_readiness_is_degraded_while_the_database_refuses_writes(
    kind: str, database_url: str, postgres: Postgres
) -> None:
    url = database_url if kind == "SQLite" else postgres.make_database()
    async with serve_once(database_url=url) as service, open_office(service) as office:
        old = await office.announce("Hello")
        with full_disk() if kind == "SQLite" else read_only(url, postgres):
            assert await office.call("POST", "", "boss", json={"message": "Lost"}) == UNAVAILABLE
            await wait_ready(office, "degraded")
            assert await office.active() == old  # reads still work
            assert await office.call("POST", "/clear", "boss") == UNAVAILABLE
            await wait_ready(office, "degraded")
        await wait_ready(office, "ready")
        await office.announce("Again")


async def wait_ready(office: Office, status: str) -> None:
    url = f"http://{office.service.base}/readyz"
    with trio.fail_after(PATIENCE):
        while True:
            if (await office.http.get(url)).json()["status"] == status:
                return
            await trio.sleep(0.05)


async def test_a_call_that_timed_out_stores_nothing(database_url: str) -> None:
    """The thread still waits for the lock after its caller was answered."""
    async with serve_once() as service, open_office(service) as office:
        with lock(database_url):
            async with trio.open_nursery() as nursery:
                for number in range(8):  # more than there are threads
                    body = {"message": f"Lost {number}"}
                    nursery.start_soon(check_call, office, body)
        assert await office.active() is None
        id_ = await office.announce("Found")
        assert await office.active() == id_
    with closing(sqlite3.connect(database_url.removeprefix("sqlite:///"))) as connection:
        assert connection.execute("SELECT message FROM announcements").fetchall() == [("Found",)]


async def check_call(office: Office, body: dict[str, str]) -> None:
    assert await office.call("POST", "", "boss", json=body) == UNAVAILABLE


async def test_a_server_starts_without_its_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/missing/file.db"
    async with serve_once(database_url=url) as service, open_office(service) as office:
        assert await office.call("POST", "", "boss", json={"message": "Hello"}) == UNAVAILABLE
        async with office.attend("ann") as ann:
            await ann.send_text("ping")
            assert await ann.receive_text() == "pong"
            answer = await office.http.get(f"http://{service.base}/readyz")
            assert answer.json()["status"] == "degraded"
            assert "database" in answer.json()["reason"]
            (tmp_path / "missing").mkdir()
            await wait_until(partial(office.call, "GET", "/active"), (200, {"broadcast": None}))
            await office.announce("Hello")
            await ann.expect("new_broadcast")


async def test_clients_that_leave_while_the_database_is_down_are_forgotten() -> None:
    """Each asked for the active announcement on entering, and got no answer."""
    url = "postgresql://nobody@127.0.0.1:1/nothing"
    async with serve_once(database_url=url) as service, open_office(service) as office:
        async with office.attend("hasty"), office.attend("patient") as patient:
            await patient.send_text("ping")  # read only if no client waits for the database
            assert await patient.receive_text() == "pong"
        with trio.fail_after(PATIENCE):
            while any(type(each) is Session for each in gc.get_objects()):  # noqa: ASYNC110
                await trio.sleep(0.02)


# Redis


@asynccontextmanager
async def open_shared(directory: Path, count: int = 2) -> AsyncIterator[tuple[Office, RedisServer]]:
    """Replicas with one database, and a Redis that the test can break."""
    async with (
        open_redis_server(directory) as redis,
        serve_replicas(count, redis.url, redis_prefix="") as service,
        open_office(Service(*service.bases)) as office,
    ):
        yield office, redis


async def wait_status(office: Office, status: str) -> None:
    async def all_statuses() -> set[str]:
        bases = office.service.bases
        return {(await office.http.get(f"http://{b}/readyz")).json()["status"] for b in bases}

    await wait_until(all_statuses, {status})


async def wait_until(ask: Callable[[], Awaitable[object]], expected: object) -> None:
    """Wait until this is the answer, by polling."""
    with trio.fail_after(PATIENCE):
        while await ask() != expected:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_redis_keys_and_channels_have_their_documented_names(tmp_path: Path) -> None:
    async with open_shared(tmp_path) as (office, redis), office.attend("ann") as ann:
        id_ = await office.announce("Grüße", type="alert")
        await ann.expect("new_broadcast")
        current = json.loads(await redis.ask("GET", "current_broadcast"))
        assert set(current) == {"id", "message", "type", "created_by", "created_at"}
        assert (current["id"], current["message"]) == (id_, "Grüße")
        assert (current["type"], current["created_by"]) == ("alert", "boss")
        await office.call("POST", "/acknowledge", "1", json={"broadcast_id": id_})
        key = f"broadcast:{id_}:ack:1"
        await wait_until(partial(redis.ask, "GET", key), b"1")
        assert 29 * 86400 < await redis.ask("TTL", key) <= 30 * 86400
        channels = await redis.ask("PUBSUB", "CHANNELS", "broadcasts")
        assert channels == [b"broadcasts"]
        await office.call("POST", "/clear", "boss")
        assert await redis.ask("EXISTS", "current_broadcast") == 0


async def test_announcements_survive_a_restart_of_redis(tmp_path: Path) -> None:
    """Redis comes back empty: it stores nothing on disk."""
    async with (
        open_shared(tmp_path) as (office, redis),
        office.attend("ann", at=0) as ann,
        office.attend("bob", at=1) as bob,
    ):
        before = await office.announce("before", at=0)
        for user in (ann, bob):
            await user.expect("new_broadcast")
        await office.call("POST", "/acknowledge", "ann", json={"broadcast_id": before})
        await redis.stop()
        await wait_status(office, "degraded")
        assert await office.active("ann", at=1) is None
        id_ = await office.announce("Redis is down", at=0)
        message = await ann.expect("new_broadcast")
        assert message["broadcast"]["id"] == id_
        answer = await office.call("POST", "/acknowledge", "ann", 0, json={"broadcast_id": id_})
        assert answer == (200, {"status": "success"})
        await redis.start()
        await wait_status(office, "ready")
        # The other replica receives it in the end, or has already found it by itself.
        message = await bob.receive()
        assert message["broadcast"]["id"] == id_
        await wait_until(partial(redis.ask, "GET", *acks(id_, "ann")), b"1")
        await wait_until(partial(redis.ask, "EXISTS", "current_broadcast"), 1)
        assert json.loads(await redis.ask("GET", "current_broadcast"))["id"] == id_
        async with office.attend("ann", at=1) as again:
            await again.expect_nothing()
        after = await office.announce("after", at=1)
        for user in (ann, bob):
            message = await user.wait_for("new_broadcast")
            assert message["broadcast"]["id"] == after


async def test_an_emptied_redis_is_filled_again(tmp_path: Path) -> None:
    async with open_shared(tmp_path) as (office, redis):
        id_ = await office.announce("Hello")
        for user in ("ann", "bob"):
            await office.call("POST", "/acknowledge", user, json={"broadcast_id": id_})
        await redis.ask("FLUSHALL")
        for user in ("ann", "bob"):
            assert await office.active(user) is None
        assert await office.active("eve") == id_
        keys = ["current_broadcast", *acks(id_, "ann", "bob")]
        await wait_until(partial(redis.ask, "EXISTS", *keys), 3)
        count = f"trio_signal:acknowledged:{id_}"
        assert await redis.ask("GET", count) == b"2"


def acks(id_: str, *users: str) -> list[str]:
    return [f"broadcast:{id_}:ack:{user}" for user in users]


@pytest.mark.parametrize("user_id", ["x" * 256, "\N{ZERO WIDTH JOINER}"])
async def test_an_unusual_user_id_counts_once_after_an_outage(tmp_path: Path, user_id: str) -> None:
    """The database has its digest, which is merged into Redis when Redis is back."""
    async with open_shared(tmp_path) as (office, redis):
        id_ = await office.announce("Hello")
        count = f"trio_signal:acknowledged:{id_}"
        await office.call("POST", "/acknowledge", user_id, json={"broadcast_id": id_})
        await wait_until(partial(redis.ask, "GET", count), b"1")
        await redis.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await redis.ask("CLIENT", "KILL", "TYPE", "pubsub")
        await office.call("POST", "/acknowledge", "ann", json={"broadcast_id": id_})
        await trio.sleep(2)
        assert await redis.ask("GET", count) == b"2"
        assert await office.active(user_id) is None


async def test_a_frozen_redis_delays_nobody(tmp_path: Path) -> None:
    async with open_shared(tmp_path) as (office, redis), office.attend("ann", at=0) as ann:
        redis.freeze()
        id_ = await office.announce("Hello", at=0)
        message = await ann.expect("new_broadcast")
        assert message["broadcast"]["id"] == id_
        assert (await office.stats(at=0))["connected_users_total"] == 1
        assert (await office.stats(at=1))["active_broadcast"]
        redis.thaw()


# Processes


@asynccontextmanager
async def open_process(url: str) -> AsyncIterator[Office]:
    """A server process that is stopped gracefully."""
    async with open_replica(DATABASE_URL=url) as replica:
        async with open_office(Service(replica.base)) as office:
            yield office
        await replica.stop()


async def test_acknowledgements_survive_a_restart(any_database: str) -> None:
    """A user who acknowledged sees nothing; one who did not sees the announcement."""
    async with open_process(any_database) as office:
        id_ = await office.announce("Hello")
        async with office.attend("ann") as ann:
            await ann.expect("active_broadcast")
            await ann.send("acknowledge_broadcast", broadcast_id=id_)
            await settle(ann)
    async with open_process(any_database) as office:
        async with office.attend("ann") as ann, office.attend("bob") as bob:
            message = await bob.expect("active_broadcast")
            assert message["broadcast"]["id"] == id_
            await ann.expect_nothing()
        assert await office.active("ann") is None


async def test_user_counts_survive_faults_of_redis_and_replicas(tmp_path: Path) -> None:
    """A replica rewrites its set of users if Redis lost it; that of a dead replica expires."""
    async with open_redis_server(tmp_path) as redis, AsyncExitStack() as stack:
        given = {"REDIS_URL": redis.url, "TRIO_SIGNAL_LEASE": 1}
        here, killed = [await stack.enter_async_context(open_replica(**given)) for _ in range(2)]
        office = await stack.enter_async_context(open_office(Service(here.base, killed.base)))
        for user, at in (("ann", 0), ("ann", 0), ("bob", 0), ("bob", 1), ("eve", 1)):
            await stack.enter_async_context(office.attend(user, at=at))

        async def total() -> object:
            return (await office.stats(at=0))["connected_users_total"]

        await wait_until(total, 3)
        await redis.ask("FLUSHALL")
        await wait_until(total, 3)
        for junk in (["SADD", "nobody"], ["SET", "nobody", "XX"]):
            (key, *_) = await redis.ask("KEYS", "trio_signal:subscribers:*")
            await redis.ask(junk[0], key, *junk[1:])
            await redis.ask("CLIENT", "KILL", "TYPE", "normal")  # so that they check again
            await wait_until(total, 3)
        killed.send(signal.SIGKILL)
        await wait_until(total, 2)
        await wait_until(partial(count_keys, redis), 1)


async def count_keys(redis: RedisServer) -> int:
    return len(await redis.ask("KEYS", "trio_signal:subscribers:*"))


async def test_a_frozen_replica_delays_nothing(tmp_path: Path) -> None:
    """A silent replica is not waited for; its users count until its lease runs out."""
    async with open_redis_server(tmp_path) as redis, AsyncExitStack() as stack:
        given = {"REDIS_URL": redis.url, "TRIO_SIGNAL_LEASE": 60}
        awake, frozen = [await stack.enter_async_context(open_replica(**given)) for _ in range(2)]
        office = await stack.enter_async_context(open_office(Service(awake.base, frozen.base)))
        ann = await stack.enter_async_context(office.attend("ann", at=0))
        await stack.enter_async_context(office.attend("bob", at=1))

        async def total() -> object:
            return (await office.stats(at=0))["connected_users_total"]

        await wait_until(total, 2)
        frozen.send(signal.SIGSTOP)
        status, answer = await office.call("POST", "", "boss", 0, json={"message": "Hi"})
        assert (status, answer["sent_to_users"]) == (200, 2)
        await ann.expect("new_broadcast")
        frozen.send(signal.SIGCONT)
