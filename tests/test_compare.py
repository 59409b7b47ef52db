"""`trio-signal compare`: clients of the old servers, recorded and replayed against this one."""

import json
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from quart_trio import QuartTrio
from typer.testing import CliRunner

from tests import old_servers
from tests.clients import PATIENCE, Service
from tests.conftest import Serve
from tests.old_servers import open_old_server
from trio_signal.cli import app
from trio_signal.cli.compare.talk import Comparison, Difference, matters

COMMAND = (sys.executable, "-m", "trio_signal", "compare")
OFFER = {"type": "offer", "sdp": "v=0\r\n"}
Found = list[tuple[str, str, str]]
Talk = Callable[[Service, httpx.AsyncClient], Awaitable[None]]


# Differences


def found(comparison: Comparison) -> Found:
    return [(one.kind, one.where, one.field) for one in comparison.finish()]


def said(**fields: Any) -> str:
    return json.dumps({"type": "t", **fields})


@pytest.mark.parametrize(
    ("old", "new", "differences"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, [("differs", "t", "a")]),
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1}, {"a": True}, [("differs", "t", "a")]),
        ({"a": 1}, {"a": "1"}, [("differs", "t", "a")]),
        ({"a": None}, {"a": ""}, [("differs", "t", "a")]),
        ({"a": 1}, {}, [("absent", "t", "a")]),
        ({}, {"a": 1}, [("added", "t", "a")]),
        ({"a": {"b": [{"c": 1}]}}, {"a": {"b": [{"c": 2}]}}, [("differs", "t", "a.b[].c")]),
        ({"a": [1, 2]}, {"a": [1]}, [("differs", "t", "a[]")]),
        # Times may differ in value and format, but not in type.
        ({"timestamp": "2026-01-01T00:00:00.123456"}, {"timestamp": "2026-01-02T00:00:00Z"}, []),
        ({"at": "2026-01-01T00:00:00.123456"}, {"at": "2026-01-02T00:00:00Z"}, []),
        ({"expires_in": 5}, {"expires_in": 7}, []),
        ({"timestamp": 1767225600}, {"timestamp": "x"}, [("differs", "t", "timestamp")]),
        # Ids made by the servers may differ; names that they send may not.
        ({"id": "1"}, {"id": "2"}, []),
        ({"viewerId": "client_2"}, {"viewerId": "client_0af3"}, []),
        ({"members": ["client_2"]}, {"members": ["client_0af3"]}, []),
        ({"username": "Ann"}, {"username": "Anonymous"}, [("differs", "t", "username")]),
        ({"user_id": "given"}, {"user_id": "other"}, [("differs", "t", "user_id")]),
        (
            {"id": "1", "again_id": "1"},
            {"id": "2", "again_id": "3"},
            [("differs", "t", "again_id")],
        ),
        ({"id": 7}, {"id": "7"}, [("differs", "t", "id")]),
    ],
)
def test_fields_are_compared(old: dict[str, Any], new: dict[str, Any], differences: Found) -> None:
    comparison = Comparison()
    comparison.address("/ws/r/given")
    comparison.new_says(1, said(**new))
    assert comparison.old_says(1, said(**old))
    assert found(comparison) == differences
    assert matters(comparison.finish()) is any(kind != "added" for kind, *_ in differences)


def test_ids_of_the_old_server_are_replaced_in_replay() -> None:
    comparison = Comparison()
    assert comparison.client_says('{"type":"t", "to":"x"}') == '{"type":"t", "to":"x"}'
    comparison.new_says(1, said(viewerId="client_0af3", token="new.token"))
    comparison.old_says(1, said(viewerId="client_2", token="old.token"))
    assert json.loads(comparison.client_says(said(to=["client_2"], text="client_2 left"))) == {
        **{"type": "t", "to": ["client_0af3"]},
        "text": "client_2 left",
    }
    assert (
        comparison.address("/ws/client_2?token=old.token&x=y")
        == "/ws/client_0af3?token=new.token&x=y"
    )
    assert comparison.address("Bearer old.token") == "Bearer new.token"


