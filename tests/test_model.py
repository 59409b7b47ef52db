"""Whatever peers do, everything that each receives adds up to the truth.

Steps are drawn at random and done by real clients of all dialects with presence. Each client
builds a view of its rooms from what it received alone; the test records the truth from what the
clients did. After each wave of steps the two must be equal, for everybody.

In one test the waves are single steps, so all results are determined. In the others some clients
act at the same time: then the winner of a contest is read from the result, but there is exactly
one winner, and everybody agrees on it. In the last test the clients are spread over three
replicas.

A witness in each room, which only listens, knows which peer id belongs to whom.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from functools import partial
from itertools import cycle
from typing import NamedTuple
from urllib.parse import quote
from uuid import uuid4

import trio
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from trio_websocket import ConnectionClosed

from tests.clients import PATIENCE, Client, Message, Service, open_client
from tests.conftest import Serve, serve_replicas
from tests.effort import EFFORT
from tests.views import LiveView, MeshView, RoomView, StreamView, Truth, View
from trio_signal.auth import make_login_token


class Verb(Enum):
    """What a client does. A client without a connection connects first, and may go live at once."""

    JOIN = "join"
    LIVE = "go live"
    AUDIO = "go live with audio"
    STOP = "stop"
    LEAVE = "leave"
    RETURN = "come back"
    CLOSE = "close"
    VANISH = "vanish"
    RESET = "reset"

    def __repr__(self) -> str:
        return repr(self.value)


_MEDIA = {Verb.LIVE: "video", Verb.AUDIO: "audio"}
_WAYS_OUT = (Verb.CLOSE, Verb.VANISH, Verb.RESET)

_ROOMS = ("r1", "r2")


class Step(NamedTuple):
    """One client does something in a room."""

    seat: str
    verb: Verb
    room: str


class Seat:
    """A tab or a phone, which may have a connection.

    `rooms` is the truth: the rooms it is in, and the media with which it is live there.
    """

    def __init__(self, world: "World", label: str, user: str) -> None:
        self.world = world
        self.label = label
        self.user = user
        self.client: Client | None = None
        self.rooms: dict[str, str | None] = {}
        self.views: dict[str, View] = {}
        self._connections = 0

    def __repr__(self) -> str:
        return self.label

    @property
    def name(self) -> str:
        """The name of its connection; a new connection has a new name."""
        return f"{self.label} {self._connections}"

    @property
    def connected(self) -> bool:
        return self.client is not None

    # Actions

    async def act(self, verb: Verb, room: str) -> None:
        if not self.connected:
            self._connections += 1
            await self.come(room)
            verb = verb if verb in _MEDIA else Verb.JOIN
        if not self.connected:
            return
        if verb in _WAYS_OUT:
            await self.go(verb)
        elif verb is Verb.RETURN:
            await self.come_back(room)
        else:
            await self.act_in(room, verb)

    async def act_in(self, room: str, verb: Verb) -> None:
        was_there = room in self.rooms
        if not was_there or verb is Verb.JOIN:
            await self.join(room)
        if verb in _MEDIA:
            await self.go_live(room, _MEDIA[verb])
        elif verb is Verb.LEAVE and was_there:
            await self.leave(room)
        elif verb is Verb.STOP and was_there:
            self.rooms[room] = None
            await self.stop(room)

    async def come(self, room: str) -> None:
        raise NotImplementedError

    async def come_back(self, room: str) -> None:
        await self.go(Verb.CLOSE)
        await self.act(Verb.JOIN, room)

    async def join(self, room: str) -> None:
        """Nothing to do if the room is part of the path."""

    async def leave(self, room: str) -> None:
        await self.go(Verb.CLOSE)

    async def go_live(self, room: str, media: str) -> None:
        raise NotImplementedError

    async def stop(self, room: str) -> None:
        raise NotImplementedError

    async def go(self, way: Verb) -> None:
        client, self.client = self.client, None
        assert client is not None
        self.rooms.clear()
        self.views.clear()
        if way is Verb.CLOSE:
            await client.close()
        elif way is Verb.VANISH:
            await client.vanish()
        else:
            client.reset()

    async def connect(self, path: str) -> Client:
        self.client = await open_client(self.world.nursery, self.world.service.base, path)
        self.world.opened.append(self.client)
        return self.client

    async def send(self, type_: str, **fields: object) -> None:
        assert self.client is not None
        await self.client.send(type_, **fields)

    def live_in(self, room: str, media: str) -> None:
        self.rooms[room] = media
        self.world.was_live.add((room, self.name))

    # Messages

    async def listen(self) -> None:
        """Process everything that the server has sent up to now."""
        if self.client is not None:
            for message in await self.client.settle():
                self.hear(message)

    def hear(self, message: Message) -> None:
        room = self.room_of(message)
        assert room in self.views, f"{self} received a message about {room}: {message}"
        try:
            self.views[room].hear(message)
        except AssertionError as error:
            error.add_note(f"{self} was told at last:\n{self.recent}")
            raise

    def room_of(self, message: Message) -> str:
        """The room that a message is about."""
        return next(iter(self.rooms))

    @property
    def recent(self) -> str:
        log = self.client.log if self.client else []
        return "\n".join(map(str, log[-12:]))

    # Knowledge

    def truth(self, room: str, ids: Mapping[str, str]) -> Truth:
        peer_id = ids.get(self.name, "?")
        user_id = self.user_id(peer_id)
        was_live = (room, self.name) in self.world.was_live
        return Truth(self.name, peer_id, user_id, self.rooms[room], was_live)

    def user_id(self, peer_id: str) -> str:
        return self.user


class RoomSeat(Seat):
    """A client of `room`."""

    async def come(self, room: str) -> None:
        await self.connect(f"/ws/{room}/{self.user}?username={quote(self.name)}")
        self.rooms[room] = None
        self.views[room] = RoomView(room, self.user)

    async def act_in(self, room: str, verb: Verb) -> None:
        await super().act_in(next(iter(self.rooms)), verb)

    async def go_live(self, room: str, media: str) -> None:
        self.live_in(room, "video")
        await self.send("broadcast-started")

    async def stop(self, room: str) -> None:
        view = self.views[room]
        assert isinstance(view, RoomView)
        view.asked_to_stop()
        await self.send("broadcast-stopped")


class LiveSeat(Seat):
    """A client of `live`, in any number of rooms."""

    async def come(self, room: str) -> None:
        recalled = [self._enter(room) for room in self.world.lost.pop(self.user, set())]
        query = f"user_id={self.user}&username={quote(self.name)}"
        client = await self.connect(f"/api/v1/ws/connect?{query}")
        await client.expect("connected", user_id=self.user)
        while any(view.told is None for view in recalled):
            self.hear(await client.receive())
        for view in recalled:
            await self.send("live_status", room_id=view.room_id)

    def _enter(self, room: str) -> LiveView:
        self.rooms[room] = None
        view = self.views[room] = LiveView(room, self.user)
        return view

    async def join(self, room: str) -> None:
        if room not in self.rooms:
            self._enter(room)
        await self.send("join_room", room_id=room)
        await self.send("live_status", room_id=room)

    async def leave(self, room: str) -> None:
        del self.rooms[room]
        await self.send("leave_room", room_id=room)

    async def go_live(self, room: str, media: str) -> None:
        self.live_in(room, media)
        await self.send("live_start", room_id=room, media_type=media)

    async def stop(self, room: str) -> None:
        await self.send("live_stop", room_id=room)

    async def go(self, way: Verb) -> None:
        if self.rooms:
            self.world.lost.setdefault(self.user, set()).update(self.rooms)
        await super().go(way)

    def room_of(self, message: Message) -> str:
        return str(message.get("room_id"))

    def hear(self, message: Message) -> None:
        if message["type"] == "left_room":
            del self.views[message["room_id"]]
        else:
            super().hear(message)


class MeshSeat(Seat):
    """A client of `mesh`; two seats may claim the same client id."""

    def __init__(self, world: "World", label: str, user: str) -> None:
        super().__init__(world, label, user)
        #: The room in which it is or has tried to be, in this wave.
        self.claim: str | None = None

    @property
    def name(self) -> str:
        """The same for every connection, so that it is the same identity."""
        return self.user

    async def come(self, room: str) -> None:
        rivals = self.world.rivals(self, room)
        self.claim = room
        client = await self.connect(f"/ws/{room}")
        await client.expect("auth_required")
        await self.send("auth_token", token="t", clientId=self.user, username=self.name)
        self.rooms[room] = None
        view = self.views[room] = MeshView(room, self.user)
        try:
            while view.told is None:
                self.hear(await client.receive())
        except ConnectionClosed as closed:
            self.refused(closed)
        if self.world.alone:
            assert (self.client is None) == any(rival.name != self.name for rival in rivals)

    async def come_back(self, room: str) -> None:
        """Reconnect before the old connection is gone: the new one replaces it."""
        old = self.client
        assert old is not None
        await self.come(next(iter(self.rooms)))
        await old.expect_close(4409)

    def refused(self, closed: ConnectionClosed) -> None:
        assert closed.reason is not None
        assert closed.reason.code == 1008
        assert closed.reason.reason == "Client id in use"
        claims = self.world.claims(self)
        assert any(rival.name != self.name for rival in claims), f"{self} was refused"
        self._lose()

    def replaced(self, closed: ConnectionClosed) -> None:
        assert closed.reason is not None
        assert closed.reason.code == 4409, f"{self} was closed: {closed.reason}"
        assert not (self.world.alone and self in self.world.acting), "the newer one closed"
        claims = self.world.claims(self)
        assert any(rival.name == self.name for rival in claims), f"{self} was replaced"
        self._lose()

    def _lose(self) -> None:
        self.client = None
        self.rooms.clear()
        self.views.clear()

    async def act_in(self, room: str, verb: Verb) -> None:
        await super().act_in(next(iter(self.rooms)), verb)

    async def go_live(self, room: str, media: str) -> None:
        self.live_in(room, media)
        await self.send("broadcast_start", media_type=media)

    async def stop(self, room: str) -> None:
        await self.send("broadcast_stop")

    async def send(self, type_: str, **fields: object) -> None:
        try:
            await super().send(type_, **fields)
        except ConnectionClosed as closed:
            self.replaced(closed)

    async def listen(self) -> None:
        """Use a ping of this dialect: a WebSocket ping never returns if the server closes."""
        if self.client is None:
            return
        try:
            await self.client.send("ping", id=0)
            while (message := await self.client.receive())["type"] != "pong":
                self.hear(message)
        except ConnectionClosed as closed:
            self.replaced(closed)

    def user_id(self, peer_id: str) -> str:
        return self.user


class Impostor(MeshSeat):
    """A client that wants another client's id."""

    @property
    def name(self) -> str:
        return f"not {self.user}"


