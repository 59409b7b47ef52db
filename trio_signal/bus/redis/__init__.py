"""The bus of replicas on many machines: Redis is transport and directory.

What Redis holds is in docs/scaling.md. Each replica writes its own members only, by scripts
that check, write, number and tell in one step. The parts:

- `bus.py`, the transport: what comes from Redis and what goes there. It joins and publishes.
- `directory.py`: the keys, and the scripts that read and write them.
- `feed.py`: how far each room is that this replica follows, and which rooms are stale.
- `lease.py`: that this replica is alive, and which of the others are not.
- `keeping.py`: who is kept out of rooms, and which are locked.
- `recovery.py`: stale rooms are restored, and those that may be are found.

Members are kept in the hub's `Room` alone, and so is its `Numbering`. Of each room:

- `seq` is the last change that the room has, be it by a snapshot. `received` is the last one
  that came on the channel: a snapshot may be ahead of the channel, and a newcomer is let in
  only when what was told before its own change has come as well.
- The room is *in step* while the next change can be taken in. A gap ends that. Then it is
  *stale* until it was restored, and changes wait; `losses` counts this, so that a snapshot
  that was asked for before is not taken for a new one.
- `own` are the members that this replica answers for, `entered` those that the directory has
  of it. They differ while a join or a leave is on its way, and then only.
- `entering` are members between the question to the directory and being let in. A restore
  does not write them, and does not remove them.

What holds between two checkpoints, whatever has failed:

- The room's peers here have been told of its members just as they are.
- A room that is not in step, or has an own member that the directory does not have, is
  stale, or a join is about to find that out.
- A stale room of whatever kind (a gap, an overflow, a lost connection, a Redis that was
  emptied, a lease that ran out, a script of unknown outcome, a value that cannot be read) is
  put right in one way: our members are written anew, a snapshot is fetched, `Room.catch_up`
  finds the difference, and that is told.
- While this replica has no lease it writes no member: nobody would take it out again.

Redis may be written to by anybody. What comes is read in one place (`Redis.reader`), and
what cannot be is dropped; of our own members nobody else is believed. Each second some rooms
are compared with the directory: so what nobody told, or what was told and is not true, is
found as well.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from trio_signal.bus.redis.bus import JOIN_TIMEOUT, RedisBus
from trio_signal.errors import ConfigError, SettingError
from trio_signal.redis import ConfigurationError, open_redis

__all__ = ["JOIN_TIMEOUT", "RedisBus", "open_redis_bus"]

#: Seconds of silence before a connection is probed.
PROBE = 5.0


@asynccontextmanager
async def open_redis_bus(
    url: str,
    replica: str,
    *,
    prefix: str = "",
    ca_file: str | None = None,
    lease: float = 10.0,
    observed: bool = False,
) -> AsyncIterator[RedisBus]:
    """Connect to Redis; the bus then still has to be `run`. If `observed`, changes are noted.

    Begins without a connection if Redis cannot be reached. Raises SettingError
    if the URL is wrong, and ConfigError if Redis refuses us.
    """
    try:
        async with open_redis(
            url,
            ca_file=ca_file,
            name=f"trio-signal-{replica[:8]}",
            key=f"{prefix}trio_signal:",
            must_connect=False,
            probe_interval=PROBE,
        ) as redis:
            yield RedisBus(redis, replica, prefix=prefix, lease=lease, observed=observed)
    except ValueError as error:
        raise SettingError(f"REDIS_URL: {error}") from error
    except ConfigurationError as error:
        raise ConfigError(f"REDIS_URL: {error}") from error
