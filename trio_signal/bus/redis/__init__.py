"""The bus of replicas on many machines: Redis is transport and directory.

What Redis holds is in docs/scaling.md. Each replica writes its own members
only. Whatever may have gone wrong between it and Redis, a lost connection, a
command of unknown outcome, a lease that ran out, is mended in one way: the
room is *doubtful*, its members are written again, and a snapshot puts the view
right (`restore.lua`, `trio_signal.presence`).

Redis may be written to by anybody. What comes is read in one place (`Redis.reader`), and
what cannot be is dropped; a room that it may have been of is doubtful. Each second some
rooms are compared with the directory: so what nobody told, or what was told and is not
true, is found as well.
"""

from trio_signal.bus.redis.bus import JOIN_TIMEOUT, RedisBus, open_redis_bus

__all__ = ["JOIN_TIMEOUT", "RedisBus", "open_redis_bus"]
