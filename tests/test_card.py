"""However a live peer's connection ends: *stopped*, then *left*, each once, and nothing remains.

Two replicas with Redis. The witness is on the other replica, so it hears through Redis; once the
peer has gone, the peer's replica no longer subscribes to the room.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
import trio

from tests.clients import PATIENCE
from tests.conftest import be_idle, settings
from tests.raw import CLOSE, PING, PONG, TEXT, RawClient, client_frame, open_raw
from tests.redis.server import RedisServer, open_redis_server
from tests.replicas.processes import open_cluster
from tests.tokens import SECRET, make_token
from trio_signal.connection import Connection
from trio_signal.dialects.mesh import MeshDialect
from trio_signal.server import Server, open_server
from trio_signal.session import Session

ROOM = "the card"


class Stage(NamedTuple):
    """Two replicas in this process; the peer is on the first."""

    here: Server
    there: Server
    redis: RedisServer
    prefix: str
    monkeypatch: pytest.MonkeyPatch

    async def subscribers(self) -> int:
        """How many replicas are subscribed to the room."""
        channel = f"{self.prefix}trio_signal:room:{ROOM}"
        _, count = await self.redis.ask("PUBSUB", "NUMSUB", channel)
        return int(count)


def address(server: Server) -> str:
    return f"{server.host}:{server.port}"


async def enter(
    client: RawClient, name: str, *, moderator: bool = False, ttl: float = 3600
) -> None:
    await client.upgrade(f"/ws/{ROOM.replace(' ', '%20')}")
    token = make_token(sub=name, moderator=moderator, exp=time.time() + ttl)
    await client.say({"type": "auth_token", "token": token, "clientId": name})
    await client.wait_for("users_in_room")


def tasks_called(name: str) -> Iterator[trio.lowlevel.Task]:
    """The tasks of this name in Trio's task tree."""
    root = trio.lowlevel.current_root_task()
    tasks = [root] if root is not None else []
    for task in tasks:
        for nursery in task.child_nurseries:
            tasks += nursery.child_tasks
        if task.name == name:
            yield task


@asynccontextmanager
async def open_stage(
    directory: Path, monkeypatch: pytest.MonkeyPatch, **given: object
) -> AsyncIterator[Stage]:
    prefix = f"{uuid4()}:"
    async with open_redis_server(directory) as redis, AsyncExitStack() as stack:
        servers = []
        for _ in range(2):
            config = settings(redis_url=redis.url, redis_prefix=prefix, jwt_secret=SECRET, **given)
            server = await stack.enter_async_context(open_server(config))
            await be_idle(server)
            servers.append(server)
        yield Stage(servers[0], servers[1], redis, prefix, monkeypatch)


def is_peer(connection: Connection) -> bool:
    identity = connection.session.identity
    return identity is not None and identity.user_id == "peer"


# Ways in which a connection ends


async def cancelled_scope(stage: Stage, peer: RawClient) -> None:
    """Cancel the scope of the connection's nursery."""
    (session,) = stage.here.hub.participants
    assert isinstance(session, Session)
    assert session._scope is not None
    session._scope.cancel()


async def exception_in_receive(stage: Stage, peer: RawClient) -> None:
    parse = Connection._parse

    def fail(connection: Connection, data: bytes) -> None:
        if is_peer(connection):
            raise RuntimeError("receive failed")
        parse(connection, data)

    stage.monkeypatch.setattr(Connection, "_parse", fail)
    await peer.say({"type": "ping"})


async def exception_in_heartbeat(stage: Stage, peer: RawClient) -> None:
    pass_time = Session.pass_time

    def fail(session: Session, now: float) -> None:
        if session.identity is not None and session.identity.user_id == "peer":
            raise RuntimeError("heartbeat failed")
        pass_time(session, now)

    stage.monkeypatch.setattr(Session, "pass_time", fail)


async def exception_in_dialect(stage: Stage, peer: RawClient) -> None:
    commands = MeshDialect.commands

    def fail(dialect: MeshDialect, message: object, now: str) -> object:
        if dialect._identity is not None and dialect._identity.user_id == "peer":
            raise RuntimeError("the dialect failed")
        return commands(dialect, message, now)

    stage.monkeypatch.setattr(MeshDialect, "commands", fail)
    await peer.say({"type": "ping"})


async def reset(stage: Stage, peer: RawClient) -> None:
    peer.reset()


async def goodbye(stage: Stage, peer: RawClient) -> None:
    """A close frame with 1000."""
    await peer.send(client_frame(CLOSE, (1000).to_bytes(2)))


async def another_close(stage: Stage, peer: RawClient) -> None:
    """A close frame of a client that will open another connection."""
    await peer.send(client_frame(CLOSE, (4000).to_bytes(2)))


async def token_runs_out(stage: Stage, peer: RawClient) -> None:
    """The peer does not renew it."""


