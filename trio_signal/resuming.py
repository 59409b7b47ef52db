"""Resuming: the sessions of this replica that their clients can come back to. Nothing blocks.

A session is kept by a `Stay`, whose end makes it leave its rooms: that of the task of the
connection which carries it, or which was the last to do so. When another connection comes, its
task's stay takes the session over, in one step. So at any time exactly one task will leave the
rooms, and it does so by the exit of a plain `with`.
"""

import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from hashlib import sha256

import trio

from trio_signal.clock import utc_now
from trio_signal.errors import NotResumedError
from trio_signal.messages.commands import Authenticate, Confirm, Resume
from trio_signal.messages.events import CameBack, Confirmed, NotResumedReason, Resumed, WentAway
from trio_signal.messages.handover import Sought
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
        session_id = f"{self._replica}.{secrets.token_urlsafe(16)}"
        resumption = self.expect(session, tag_of(session_id))
        resumption.owner, resumption.uncounted = owner_of(identity, claims), session.received
        self._sessions[resumption.id] = session
        return SessionInfo(session_id, self.grace)

    def expect(self, session: Session, tag: str) -> Resumption:
        """Keep what its client is told, from now on; nobody can resume it yet."""
        resumption = Resumption(tag, b"", session.outbox, self._allowance, limit=self._limit)
        session.resumption = session.frames = resumption
        session.session_tag = tag
        return resumption

    def take(self, session: Session, *, away: bool) -> None:
        """Let one that came from another replica be resumed; its rooms may know it is away."""
        self._sessions[session.session_tag] = session
        if away:
            self.away[session] = None

    def release(self, session: Session) -> bool:
        """Have it no more, as another replica goes on with it; whether it is known to be away."""
        was_away = session in self.away
        self.away.pop(session, None)
        del self._sessions[session.session_tag]
        return was_away

    def has(self, tag: str) -> bool:
        """Whether there is such a session here, or was one a moment ago."""
        return tag in self._sessions or tag in self._expired

    def that_can_move(self) -> Iterator[tuple[str, str]]:
        """The tags of those that another replica may have, and their rooms."""
        for tag, session in self._sessions.items():
            resumption = session.resumption
            if session.can_stay and resumption is not None and not resumption.overflowed:
                (*_, room_id) = session.memberships
                if len(session.memberships) == 1:
                    yield tag, room_id

    def with_tag(self, tag: str) -> Session | None:
        """The session that has this tag."""
        return self._sessions.get(tag)

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
        was_away = session in self.away
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
        session = self._sessions.get(tag_of(resume.session_id or ""))
        if session is None:
            raise self.unknown(resume)
        _check(session, resume.room_id, owner_of(identity, claims))
        if not identity.grants.admit(resume.room_id):
            raise NotResumedError(NotResumedReason.OTHER_IDENTITY)
        return session

    def unknown(self, resume: Resume) -> NotResumedError:
        """Why there is no such session."""
        session_id = resume.session_id or ""
        if tag_of(session_id) in self._expired:
            return NotResumedError(NotResumedReason.EXPIRED)
        found = _ID.fullmatch(session_id)
        is_elsewhere = found is not None and found[1] != self._replica
        lost, unknown = NotResumedReason.OWNER_LOST, NotResumedReason.UNKNOWN
        return NotResumedError(lost if is_elsewhere else unknown)

    def check(self, session: Session, room_id: str, sought: Sought) -> str:
        """Whether another replica may have it, as which peer it is; raises NotResumedError."""
        if sought.owner is not None:
            _check(session, room_id, sought.owner)
        if not session.can_stay or tuple(session.memberships) != (room_id,):
            raise NotResumedError(NotResumedReason.UNKNOWN)
        resumption = _resumption_of(session)
        resumption.missing(resumption.confirmed if sought.received is None else sought.received)
        return session.memberships[room_id]

    # Between two connections

    def lose(self, session: Session) -> bool:
        """A session has lost its connection: whether it waits in its rooms for another one."""
        if not session.can_stay or self._rooms.closing is not None:
            return False
        if len(self.away) >= self._most_away:
            return False
        session.go_away()
        return self.keep_waiting(session)

    def keep_waiting(self, session: Session) -> bool:
        """The same of one that has no connection: nobody has taken it since it came here."""
        if self._rooms.closing is not None:
            return False
        if session not in self.away:
            self.away[session] = None
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
            self._sessions.pop(session.resumption.id, None)
            session.resumption.end()


def tag_of(session_id: str) -> str:
    """By what a session is found, and cannot be resumed: replicas tell it each other."""
    return urlsafe_b64encode(sha256(session_id.encode(errors="replace")).digest()[:15]).decode()


def owner_of(identity: Identity, claims: Authenticate) -> bytes:
    """Whose a session is: its token's subject. In open mode a token is no more than a text."""
    who = identity.subject if identity.verified else f"\0{claims.token or ''}"
    return sha256(who.encode(errors="replace")).digest()[:16]


def _check(session: Session, room_id: str, owner: bytes) -> None:
    """Whether it is this owner's, and in this room; raises NotResumedError."""
    if not hmac.compare_digest(_resumption_of(session).owner, owner):
        raise NotResumedError(NotResumedReason.OTHER_IDENTITY)
    if room_id not in session.memberships or not session.can_stay:
        raise NotResumedError(NotResumedReason.UNKNOWN)


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
