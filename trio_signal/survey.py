"""Survey: asks the replicas for their health and their peers, on request.

These values change often and are rarely read, so the directory does not store them.
"""

import socket
from collections.abc import Callable, Collection
from contextlib import ExitStack
from ipaddress import IPv6Address, ip_address
from uuid import uuid4

import trio

from trio_signal import __version__
from trio_signal.bus import Bus
from trio_signal.clock import utc_now
from trio_signal.messages.identity import is_internal
from trio_signal.messages.states import (
    PeerState,
    QualityState,
    ReplicaState,
    StatesAsked,
    StatesTold,
)
from trio_signal.metrics import Metrics
from trio_signal.participant import Participant
from trio_signal.rooms import Rooms

#: Seconds in which the others must answer.
ANSWERING = 0.5
#: Seconds for which a silent replica is still listed, and the maximum number of replicas.
_REMEMBERED = 60.0
_MOST = 256


class _Question:
    """A question: the replicas that have not answered yet, and the answers so far."""

    def __init__(self, id_: str, replicas: Collection[str]) -> None:
        self.id = id_
        self._missing = set(replicas)
        self.answers: list[StatesTold] = []
        self.is_over = trio.Event()

    def take(self, answer: StatesTold) -> None:
        """Take a replica's answer; the last known one completes the question."""
        self.answers.append(answer)
        if answer.state.replica in self._missing:
            self._missing.remove(answer.state.replica)
            if not self._missing:
                self.is_over.set()


class Survey:
    """Asks other replicas, and answers them."""

    def __init__(
        self, bus: Bus, rooms: Rooms, participants: Collection[Participant], metrics: Metrics
    ) -> None:
        """Take the sources; `participants` are those of this replica."""
        self._bus = bus
        self._rooms = rooms
        self._participants = participants
        self._metrics = metrics
        self._started_at = utc_now()
        self._questions: set[_Question] = set()
        #: The other replicas, and when each last answered.
        self._known: dict[str, float] = {}

    async def replicas(self) -> list[ReplicaState]:
        """All replicas: this one, those that answer, and those that answered recently."""
        now = trio.current_time()
        self._known = {each: at for each, at in self._known.items() if at > now - _REMEMBERED}
        told = await self._ask(self._bus.broadcast, self._known)
        states = {each.state.replica: each.state for each in told}
        silent = {each: ReplicaState(each, "silent") for each in self._known}
        return [self._state(), *(each for _, each in sorted((silent | states).items()))]

    async def peers(
        self, room_id: str, replicas: Collection[str]
    ) -> dict[tuple[str, str], PeerState]:
        """What these replicas know about their peers in a room, by replica and peer id."""
        others = set(replicas) - {self._bus.replica}

        def ask(asked: StatesAsked) -> None:
            for replica in others:
                self._bus.send(replica, asked)

        told = await self._ask(ask, others, room_id) if others else []
        states = {(self._bus.replica, each.peer_id): each for each in self._peers(room_id)}
        for answer in told:
            states |= {(answer.state.replica, each.peer_id): each for each in answer.peers}
        return states

    async def _ask(
        self,
        ask: Callable[[StatesAsked], None],
        replicas: Collection[str],
        room_id: str | None = None,
    ) -> list[StatesTold]:
        """Ask, and collect answers until all replicas have answered, or `ANSWERING` is over."""
        if self._bus.statistics() is None or self._bus.degraded is not None:
            return []
        question = _Question(uuid4().hex, replicas)
        with ExitStack() as stack:
            self._questions.add(question)
            stack.callback(self._questions.remove, question)
            ask(StatesAsked(question.id, self._bus.replica, room_id))
            with trio.move_on_after(ANSWERING):
                await question.is_over.wait()
        return question.answers

    def take(self, delivery: StatesAsked | StatesTold) -> None:
        """Answer another replica's question, or note its answer. Does not block."""
        if isinstance(delivery, StatesAsked):
            peers = () if delivery.room_id is None else tuple(self._peers(delivery.room_id))
            self._bus.send(delivery.replica, StatesTold(delivery.id, self._state(), peers))
            return
        replica = delivery.state.replica
        if len(self._known) < _MOST:
            self._known[replica] = trio.current_time()
        for question in self._questions:
            if question.id == delivery.id:
                question.take(delivery)

    def _state(self) -> ReplicaState:
        rooms = [room for room in self._rooms.values() if not is_internal(room.id)]
        away = sum(each.is_away for each in self._participants)
        reason = self._bus.degraded or ""
        stopping = self._rooms.is_stopping
        return ReplicaState(
            replica=self._bus.replica,
            status="stopping" if stopping else "degraded" if reason else "ready",
            reason=reason,
            host=socket.gethostname(),
            version=__version__,
            started_at=self._started_at,
            connections=len(self._participants) - away,
            away=away,
            rooms=len(rooms),
            peers=sum(len(room.peers) for room in rooms),
            live=sum(member.peer_id in room.peers for room in rooms for member in room.live),
            quality=QualityState(
                self._metrics.quality_reports,
                **self._metrics.calls,
                round_trip=self._metrics.call_round_trip.mean,
            ),
        )

    def _peers(self, room_id: str) -> list[PeerState]:
        room = self._rooms.get(room_id)
        if room is None:
            return []
        return [
            PeerState(
                peer_id,
                class_of(peer.lease.address if peer.lease is not None else ""),
                peer.is_away,
            )
            for peer_id, peer in room.peers.items()
        ]


def class_of(address: str) -> str:
    """`loopback`, `private` or `public`: the address itself is not disclosed."""
    try:
        ip = ip_address(address)
    except ValueError:
        return "unknown"
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return "loopback"
    return "public" if ip.is_global else "private"
