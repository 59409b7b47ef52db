"""Hub: what peers on two replicas receive about each other.

The replicas share one memory network. There are no sockets: what a session is sent, in the
messages of its dialect, is recorded.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from msgspec import Raw
from msgspec.structs import replace
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.clients import Message
from tests.members import member as make_member
from tests.sessions import Recorder, make_session
from trio_signal.bus.memory import MemoryBus, MemoryNetwork
from trio_signal.clock import utc_now
from trio_signal.dialects import Dialect
from trio_signal.dialects.live import LiveDialect
from trio_signal.dialects.mesh import MeshDialect
from trio_signal.dialects.room import RoomDialect
from trio_signal.dialects.stream import StreamDialect
from trio_signal.errors import CloseCode
from trio_signal.hub import LEAVE_RATE, Hub
from trio_signal.local_room import LocalRoom
from trio_signal.messages.commands import (
    AskLive,
    ChangeProfile,
    Chat,
    Close,
    GoLive,
    Join,
    Kick,
    Leave,
    LeaveCause,
    RoomCommand,
    SetTyping,
    Signal,
    StartStreaming,
    StopLive,
    To,
)
from trio_signal.messages.events import (
    Answer,
    Entered,
    Event,
    Joined,
    Left,
    Notice,
    RoomEvent,
    Signalled,
    StopCause,
    StoppedLive,
    WentLive,
)
from trio_signal.messages.identity import Grants, Identity, SignalKind
from trio_signal.notes.memory import MemoryNotes
from trio_signal.participant import Participant


class Tab:
    """One session at a hub, and what it received."""

    def __init__(
        self, hub: Hub, dialect: Dialect, peer_id: str, user_id: str | None = None
    ) -> None:
        self.hub = hub
        self._recorder = Recorder()
        self.peer = make_session(peer_id, dialect, self._recorder)
        user_id = user_id or peer_id
        self.peer.identity = Identity(user_id, user_id, user_id.title())
        hub.arrive(self.peer)

    async def join(self, room: str = "r", *, viewer: bool = False) -> None:
        await self.hub.join(self.peer, Join(room, self.peer.id, viewer))

    def grant(self, **grants: Any) -> None:
        """Authenticate the peer, with these grants."""
        assert self.peer.identity is not None
        self.peer.identity = replace(self.peer.identity, grants=Grants(**grants), verified=True)

    def do(self, command: RoomCommand) -> None:
        self.hub.handle(self.peer, command)

    def signal(
        self,
        target: str,
        payload: str = "1",
        *,
        kind: SignalKind = "offer",
        addressed: To = To.PEER,
    ) -> None:
        self.do(Signal("r", kind, Raw(payload.encode()), addressed, target))

    def depart(self) -> None:
        self.hub.depart(self.peer)

    def heard(self) -> list[Message]:
        """What it received since the last call."""
        return self._recorder.take()

    def types(self) -> list[str]:
        return [message["type"] for message in self.heard()]

    @property
    def closed_with(self) -> int | None:
        """The code with which its connection closes."""
        return self.peer.closed_with.code if self.peer.closed_with else None


class Replicas:
    """Two hubs, and the peers of both."""

    def __init__(self, hubs: list[Hub], network: MemoryNetwork) -> None:
        self.a, self.b = hubs
        self.network = network
        self.tabs: list[Tab] = []

    def tab(self, hub: Hub, dialect: Dialect, peer_id: str, user_id: str | None = None) -> Tab:
        tab = Tab(hub, dialect, peer_id, user_id)
        self.tabs.append(tab)
        return tab

    async def mesh(self, hub: Hub, peer_id: str, user_id: str | None = None) -> Tab:
        """A peer that has joined; the others know."""
        return await self.enter(self.tab(hub, MeshDialect("r"), peer_id, user_id))

    async def room(self, hub: Hub, peer_id: str, user_id: str) -> Tab:
        dialect = RoomDialect.at(["ws", "r", user_id], {})
        assert dialect is not None
        return await self.enter(self.tab(hub, dialect, peer_id, user_id))

    async def live(self, hub: Hub, peer_id: str, user_id: str) -> Tab:
        dialect = LiveDialect.at(["api", "v1", "ws", "connect"], {"user_id": user_id})
        assert dialect is not None
        return await self.enter(self.tab(hub, dialect, peer_id, user_id))

    async def viewer(self, hub: Hub, peer_id: str) -> Tab:
        return await self.enter(self.tab(hub, StreamDialect(), peer_id), viewer=True)

    async def caster(self, hub: Hub, peer_id: str) -> Tab:
        tab = await self.enter(self.tab(hub, StreamDialect(), peer_id))
        tab.do(GoLive("r", exclusive=True))
        return tab

    async def enter(self, tab: Tab, *, viewer: bool = False) -> Tab:
        await tab.join(viewer=viewer)
        await self.settle()
        return tab

    async def settle(self) -> None:
        """Wait until everything published has been delivered."""
        await wait_all_tasks_blocked()

    def forget(self) -> None:
        """Discard what the peers received so far."""
        for tab in self.tabs:
            tab.heard()

    def check(self) -> None:
        """Hubs and directory agree, and no hub knows rooms in which it has no peer."""
        for hub in (self.a, self.b):
            for room_id, room in hub.rooms.items():
                assert room.peers, "a room without peers of this replica"
                assert room.members == self.network.rooms[room_id].members
                for peer_id, peer in room.peers.items():
                    assert peer.memberships[room_id] == peer_id
                    assert room.members[peer_id].replica == hub.bus.replica
            for peer in hub.participants:
                for room_id, peer_id in peer.memberships.items():
                    assert hub.rooms[room_id].peers[peer_id] is peer
        for room_id, known in self.network.rooms.items():
            assert known.members, "a room without members"
            for member in known.members.values():
                hub = self.a if member.replica == "a" else self.b
                assert member.peer_id in hub.rooms[room_id].peers, "a member without its peer"


@asynccontextmanager
async def open_replicas(**caps: Any) -> AsyncIterator[Replicas]:
    network = MemoryNetwork()
    notes = MemoryNotes()
    hubs = [Hub(MemoryBus(name, network), notes, **caps) for name in ("a", "b")]
    replicas = Replicas(hubs, network)
    async with trio.open_nursery() as nursery:
        for hub in hubs:
            await nursery.start(hub.bus.run, hub.deliver)
        yield replicas
        await replicas.settle()
        replicas.check()
        nursery.cancel_scope.cancel()


@pytest.fixture
async def replicas() -> AsyncIterator[Replicas]:
    async with open_replicas() as replicas:
        yield replicas


# Joining and leaving


async def test_concurrent_double_join_leaves_nothing_behind() -> None:
    async with open_replicas() as replicas:
        watcher = await replicas.mesh(replicas.b, "watcher")
        tab = replicas.tab(replicas.a, MeshDialect("r"), "p")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tab.join)
            nursery.start_soon(tab.join)
        await replicas.settle()
        replicas.check()
        tab.depart()
        await replicas.settle()
        replicas.check()
        assert watcher.types().count("user_left") == 1


async def test_newcomer_and_members_see_each_other_on_both_replicas(replicas: Replicas) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    bob = await replicas.mesh(replicas.b, "bob")
    replicas.forget()
    carl = await replicas.mesh(replicas.a, "carl")
    success, users = carl.heard()
    assert success["type"] == "auth_success"
    assert users["users"] == [
        {"client_id": "ann", "username": "Ann"},
        {"client_id": "bob", "username": "Bob"},
    ]
    for other in (ann, bob):
        (joined,) = other.heard()
        assert (joined["type"], joined["client_id"]) == ("user_joined", "carl")
        assert joined["connected_users"] == 3


async def test_leaving_is_announced_on_both_replicas(replicas: Replicas) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    bob = await replicas.mesh(replicas.b, "bob")
    carl = await replicas.mesh(replicas.b, "carl")
    carl.do(GoLive("r"))
    await replicas.settle()
    replicas.forget()
    carl.depart()
    carl.depart()  # never happens, and is harmless
    await replicas.settle()
    for other in (ann, bob):
        stopped, left = other.heard()
        assert (stopped["type"], stopped["client_id"]) == ("broadcast_stopped", "carl")
        assert (left["type"], left["connected_users"]) == ("user_left", 2)
    assert carl.heard() == []


async def test_user_joins_with_first_and_leaves_with_last_peer(replicas: Replicas) -> None:
    witness_a = await replicas.room(replicas.a, "wa", "wanda")
    witness_b = await replicas.room(replicas.b, "wb", "wilma")
    replicas.forget()
    first = await replicas.room(replicas.a, "x1", "xaver")
    second = await replicas.room(replicas.b, "x2", "xaver")
    first.depart()
    await replicas.settle()
    for witness in (witness_a, witness_b):
        assert witness.types() == ["user_joined"]
    second.depart()
    await replicas.settle()
    for witness in (witness_a, witness_b):
        assert witness.types() == ["user_left"]


async def test_empty_room_is_forgotten(replicas: Replicas) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    bob = await replicas.mesh(replicas.b, "bob")
    ann.depart()
    await replicas.settle()
    assert replicas.a.rooms == {}
    bob.depart()
    await replicas.settle()
    assert replicas.b.rooms == {}
    assert replicas.network.rooms == {}


async def test_leaving_one_room_keeps_the_others(replicas: Replicas) -> None:
    ann = await replicas.live(replicas.a, "a1", "ann")
    bob = await replicas.live(replicas.b, "b1", "bob")
    for tab in (ann, bob):
        await tab.join("another")
    await replicas.settle()
    replicas.forget()
    ann.do(Leave("r"))
    await replicas.settle()
    (left,) = bob.heard()
    assert (left["type"], left["room_id"], left["user_id"]) == ("user_left", "r", "ann")
    assert replicas.a.rooms.keys() == {"another"}
    ann.do(Chat("another", "still here"))
    await replicas.settle()
    assert replicas.network.rooms["another"].members.keys() == {"a1", "b1"}


async def test_depart_is_synchronous_and_survives_cancellation(replicas: Replicas) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    bob = await replicas.mesh(replicas.b, "bob")
    replicas.forget()
    carl = replicas.tab(replicas.a, MeshDialect("r"), "carl")
    with trio.CancelScope() as scope, replicas.a.stay(carl.peer):
        await carl.join()
        scope.cancel()
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    await replicas.settle()
    assert ann.types() == ["user_joined", "user_left"]
    assert bob.types() == ["user_joined", "user_left"]
    assert carl.peer not in replicas.a.participants


async def test_depart_is_announced_after_an_error(
    replicas: Replicas,
) -> None:
    bob = await replicas.mesh(replicas.b, "bob")
    replicas.forget()
    ann = replicas.tab(replicas.a, MeshDialect("r"), "ann")

    async def fail() -> None:
        with replicas.a.stay(ann.peer):
            await ann.join()
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    await replicas.settle()
    assert bob.types() == ["user_joined", "user_left"]


async def test_every_room_is_left_even_if_publishing_fails(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = replicas.a
    ann = await replicas.live(hub, "a1", "ann")
    bob = await replicas.mesh(replicas.b, "bob")
    await ann.join("another")
    publish = hub.bus.publish

    def fail(event: RoomEvent) -> None:
        publish(event)
        raise LookupError

    monkeypatch.setattr(hub.bus, "publish", fail)
    monkeypatch.setattr(hub.rooms["r"], "tell", fail)
    replicas.forget()
    ann.depart()
    monkeypatch.undo()
    await replicas.settle()
    assert bob.types() == ["user_left"]
    assert hub.rooms == {}
    assert replicas.network.rooms.keys() == {"r"}


async def test_remote_event_about_local_peer_is_ignored(replicas: Replicas) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    bob = await replicas.mesh(replicas.b, "bob")
    bob.do(GoLive("r"))
    await replicas.settle()
    replicas.forget()
    member = replicas.b.rooms["r"].members["bob"]
    stopped = StoppedLive("r", member, last=True, cause=StopCause.LEFT, at="")
    for event in (stopped, Left("r", member, last=True, peers=0, at="")):
        assert replicas.b.rooms["r"].apply(event) == []
    assert bob.heard() == []
    bob.signal("ann")
    await replicas.settle()
    assert ann.types() == ["offer"]


async def test_failed_delivery_does_not_stop_the_next(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The peer that missed the event is closed: its state would be wrong from then on."""
    ann = await replicas.mesh(replicas.a, "ann")
    tell = LocalRoom.tell

    def fail(
        room: LocalRoom, event: Event, user_id: str, peer_id: str = "", *, to_resuming: bool = True
    ) -> float:
        if isinstance(event, Joined) and peer_id == "bob" and room is replicas.a.rooms["r"]:
            monkeypatch.undo()
            raise LookupError("this once")
        return tell(room, event, user_id, peer_id)

    monkeypatch.setattr(LocalRoom, "tell", fail)
    replicas.forget()
    await replicas.mesh(replicas.b, "bob")
    assert ann.closed_with == CloseCode.INTERNAL_ERROR
    await replicas.mesh(replicas.b, "carl")
    assert [message["client_id"] for message in ann.heard()] == ["carl"]
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None


