"""One connection's life, on a pair of sockets.

Tests in which time passes use a clock that jumps. The sockets are local: what one end has sent
is already at the other, so the clock cannot jump over data in flight.
"""

import gc
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.clients import PATIENCE
from tests.conftest import settings
from tests.raw import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Frame,
    RawClient,
    client_close,
    client_frame,
    client_text,
    split_frames,
)
from trio_signal.alarm import Alarms
from trio_signal.auth import OpenAuth
from trio_signal.bus.memory import MemoryBus
from trio_signal.connection import _TOGETHER, Connection, _ping_after
from trio_signal.dialects import Dialect, dialect_at
from trio_signal.dialects.room import RoomDialect
from trio_signal.errors import AuthenticationError, CloseCode
from trio_signal.hub import Hub
from trio_signal.limits import Limits
from trio_signal.messages.commands import Action, Authenticate, Close, Send
from trio_signal.messages.events import Answer, Event, Notice, Typing
from trio_signal.messages.identity import Grants, Identity, ServerInfo
from trio_signal.metrics import Metrics
from trio_signal.readers import Readers
from trio_signal.rounds import Rounds
from trio_signal.service import MAX_MALFORMED, Service
from trio_signal.session import Session

#: Seconds, shorter than the clients' time limit.
HEARTBEAT, HEARTBEAT_TIMEOUT, AUTH_TIMEOUT = 3.0, 2.0, 4.0
GOODBYE = 2.0

KEEP_ALIVE = client_text({"type": "keep_alive"})
NONSENSE = client_text("nonsense")


class World:
    """A hub, and connections to it whose clients belong to the test."""

    def __init__(self, hub: Hub, nursery: trio.Nursery) -> None:
        self.hub = hub
        self.nursery = nursery
        self.limits = Limits(settings(connects_per_ip_per_minute=10_000))
        self.metrics = Metrics()
        self.rounds = Rounds()
        self.alarms = Alarms()
        self.readers = Readers(self.rounds)
        nursery.start_soon(self.alarms.run)
        nursery.start_soon(self.readers.run)
        self._clients: list[socket.socket] = []

    def connect(
        self,
        dialect: Dialect | str = "/ws/r/ann",
        *,
        auth: OpenAuth | None = None,
        nursery: trio.Nursery | None = None,
        token: str | None = None,
        **given: object,
    ) -> tuple[RawClient, Connection]:
        server, client = socket.socketpair()
        server.setblocking(False)
        self._clients.append(client)
        given = {
            "heartbeat": HEARTBEAT,
            "heartbeat_timeout": HEARTBEAT_TIMEOUT,
            "auth_timeout": AUTH_TIMEOUT,
            **given,
        }
        service = Service(
            self.hub,
            auth or OpenAuth(),
            settings(**given),
            self.metrics,
            self.rounds,
            self.alarms,
            self.readers,
        )
        connection = Connection(
            server,
            at(dialect) if isinstance(dialect, str) else dialect,
            service=service,
            token=token,
            lease=self.limits.admit("192.0.2.1", trio.current_time()),
        )
        (nursery or self.nursery).start_soon(_run, service, connection, server)
        return RawClient.of(client), connection

    async def enter(
        self, dialect: Dialect | str = "/ws/r/ann", **given: Any
    ) -> tuple[RawClient, Connection]:
        """The same, and the client is in its room."""
        client, connection = self.connect(dialect, **given)
        await client.wait_for("room_state")
        return client, connection

    def close(self) -> None:
        for client in self._clients:
            client.close()


def at(target: str) -> Dialect:
    dialect = dialect_at(target, ["room", "live", "stream", "mesh"])
    assert dialect is not None
    return dialect


async def _run(service: Service, connection: Connection, sock: socket.socket) -> None:
    with sock:
        await service.run(connection.session, connection)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    bus = MemoryBus("here")
    hub = Hub(bus)
    async with trio.open_nursery() as nursery:
        await nursery.start(bus.run, hub.deliver)
        nursery.start_soon(hub.flusher.run)
        world = World(hub, nursery)
        nursery.start_soon(world.rounds.run)
        yield world
        nursery.cancel_scope.cancel()
    world.close()
    assert hub.participants == set()
    assert hub.rooms == {}


