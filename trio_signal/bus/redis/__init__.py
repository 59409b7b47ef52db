"""The bus of replicas on many machines: Redis is transport and directory.

docs/scaling.md lists the keys in Redis. Each replica writes only its own members, by scripts that
check, write, number and publish in one step. The modules:

- `bus.py`, the transport: receives from Redis, publishes, joins.
- `directory.py`: the keys, and the scripts that read and write them.
- `feed.py`: which changes of each followed room have arrived, and which rooms are stale.
- `lease.py`: shows that this replica is alive, and finds those that are not.
- `keeping.py`: bans, and locked rooms.
- `recovery.py`: restores stale rooms, and looks for rooms that may be stale.

Members are kept only in the hub's `Room`, and so is its `Numbering`. For each room:

- `seq` is the last change that the room has, from a change or a snapshot. `received` is the last
  change that came on the channel. A snapshot may be ahead of the channel. A newcomer is admitted
  only when everything published before its own change has come as well.
- The room is *in step* while it can apply the next change. A gap ends that: the room is then
  *stale* until it is restored, and changes wait. `losses` counts the gaps, so that a snapshot
  requested before a gap is not applied after it.
- `own` are the members of this replica, `entered` those that the directory lists for it. They
  differ only while a join or a leave is in progress.
- `entering` are members that were sent to the directory and are not admitted yet. A restore neither
  writes nor removes them.

What holds between two checkpoints, whatever has failed:

- The room's peers here have been sent exactly the members that the `Room` has.
- A room that is not in step, or has an own member that the directory lacks, is stale, or a join is
  about to find that out.
- A stale room is repaired in one way, whatever the cause (a gap, an overflow, a lost connection, an
  emptied Redis, an expired lease, a script of unknown outcome, an unreadable value): this replica
  writes its members anew, fetches a snapshot, `Room.catch_up` finds the difference, and the peers
  here receive it.
- Without a lease a replica writes no members: nobody would remove them again.

Anybody may write to Redis. All values are decoded in one place (`Redis.reader`), and unreadable
ones are dropped. Nobody else can change this replica's own members. Each second some rooms are
compared with the directory, which finds changes that were never published, and published changes
that are not true.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from trio_signal.bus.redis.bus import JOIN_TIMEOUT, RedisBus
from trio_signal.errors import ConfigError, SettingError
from trio_signal.redis import ConfigurationError, open_redis

__all__ = ["JOIN_TIMEOUT", "RedisBus", "open_redis_bus"]

#: Seconds without data before a connection is probed.
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
    """Connect to Redis and yield the bus, which the caller must `run`.

    If `observed`, changes are recorded for webhooks. Starts without a connection if Redis cannot be
    reached. Raises SettingError if the URL is wrong, and ConfigError if Redis refuses us.
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
