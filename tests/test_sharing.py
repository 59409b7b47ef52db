"""TLS without a proxy, for phones nearby: HTTP and WebSockets, and plain connections."""

import datetime
import os
import select
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest
import trio
import trio.testing
from trio_websocket import connect_websocket_url
from typer.testing import CliRunner

from tests.clients import PATIENCE, Client
from tests.conftest import settings
from trio_signal.cli import app
from trio_signal.server import Server, open_server
from trio_signal.sharing import Sharing
from trio_signal.tls import make_certificate, make_context

#: Connections from one address.
MOST = 8
CERTIFICATE, KEY = make_certificate(["127.0.0.1", "localhost"], datetime.datetime.now(datetime.UTC))


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=CERTIFICATE.decode())


@pytest.fixture(name="server")
async def _server() -> AsyncIterator[Server]:
    sharing = Sharing("127.0.0.1", "call-1234", make_context(CERTIFICATE, KEY))
    given = settings(http_burst=1, http_requests_per_second=0.001, max_connections_per_ip=MOST)
    with trio.fail_after(PATIENCE):
        async with open_server(given, sharing) as server:
            yield server


async def test_http_and_websockets_over_tls(server: Server) -> None:
    base = f"127.0.0.1:{server.port}"
    async with httpx.AsyncClient(verify=trusting(), base_url=f"https://{base}") as http:
        page = await http.get("/")
        assert page.status_code == 200
        assert "call-1234" in page.text
        # Requests are counted for the client's own address.
        assert (await http.get("/")).status_code == 429
        elsewhere = httpx.AsyncHTTPTransport(verify=trusting(), local_address="127.0.0.2")
        async with httpx.AsyncClient(transport=elsewhere, base_url=f"https://{base}") as other:
            assert (await other.get("/client/trio-signal.js")).status_code == 200

    async with trio.open_nursery() as nursery:
        ann, bob = [
            Client(await connect_websocket_url(nursery, f"wss://{base}/ws/r", trusting()))
            for _ in range(2)
        ]
        for client, name in ((ann, "ann"), (bob, "bob")):
            await client.expect("auth_required")
            await client.send("auth_token", username=name)
            await client.wait_for("users_in_room")
        joined = await ann.expect("user_joined", username="bob")
        await bob.send("message", to=ann.log[1]["client_id"], data="x" * 100_000)
        await ann.expect("message", data="x" * 100_000, from_=joined["client_id"])
        # No close frame: the kernel ends the connection.
        await bob.socket._stream.transport_stream.aclose()  # type: ignore[attr-defined]
        await ann.expect("user_left", username="bob")
        await ann.close()
        await ann.socket._stream.aclose()
        nursery.cancel_scope.cancel()


async def test_plain_http_is_redirected_and_junk_is_ignored(server: Server) -> None:
    """Without a scheme, browsers try http; and a client may send anything."""
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{server.port}/demo/call?room=a%20b")
    assert answer.status_code == 307
    assert answer.headers["location"] == (f"https://127.0.0.1:{server.port}/demo/call?room=a%20b")
    for junk in (b"\x16\x03\x01\x00\x05hello", b"hello\r\n\r\n", b""):
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(junk)
            await stream.send_eof()
            while await stream.receive_some():  # a TLS record reports the error
                pass


async def test_missing_tls_handshake_times_out(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_signal.tls.HANDSHAKE_TIMEOUT", 0.05)
    async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
        assert await stream.receive_some() == b""


async def test_connections_count_from_the_start_of_the_handshake(server: Server) -> None:
    """Else one address could open as many as there are file descriptors."""
    address = "127.0.0.1", server.port
    async with AsyncExitStack() as stack:
        for _ in range(MOST):
            await stack.enter_async_context(await trio.open_tcp_stream(*address))
        await trio.testing.wait_all_tasks_blocked(0.05)
        async with await trio.open_tcp_stream(*address) as stream:
            with trio.fail_after(5):  # sooner than the handshake times out
                assert await stream.receive_some() == b""


def test_serve_share_prints_a_link() -> None:
    command = [sys.executable, "-m", "trio_signal", "serve", "--share", "--port", "0"]
    environment = os.environ | {"TRIO_SIGNAL_HOST": "127.0.0.1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], PATIENCE)
        assert readable
        ready = process.stdout.readline()
        process.terminate()
        rest = process.stdout.read()
    assert process.returncode == 0
    assert ready.startswith("listening on https://127.0.0.1:")
    url = ready.split()[-1]
    assert f"{url}/demo/call?room=call-" in rest
    assert "\x1b" not in rest


def test_qr_code_works_in_any_terminal() -> None:
    sharing = Sharing("192.168.1.5", "call-1234", make_context(CERTIFICATE, KEY))
    text = sharing.invite("https://192.168.1.5:8000", qr=True)
    lines = [line for line in text.splitlines() if "\x1b" in line]
    assert len(lines) > 15
    assert all(
        line.startswith("  \x1b[97;40m█") and line.endswith("\x1b[0m") for line in lines[:-1]
    )


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("münchen.invalid", "cannot serve on münchen.invalid:0: Name or service not known"),
        (f"{'a' * 64}.invalid", "too long"),
    ],
)
def test_share_on_a_host_that_cannot_be_looked_up(host: str, text: str) -> None:
    command = ["serve", "--share", "--host", host, "--port", "0"]
    done = CliRunner().invoke(app, command, env={"TRIO_SIGNAL_HOST": None})
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("trio-signal: cannot serve on ")
    assert text in done.stderr
    (_,) = done.stderr.splitlines()


def test_share_with_workers_is_refused() -> None:
    environment = {"REDIS_URL": "redis://127.0.0.1:1"}
    done = CliRunner().invoke(app, ["serve", "--share", "--workers", "2"], env=environment)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--share" in done.stderr
