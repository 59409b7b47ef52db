"""Returning users: a new connection rejoins the rooms in which an older one was lost.

For dialects whose clients do not rejoin by themselves. This is the state of one replica; the notes
have what other replicas need.
"""

from collections.abc import Sequence

import trio

from trio_signal.bus import Bus, RoomsKept
from trio_signal.clock import wall_time
from trio_signal.notes import Notes
from trio_signal.participant import Participant


class Returning:
    """The connections whose rooms are kept for the user's next one. Nothing here blocks."""

    def __init__(self, bus: Bus, notes: Notes) -> None:
        """Start without connections."""
        self._bus = bus
        self._notes = notes
        self._peers: dict[str, set[Participant]] = {}

    async def rooms_to_rejoin(self, peer: Participant) -> tuple[str, ...]:
        """The rooms that the user's last connection was in; blocks on the notes.

        From now on, the rooms of this connection are kept for the next one.
        """
        if peer.identity is None:
            return ()
        user_id = peer.identity.user_id
        self._peers.setdefault(user_id, set()).add(peer)
        room_ids = await self._notes.take_lost_rooms(user_id)
        peer.to_rejoin += room_ids
        return room_ids

    def depart(self, peer: Participant, room_ids: Sequence[str]) -> None:
        """Keep the rooms of an ended connection for the user's next one, which may already be here.

        A client that changes networks reconnects long before its old connection times out. But a
        connection that came while the old one was still receiving is another tab, and gets nothing.
        """
        if not self._keeps(peer):
            return
        user_id = _user_of(peer)
        others = self._peers[user_id]
        others.discard(peer)
        if not others:
            del self._peers[user_id]
        heard = wall_time(peer.last_heard)
        # Rooms that the user has left since then, on any connection, are not restored.
        kept = [
            room_id
            for room_id in dict.fromkeys([*room_ids, *peer.to_rejoin])
            if not self._notes.has_left(user_id, room_id, heard)
        ]
        successor = self.successor(user_id, peer.last_heard)
        if successor is not None:
            successor.to_rejoin += tuple(kept)
            successor.rejoin(tuple(kept))
        elif kept:
            self._notes.remember_rooms(user_id, kept, heard)
            self._bus.broadcast(RoomsKept(user_id, self._bus.replica, heard))

    def successor(self, user_id: str, heard: float) -> Participant | None:
        """A connection that came after `heard` (by Trio's clock), and is not about to end."""
        for peer in self._peers.get(user_id, ()):
            if peer.arrived > heard and not peer.is_leaving:
                return peer
        return None

    def keep_out(self, peer: Participant, room_id: str) -> None:
        """Note that the user left a room, so that a lost older connection does not restore it."""
        if self._keeps(peer):
            peer.to_rejoin = tuple(room for room in peer.to_rejoin if room != room_id)
            self._notes.keep_left(_user_of(peer), room_id, wall_time(trio.current_time()))

    def _keeps(self, peer: Participant) -> bool:
        return peer in self._peers.get(_user_of(peer), ())


def _user_of(peer: Participant) -> str:
    return peer.identity.user_id if peer.identity is not None else ""