@pytest.mark.parametrize(
    ("old", "new", "differences"),
    [
        (["a", "b"], ["a", "b"], []),
        (["a", "b"], ["a"], [("missing", "b", "")]),
        (["a"], ["a", "b", "b"], [("added", "b", "")]),
        (["a", "b"], ["b", "a"], [("order", "b", "")]),
        (["a", "a", "b"], ["a", "b", "a"], [("order", "b", "")]),
        (["a", "a"], ["a", "a"], []),
        (["ping", "a"], ["a", "pong"], []),
        (["x y", "a"], ["a"], [("missing", 'text "x y"', "")]),
    ],
)
def test_messages_of_a_socket_are_compared(
    old: list[str], new: list[str], differences: Found
) -> None:
    def text(type_: str) -> str:
        return type_ if len(type_) > 1 else json.dumps({"type": type_})

    comparison = Comparison()
    for type_ in new:
        comparison.new_says(1, text(type_))
        comparison.new_says(2, text(type_))
    for type_ in old:
        if not comparison.old_says(1, text(type_)):
            comparison.lacks(text(type_))
    for type_ in new:
        comparison.old_says(2, text(type_))
    assert found(comparison) == differences


def test_most_similar_message_is_compared() -> None:
    comparison = Comparison()
    comparison.new_says(1, said(count=1))
    assert not comparison.old_says(1, said(count=2), exactly=True)
    comparison.new_says(1, said(count=2))
    assert comparison.old_says(1, said(count=2), exactly=True)
    assert comparison.old_says(1, said(count=7))
    assert not comparison.old_says(1, said(count=1))
    assert found(comparison) == [("differs", "t", "count")]


def test_repeated_difference_is_reported_once_with_count() -> None:
    comparison = Comparison()
    for number in (1, 2, 3):
        comparison.new_says(1, said(count=0))
        comparison.old_says(1, said(count=number))
    assert comparison.finish() == [Difference("differs", "t", "count", "1 became 0", 3)]


# The command


async def talk_room(service: Service, http: httpx.AsyncClient) -> None:
    async with AsyncExitStack() as stack:
        assert (await http.get("/api/products")).json() == ["a lamp"]
        for user in ("ann", "bob"):
            await http.post("/rooms/r/join", json={"user_id": user, "username": user.title()})
        ann = await stack.enter_async_context(service.connect("/ws/r/ann?username=Ann"))
        await ann.expect("room_state")
        await ann.send("broadcast-started")
        await ann.send("message", content="I am live")
        await ann.wait_for("message")
        bob = await stack.enter_async_context(service.connect("/ws/r/bob?username=Bob"))
        await bob.wait_for("active-broadcasts")
        await bob.send("webrtc-signal", target_user_id="ann", signal=OFFER)
        await ann.wait_for("webrtc-signal", signal=OFFER)
        await bob.send("message", content="Hello")
        await ann.wait_for("message", content="Hello")
        await bob.wait_for("message")
        await ann.send("broadcast-stopped")
        await bob.wait_for("broadcast-stopped")
        await ann.close()
        await bob.wait_for("user_left")


async def talk_announce(service: Service, http: httpx.AsyncClient) -> None:
    base = "/api/creator/broadcast"
    async with service.connect(f"{base}/ws?user_id=7") as user:
        await user.expect("connected")
        made = (await http.post(base, json={"message": "Hello", "type": "alert"})).json()
        await user.expect("new_broadcast")
        await user.send("get_active_broadcast")
        await user.expect("active_broadcast")
        assert (await http.get(f"{base}/active")).json()["broadcast"]["id"] == made["id"]
        await http.post(f"{base}/acknowledge", json={})
        await http.post(f"{base}/acknowledge", json={"broadcast_id": made["id"]})
        assert (await http.get(f"{base}/active")).json() == {"broadcast": None}


