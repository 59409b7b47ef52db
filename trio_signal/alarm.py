"""Alarm: wakes a sleeping task earlier than it planned."""

import trio

NEVER = float("inf")


class Alarm:
    """Wakes one task. The code that sets it need not know which task, nor whether it still runs.

    The task looks for work before it sleeps, so a time that is set while it is awake is not kept.
    """

    __slots__ = ("_scope",)

    def __init__(self) -> None:
        """Make an alarm that no task waits for."""
        self._scope: trio.CancelScope | None = None

    def set(self, at: float = -NEVER) -> None:
        """Wake the task at this time of Trio's clock, unless it wakes earlier. Does not block."""
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, at)

    def until(self, at: float) -> trio.CancelScope:
        """The scope in which the task sleeps. It ends at this time, or when the alarm is set."""
        self._scope = trio.CancelScope(deadline=at)
        return self._scope
