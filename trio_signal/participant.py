"""Participant: who can be in rooms, as the hub and the rooms see it."""

from abc import ABC, abstractmethod

import trio

from trio_signal.dialects.wire import Resumes
from trio_signal.messages.commands import Close, LeaveCause
from trio_signal.messages.events import Answer, Event
from trio_signal.messages.identity import Identity
from trio_signal.negotiations import Negotiations


class Participant(ABC):
    """Who can be in rooms; needs no socket. None of its methods blocks.

    It hears the events of its rooms as they are, and of the signals those that are for it. Only
    a session is told things in other words: a room puts events into those of a dialect once for
    all sessions that speak it.
    """

    __slots__ = (
        *("arrived", "closed_with", "id", "identity", "last_heard"),
        *("left", "memberships", "negotiations", "owes", "to_rejoin"),
    )

    def __init__(self, id_: str) -> None:
        """Make one that is nobody yet, and in no room."""
        self.id = id_
        self.identity: Identity | None = None
        #: The rooms it is in, and under which peer id in each.
        self.memberships: dict[str, str] = {}
        #: The reason why it ends; the first one counts.
        self.closed_with: Close | None = None
        #: When it came, and when it was last heard of; Trio's clock.
        self.arrived = self.last_heard = trio.current_time()
        #: What it made the server do and has not paid for yet, in tokens.
        self.owes = 0.0
        #: The rooms of a lost session that it is to enter and has not yet.
        self.to_rejoin: tuple[str, ...] = ()
        #: The rooms in which it was when it ended.
        self.left: tuple[str, ...] = ()
        #: What it has still to settle with its counterparts, if it needs help with that.
        self.negotiations: Negotiations | None = None

    @abstractmethod
    def hear(self, event: Event) -> None:
        """Hear what happens in its rooms, and what is for it alone."""

    @abstractmethod
    def tell(self, answer: Answer) -> None:
        """Learn what became of its command."""

    @abstractmethod
    def close(self, close: Close) -> None:
        """End; it then leaves its rooms."""

    def rejoin(self, room_ids: tuple[str, ...] = ()) -> None:  # noqa: B027  most need not
        """Enter these rooms, and where else the user was when it lost another session."""

    def wake(self, at: float) -> None:  # noqa: B027  most do nothing by themselves
        """Look after its negotiations at this time of Trio's clock."""

    @property
    def is_leaving(self) -> bool:
        """Whether it is about to end."""
        return self.closed_with is not None

    @property
    def leave_cause(self) -> LeaveCause:
        """Why it leaves its rooms when it ends."""
        return self.closed_with.cause if self.closed_with is not None else LeaveCause.CLOSED

    @property
    def waiting_bytes(self) -> int:
        """How many bytes wait since its client does not read as fast as it is told."""
        return 0

    @property
    def dialect_name(self) -> str:
        """What its client speaks; empty if it needs no words."""
        return ""

    @property
    def resumes(self) -> Resumes:
        """What its client does not say by itself when it comes back; see `Dialect`."""
        return "nothing"
