"""The facts of a deployment, collected once from all sources at the same time."""

import os
import resource
import stat
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import httpx
import trio
from msgspec import Struct

from trio_signal.config import Settings, hosted_turn_key
from trio_signal.dialects import DIALECTS, Dialect
from trio_signal.environment import unknown_variables
from trio_signal.errors import ConfigError, StoreError
from trio_signal.keys import check_key_set
from trio_signal.metrics import Metrics
from trio_signal.redis import Redis, RedisError, ResponseError, open_redis
from trio_signal.relay import Node, RelayError, Report
from trio_signal.relay.nodes import nodes_of
from trio_signal.store import Tables, inspect
from trio_signal.stun import reach
from trio_signal.turn import HostedTurn
from trio_signal.users import User, is_password, read_users

#: Seconds for each source.
PATIENCE = 5.0
#: The environment variable that identifies each platform.
PLATFORMS = {
    "DYNO": "Heroku",
    "RAILWAY_PROJECT_ID": "Railway",
    "FLY_APP_NAME": "Fly.io",
    "RENDER": "Render",
    "K_SERVICE": "Cloud Run",
    "KUBERNETES_SERVICE_HOST": "Kubernetes",
}
#: Passwords to try besides the user's id, and for how many seconds: less than `PATIENCE`, as
#: checking a password is slow on purpose, and there may be thousands of users.
GUESSES = ("password", "secret", "demo", "changeme", "123456", "test")
_GUESSING = 3.0
#: Lifetime in seconds of credentials that nobody uses.
_A_MOMENT = 60
_UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


class RedisFacts(Struct, frozen=True):
    """What Redis reports about itself."""

    version: str
    #: Commands on our keys and channels that our account may not use.
    refused: tuple[str, ...]
    #: The eviction policy, the memory limit (0: none), and the used memory.
    policy: str
    max_memory: int
    used_memory: int
    #: Connections, and their limit; None if unknown.
    clients: int
    max_clients: int | None
    #: Seconds by which Redis's clock is ahead of ours, and seconds of a round trip.
    ahead: float
    round_trip: float


class RelayFacts(Struct, frozen=True):
    """What a media server reports about itself, or why it cannot be used."""

    report: Report = Report()
    problem: str | None = None


class PublicFacts(Struct, frozen=True):
    """The answer of the public address to a request for a WebSocket."""

    url: str
    status: int


class UsersFacts(Struct, frozen=True):
    """The contents of the users file."""

    users: int
    #: Users whose password was guessed.
    guessed: tuple[str, ...]
    #: Whether other users of this machine can read the file.
    readable: bool


class Facts(Struct, frozen=True):
    """All facts to judge. A text in place of a fact says why it is missing."""

    settings: Settings
    platform: str | None
    cores: int
    #: How many files this process may open.
    files: int
    #: Whether the port is free or used by our own server; other texts say why it cannot be used.
    port: Literal["free", "ours"] | str
    #: Variables that look like settings but are not, with the nearest setting, if any.
    unknown: Mapping[str, str | None] = {}
    redis: RedisFacts | str | None = None
    database: Tables | str | None = None
    #: Why a TURN server does not answer, by its URL; None if it does.
    turn: Mapping[str, str | None] = {}
    #: What each media server reports, or why it cannot be used.
    relays: Mapping[str, RelayFacts] = {}
    #: Why the key set cannot be used; None if it can, or if there is none.
    key_set: str | None = None
    users: UsersFacts | str | None = None
    public: PublicFacts | str | None = None


