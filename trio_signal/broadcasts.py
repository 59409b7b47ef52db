"""Who may broadcast, and which broadcast ends which. No I/O, and no state.

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
    """What keeps a peer from broadcasting.

    Where nobody can prove to be the same as before, the newest has an exclusive broadcast.
    """
    if identity is None or not identity.grants.publish:
        return Refusal.NOT_ALLOWED
    if exclusive and identity.verified:
        others = (room.members[peer_id] for peer_id in rivals_of(room, member))
        if any(rival.subject != member.subject for rival in others):
            return Refusal.STREAM_TAKEN
    return None


def name_of(identity: Identity | None, command: GoLive) -> str | None:
    """What a broadcaster calls itself, where nobody knows better."""
    known = identity is not None and identity.verified
    return None if known else clean_name(command.username)


def rivals_of(room: Room, newest: Member) -> dict[str, Live]:
    """The broadcasts of the same dialect in a room, but one's own; by peer id."""
    return {
        member.peer_id: member.live
        for member in room.live
        if member.live and is_rival(newest, member)
    }


def is_rival(newest: Member, other: Member) -> bool:
    is_live = other.live is not None
    return is_live and other.dialect == newest.dialect and other.peer_id != newest.peer_id


def begin_after(now: str, rivals: dict[str, Live]) -> str:
    """When an exclusive broadcast begins: later than all others of which its replica knows.

    So two that begin at the same moment on two replicas agree on who is newer.
    """
    return max([now, *(just_after(rival.started_at) for rival in rivals.values())])


def replaced_by(newest: Member, live: Live, room: Room) -> list[str]:
    """The peers whose exclusive broadcasts end when this one begins; the page of each is stale."""
    return [
        peer_id
        for peer_id, old in rivals_of(room, newest).items()
        if old.exclusive and (old.started_at, peer_id) < (live.started_at, newest.peer_id)
    ]
