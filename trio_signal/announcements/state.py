"""The current revision, and the users known to have acknowledged it. No I/O."""

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
    """What an adopted revision means for the subscribers."""

    #: Nothing: it is not new, or changes nothing for them.
    NOTHING = auto()
    #: Send it to all of them.
    TELL = auto()
    #: Send it to those whose user has not acknowledged it.
    SHOW = auto()


class State:
    """The current revision as this replica knows it, and who has acknowledged it."""

    def __init__(self) -> None:
        """Begin without a revision."""
        self.revision: Revision | None = None
        #: Users who are known to have acknowledged the active announcement.
        self.acknowledged: set[str] = set()

    @property
    def active(self) -> Announcement | None:
        """The announcement to show."""
        revision = self.revision
        return revision.announcement if revision is not None and revision.active else None

    def adopt(self, revision: Revision, freshness: Freshness) -> Effect:
        """Make a revision current, unless it is older."""
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
        """Record that a user has acknowledged the active announcement."""
        if len(self.acknowledged) < MAX_REMEMBERED:
            self.acknowledged.add(user_id)
