"""Clients in one room on many replicas, each with a view of the room.

A guest processes messages as they arrive, so that a join or leave that is reported
twice is noticed at once. The party knows the truth, which follows from what the
guests did.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import NamedTuple, Protocol

import trio

from tests.clients import Message
from tests.raw import (
    CLOSE,
    PING,
    PONG,
    Frame,
    RawClient,
    client_close,
    client_frame,
    client_text,
    split_frames,
)
from tests.views import MeshView, RoomView, Truth

#: Seconds for a guest to join or to get an answer, on a slow and busy machine.
#: A join may take a while if Redis has just become silent.
PATIENCE = 60.0

#: Messages that do not change a guest's view.
_SIGNALS = frozenset(
    {"error", "pong", "offer", "answer", "ice_candidate", "message", "webrtc-signal"}
)


class Door(Protocol):
    """The place where guests enter: a replica, or a proxy for several."""

    base: str


class Told(NamedTuple):
    """An event about somebody in the words of `mesh`, and its time by Trio's clock."""

    at: float
    type: str
    name: str


class Closed(NamedTuple):
    """How the server closed a connection; 1006 if there was no close frame."""

    code: int
    reason: str


class Guest:
    """A guest in the room, with a connection to one replica."""

    def __init__(self, party: "Party", name: str, replica: Door, client: RawClient) -> None:
        self.name = name
        #: In dialect `room` it does not learn its own peer id; others know it by its name.
        self.peer_id = name
        self.replica = replica
        self.media: str | None = None
        self.view: MeshView | RoomView = MeshView(party.room_id, name)
        #: Joins, leaves, starts and stops, except those in the first view.
        self.told: list[Told] = []
        #: All other messages, oldest first.
        self.received: list[Message] = []
        self.closed: Closed | None = None
        self._party = party
        self._client = client
        self._sending = trio.Lock()
        self._heard = trio.Event()
        self._pings = 0
        self._gone = trio.Event()
        #: Receives signals as they arrive.
        self.on_signal: Callable[[Message], None] = self.received.append

    def __repr__(self) -> str:
        return self.name

    @property
    def truth(self) -> Truth:
        return Truth(self.name, self.peer_id, self.name, self.media, was_live=False)

    # Receiving

    async def run(self) -> None:
        """Process messages until the connection ends."""
        stream, rest = self._client.stream, self._client.buffer
        try:
            while self.closed is None:
                frames, rest = split_frames(rest)
                for frame in frames:
                    await self._take(frame)
                self._wake()
                data = await stream.receive_some()
                if not data:
                    break
                rest += data
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.closed = self.closed or Closed(1006, "")
        stream.socket.close()
        self._party.lose(self)
        self._gone.set()
        self._wake()

    async def _take(self, frame: Frame) -> None:
        if frame.opcode == PING:
            await self._send(client_frame(PONG, frame.payload))
        elif frame.opcode == CLOSE:
            self.closed = Closed(frame.close_code, frame.close_reason)
        else:
            self._hear(frame.message)

    def _hear(self, message: Message) -> None:
        if message["type"] in _SIGNALS:
            self.on_signal(message)
            return
        if message["type"] == "auth_required":
            return
        fresh = self.view.told is None
        try:
            self.view.hear(message)
        except AssertionError as error:
            raise AssertionError(f"{self} was told {message}: {error}, after {self.told}") from None
        name = message.get("username")
        if name is not None and not fresh:
            type_ = message["type"].replace("-", "_")
            self.told.append(Told(trio.current_time(), type_, name))

    def _wake(self) -> None:
        self._heard.set()
        self._heard = trio.Event()

    async def until(self, condition: Callable[[], object], within: float = PATIENCE) -> None:
        """Wait for a condition that only received messages can change."""
        with trio.fail_after(within):
            while not condition():
                assert self.closed is None, f"{self}: {self.closed}"
                await self._heard.wait()

    async def wait_received(self, type_: str) -> Message:
        """Take the oldest message of this type that does not belong to the view."""
        await self.until(lambda: type_ in self.types())
        return self.received.pop(self.types().index(type_))

    def types(self) -> list[str]:
        """The types of the received messages."""
        return [message["type"] for message in self.received]

    def signals(self, type_: str) -> list[object]:
        """The contents of the received messages of a type."""
        field = {"ice_candidate": "candidate", "message": "data"}.get(type_, type_)
        return [message[field] for message in self.received if message["type"] == type_]

    async def wait_told(self, type_: str, *names: str, within: float = PATIENCE) -> None:
        """Wait until this event was reported for all of these guests."""
        await self.until(lambda: all(type_ in self.told_of(name) for name in names), within)

    async def wait_gone(self) -> Closed:
        with trio.fail_after(PATIENCE):
            await self._gone.wait()
        assert self.closed is not None
        return self.closed

    def told_of(self, name: str) -> list[str]:
        """The types of all events about somebody, in order."""
        return [told.type for told in self.told if told.name == name]

    # Acting

    async def say(self, type_: str, **fields: object) -> None:
        named = {name.rstrip("_"): value for name, value in fields.items()}
        await self._send(client_text({"type": type_, **named}))

    async def _send(self, frame: bytes) -> None:
        async with self._sending:
            await self._client.send(frame)

    async def go_live(self, media: str = "video") -> None:
        self.media = media
        await self.say("broadcast_start", media_type=media)

    async def stop(self) -> None:
        self.media = None
        await self.say("broadcast_stop")

    async def settle(self) -> None:
        """Wait until the replica has handled all requests of this guest."""
        self._pings += 1
        await self.say("ping", id=self._pings)
        while (await self.wait_received("pong"))["id"] != self._pings:
            pass

    async def leave(self) -> None:
        """Leave with a closing handshake; returns when the replica has closed its side."""
        self._party.forget(self)
        await self._send(client_close(1000))
        await self.wait_gone()

    def vanish(self) -> None:
        """Leave with a TCP reset; does not block."""
        self._party.forget(self)
        self._client.reset()


