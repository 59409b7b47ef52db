"""Mistakes in Redis, the database and media servers."""

import ipaddress
from urllib.parse import parse_qs, urlsplit

from trio_signal.doctor.facts import Facts, RedisFacts
from trio_signal.doctor.verdicts import Verdict, fail, is_public, ok, warn
from trio_signal.relay import Report
from trio_signal.store import Tables

#: Connections of one replica to Redis.
_PER_REPLICA = 2
#: Commands that a replica cannot do without, and the permissions that it should have.
_NEEDED = frozenset({"SUBSCRIBE", "PUBLISH", "EVALSHA"})
_PERMISSIONS = "+@read +@write +@pubsub +@scripting +@connection +time"


def redis(facts: Facts) -> Verdict | None:
    """A Redis that cannot be reached or used."""
    match facts.redis:
        case None:
            return None
        case RedisFacts(refused=refused) if needed := [c for c in refused if c in _NEEDED]:
            key = f"{facts.settings.redis_prefix}trio_signal:*"
            return fail(
                f"the account at Redis is not allowed to {', '.join(needed)} on {key}",
                f"ACL SETUSER NAME ~{key} &{key} {_PERMISSIONS}",
            )
        case RedisFacts(version=version):
            return ok(f"Redis {version} answers")
        case problem:
            return fail(f"REDIS_URL: {problem}", _mend_redis(str(problem)))


def _mend_redis(problem: str) -> str:
    text = problem.lower()
    if "sentinel" in text:
        return "use the URL in the message, with the hosts of the Sentinels"
    if "hash tag" in text:
        return "TRIO_SIGNAL_REDIS_PREFIX={ts}: puts all keys on one node"
    if "replica" in text:
        return "use the address of the primary"
    if "certificate" in text or "ssl" in text:
        return (
            "set TRIO_SIGNAL_REDIS_CA_FILE to the certificate authority; for a platform that "
            "signs its own, add ?ssl_cert_reqs=none to the URL"
        )
    if any(word in text for word in ("password", "auth", "wrongpass")):
        return "put user and password into the URL: redis://USER:PASSWORD@HOST:PORT"
    if "hello" in text:
        return "use Redis 6 or newer"
    return "is it running, and can this machine reach its port?"


def eviction(facts: Facts) -> Verdict | None:
    """A Redis that deletes members when its memory is full."""
    if not isinstance(facts.redis, RedisFacts):
        return None
    policy = facts.redis.policy
    if policy.startswith("allkeys"):
        return fail(
            f"maxmemory-policy {policy}: when its memory is full, Redis drops members of rooms",
            "redis-cli config set maxmemory-policy noeviction",
        )
    return ok(f"maxmemory-policy {policy} keeps the members of rooms")


def redis_memory(facts: Facts) -> Verdict | None:
    """A Redis that is nearly full."""
    if not isinstance(facts.redis, RedisFacts) or not facts.redis.max_memory:
        return None
    part = facts.redis.used_memory / facts.redis.max_memory
    if part > 0.9:
        return warn(f"{part:.0%} of Redis's memory is used", "give it more memory, or delete data")
    return ok(f"{part:.0%} of Redis's memory is used")


def redis_connections(facts: Facts) -> Verdict | None:
    """A plan with too few connections: each replica needs two, and four during a restart."""
    if not isinstance(facts.redis, RedisFacts) or facts.redis.max_clients is None:
        return None
    needed = _PER_REPLICA * facts.settings.workers
    free = facts.redis.max_clients - facts.redis.clients
    says = f"{free} of {facts.redis.max_clients} connections of Redis are free"
    if free < needed:
        return fail(
            f"{says}, and {needed} are needed", "fewer workers, or a plan with more connections"
        )
    if free < 2 * needed:
        return warn(
            f"{says}: too few to start new workers before the old ones have stopped",
            "fewer workers, or a plan with more connections",
        )
    return ok(says)


def redis_distance(facts: Facts) -> Verdict | None:
    """A Redis that is far away."""
    if not isinstance(facts.redis, RedisFacts):
        return None
    milliseconds = facts.redis.round_trip * 1000
    if milliseconds > 20:
        return warn(
            f"Redis takes {milliseconds:.0f} ms to answer, and each join waits for it",
            "put Redis and the replicas into the same region",
        )
    return ok(f"Redis answers in {milliseconds:.1f} ms")