class StreamSeat(Seat):
    """A client of `stream`."""

    async def come(self, room: str) -> None:
        await self.connect(f"/ws?token={make_login_token(self.name)}")

    async def act_in(self, room: str, verb: Verb) -> None:
        """A broadcaster need not join first."""
        if verb in _MEDIA:
            await self.go_live(room, _MEDIA[verb])
        else:
            await super().act_in(room, verb)

    def view_of(self, room: str) -> StreamView:
        view = self.views.setdefault(room, StreamView(room))
        assert isinstance(view, StreamView)
        return view

    async def join(self, room: str) -> None:
        self.view_of(room)
        self.rooms.setdefault(room, None)
        await self.send("join-stream", streamId=room)

    async def go_live(self, room: str, media: str) -> None:
        self.view_of(room).asked_to_broadcast()
        self.live_in(room, "video")
        self.world.contenders.setdefault(room, set()).add(self)
        await self.send("broadcaster-ready", streamId=room)

    async def stop(self, room: str) -> None:
        self.view_of(room).asked_to_end()
        await self.send("end-stream", streamId=room)

    def thrown_out(self, room: str) -> None:
        """A newer broadcaster has taken over the stream."""
        assert self.view_of(room).taken, f"{self} was not told that it lost the stream"
        del self.rooms[room]
        del self.views[room]

    def room_of(self, message: Message) -> str:
        return str(message.get("streamId"))

    def user_id(self, peer_id: str) -> str:
        return peer_id