async def silence(stage: Stage, peer: RawClient) -> None:
    """No pong comes back."""


async def full_outbox(stage: Stage, peer: RawClient) -> None:
    """The peer reads nothing of what a client on the other replica sends it."""
    async with open_raw(address(stage.there)) as talker:
        await enter(talker, "talker")
        for _ in range(200):
            await talker.say({"type": "message", "data": "x" * 50_000, "to": "peer"})
        await talker.wait_for("user_left")


async def kick(stage: Stage, peer: RawClient) -> None:
    async with open_raw(address(stage.there)) as moderator:
        await enter(moderator, "moderator", moderator=True)
        await moderator.say({"type": "kick", "client_id": "peer"})
        await moderator.wait_for("user_left")


#: Each way with the cause that the others receive, and its settings.
WAYS: dict[str, tuple[Callable[[Stage, RawClient], Awaitable[None]], str, dict[str, float]]] = {
    "cancelled scope": (cancelled_scope, "lost", {}),
    "exception in receive": (exception_in_receive, "error", {}),
    "exception in heartbeat": (
        exception_in_heartbeat,
        "error",
        {"heartbeat": 2, "heartbeat_timeout": 60},
    ),
    "exception in a dialect": (exception_in_dialect, "error", {}),
    "goodbye": (goodbye, "closed", {}),
    "another close": (another_close, "lost", {}),
    "token runs out": (token_runs_out, "token_expired", {}),
    "reset": (reset, "lost", {}),
    "silence": (silence, "lost", {"heartbeat": 1, "heartbeat_timeout": 2}),
    "full outbox": (full_outbox, "too_slow", {"outbox_bytes": 100_000}),
    "kick": (kick, "kicked", {}),
}


async def hear_of_the_end(witness: RawClient, cause: str) -> None:
    """The witness receives the peer's *stopped*, then *left* with the cause, each once."""
    heard: list[str] = []
    said = None
    while heard[-1:] != ["user_left"]:
        frame = await witness.receive()
        if frame.opcode == PING:
            await witness.send(client_frame(PONG, frame.payload))
        elif (message := frame.message).get("client_id") == "peer":
            heard.append(message["type"])
            said = message.get("cause")
    assert (heard, said) == (["broadcast_stopped", "user_left"], cause)
    await witness.say({"type": "ping", "id": 1})
    while (message := await next_text(witness))["type"] != "pong":
        assert message.get("client_id") != "peer"


async def next_text(client: RawClient) -> dict[str, Any]:
    while (frame := await client.receive()).opcode != TEXT:
        if frame.opcode == PING:
            await client.send(client_frame(PONG, frame.payload))
    return frame.message


@pytest.mark.parametrize(("way", "cause", "given"), WAYS.values(), ids=WAYS)
async def test_ended_connection_leaves_nothing_behind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: Callable[[Stage, RawClient], Awaitable[None]],
    cause: str,
    given: dict[str, float],
) -> None:
    async with (
        open_stage(tmp_path, monkeypatch, **given) as stage,
        open_raw(address(stage.there)) as witness,
        open_raw(address(stage.here), receive_buffer=4096) as peer,
    ):
        await enter(witness, "witness")
        await enter(peer, "peer", ttl=2.5 if way is token_runs_out else 3600)
        await peer.say({"type": "broadcast_start"})
        await witness.wait_for("broadcast_started")
        assert await stage.subscribers() == 2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear_of_the_end, witness, cause)
            await way(stage, peer)
        await until(lambda: not stage.here.hub.participants)
        assert not stage.here.hub.rooms
        with trio.fail_after(PATIENCE):
            while await stage.subscribers() > 1:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await peer.stream.aclose()
        await until(lambda: len(list(tasks_called("connection"))) == 1)  # the witness's


async def until(condition: Callable[[], bool]) -> None:
    """Poll for a condition that no message announces."""
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


@pytest.mark.parametrize(
    ("number", "cause"),
    [(SIGTERM, "shutdown"), (SIGKILL, "replica_lost")],
    ids=lambda given: getattr(given, "name", ""),
)
async def test_ended_process_leaves_nothing_behind(
    tmp_path: Path, number: Signals, cause: str
) -> None:
    async with open_cluster(tmp_path, 2, TRIO_SIGNAL_JWT_SECRET=SECRET) as cluster:
        here, there = cluster.replicas
        async with open_raw(there.base) as witness, open_raw(here.base) as peer:
            await enter(witness, "witness")
            await enter(peer, "peer")
            await peer.say({"type": "broadcast_start"})
            await witness.wait_for("broadcast_started")
            cluster.replicas.remove(here)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hear_of_the_end, witness, cause)
                await here.end(number)
            channel = f"trio_signal:room:{ROOM}"
            assert (await cluster.redis.ask("PUBSUB", "NUMSUB", channel))[1] == 1
