"""Viewers: those of this replica that media servers serve, as the routes have it."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable

import trio

from trio_signal.local_room import LocalRoom
from trio_signal.messages.identity import Route
from trio_signal.relay.parts import Parts
from trio_signal.relay.route import has_free_place, is_relayed
from trio_signal.relay.viewer import RelayedViewer

#: Seconds for the broadcaster's replica to give a newcomer a place that is free.
_PLACING = 0.5

#: A room, a broadcaster and a viewer of it.
Key = tuple[str, str, str]


class Viewers:
    """A leg for each of them. Nothing here blocks."""

    def __init__(
        self,
        parts: Parts,
        broadcasts: Collection[tuple[str, str]],
        ask_direct: Callable[[RelayedViewer], None],
    ) -> None:
        """Begin without any; `broadcasts` are those of this replica, by room and peer."""
        self._parts = parts
        self._broadcasts = broadcasts
        self._ask_direct = ask_direct
        self._legs: dict[Key, RelayedViewer] = {}
        #: Those that have none yet, and since when they are known.
        self._newcomers: dict[Key, float] = {}

    def get(self, key: Key) -> RelayedViewer | None:
        """A viewer that has a leg."""
        return self._legs.get(key)

    def counts(self) -> Counter[str]:
        """How many get media from each node."""
        return Counter(leg.route.node for leg in self._legs.values() if leg.is_up)

    def clear(self) -> None:
        """Forget all; their tasks are over."""
        self._legs.clear()

    def close(self, key: Key) -> None:
        """Serve a viewer no longer."""
        self._legs.pop(key).close()

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
        """Begin and end legs as the routes in these rooms say; in the others nobody is live."""
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
        self._newcomers = {
            key: since
            for key, since in self._newcomers.items()
            if now < since + 10 * _PLACING and key not in self._legs
        }

    def _is_for(self, leg: RelayedViewer, route: Route | None) -> bool:
        is_here = self._parts.rooms.get(leg.room.id) is leg.room
        return is_here and route is not None and is_same(leg.route, route)

    def _wanted(self, room: LocalRoom, now: float) -> Iterable[tuple[Key, Route]]:
        """Who is to be served by which media server."""
        for caster in room.live:
            route = caster.live.route if caster.live is not None else None
            if route is None:
                continue
            is_ours = (room.id, caster.peer_id) in self._broadcasts
            places = self._parts.limits.direct
            may_be_direct = not is_ours and has_free_place(room.members, caster, places)
            for peer_id in room.peers:
                key = room.id, caster.peer_id, peer_id
                if not is_relayed(room.members[peer_id], caster, route):
                    continue
                if may_be_direct and key not in self._legs:
                    since = self._newcomers.setdefault(key, now)
                    if now < since + _PLACING:
                        continue  # its replica may give it a place
                yield key, route


def is_same(one: Route, other: Route) -> bool:
    """Whether both lead to the same media, whoever is direct."""
    return (one.node, one.feed, one.epoch) == (other.node, other.feed, other.epoch)
