"""`trio-signal rooms` and `tail`: the commands as they are typed, and what they print."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from functools import partial

import pytest
import trio
from typer.testing import CliRunner, Result

from tests.client.bots import bot, heard, wait_for
from tests.client.lines import listen
from tests.clients import Service
from tests.conftest import Serve
from trio_signal.cli import app
from trio_signal.cli.watch import line
from trio_signal.client import (
    Answer,
    Candidate,
    Client,
    Error,
    Event,
    Live,
    Message,
    Offer,
    Peer,
    PeerJoined,
    PeerLeft,
    Pong,
    StateChanged,
    Stopped,
    TokenExpiring,
    TokenRenewed,
    WentLive,
)
from trio_signal.web import listing

#: Time limit for a command to start and to end, in seconds.
LONG = 120.0
COMMAND = (sys.executable, "-m", "trio_signal")


async def invoke(*arguments: str) -> Result:
    """Run the command in this process, in a thread, since the server runs here as well."""
    with trio.fail_after(LONG):
        return await trio.to_thread.run_sync(lambda: CliRunner().invoke(app, arguments))


async def rooms(service: Service, *arguments: str) -> Result:
    return await invoke("rooms", "--url", f"http://{service.base}/", *arguments)


# Rooms


async def test_rooms_prints_a_table(serve: Serve) -> None:
    async with serve() as service:
        empty = await rooms(service)
        assert (empty.exit_code, empty.stdout) == (0, "No room has peers.\n")
        async with (
            bot(service.base, "ann", room="lobby") as ann,
            bot(service.base, "bob", room="lobby"),
            bot(service.base, "carl", room="\x1b[31m[red]"),
        ):
            await ann.broadcast()
            await heard(ann)
            # The empty list is cached for a second.
            with trio.fail_after(LONG):
                while (listed := await rooms(service)).stdout == empty.stdout:  # noqa: ASYNC110
                    await trio.sleep(0.1)
    assert listed.exit_code == 0
    heading, *found = listed.stdout.splitlines()
    assert heading.split() == ["room", "users", "peers", "live"]
    assert sorted(row.split() for row in found) == [
        ["lobby", "2", "2", "1"],
        ["�[31m[red]", "1", "1", "0"],
    ]


async def test_rooms_prints_json(serve: Serve) -> None:
    async with serve() as service, bot(service.base, "ann", room="lobby"):
        listed = await rooms(service, "--json")
    (room,) = json.loads(listed.stdout)
    assert room.pop("created_at").endswith("Z")
    assert room == {
        "id": "lobby",
        "name": "lobby",
        "member_count": 1,
        "thumbnail_url": None,
        "peers": 1,
        "live": 0,
    }


async def test_rooms_are_read_page_by_page(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_BYTES", 300)
    async with (
        serve() as service,
        bot(service.base, "ann", room="a"),
        bot(service.base, "bob", room="b"),
        bot(service.base, "carl", room="c"),
    ):
        listed = await rooms(service, "--json")
    assert [room["id"] for room in json.loads(listed.stdout)] == ["a", "b", "c"]


async def _elsewhere(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    link = 'Link: <http://127.0.0.1:1/rooms>; rel="next"'
    await stream.send_all(f"HTTP/1.1 200 OK\r\n{link}\r\nContent-Length: 2\r\n\r\n[]".encode())


async def test_next_page_on_another_server_is_refused() -> None:
    async with listen(_elsewhere) as base:
        failed = await run_command("rooms", "--url", f"http://{base}", "--token", "t")
    assert failed.returncode == 1
    assert b"redirects to another server" in failed.stderr


async def test_rooms_reports_that_listing_is_disabled(serve: Serve) -> None:
    async with serve(list_rooms=False) as service:
        refused = await rooms(service)
    assert (refused.exit_code, refused.stdout) == (1, "")
    assert re.fullmatch(
        r"trio-signal: http://\S+/rooms: 403 Rooms are not listed here\n", refused.stderr
    )


async def _something_else(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


async def _nonsense(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"SSH-2.0-OpenSSH_9.6\r\n")


@pytest.mark.parametrize("handler", [_something_else, _nonsense])
@pytest.mark.parametrize("command", [("rooms",), ("tail", "lobby"), ("bench",)])
async def test_other_servers_are_reported(command: tuple[str, ...], handler: object) -> None:
    assert callable(handler)
    async with listen(handler) as base:
        failed = await run_command(*command, "--url", f"http://{base}")
    assert failed.returncode == 1
    assert re.fullmatch(rf"trio-signal: http://{base}.*\n", failed.stderr.decode())


@pytest.mark.parametrize("command", [("rooms",), ("tail", "lobby"), ("bench",)])
async def test_missing_server_is_reported(command: tuple[str, ...]) -> None:
    failed = await run_command(*command, "--url", "http://127.0.0.1:1")
    assert failed.returncode == 1
    assert re.fullmatch(r"trio-signal: http://127.0.0.1:1.*\n", failed.stderr.decode())


@pytest.mark.parametrize("command", [("rooms",), ("tail", "lobby"), ("bench",)])
@pytest.mark.parametrize("url", ["ftp://example.com", "http://", "http://x:y"])
def test_invalid_url_is_a_usage_error(command: tuple[str, ...], url: str) -> None:
    result = CliRunner().invoke(app, [*command, "--url", url])
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_empty_room_id_is_a_usage_error() -> None:
    assert CliRunner().invoke(app, ["tail", ""]).exit_code == 2


# Tail


async def run_command(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    with trio.fail_after(LONG):
        return await trio.run_process(
            [*COMMAND, *arguments], capture_stdout=True, capture_stderr=True, check=False
        )


@asynccontextmanager
async def tailing(service: Service, *arguments: str) -> AsyncIterator[trio.Process]:
    """`tail r` in a process of its own."""
    async with running("tail", "r", "--url", f"http://{service.base}", *arguments) as process:
        yield process


@asynccontextmanager
async def running(*arguments: str) -> AsyncIterator[trio.Process]:
    """A command in a process of its own."""
    with trio.fail_after(LONG):
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(
                partial(
                    trio.run_process,
                    [*COMMAND, *arguments],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    check=False,
                )
            )
            yield process
            nursery.cancel_scope.cancel()


async def read_to_end(stream: trio.abc.ReceiveStream | None) -> str:
    assert stream is not None
    return b"".join([bytes(chunk) async for chunk in stream]).decode()


async def make_things_happen(service: Service, ann: Client) -> None:
    """Make events happen while somebody watches."""
    async with bot(service.base, "bob") as bob:
        await bob.broadcast("audio")
        await wait_for(ann, WentLive)
        await bob.send({"hello": "\x1b[2J"})
        await wait_for(ann, Message)
        await bob.stop_broadcast()
        await wait_for(ann, Stopped)
    await wait_for(ann, PeerLeft)
    await heard(ann)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_tail_prints_events_until_it_is_stopped(serve: Serve, number: signal.Signals) -> None:
    async with serve() as service, bot(service.base, "ann") as ann, tailing(service) as process:
        looking = (await wait_for(ann, PeerJoined)).peer
        assert looking.username == "tail"
        await make_things_happen(service, ann)
        printed = b""
        assert process.stdout is not None
        while b"left " not in printed:
            printed += await process.stdout.receive_some()
        process.send_signal(number)
        assert await process.wait() == 0
        assert await read_to_end(process.stderr) == ""
    lines = printed.decode().splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d  ", text) for text in lines)
    assert [text[10:] for text in lines] == [
        "connected",
        "joined    Ann (ann)",
        "joined    Bob (bob)",
        "live      Bob (bob)  audio",
        'message   Bob (bob)  {"hello":"\\u001b[2J"}',
        "stopped   Bob (bob)",
        "left      Bob (bob)",
    ]


async def test_tail_prints_json_until_its_output_is_closed(serve: Serve) -> None:
    async with (
        serve() as service,
        bot(service.base, "ann") as ann,
        tailing(service, "--json", "--username", "Eve") as process,
    ):
        assert (await wait_for(ann, PeerJoined)).peer.username == "Eve"
        assert process.stdout is not None
        printed = b""
        while printed.count(b"\n") < 2:
            printed += await process.stdout.receive_some()
        await process.stdout.aclose()
        while process.poll() is None:
            await ann.send("is anybody there?")
            await trio.sleep(0.01)
        assert process.returncode == 0
        assert await read_to_end(process.stderr) == ""
    first, second = map(json.loads, printed.decode().splitlines())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first.pop("at"))
    assert first == {"type": "state_changed", "state": "joined", "reason": "", "code": None}
    del second["at"]
    assert second == {
        "type": "peer_joined",
        "peer": {"id": "ann", "username": "Ann", "live": None, "away": False},
    }


async def test_tail_ends_when_the_server_refuses_it(serve: Serve) -> None:
    async with serve() as service, bot(service.base, "ann") as ann, tailing(service) as process:
        tail_id = (await wait_for(ann, PeerJoined)).peer.id
        async with bot(service.base, tail_id, username="tail"):
            assert await process.wait() == 1
            failure = await read_to_end(process.stderr)
    assert re.fullmatch(
        r"trio-signal: http://\S+: Replaced by a newer connection \(4409\)\n", failure
    )


# Lines

ANN = Peer("a-1", "Ann")
LINES: list[tuple[Event, str]] = [
    (StateChanged("joined"), "connected"),
    (StateChanged("waiting", "gone", 1001), "waiting   gone (1001)"),
    (StateChanged("waiting", "no sign of life"), "waiting   no sign of life"),
    (PeerJoined(ANN), "joined    Ann (a-1)"),
    (PeerLeft(ANN), "left      Ann (a-1)"),
    (WentLive(Peer("a-1", "Ann", Live("video", "t"))), "live      Ann (a-1)  video"),
    (Stopped(ANN), "stopped   Ann (a-1)"),
    (Offer("a-1", "Ann", {"sdp": "v=0"}), 'offer     Ann (a-1)  {"sdp":"v=0"}'),
    (Answer("a-1", "Ann", None), "answer    Ann (a-1)  null"),
    (Candidate("a-1", "Ann", []), "candidate Ann (a-1)  []"),
    (Message("a-1", "Ann", "x" * 1000), f'message   Ann (a-1)  "{"x" * 199}…'),
    (Message("a-1", "\x1b]0;Mallory\x07\n", 1), "message   �]0;Mallory�� (a-1)  1"),
    (Error("Not allowed", "not_allowed"), "error     Not allowed"),
    (TokenExpiring(60), "token     expires in 60 s"),
    (TokenRenewed(600), "token     good for 600 s"),
    (Pong(1), "pong      1"),
]


@pytest.mark.parametrize(("event", "text"), LINES, ids=lambda value: type(value).__name__)
def test_event_is_printed_as_a_line(event: Event, text: str) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5)
    assert line(event, at).plain.rstrip() == f"03:04:05  {text}"