def redis_encryption(facts: Facts) -> Verdict | None:
    """A connection to Redis that others can read."""
    if facts.settings.redis_url is None:
        return None
    url = urlsplit(facts.settings.redis_url.get_secret_value())
    if parse_qs(url.query).get("ssl_cert_reqs") == ["none"]:
        return warn(
            "Redis's certificate is not verified: anybody in between can read and change the data",
            "set TRIO_SIGNAL_REDIS_CA_FILE, if the provider publishes its certificate authority",
        )
    if url.scheme == "redis" and not _is_near(url.hostname or ""):
        return warn("redis:// is not encrypted", "use rediss:// outside of a private network")
    return ok("the connection to Redis is private or encrypted")


def _is_near(host: str) -> bool:
    """Whether a host name belongs to this machine or a private network."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".internal", ".local", ".lan"))


def database(facts: Facts) -> Verdict | None:
    """A database that cannot be reached, or has other tables."""
    match facts.database:
        case None:
            return None
        case Tables(version=None):
            return warn("the database has no tables yet", "trio-signal db upgrade")
        case Tables(version=str(version), wanted=wanted) if version < wanted:
            return warn(
                f"the tables are of version {version}, this program needs version {wanted}",
                "trio-signal db upgrade",
            )
        case Tables(version=str(version), wanted=wanted) if version > wanted:
            return fail(
                f"the tables are of version {version}, newer than this program ({wanted})",
                "use a newer program, or restore a backup of the database",
            )
        case Tables(version=version):
            return ok(f"the database has its tables, version {version}")
        case problem:
            return fail(
                f"DATABASE_URL: {problem}", "is it running, and are the user and password correct?"
            )


def database_place(facts: Facts) -> Verdict | None:
    """SQLite on several hosts, which do not share it, or on a platform that deletes files."""
    settings = facts.settings
    if facts.database is None:
        return None
    if not settings.database_url.get_secret_value().startswith("sqlite"):
        return ok("all replicas share one database")
    mend = "set DATABASE_URL=postgresql://..."
    if facts.platform is not None:
        return warn(f"{facts.platform} deletes the SQLite file at each restart", mend)
    if settings.redis_url is not None:
        return warn(
            "with SQLite each host has its own database, and its own announcements",
            mend,
        )
    return ok("SQLite, on one host")


def relays(facts: Facts) -> Verdict | None:
    """A media server that cannot be used."""
    if not facts.relays:
        return None
    problems = {name: relay.problem for name, relay in facts.relays.items() if relay.problem}
    if problems:
        return fail(
            "; ".join(f"{name}: {problem}" for name, problem in problems.items()),
            "start it, open its port to this machine, set TRIO_SIGNAL_RELAY_TOKEN to its secret",
        )
    reports = {name: relay.report for name, relay in facts.relays.items()}
    for name, report in reports.items():
        addresses = ", ".join(report.addresses)
        if report.addresses and not any(report.addresses.values()):
            return warn(
                f"{name}: no answer by UDP from {addresses}, which it offers to browsers",
                "open its UDP ports (--rtp-port-range), and set its public address (--nat-1-1)",
            )
        if report.addresses and is_public(facts) and not any(map(_is_global, report.addresses)):
            return warn(
                f"{name} offers only private addresses to browsers: {addresses}",
                "set its public address (--nat-1-1), unless all viewers are in its network",
            )
    listed = "; ".join(f"{name}: {_listed(report)}" for name, report in reports.items())
    return ok(f"media servers: {listed}")


def _is_global(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return False


def _listed(report: Report) -> str:
    answering = [host for host, answers in report.addresses.items() if answers]
    said = report.says or "set"
    return f"{said}, UDP answers from {', '.join(answering)}" if answering else said


def clocks(facts: Facts) -> Verdict | None:
    """A clock that differs from Redis's or the database's."""
    ahead: dict[str, float] = {}
    if isinstance(facts.redis, RedisFacts):
        ahead["Redis"] = facts.redis.ahead
    if isinstance(facts.database, Tables) and facts.database.ahead is not None:
        ahead["the database"] = facts.database.ahead
    if not ahead:
        return None
    who, seconds = max(ahead.items(), key=lambda item: abs(item[1]))
    says = (
        f"the clock of {who} is {abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} ours"
    )
    if abs(seconds) < 1:
        return ok("the clocks agree")
    mend = "run an NTP service (chrony, systemd-timesyncd) on both"
    return fail(says, mend) if abs(seconds) > 30 else warn(says, mend)