@pytest.mark.parametrize("steps", range(3))
async def test_cancelled_join_leaves_nothing_behind(replicas: Replicas, steps: int) -> None:
    bob = await replicas.mesh(replicas.b, "bob")
    replicas.forget()
    ann = replicas.tab(replicas.a, MeshDialect("r"), "ann")

    async def stay() -> None:
        with replicas.a.stay(ann.peer):
            await ann.join()
            await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stay)
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    await replicas.settle()
    assert bob.types() in ([], ["user_joined", "user_left"])
    assert replicas.network.rooms["r"].members.keys() == {"bob"}


async def test_peer_cap_holds_on_both_replicas() -> None:
    async with open_replicas(max_room_peers=2) as replicas:
        await replicas.mesh(replicas.a, "ann")
        bob = await replicas.mesh(replicas.b, "bob")
        carl = await replicas.mesh(replicas.a, "carl")
        assert carl.closed_with == 1013
        assert carl.heard() == []
        bob.depart()
        await replicas.settle()
        dora = await replicas.mesh(replicas.a, "dora")
        assert dora.closed_with is None


async def test_viewer_cap_holds_on_both_replicas() -> None:
    async with open_replicas(max_viewers=1) as replicas:
        caster = await replicas.caster(replicas.a, "caster")
        await replicas.viewer(replicas.b, "viewer")
        replicas.forget()
        late = await replicas.viewer(replicas.a, "late")
        (error,) = late.heard()
        assert error["code"] == "stream_full"
        assert caster.heard() == []


