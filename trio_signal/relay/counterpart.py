"""Counterpart: the media server as the broadcaster sees it, as one more viewer."""

from collections.abc import Iterable
from uuid import uuid4

from trio_signal.clock import utc_now
from trio_signal.local_room import LocalRoom
from trio_signal.messages.events import (
    Answer,
    RelayAsked,
    RelayDone,
    ServeDirectly,
    Signalled,
)
from trio_signal.messages.identity import Member
from trio_signal.participant import Participant
from trio_signal.relay.route import write_description

#: Its name, in dialects that show one.
NAME = "Viewers"


class Counterpart:
    """Signals with a broadcaster of this replica. Nothing here blocks.

    It is not a member of a room. After `dismiss` it has another id, so that the broadcaster's
    client makes another peer connection for it.
    """

    def __init__(self, room: LocalRoom, broadcaster: str) -> None:
        """Use the broadcaster's peer id; nothing is sent yet."""
        self._room = room
        self._broadcaster = broadcaster
        self._relay: Member | None = None
        #: The one before, to which late signals may come.
        self._former: Member | None = None

    @property
    def peer(self) -> Participant | None:
        """The broadcaster, if it is on this replica."""
        return self._room.peers.get(self._broadcaster)

    @property
    def is_known(self) -> bool:
        """Whether the broadcaster was asked for a stream, and not dismissed since."""
        return self._relay is not None

    def is_called(self, id_: str) -> bool:
        """Whether this is the counterpart's id."""
        return _is_called(self._relay, id_)

    def was_called(self, id_: str) -> bool:
        """Whether this was the counterpart's id until it was dismissed."""
        return _is_called(self._former, id_)

    def ask(self, viewers: Iterable[str]) -> None:
        """Ask the broadcaster for a stream, for these viewers."""
        members = self._room.members
        me = members.get(self._broadcaster)
        if me is None:
            return
        if self._relay is None:
            id_ = uuid4().hex
            self._relay = Member(
                peer_id=f"relay_{id_}",
                user_id=f"relay:{id_}",
                username=NAME,
                dialect=me.dialect,
                replica=me.replica,
                subject="",
                joined_at=utc_now(),
            )
        served = tuple(members[each] for each in viewers if each in members)
        self._tell(RelayAsked(self._room.id, me, self._relay, served, utc_now()))

    def dismiss(self) -> None:
        """Tell the broadcaster to stop its stream, if it was asked for one."""
        relay, self._relay = self._relay, None
        self._former = relay or self._former
        me = self._room.members.get(self._broadcaster)
        if relay is not None and me is not None:
            self._tell(RelayDone(self._room.id, me, relay, utc_now()))

    def serve_directly(self, viewer: Member) -> None:
        """Announce a viewer that the broadcaster must serve itself from now on."""
        me = self._room.members.get(self._broadcaster)
        if me is not None:
            self._tell(ServeDirectly(self._room.id, me, viewer, utc_now()))

    def answer(self, sdp: str) -> None:
        """Answer the broadcaster's offer."""
        peer, me = self.peer, self._room.members.get(self._broadcaster)
        if peer is not None and me is not None and self._relay is not None:
            payload = write_description("answer", sdp)
            peer.hear(Signalled(self._room.id, "answer", payload, self._relay, me, "", utc_now()))

    def _tell(self, answer: Answer) -> None:
        if self.peer is not None:
            self.peer.tell(answer)


def _is_called(member: Member | None, id_: str) -> bool:
    return member is not None and id_ in (member.peer_id, member.user_id)
