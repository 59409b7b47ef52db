"""All checks, one function per mistake, without I/O; and the report on invalid settings."""

from collections.abc import Mapping

from msgspec import Struct

from trio_signal.doctor import admission, machine, neighbours
from trio_signal.doctor.facts import Facts
from trio_signal.doctor.verdicts import Check, Level, Verdict


class Finding(Struct, frozen=True):
    """What one check found, and what to do about it."""

    name: str
    level: Level
    says: str
    mend: str = ""


CHECKS: tuple[Check, ...] = (
    *(admission.mode, admission.secret, admission.api_keys, admission.audience, admission.key_set),
    *(admission.users, admission.passwords, admission.origins, admission.metrics_token),
    *(
        machine.variables,
        machine.port,
        machine.files,
        machine.workers,
        machine.replicas,
        machine.proxies,
    ),
    machine.public_address,
    *(machine.heartbeat, machine.drain, machine.log_level, machine.turn),
    *(neighbours.redis, neighbours.eviction, neighbours.redis_memory),
    *(neighbours.redis_connections, neighbours.redis_distance, neighbours.redis_encryption),
    *(neighbours.database, neighbours.database_place, neighbours.clocks),
    neighbours.relays,
)


def examine(facts: Facts) -> list[Finding]:
    """Run all checks."""
    return [
        _finding(check.__name__, verdict)
        for check in CHECKS
        if (verdict := check(facts)) is not None
    ]


def _finding(name: str, verdict: Verdict) -> Finding:
    return Finding(name, verdict.level, verdict.says, verdict.mend)


#: Corrections for invalid settings, by a part of the error text.
_MENDS = {
    "JWT_SECRET": "use a random one: openssl rand -base64 48",
    "WEB_CONCURRENCY": "set REDIS_URL, or WEB_CONCURRENCY=1",
    "JWT_PUBLIC_KEY": "derive it from the private key: openssl pkey -in key.pem -pubout",
    "TURN_URLS": "set TRIO_SIGNAL_TURN_SECRET to coturn's static-auth-secret, or to the API token "
    "of Cloudflare's key",
}


def wrong_settings(problem: str, unknown: Mapping[str, str | None]) -> list[Finding]:
    """Findings for settings that cannot be read, perhaps because one is misspelled.

    `unknown` are the variables that are not settings, each with the nearest setting.
    """
    mends = (mend for name, mend in _MENDS.items() if name in problem)
    mend = next(mends, "correct it; docs/settings.md lists the settings")
    findings = [Finding("settings", "failed", problem, mend)]
    if misspelled := machine.judge_variables(unknown):
        findings.append(_finding("variables", misspelled))
    return findings