async def test_peer_without_identity_cannot_join(replicas: Replicas) -> None:
    ann = replicas.tab(replicas.a, MeshDialect("r"), "ann")
    ann.peer.identity = None
    await ann.join()
    assert ann.closed_with == 1008
    assert replicas.a.rooms == {}


async def test_rooms_to_rejoin_are_kept_for_those_who_asked(
    replicas: Replicas,
) -> None:
    lost = await replicas.live(replicas.a, "a1", "ann")
    left = await replicas.live(replicas.a, "b1", "bob")
    other = await replicas.mesh(replicas.a, "carl")
    for tab in (lost, left):
        assert await replicas.a.rooms_to_rejoin(tab.peer) == ()
    left.do(Leave("r"))
    for tab in (lost, left, other):
        tab.depart()
    for user_id, rooms in (("ann", ("r",)), ("bob", ()), ("carl", ())):
        again = replicas.tab(replicas.b, LiveDialect({}), "again", user_id)
        assert await replicas.b.rooms_to_rejoin(again.peer) == rooms


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_reconnect_before_the_loss_is_noticed_gets_the_rooms(
    replicas: Replicas, elsewhere: bool
) -> None:
    """Another tab that arrived while the lost connection was still active does not."""
    hub = replicas.b if elsewhere else replicas.a
    lost = await replicas.live(replicas.a, "a1", "ann")
    await replicas.a.rooms_to_rejoin(lost.peer)
    another = replicas.tab(hub, LiveDialect({}), "a2", "ann")
    await hub.rooms_to_rejoin(another.peer)
    lost.peer.last_heard = trio.current_time()
    back = replicas.tab(hub, LiveDialect({}), "a3", "ann")
    await hub.rooms_to_rejoin(back.peer)
    lost.depart()
    await replicas.settle()
    assert another.peer.rejoins is None
    assert back.peer.rejoins is not None


async def test_rooms_not_yet_rejoined_pass_to_the_next_connection(
    replicas: Replicas,
) -> None:
    """Rooms that it should rejoin but was refused, or had no time to enter."""
    lost = await replicas.live(replicas.a, "a1", "ann")
    await replicas.a.rooms_to_rejoin(lost.peer)
    for room in "stuv":
        await lost.join(room)
    lost.depart()
    second = replicas.tab(replicas.b, LiveDialect({}), "a2", "ann")
    assert set(await replicas.b.rooms_to_rejoin(second.peer)) == set("rstuv")
    second.grant(rooms=("r", "s", "t", "v"))
    for room in "rsu":
        await second.join(room)
    second.do(Leave("s"))
    third = replicas.tab(replicas.b, LiveDialect({}), "a3", "ann")
    third.peer.arrived = second.peer.last_heard + 1
    await replicas.b.rooms_to_rejoin(third.peer)
    second.depart()
    assert set(third.peer.rejoins or ()) == set("rtv")
    await third.join("t")
    third.depart()
    fourth = replicas.tab(replicas.a, LiveDialect({}), "a4", "ann")
    assert set(await replicas.a.rooms_to_rejoin(fourth.peer)) == set("rtv")


# Participants without a dialect


