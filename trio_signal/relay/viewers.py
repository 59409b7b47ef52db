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


class _InRoom:
    """The viewers of one room."""

    def __init__(self) -> None:
        self.legs: dict[Key, RelayedViewer] = {}
        #: Viewers without a leg, and since when they are known.
        self.newcomers: dict[Key, float] = {}
        #: Viewers that have asked for an offer.
        self.wants: set[Key] = set()


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
        #: By room, so that a change in one costs nothing for the viewers in all others.
        self._in: dict[str, _InRoom] = {}

    def get(self, key: Key) -> RelayedViewer | None:
        """The leg of a viewer, if it has one."""
        known = self._in.get(key[0])
        return known.legs.get(key) if known is not None else None

    @property
    def rooms(self) -> Iterable[str]:
        """The rooms of viewers, also rooms that were dropped."""
        return self._in

    def counts(self) -> Counter[str]:
        """How many viewers each node serves."""
        legs = (leg for known in self._in.values() for leg in known.legs.values())
        return Counter(leg.route.node for leg in legs if leg.is_up)

    def clear(self) -> None:
        """Forget all viewers; their tasks have ended."""
        self._in.clear()

    def close(self, key: Key) -> None:
        """Stop serving a viewer that has a leg."""
        self._in[key[0]].legs.pop(key).close()

    def want(self, key: Key) -> None:
        """A viewer asks for an offer as soon as it is relayed."""
        self._in.setdefault(key[0], _InRoom()).wants.add(key)

    def renew(self, room_id: str, viewer: str) -> None:
        """A viewer wants new offers."""
        known = self._in.get(room_id)
        for key, leg in known.legs.items() if known is not None else ():
            if key[2] == viewer:
                leg.renew()

    def look_at(self, room_id: str, now: float, nursery: trio.Nursery) -> None:
        """Start and stop legs as the routes in a room say."""
        room = self._parts.rooms.get(room_id)
        if room_id not in self._in and (room is None or not room.live):
            return
        known = self._in.setdefault(room_id, _InRoom())
        wanted = dict(self._wanted(room, known, now)) if room is not None else {}
        for key, leg in list(known.legs.items()):
            if not self._is_for(leg, wanted.get(key)):
                self.close(key)
        for key, route in wanted.items():
            if room is not None and key not in known.legs:
                leg = RelayedViewer(self._parts, room, key[1], key[2], route, self._ask_direct)
                known.legs[key] = leg
                nursery.start_soon(leg.run, name="relayed viewer")
        known.newcomers = {
            key: since
            for key, since in known.newcomers.items()
            if key not in known.legs and _is_here(room, key)
        }
        known.wants = {key for key in known.wants if _is_here(room, key)}
        if not (known.legs or known.newcomers or known.wants):
            del self._in[room_id]

    def _is_for(self, leg: RelayedViewer, route: Route | None) -> bool:
        is_here = self._parts.rooms.get(leg.room.id) is leg.room
        return is_here and route is not None and is_same(leg.route, route)

    def _wanted(self, room: LocalRoom, known: _InRoom, now: float) -> Iterable[tuple[Key, Route]]:
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
                if key not in known.legs:
                    since = known.newcomers.setdefault(key, now)
                    if may_be_direct and now < since + _PLACING:
                        continue  # the broadcaster's replica may give it a place
                    if key not in known.wants and not _is_offered_to(viewer, now - since):
                        continue
                yield key, route


def _is_here(room: LocalRoom | None, key: Key) -> bool:
    return room is not None and key[1] in room.members and key[2] in room.peers


def _is_offered_to(viewer: Member, seconds: float) -> bool:
    """Whether a viewer gets an offer that it has not asked for in so many seconds."""
    if viewer.dialect not in ON_DEMAND:
        return True
    return viewer.dialect == "room" and seconds >= _OFFERING


def is_same(one: Route, other: Route) -> bool:
    """Whether both routes lead to the same media, whoever is direct."""
    return (one.node, one.feed, one.epoch) == (other.node, other.feed, other.epoch)