async def gather(
    settings: Settings, environment: Mapping[str, str], url: str | None = None
) -> Facts:
    """Collect the facts; takes a few seconds at most, and does not raise their errors.

    `url` is the public address of the server, if it is to be tested.
    """
    found: dict[str, Any] = {}

    async def note(name: str, ask: Callable[[Settings], Awaitable[object]]) -> None:
        with trio.move_on_after(PATIENCE) as scope:
            found[name] = await ask(settings)
        if scope.cancelled_caught:
            found[name] = f"no answer within {PATIENCE:g} s"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(note, "port", look_at_port)
        nursery.start_soon(note, "turn", ask_turn)
        nursery.start_soon(note, "relays", ask_relays)
        if settings.redis_url is not None:
            nursery.start_soon(note, "redis", ask_redis)
        if any(DIALECTS[name].announces for name in settings.dialects):
            nursery.start_soon(note, "database", ask_database)
        if settings.jwks_url is not None:
            nursery.start_soon(note, "key_set", ask_key_set)
        if settings.users_file is not None:
            nursery.start_soon(note, "users", look_at_users)
        if url is not None:
            nursery.start_soon(note, "public", partial(ask_for_websocket, url))
    return Facts(
        settings=settings,
        platform=next((name for key, name in PLATFORMS.items() if key in environment), None),
        cores=_cores(),
        files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        unknown=unknown_variables(environment),
        **found,
    )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


async def look_at_port(settings: Settings) -> str:
    """Whether the server could listen."""
    try:
        listeners = await trio.open_tcp_listeners(settings.port, host=settings.host)
    except UnicodeError as error:  # it cannot be looked up, as 127.0..1
        return str(error)
    except OSError as error:
        return "ours" if await _is_ours(settings) else f"{error.strerror or error}"
    for listener in listeners:
        listener.socket.close()
    return "free"


async def _is_ours(settings: Settings) -> bool:
    """Whether the program that listens is our own server."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        async with httpx.AsyncClient(timeout=PATIENCE / 2) as client:
            answer = await client.get(f"http://{host}:{settings.port}/healthz")
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return answer.is_success and answer.content.startswith(b'{"status"')


def _variables(dialect: type[Dialect]) -> int:
    return dialect.address.count("{")


async def ask_for_websocket(url: str, settings: Settings) -> PublicFacts | str:
    """The answer of the public address, and so of its proxy, to a request for a WebSocket."""
    # Prefer a dialect in which a connection alone enters no room.
    dialect = min(map(DIALECTS.__getitem__, settings.dialects), key=_variables)
    target = f"{url.rstrip('/')}{dialect.sample_target()}"
    try:
        async with (
            httpx.AsyncClient(timeout=PATIENCE) as client,
            client.stream("GET", target, headers=_UPGRADE) as answer,
        ):
            return PublicFacts(url, answer.status_code)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"{url}: {error or type(error).__name__}"


async def ask_redis(settings: Settings) -> RedisFacts | str:
    """What Redis reports about itself, or why it cannot be asked."""
    assert settings.redis_url is not None  # noqa: S101  else nobody asks
    url, ca_file = settings.redis_url.get_secret_value(), settings.redis_ca_file
    key = f"{settings.redis_prefix}trio_signal:doctor"
    try:
        async with open_redis(
            url, ca_file=str(ca_file) if ca_file else None, name="trio-signal-doctor", key=key
        ) as redis:
            refused = await _try_permissions(redis, key)
            # Not every account may use INFO.
            info: Any = {} if "INFO" in refused else await redis.info()
            asked = time.time()
            seconds, microseconds = (asked, 0) if "TIME" in refused else await redis.time()
            answered = time.time()
    except (RedisError, ValueError) as error:
        return str(error)
    return RedisFacts(
        version=str(info.get("redis_version", "of an unknown version")),
        refused=refused,
        policy=str(info.get("maxmemory_policy", "noeviction")),
        max_memory=int(info.get("maxmemory", 0)),
        used_memory=int(info.get("used_memory", 0)),
        # Without the doctor's own two connections.
        clients=int(info.get("connected_clients", 2)) - 2,
        max_clients=int(info["maxclients"]) if "maxclients" in info else None,
        ahead=seconds + microseconds / 1e6 - (asked + answered) / 2,
        round_trip=answered - asked,
    )


async def _try_permissions(redis: Redis, key: str) -> tuple[str, ...]:
    """Try the commands that a replica uses; return the refused ones."""
    script = redis.register_script("redis.call('SET', KEYS[1], ARGV[1], 'PX', 1) return 1")
    redis.pubsub.subscribe(key)
    attempts: tuple[tuple[str, Callable[[], Awaitable[object]]], ...] = (
        ("SUBSCRIBE", partial(redis.pubsub.wait_subscribed, key)),
        ("PUBLISH", partial(redis.publish, key, "")),
        ("EVALSHA", partial(script, [key], [""])),
        ("INFO", redis.info),
        ("TIME", redis.time),
    )
    refused = []
    for name, attempt in attempts:
        try:
            await attempt()
        except ResponseError:
            refused.append(name)
    return tuple(refused)


async def ask_database(settings: Settings) -> Tables | str:
    """The version of the database's tables, or why it cannot be asked."""
    url = settings.database_url.get_secret_value()
    try:
        return await trio.to_thread.run_sync(inspect, url, abandon_on_cancel=True)
    except (ConfigError, StoreError) as error:
        return str(error)


