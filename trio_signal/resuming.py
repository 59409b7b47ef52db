"""Resuming: the sessions of this replica that their clients can resume. Nothing blocks.

The task of its current or last connection keeps a session in its `Stay`, at whose end the session
leaves its rooms. When another connection resumes the session, the stay of that connection's task
takes it over, in one step. So at any time exactly one task is responsible for leaving the rooms.
"""

import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from hashlib import sha256

import trio

from trio_signal.clock import utc_now
from trio_signal.errors import CloseCode, NotResumedError
from trio_signal.messages.commands import Authenticate, Close, Confirm, Resume
from trio_signal.messages.events import Confirmed, NotResumedReason, Resumed
from trio_signal.messages.handover import Sought
from trio_signal.messages.identity import Identity, SessionInfo
from trio_signal.metrics import Metrics
from trio_signal.pacing import ANSWER_BYTE
from trio_signal.resumption import MOST_BYTES, Allowance, Resumption
from trio_signal.rooms import Rooms
from trio_signal.session import Session

#: Seconds for which expired sessions are remembered, and the maximum number of them.
_REMEMBERED = 600.0
_MOST_REMEMBERED = 10_000
#: How a connection ends that asks for a session which a newer one has.
REPLACED = Close(CloseCode.TRY_AGAIN_LATER, "A newer connection has the session")
#: A replica, and a secret of 128 random bits.
_ID = re.compile(r"([0-9a-f]{32})\.[A-Za-z0-9_-]{22}")


class Resuming:
    """The sessions that can be resumed here, by their ids."""

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
        """Start without sessions; with a `grace` of 0 seconds there will be none.

        At most `most_away` sessions wait, and each keeps at most `limit` bytes.
        """
        self.grace = grace
        self._rooms = rooms
        self._replica = replica
        self._metrics = metrics
        self._most_away = most_away
        self._limit = min(limit, MOST_BYTES)
        self._allowance = Allowance()
        self._sessions: dict[str, Session] = {}
        #: Sessions that wait for a connection.
        self.away: dict[Session, None] = {}
        #: Ids of expired sessions, and until when they are remembered.
        self._expired: dict[str, float] = {}

    @property
    def kept_bytes(self) -> int:
        """The bytes kept for all sessions. A frame that several sessions share counts for each."""
        return self._allowance.used

    def open(self, session: Session, identity: Identity, claims: Authenticate) -> SessionInfo:
        """Make a session resumable by its client's current identity; return its id."""
        session_id = f"{self._replica}.{secrets.token_urlsafe(16)}"
        resumption = self.expect(session, tag_of(session_id))
        resumption.owner, resumption.uncounted = owner_of(identity, claims), session.received
        self._sessions[resumption.id] = session
        return SessionInfo(session_id, self.grace)

    def expect(self, session: Session, tag: str) -> Resumption:
        """Keep the frames that the client is sent; nobody can resume the session yet."""
        resumption = Resumption(tag, b"", session.outbox, self._allowance, limit=self._limit)
        session.resumption = session.frames = resumption
        session.session_tag = tag
        return resumption

    def take(self, session: Session, *, away: bool) -> None:
        """Make a session from another replica resumable; `away` if its rooms know it as away."""
        self._sessions[session.session_tag] = session
        if away:
            self.away[session] = None
            self._set_away(session, away=True)  # version 0.2.0 does not record it

    def release(self, session: Session) -> None:
        """Forget a session that another replica continues."""
        self.away.pop(session, None)
        del self._sessions[session.session_tag]

    def has(self, tag: str) -> bool:
        """Whether such a session is here, or was a moment ago."""
        return tag in self._sessions or tag in self._expired

    def that_can_move(self) -> Iterator[tuple[str, str]]:
        """The tags and rooms of the sessions that another replica may take."""
        for tag, session in self._sessions.items():
            resumption = session.resumption
            if session.can_stay and resumption is not None and not resumption.overflowed:
                (*_, room_id) = session.memberships
                if len(session.memberships) == 1:
                    yield tag, room_id

    def with_tag(self, tag: str) -> Session | None:
        """The session with this tag."""
        return self._sessions.get(tag)

    def resume(
        self, newcomer: Session, identity: Identity, claims: Authenticate, resume: Resume
    ) -> Session:
        """Continue the client's earlier session on a new connection, and return that session.

        The client gets the confirmation first, then the messages that it missed, then new ones.
        If a connection that came later has the session, this one is closed and returned: the client
        has abandoned it, and the network has delayed the request. Raises NotResumedError.
        """
        try:
            session = self._find(identity, claims, resume)
            if newcomer.arrived < session.resumed_by:
                newcomer.close(REPLACED)
                return newcomer
            missing = _resumption_of(session).missing(resume.received)
        except NotResumedError as error:
            self._metrics.not_resumed[error.reason] += 1
            raise
        self.away.pop(session, None)
        session.go_on(newcomer)
        session.tell(Resumed(_counted(session), len(missing)))
        for frame in missing:
            session.owes += len(frame) * ANSWER_BYTE
            session.put(frame)
        self._set_away(session, away=False)
        self._metrics.resumed += 1
        self._metrics.replayed += len(missing)
        return session

    def _find(self, identity: Identity, claims: Authenticate, resume: Resume) -> Session:
        """The requested session; raises NotResumedError if it is over, or another client's."""
        session = self._sessions.get(tag_of(resume.session_id or ""))
        if session is None:
            raise self.unknown(resume)
        _check(session, resume.room_id, owner_of(identity, claims))
        if not identity.grants.admit(resume.room_id):
            raise NotResumedError(NotResumedReason.OTHER_IDENTITY)
        return session

    def unknown(self, resume: Resume) -> NotResumedError:
        """The reason why there is no such session."""
        session_id = resume.session_id or ""
        if tag_of(session_id) in self._expired:
            return NotResumedError(NotResumedReason.EXPIRED)
        found = _ID.fullmatch(session_id)
        is_elsewhere = found is not None and found[1] != self._replica
        lost, unknown = NotResumedReason.OWNER_LOST, NotResumedReason.UNKNOWN
        return NotResumedError(lost if is_elsewhere else unknown)

    def check(self, session: Session, room_id: str, sought: Sought) -> str:
        """Check that another replica may take a session; return its peer id.

        Raises NotResumedError.
        """
        if sought.owner is not None:
            _check(session, room_id, sought.owner)
        if not session.can_stay or tuple(session.memberships) != (room_id,):
            raise NotResumedError(NotResumedReason.UNKNOWN)
        resumption = _resumption_of(session)
        resumption.missing(resumption.confirmed if sought.received is None else sought.received)
        return session.memberships[room_id]

    # Between two connections

    def lose(self, session: Session) -> bool:
        """Let a session that lost its connection wait for another; return whether it may."""
        if not session.can_stay or self._rooms.closing is not None:
            return False
        if len(self.away) >= self._most_away:
            return False
        session.go_away()
        return self.keep_waiting(session)

    def keep_waiting(self, session: Session) -> bool:
        """Let a session without a connection keep waiting; return whether it may."""
        if self._rooms.closing is not None:
            return False
        if session not in self.away:
            self.away[session] = None
            self._set_away(session, away=True)
        return True

    def _set_away(self, session: Session, *, away: bool) -> None:
        for room_id, peer_id in session.memberships.items():
            room = self._rooms[room_id]
            events = room.set_away(room.members[peer_id], utc_now(), away=away)
            self._rooms.tell(session, room, events)

    def until(self, session: Session) -> float:
        """When a session that starts to wait now expires, by Trio's clock."""
        return min(trio.current_time() + self.grace, session.deadlines.expires_at)

    def expire(self, session: Session) -> None:
        """Remember that a session has expired, and forget the oldest ones."""
        now, expired = trio.current_time(), self._expired
        if session.resumption is not None and session.closed_with is None:
            expired[session.resumption.id] = now + _REMEMBERED
        while expired:
            oldest = next(iter(expired))
            if expired[oldest] > now and len(expired) <= _MOST_REMEMBERED:
                return
            del expired[oldest]

    def forget(self, session: Session) -> None:
        """Forget a session that is over."""
        if session.resumption is not None:
            self.away.pop(session, None)
            self._sessions.pop(session.resumption.id, None)
            session.resumption.end()