class Witness(MeshSeat):
    """A client that only listens, all the time."""

    def __init__(self, world: "World", room: str) -> None:
        super().__init__(world, f"witness of {room}", f"witness-{room}")
        self._room = room

    @property
    def view(self) -> MeshView:
        view = self.views[self._room]
        assert isinstance(view, MeshView)
        return view

    @property
    def ids(self) -> dict[str, str]:
        """The peer id of everybody who is or was in the room, by name."""
        return {self.name: self.user, **self.view.ids}

    def sees(self, seat: Seat) -> bool:
        told = self.view.told
        return told is not None and self.ids.get(seat.name) in told.here

    def sees_live(self, seat: Seat) -> bool:
        told = self.view.told
        return told is not None and self.ids.get(seat.name) in told.live


#: Dialect and user of each seat, by label.
SEATS: dict[str, tuple[type[Seat], str]] = {
    "room ann 1": (RoomSeat, "ann"),
    "mesh dan 1": (MeshSeat, "dan"),
    "stream 1": (StreamSeat, "eve"),
    "live cem 1": (LiveSeat, "cem"),
    "room ann 2": (RoomSeat, "ann"),
    "mesh dan 2": (MeshSeat, "dan"),
    "stream 2": (StreamSeat, "fay"),
    "live cem 2": (LiveSeat, "cem"),
    "live ann": (LiveSeat, "ann"),
    "mesh bob": (MeshSeat, "bob"),
    "room bob": (RoomSeat, "bob"),
    "stream 3": (StreamSeat, "gil"),
    "mesh not dan": (Impostor, "dan"),
}


