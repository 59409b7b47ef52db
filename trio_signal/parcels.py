"""Parcels: a session's data on the way from one replica to another. Nothing blocks."""

from trio_signal.clock import utc_now
from trio_signal.messages.events import NotResumedReason
from trio_signal.messages.handover import NotGiven, Parcel, Sought
from trio_signal.messages.identity import ServerInfo, SessionInfo
from trio_signal.session import Session


def pack(session: Session, sought: Sought, *, away: bool) -> Parcel | NotGiven:
    """The data that the next replica needs to continue the session, or why it cannot."""
    resumption, identity = session.resumption, session.identity
    frames = resumption.give() if resumption is not None else None
    if resumption is None or identity is None or frames is None or session.closed_with:
        reason = NotResumedReason.OVERFLOW if frames is None else NotResumedReason.UNKNOWN
        return NotGiven(sought.session, sought.attempt, reason)
    return Parcel(
        session=sought.session,
        connection=session.id,
        identity=identity,
        owner=resumption.owner,
        received=session.received,
        uncounted=resumption.uncounted,
        sent=session.sent,
        confirmed=resumption.confirmed,
        frames=frames,
        away=away,
        at=resumption.asked_at,
    )


def unpack(session: Session, parcel: Parcel, grace: float) -> None:
    """Continue where the other replica ended, after what was already sent here."""
    session.id, session.identity = parcel.connection, parcel.identity
    session.received, session.sent = parcel.received, session.sent + parcel.sent
    session.deadlines.watch_expiry(parcel.identity)
    resumption = session.resumption
    if resumption is not None:
        resumption.owner, resumption.uncounted = parcel.owner, parcel.uncounted
        resumption.asked_at = parcel.at
        resumption.take(parcel.frames, parcel.confirmed)
        info = ServerInfo(session=SessionInfo(resumption.id, grace))
        # Only to set the dialect's state: its greeting was sent at the first replica.
        list(session.dialect.authenticated(parcel.identity, info, utc_now()))