class Listener(Participant):
    """Receives the events of its rooms, without a socket and without a dialect."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.identity = Identity(name, name, name)
        self.heard: list[Event] = []
        self.answers: list[Answer] = []

    def hear(self, event: Event) -> None:
        self.heard.append(event)

    def tell(self, answer: Answer) -> None:
        self.answers.append(answer)

    def close(self, close: Close) -> None:
        self.closed_with = self.closed_with or close


async def test_participant_needs_no_socket_and_no_dialect(replicas: Replicas) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    listener = Listener("relay")
    with replicas.a.stay(listener):
        await replicas.a.join(listener, Join("r", "relay"))
        assert [type(answer) for answer in listener.answers] == [Entered]
        assert ann.types()[-1] == "user_joined"
        bob = await replicas.mesh(replicas.b, "bob")
        bob.do(GoLive("r"))
        await replicas.settle()
        ann.signal("relay", '"offer"')
        bob.signal("relay", '"another"')
        replicas.a.handle(listener, Signal("r", "answer", Raw(b'"answer"'), To.PEER, "ann"))
        await replicas.settle()
        kinds = [type(event) for event in listener.heard]
        assert kinds == [Joined, Joined, WentLive, Signalled, Signalled]
        assert ann.heard()[-1]["answer"] == "answer"
    replicas.forget()
    bob.do(StopLive("r"))
    await replicas.settle()
    assert len(listener.heard) == 5
    assert not replicas.a.rooms["r"].peers.keys() & {"relay"}


# Broadcasts


async def test_broadcast_is_announced_on_both_replicas_and_to_late_joiners(
    replicas: Replicas,
) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    bob = await replicas.mesh(replicas.b, "bob")
    carl = await replicas.mesh(replicas.a, "carl")
    replicas.forget()
    ann.do(GoLive("r", "audio"))
    await replicas.settle()
    (here,), (there,) = carl.heard(), bob.heard()
    assert here == there
    assert (here["type"], here["media_type"]) == ("broadcast_started", "audio")
    late = await replicas.mesh(replicas.b, "late")
    _, _, active = late.heard()
    assert active["broadcasters"][0]["started_at"] == here["started_at"]
    replicas.forget()
    ann.do(GoLive("r", "audio"))
    ann.do(GoLive("r", "video"))
    ann.do(StopLive("r"))
    await replicas.settle()
    for other in (bob, carl, late):
        assert other.types() == ["broadcast_started", "broadcast_stopped"]
    assert ann.heard() == []


async def test_late_joiners_see_the_same_broadcaster(replicas: Replicas) -> None:
    first = await replicas.mesh(replicas.a, "joined first")
    last = await replicas.mesh(replicas.a, "joined last")
    last.do(GoLive("r"))
    (began,) = (m.live.started_at for m in replicas.a.rooms["r"].live if m.live)
    while utc_now() == began:
        pass  # until the next millisecond
    first.do(GoLive("r"))
    await replicas.mesh(replicas.b, "late")
    for hub in (replicas.a, replicas.b):
        assert [m.peer_id for m in hub.rooms["r"].live] == ["joined last", "joined first"]


async def test_live_peers_can_be_queried_from_outside_the_room(replicas: Replicas) -> None:
    ann = await replicas.live(replicas.a, "a1", "ann")
    ann.do(GoLive("r", "audio"))
    await replicas.live(replicas.a, "b1", "bob")
    for hub in (replicas.a, replicas.b):
        stranger = replicas.tab(hub, LiveDialect({}), "s1", "stranger")
        await hub.live.ask(stranger.peer, AskLive("r"))
        (answer,) = stranger.heard()
        assert [(p["user_id"], p["media_type"]) for p in answer["peers"]] == [("ann", "audio")]
        own = replicas.tab(hub, LiveDialect({}), "a2", "ann")
        await hub.live.ask(own.peer, AskLive("r"))
        (answer,) = own.heard()
        assert answer["peers"] == []


async def test_exclusive_broadcast_ends_one_on_another_replica(
    replicas: Replicas,
) -> None:
    older = await replicas.caster(replicas.a, "older")
    viewer_a = await replicas.viewer(replicas.a, "va")
    viewer_b = await replicas.viewer(replicas.b, "vb")
    replicas.forget()
    newer = await replicas.caster(replicas.b, "newer")
    await replicas.settle()
    assert older.closed_with is None
    assert older.peer.memberships == {}
    assert older.heard()[-1]["code"] == "stream_taken"
    for viewer in (viewer_a, viewer_b):
        told = viewer.heard()
        assert {"type": "broadcaster-ready-signal", "streamId": "r"} in told
        counts = [m["count"] for m in told if m["type"] == "viewer-count"]
        assert counts == [4, 3]
        assert len(told) == 3
    joined = [m["viewerId"] for m in newer.heard() if m["type"] == "viewer-joined"]
    assert joined == ["va", "vb"]
    for hub in (replicas.a, replicas.b):
        assert [m.peer_id for m in hub.rooms["r"].live] == ["newer"]
    # From now on the stream belongs to the newer broadcaster.
    replicas.forget()
    newer.signal("va", addressed=To.VIEWER)
    viewer_a.signal("", kind="answer", addressed=To.BROADCASTER)
    older.signal("vb", addressed=To.VIEWER)
    older.depart()
    await replicas.settle()
    assert viewer_a.types() == ["webrtc-offer"]
    assert newer.types() == ["webrtc-answer"]
    assert viewer_b.heard() == []


async def test_exclusive_broadcast_removes_only_peer_of_a_replica(
    replicas: Replicas,
) -> None:
    older = await replicas.caster(replicas.a, "older")
    newer = await replicas.caster(replicas.b, "newer")
    await replicas.settle()
    assert older.peer.memberships == {}
    assert replicas.a.rooms == {}
    assert newer.heard()[-1] == {"type": "viewer-count", "count": 1, "streamId": "r"}
    older.depart()
    again = await replicas.viewer(replicas.a, "again")
    assert again.types() == ["viewer-count"]


async def test_exclusive_broadcast_keeps_those_of_other_dialects(replicas: Replicas) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    ann.do(GoLive("r"))
    await replicas.caster(replicas.b, "caster")
    await replicas.settle()
    assert ann.peer.memberships == {"r": "ann"}
    assert {m.peer_id for m in replicas.a.rooms["r"].live} == {"ann", "caster"}


async def test_answer_goes_to_the_broadcaster_of_the_same_dialect(
    replicas: Replicas,
) -> None:
    caster = await replicas.caster(replicas.a, "caster")
    viewer = await replicas.viewer(replicas.b, "viewer")
    ann = await replicas.mesh(replicas.b, "ann")
    ann.do(GoLive("r"))
    await replicas.settle()
    replicas.forget()
    viewer.signal("", kind="answer", addressed=To.BROADCASTER)
    viewer.signal("", kind="candidate", addressed=To.COUNTERPART)
    await replicas.settle()
    assert caster.types() == ["webrtc-answer", "webrtc-ice-candidate"]
    caster.depart()
    await replicas.settle()
    replicas.forget()
    viewer.signal("", kind="answer", addressed=To.BROADCASTER)
    assert ann.types() == ["answer"]


async def test_viewers_are_announced_on_both_replicas(replicas: Replicas) -> None:
    caster = await replicas.caster(replicas.a, "caster")
    near = await replicas.viewer(replicas.a, "near")
    replicas.forget()
    far = await replicas.viewer(replicas.b, "far")
    count, joined = caster.heard()
    assert count == {"type": "viewer-count", "count": 3, "streamId": "r"}
    assert joined == {"type": "viewer-joined", "streamId": "r", "viewerId": "far"}
    replicas.forget()
    await far.join(viewer=True)
    await replicas.settle()
    assert caster.types() == ["viewer-count", "viewer-joined"]
    assert near.types() == far.types() == ["viewer-count"]
    far.depart()
    await replicas.settle()
    left, count = caster.heard()
    assert left == {"type": "viewer-left", "streamId": "r", "viewerId": "far"}
    assert count["count"] == 2


async def test_departed_broadcaster_is_announced_on_both_replicas(replicas: Replicas) -> None:
    caster = await replicas.caster(replicas.a, "caster")
    viewers = [await replicas.viewer(hub, hub.bus.replica) for hub in (replicas.a, replicas.b)]
    replicas.forget()
    caster.depart()
    await replicas.settle()
    for viewer in viewers:
        assert viewer.types() == ["broadcaster-disconnected", "viewer-count"]


# Missing grants


async def test_room_without_grant_cannot_be_joined(replicas: Replicas) -> None:
    ann = replicas.tab(replicas.a, MeshDialect("r"), "ann")
    ann.grant(rooms=("s-*", "q"))
    await ann.join("r")
    assert ann.closed_with == 1008
    assert ann.peer.memberships == {}
    assert "r" not in replicas.network.rooms


@pytest.mark.parametrize("glob", ["*", "r", "r*", "[a-r]", "?"])
async def test_room_granted_by_a_glob_can_be_joined(replicas: Replicas, glob: str) -> None:
    ann = replicas.tab(replicas.a, MeshDialect("r"), "ann")
    ann.grant(rooms=("nothing", glob))
    await replicas.enter(ann)
    assert ann.types() == ["auth_success", "users_in_room"]


async def test_live_peers_are_listed_only_with_a_room_grant(replicas: Replicas) -> None:
    caster = await replicas.live(replicas.a, "caster", "carl")
    caster.do(GoLive("r"))
    ann = replicas.tab(replicas.b, LiveDialect({}), "ann")
    ann.grant(rooms=("s",))
    await ann.hub.live.ask(ann.peer, AskLive("r"))
    assert ann.heard() == [{"type": "error", "message": "Not allowed in this room"}]


@pytest.mark.parametrize("dialect", ["mesh", "room", "live"])
async def test_going_live_needs_publish_grant(replicas: Replicas, dialect: str) -> None:
    bob = await replicas.mesh(replicas.b, "bob")
    ann = await {
        "mesh": replicas.mesh,
        "room": replicas.room,
        "live": replicas.live,
    }[dialect](replicas.a, "ann", "ann")
    ann.grant(publish=False)
    replicas.forget()
    ann.do(GoLive("r"))
    await replicas.settle()
    assert ann.types() == ["error"]
    assert ann.closed_with is None
    assert bob.types() == []
    replicas.check()


async def test_broadcaster_without_publish_grant_does_not_join_the_stream(
    replicas: Replicas,
) -> None:
    ann = replicas.tab(replicas.a, StreamDialect(), "ann")
    ann.grant(publish=False)
    await ann.hub.join(ann.peer, Join("r", "ann", broadcaster=True))
    ann.do(GoLive("r", exclusive=True))
    assert [message["code"] for message in ann.heard()] == ["not_allowed"]
    assert "r" not in replicas.network.rooms


@pytest.mark.parametrize("same_replica", [True, False])
async def test_only_the_same_user_can_take_over_a_stream(
    replicas: Replicas, same_replica: bool
) -> None:
    first = await replicas.caster(replicas.a, "first")
    other = replicas.tab(replicas.a if same_replica else replicas.b, StreamDialect(), "other")
    other.grant()
    await other.hub.join(other.peer, Join("r", "other", broadcaster=True))
    other.do(GoLive("r", exclusive=True))
    await replicas.settle()
    assert [message["code"] for message in other.heard()] == ["stream_taken"]
    assert other.peer.memberships == {}
    assert list(replicas.network.rooms["r"].members) == ["first"]
    # A reloaded page, before the server knows that the old one is gone.
    again = replicas.tab(replicas.b, StreamDialect(), "again", "first")
    again.grant()
    await again.hub.join(again.peer, Join("r", "again", broadcaster=True))
    again.do(GoLive("r", exclusive=True))
    await replicas.settle()
    assert first.types()[-1] == "error"
    assert list(replicas.network.rooms["r"].members) == ["again"]
    replicas.check()


async def test_viewer_cannot_take_over_another_users_stream(
    replicas: Replicas,
) -> None:
    await replicas.caster(replicas.a, "first")
    viewer = await replicas.viewer(replicas.b, "viewer")
    viewer.grant()
    replicas.forget()
    viewer.do(GoLive("r", exclusive=True))
    assert [message["code"] for message in viewer.heard()] == ["stream_taken"]
    assert [member.peer_id for member in replicas.network.rooms["r"].live] == ["first"]


@pytest.mark.parametrize("where", ["a", "b"])
async def test_moderator_kicks_peer_on_any_replica(replicas: Replicas, where: str) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    bob = await replicas.mesh(getattr(replicas, where), "bob")
    ann.do(Kick("r", "bob", "Spam"))
    await replicas.settle()
    assert bob.closed_with is None
    assert ann.heard()[-1]["code"] == "not_allowed"
    ann.grant(moderator=True)
    ann.do(Kick("r", "bob", "Spam"))
    await replicas.settle()
    assert bob.peer.closed_with == Close(1008, "Spam", LeaveCause.KICKED)
    assert ann.types() == ["user_left"]
    bob.depart()
    await replicas.settle()
    assert ann.types() == []
    replicas.check()


async def test_kicking_an_unknown_peer_is_an_error(replicas: Replicas) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    ann.grant(moderator=True)
    replicas.forget()
    ann.do(Kick("r", "nobody", "Spam"))
    (error,) = ann.heard()
    assert (error["code"], error["to"]) == ("target_not_found", "nobody")


# Signals

KINDS: list[tuple[SignalKind, str, str]] = [
    ("offer", "offer", "offer"),
    ("answer", "answer", "answer"),
    ("candidate", "ice_candidate", "candidate"),
    ("message", "message", "data"),
]


@pytest.mark.parametrize(("kind", "type_", "field"), KINDS)
async def test_signal_reaches_a_peer_on_the_other_replica(
    replicas: Replicas, kind: SignalKind, type_: str, field: str
) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    bob = await replicas.mesh(replicas.b, "bob")
    carl = await replicas.mesh(replicas.b, "carl")
    replicas.forget()
    ann.signal("bob", '{"x" : 1e3}', kind=kind)
    await replicas.settle()
    assert bob.heard() == [{"type": type_, field: {"x": 1000.0}, "from": "ann", "username": "Ann"}]
    assert ann.heard() == carl.heard() == []


async def test_signal_to_all_others_reaches_both_replicas(replicas: Replicas) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    others = [
        await replicas.mesh(hub, name)
        for hub, name in zip(
            (replicas.a, replicas.b, replicas.b), ("bob", "carl", "dora"), strict=True
        )
    ]
    replicas.forget()
    ann.signal("", addressed=To.OTHERS)
    await replicas.settle()
    for other in others:
        assert other.types() == ["offer"]
    assert ann.heard() == []


async def test_signals_to_one_and_to_all_keep_their_order(replicas: Replicas) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    near, far = await replicas.mesh(replicas.a, "near"), await replicas.mesh(replicas.b, "far")
    replicas.forget()
    for n in range(100):
        ann.signal("", str(n), addressed=To.OTHERS)
        for target in ("near", "far"):
            ann.signal(target, f"{n}.5", kind="answer")
    await replicas.settle()
    expected = [n / 2 for n in range(200)]
    for tab in (near, far):
        assert [m.get("offer", m.get("answer")) for m in tab.heard()] == expected


async def test_signal_to_a_user_reaches_one_peer_on_any_replica(replicas: Replicas) -> None:
    ann = await replicas.room(replicas.a, "a1", "ann")
    bob_1 = await replicas.room(replicas.b, "b1", "bob")
    bob_2 = await replicas.room(replicas.a, "b2", "bob")
    bob_3 = await replicas.room(replicas.b, "b3", "bob")
    bobs = (bob_1, bob_2, bob_3)

    async def reached() -> list[bool]:
        replicas.forget()
        ann.signal("bob", kind="signal", addressed=To.USER)
        await replicas.settle()
        return [bob.types() == ["webrtc-signal"] for bob in bobs]

    assert await reached() == [False, False, True]
    bob_1.do(GoLive("r"))
    await replicas.settle()
    assert await reached() == [True, False, False]
    bob_1.depart()
    bob_3.depart()
    await replicas.settle()
    assert await reached() == [False, True, False]


@pytest.mark.parametrize(("kind", "type_", "field"), KINDS)
async def test_sender_learns_that_the_target_is_gone(
    replicas: Replicas, kind: SignalKind, type_: str, field: str
) -> None:
    """The sender's replica does not know yet: the other replica returns the signal."""
    ann = await replicas.mesh(replicas.a, "ann")
    bob = await replicas.mesh(replicas.b, "bob")
    await replicas.mesh(replicas.b, "carl")
    replicas.forget()
    bob.depart()
    ann.signal("bob", kind=kind)
    await replicas.settle()
    told = ann.heard()
    assert [m["type"] for m in told] == ["user_left", "error"]
    assert told[1] == {
        "type": "error",
        "message": "Target client bob not found",
        "code": "target_not_found",
        "to": "bob",
    }