class World:
    """All seats, and the truth about them."""

    def __init__(self, service: Service, nursery: trio.Nursery) -> None:
        self.service = service
        self.nursery = nursery
        self.opened: list[Client] = []
        run = uuid4().hex[:6]
        self.rooms = {label: f"{label}-{run}" for label in _ROOMS}
        self.seats = {
            label: seat(self, label, f"{user}-{run}") for label, (seat, user) in SEATS.items()
        }
        self.witnesses = {room: Witness(self, room) for room in self.rooms.values()}
        #: The rooms that the users of `live` will rejoin.
        self.lost: dict[str, set[str]] = {}
        #: By room and name.
        self.was_live: set[tuple[str, str]] = set()
        # For the present wave: who was live before it, with which media, and so on.
        self.live: dict[tuple[str, Seat], str] = {}
        self.acting: set[Seat] = set()
        self.contenders: dict[str, set[Seat]] = {}

    @property
    def alone(self) -> bool:
        """Only one seat acts, so the result is certain."""
        return len(self.acting) == 1

    @property
    def everybody(self) -> list[Seat]:
        return [*self.seats.values(), *self.witnesses.values()]

    def seated(self, room: str) -> list[Seat]:
        return [seat for seat in self.everybody if room in seat.rooms]

    def rivals(self, me: MeshSeat, room: str) -> list[Seat]:
        """The other seats in a room with the same client id."""
        return [
            seat
            for seat in self.seated(room)
            if isinstance(seat, MeshSeat) and seat is not me and seat.user == me.user
        ]

    def claims(self, me: MeshSeat) -> list[Seat]:
        """The same, including those that left or were refused in this wave."""
        return [
            seat
            for seat in self.everybody
            if isinstance(seat, MeshSeat)
            and seat is not me
            and (seat.user, seat.claim) == (me.user, me.claim)
        ]

    # A wave of steps

    async def wave(self, steps: Sequence[Step]) -> None:
        """Some seats act at the same time; then all must agree."""
        chosen = list(self._compatible(steps))
        self._begin_wave()
        self.acting = {self.seats[step.seat] for step in chosen}
        patient = len(self.service.bases) > 1 or any(step.verb is Verb.RESET for step in chosen)
        async with trio.open_nursery() as nursery:
            for step in chosen:
                nursery.start_soon(self.seats[step.seat].act, step.verb, self.rooms[step.room])
        for seat in self.acting:
            await seat.listen()
        await self.service.quiesce()
        for room, contenders in self.contenders.items():
            await self._end_contest(room, contenders)
        for room in self.rooms.values():
            await self._end_takeovers(room)
        await self._agree(patient=patient)
        self._check_surprises()

    def _compatible(self, steps: Sequence[Step]) -> Iterator[Step]:
        """Leave out unpredictable steps: a user connects just when its other tab goes."""
        comes: set[str] = set()
        goes: set[str] = set()
        for step in steps:
            seat = self.seats[step.seat]
            if isinstance(seat, LiveSeat):
                if not seat.connected or step.verb is Verb.RETURN:
                    if seat.user in comes | goes:
                        continue
                    comes.add(seat.user)
                elif step.verb in _WAYS_OUT:
                    if seat.user in comes:
                        continue
                    goes.add(seat.user)
            yield step

    def _begin_wave(self) -> None:
        self.contenders = {}
        present = [(room, seat) for seat in self.everybody for room in seat.rooms]
        self.live = {(room, seat): media for room, seat in present if (media := seat.rooms[room])}
        self.was_live &= {(room, seat.name) for room, seat in present}
        for seat in self.everybody:
            if isinstance(seat, MeshSeat) and not seat.connected:
                seat.claim = None

    async def _end_contest(self, room: str, contenders: set[Seat]) -> None:
        """A stream has one broadcaster; earlier and losing ones are removed."""
        witness = self.witnesses[room]
        streams = [seat for seat in self.seated(room) if isinstance(seat, StreamSeat)]
        winner = await self._winner(witness, streams, contenders)
        assert winner in contenders
        for seat in streams:
            was_live = (room, seat.name) in self.was_live
            if not witness.sees(seat):
                assert was_live, f"{seat} was removed"
                await seat.listen()
                seat.thrown_out(room)
            elif seat is not winner:
                assert not (self.alone and seat.rooms[room]), f"{seat} was not removed"
                seat.rooms[room] = None

    async def _winner(
        self, witness: Witness, streams: Sequence[Seat], contenders: set[Seat]
    ) -> Seat:
        """The only live seat; another replica may not know all contenders yet."""
        with trio.fail_after(PATIENCE):
            while True:
                await witness.listen()
                live = [seat for seat in streams if witness.sees_live(seat)]
                if len(live) == 1 and (self.alone or live[0] in contenders):
                    return live[0]

    async def _end_takeovers(self, room: str) -> None:
        """Of the connections that claim one client id, all but one are closed."""
        with trio.fail_after(PATIENCE):
            for seat in self.seated(room):
                while isinstance(seat, MeshSeat) and self.rivals(seat, room):
                    for each in [seat, *self.rivals(seat, room)]:
                        await each.listen()
                    if room not in seat.rooms:
                        break

    async def _agree(self, *, patient: bool) -> None:
        """All views must equal the truth: at once, or soon and from then on."""
        await self._listen()
        if patient:
            with trio.move_on_after(PATIENCE):
                while self._differences():
                    await self._listen()
            await self._listen()
        found = self._differences()
        assert not found, found

    async def _listen(self) -> None:
        await self.service.quiesce()
        for seat in self.everybody:
            await seat.listen()

    def _differences(self) -> str:
        found = []
        for room, witness in self.witnesses.items():
            ids = witness.ids
            truth = {seat: seat.truth(room, ids) for seat in self.seated(room)}
            for seat, me in truth.items():
                others = [other for other in truth.values() if other is not me]
                difference = seat.views[room].differs(me, others)
                if difference:
                    found.append(f"{seat} in {room}: {difference}\n{seat.recent}")
        found += [
            f"{seat} was told of {[*seat.views]}, is in {[*seat.rooms]}"
            for seat in self.everybody
            if seat.views.keys() != seat.rooms.keys()
        ]
        return "\n".join(found)

    def _check_surprises(self) -> None:
        """Check what a client cannot judge by itself."""
        for room in self.witnesses:
            for seat in self.seated(room):
                view = seat.views[room]
                if isinstance(view, LiveView):
                    assert view.surprises() <= self._changing(room), f"{seat} was notified twice"
                elif isinstance(view, StreamView):
                    self._check_viewers(room, seat, *view.surprises())

    def _changing(self, room: str) -> set[str]:
        """Users that changed their media; changes in their other tabs are not announced."""
        return {
            seat.user
            for seat in self.acting
            if (media := self.live.get((room, seat))) and seat.rooms.get(room) != media
        }

    def _check_viewers(self, room: str, seat: Seat, twice: set[str], never: set[str]) -> None:
        """A viewer is announced again if it or the broadcaster asks; a live peer is no viewer."""
        if seat in self.acting:
            return
        ids = self.witnesses[room].ids
        acting = {ids.get(seat.name) for seat in self.acting}
        assert twice <= acting, f"{seat} was notified twice"
        was_live = {ids.get(name) for where, name in self.was_live if where == room}
        assert never <= was_live, f"{seat} was not notified"

    # The whole run

    async def begin(self) -> None:
        for room, witness in self.witnesses.items():
            self.acting = {witness}
            await witness.come(room)

    async def end(self) -> None:
        """All leave at the same time, each in its own way."""
        ways = cycle(_WAYS_OUT)
        leaving = [seat for seat in self.seats.values() if seat.connected]
        await self.wave([Step(seat.label, next(ways), "r1") for seat in leaving])
        for witness in self.witnesses.values():
            await witness.go(Verb.CLOSE)