async def talk_live(service: Service, http: httpx.AsyncClient) -> None:
    path = "/api/v1/ws/connect?user_id={0}&username={0}"
    async with (
        service.connect(path.format("ann")) as ann,
        service.connect(path.format("bob")) as bob,
    ):
        for client in (ann, bob):
            await client.expect("connected")
            await client.send("join_room", room_id="land_1")
            await client.wait_for("joined_room")
            await client.send("live_start", room_id="land_1", media_type="audio")
            await client.wait_for("live_peers")
        await ann.wait_for("live_peer_joined", user_id="bob")
        await ann.send("live_status", room_id="land_1")
        await ann.wait_for("live_peers")
        await ann.send("live_offer", room_id="land_1", target_user_id="bob", payload=OFFER)
        await bob.wait_for("live_offer", payload=OFFER)


async def talk_stream(service: Service, http: httpx.AsyncClient) -> None:
    about = {"streamId": "order-1"}
    async with service.connect("/ws") as source, service.connect("/ws") as viewer:
        await source.send("broadcaster-ready", **about)
        while not (await http.get("/api/orders/order-1")).json()["live"]:
            pass
        await viewer.send("join-stream", **about)
        viewer_id = (await source.wait_for("viewer-joined"))["viewerId"]
        await source.send("webrtc-offer", offer=OFFER, viewerId=viewer_id, **about)
        await viewer.wait_for("webrtc-offer", offer=OFFER, viewerId=viewer_id)
        await viewer.send("webrtc-answer", answer={"sdp": "v=0"}, viewerId=viewer_id, **about)
        await source.wait_for("webrtc-answer", viewerId=viewer_id)


async def talk_mesh(service: Service, http: httpx.AsyncClient) -> None:
    async with AsyncExitStack() as stack:
        clients = []
        for name in ("ann", "bob"):
            body = {"username": name, "password": "secret"}
            token = (await http.post("/auth/login", json=body)).json()["access_token"]
            client = await stack.enter_async_context(service.connect("/ws/r"))
            await client.expect("auth_required")
            await client.send("auth_token", token=token)
            await client.expect("auth_success", user=name)
            clients.append((client, await client.expect("users_in_room")))
        (ann, _), (bob, users) = clients
        ann_id = users["users"][0]["client_id"]
        await ann.wait_for("user_joined")
        await bob.send("offer", offer=OFFER, to=ann_id)
        offer = await ann.wait_for("offer", offer=OFFER)
        await ann.send("answer", answer={"sdp": "v=0"}, to=offer["from"])
        await bob.wait_for("answer")
        await bob.send("offer", offer=OFFER, to="nobody")
        await bob.wait_for("error")
        await bob.close()
        await ann.wait_for("user_left")


FAMILIES: list[tuple[Callable[[], QuartTrio], Talk, Found]] = [
    (old_servers.room, talk_room, [("missing", "GET /api/products", "")]),
    (
        old_servers.announce,
        talk_announce,
        [("differs", "POST /api/creator/broadcast/acknowledge", "status")],
    ),
    (
        old_servers.live,
        talk_live,
        [
            ("differs", "connected", "message"),
            ("differs", "live_peers", "peers[]"),
            ("differs", "live_peers", "peers[].user_id"),
            ("differs", "live_peers", "peers[].username"),
        ],
    ),
    (old_servers.stream, talk_stream, [("missing", "GET /api/orders/order-1", "")]),
    (old_servers.mesh, talk_mesh, []),
]


@asynccontextmanager
async def run_compare(*arguments: object) -> AsyncIterator[trio.Process]:
    """The command as it is typed; its output is in `stderr` and `stdout`."""
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                [*COMMAND, *map(str, arguments)],
                **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "check": False},
            )
        )
        with trio.fail_after(4 * PATIENCE):
            yield process
        nursery.cancel_scope.cancel()


async def read_all(stream: trio.abc.ReceiveStream | None) -> str:
    assert stream is not None
    return b"".join([bytes(chunk) async for chunk in stream]).decode()


