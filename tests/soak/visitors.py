"""Visitors who come through one port, stay a while, talk, and go; each knows what it was told."""

import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from itertools import count

import trio

from tests.clients import Message
from tests.raw import PING, PONG, RawClient, client_frame, split_frames, upgrade_head
from tests.replicas.guests import Guest, Party
from tests.views import RoomView

#: Seconds for a visitor to be let in, and for all to know the same, on a slow machine.
PATIENCE = 300.0
#: Seconds after which who was refused, or lost its connection, comes again; up to that.
AWAY = 2.0
#: How many share an address. The limits are those that a server has by default.
PER_ADDRESS = 25
#: One in so many leaves with a TCP reset.
RUDE = 3
#: One in so many is a user of dialect `room`, the others of `mesh`.
OTHERS = 8

GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


@dataclass
class Entrance:
    """The port through which all come."""

    base: str

    async def dial(self, number: int) -> trio.SocketStream:
        """A TCP connection, from one of many addresses. Raises OSError."""
        address = number // PER_ADDRESS
        local = f"127.1.{address // 250}.{address % 250 + 1}"
        host, _, port = self.base.rpartition(":")
        with trio.fail_after(PATIENCE):
            return await trio.open_tcp_stream(host, int(port), local_address=local)


@dataclass
class Happened:
    """What visitors met, for the report."""

    came: int = 0
    left: int = 0
    said: int = 0
    heard: int = 0
    #: Signals for somebody who was not there any more.
    missed: int = 0
    #: When connections ended that the visitor had not ended, and how.
    lost: list[tuple[float, str]] = field(default_factory=list, repr=False)
    #: When visitors were not let in, and why.
    refused: list[tuple[float, str]] = field(default_factory=list, repr=False)


class Rest:
    """Lets visitors act and go, or makes all of them rest. Coming in is always allowed."""

    def __init__(self) -> None:
        self._acting = 0
        self._quiet = trio.Event()
        self._go_on = trio.Event()
        self._go_on.set()

    @asynccontextmanager
    async def acting(self) -> AsyncIterator[None]:
        """Wait until it is allowed; whoever is in this block is waited for."""
        while not self._go_on.is_set():
            await self._go_on.wait()
        self._acting += 1
        try:
            yield
        finally:
            self._acting -= 1
            self._quiet.set()

    @asynccontextmanager
    async def everybody(self) -> AsyncIterator[None]:
        """While the block runs nobody begins anything, and what was begun is done."""
        self._go_on = trio.Event()
        with trio.fail_after(2 * PATIENCE):
            while self._acting:
                self._quiet = trio.Event()
                await self._quiet.wait()
        yield
        self._go_on.set()


class Room:
    """One room: its party, and what was probed in it."""

    def __init__(self, party: Party) -> None:
        self.party = party
        #: Who has heard how often of which probe.
        self.probed: Counter[tuple[str, int]] = Counter()
        self.heard_probe = trio.Event()

    @property
    def talkers(self) -> list[Guest]:
        """Those whose dialect has messages for all."""
        guests = self.party.guests.values()
        return [guest for guest in guests if not isinstance(guest.view, RoomView)]

    async def probe(self, number: int) -> None:
        """Everybody says something to all; everybody hears each of the others, once."""
        talkers = self.talkers
        for guest in talkers:
            await guest.say("message", data={"by": guest.name, "probe": number})
        expected = {(guest.name, number): len(talkers) - 1 for guest in talkers}
        with trio.fail_after(PATIENCE):
            while any(self.probed[key] < times for key, times in expected.items()):
                await self.heard_probe.wait()
        assert dict(self.probed) == {key: times for key, times in expected.items() if times}
        self.probed.clear()


