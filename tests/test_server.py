import socket

import pytest
import trio
import trio.testing

from tests.clients import PATIENCE, Service
from tests.conftest import settings
from tests.raw import open_raw
from trio_signal.config import pause_before_draining
from trio_signal.environment import load_settings
from trio_signal.outbox import Outbox
from trio_signal.server import open_server
from trio_signal.session import Session


async def test_peer_receives_members_and_joins(service: Service) -> None:
    async with service.connect("/ws/r") as ann, service.connect("/ws/r") as bob:
        await ann.expect("auth_required")
        await ann.send("auth_token", token="t", username="ann")
        await ann.expect("auth_success", user="ann")
        await ann.expect("users_in_room", users=[])
        await ann.expect_nothing()
        await bob.expect("auth_required")
        await bob.send("auth_token", token="t", username="bob")
        await bob.expect("auth_success", user="bob")
        await ann.expect("user_joined", username="bob", connected_users=2)
        await bob.close()
        await ann.expect("user_left", username="bob", connected_users=1)


async def test_websocket_may_follow_http_on_a_keep_alive_connection(service: Service) -> None:
    """Like a proxy that reuses its connections to the server."""
    host, _, port = service.base.rpartition(":")
    upgrade = (
        b"GET /ws/r HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    masked_ping = b"\x89\x82\x00\x00\x00\x00hi"
    with trio.fail_after(PATIENCE):
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = await receive_until(stream, b'{"status":"ok"}')
            await stream.send_all(upgrade + masked_ping)
            received = await receive_until(stream, b"\x8a\x02hi")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert received.startswith(b"HTTP/1.1 101 ")
    assert b'"type":"auth_required"' in received


async def receive_until(stream: trio.SocketStream, end: bytes) -> bytes:
    received = b""
    while not received.endswith(end):
        chunk = await stream.receive_some()
        assert chunk, received
        received += chunk
    return received


async def test_small_frames_are_sent_without_delay() -> None:
    """Nagle's algorithm delays the second until the first is acknowledged, up to 40 ms."""
    with trio.fail_after(PATIENCE):
        async with (
            open_server(settings()) as server,
            open_raw(f"{server.host}:{server.port}") as client,
        ):
            await client.upgrade("/ws/r")
            (session,) = server.hub.participants
            assert isinstance(session, Session)
            assert isinstance(session.outbox, Outbox)
            assert session.outbox._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


async def test_load_balancer_has_time_to_notice_a_stopping_server() -> None:
    stop, pause = trio.Event(), 1.0
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[Service]) -> None:
            async with open_server(settings(drain_pause=pause)) as server:
                task_status.started(Service(f"{server.host}:{server.port}"))
                await stop.wait()

        service = await nursery.start(serve)
        began = trio.current_time()
        stop.set()
        await trio.testing.wait_all_tasks_blocked()
        async with open_raw(service.base) as probe, service.connect("/ws/r") as late:
            await probe.send(
                b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )
            answer = await probe.receive_answer()
            assert (answer.status, answer.body) == (503, b'{"status":"stopping"}')
            await late.expect("auth_required")
            await late.expect_close(1001, "Server going away")
            assert trio.current_time() >= began + pause


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ({}, 0.0),
        ({"redis_url": "redis://localhost"}, 3.0),
        ({"redis_url": "redis://localhost", "drain_pause": 0}, 0.0),
        ({"drain_pause": 2}, 2.0),
    ],
)
def test_single_replica_does_not_pause_before_draining(
    given: dict[str, object], seconds: float
) -> None:
    assert pause_before_draining(load_settings(**given)) == seconds


@pytest.mark.parametrize("worker", [False, True])
async def test_any_address_of_ipv6_is_any_address_of_ipv4_too(worker: bool) -> None:
    """Health checks and proxies of a machine with both may use either."""
    with trio.fail_after(PATIENCE):
        async with open_server(settings(host="::", worker=worker)) as server:
            assert server.host == "::"
            for host in ("127.0.0.1", "::1"):
                await (await trio.open_tcp_stream(host, server.port)).aclose()
