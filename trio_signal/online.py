"""Online: the connected users of all replicas, and their places on a map.

Each replica tells the others about its users: at most once a second, when something changed, and
again after some seconds. So lost messages are repaired without requests, a connection costs no
command to Redis, and clients that poll are answered from memory.

A user may know of users whose grants have a room in common; in open mode that is everybody.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import msgspec
import trio
from msgspec import UNSET

from trio_signal.auth import share_room
from trio_signal.bus import Bus
from trio_signal.clock import utc_now
from trio_signal.dialects import Dialect
from trio_signal.dialects.wire import type_of
from trio_signal.messages.commands import Move
from trio_signal.messages.events import LocationUpdated, Moved, OnlineHere, OnlineUser
from trio_signal.messages.records import Location, OnlinePerson, OnlineUsers, Presence, Stats
from trio_signal.metrics import Metrics
from trio_signal.pacing import DELIVERY, cost_of_delivery
from trio_signal.session import Session, close_untold
from trio_signal.websocket import text_frame

#: Maximum users in one answer, and near somebody.
MAX_SHOWN = 500
MAX_NEARBY = 100
#: Maximum users that one replica announces, in total and per second; and maximum replicas.
MAX_TOLD = 10_000
TOLD_PER_SECOND = 2_000
MAX_REPLICAS = 256
#: Minimum and maximum seconds between two announcements. A replica that is silent for long is gone.
TELL_AFTER = 1.0
TELL_AGAIN = 5.0
SILENCE = 15.0
#: Seconds for which an answer is cached, and how many are, for different grants.
FRESH = 1.0
MAX_ANSWERS = 100
#: Minimum seconds between two announced places of a user.
MOVE_AFTER = 0.1
#: The distance within which users are near.
NEAR = 5.0
#: Maximum users to check for those that are near: a crowd may be in one spot.
_LOOKED_AT = 1000
_TICK = 0.05

Rooms = tuple[str, ...]
_Group = tuple[type[Dialect], Rooms]


class _Local:
    """A user with connections here."""

    __slots__ = ("due", "location", "peers", "rooms", "username")

    def __init__(self, username: str, rooms: Rooms) -> None:
        self.username = username
        self.rooms = rooms
        self.peers: set[Session] = set()
        self.location: Location | None = None
        #: When its next place may be announced.
        self.due = 0.0


class _Section(NamedTuple):
    """The last announcement of another replica."""

    heard: float
    connections: int
    users: dict[str, OnlineUser]
    #: The grants of each user's token.
    rooms: dict[str, Rooms]


class _Map:
    """The places of users, by squares of a grid, so that few have to be checked."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[Location, Rooms]] = {}
        self._squares: dict[tuple[int, int], dict[str, None]] = {}

    def put(self, user_id: str, location: Location, rooms: Rooms) -> None:
        self.remove(user_id)
        self._places[user_id] = location, rooms
        self._squares.setdefault(_square(location), {})[user_id] = None

    def remove(self, user_id: str) -> None:
        place = self._places.pop(user_id, None)
        if place is not None:
            square = _square(place[0])
            users = self._squares[square]
            del users[user_id]
            if not users:
                del self._squares[square]

    def find(self, user_id: str) -> Location | None:
        place = self._places.get(user_id)
        return place[0] if place is not None else None

    def near(self, user_id: str, location: Location, rooms: Rooms) -> Iterator[str]:
        """Users that are near and that this one may see; at most `_LOOKED_AT` are checked."""
        column, row = _square(location)
        squares = ((column + i, row + j) for i in (0, -1, 1) for j in (0, -1, 1))
        around = (other for square in squares for other in self._squares.get(square, ()))
        for other in islice(around, _LOOKED_AT):
            place, others_rooms = self._places[other]
            distance = math.hypot(place.x - location.x, place.y - location.y)
            if other != user_id and distance <= NEAR and share_room(rooms, others_rooms):
                yield other


def _square(location: Location) -> tuple[int, int]:
    return math.floor(location.x / NEAR), math.floor(location.y / NEAR)