async def play(serve: Serve, waves: Iterable[Sequence[Step]]) -> None:
    """Do the steps, wave after wave, and check after each."""
    done = []
    with trio.fail_after(180):
        async with serve() as service, trio.open_nursery() as nursery:
            world = World(service, nursery)
            try:
                await world.begin()
                for steps in waves:
                    done.append(steps)
                    await world.wave(steps)
                await world.end()
            except Exception as error:
                error.add_note(f"after wave {len(done)}: {done[-1:]}")
                raise
            finally:
                for client in world.opened:
                    client.reset()
            nursery.cancel_scope.cancel()


seats = st.sampled_from(list(SEATS))
rooms = st.sampled_from([*_ROOMS, "r1", "r1"])
verbs = st.sampled_from([*Verb, Verb.LIVE])
steps = st.builds(Step, seats, verbs, rooms)
comings = st.builds(Step, seats, st.sampled_from([Verb.JOIN, Verb.LIVE]), rooms)


def by_seat(step: Step) -> str:
    return step.seat


#: Who joins before anything else happens.
crowds = st.lists(comings, max_size=len(SEATS), unique_by=by_seat)
waves = st.lists(steps, min_size=1, max_size=5, unique_by=by_seat)

thorough = settings(
    # The fixture only starts servers; each example starts its own.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


#: Viewers learn of the end, although nobody leaves.
reload_while_live = example(
    crowd=[Step("stream 1", Verb.JOIN, "r1"), Step("mesh dan 1", Verb.LIVE, "r1")],
    steps=[Step("mesh dan 1", Verb.RETURN, "r1")],
)
#: Only the first to reconnect rejoins the rooms of the lost connection.
two_tabs_after_a_loss = example(
    crowd=[Step("live cem 1", Verb.JOIN, "r1")],
    steps=[
        Step("live cem 1", Verb.RESET, "r1"),
        Step("live cem 1", Verb.JOIN, "r2"),
        Step("live cem 2", Verb.JOIN, "r2"),
    ],
)


@settings(thorough, max_examples=25 * EFFORT)
@reload_while_live
@two_tabs_after_a_loss
@given(crowd=crowds, steps=st.lists(steps, min_size=4, max_size=30))
async def test_views_match_after_single_steps(
    serve: Serve, crowd: list[Step], steps: list[Step]
) -> None:
    await play(serve, [[step] for step in [*crowd, *steps]])


@settings(thorough, max_examples=25 * EFFORT)
@given(crowd=crowds, waves=st.lists(waves, min_size=2, max_size=16))
async def test_views_match_after_concurrent_steps(
    serve: Serve, crowd: list[Step], waves: list[list[Step]]
) -> None:
    await play(serve, [crowd, *waves])


#: Of two connections with one client id, commands of the older must not affect the newer.
one_id_twice = example(
    crowd=[
        Step("mesh dan 1", Verb.LIVE, "r1"),
        Step("mesh dan 2", Verb.JOIN, "r1"),
        Step("live ann", Verb.JOIN, "r1"),
        Step("room ann 2", Verb.LIVE, "r1"),
    ],
    waves=[],
)
#: The new connection may reach another replica before Redis knows that the old one is lost.
come_back_elsewhere = example(
    crowd=[Step("live cem 1", Verb.JOIN, "r1")],
    waves=[[Step("live cem 1", Verb.RETURN, "r1")]] * 5,
)


@settings(thorough, max_examples=10 * EFFORT)
@one_id_twice
@come_back_elsewhere
@given(crowd=crowds, waves=st.lists(waves, max_size=4))
async def test_views_match_after_concurrent_steps_on_three_replicas(
    redis_url: str, crowd: list[Step], waves: list[list[Step]]
) -> None:
    await play(partial(serve_replicas, 3, redis_url), [crowd, *waves])