def tag_of(session_id: str) -> str:
    """The tag by which replicas find a session; it is not enough to resume the session."""
    return urlsafe_b64encode(sha256(session_id.encode(errors="replace")).digest()[:15]).decode()


def owner_of(identity: Identity, claims: Authenticate) -> bytes:
    """The owner of a session: a hash of its token's subject, or of the token in open mode."""
    who = identity.subject if identity.verified else f"\0{claims.token or ''}"
    return sha256(who.encode(errors="replace")).digest()[:16]


def _check(session: Session, room_id: str, owner: bytes) -> None:
    """Check that a session belongs to this owner, and is in this room; raises NotResumedError."""
    if not hmac.compare_digest(_resumption_of(session).owner, owner):
        raise NotResumedError(NotResumedReason.OTHER_IDENTITY)
    if room_id not in session.memberships or not session.can_stay:
        raise NotResumedError(NotResumedReason.UNKNOWN)


def _resumption_of(session: Session) -> Resumption:
    """The resumption of a session; raises NotResumedError if it cannot be resumed."""
    if session.resumption is None:
        raise NotResumedError(NotResumedReason.UNKNOWN)
    return session.resumption


def _counted(session: Session) -> int:
    """The number of counted messages from the session's client."""
    return session.received - (session.resumption.uncounted if session.resumption else 0)


def discount(session: Session) -> None:
    """Exclude the current message from the count."""
    if session.resumption is not None:
        session.resumption.uncounted += 1


def confirm(session: Session, command: Confirm) -> Confirmed:
    """Note how many messages the client has received; return how many have come from it."""
    discount(session)
    if session.resumption is not None and command.received is not None:
        session.resumption.confirm(command.received)
    return Confirmed(_counted(session), command.id)
