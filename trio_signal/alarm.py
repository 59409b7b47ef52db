"""Alarm: how the task that looks at the time is woken earlier than it meant to be."""

import trio

NEVER = float("inf")


class Alarm:
    """Wakes one task. Others need not know which, nor whether it still runs.

    The task looks at what there is to do before it sleeps: what it is not asleep for is not kept.
    """

    __slots__ = ("_scope",)

    def __init__(self) -> None:
        """Make one for which nobody waits."""
        self._scope: trio.CancelScope | None = None

    def set(self, at: float = -NEVER) -> None:
        """Wake the task at this time of Trio's clock, if it would not wake before."""
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, at)

    def until(self, at: float) -> trio.CancelScope:
        """The scope in which the task sleeps; it ends then, or when the alarm is set to."""
        self._scope = trio.CancelScope(deadline=at)
        return self._scope
