"""Viewers: the viewers of this replica that media servers serve, according to the routes."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable

import trio

from trio_signal.local_room import LocalRoom
from trio_signal.messages.identity import Member, Route
from trio_signal.relay.parts import Parts
from trio_signal.relay.route import ON_DEMAND, has_free_place, is_relayed
from trio_signal.relay.viewer import RelayedViewer

#: Seconds for the broadcaster's replica to give a newcomer a place that is free.
_PLACING = 0.5
#: Seconds for a page of the `room` dialect to make an offer. After a lost connection it makes none
#: while its peer connection seems alive.
_OFFERING = 2.0

#: A room, a broadcaster and a viewer of it.
Key = tuple[str, str, str]


class Viewers:
    """One leg for each relayed viewer. Nothing here blocks."""

    def __init__(
        self,
        parts: Parts,
        broadcasts: Collection[tuple[str, str]],
        ask_direct: Callable[[RelayedViewer], None],
    ) -> None:
        """Begin empty; `broadcasts` are those of this replica, by room and peer."""
        self._parts = parts
        self._broadcasts = broadcasts
        self._ask_direct = ask_direct
        self._legs: dict[Key, RelayedViewer] = {}
        #: Viewers without a leg, and since when they are known.
        self._newcomers: dict[Key, float] = {}
        #: Viewers that have asked for an offer.
        self._wants: set[Key] = set()

    def get(self, key: Key) -> RelayedViewer | None:
        """The leg of a viewer, if it has one."""
        return self._legs.get(key)

    @property
    def rooms(self) -> set[str]:
        """The rooms of viewers with a leg, also rooms that were dropped."""
        return {room_id for room_id, _, _ in self._legs}

    def counts(self) -> Counter[str]:
        """How many viewers each node serves."""
        return Counter(leg.route.node for leg in self._legs.values() if leg.is_up)

    def clear(self) -> None:
        """Forget all viewers; their tasks have ended."""
        self._legs.clear()

    def close(self, key: Key) -> None:
        """Stop serving a viewer."""
        self._legs.pop(key).close()

    def want(self, key: Key) -> None:
        """A viewer asks for an offer as soon as it is relayed."""
        self._wants.add(key)

    def renew(self, room_id: str, viewer: str) -> None:
        """A viewer wants new offers."""
        for (room, _, peer_id), leg in self._legs.items():
            if room == room_id and peer_id == viewer:
                leg.renew()

    def look_at(
        self,
        ids: Collection[str],
        rooms: Iterable[LocalRoom],
        now: float,
        nursery: trio.Nursery,
    ) -> None:
        """Start and stop legs as the routes in these rooms say; in other rooms nobody is live."""
        wanted: dict[Key, Route] = {}
        for room in rooms:
            wanted.update(self._wanted(room, now))
        for key, leg in list(self._legs.items()):
            if key[0] in ids and not self._is_for(leg, wanted.get(key)):
                self.close(key)
        for key, route in wanted.items():
            if key not in self._legs:
                given = self._parts, self._parts.rooms[key[0]], key[1], key[2], route
                leg = self._legs[key] = RelayedViewer(*given, self._ask_direct)
                nursery.start_soon(leg.run, name="relayed viewer")
        for key in [key for key in self._newcomers if key in self._legs or not self._is_here(key)]:
            del self._newcomers[key]
        self._wants = {key for key in self._wants if self._is_here(key)}

    def _is_here(self, key: Key) -> bool:
        room = self._parts.rooms.get(key[0])
        return room is not None and key[1] in room.members and key[2] in room.peers

    def _is_for(self, leg: RelayedViewer, route: Route | None) -> bool:
        is_here = self._parts.rooms.get(leg.room.id) is leg.room
        return is_here and route is not None and is_same(leg.route, route)

    def _wanted(self, room: LocalRoom, now: float) -> Iterable[tuple[Key, Route]]:
        """The viewers that media servers should serve, and their routes."""
        for caster in room.live:
            route = caster.live.route if caster.live is not None else None
            if route is None:
                continue
            is_ours = (room.id, caster.peer_id) in self._broadcasts
            places = self._parts.limits.direct
            may_be_direct = not is_ours and has_free_place(room.members, caster, places)
            for peer_id in room.peers:
                key = room.id, caster.peer_id, peer_id
                viewer = room.members[peer_id]
                if not is_relayed(viewer, caster, route):
                    continue
                if key in self._legs or self._is_due(key, viewer, now, may_be_direct=may_be_direct):
                    yield key, route

    def _is_due(self, key: Key, viewer: Member, now: float, *, may_be_direct: bool) -> bool:
        """Whether a viewer without a leg should get one now."""
        since = self._newcomers.setdefault(key, now)
        if may_be_direct and now < since + _PLACING:
            return False  # the broadcaster's replica may give it a place
        if viewer.dialect not in ON_DEMAND or key in self._wants:
            return True
        return viewer.dialect == "room" and now >= since + _OFFERING


def is_same(one: Route, other: Route) -> bool:
    """Whether both routes lead to the same media, whoever is direct."""
    return (one.node, one.feed, one.epoch) == (other.node, other.feed, other.epoch)
