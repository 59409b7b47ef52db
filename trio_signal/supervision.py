"""Supervision: restarts tasks that must run as long as the server does."""

import logging
from collections.abc import Awaitable, Callable

import trio

logger = logging.getLogger(__name__)

#: Seconds until a failed task is restarted: at first, and at most. After as many seconds without a
#: failure, the first value applies again.
FIRST_PAUSE = 0.1
LONGEST_PAUSE = 30.0


async def supervise(
    name: str, task: Callable[[], Awaitable[object]], recover: Callable[[], object] | None = None
) -> None:
    """Run `task` until it returns or is cancelled; restart it when it fails.

    An exception of the task is a defect, and is logged with its traceback. Then `recover`, which
    must not block, discards the state that the task may have left wrong. Each pause before a
    restart is twice as long as the last one.
    """
    pause = FIRST_PAUSE
    while True:
        began = trio.current_time()
        try:
            await task()
        except Exception:
            if trio.current_time() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            logger.exception("%s failed, restarting in %.1f s", name, pause)
        else:
            return
        if recover is not None:
            recover()
        await trio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
