"""Participant: anything that can be in rooms, as the hub and the rooms see it."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Protocol, Self

import trio

from trio_signal.dialects.wire import Resumes
from trio_signal.limits import ConnectionLease
from trio_signal.messages.commands import Close, LeaveCause
from trio_signal.messages.events import Answer, Event
from trio_signal.messages.identity import Identity
from trio_signal.negotiations import Negotiations


class Host(Protocol):
    """Where participants stay: a hub."""

    def arrive(self, participant: "Participant") -> None:
        """Add a participant."""
        ...

    def depart(self, participant: "Participant") -> None:
        """Remove a participant from all its rooms, and notify them."""
        ...


class Stay:
    """A participant's stay at the hub; its end removes the participant from every room.

    It is a plain context manager. Its exit does not await anything, so it always completes,
    whatever ended the stay.
    """

    __slots__ = ("_hub", "participant")

    def __init__(self, hub: Host, participant: "Participant") -> None:
        """Prepare the stay; it begins on entering."""
        self._hub = hub
        #: The participant; None if another stay has taken it over.
        self.participant: Participant | None = participant

    def __enter__(self) -> Self:
        """Begin the stay."""
        if self.participant is not None:
            self.participant.stay = self
            self._hub.arrive(self.participant)
        return self

    def take(self, other: "Stay") -> None:
        """Take over the participant of another stay; this stay's own, in no room, ends.

        This is one step: at any time exactly one stay will remove a participant from its rooms.
        """
        newcomer, participant = self.participant, other.participant
        if newcomer is not None and participant is not None:
            self.participant, other.participant = participant, None
            participant.stay, newcomer.stay = self, None
            self._hub.depart(newcomer)

    def release(self) -> None:
        """Release the participant: something else looks after it from now on."""
        if self.participant is not None:
            self.participant.stay = None
            self.participant = None

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the stay, and notify all rooms."""
        participant, self.participant = self.participant, None
        if participant is not None:
            participant.stay = None
            self._hub.depart(participant)
            participant.end()


class Participant(ABC):
    """Something that can be in rooms; it needs no socket. None of its methods blocks.

    It receives the events of its rooms, and the signals for it, as objects. Only sessions need them
    as text: a room encodes an event once for all sessions of a dialect.
    """

    __slots__ = (
        *("arrived", "closed_with", "id", "identity", "last_heard", "lease"),
        *("left", "memberships", "negotiations", "owes", "session_tag", "stay", "to_rejoin"),
    )

    def __init__(self, id_: str) -> None:
        """Make a participant without an identity, in no room."""
        self.id = id_
        self.identity: Identity | None = None
        #: The rooms it is in, with its peer id in each.
        self.memberships: dict[str, str] = {}
        #: Its place among the connections, if its client needs one.
        self.lease: ConnectionLease | None = None
        #: Why it ends.
        self.closed_with: Close | None = None
        #: When it came, and when it last sent something, by Trio's clock.
        self.arrived = self.last_heard = trio.current_time()
        #: The cost of work that it caused and has not paid for yet, in tokens.
        self.owes = 0.0
        #: The rooms of a lost connection that it has not rejoined yet.
        self.to_rejoin: tuple[str, ...] = ()
        #: The rooms in which it was when it ended.
        self.left: tuple[str, ...] = ()
        #: The tag by which all replicas can find it, if its client can resume it.
        self.session_tag = ""
        #: The stay at whose end it leaves its rooms.
        self.stay: Stay | None = None
        #: Its open negotiations with other peers, if its dialect needs help with them.
        self.negotiations: Negotiations | None = None

    @abstractmethod
    def hear(self, event: Event) -> None:
        """Receive an event of its rooms, or one for it alone."""

    @abstractmethod
    def tell(self, answer: Answer) -> None:
        """Receive the result of its command."""

    @abstractmethod
    def close(self, close: Close) -> None:
        """End the participant, which then leaves its rooms. Later calls do nothing."""

    def rejoin(self, room_ids: tuple[str, ...] = ()) -> None:  # noqa: B027  most need not
        """Join these rooms, and those in which the user was when it lost another session."""

    def wake(self, at: float) -> None:  # noqa: B027  most do nothing by themselves
        """Process its negotiations at this time of Trio's clock."""

    def end(self) -> None:  # noqa: B027  most need no cleanup
        """Clean up, after it has left all its rooms."""

    @property
    def is_away(self) -> bool:
        """Whether it is in its rooms without a connection, and may have one again."""
        return False

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
        """The number of bytes that wait because its client reads too slowly."""
        return 0

    @property
    def dialect_name(self) -> str:
        """The name of its dialect; empty if it has none."""
        return ""

    @property
    def resumes(self) -> Resumes:
        """What the server restores for its client after a restart; see `Dialect`."""
        return "nothing"
