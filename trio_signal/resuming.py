"""Resuming: the sessions of this replica that their clients can come back to. Nothing blocks.

A session is kept by a `Stay`, whose end makes it leave its rooms: that of the task of the
connection which carries it, or which was the last to do so. When another connection comes, its
task's stay takes the session over, in one step. So at any time exactly one task will leave the
rooms, and it does so by the exit of a plain `with`.
"""

import hmac
import re
import secrets
from hashlib import sha256

import trio

from trio_signal.clock import utc_now
from trio_signal.errors import NotResumedError
from trio_signal.messages.commands import Authenticate, Confirm, Resume
from trio_signal.messages.events import CameBack, Confirmed, NotResumedReason, Resumed, WentAway
from trio_signal.messages.identity import Identity, SessionInfo
from trio_signal.metrics import Metrics
from trio_signal.pacing import ANSWER_BYTE
from trio_signal.resumption import MOST_BYTES, Allowance, Resumption
from trio_signal.rooms import Rooms
from trio_signal.session import Session

#: Seconds for which it is known of a session that its grace is over, and of how many.
_REMEMBERED = 600.0
_MOST_REMEMBERED = 10_000
#: A replica, and a secret of 128 random bits.
_ID = re.compile(r"([0-9a-f]{32})\.[A-Za-z0-9_-]{22}")


class Resuming:
    """By its id, each session that can be resumed here."""

    def __init__(
        self,
        rooms: Rooms,
        metrics: Metrics,
        replica: str,
        *,
        grace: float,
        most_away: int,
        limit: int,
    ) -> None:
        """Begin without any; with a `grace` of 0 seconds there will be none.

        Of those that wait there are `most_away`, and each keeps `limit` bytes at most.
        """
        self.grace = grace
        self._rooms = rooms
        self._replica = replica
        self._metrics = metrics
        self._most_away = most_away
        self._limit = min(limit, MOST_BYTES)
        self._allowance = Allowance()
        self._sessions: dict[str, Session] = {}
        #: Those that wait for a connection.
        self.away: dict[Session, None] = {}
        #: Ids of sessions whose grace is over, and how long that is remembered.
        self._expired: dict[str, float] = {}

    @property
    def kept_bytes(self) -> int:
        """What is kept for all of them, as if each frame were kept for each."""
        return self._allowance.used

    def open(self, session: Session, identity: Identity, claims: Authenticate) -> SessionInfo:
        """Let a session be resumed, from now on, by who its client is now."""
        resumption = Resumption(
            f"{self._replica}.{secrets.token_urlsafe(16)}",
            owner_of(identity, claims),
            session.outbox,
            self._allowance,
            limit=self._limit,
            uncounted=session.received,
        )
        session.resumption = session.frames = resumption
        self._sessions[resumption.id] = session
        return SessionInfo(resumption.id, self.grace)

    def resume(
        self, newcomer: Session, identity: Identity, claims: Authenticate, resume: Resume
    ) -> Session:
        """Let the connection of a newcomer carry the session that its client had before.

        The client is told so first, then what it lacks, then what goes on: all in one step.
        Returns that session; raises NotResumedError.
        """
        try:
            session = self._find(identity, claims, resume)
            missing = _resumption_of(session).missing(resume.received)
        except NotResumedError as error:
            self._metrics.not_resumed[error.reason] += 1
            raise
        was_away = session.is_away
        self.away.pop(session, None)
        session.go_on(newcomer)
        session.tell(Resumed(_counted(session), len(missing)))
        for frame in missing:
            session.owes += len(frame) * ANSWER_BYTE
            session.put(frame)
        if was_away:
            self._tell(session, CameBack)
        self._metrics.resumed += 1
        self._metrics.replayed += len(missing)
        return session

    def _find(self, identity: Identity, claims: Authenticate, resume: Resume) -> Session:
        """The session that is meant; raises NotResumedError if it is not this client's, or over."""
        session_id = resume.session_id or ""
        session = self._sessions.get(session_id)
        if session is None:
            raise NotResumedError(self._why_unknown(session_id))
        if not hmac.compare_digest(_resumption_of(session).owner, owner_of(identity, claims)):
            raise NotResumedError(NotResumedReason.OTHER_IDENTITY)
        if resume.room_id not in session.memberships or not session.can_stay:
            raise NotResumedError(NotResumedReason.UNKNOWN)
        if not identity.grants.admit(resume.room_id):
            raise NotResumedError(NotResumedReason.OTHER_IDENTITY)
        return session

    def _why_unknown(self, session_id: str) -> NotResumedReason:
        if session_id in self._expired:
            return NotResumedReason.EXPIRED
        found = _ID.fullmatch(session_id)
        is_elsewhere = found is not None and found[1] != self._replica
        return NotResumedReason.OWNER_LOST if is_elsewhere else NotResumedReason.UNKNOWN

    # Between two connections

    def lose(self, session: Session) -> bool:
        """A session has lost its connection: whether it waits in its rooms for another one."""
        if not session.can_stay or self._rooms.closing is not None:
            return False
        if len(self.away) >= self._most_away:
            return False
        self.away[session] = None
        session.go_away()
        self._tell(session, WentAway)
        return True

    def _tell(self, session: Session, kind: type[WentAway | CameBack]) -> None:
        for room_id, peer_id in session.memberships.items():
            room = self._rooms[room_id]
            self._rooms.tell(session, room, [kind(room_id, room.members[peer_id], utc_now())])

    def until(self, session: Session) -> float:
        """Until when it waits from now on, by Trio's clock."""
        return min(trio.current_time() + self.grace, session.deadlines.expires_at)

    def expire(self, session: Session) -> None:
        """Nobody came back to it in time."""
        now, expired = trio.current_time(), self._expired
        if session.resumption is not None and session.closed_with is None:
            expired[session.resumption.id] = now + _REMEMBERED
        while expired:
            oldest = next(iter(expired))
            if expired[oldest] > now and len(expired) <= _MOST_REMEMBERED:
                return
            del expired[oldest]

    def forget(self, session: Session) -> None:
        """It is over."""
        if session.resumption is not None:
            self.away.pop(session, None)
            del self._sessions[session.resumption.id]
            session.resumption.end()


def owner_of(identity: Identity, claims: Authenticate) -> bytes:
    """Whose a session is: its token's subject. In open mode a token is no more than a text."""
    who = identity.subject if identity.verified else f"\0{claims.token or ''}"
    return sha256(who.encode(errors="replace")).digest()[:16]


def _resumption_of(session: Session) -> Resumption:
    """That of one that can be resumed; raises NotResumedError for another."""
    if session.resumption is None:
        raise NotResumedError(NotResumedReason.UNKNOWN)
    return session.resumption


def _counted(session: Session) -> int:
    """How many of the messages that count have come from its client."""
    return session.received - (session.resumption.uncounted if session.resumption else 0)


def discount(session: Session) -> None:
    """The message that is being carried out is not to be counted."""
    if session.resumption is not None:
        session.resumption.uncounted += 1


def confirm(session: Session, command: Confirm) -> Confirmed:
    """Take in what its client has got; what has come from it."""
    discount(session)
    if session.resumption is not None and command.received is not None:
        session.resumption.confirm(command.received)
    return Confirmed(_counted(session), command.id)
