"""What holds, and which users are known to have acknowledged it. No I/O."""

from enum import Enum, auto

from trio_signal.messages.identity import Announcement, Revision

#: How many users are remembered.
MAX_REMEMBERED = 100_000


class Freshness(Enum):
    """How long ago a revision was made."""

    #: Just now, so nobody can have acknowledged it.
    NEW = auto()
    #: A while ago: some users may have acknowledged it already.
    LATE = auto()


class Effect(Enum):
    """What is to be done for the subscribers when a revision is adopted."""

    #: Nothing: it is not news, or changes nothing for them.
    NOTHING = auto()
    #: Tell all of them.
    TELL = auto()
    #: Show it to each whose user has not acknowledged it.
    SHOW = auto()


class State:
    """The revision that holds, as far as this replica knows, and who has acknowledged it."""

    def __init__(self) -> None:
        """Know of nothing."""
        self.revision: Revision | None = None
        #: Users of whom we know that they have acknowledged the active announcement.
        self.acknowledged: set[str] = set()

    @property
    def active(self) -> Announcement | None:
        """The announcement that is to be shown."""
        revision = self.revision
        return revision.announcement if revision is not None and revision.active else None

    def adopt(self, revision: Revision, freshness: Freshness) -> Effect:
        """Let a revision hold, unless it is older than the one that does."""
        old, was_active = self.revision, self.active is not None
        if old is not None and revision.stamp <= old.stamp:
            return Effect.NOTHING
        if old is None or old.announcement.id != revision.announcement.id:
            self.acknowledged.clear()
        self.revision = revision
        if freshness is Freshness.NEW:
            return Effect.TELL
        if revision.active:
            return Effect.SHOW
        return Effect.TELL if was_active else Effect.NOTHING

    def remember(self, user_id: str) -> None:
        """Note that a user has acknowledged the active announcement."""
        if len(self.acknowledged) < MAX_REMEMBERED:
            self.acknowledged.add(user_id)