async def ask_turn(settings: Settings) -> dict[str, str | None]:
    """For each TURN server, why it does not answer; None if it does."""
    problems: dict[str, str | None] = {}
    key_id = hosted_turn_key(settings)
    if key_id is not None and settings.turn_secret is not None:
        secret = settings.turn_secret.get_secret_value()
        hosted = HostedTurn(key_id, secret, _A_MOMENT, Metrics())
        await hosted.refresh()
        return dict.fromkeys(settings.turn_urls, hosted.degraded)

    async def ask(url: str) -> None:
        problems[url] = "no answer"
        with trio.move_on_after(PATIENCE - 1):
            try:
                await _reach_turn(url)
            except (OSError, ValueError) as error:
                problems[url] = getattr(error, "strerror", None) or str(error)
            else:
                problems[url] = None

    async with trio.open_nursery() as nursery:
        for url in settings.turn_urls:
            nursery.start_soon(ask, url)
    return problems


async def _reach_turn(url: str) -> None:
    """Wait for an answer of a TURN server; raises OSError or ValueError. Has no time limit."""
    scheme, _, rest = url.partition(":")
    address, _, query = rest.partition("?")
    host, _, port = address.rpartition(":") if ":" in address else (address, "", "")
    number = int(port or (5349 if scheme == "turns" else 3478))
    if scheme == "turns" or query == "transport=tcp":
        await (await trio.open_tcp_stream(host, number)).aclose()
        return
    await reach(host.strip("[]"), number)


async def ask_relays(settings: Settings) -> dict[str, RelayFacts]:
    """What each media server reports, or why it cannot be used."""
    found: dict[str, RelayFacts] = {}

    async def ask(node: Node) -> None:
        try:
            found[node.name] = RelayFacts(await node.probe())
        except RelayError as error:
            found[node.name] = RelayFacts(problem=str(error))

    async with trio.open_nursery() as nursery:
        for node in nodes_of(settings):
            nursery.start_soon(ask, node)
    return found


async def ask_key_set(settings: Settings) -> str | None:
    """Why the key set cannot be used; None if it can."""
    assert settings.jwks_url is not None  # noqa: S101  else nobody asks
    return await check_key_set(settings.jwks_url)


async def look_at_users(settings: Settings) -> UsersFacts | str:
    """Read the users file, and try some passwords, which takes a while."""
    assert settings.users_file is not None  # noqa: S101  else nobody asks
    path = settings.users_file
    look = partial(_look_at_users, path)
    return await trio.to_thread.run_sync(look, abandon_on_cancel=True)


def _look_at_users(path: Path) -> UsersFacts | str:
    try:
        users = read_users(path)
    except ConfigError as error:
        return str(error)
    readable = path.exists() and bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
    return UsersFacts(len(users), _guess(users), readable)


def _guess(users: Mapping[str, User]) -> tuple[str, ...]:
    """The users whose passwords are guessed in the available time; ids are tried first."""
    until = time.monotonic() + _GUESSING
    guessed = set()
    ids = ((user_id, user_id) for user_id in users)
    for user_id, guess in chain(ids, ((user_id, each) for each in GUESSES for user_id in users)):
        if time.monotonic() >= until:
            break
        if user_id not in guessed and is_password(users[user_id].password_hash, guess):
            guessed.add(user_id)
    return tuple(user_id for user_id in users if user_id in guessed)
