"""Fixtures: real servers on real sockets, in the test's own event loop.

`service` is one replica, and then three with the clients spread over them: what the protocols
promise must hold for both.
"""

import logging
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest
import trio
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from werkzeug.routing import Rule
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.clients import Service
from tests.postgres import Postgres, run_postgres
from tests.redis.buses import drain
from tests.redis.server import run_redis_server
from trio_signal.bus.redis import RedisBus
from trio_signal.config import Settings
from trio_signal.environment import load_settings
from trio_signal.server import Server, open_server
from trio_signal.store import Database

# How long an example takes depends on the machine only.
hypothesis_settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
hypothesis_settings.load_profile("any machine")

#: Tests that need a Janus; not every system has a package of it.
NEED_JANUS = (
    "browser/test_relayed.py",
    *("relay/test_janus.py", "relay/test_deaths.py", "relay/test_whip_janus.py"),
)
collect_ignore = [] if shutil.which("janus") else list(NEED_JANUS)

Serve = Callable[..., AbstractAsyncContextManager[Service]]


@pytest.fixture(autouse=True)
def _restore_process() -> Iterator[None]:
    """Restore the log and the SIGTERM handler, which `trio-signal serve` changes for good.

    Its own process is about to end. The process of the tests goes on, and every child that it
    starts inherits ignored signals.
    """
    terminate, handlers = signal.getsignal(signal.SIGTERM), logging.root.handlers[:]
    level = logging.root.level
    yield
    signal.signal(signal.SIGTERM, terminate)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report which tests were not run."""
    if collect_ignore:
        names = ", ".join(f"tests/{name}" for name in collect_ignore)
        terminalreporter.write_line(f"not run, since there is no janus on this system: {names}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """One browser at a time, whatever else is running: each decodes many videos.

    Marks do not work: pytest 9.2 does not accept the ids that `--dist loadgroup` gives to the
    tests.
    https://github.com/pytest-dev/pytest-xdist/issues/1386
    """
    return BrowserScheduling(config, log)


class BrowserScheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """All browser tests go to one worker; every other test goes to whichever worker is free."""

    def _split_scope(self, nodeid: str) -> str:
        return "browser" if nodeid.startswith("tests/browser/") else nodeid


#: The tests' clients share one address and send fast; tests/test_limits.py tests the limits.
WIDE_LIMITS = {
    "messages_per_second": 100_000,
    "message_burst": 100_000,
    "max_connections_per_ip": 20_000,
    "connects_per_ip_per_minute": 1_000_000,
    "http_requests_per_second": 100_000,
    "http_burst": 100_000,
    # No load balancer has to notice that these servers stop.
    "drain_pause": 0,
}


def settings(**given: object) -> Settings:
    """Settings for a test: any port, wide limits, and the given settings."""
    return load_settings(**{"port": 0, "host": "127.0.0.1", **WIDE_LIMITS, **given})


@asynccontextmanager
async def serve_once(**given: object) -> AsyncIterator[Service]:
    """A server with these settings; stopped gracefully at the end."""
    async with open_server(settings(**given)) as server:
        await be_idle(server)
        yield Service(f"{server.host}:{server.port}")


@asynccontextmanager
async def serve_replicas(count: int, redis_url: str, **given: object) -> AsyncIterator[Service]:
    """Several servers that form one service through Redis."""
    given = {"redis_url": redis_url, "redis_prefix": f"{uuid4()}:", **given}
    async with AsyncExitStack() as stack:
        shared = settings(**given)
        servers = [await stack.enter_async_context(open_server(shared)) for _ in range(count)]
        for server in servers:
            await be_idle(server)
        bases = [f"{server.host}:{server.port}" for server in servers]
        yield Service(*bases, quiesce=partial(quiesce, servers))


async def be_idle(server: Server) -> None:
    """Wait until the replica is idle; do not wait for a database that is missing."""
    if server.hub.announcements is not None:
        with trio.move_on_after(1):
            await server.hub.announcements.agreement.reached.wait()


async def quiesce(servers: list[Server]) -> None:
    """Wait until each replica has processed what all of them sent.

    Twice, since processing it can make a replica send more.
    """
    buses = [server.hub.bus for server in servers]
    for _ in range(2):
        for bus in buses:
            assert isinstance(bus, RedisBus)
            await drain(bus, buses)


@pytest.fixture(scope="session", autouse=True)
def no_urls_are_built() -> Iterator[None]:
    """Skip building URLs: it is half the cost of starting a server, and no test uses it."""

    def refuse(*_: object) -> None:
        raise NotImplementedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "_compile_builder", lambda *_: refuse)
        yield


@pytest.fixture(scope="session", autouse=True)
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[str]]:
    """URLs of new SQLite databases; the tables exist already, which saves time.

    The first URL is for servers that outlive a test.
    """
    folder = tmp_path_factory.mktemp("databases")
    template = folder / "template.db"
    database = Database(f"sqlite:///{template}")
    database.upgrade_now()
    database.close()

    def make() -> Iterator[str]:
        for number in count():
            path = folder / f"{number}.db"
            shutil.copyfile(template, path)
            yield f"sqlite:///{path}"

    urls = make()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", next(urls))
        yield urls


@pytest.fixture(autouse=True)
def database_url(databases: Iterator[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The database shared by all servers of one test, unless the test sets another."""
    url = next(databases)
    monkeypatch.setenv("DATABASE_URL", url)
    return url


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL for all tests that do not break it; each test makes its own database."""
    with run_postgres() as server:
        yield server


@pytest.fixture
def serve() -> Serve:
    """Starts servers with the test's own settings."""
    return serve_once


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis for all tests that do not break it; each test has its own prefix."""
    with run_redis_server(Path(tmp_path_factory.mktemp("redis"))) as url:
        yield url


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same with Valkey."""
    with run_redis_server(Path(tmp_path_factory.mktemp("valkey")), "valkey") as url:
        yield url.replace("redis://", "valkey://")


@pytest.fixture(params=["one replica", "three replicas"])
async def service(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    """A service with the default settings."""
    if request.param == "one replica":
        async with serve_once() as service:
            yield service
    else:
        async with serve_replicas(3, request.getfixturevalue("redis_url")) as service:
            yield service


@pytest.fixture
async def one_replica() -> AsyncIterator[Service]:
    """One replica, for modules that test what concerns a single connection."""
    async with serve_once() as service:
        yield service
