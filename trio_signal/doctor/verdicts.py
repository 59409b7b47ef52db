"""What a check answers with."""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from trio_signal.doctor.facts import Facts
from trio_signal.hosts import is_loopback

Level = Literal["ok", "warning", "failed"]


class Verdict(Struct, frozen=True):
    """How it is, and what to do about it."""

    level: Level
    says: str
    mend: str = ""


#: None where it has nothing to say.
Check = Callable[[Facts], Verdict | None]


def ok(says: str) -> Verdict:
    """It is as it should be."""
    return Verdict("ok", says)


def warn(says: str, mend: str) -> Verdict:
    """It works, and something is worse than it need be."""
    return Verdict("warning", says, mend)


def fail(says: str, mend: str) -> Verdict:
    """It does not work, or is not safe."""
    return Verdict("failed", says, mend)


def is_public(facts: Facts) -> bool:
    """Whether others than this machine may reach it."""
    return facts.platform is not None or not is_loopback(facts.settings.host)