def types(frames: Iterable[Frame]) -> list[str]:
    return [frame.message["type"] for frame in frames if frame.opcode == TEXT]


async def hears(client: RawClient) -> list[str]:
    """The types of everything this client has received up to now."""
    await client.send(client_frame(PING, b"up to now"))
    frames = []
    while (frame := await client.receive()) != Frame(PONG, b"up to now"):
        frames.append(frame)
    return types(frames)


# receive


async def test_messages_are_processed_in_order(world: World) -> None:
    ann, _ = await world.enter()
    await ann.send(
        client_text({"type": "message", "content": "one"}),
        client_text({"type": "typing_start"}),
        client_text({"type": "message", "content": "two"}),
        KEEP_ALIVE,
    )
    one = await ann.wait_for("message")
    two = await ann.wait_for("message")
    assert (one["content"], two["content"]) == ("one", "two")
    assert await hears(ann) == ["ping"]


async def test_busy_client_does_not_starve_others(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_signal.rounds.BUDGET", 0)
    ann, _ = await world.enter("/ws/r/ann")
    bob, _ = await world.enter("/ws/r/bob")
    for name, client in (("ann", ann), ("bob", bob)):
        said = [client_text({"type": "message", "content": name}) for _ in range(20)]
        client.send_nowait(*said)
    heard = [(await ann.wait_for("message"))["content"] for _ in range(40)]
    # Whichever came first, the other did not wait for all twenty messages.
    assert heard.count("ann") == heard.count("bob") == 20
    assert len(set(heard[:10])) == 2


async def test_message_may_arrive_byte_by_byte(world: World) -> None:
    ann, _ = await world.enter()
    for byte in KEEP_ALIVE:
        await wait_all_tasks_blocked()
        await ann.send(bytes((byte,)))
    await ann.wait_for("ping")


@pytest.mark.parametrize("payload", [b"", b"\xff\0", b"x" * 125])
async def test_ping_is_answered_with_its_payload(world: World, payload: bytes) -> None:
    ann, _ = await world.enter()
    await ann.send(client_frame(PING, payload))
    assert await ann.receive() == (PONG, payload)


async def test_ping_between_fragments_is_answered(world: World) -> None:
    ann, _ = await world.enter()
    await ann.send(client_frame(TEXT, b'{"type":', final=False), client_frame(PING, b"?"))
    assert await ann.receive() == (PONG, b"?")
    await ann.send(client_frame(0, b'"keep_alive"}'))
    assert (await ann.receive()).message["type"] == "ping"


async def test_unsolicited_pong_is_ignored(world: World) -> None:
    ann, _ = await world.enter()
    await ann.send(client_frame(PONG, b"unasked"), KEEP_ALIVE)
    assert (await ann.receive()).message["type"] == "ping"


@pytest.mark.parametrize(
    ("code", "reason", "frame"),
    [
        (1002, "Frame is not masked", b"\x81\x02hi"),
        (1003, "Only text messages are accepted", client_frame(BINARY, b"{}")),
        (1007, "Text is not UTF-8", client_frame(TEXT, b"\xff")),
        (1009, "Message too big", client_text("x" * 200_000)),
    ],
)
async def test_invalid_frame_closes_the_connection(
    world: World, code: int, reason: str, frame: bytes
) -> None:
    ann, _ = await world.enter()
    # Messages before the frame are processed, those after it are not.
    await ann.send(KEEP_ALIVE, frame, KEEP_ALIVE)
    assert types(await ann.expect_close(code, reason)) == ["ping"]


# malformed messages


async def test_fifty_malformed_messages_in_a_row_close(world: World) -> None:
    ann, _ = await world.enter()
    assert MAX_MALFORMED == 50
    await ann.send(NONSENSE * 50, KEEP_ALIVE)
    assert types(await ann.expect_close(1008, "Too many malformed messages")) == ["error"] * 50


async def test_valid_message_resets_the_malformed_count(world: World) -> None:
    ann, _ = await world.enter()
    await ann.send(*(NONSENSE * 49 + KEEP_ALIVE for _ in range(3)))
    assert await hears(ann) == ([*["error"] * 49, "ping"] * 3)


async def test_control_frames_do_not_reset_the_malformed_count(world: World) -> None:
    ann, _ = await world.enter()
    await ann.send(*(NONSENSE + client_frame(PONG) for _ in range(50)))
    await ann.expect_close(1008, "Too many malformed messages")


# authentication


async def test_authentication_times_out(world: World, autojump_clock: MockClock) -> None:
    start = trio.current_time()
    ann, _ = world.connect("/ws/r")
    await ann.wait_for("auth_required")
    assert await ann.expect_close(1008, "Authentication timeout") == [(PING, b"")]
    assert AUTH_TIMEOUT <= trio.current_time() - start <= AUTH_TIMEOUT * 1.1 + 1e-6


async def test_partial_token_does_not_extend_the_timeout(
    world: World, autojump_clock: MockClock
) -> None:
    start = trio.current_time()
    ann, _ = world.connect("/ws/r")
    for byte in client_text({"type": "auth_token", "token": "t"})[:3]:
        await trio.sleep(1)
        await ann.send(bytes((byte,)))
    await ann.expect_close(1008, "Authentication timeout")
    assert AUTH_TIMEOUT <= trio.current_time() - start <= AUTH_TIMEOUT * 1.1 + 1e-6


async def test_pings_do_not_extend_the_timeout(world: World, autojump_clock: MockClock) -> None:
    start = trio.current_time()
    ann, _ = world.connect("/ws/r")
    for _ in range(3):
        await trio.sleep(1)
        await ann.send(client_frame(PING))
    await ann.expect_close(1008, "Authentication timeout")
    assert AUTH_TIMEOUT <= trio.current_time() - start <= AUTH_TIMEOUT * 1.1 + 1e-6


async def test_token_sent_in_time_is_accepted_by_a_busy_server(world: World) -> None:
    clients = [world.connect("/ws/r", auth_timeout=0.2)[0] for _ in range(20)]
    for client in clients:
        await client.wait_for("auth_required")
        await client.say({"type": "auth_token", "token": "t"})
    time.sleep(0.5)  # the server has not read it, and it is too late  # noqa: ASYNC251
    for client in clients:
        await client.wait_for("users_in_room")


async def test_token_that_was_just_read_is_accepted_after_the_timeout(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection's task, which verifies it, runs a round after it was read."""
    receive_nowait = Connection.receive_nowait

    def receive_late(connection: Connection) -> bool:
        must_continue = receive_nowait(connection)
        now = trio.current_time()
        connection.session.deadlines.authenticate_by = now
        connection._beat(now)
        return must_continue

    ann, _ = world.connect("/ws/r")
    await ann.wait_for("auth_required")
    monkeypatch.setattr(Connection, "receive_nowait", receive_late)
    await ann.say({"type": "auth_token", "token": "t"})
    await ann.wait_for("users_in_room")


async def test_authentication_timeout_is_extended_only_once(
    world: World, autojump_clock: MockClock
) -> None:
    start = trio.current_time()
    ann, _ = world.connect("/ws/r", auth=SlowAuth())
    await trio.sleep(AUTH_TIMEOUT / 2)
    await ann.say({"type": "auth_token", "token": "t"})
    await trio.sleep(AUTH_TIMEOUT / 2)
    await ann.send(client_frame(PONG))  # not read while the token is verified
    await ann.expect_close(1008, "Authentication timeout")
    assert AUTH_TIMEOUT * 2 <= trio.current_time() - start <= AUTH_TIMEOUT * 2.1 + 1e-6


async def test_authenticated_client_does_not_time_out(
    world: World, autojump_clock: MockClock
) -> None:
    ann, _ = world.connect("/ws/r", heartbeat=1000)
    await ann.say({"type": "auth_token", "token": "t"})
    await ann.wait_for("users_in_room")
    await trio.sleep(AUTH_TIMEOUT * 3)
    assert await hears(ann) == []


class SlowAuth(OpenAuth):
    """Like an authenticator that waits for a key server which does not answer."""

    async def authenticate(self, claims: Authenticate) -> Identity:
        await trio.sleep_forever()
        raise AssertionError


class NoAuth(OpenAuth):
    """Refuses everybody."""

    async def authenticate(self, claims: Authenticate) -> Identity:
        await trio.lowlevel.checkpoint()
        raise AuthenticationError("Invalid token")


#: Each dialect's path, and how it refuses a client.
REFUSALS = [
    ("/ws/r/ann", 4004, None),
    ("/api/v1/ws/connect", 4001, "Authentication failed"),
    ("/ws", 1008, None),
    ("/ws/r", 1008, None),
]


@pytest.mark.parametrize(("target", "code", "reason"), REFUSALS)
async def test_slow_authentication_times_out(
    world: World, autojump_clock: MockClock, target: str, code: int, reason: str | None
) -> None:
    ann, _ = world.connect(target, auth=SlowAuth())
    await ann.say({"type": "auth_token", "token": "t"})
    await ann.expect_close(code, reason or "Authentication timeout")


@pytest.mark.parametrize(("target", "code", "reason"), REFUSALS)
async def test_failed_authentication_closes(
    world: World, target: str, code: int, reason: str | None
) -> None:
    ann, _ = world.connect(target, auth=NoAuth())
    await ann.say({"type": "auth_token", "token": "t"})
    await ann.expect_close(code, reason or "Invalid token")


# A token that expires


class Tokens(OpenAuth):
    """A token says for how many seconds it is valid, and whose it is."""

    async def authenticate(self, claims: Authenticate) -> Identity:
        await trio.lowlevel.checkpoint()
        seconds, _, user_id = (claims.token or "").partition(" ")
        if not seconds or (claims.claimed or user_id) != user_id:
            raise AuthenticationError("Invalid token")
        rooms = ("r",) if user_id != "stray" else ("r",) if self.first else ("s",)
        self.first = False
        expires = time.time() + float(seconds)
        return Identity(
            user_id, user_id, user_id, grants=Grants(rooms), expires=expires, verified=True
        )

    first = True


async def enter_mesh(world: World, token: str) -> RawClient:
    ann, _ = world.connect("/ws/r", auth=Tokens(), heartbeat=1000)
    await ann.say({"type": "auth_token", "token": token})
    await ann.wait_for("users_in_room")
    return ann


async def test_client_is_warned_before_its_token_expires(
    world: World, autojump_clock: MockClock
) -> None:
    ann = await enter_mesh(world, "100 ann")
    bob, _ = world.connect("/ws/r", heartbeat=1000)
    await bob.say({"type": "auth_token", "clientId": "bob"})
    await bob.wait_for("users_in_room")
    await ann.wait_for("user_joined")
    await trio.sleep(39)
    assert await hears(ann) == []
    await trio.sleep(2)
    assert (await ann.wait_for("token_expiring"))["expires_in"] == 60
    await trio.sleep(58)
    assert await hears(ann) == []
    await ann.expect_close(1008, "Token expired")
    await bob.wait_for("user_left")


async def test_short_token_is_warned_about_at_once(world: World, autojump_clock: MockClock) -> None:
    ann, _ = world.connect("/ws/r", auth=Tokens(), heartbeat=1000)
    await ann.say({"type": "auth_token", "token": "5 ann"})
    # The warning may arrive before the room's snapshot, which the helper would wait for.
    assert (await ann.wait_for("token_expiring"))["expires_in"] == 5
    await ann.expect_close(1008, "Token expired")


async def test_new_token_keeps_the_connection_open(world: World, autojump_clock: MockClock) -> None:
    ann = await enter_mesh(world, "100 ann")
    await trio.sleep(50)
    await ann.wait_for("token_expiring")
    await ann.say({"type": "auth_token", "token": "500 ann"})
    assert (await ann.wait_for("token_renewed"))["expires_in"] == 500
    await trio.sleep(439)
    assert await hears(ann) == []
    await trio.sleep(2)
    assert await hears(ann) == ["token_expiring"]


@pytest.mark.parametrize("token", ["", "500 bob"])
async def test_invalid_new_token_changes_nothing(
    world: World, autojump_clock: MockClock, token: str
) -> None:
    ann = await enter_mesh(world, "100 ann")
    await ann.say({"type": "auth_token", "token": token})
    assert (await ann.wait_for("error"))["code"] == "invalid_token"
    await trio.sleep(99)
    await ann.wait_for("token_expiring")
    await ann.expect_close(1008, "Token expired")


async def test_new_token_must_grant_the_room(world: World) -> None:
    ann = await enter_mesh(world, "100 stray")
    await ann.say({"type": "auth_token", "token": "500 stray"})
    assert (await ann.wait_for("error"))["code"] == "invalid_token"


@pytest.mark.parametrize(("target", "code", "reason"), REFUSALS[:3])
async def test_token_expires_in_every_dialect(
    world: World, autojump_clock: MockClock, target: str, code: int, reason: str | None
) -> None:
    ann, _ = world.connect(target, auth=Tokens(), token="9 ann", heartbeat=1000)
    await trio.sleep(8)
    assert "error" not in await hears(ann)
    await ann.expect_close(code, reason or "Token expired")


async def test_new_token_is_ignored_in_open_mode(world: World) -> None:
    ann, _ = world.connect("/ws/r")
    await ann.say({"type": "auth_token"})
    await ann.wait_for("users_in_room")
    await ann.say({"type": "auth_token", "token": "x"})
    assert await hears(ann) == []


# heartbeat


async def test_the_server_pings(world: World, autojump_clock: MockClock) -> None:
    start = trio.current_time()
    ann, _ = await world.enter(heartbeat_timeout=1000)
    for beat in (1, 2, 3):
        assert await ann.receive() == (PING, b"")
        assert trio.current_time() - start == pytest.approx(beat * HEARTBEAT)


async def test_pongs_keep_the_connection_alive(world: World, autojump_clock: MockClock) -> None:
    ann, _ = await world.enter()
    for _ in range(20):
        assert await ann.receive() == (PING, b"")
        await trio.sleep(HEARTBEAT_TIMEOUT * 0.9)
        await ann.send(client_frame(PONG))
    assert await hears(ann) == []


async def test_any_data_keeps_the_connection_alive(world: World, autojump_clock: MockClock) -> None:
    ann, _ = await world.enter()
    for _ in range(20):
        assert await ann.receive() == (PING, b"")
        await trio.sleep(HEARTBEAT_TIMEOUT * 0.9)
        await ann.send(b"\x89")  # not even a complete frame
        await ann.send(client_frame(PING)[1:])
        assert await ann.receive() == (PONG, b"")


async def test_silent_connection_is_closed(world: World, autojump_clock: MockClock) -> None:
    start = trio.current_time()
    bob, _ = await world.enter("/ws/r/bob", heartbeat=1000)
    ann, _ = await world.enter("/ws/r/ann")
    assert await ann.expect_close(1011, "No sign of life") == [(PING, b"")]
    assert trio.current_time() - start == pytest.approx(HEARTBEAT + HEARTBEAT_TIMEOUT)
    assert await hears(bob) == ["user_joined", "user_left"]


async def test_connection_that_falls_silent_later_is_closed(
    world: World, autojump_clock: MockClock
) -> None:
    ann, _ = await world.enter()
    for _ in range(3):
        assert await ann.receive() == (PING, b"")
        await ann.send(client_frame(PONG))
    start = trio.current_time()
    await ann.expect_close(1011, "No sign of life")
    assert trio.current_time() - start == pytest.approx(HEARTBEAT + HEARTBEAT_TIMEOUT)


def test_heartbeat_may_be_infinite() -> None:
    assert _ping_after(5.0, float("inf")) == float("inf")


@given(st.floats(0, 1e6), st.floats(0.001, 1000))
def test_pings_come_on_time_and_together(now: float, heartbeat: float) -> None:
    ping = _ping_after(now, heartbeat)
    assert now + heartbeat / 2 - 1e-9 <= ping <= now + heartbeat + _TOGETHER / 2 + 1e-9
    if heartbeat >= _TOGETHER:
        assert ping % _TOGETHER == 0


async def test_timeout_may_be_longer_than_the_heartbeat(
    world: World, autojump_clock: MockClock
) -> None:
    start = trio.current_time()
    ann, _ = await world.enter(heartbeat=2, heartbeat_timeout=5)
    assert await ann.expect_close(1011, "No sign of life") == [(PING, b"")] * 3
    assert trio.current_time() - start == pytest.approx(2 + 5)


async def test_unread_data_keeps_the_connection_alive(
    world: World, autojump_clock: MockClock
) -> None:
    # Verifying its token takes longer than the heartbeat timeout.
    auth_timeout = 3 * (HEARTBEAT + HEARTBEAT_TIMEOUT)
    ann, _ = world.connect(auth=SlowAuth(), auth_timeout=auth_timeout)
    await ann.send(client_frame(PONG))
    with trio.fail_after(auth_timeout * 3):
        await trio.sleep(auth_timeout * 0.9)
        await ann.expect_close(4004, "Authentication timeout")


async def test_received_messages_do_not_keep_a_client_alive(
    world: World, autojump_clock: MockClock
) -> None:
    # What the server sends to a client does not show that the client is alive.
    ann, _ = await world.enter()
    bob, _ = await world.enter("/ws/r/bob")
    await ann.wait_for("user_joined")
    with trio.fail_after(PATIENCE):
        while len(world.hub.participants) == 2:
            await bob.say({"type": "typing_start"})
            await trio.sleep(0.5)
    assert await hears(bob) == ["user_left"]
    await ann.expect_close(1011, "No sign of life")


# closing handshake


@asynccontextmanager
async def open_bounded_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery for connections that must end by themselves."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            yield nursery


@pytest.mark.parametrize(
    ("said", "answered"),
    [
        (client_close(1000), b"\x03\xe8"),
        (client_close(1001, "gone to lunch"), b"\x03\xe9"),
        (client_close(4321), b"\x10\xe1"),
        (client_frame(CLOSE), b""),
    ],
)
async def test_close_frame_is_answered(world: World, said: bytes, answered: bytes) -> None:
    ann, _ = await world.enter()
    await ann.send(said, KEEP_ALIVE)
    assert await ann.receive() == (CLOSE, answered)
    assert await ann.read_to_end() == b""


async def test_room_is_notified_before_the_closing_handshake(
    world: World, autojump_clock: MockClock
) -> None:
    bob, _ = await world.enter("/ws/r/bob")
    ann, _ = await world.enter()
    await bob.wait_for("user_joined")
    start = trio.current_time()
    await ann.send(NONSENSE * 50)
    # Ann neither reads the close frame nor ends her side.
    await bob.wait_for("user_left")
    assert trio.current_time() - start == pytest.approx(0)
    assert len(world.hub.participants) == 1


@pytest.mark.parametrize("reads", [True, False])
async def test_closing_handshake_takes_two_seconds_at_most(
    world: World, autojump_clock: MockClock, reads: bool
) -> None:
    async with open_bounded_nursery() as nursery:
        ann, _ = world.connect(nursery=nursery, outbox_bytes=10_000_000)
        await ann.wait_for("room_state")
        if not reads:
            for _ in range(40):
                await ann.send(client_text({"type": "message", "content": "x" * 100_000}))
        await ann.send(client_frame(BINARY, b"") if reads else client_close(1000))
        start = trio.current_time()
        if reads:
            assert await ann.expect_close(1003) == []
    assert trio.current_time() - start == pytest.approx(GOODBYE)


@pytest.fixture
def _long_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the test fail if the server waits for a client that is already gone."""
    monkeypatch.setattr("trio_signal.connection._GOODBYE", PATIENCE * 2)


@pytest.mark.usefixtures("_long_goodbye")
async def test_server_does_not_wait_for_a_client_that_closed(world: World) -> None:
    async with open_bounded_nursery() as nursery:
        ann, _ = world.connect(nursery=nursery)
        await ann.wait_for("room_state")
        await ann.send(client_close(1000))
        assert await ann.expect_close(1000) == []


@pytest.mark.usefixtures("_long_goodbye")
async def test_handshake_ends_when_the_client_closes_its_side(world: World) -> None:
    async with open_bounded_nursery() as nursery:
        ann, _ = world.connect(nursery=nursery)
        await ann.wait_for("room_state")
        await ann.send(client_frame(BINARY, b""))
        await ann.expect_close(1003)
        await ann.half_close()


async def keep_talking(client: RawClient) -> None:
    while True:
        await client.send(KEEP_ALIVE)
        await trio.sleep(0.1)


async def test_ended_connection_is_freed_without_the_collector(world: World) -> None:
    gc.collect()
    gc.disable()
    try:
        async with open_bounded_nursery() as nursery:
            ann = world.connect(nursery=nursery)[0]
            await ann.wait_for("room_state")
            await ann.send(client_close(1000))
            await ann.expect_close(1000)
        assert not [each for each in gc.get_objects() if type(each) in (Connection, Session)]
    finally:
        gc.enable()


async def test_connection_that_closes_while_it_is_over_its_rate_is_freed_too(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task ends without looking at what it has to wait for."""

    class Leaving(RoomDialect):
        def received(self, text: bytes, now: str) -> Iterable[Action]:
            return [Send(b"x" * 200_000), Close(CloseCode.NORMAL)]

    gc.collect()
    gc.disable()
    try:
        async with open_bounded_nursery() as nursery:
            ann = world.connect(Leaving("r", Authenticate("ann")), nursery=nursery)[0]
            await ann.wait_for("room_state")
            monkeypatch.setattr("trio_signal.session.ANSWER_BYTE", 1)
            await ann.send(KEEP_ALIVE * 2)
            await ann.expect_close(1000)
        assert not [each for each in gc.get_objects() if type(each) is Connection]
    finally:
        gc.enable()


async def test_sending_does_not_prolong_the_closing_handshake(
    world: World, autojump_clock: MockClock
) -> None:
    async with open_bounded_nursery() as nursery:
        ann, _ = world.connect(nursery=nursery)
        await ann.wait_for("room_state")
        await ann.send(client_frame(BINARY, b""))
        start = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            await keep_talking(ann)
    assert trio.current_time() - start == pytest.approx(GOODBYE, abs=0.2)


@pytest.mark.usefixtures("_long_goodbye")
@pytest.mark.parametrize("half", [True, False])
async def test_lost_client_gets_no_closing_handshake(world: World, half: bool) -> None:
    bob, _ = await world.enter("/ws/r/bob")
    async with open_bounded_nursery() as nursery:
        ann, _ = world.connect(nursery=nursery)
        await bob.wait_for("user_joined")
        if half:
            await ann.half_close()
            await ann.wait_for("room_state")
            assert await ann.read_to_end() == b""
        else:
            ann.stream.socket.close()
    assert await hears(bob) == ["user_left"]


# closed by others


async def test_closed_peer_gets_the_reason(world: World) -> None:
    ann, connection = await world.enter()
    connection.session.close(Close(4409, "Replaced"))
    assert await ann.expect_close(4409, "Replaced") == []


async def test_connection_to_a_stopping_server_is_closed(world: World) -> None:
    await world.hub.close_all(Close(1001, "Server going away"))
    ann, _ = world.connect()
    assert await ann.expect_close(1001, "Server going away") == []


@pytest.mark.parametrize(
    ("target", "messages"),
    [
        ("/ws/r/ann", [{"type": "broadcast-started"}]),
        (
            "/api/v1/ws/connect",
            [{"type": "join_room", "room_id": "r"}, {"type": "live_start", "room_id": "r"}],
        ),
        ("/ws", [{"type": "broadcaster-ready", "streamId": "r"}]),
        ("/ws/r", [{"type": "auth_token"}, {"type": "broadcast_start"}]),
    ],
)
async def test_cancelled_connection_leaves_its_room(
    world: World, target: str, messages: list[dict[str, Any]]
) -> None:
    bob, _ = await world.enter("/ws/r/bob")
    async with open_bounded_nursery() as nursery:
        ann, _ = world.connect(target, nursery=nursery)
        await ann.say(*messages)
        await bob.wait_for("broadcast-started")
        nursery.cancel_scope.cancel()
    assert len(world.hub.participants) == 1
    assert await hears(bob) == ["broadcast-stopped", "user_left"]
    # Nothing waits in a cancelled scope: the connection ends without a close frame.
    frames, rest = split_frames(await ann.read_to_end())
    assert rest == b""
    assert CLOSE not in {frame.opcode for frame in frames}


async def test_cancel_during_closing_handshake_ends_at_once(
    world: World, autojump_clock: MockClock
) -> None:
    start = trio.current_time()
    async with open_bounded_nursery() as nursery:
        ann, _ = world.connect(nursery=nursery)
        await ann.wait_for("room_state")
        await ann.send(client_close(1000))
        assert await ann.expect_close(1000) == []
        nursery.cancel_scope.cancel()
    assert trio.current_time() - start == pytest.approx(0)


# server errors


class Failing(RoomDialect):
    """Speaks `room`, but one of its methods raises."""

    def __init__(self, user_id: str, fails: str) -> None:
        super().__init__("r", Authenticate(user_id))
        self.fails = fails

    def _fail(self, name: str) -> None:
        if self.fails == name:
            raise RuntimeError(f"{name} failed")

    def opened(self, peer_id: str) -> Iterable[Action]:
        self._fail("opened")
        return super().opened(peer_id)

    def authenticated(self, identity: Identity, server: ServerInfo, now: str) -> Iterable[Action]:
        self._fail("authenticated")
        return super().authenticated(identity, server, now)

    def received(self, text: bytes, now: str) -> Iterable[Action]:
        self._fail("received")
        return super().received(text, now)

    def answered(self, answer: Answer) -> Iterable[Send | Close]:
        self._fail("answered")
        return super().answered(answer)


class Mute(RoomDialect):
    """Speaks `room`, but raises for one kind of event."""

    @staticmethod
    def tell(event: Event) -> Iterable[Notice]:
        match event:
            case Typing():
                raise RuntimeError("tell failed")
        return RoomDialect.tell(event)


@pytest.mark.parametrize("fails", ["opened", "authenticated", "received", "answered"])
async def test_server_error_closes_only_one_connection(
    world: World, fails: str, caplog: pytest.LogCaptureFixture
) -> None:
    bob, _ = await world.enter("/ws/r/bob")
    ann, connection = world.connect(Failing("ann", fails))
    await ann.send(KEEP_ALIVE)
    await ann.expect_close(1011, "Internal error")
    assert await hears(bob) in (["user_joined", "user_left"], [])
    (record,) = caplog.get_records("call")
    assert record.levelno == logging.ERROR
    assert connection.session.id in record.getMessage()
    assert record.exc_info is not None
    assert "failed" in str(record.exc_info[1])


async def test_encoding_error_closes_only_the_receivers(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    ann, _ = await world.enter(Mute("r", Authenticate("ann")))
    eve, _ = await world.enter(Mute("r", Authenticate("eve")))
    bob, _ = await world.enter("/ws/r/bob")
    dan, _ = await world.enter("/ws/r/dan")
    await hears(bob)
    await dan.say({"type": "typing_start"})
    await ann.expect_close(1011, "Internal error")
    await eve.expect_close(1011, "Internal error")
    assert sorted(await hears(bob)) == ["typing_start", "user_left", "user_left"]
    assert sorted(await hears(dan)) == ["user_left", "user_left"]
    assert len(caplog.get_records("call")) == 1