async def test_sender_learns_that_the_last_peer_of_a_replica_is_gone(
    replicas: Replicas,
) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    bob = await replicas.mesh(replicas.b, "bob")
    replicas.forget()
    bob.depart()
    ann.signal("bob")
    await replicas.settle()
    assert ann.types() == ["user_left", "error"]


async def test_stream_reports_a_missing_viewer_as_not_allowed(replicas: Replicas) -> None:
    caster = await replicas.caster(replicas.a, "caster")
    viewer = await replicas.viewer(replicas.b, "viewer")
    replicas.forget()
    viewer.depart()
    caster.signal("viewer", addressed=To.VIEWER)
    await replicas.settle()
    *_, error = caster.heard()
    assert (error["type"], error["code"]) == ("error", "not_allowed")


async def test_returned_signal_is_dropped_if_the_sender_is_gone(replicas: Replicas) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    bob = await replicas.mesh(replicas.b, "bob")
    witness = await replicas.mesh(replicas.a, "witness")
    replicas.forget()
    bob.depart()
    ann.signal("bob")
    ann.depart()
    await replicas.settle()
    assert witness.types() == ["user_left", "user_left"]
    assert ann.heard() == []


async def test_commands_need_room_membership(replicas: Replicas) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    bob = await replicas.mesh(replicas.b, "bob")
    stranger = replicas.tab(replicas.b, MeshDialect("r"), "stranger")
    replicas.forget()
    commands: list[RoomCommand] = [
        Signal("r", "offer", Raw(b"1"), To.OTHERS),
        GoLive("r"),
        StopLive("r"),
        Chat("r", "hello"),
        SetTyping("r", typing=True),
        ChangeProfile("r", "profile", "Somebody"),
        StartStreaming("r"),
        Leave("r"),
    ]
    for command in commands:
        stranger.do(command)
    stranger.signal("ann")
    await replicas.settle()
    assert stranger.types() == ["error", "error"]  # one for each signal
    assert ann.heard() == bob.heard() == []


