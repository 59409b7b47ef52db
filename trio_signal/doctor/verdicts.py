"""The results of checks."""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from trio_signal.doctor.facts import Facts
from trio_signal.hosts import is_loopback

Level = Literal["ok", "warning", "failed"]


class Verdict(Struct, frozen=True):
    """What a check found, and how to correct it."""

    level: Level
    says: str
    mend: str = ""


#: Returns None if the check does not apply.
Check = Callable[[Facts], Verdict | None]


def ok(says: str) -> Verdict:
    """Everything is right."""
    return Verdict("ok", says)


def warn(says: str, mend: str) -> Verdict:
    """It works, but could be better."""
    return Verdict("warning", says, mend)


def fail(says: str, mend: str) -> Verdict:
    """It does not work, or is not safe."""
    return Verdict("failed", says, mend)


def is_public(facts: Facts) -> bool:
    """Whether other machines may reach the server."""
    return facts.platform is not None or not is_loopback(facts.settings.host)
