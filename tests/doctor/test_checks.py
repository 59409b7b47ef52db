"""Each mistake is found, and a correct configuration is not reported."""

from typing import Any

import pytest

from tests.tokens import SECRET
from trio_signal.doctor import Facts, examine, wrong_settings
from trio_signal.doctor.checks import CHECKS
from trio_signal.doctor.facts import PublicFacts, RedisFacts, RelayFacts, UsersFacts
from trio_signal.environment import load_settings
from trio_signal.relay import Report
from trio_signal.store import Tables

REDIS = RedisFacts(
    version="7.0.15",
    refused=(),
    policy="noeviction",
    max_memory=0,
    used_memory=1_000_000,
    clients=3,
    max_clients=10_000,
    ahead=0.01,
    round_trip=0.001,
)
RANDOM = "s0M8vJ2Qn4Xw7Zr1Kt5Lp9Yb3Hd6Gf0Aa2Cc"
HERE: dict[str, object] = {"platform": None, "cores": 4, "files": 65536, "port": "free"}
PUBLIC = {"host": "0.0.0.0", "jwt_secret": RANDOM}
#: A correct configuration: a service with several replicas on a platform.
RIGHT = {
    **PUBLIC,
    "redis_url": "rediss://redis.example.com",
    "database_url": "postgresql://db.example.com/signal",
    "trusted_proxies": 1,
    "metrics_token": "m" * 32,
    "api_keys": f"site:{RANDOM}",
    "turn_urls": "turn:turn.example.com",
    "turn_secret": "t",
    "workers": 4,
    "jwks_url": "https://id.example.com/keys.json",
    "jwt_issuer": "us",
    "jwt_audience": "signal",
    "users_file": "users.json",
}


def media(addresses: dict[str, bool]) -> dict[str, RelayFacts]:
    """Facts of a media server, and whether its addresses answer."""
    return {"janus+ws://media:8188": RelayFacts(Report("Janus 1.3.3", addresses))}


AROUND: dict[str, object] = {
    "platform": "Heroku",
    "redis": REDIS,
    "database": Tables("0001", "0001", 0.1),
    "turn": {"turn:turn.example.com": None},
    "relays": media({"10.0.0.7": False, "1.1.1.1": True}),
    "users": UsersFacts(2, (), readable=False),
    "public": PublicFacts("https://signal.example.com", 101),
}


def redis(**given: Any) -> dict[str, object]:
    """Facts with changes to those about Redis."""
    facts = {name: getattr(REDIS, name) for name in REDIS.__struct_fields__}
    return {"redis": RedisFacts(**{**facts, **given})}


def found(settings: dict[str, Any], facts: dict[str, object]) -> dict[str, str]:
    """The levels of all findings that are not fine."""
    all_facts: dict[str, Any] = {**HERE, **facts}
    findings = examine(Facts(settings=load_settings(**settings), **all_facts))
    assert all(finding.mend for finding in findings if finding.level != "ok")
    return {finding.name: finding.level for finding in findings if finding.level != "ok"}


def test_a_correct_configuration_has_no_findings() -> None:
    assert found(RIGHT, AROUND) == {}
    facts: dict[str, Any] = {**HERE, **AROUND}
    findings = examine(Facts(settings=load_settings(**RIGHT), **facts))
    silent = {"log_level", "redis_memory"}
    assert {finding.name for finding in findings} == {c.__name__ for c in CHECKS} - silent


def test_a_local_server_needs_little() -> None:
    assert found({}, {}) == {"turn": "warning"}