# Takeover of a peer id


@pytest.mark.parametrize("same", [True, False], ids=["same replica", "other replica"])
async def test_newer_connection_replaces_the_older_silently(replicas: Replicas, same: bool) -> None:
    witnesses = [
        await replicas.mesh(hub, f"w{hub.bus.replica}") for hub in (replicas.a, replicas.b)
    ]
    older = await replicas.mesh(replicas.a, "ann")
    replicas.forget()
    newer = await replicas.mesh(replicas.a if same else replicas.b, "ann")
    assert older.closed_with == 4409
    assert newer.closed_with is None
    assert [len(m["users"]) for m in newer.heard() if m["type"] == "users_in_room"] == [2]
    older.depart()
    await replicas.settle()
    for witness in witnesses:
        assert witness.heard() == []
    for witness in witnesses:
        witness.signal("ann")
    await replicas.settle()
    assert newer.types() == ["offer", "offer"]
    assert older.heard() == []
    newer.depart()
    await replicas.settle()
    for witness in witnesses:
        assert witness.types() == ["user_left"]


@pytest.mark.parametrize("same", [True, False], ids=["same replica", "other replica"])
async def test_takeover_ends_the_broadcast_of_the_older_connection(
    replicas: Replicas, same: bool
) -> None:
    witnesses = [
        await replicas.mesh(hub, f"w{hub.bus.replica}") for hub in (replicas.a, replicas.b)
    ]
    older = await replicas.mesh(replicas.a, "ann")
    older.do(GoLive("r"))
    await replicas.settle()
    replicas.forget()
    await replicas.mesh(replicas.a if same else replicas.b, "ann")
    older.depart()
    await replicas.settle()
    for witness in witnesses:
        assert witness.types() == ["broadcast_stopped"]
    for hub in (replicas.a, replicas.b):
        assert hub.rooms["r"].live == ()


