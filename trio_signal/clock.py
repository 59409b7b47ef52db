"""The time as the wire has it, and as other replicas have it."""

import time
from datetime import UTC, datetime, timedelta

import trio

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: The end of the year 9999.
_LAST = 253402300799999

_last: tuple[int, str] = (0, "")
_last_unique = 0


def utc_now() -> str:
    """RFC 3339, UTC, milliseconds, ``Z``.

    The old servers' times had no zone, and browsers took them for local ones.
    Made once a millisecond: formatting costs 3 us, and a busy server asks for
    the time more often than it sends.
    """
    global _last
    now = time.time_ns() // 1_000_000
    if now != _last[0]:
        _last = now, _text(datetime.fromtimestamp(now / 1000, UTC))
    return _last[1]


def text_of_milliseconds(milliseconds: int) -> str:
    """The same of a time in milliseconds since 1970; the last one that there is, if it is later."""
    return _text(_EPOCH + timedelta(milliseconds=min(milliseconds, _LAST)))


def unique_now() -> str:
    """The same in microseconds, and later than any that this process made before."""
    global _last_unique
    _last_unique = max(time.time_ns() // 1_000, _last_unique + 1)
    return _text(_EPOCH + timedelta(microseconds=_last_unique), "microseconds")


def just_after(moment: str) -> str:
    """A millisecond later than such a text says; now, if it is none: another wrote it."""
    try:
        return _text(datetime.fromisoformat(moment) + timedelta(milliseconds=1))
    except (ValueError, OverflowError):
        return utc_now()


def wall_time(moment: float) -> float:
    """Seconds since 1970 at a moment of Trio's clock, which is this process's own."""
    return time.time() - trio.current_time() + moment


def trio_time(moment: float) -> float:
    """The other way round."""
    return trio.current_time() - time.time() + moment


def _text(moment: datetime, resolution: str = "milliseconds") -> str:
    return moment.isoformat(timespec=resolution).removesuffix("+00:00") + "Z"