async def read_ready(process: trio.Process) -> str:
    """The address at which it listens."""
    text = ""
    while (ready := re.search(r"listening on http://(127\.0\.0\.1:\d+)", text)) is None:
        assert process.stderr is not None
        chunk = await process.stderr.receive_some()
        assert chunk, text
        text += chunk.decode()
    return ready[1]


def kinds(output: str) -> Found:
    return [(one["kind"], one["where"], one["field"]) for one in json.loads(output)]


@pytest.mark.parametrize(
    ("make", "talk", "differences"), FAMILIES, ids=[make.__name__ for make, *_ in FAMILIES]
)
async def test_each_family_is_recorded_and_compared(
    make: Callable[[], QuartTrio],
    talk: Talk,
    differences: Found,
    serve: Serve,
    tmp_path: Path,
) -> None:
    path = tmp_path / "talk.jsonl"
    async with open_old_server(make) as old, serve() as new:
        new_url = f"http://{new.base}"
        options = ("--record", path, "--port", 0, "--idle", 0.5, "--json")
        async with run_compare(old, new_url, *options) as process:
            base = await read_ready(process)
            async with httpx.AsyncClient(base_url=f"http://{base}", timeout=PATIENCE) as http:
                await talk(Service(base), http)
            output = await read_all(process.stdout)
            assert await read_all(process.stderr) == ""
            assert await process.wait() == (1 if differences else 0), output
        matter = [one for one in kinds(output) if one[0] != "added"]
        assert matter == differences, output
        assert path.stat().st_mode & 0o077 == 0
    if make is old_servers.mesh:  # its ids and tokens come from two servers that are gone
        async with (
            serve() as another,
            run_compare(f"http://{another.base}", "--replay", path, "--json") as process,
        ):
            again = kinds(await read_all(process.stdout))
            assert {kind for kind, *_ in again} == {"added"}, again


async def test_ctrl_c_ends_the_recording_and_compares(serve: Serve, tmp_path: Path) -> None:
    """A call to a server that is gone is answered too, and reported in one line."""
    path = tmp_path / "talk.jsonl"
    async with serve() as new:
        url = f"http://{new.base}"
        async with open_old_server(old_servers.room) as old:
            options = ("--record", path, "--port", 0, "--idle", 1000)
            async with run_compare(old, url, *options) as process:
                base = await read_ready(process)
                async with Service(base).connect("/ws/r/ann?username=Ann") as ann:
                    await ann.expect("room_state")
                    process.send_signal(signal.SIGINT)
                    assert await read_all(process.stdout) == "No difference.\n"
                assert await process.wait() == 0
        async with run_compare(old, url, "--record", f"{path}2", "--port", 0) as process:
            base = await read_ready(process)
            async with httpx.AsyncClient(base_url=f"http://{base}", timeout=PATIENCE) as http:
                assert (await http.get("/rooms")).status_code == 502
            process.send_signal(signal.SIGINT)
            assert await read_all(process.stdout) == ""
            *lines, last = (await read_all(process.stderr)).splitlines()
            assert [line for line in lines if line.startswith(f"trio-signal: {old}: ")] == lines
            assert last == f"trio-signal: {path}2 is empty: nothing was recorded"


async def test_refused_and_closed_clients_are_compared(serve: Serve, tmp_path: Path) -> None:
    """This server plays the old one, and one with other settings plays the new one."""
    path = tmp_path / "talk.jsonl"
    origins = "https://app.example.com"
    async with serve(allowed_origins=origins) as old, serve() as new:
        options = ("--record", path, "--port", 0, "--idle", 5, "--json")
        urls = (f"http://{old.base}", f"http://{new.base}")
        async with run_compare(*urls, *options) as process:
            service = Service(await read_ready(process))
            for user in ("ann", "bob"):
                headers = [("Origin", origins)]
                path_ = f"/api/v1/ws/connect?user_id={user}"
                async with service.connect(path_, headers=headers) as client:
                    await client.expect("connected")
            output = await read_all(process.stdout)
            assert await process.wait() == 1
    assert kinds(output) == [
        ("missing", "connected", ""),
        ("differs", "handshake", "status"),
    ]