class Seat:
    """A place in a room: one visitor after the other, until cancelled."""

    def __init__(
        self,
        number: int,
        room: Room,
        entrance: Entrance,
        rest: Rest,
        happened: Happened,
        pace: float,
    ) -> None:
        """`pace` is how many seconds pass between two things that a visitor does."""
        self._number = number
        self._room = room
        self._party = room.party
        self._entrance = entrance
        self._rest = rest
        self._happened = happened
        self._pace = pace
        self._random = random.Random(number)
        self._names = (f"{number}-{visit}" for visit in count())
        self._words = count()

    async def occupy(self) -> None:
        await trio.sleep(self._random.uniform(0, AWAY))
        while True:
            try:
                stream = await self._entrance.dial(self._number)
                with closing(stream.socket):
                    await self._visit(stream)
            except OSError as error:
                self._refuse(str(error))
            await trio.sleep(self._random.uniform(0, AWAY))

    def _refuse(self, reason: str) -> None:
        if reason != "HTTP 408":  # the machine is slow, and this visitor with it
            self._happened.refused.append((trio.current_time(), reason))

    async def _visit(self, stream: trio.SocketStream) -> None:
        guest = await self._enter(stream)
        if guest is None:
            return
        self._happened.came += 1
        try:
            for _ in range(1 + int(self._random.expovariate(1 / 8))):
                with trio.move_on_after(self._random.uniform(0, 2 * self._pace)):
                    await guest.wait_gone()
                async with self._rest.acting():
                    await self._act(guest)
            async with self._rest.acting():
                await self._go(guest)
        except GONE:
            await guest.wait_gone()
        if guest in self._party.lost:
            self._party.lost.remove(guest)
            self._happened.lost.append((trio.current_time(), str(guest.closed)))

    async def _enter(self, stream: trio.SocketStream) -> Guest | None:
        """The new guest, if it is let in."""
        name, client = next(self._names), RawClient(stream)
        other = not self._number % OTHERS
        path = f"/ws/{self._party.room_id}" + (f"/{name}?username={name}" if other else "")
        try:
            await client.send(upgrade_head(path, Host=self._entrance.base))
            while b"\r\n\r\n" not in client.buffer:
                if not await client.read_more():
                    self._refuse("closed before it answered")
                    return None
            answer = await client.receive_head()
            if answer.status != 101:
                self._refuse(f"HTTP {answer.status}")
                return None
            guest = Guest(self._party, name, self._entrance, client)
            guest.on_signal = Listener(name, self._room, self._happened)
            if other:
                guest.view = RoomView(self._party.room_id, name)
                guest.peer_id = ""
                await self._party.admit(guest)
            else:
                await self._party.enter(guest)
        except (trio.TooSlowError, *GONE) as error:
            self._refuse(f"not answered: {error!r}")
            return None
        if guest.closed is not None:
            self._refuse(str(guest.closed))
            return None
        return guest

    async def _act(self, guest: Guest) -> None:
        if guest.closed is not None:
            raise trio.ClosedResourceError
        if isinstance(guest.view, RoomView):
            return
        self._happened.said += 1
        word = {"by": guest.name, "number": next(self._words)}
        match self._random.choice(("signal", "signal", "signal", "message", "message", "live")):
            case "signal":
                others = [other.peer_id for other in self._room.talkers if other is not guest]
                if others:
                    await guest.say("offer", offer=word, to=self._random.choice(others))
            case "message":
                await guest.say("message", data=word)
            case "live" if guest.media is None:
                await guest.go_live()
            case _:
                await guest.stop()

    async def _go(self, guest: Guest) -> None:
        self._happened.left += 1
        if self._random.randrange(RUDE):
            await guest.leave()
        else:
            guest.vanish()


class Listener:
    """What one visitor hears of the others: each of them in order, nothing twice."""

    def __init__(self, name: str, room: Room, happened: Happened) -> None:
        self._name = name
        self._room = room
        self._happened = happened
        self._last: dict[tuple[str, str], int] = {}

    def __call__(self, message: Message) -> None:
        self._happened.heard += 1
        type_ = message["type"]
        if type_ == "error":  # the other has just gone
            self._happened.missed += 1
            return
        assert type_ in ("offer", "message"), f"{self._name} was told {message}"
        word = message["offer" if type_ == "offer" else "data"]
        if "probe" in word:
            self._room.probed[word["by"], word["probe"]] += 1
            self._room.heard_probe.set()
            self._room.heard_probe = trio.Event()
            return
        key = (type_, word["by"])
        assert self._last.get(key, -1) < word["number"], (
            f"{self._name}: {message} after {self._last}"
        )
        self._last[key] = word["number"]


@dataclass
class Reader:
    """Somebody who is shown announcements, and comes back when the connection is lost."""

    number: int
    entrance: Entrance
    #: The last announcement that was shown.
    shown: str = ""
    heard: trio.Event = field(default_factory=trio.Event)

    async def read(self) -> None:
        """Until cancelled."""
        while True:
            try:
                stream = await self.entrance.dial(self.number)
                with closing(stream.socket):
                    await self._follow(RawClient(stream))
            except (OSError, *GONE):
                pass
            await trio.sleep(random.uniform(0, AWAY))

    async def _follow(self, client: RawClient) -> None:
        path = f"/api/creator/broadcast/ws?user_id=reader-{self.number}"
        await client.send(upgrade_head(path, Host=self.entrance.base))
        while data := await client.stream.receive_some():
            client.buffer += data
            if b"\r\n\r\n" in client.buffer and client.buffer.startswith(b"HTTP/1.1"):
                answer = await client.receive_head()
                if answer.status != 101:
                    return
            if not client.buffer.startswith(b"HTTP/1.1"):
                frames, client.buffer = split_frames(client.buffer)
                for frame in frames:
                    if frame.opcode == PING:
                        await client.send(client_frame(PONG, frame.payload))
                    elif b'"broadcast":{' in frame.payload:
                        self.shown = json.loads(frame.payload)["broadcast"]["message"]
                        self.heard.set()
                        self.heard = trio.Event()

    async def wait_shown(self, text: str) -> None:
        with trio.fail_after(PATIENCE):
            while self.shown != text:
                await self.heard.wait()


def share_out(seats: int, hall: int, size: int) -> Sequence[str]:
    """The room of each seat: one in a large room, the others in small ones."""
    return [
        "hall" if number < hall else f"room-{(number - hall) // size}" for number in range(seats)
    ]