#: Changes to settings and facts, and the one finding that they must cause: its name and level.
MISTAKES: list[tuple[dict[str, Any], dict[str, object], str, str]] = [
    ({"auth": "open"}, {}, "mode", "failed"),
    ({"jwt_secret": "a" * 40}, {}, "secret", "failed"),
    ({"api_keys": f"site:{RANDOM},old:short"}, {}, "api_keys", "warning"),
    ({"jwt_secret": SECRET[:20] + "-change-me-please"}, {}, "secret", "failed"),
    ({"jwt_audience": ""}, {}, "audience", "warning"),
    ({}, {"key_set": "it has no key for RS256, ES256 or EdDSA"}, "key_set", "failed"),
    ({}, {"users": "users.json: Permission denied"}, "users", "failed"),
    ({}, {"users": UsersFacts(2, (), readable=True)}, "users", "warning"),
    ({}, {"users": UsersFacts(0, (), readable=False)}, "users", "warning"),
    ({}, {"users": UsersFacts(2, ("ann",), readable=False)}, "passwords", "failed"),
    ({"allowed_origins": "*"}, {}, "origins", "warning"),
    ({"metrics_token": ""}, {}, "metrics_token", "warning"),
    ({}, {"unknown": {"TRIO_SIGNAL_XYZZY": None}}, "variables", "warning"),
    ({}, {"port": "Address already in use"}, "port", "failed"),
    ({}, {"files": 1024}, "files", "failed"),
    ({}, {"files": 10_000}, "files", "warning"),
    ({}, {"cores": 2}, "workers", "warning"),
    ({"trusted_proxies": 0}, {}, "proxies", "failed"),
    ({}, {"public": PublicFacts("http://s.example.com", 101)}, "public_address", "warning"),
    ({}, {"public": PublicFacts("https://s.example.com", 503)}, "public_address", "warning"),
    ({}, {"public": PublicFacts("https://s.example.com", 426)}, "public_address", "failed"),
    ({}, {"public": "https://s.example.com: no such name"}, "public_address", "failed"),
    ({"heartbeat": 60}, {}, "heartbeat", "failed"),
    ({"heartbeat": 60}, {"platform": None}, "heartbeat", "warning"),
    ({"drain": 30}, {}, "drain", "failed"),
    ({"drain_pause": 20}, {}, "drain", "failed"),
    ({"drain": 30}, {"platform": None}, "drain", "warning"),
    ({"log_level": "debug"}, {}, "log_level", "warning"),
    ({"turn_urls": ""}, {}, "turn", "warning"),
    ({}, {"turn": {"turn:turn.example.com": "no answer"}}, "turn", "failed"),
    (
        {"turn_urls": "cloudflare:a1"},
        {"turn": {"cloudflare:a1": "refuses the secret (401)"}},
        *("turn", "failed"),
    ),
    ({}, {"relays": {"janus+ws://m": RelayFacts(problem="no answer")}}, "relays", "failed"),
    ({}, {"relays": media({"1.1.1.1": False})}, "relays", "warning"),
    ({}, {"relays": media({"10.0.0.7": True, "a.local": False})}, "relays", "warning"),
    ({}, {"redis": "Connection refused"}, "redis", "failed"),
    ({}, redis(refused=("PUBLISH", "TIME")), "redis", "failed"),
    ({}, redis(policy="allkeys-lru"), "eviction", "failed"),
    ({}, redis(max_memory=1_000_001), "redis_memory", "warning"),
    ({}, redis(max_clients=20, clients=14), "redis_connections", "failed"),
    ({}, redis(max_clients=20, clients=6), "redis_connections", "warning"),
    ({}, redis(round_trip=0.08), "redis_distance", "warning"),
    ({"redis_url": "redis://redis.example.com"}, {}, "redis_encryption", "warning"),
    ({"redis_url": "rediss://r?ssl_cert_reqs=none"}, {}, "redis_encryption", "warning"),
    ({}, {"database": "connection refused"}, "database", "failed"),
    ({}, {"database": Tables(None, "0001", 0.0)}, "database", "warning"),
    ({}, {"database": Tables("0001", "0002", 0.0)}, "database", "warning"),
    ({}, {"database": Tables("0002", "0001", 0.0)}, "database", "failed"),
    ({"database_url": "sqlite:///a.db"}, {}, "database_place", "warning"),
    ({"database_url": "sqlite:///a.db"}, {"platform": None}, "database_place", "warning"),
    ({}, redis(ahead=-5.0), "clocks", "warning"),
    ({}, {"database": Tables("0001", "0001", 60.0)}, "clocks", "failed"),
]


@pytest.mark.parametrize(("settings", "facts", "name", "level"), MISTAKES)
def test_each_mistake_causes_one_finding(
    settings: dict[str, Any], facts: dict[str, object], name: str, level: str
) -> None:
    assert found({**RIGHT, **settings}, {**AROUND, **facts}) == {name: level}


def test_a_single_replica_without_redis_is_a_warning() -> None:
    alone = {**RIGHT, "redis_url": None, "workers": 1}
    assert found(alone, {**AROUND, "redis": None}) == {"replicas": "warning"}


def test_each_check_can_find_something() -> None:
    tried = {name for _, _, name, _ in MISTAKES} | {"replicas"}
    assert tried == {check.__name__ for check in CHECKS}


@pytest.mark.parametrize(
    ("problem", "mend"),
    [
        ("redis:6379: certificate verify failed: self-signed certificate", "REDIS_CA_FILE"),
        ("redis:6379: WRONGPASS invalid username-password pair", "PASSWORD@"),
        ("redis:6379: unknown command 'HELLO'", "Redis 6"),
        ("redis:6379: Connection refused", "is it running"),
        ("redis:6379: the server is a replica, not the primary", "use the address of the primary"),
        ("redis:6379: this is a cluster, so all keys need one hash tag", "REDIS_PREFIX={ts}:"),
        (
            "redis:26379: this is a Sentinel: use redis+sentinel://redis:26379/main",
            "hosts of the Sentinels",
        ),
    ],
)
def test_advice_about_redis(problem: str, mend: str) -> None:
    facts: dict[str, Any] = {**HERE, "redis": problem}
    settings = load_settings(redis_url="redis://redis")
    (finding,) = [f for f in examine(Facts(settings=settings, **facts)) if f.name == "redis"]
    assert mend in finding.mend


@pytest.mark.parametrize(
    ("problem", "mend"),
    [
        ("TRIO_SIGNAL_JWT_SECRET: must have 32 bytes or more", "openssl rand"),
        ("WEB_CONCURRENCY: more than one worker needs REDIS_URL", "WEB_CONCURRENCY=1"),
        ("PORT='x': must be a number", "settings.md"),
    ],
)
def test_advice_about_invalid_settings(problem: str, mend: str) -> None:
    (finding,) = wrong_settings(problem, {})
    assert (finding.level, finding.says) == ("failed", problem)
    assert mend in finding.mend


def test_misspelled_settings_are_reported_with_invalid_ones() -> None:
    unknown = {"TRIO_SIGNAL_TURN_SECERT": "TRIO_SIGNAL_TURN_SECRET", "TRIO_SIGNAL_XYZZY": None}
    _, finding = wrong_settings("TRIO_SIGNAL_TURN_URLS needs a secret", unknown)
    assert (finding.name, finding.level) == ("variables", "warning")
    assert finding.says.startswith("TRIO_SIGNAL_TURN_SECERT, TRIO_SIGNAL_XYZZY are not settings")
    assert finding.mend.startswith("did you mean TRIO_SIGNAL_TURN_SECRET?; remove TRIO_SIGNAL_XYZ")
