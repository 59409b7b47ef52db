"""Broadcasts: who may broadcast, and which broadcast replaces which. No I/O, no state.

A broadcast of the dialect `stream` is exclusive: a stream has one broadcaster, the newest.
"""

from trio_signal.clock import just_after
from trio_signal.messages.commands import GoLive
from trio_signal.messages.events import Refusal
from trio_signal.messages.identity import Identity, Live, Member
from trio_signal.names import clean_name
from trio_signal.room import Room


def why_not_live(
    identity: Identity | None, room: Room, member: Member, *, exclusive: bool
) -> Refusal | None:
    """Why a peer may not broadcast; None if it may.

    Where identities are not verified, the newest peer gets an exclusive broadcast.
    """
    if identity is None or not identity.grants.publish:
        return Refusal.NOT_ALLOWED
    if exclusive and identity.verified:
        others = (room.members[peer_id] for peer_id in rivals_of(room, member))
        if any(rival.subject != member.subject for rival in others):
            return Refusal.STREAM_TAKEN
    return None


def name_of(identity: Identity | None, command: GoLive) -> str | None:
    """The name that a broadcaster gives itself, used if identities are not verified."""
    known = identity is not None and identity.verified
    return None if known else clean_name(command.username)


def rivals_of(room: Room, newest: Member) -> dict[str, Live]:
    """The other peers' broadcasts of the same dialect in a room, by peer id."""
    return {
        member.peer_id: member.live
        for member in room.live
        if member.live and is_rival(newest, member)
    }


def is_rival(newest: Member, other: Member) -> bool:
    is_live = other.live is not None
    return is_live and other.dialect == newest.dialect and other.peer_id != newest.peer_id


def begin_after(now: str, rivals: dict[str, Live]) -> str:
    """The start time of an exclusive broadcast: later than all others that its replica knows.

    So if two broadcasts begin at the same moment on two replicas, all replicas agree on the newer.
    """
    return max([now, *(just_after(rival.started_at) for rival in rivals.values())])


def replaced_by(newest: Member, live: Live, room: Room) -> list[str]:
    """The peers whose exclusive broadcasts end when this one begins; their pages are outdated."""
    return [
        peer_id
        for peer_id, old in rivals_of(room, newest).items()
        if old.exclusive and (old.started_at, peer_id) < (live.started_at, newest.peer_id)
    ]
