"""The session, and its outbox over a real pair of sockets."""

import socket
from typing import NamedTuple

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.clients import PATIENCE
from tests.conftest import settings
from tests.raw import split_frames
from tests.sessions import Recorder, make_session
from tests.test_outbox import LIMIT, read_what_is_there, socket_pair
from trio_signal.alarm import Alarm, Alarms
from trio_signal.auth import OpenAuth
from trio_signal.bus.memory import MemoryBus
from trio_signal.dialects.mesh import MeshDialect
from trio_signal.dialects.room import RoomDialect
from trio_signal.errors import CloseCode
from trio_signal.hub import Hub
from trio_signal.messages.commands import Authenticate, Close, Join, LeaveCause, StopLive
from trio_signal.messages.events import Refusal, Refused
from trio_signal.messages.identity import Identity
from trio_signal.metrics import Metrics
from trio_signal.outbox import Flusher, Outbox
from trio_signal.readers import Readers
from trio_signal.rounds import Rounds
from trio_signal.service import Service
from trio_signal.session import Goodbye, Session

GRACE = 10.0


def make_session_on(sock: socket.socket) -> tuple[Session, Outbox]:
    outbox = Outbox(sock, LIMIT, Flusher(), Alarm())
    return make_session("s1", RoomDialect("r", Authenticate("ann")), outbox), outbox


async def test_slow_session_is_closed() -> None:
    with socket_pair() as (server, _client):
        session, _outbox = make_session_on(server)
        with trio.fail_after(PATIENCE), trio.CancelScope() as scope:
            session.live_in(scope)
            while session.closed_with is None:
                session.send(b"x" * 1000)
            # The connection still sends the close frame, when its turn comes.
            session.send(b"more")
            await trio.sleep_forever()
        assert scope.cancelled_caught
        assert session.is_leaving
        assert session.closed_with == Close(
            CloseCode.TRY_AGAIN_LATER, "Reads too slowly", LeaveCause.TOO_SLOW
        )


async def test_dead_session_is_not_closed_as_too_slow() -> None:
    with socket_pair() as (server, client):
        client.close()
        session, outbox = make_session_on(server)
        session.send(b"anybody?")
        await outbox.flush()
        session.send(b"anybody?")
        assert session.closed_with is None


async def test_first_close_reason_wins() -> None:
    session = make_session("s1", RoomDialect("r", Authenticate("ann")))
    session.close(Close(CloseCode.REPLACED, "Replaced"))
    session.close(Close(CloseCode.GOING_AWAY))
    assert session.closed_with == Close(CloseCode.REPLACED, "Replaced")


async def test_close_before_the_connection_runs_ends_it() -> None:
    session = make_session("s1", RoomDialect("r", Authenticate("ann")))
    session.close(Close(CloseCode.GOING_AWAY))
    assert session.is_leaving
    with trio.fail_after(PATIENCE), trio.CancelScope() as scope:
        session.live_in(scope)
        await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_answer_is_sent_in_the_dialect() -> None:
    with socket_pair() as (server, client):
        session, outbox = make_session_on(server)
        session.tell(Refused(StopLive("r"), Refusal.NOT_LIVE, "2026-11-20T10:15:30.123Z"))
        await outbox.flush()
        ((frame,), rest) = split_frames(read_what_is_there(client))
        assert frame.message["type"] == "broadcast-stopped"
        assert (rest, session.closed_with) == (b"", None)


async def test_answer_may_close_the_session() -> None:
    with socket_pair() as (server, client):
        session, outbox = make_session_on(server)
        session.tell(Refused(StopLive("r"), Refusal.ROOM_FULL, "2026-11-20T10:15:30.123Z"))
        assert session.closed_with == Close(CloseCode.TRY_AGAIN_LATER, "Room is full")
        await outbox.flush()
        assert read_what_is_there(client) == b""


# The session's task


class Line:
    """A connection without a socket, which lasts as long as a test needs it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._end = trio.Event()

    async def carry(self) -> None:
        self.events.append("up")
        await self._end.wait()
        self.events.append("down")

    async def say_goodbye(self, goodbye: Goodbye) -> None:
        self.events.append("goodbye")

    def close(self) -> None:
        self.events.append("closed")

    def lose(self) -> None:
        self._end.set()


class Stage(NamedTuple):
    """A session in a room with a witness, and its first connection."""

    session: Session
    line: Line
    heard: Recorder
    service: Service

    def be_resumable(self) -> None:
        identity = self.session.identity
        assert identity is not None
        self.service.hub.resuming.open(self.session, identity, Authenticate("ann"))

    def types(self) -> list[str]:
        """The types that the witness received."""
        return [message["type"] for message in self.heard.take()]


@pytest.fixture
async def stage(nursery: trio.Nursery) -> Stage:
    bus = MemoryBus("here")
    hub = Hub(bus, resume_grace=GRACE)
    await nursery.start(bus.run, hub.deliver)
    heard = Recorder()
    ann, witness = (
        make_session(name, MeshDialect("r"), out) for name, out in (("ann", None), ("bob", heard))
    )
    for session in (witness, ann):
        session.identity = Identity(session.id, session.id, session.id)
        await hub.join(session, Join("r", session.id))
    line = Line()
    service = Service(hub, OpenAuth(), settings(), Metrics(), Rounds(), Alarms(), Readers(Rounds()))
    nursery.start_soon(service.run, ann, line)
    await wait_all_tasks_blocked()
    heard.take()
    return Stage(ann, line, heard, service)


async def test_session_without_grace_ends_with_its_connection(stage: Stage) -> None:
    stage.line.lose()
    await wait_all_tasks_blocked()
    assert stage.types() == ["user_left"]
    assert stage.line.events == ["up", "down", "goodbye"]


async def test_resumable_session_waits_for_its_client(
    stage: Stage, autojump_clock: MockClock
) -> None:
    stage.be_resumable()
    stage.line.lose()
    await trio.sleep(GRACE - 1)
    assert stage.session.is_away
    assert stage.line.events == ["up", "down", "goodbye", "closed"]
    assert stage.types() == []  # the witness's own session is not resumable
    await trio.sleep(2)
    assert stage.types() == ["user_left"]


async def test_another_task_continues_a_session_silently(
    stage: Stage, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    session, second, outbox = stage.session, Line(), Recorder()
    stage.be_resumable()
    stage.line.lose()
    await trio.sleep(GRACE - 1)
    newcomer = make_session("new", MeshDialect("r"), outbox)
    nursery.start_soon(stage.service.run, newcomer, second)
    await wait_all_tasks_blocked()
    session.go_on(newcomer)
    await trio.sleep(GRACE + 1)
    assert (session.is_away, second.events, stage.types()) == (False, ["up"], [])
    session.send(b'{"type":"welcome"}')
    assert [message["type"] for message in outbox.take()] == ["welcome"]
    second.lose()
    await trio.sleep(GRACE + 1)
    assert stage.types() == ["user_left"]


@pytest.mark.parametrize("closed", ["before", "while away", "by the client"])
async def test_closed_session_does_not_wait(
    stage: Stage, autojump_clock: MockClock, closed: str
) -> None:
    session = stage.session
    stage.be_resumable()
    if closed == "before":
        session.close(Close(CloseCode.POLICY))
    elif closed == "by the client":
        session.close_received = b"\x03\xe8"
    stage.line.lose()
    await wait_all_tasks_blocked()
    if closed == "while away":
        assert session.is_away
        session.close(Close(CloseCode.POLICY))
        await wait_all_tasks_blocked()
    assert not session.is_away
    assert stage.types() == ["user_left"]
