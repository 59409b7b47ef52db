"""What the doctor finds out about real services."""

import signal
import socket
from pathlib import Path

import pytest
import trio

from tests.clients import PATIENCE
from tests.cloudflare import KEY, SECRET, open_api
from tests.conftest import Serve, settings
from tests.coturn import run_coturn
from tests.postgres import Postgres
from tests.redis.server import free_port, open_redis_server
from tests.test_watch import read_to_end, running
from tests.tokens import jwk, private_key, run_key_server
from trio_signal import cloudflare
from trio_signal.bus import Caps
from trio_signal.bus.redis import open_redis_bus
from trio_signal.dialects import DIALECTS
from trio_signal.doctor import Facts, facts, gather, neighbours
from trio_signal.doctor.facts import PublicFacts, RedisFacts, UsersFacts
from trio_signal.messages.identity import Grants, Member
from trio_signal.room import Room
from trio_signal.store import Tables, upgrade
from trio_signal.users import User, hash_password, write_users


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "PATIENCE", PATIENCE)


async def look(
    environment: dict[str, str] | None = None, *, url: str | None = None, **given: object
) -> Facts:
    with trio.fail_after(2 * PATIENCE):
        return await gather(settings(**given), environment or {}, url)


async def test_facts_about_redis(tmp_path: Path) -> None:
    options = {"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru", "maxclients": "40"}
    async with open_redis_server(tmp_path, **options) as server:
        redis = (await look(redis_url=server.url)).redis
    assert isinstance(redis, RedisFacts)
    assert (redis.refused, redis.policy) == ((), "allkeys-lru")
    assert (redis.max_memory, redis.max_clients, redis.clients) == (100 * 2**20, 40, 0)
    assert 0 < redis.used_memory < redis.max_memory
    assert int(redis.version.partition(".")[0]) >= 6
    assert abs(redis.ahead) < 5


async def test_missing_permissions_in_redis_are_found_by_trying(tmp_path: Path) -> None:
    """After following the advice of the check, everything necessary is allowed."""
    account = ("ACL", "SETUSER", "bob", "on", ">pw", "resetkeys", "resetchannels")
    async with open_redis_server(tmp_path) as server:
        url = f"redis://bob:pw@127.0.0.1:{server.port}"
        await server.ask(*account, "+@connection")
        found = await look(redis_url=url)
        assert isinstance(found.redis, RedisFacts)
        assert found.redis.refused == ("SUBSCRIBE", "PUBLISH", "EVALSHA", "INFO", "TIME")
        verdict = neighbours.redis(found)
        assert verdict is not None
        *_, permissions = verdict.mend.partition("NAME ")
        await server.ask("ACL", "SETUSER", "bob", *permissions.split())
        redis = (await look(redis_url=url)).redis
        assert isinstance(redis, RedisFacts)
        assert redis.refused == ("INFO",)
        async with open_redis_bus(url, "here") as bus, trio.open_nursery() as nursery:
            await nursery.start(bus.run, print)
            assert bus.degraded is None
            member = Member("p", "u", "u", "mesh", "here", "mesh u")
            with trio.fail_after(PATIENCE):
                await bus.join(Room("room", "here"), member, Caps(10), print)
                assert [member.peer_id for member in await bus.members("room")] == ["p"]
            await bus.retire()
            nursery.cancel_scope.cancel()


async def test_errors_of_redis_hide_the_password(tmp_path: Path) -> None:
    async with open_redis_server(tmp_path, requirepass="s3cret") as server:
        refused = (await look(redis_url=server.url)).redis
    assert isinstance(refused, str)
    assert "AUTH" in refused.upper()
    missing = (await look(redis_url=f"redis://:hunter2@127.0.0.1:{free_port()}")).redis
    assert isinstance(missing, str)
    assert "hunter2" not in missing


async def test_facts_about_tables_in_postgresql(postgres: Postgres) -> None:
    url = postgres.make_database()
    new = (await look(database_url=url)).database
    assert isinstance(new, Tables)
    assert new.version is None
    upgrade(url)
    tables = (await look(database_url=url)).database
    assert isinstance(tables, Tables)
    assert tables.version == tables.wanted
    assert tables.ahead is not None
    assert abs(tables.ahead) < 5
    assert isinstance((await look(database_url=f"{url}-not-there")).database, str)