async def test_only_peer_of_a_replica_can_be_taken_over(replicas: Replicas) -> None:
    older = await replicas.mesh(replicas.a, "ann")
    await replicas.mesh(replicas.b, "ann")
    assert older.closed_with == 4409
    assert replicas.a.rooms == {}
    older.depart()
    await replicas.settle()
    assert replicas.network.rooms["r"].members.keys() == {"ann"}


async def test_late_commands_of_the_older_connection_are_ignored(replicas: Replicas) -> None:
    """The newer one is in the directory, but the older one's replica does not know yet."""
    far = await replicas.mesh(replicas.b, "far")
    near = await replicas.mesh(replicas.a, "near")
    older = await replicas.mesh(replicas.a, "ann")
    replicas.forget()
    newer = replicas.tab(replicas.b, MeshDialect("r"), "ann")
    await newer.join()
    older.do(GoLive("r"))
    older.depart()
    await replicas.settle()
    assert newer.closed_with is None
    assert replicas.network.rooms["r"].members["ann"].replica == "b"
    assert far.heard() == []
    assert near.types() == ["broadcast_started", "broadcast_stopped", "user_left", "user_joined"]


async def test_another_subject_cannot_take_over_the_id(replicas: Replicas) -> None:
    ann = await replicas.mesh(replicas.a, "ann", "ann")
    replicas.forget()
    thief = await replicas.mesh(replicas.b, "ann", "somebody else")
    assert thief.closed_with == 1008
    assert ann.closed_with is None
    assert ann.heard() == thief.heard() == []


async def test_simultaneous_connections_get_distinct_join_times(replicas: Replicas) -> None:
    """Even with one peer id; otherwise a late command could belong to either."""
    tabs = [await replicas.mesh(replicas.a, "ann") for _ in range(100)]
    assert [tab.closed_with for tab in tabs] == [4409] * 99 + [None]
    joined = [await replicas.mesh(replicas.a, f"ann-{n}") for n in range(100)]
    members = replicas.a.rooms["r"].members
    moments = [members[tab.peer.id].joined_at for tab in [tabs[-1], *joined]]
    assert moments == sorted(set(moments))


async def test_peer_that_moves_back_and_forth_stays_present(
    replicas: Replicas,
) -> None:
    """Events that were on their way to this replica meanwhile concern its past."""
    witness_a = await replicas.mesh(replicas.a, "wa")
    witness_b = await replicas.mesh(replicas.b, "wb")
    first = await replicas.mesh(replicas.b, "ann")
    first.do(GoLive("r"))
    await replicas.settle()
    replicas.forget()
    for n in range(20):
        witness_b.signal("", str(n), addressed=To.OTHERS)
    first.depart()
    second = replicas.tab(replicas.a, MeshDialect("r"), "ann")
    await second.join()
    third = replicas.tab(replicas.b, MeshDialect("r"), "ann")
    await third.join()
    fourth = replicas.tab(replicas.a, MeshDialect("r"), "ann")
    await fourth.join()
    await replicas.settle()
    replicas.check()
    assert [tab.closed_with for tab in (second, third, fourth)] == [4409, 4409, None]
    replicas.forget()
    for witness in (witness_a, witness_b):
        witness.signal("ann")
    await replicas.settle()
    assert fourth.types() == ["offer", "offer"]


@pytest.mark.parametrize("seed", range(20))
async def test_concurrent_joins_with_one_peer_id_leave_one_peer(
    replicas: Replicas, seed: int
) -> None:
    witnesses = [
        await replicas.mesh(hub, f"w{hub.bus.replica}") for hub in (replicas.a, replicas.b)
    ]
    tabs = [
        replicas.tab((replicas.a, replicas.b)[(seed >> n) & 1], MeshDialect("r"), "ann")
        for n in range(5)
    ]

    async def stay(tab: Tab) -> None:
        with tab.hub.stay(tab.peer):
            await tab.join()
            with trio.CancelScope() as scope:
                tab.peer.live_in(scope)
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        for tab in tabs:
            nursery.start_soon(stay, tab)
        await replicas.settle()
        replicas.check()
        assert sorted(tab.closed_with or 0 for tab in tabs) == [0, 4409, 4409, 4409, 4409]
        assert [len(hub.rooms["r"].members) for hub in (replicas.a, replicas.b)] == [3, 3]
        nursery.cancel_scope.cancel()
    await replicas.settle()
    for witness in witnesses:
        heard = [m["type"] for m in witness.heard() if m.get("client_id") == "ann"]
        assert (heard[0], heard[-1]) == ("user_joined", "user_left")