UPGRADE = (
    b"GET /ws/r/ann HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


async def test_odd_clients_do_not_end_the_recording(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    async with serve() as old:
        url = f"http://{old.base}"
        async with run_compare(url, url, "--record", path, "--port", 0, "--idle", 9) as process:
            host, port = (await read_ready(process)).split(":")
            for _ in range(5):  # the reset arrives before or after the old server's answer
                async with await trio.open_tcp_stream(host, int(port)) as client:
                    await client.send_all(UPGRADE)
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            for call in (
                b"GET :99999/ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\r\n",
                UPGRADE.replace(b"GET /", b"GET :99999/"),
            ):
                async with await trio.open_tcp_stream(host, int(port)) as client:
                    await client.send_all(call)
                    assert await client.receive_some() == b""
            async with await trio.open_tcp_stream(host, int(port)) as client:
                await client.send_all(
                    b"GET /rooms HTTP/1.1\r\nHost: a\r\nCookie: name=\xc3\xa9\r\n\r\n"
                )
                answer = b"".join([bytes(chunk) async for chunk in client])
                assert answer.startswith(b"HTTP/1.1 200 ")
            process.send_signal(signal.SIGINT)
            assert "Traceback" not in await read_all(process.stderr)
    # A reset that overtook the request has left no record.
    kinds_of = [json.loads(text)["event"] for text in path.read_text().splitlines()]
    assert kinds_of.count("opened") == kinds_of.count("closed")
    assert "asked" in kinds_of


async def test_server_that_speaks_nonsense_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_text('{"event":"opened","at":0,"socket":1,"target":"/ws","headers":{}}\n')

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"SSH-2.0-nonsense\r\n\r\n")

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        async with run_compare(url, "--replay", path) as process:
            problem = f"trio-signal: {url}: the server does not speak WebSocket\n"
            assert await read_all(process.stderr) == problem
            assert await process.wait() == 1
        nursery.cancel_scope.cancel()


def test_port_in_use_is_named_and_leaves_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ["http://a", "http://b", "--record", str(path), "--port", str(port)]
        result = CliRunner().invoke(app, ["compare", *arguments])
    problem = f"cannot listen on 127.0.0.1:{port}: Address already in use"
    assert result.stderr == f"trio-signal: {problem}\n"
    assert result.exit_code == 1
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ((), 2, "compare needs [OLD] NEW"),
        (("http://a",), 2, "needs OLD NEW --record FILE, or NEW --replay FILE"),
        (("http://a", "http://b"), 2, "needs OLD NEW --record FILE"),
        (("http://a", "--record", "new"), 2, "needs OLD NEW --record FILE"),
        (("a:", "b", "--record", "new"), 2, "must be the address of a server"),
        (("http://127.0.0.1:1", "--replay", "none"), 1, "No such file"),
        (("http://127.0.0.1:1", "--replay", "bad"), 1, "is not a recording"),
        (("http://127.0.0.1:1", "--replay", "empty"), 1, "empty is empty: nothing was recorded"),
        (("http://127.0.0.1:1", "--replay", "talk"), 1, "trio-signal: http://127.0.0.1:1: "),
        (("http://a", "http://b", "--record", "talk", "--port", "0"), 1, "File exists"),
    ],
)
def test_wrong_arguments_print_one_line(
    arguments: tuple[str, ...],
    code: int,
    text: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad").write_text("{}\n")
    Path("empty").touch()
    Path("talk").write_text('{"event":"opened","at":0,"socket":1,"target":"/ws","headers":{}}\n')
    result = CliRunner().invoke(app, ["compare", *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == code
    assert text in result.stderr
    assert "Traceback" not in result.stderr