class Online:
    """The users of all replicas. The caller runs it."""

    def __init__(self, bus: Bus, metrics: Metrics) -> None:
        """Start without users."""
        self._bus = bus
        self._metrics = metrics
        self._users: dict[str, _Local] = {}
        #: The peers here, by dialect and grants: each group gets the same messages.
        self._groups: dict[_Group, dict[Session, str]] = {}
        self._group_of: dict[Session, _Group] = {}
        self._sections: dict[str, _Section] = {}
        self._map = _Map()
        #: Users whose last place is still to be announced.
        self._moving: dict[str, None] = {}
        self._answers: OrderedDict[Rooms, tuple[float, bytes]] = OrderedDict()
        #: Whether something changed since the last announcement, and when that was.
        self._changed = False
        self._told = -math.inf
        self._alarm: trio.CancelScope | None = None

    # Connections of this replica

    def add(self, peer: Session) -> None:
        """Add a peer, and show its user and the others to each other. Does not block."""
        identity = peer.identity
        if identity is None:
            return
        user_id, rooms = identity.user_id, identity.grants.rooms
        user = self._users.get(user_id)
        if user is None:
            user = self._users[user_id] = _Local(identity.username or user_id, rooms)
        user.username, user.rooms = identity.username or user_id, rooms
        user.peers.add(peer)
        group = self._group_of[peer] = type(peer.dialect), rooms
        self._groups.setdefault(group, {})[peer] = user_id
        self._change()

    def remove(self, peer: Session) -> None:
        """Remove a peer, if it was here. Does not block."""
        group = self._group_of.pop(peer, None)
        if group is None:
            return
        user_id = self._groups[group].pop(peer)
        if not self._groups[group]:
            del self._groups[group]
        user = self._users[user_id]
        user.peers.remove(peer)
        if not user.peers:
            del self._users[user_id]
            self._moving.pop(user_id, None)
            self._map.remove(user_id)
        self._change()

    def move(self, peer: Session, command: Move) -> None:
        """Note a user's place, send it the users near, and notify these. Does not block."""
        identity = peer.identity
        user = self._users.get(identity.user_id) if identity is not None else None
        if identity is None or user is None:
            return
        user_id = identity.user_id
        location = user.location = Location(command.x, command.y)
        self._map.put(user_id, location, user.rooms)
        near = islice(self._map.near(user_id, location, user.rooms), MAX_NEARBY)
        peer.tell(LocationUpdated(command.x, command.y, tuple(near), utc_now()))
        now = trio.current_time()
        if now >= user.due:
            self._tell_place(user_id, user, now)
        else:
            self._moving[user_id] = None
            self._wake(now + _TICK)
        self._change()

    # Announcements

    def _tell_place(self, user_id: str, user: _Local, now: float) -> None:
        self._moving.pop(user_id, None)
        user.due = now + MOVE_AFTER
        if user.location is not None:
            place = user.location
            moved = Moved(user_id, user.username, user.rooms, place.x, place.y, utc_now())
            self._bus.broadcast(moved)
            elsewhere = sum(section.connections for section in self._sections.values())
            # Any of its connections pays: they belong to one user.
            next(iter(user.peers)).owes += self._tell_here(moved) + elsewhere * DELIVERY

    def _tell_here(self, moved: Moved) -> float:
        """Send a place to the peers here, except the user's own; return the cost in tokens.

        Each dialect encodes it once.
        """
        cost = 0.0
        frames: dict[type[Dialect], list[bytes]] = {}
        for (dialect, rooms), peers in list(self._groups.items()):
            if not share_room(rooms, moved.rooms):
                continue
            try:
                if dialect not in frames:
                    frames[dialect] = [notice.text for notice in dialect.tell(moved)]
            except Exception:
                close_untold(peers, moved)
                continue
            for text in frames[dialect]:
                audience = [peer for peer, user_id in peers.items() if user_id != moved.user_id]
                frame = text_frame(text)
                for peer in audience:
                    peer.send_frame(frame)
                cost += len(audience) * cost_of_delivery(len(frame))
                self._metrics.messages_out[dialect.name][type_of(text)] += len(audience)
        return cost

    def _tell_others(self, now: float) -> None:
        """Announce the users of this replica to the others."""
        grants: dict[Rooms, int] = {}
        users = [
            OnlineUser(
                user_id,
                user.username,
                grants.setdefault(user.rooms, len(grants)),
                user.location.x if user.location is not None else None,
                user.location.y if user.location is not None else None,
            )
            for user_id, user in islice(self._users.items(), MAX_TOLD)
        ]
        self._changed, self._told = False, now
        replica = self._bus.replica
        self._bus.broadcast(OnlineHere(replica, len(self._group_of), tuple(grants), tuple(users)))

    # Messages from other replicas

    def take(self, told: Moved | OnlineHere) -> None:
        """Process an announcement of another replica. Does not block."""
        if isinstance(told, OnlineHere):
            self._take_section(told)
            return
        user_id = told.user_id
        elsewhere = any(user_id in section.users for section in self._sections.values())
        if elsewhere or user_id in self._users:
            self._map.put(told.user_id, Location(told.x, told.y), told.rooms)
        self._tell_here(told)

    def _take_section(self, told: OnlineHere) -> None:
        old = self._sections.pop(told.replica, None)
        if old is None:
            if len(self._sections) >= MAX_REPLICAS:
                return
            if self._users:  # a new replica does not know them yet
                self._changed, self._told = True, -math.inf
                self._wake(trio.current_time())
        users = {
            user.user_id: user
            for user in islice(told.users, MAX_TOLD)
            if 0 <= user.grants < len(told.grants)
        }
        now = trio.current_time()
        for user_id, user in users.items():
            if user.x is not None and user.y is not None and not self._is_placed(user_id):
                self._map.put(user_id, Location(user.x, user.y), told.grants[user.grants])
        self._forget(old.users.keys() - users.keys() if old is not None else ())
        rooms = {user_id: told.grants[user.grants] for user_id, user in users.items()}
        if users or told.connections:
            self._sections[told.replica] = _Section(now, told.connections, users, rooms)
            self._wake(now + SILENCE)

    def _forget(self, user_ids: Iterable[str]) -> None:
        """Forget users that are gone from another replica."""
        for user_id in user_ids:
            if not self._is_placed(user_id):
                self._map.remove(user_id)

    def _is_placed(self, user_id: str) -> bool:
        """Whether a connection of this replica has sent the user's place."""
        user = self._users.get(user_id)
        return user is not None and user.location is not None

    # Answers

    def users_for(self, rooms: Rooms) -> bytes:
        """The users that a user with these grants may see, as JSON; cached for a second."""
        now = trio.current_time()
        good_until, answer = self._answers.get(rooms, (0.0, b""))
        if now >= good_until:
            answer = self._encode_users(rooms)
            self._answers[rooms] = now + FRESH, answer
            self._answers.move_to_end(rooms)
            while len(self._answers) > MAX_ANSWERS:
                self._answers.popitem(last=False)
        return answer

    def _encode_users(self, rooms: Rooms) -> bytes:
        now, count = utc_now(), 0
        shown: list[OnlinePerson] = []
        for user_id, username, location, others_rooms in self._everybody():
            if share_room(rooms, others_rooms):
                count += 1
                if len(shown) < MAX_SHOWN:
                    presence = Presence("online", now, UNSET if location is None else location)
                    shown.append(OnlinePerson(user_id, username, presence))
        return msgspec.json.encode(OnlineUsers(shown, count))

    def _everybody(self) -> Iterator[tuple[str, str, Location | None, Rooms]]:
        """Each user once, with name, place and grants."""
        seen: set[str] = set()
        for user_id, user in self._users.items():
            seen.add(user_id)
            yield user_id, user.username, self._map.find(user_id), user.rooms
        for section in self._sections.values():
            for user_id, other in section.users.items():
                if user_id not in seen:
                    seen.add(user_id)
                    yield user_id, other.username, self._map.find(user_id), section.rooms[user_id]

    def stats(self, rooms: int) -> Stats:
        """The numbers of users on all replicas."""
        connections = sum(section.connections for section in self._sections.values())
        users = self._users.keys() | {u for s in self._sections.values() for u in s.users}
        return Stats(len(self._group_of) + connections, len(users), rooms)

    # Time

    async def run(self) -> None:
        """Make announcements when they are due, until cancelled."""
        while True:
            with trio.CancelScope(deadline=self._next()) as self._alarm:
                await trio.sleep_forever()
            self._pass_time(trio.current_time())

    def say_goodbye(self) -> None:
        """Announce that this replica has no users any more. Does not block."""
        self._bus.broadcast(OnlineHere(self._bus.replica, 0, (), ()))

    def _pass_time(self, now: float) -> None:
        for user_id in list(self._moving):
            if now >= self._users[user_id].due:
                self._tell_place(user_id, self._users[user_id], now)
        if now >= self._told + (self._pause if self._changed else TELL_AGAIN):
            self._tell_others(now)
        for replica, section in list(self._sections.items()):
            if now >= section.heard + SILENCE:
                del self._sections[replica]
                self._forget(section.users)

    @property
    def _pause(self) -> float:
        """Seconds between two announcements of changes; longer with many users."""
        return max(TELL_AFTER, min(len(self._users), MAX_TOLD) / TOLD_PER_SECOND)

    def _next(self) -> float:
        """When the next announcement is due."""
        now = trio.current_time()
        tell = self._told + (self._pause if self._changed else TELL_AGAIN)
        silent = min((s.heard for s in self._sections.values()), default=math.inf) + SILENCE
        return max(now, min(tell, silent, now + _TICK if self._moving else math.inf))

    def _change(self) -> None:
        if not self._changed:
            self._changed = True
            self._wake(self._told + self._pause)

    def _wake(self, at: float) -> None:
        if self._alarm is not None:
            self._alarm.deadline = min(self._alarm.deadline, at)