async def test_looking_at_sqlite_creates_no_file(tmp_path: Path) -> None:
    file = tmp_path / "new.db"
    tables = (await look(database_url=f"sqlite:///{file}")).database
    assert isinstance(tables, Tables)
    assert (tables.version, file.exists()) == (None, False)
    upgrade(f"sqlite:///{file}")
    tables = (await look(database_url=f"sqlite:///{file}")).database
    assert isinstance(tables, Tables)
    assert tables.version == tables.wanted
    assert isinstance((await look(database_url=f"sqlite:///{tmp_path}/no/new.db")).database, str)


async def test_a_hosted_turn_service_is_asked_for_credentials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_api() as api:
        api.answer = api.issue
        monkeypatch.setattr(cloudflare, "BASE_URL", api.url)
        url = f"cloudflare:{KEY}"
        assert (await look(turn_urls=url, turn_secret=SECRET)).turn == {url: None}
        assert api.asked[-1].body == {"ttl": 120}
        problem = (await look(turn_urls=url, turn_secret="another")).turn[url]
    assert problem is not None
    assert "refuses the secret (401" in problem


async def test_turn_servers_are_tried(tmp_path: Path) -> None:
    with run_coturn(tmp_path) as port:
        urls = [f"turn:127.0.0.1:{port}", f"turn:127.0.0.1:{port}?transport=tcp"]
        closed = f"turn:127.0.0.1:{free_port()}"
        found = await look(turn_urls=",".join([*urls, closed]), turn_secret="t")
    assert [found.turn[url] for url in urls] == [None, None]
    assert found.turn[closed] is not None


async def test_the_port_is_free_ours_or_another_programs(serve: Serve) -> None:
    assert (await look()).port == "free"
    async with serve() as service:
        port = int(service.base.rpartition(":")[2])
        assert (await look(port=port)).port == "ours"
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert (await look(port=other.getsockname()[1])).port not in ("free", "ours")


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_websocket_is_opened_at_the_public_address(serve: Serve, dialect: str) -> None:
    async with serve() as service:
        url = f"http://{service.base}"
        assert (await look(url=url, dialects=dialect)).public == PublicFacts(url, 101)


async def test_a_public_address_without_websockets() -> None:
    async with run_key_server() as pages:
        public = (await look(url=pages.url.rpartition("/")[0])).public
        assert isinstance(public, PublicFacts)
        assert public.status != 101
    assert isinstance((await look(url=f"http://127.0.0.1:{free_port()}")).public, str)


async def test_key_sets_are_fetched() -> None:
    async with run_key_server(jwk(private_key("EdDSA"), "a")) as keys:
        assert (await look(jwks_url=keys.url)).key_set is None
    assert (await look(jwks_url=keys.url)).key_set is not None


async def test_weak_passwords_are_found(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    passwords = {"demo": "demo", "ann": "correct horse battery staple"}
    users = {name: User(hash_password(text), name, Grants()) for name, text in passwords.items()}
    write_users(path, users)

    async def found() -> UsersFacts | str | None:
        return (await look(users_file=str(path), jwt_secret="x" * 32)).users

    assert await found() == UsersFacts(2, ("demo",), readable=False)
    path.chmod(0o644)
    path.write_text("{}")
    assert await found() == UsersFacts(0, (), readable=True)
    path.write_text("no file of users")
    assert isinstance(await found(), str)


async def test_guessing_passwords_stops_when_the_time_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It then guesses for no user, and does not take the file for an unreadable one."""
    monkeypatch.setattr(facts, "_GUESSING", 0.0)
    path = tmp_path / "users.json"
    write_users(path, {"demo": User(hash_password("demo"))})
    found = await look(users_file=str(path), jwt_secret="x" * 32)
    assert found.users == UsersFacts(1, (), readable=False)


@pytest.mark.parametrize(
    ("environment", "platform"),
    [({}, None), ({"DYNO": "web.1"}, "Heroku"), ({"RAILWAY_PROJECT_ID": "x"}, "Railway")],
)
async def test_platforms_are_recognized(environment: dict[str, str], platform: str | None) -> None:
    found = await look(environment)
    assert found.platform == platform
    assert found.cores > 0


async def test_ctrl_c_stops_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its Redis accepts connections, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{silent.getsockname()[1]}")
        async with running("doctor") as process:
            await trio.lowlevel.wait_readable(silent)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 1
            assert await read_to_end(process.stderr) == "trio-signal: stopped\n"
