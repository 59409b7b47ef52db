"""The journal of a server without Redis: turns events of its rooms into numbered webhooks.

Pure: no I/O; ids and times are arguments. With Redis the scripts do the same; see observe.lua.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

from msgspec import UNSET

from trio_signal import hooks
from trio_signal.hooks import (
    ANNOUNCED,
    ENDED,
    JOINED,
    LEFT,
    LIVE,
    NOT_LIVE,
    STARTED,
    HookEvent,
    Peer,
)
from trio_signal.messages.commands import LeaveCause
from trio_signal.messages.events import Joined, Left, RoomEvent, StoppedLive, WentLive
from trio_signal.messages.identity import Announcement, Member, is_internal

#: Most events waiting to be stored. Beyond that, events are reconstructed later from the rooms'
#: members.
MOST_WAITING = 10_000


class Visit(NamedTuple):
    """A peer whose arrival was recorded, but no departure; in the stored form."""

    room: str
    peer: Peer
    live: bool
    #: The number of the room's last event.
    seq: int


@dataclass(slots=True)
class _Life:
    """A room from the first arrival until it is empty."""

    seq: int = 0
    peers: dict[str, Peer] = field(default_factory=dict)
    live: set[str] = field(default_factory=set)


class Journal:
    """The recorded events of a server's rooms, and those waiting to be stored."""

    def __init__(
        self,
        replica: str,
        new_id: Callable[[], str],
        now: Callable[[], str],
        visits: Iterable[Visit],
        unstored: Iterable[HookEvent] = (),
    ) -> None:
        """Begin with the visits of an earlier run of the server, which are over.

        `unstored` are events from after those visits were stored, or shortly before.
        """
        self._replica = replica
        self._new_id, self._now = new_id, now
        self._lives: dict[str, _Life] = {}
        self.waiting: deque[HookEvent] = deque()
        #: Peers, with their rooms, to store again.
        self._changed: set[tuple[str, str]] = set()
        #: Something happened that is missing among the events.
        self.behind = False
        for room, peer, live, seq in visits:
            life = self._lives.setdefault(room, _Life())
            life.seq = max(life.seq, seq)
            life.peers[peer.peer_id] = peer
            if live:
                life.live.add(peer.peer_id)
        for event in unstored:
            self._repeat(event)
        for room, life in list(self._lives.items()):
            for peer_id in list(life.peers):
                self._leave(room, peer_id, LeaveCause.REPLICA_LOST.value)

    def _repeat(self, event: HookEvent) -> None:
        """Apply an event of an earlier run, which may be known already."""
        self.waiting.append(event)
        if event.room is None:
            return
        life = self._lives.setdefault(event.room, _Life())
        life.seq = max(life.seq, event.seq)
        if event.event == ENDED:
            del self._lives[event.room]
        if event.peer is UNSET:
            return
        peer_id = event.peer.peer_id
        self._changed.add((event.room, peer_id))
        match event.event:
            case hooks.JOINED:
                life.peers[peer_id] = event.peer
            case hooks.LIVE:
                life.live.add(peer_id)
            case hooks.NOT_LIVE:
                life.live.discard(peer_id)
            case hooks.LEFT:
                life.peers.pop(peer_id, None)

    def seq(self, room_id: str) -> int:
        """The number of a room's last event; 0 if the room is empty."""
        life = self._lives.get(room_id)
        return life.seq if life is not None else 0

    def note(self, event: RoomEvent) -> None:
        """Record an event in a room. Does not block."""
        if self.behind or is_internal(event.room_id):
            return
        if len(self.waiting) >= MOST_WAITING:
            self.behind = True
            return
        match event:
            case Joined(room_id=room_id, member=member):
                self._join(room_id, member)
            case Left(room_id=room_id, member=member):
                self._leave(room_id, member.peer_id, event.cause.value)
            case WentLive(room_id=room_id, member=member):
                self._set_live(room_id, member.peer_id, live=True)
            case StoppedLive(room_id=room_id, member=member):
                self._set_live(room_id, member.peer_id, live=False)

    def note_announcement(self, announcement: Announcement) -> None:
        """Record an announcement. Does not block."""
        event = self._event(ANNOUNCED, None, 0, announcement=announcement)
        self.waiting.append(event)

    def catch_up(self, rooms: Mapping[str, Iterable[Member]]) -> None:
        """Record the differences between the journal and these rooms."""
        self.behind = False
        there = {room: {m.peer_id: m for m in members} for room, members in rooms.items()}
        for room_id, life in list(self._lives.items()):
            for peer_id in life.peers.keys() - there.get(room_id, {}).keys():
                self._leave(room_id, peer_id, LeaveCause.LOST.value)
        for room_id, members in there.items():
            for peer_id, member in members.items():
                if not is_internal(room_id):
                    self._join(room_id, member)
                    self._set_live(room_id, peer_id, live=member.live is not None)

    def take(self) -> tuple[list[HookEvent], dict[tuple[str, str], Visit | None]]:
        """Take all waiting events, and the visits that they changed, to store them in one step."""
        taken = list(self.waiting)
        self.waiting.clear()
        changed, self._changed = self._changed, set()
        visits: dict[tuple[str, str], Visit | None] = {}
        for room_id, peer_id in changed:
            life = self._lives.get(room_id)
            peer = life.peers.get(peer_id) if life is not None else None
            visits[room_id, peer_id] = (
                Visit(room_id, peer, peer_id in life.live, life.seq)
                if life is not None and peer is not None
                else None
            )
        return taken, visits

    def put_back(self, taken: Iterable[HookEvent], visits: Iterable[tuple[str, str]]) -> None:
        """Storing failed: these events and visits are the next ones again."""
        self.waiting.extendleft(reversed(list(taken)))
        self._changed.update(visits)

    def _join(self, room_id: str, member: Member) -> None:
        life = self._lives.get(room_id)
        if life is not None and member.peer_id in life.peers:
            return  # a newer connection of the same peer
        if life is None:
            life = self._lives[room_id] = _Life()
            self._add(room_id, life, STARTED)
        peer = life.peers[member.peer_id] = Peer.of(member)
        self._add(room_id, life, JOINED, peer)

    def _leave(self, room_id: str, peer_id: str, cause: str) -> None:
        life = self._lives.get(room_id)
        if life is None or peer_id not in life.peers:
            return
        self._set_live(room_id, peer_id, live=False)
        peer = life.peers.pop(peer_id)
        self._add(room_id, life, LEFT, peer, cause=cause)
        if not life.peers:
            self._add(room_id, life, ENDED)
            del self._lives[room_id]

    def _set_live(self, room_id: str, peer_id: str, *, live: bool) -> None:
        life = self._lives.get(room_id)
        if life is None or peer_id not in life.peers or (peer_id in life.live) is live:
            return
        (life.live.add if live else life.live.discard)(peer_id)
        self._add(room_id, life, LIVE if live else NOT_LIVE, life.peers[peer_id])

    def _add(
        self, room_id: str, life: _Life, event: str, peer: Peer | None = None, **more: Any
    ) -> None:
        life.seq += 1
        if peer is not None:
            self._changed.add((room_id, peer.peer_id))
            more["peer"] = peer
        # The number is stored with any one visit.
        self._changed.update((room_id, peer_id) for peer_id in islice(life.peers, 1))
        self.waiting.append(self._event(event, room_id, life.seq, **more))

    def _event(self, event: str, room: str | None, seq: int, **more: Any) -> HookEvent:
        given = {"peer": UNSET, "cause": UNSET, **more}
        return HookEvent(
            id=f"msg_{self._new_id()}",
            event=event,
            room=room,
            seq=seq,
            at=self._now(),
            replica=self._replica,
            **given,
        )