class Party:
    """One room and the guests in it."""

    def __init__(self, nursery: trio.Nursery, room_id: str) -> None:
        self._nursery = nursery
        self.room_id = room_id
        self.guests: dict[str, Guest] = {}
        #: Closed at the end.
        self.sockets = ExitStack()
        #: Guests whose connections ended unexpectedly.
        self.lost: list[Guest] = []

    async def join(self, name: str, replica: Door) -> Guest:
        """Join with dialect `mesh`; returns when the guest has its first view."""
        guest = await self.connect(name, replica)
        await self.enter(guest)
        assert guest.closed is None, guest.closed
        return guest

    async def connect(self, name: str, replica: Door) -> Guest:
        """Connect without joining."""
        return await self._open(name, replica, f"/ws/{self.room_id}")

    async def enter(self, guest: Guest, token: str = "") -> None:
        """Join; returns when the guest has its first view or was refused."""
        await guest.say("auth_token", token=token, clientId=guest.name, username=guest.name)
        await self.admit(guest)

    async def watch(self, name: str, replica: Door) -> Guest:
        """Join as a user of dialect `room`."""
        guest = await self._open(name, replica, f"/ws/{self.room_id}/{name}?username={name}")
        guest.view = RoomView(self.room_id, name)
        guest.peer_id = ""
        await self.admit(guest)
        return guest

    async def _open(self, name: str, replica: Door, path: str) -> Guest:
        host, _, port = replica.base.rpartition(":")
        with trio.fail_after(PATIENCE):
            client = RawClient(await trio.open_tcp_stream(host, int(port)))
            self.sockets.callback(client.stream.socket.close)
            await client.upgrade(path)
        return Guest(self, name, replica, client)

    async def admit(self, guest: Guest) -> None:
        """Wait until a guest that has sent its identity has its first view or was refused."""
        self._nursery.start_soon(guest.run)
        with trio.fail_after(PATIENCE):
            while guest.view.told is None and guest.closed is None:
                await guest._heard.wait()
        if guest.closed is None:
            self.guests[guest.name] = guest

    def forget(self, guest: Guest) -> None:
        """Expect a guest to leave, or to lose its replica."""
        if self.guests.get(guest.name) is guest:
            del self.guests[guest.name]

    def forget_all(self, replica: Door) -> list[Guest]:
        """Expect the same of all guests of a replica."""
        gone = self.at(replica)
        for guest in gone:
            self.forget(guest)
        return gone

    def lose(self, guest: Guest) -> None:
        """Note that a connection ended."""
        if self.guests.get(guest.name) is guest:
            del self.guests[guest.name]
            self.lost.append(guest)

    def at(self, replica: Door) -> list[Guest]:
        return [guest for guest in self.guests.values() if guest.replica is replica]

    def differences(self) -> str:
        return "".join(map(self._difference, list(self.guests.values())))

    def _difference(self, guest: Guest) -> str:
        others = [other.truth for other in self.guests.values() if other is not guest]
        if isinstance(guest.view, MeshView):
            others = [self._known(guest.view, other) for other in others]
        found = guest.view.differs(guest.truth, others)
        return f"{guest}: {found}" if found else ""

    def _known(self, view: MeshView, other: Truth) -> Truth:
        """The truth about another guest, with the peer id that this view has for it."""
        peer_id = other.peer_id or view.ids.get(other.name, "")
        return other._replace(peer_id=peer_id)

    async def agree(self, within: float = PATIENCE) -> float:
        """Wait until each guest's view is the truth; the seconds that took.

        Nobody may join or leave meanwhile.
        """
        began = trio.current_time()
        with trio.move_on_after(within):
            while self.differences():
                for guest in list(self.guests.values()):
                    while self._difference(guest):
                        await guest._heard.wait()
            return trio.current_time() - began
        raise AssertionError(f"not the truth after {within:.1f} s: {self.differences()}")


@asynccontextmanager
async def open_party(room_id: str = "room") -> AsyncIterator[Party]:
    """An empty room; guests that are still there at the end vanish."""
    async with trio.open_nursery() as nursery:
        party = Party(nursery, room_id)
        with party.sockets:
            yield party
            assert party.lost == [], [(guest, guest.closed) for guest in party.lost]
            nursery.cancel_scope.cancel()