# Other events in a room


async def test_chat_has_the_same_id_on_both_replicas(replicas: Replicas) -> None:
    ann = await replicas.room(replicas.a, "a1", "ann")
    bob = await replicas.room(replicas.b, "b1", "bob")
    replicas.forget()
    ann.do(Chat("r", "hello"))
    await replicas.settle()
    (here,), (there,) = ann.heard(), bob.heard()
    assert here == there
    (kept,) = await replicas.b.notes.chats("r", 10)
    assert (kept.id, kept.content) == (here["id"], "hello")


async def test_new_name_applies_to_all_peers_of_the_user(replicas: Replicas) -> None:
    await replicas.room(replicas.a, "b1", "bob")
    bob = await replicas.room(replicas.b, "b2", "bob")
    bob.do(ChangeProfile("r", "profile_updated", "Robert"))
    await replicas.settle()
    for hub in (replicas.a, replicas.b):
        assert [m.username for m in hub.rooms["r"].members.values()] == ["Robert", "Robert"]


async def test_typing_is_sent_to_the_other_replica(replicas: Replicas) -> None:
    ann = await replicas.room(replicas.a, "a1", "ann")
    other_tab = await replicas.room(replicas.b, "a2", "ann")
    bob = await replicas.room(replicas.b, "b1", "bob")
    replicas.forget()
    ann.do(SetTyping("r", typing=True))
    await replicas.settle()
    assert bob.types() == ["typing_start"]
    assert ann.heard() == other_tab.heard() == []


# Failures


class SpeechlessDialect(MeshDialect):
    """A dialect that fails to encode `WentLive`."""

    @staticmethod
    def tell(event: Event) -> Iterable[Notice]:
        match event:
            case WentLive():
                raise RuntimeError("no words")
        return MeshDialect.tell(event)


async def test_peer_with_failing_dialect_is_closed_and_others_served(
    replicas: Replicas, caplog: pytest.LogCaptureFixture
) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    bob = await replicas.mesh(replicas.b, "bob")
    speechless = await replicas.enter(replicas.tab(replicas.b, SpeechlessDialect("r"), "carl"))
    replicas.forget()
    ann.do(GoLive("r"))
    await replicas.settle()
    assert speechless.closed_with == 1011
    assert bob.types() == ["broadcast_started"]
    assert "no words" in caplog.text
    speechless.depart()
    await replicas.settle()
    assert ann.types() == bob.types() == ["user_left"]


async def test_connections_are_closed_gradually(autojump_clock: MockClock) -> None:
    async with open_replicas() as replicas:
        tabs = [await replicas.mesh(replicas.a, f"p{number}") for number in range(20)]
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(replicas.a.close_all, Close(1001), within=1000))
            await trio.sleep(10 / LEAVE_RATE)
            assert 9 <= [tab.closed_with for tab in tabs].count(1001) <= 11
            late = replicas.tab(replicas.a, MeshDialect("r"), "late")
            assert late.closed_with == 1001
        assert {tab.closed_with for tab in tabs} == {1001}
        assert trio.current_time() - began == pytest.approx(20 / LEAVE_RATE)
        more = [await replicas.mesh(replicas.b, f"q{number}") for number in range(20)]
        began = trio.current_time()
        await replicas.b.close_all(Close(1001), within=0.1)
        assert {tab.closed_with for tab in more} == {1001}
        assert trio.current_time() - began == pytest.approx(0.1)


async def test_closing_hub_closes_present_and_new_connections(
    replicas: Replicas,
) -> None:
    ann = await replicas.mesh(replicas.a, "ann")
    bob = await replicas.mesh(replicas.b, "bob")
    await replicas.a.close_all(Close(1001, "Server going away"))
    late = replicas.tab(replicas.a, MeshDialect("r"), "late")
    assert (ann.closed_with, late.closed_with, bob.closed_with) == (1001, 1001, None)
    replicas.forget()
    ann.depart()
    await replicas.settle()
    assert bob.types() == ["user_left"]


# After a restart


async def test_broadcast_is_restored_only_for_the_same_subject(replicas: Replicas) -> None:
    """Two issuers may use the same user id; in open mode, identities are not verified."""
    notes = replicas.a.notes
    lost = make_member("old", "ann", dialect="live", subject="live one\0ann", live="video")
    for verified, subject, is_live in (
        (True, "other\0ann", False),
        (True, "one\0ann", True),
        (False, "whatever", True),
    ):
        notes.lose_member("r", lost, 0.0)
        tab = replicas.tab(replicas.a, LiveDialect({}), f"tab-{subject}", "ann")
        assert tab.peer.identity is not None
        tab.peer.identity = replace(tab.peer.identity, subject=subject, verified=verified)
        await tab.join("r")
        assert [bool(m.live) for m in replicas.a.rooms["r"].members.values()] == [is_live], subject
        tab.depart()


async def test_broadcast_is_not_restored_without_publish_grant(replicas: Replicas) -> None:
    lost = make_member("old", "ann", dialect="live", subject="live ann", live="video")
    replicas.a.notes.lose_member("r", lost, 0.0)
    tab = replicas.tab(replicas.a, LiveDialect({}), "a1", "ann")
    tab.grant(publish=False)
    await tab.join("r")
    assert [m.live for m in replicas.a.rooms["r"].members.values()] == [None]


async def test_broadcast_is_not_restored_in_mesh(replicas: Replicas) -> None:
    """Mesh clients announce their broadcasts again themselves."""
    close = Close(CloseCode.GOING_AWAY, "Server going away")
    hub = replicas.a
    mesh, live = await replicas.mesh(hub, "m1", "ann"), await replicas.live(hub, "l1", "ann")
    for tab in (mesh, live):
        tab.do(GoLive("r"))
    hub.rooms.closing = close
    for tab in (mesh, live):
        tab.peer.close(close)
        tab.depart()
    assert await hub.notes.lost_member("r", "ann", "mesh") is None
    assert await hub.notes.lost_member("r", "ann", "live") is not None
