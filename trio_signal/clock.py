"""Clock: times as text in messages, and as seconds that all replicas share."""

import time
from datetime import UTC, datetime, timedelta

import trio

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: The end of the year 9999.
_LAST = 253402300799999

_last: tuple[int, str] = (0, "")
_last_unique = 0


def utc_now() -> str:
    """The current time as RFC 3339: UTC, milliseconds, ``Z``.

    The old servers' times had no zone, so browsers took them for local times. The text is made once
    a millisecond: formatting takes 3 us, and a busy server needs the time more often.
    """
    global _last
    now = time.time_ns() // 1_000_000
    if now != _last[0]:
        _last = now, _text(datetime.fromtimestamp(now / 1000, UTC))
    return _last[1]


def utc_text(seconds: float) -> str:
    """Format a time in seconds since 1970, with microseconds."""
    return _text(datetime.fromtimestamp(seconds, UTC), "microseconds")


def text_of_milliseconds(milliseconds: int) -> str:
    """Format a time in milliseconds since 1970, capped at the end of the year 9999."""
    return _text(_EPOCH + timedelta(milliseconds=min(milliseconds, _LAST)))


def unique_now() -> str:
    """The current time in microseconds, later than any that this process has returned before."""
    global _last_unique
    _last_unique = max(time.time_ns() // 1_000, _last_unique + 1)
    return _text(_EPOCH + timedelta(microseconds=_last_unique), "microseconds")


def just_after(moment: str) -> str:
    """A time one millisecond later; the current time if `moment` cannot be parsed."""
    try:
        return _text(datetime.fromisoformat(moment) + timedelta(milliseconds=1))
    except (ValueError, OverflowError):
        return utc_now()


def wall_time(moment: float) -> float:
    """Convert a time of Trio's clock, which only this process knows, to seconds since 1970."""
    return time.time() - trio.current_time() + moment


def trio_time(moment: float) -> float:
    """Convert seconds since 1970 to Trio's clock."""
    return trio.current_time() - time.time() + moment


def _text(moment: datetime, resolution: str = "milliseconds") -> str:
    return moment.isoformat(timespec=resolution).removesuffix("+00:00") + "Z"
