"""What a client does when its connection is lost, and when a server misbehaves."""

import itertools
import socket
import ssl

import pytest
import trio
import trustme
from msgspec.structs import replace
from trio.testing import wait_all_tasks_blocked
from trio_websocket import ConnectionClosed
from websockets.server import ServerProtocol

from tests.client.bots import (
    PATIENT,
    WATCHFUL,
    bot,
    bots,
    enter,
    heard,
    leave,
    receive,
    until,
    wait_for,
    wait_state,
)
from tests.client.lines import Line, listen, open_fake, open_line
from tests.clients import PATIENCE, Service
from tests.conftest import Serve
from trio_signal.client import (
    Client,
    ClosedError,
    Error,
    Event,
    Message,
    NotConnectedError,
    Peer,
    PeerJoined,
    PeerLeft,
    SlowReaderError,
    StateChanged,
    Stopped,
    WentLive,
)
from trio_signal.errors import CLOSE_CODES, CloseCode

pytestmark = pytest.mark.usefixtures("front")

ANN, BOB = Peer("ann", "Ann"), Peer("bob", "Bob")


# The meaning of close codes

RECONNECT = {code.value: meaning.reconnect for code, meaning in CLOSE_CODES.items()}
FINAL = [code for code, again in RECONNECT.items() if again in ("no", "with a new token")]
PASSING = [code for code, again in RECONNECT.items() if again in ("at once", "with backoff")]


@pytest.mark.parametrize("code", FINAL)
async def test_final_close_codes_are_not_retried(code: int) -> None:
    async with open_fake() as fake, bot(fake.base, "ann") as ann:
        await (await fake.accept()).close(code, "the reason")
        assert await receive(ann) == StateChanged("joined")
        for _ in range(2):
            with pytest.raises(ClosedError) as closed:
                await receive(ann)
            assert (closed.value.code, closed.value.reason) == (code, "the reason")
        with pytest.raises(ClosedError):
            await ann.send("hello")
        with pytest.raises(ClosedError):
            await ann.broadcast()
        assert len(fake.tokens) == 1


@pytest.mark.parametrize("code", [*PASSING, 1012, 4999])
async def test_other_close_codes_are_retried(code: int) -> None:
    async with open_fake() as fake, bot(fake.base, None, username="Ann", token="t") as ann:
        first = await fake.accept()
        await first.close(code, "the reason")
        assert await receive(ann) == StateChanged("joined")
        assert await receive(ann) == StateChanged("waiting", "the reason", code)
        second = await fake.accept()
        assert await receive(ann) == StateChanged("joined")
        assert first.hello["clientId"] is None
        assert second.hello == {**first.hello, "clientId": "made"}
        second.done()


async def test_reconnecting_at_once_makes_no_pause() -> None:
    timing = replace(PATIENT, first_pause=1000, longest_pause=1000)
    async with open_fake() as fake, bot(fake.base, "ann", timing=timing) as ann:
        await (await fake.accept()).close(CloseCode.GOING_AWAY)
        (await fake.accept()).done()
        assert ann.id == "ann"


async def test_a_token_source_is_asked_for_a_new_token() -> None:
    tokens = iter(["one", "two"])

    async def fetch() -> str:
        return next(tokens)

    async with open_fake() as fake, bot(fake.base, "ann", token=fetch) as ann:
        await (await fake.accept()).close(CloseCode.AUTHENTICATION_FAILED)
        await wait_state(ann, "waiting")
        (await fake.accept()).done()
        assert fake.tokens == ["one", "two"]


async def test_a_failing_token_source_is_asked_again() -> None:
    tokens = iter(["one", "", "two"])

    async def fetch() -> str:
        token = next(tokens)
        if not token:
            raise ConnectionRefusedError(111, "the token endpoint is away")
        return token

    async with open_fake() as fake, bot(fake.base, "ann", token=fetch) as ann:
        await (await fake.accept()).close(CloseCode.INTERNAL_ERROR)
        (await fake.accept()).done()
        reasons = [(await wait_state(ann, "waiting")).reason for _ in range(2)]
        assert reasons == ["", "the token endpoint is away"]


async def test_leaving_ends_with_a_close_frame() -> None:
    async with open_fake() as fake:
        async with bot(fake.base, "ann") as ann:
            visit = await fake.accept()
            await ann.send("last")
        assert (await visit.hear())["data"] == "last"
        with pytest.raises(ConnectionClosed) as closed, trio.fail_after(PATIENCE):
            await visit.websocket.get_message()
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1000
        visit.done()


async def test_leaving_while_resuming_ends_with_a_close_frame() -> None:
    """Otherwise the server would keep the peer, as one that may come back."""
    async with open_fake() as fake:
        fake.session = "one"
        async with bot(fake.base, "ann"):
            first = await fake.accept()
            fake.resumes = True
            await first.cut()
            second = await fake.accept()
        with pytest.raises(ConnectionClosed) as closed, trio.fail_after(PATIENCE):
            await second.websocket.get_message()
        assert closed.value.reason is not None
        assert closed.value.reason.code == 1000
        second.done()


async def test_leaving_waits_until_the_last_messages_are_sent(serve: Serve) -> None:
    """Closing with unread data sends a reset, which may overtake earlier messages."""
    async with (
        serve() as service,
        bots(service, "bob") as (bob,),
        open_line(service.base) as line,
        trio.open_nursery() as nursery,
    ):
        leaving = trio.Event()
        nursery.start_soon(_say_much_and_leave, service, bob, line, leaving)
        await leaving.wait()
        await wait_all_tasks_blocked()
        line.plug()
        assert [(await wait_for(bob, Message)).data[-4:] for _ in range(5)] == ["last"] * 5


async def _say_much_and_leave(
    service: Service, bob: Client, line: Line, leaving: trio.Event
) -> None:
    async with bot(line.base, "ann", max_events=1) as ann:
        await wait_for(bob, PeerJoined)
        for _ in range(150):
            await bob.send("x" * 10_000, to="ann")
        await heard(bob)
        line.pull()
        for _ in range(5):
            await ann.send("x" * 30_000 + "last", to="bob")
        leaving.set()


async def test_leaving_does_not_wait_for_a_silent_server(serve: Serve) -> None:
    timing = replace(PATIENT, goodbye=0.1)
    async with serve() as service, open_line(service.base) as line:
        with trio.fail_after(PATIENCE):
            async with bot(line.base, "ann", timing=timing):
                line.pull()


async def test_leaving_while_disconnected_takes_no_time(serve: Serve) -> None:
    timing = replace(PATIENT, first_pause=1000, longest_pause=1000)
    async with serve() as service, open_line(service.base) as line:
        with trio.fail_after(PATIENCE):
            async with bot(line.base, "ann", timing=timing) as ann:
                line.cut()
                await wait_state(ann, "waiting")


# Lost connections


async def test_a_client_takes_a_new_id_if_its_own_was_taken_meanwhile(serve: Serve) -> None:
    async with (
        serve(resume_grace=0) as service,
        bots(service, "bob") as (bob,),
        open_line(service.base) as line,
        bot(line.base, "ann") as ann,
    ):
        await wait_state(ann, "joined")
        assert await receive(bob) == PeerJoined(ANN)
        line.break_down()
        await wait_state(ann, "waiting")
        assert await receive(bob) == PeerLeft(ANN)
        async with bot(service.base, "ann", username="Mallory"):
            assert (await wait_for(bob, PeerJoined)).peer.username == "Mallory"
            line.mend()
            await wait_state(ann, "joined")
            assert ann.id != "ann"
            assert (await wait_for(bob, PeerJoined)).peer == Peer(ann.id, "Ann")


async def test_a_client_gives_up_if_its_second_id_is_taken() -> None:
    async with open_fake() as fake, bot(fake.base, "ann") as ann:
        first = await fake.accept()
        fake.refusal = "Client id in use"
        await first.close(CloseCode.INTERNAL_ERROR)
        await wait_state(ann, "waiting")
        with pytest.raises(ClosedError, match="Client id in use"):
            await wait_state(ann, "joined")
        assert [visit["clientId"] for visit in fake.refused] == ["ann", None]


async def test_a_client_reconnects_as_the_same_peer(serve: Serve) -> None:
    async with (
        serve(resume_grace=0) as service,
        bots(service, "bob") as (bob,),
        open_line(service.base) as line,
        bot(line.base, "ann") as ann,
    ):
        assert await receive(bob) == PeerJoined(ANN)
        for _ in range(5):
            line.cut()
            assert (await wait_state(ann, "waiting")).code == 1006
            await wait_state(ann, "joined")
            assert (ann.id, ann.state, dict(ann.peers)) == ("ann", "joined", {"bob": BOB})
        # Bob sees a leave and a join, or neither if the newer connection was faster.
        events = await heard(bob, service)
        assert events in [[PeerLeft(ANN), PeerJoined(ANN)] * times for times in range(6)]
        assert await heard(ann) == []


async def test_changes_during_an_outage_are_reported_as_events(serve: Serve) -> None:
    async with serve(resume_grace=0) as service, open_line(service.base) as line:
        names = ("bob", "carl", "dora", "eve", "finn", "gus")
        async with bots(service, *names) as (bob, carl, dora, eve, finn, gus):
            for client in (dora, eve, gus):
                await client.broadcast()
            await heard(bob)
            async with bot(line.base, "ann") as ann:
                before = await heard(ann)
                assert {e.peer.id for e in before if isinstance(e, PeerJoined)} == set(names)
                assert {e.peer.id for e in before if isinstance(e, WentLive)} == {
                    "dora",
                    "eve",
                    "gus",
                }
                started = ann.peers["gus"].live
                line.break_down()
                assert (await wait_state(ann, "waiting")).code == 1006
                await wait_state(ann, "waiting")  # now for another reason
                await carl.broadcast("audio")
                await dora.stop_broadcast()
                await eve.stop_broadcast()
                await eve.broadcast()
                await leave(bob)
                async with bot(service.base, "hal") as hal:
                    await hal.broadcast()
                    await heard(hal)
                    line.mend()
                    await wait_state(ann, "joined")
                    events = await heard(ann)
                    assert set(kinds(events)) == {
                        ("PeerLeft", "bob"),
                        ("WentLive", "carl"),
                        ("Stopped", "dora"),
                        ("Stopped", "eve"),
                        ("WentLive", "eve"),
                        ("PeerJoined", "hal"),
                        ("WentLive", "hal"),
                    }
                    assert len(events) == 7
                    order = kinds(events)
                    assert order[0] == ("PeerLeft", "bob")
                    for first, second in [
                        (("Stopped", "eve"), ("WentLive", "eve")),
                        (("PeerJoined", "hal"), ("WentLive", "hal")),
                    ]:
                        assert order.index(first) < order.index(second)
                    assert ann.peers["gus"].live == started
                    assert set(ann.peers) == {"carl", "dora", "eve", "finn", "gus", "hal"}
                assert kinds([await receive(ann), await receive(ann)]) == [
                    ("Stopped", "hal"),
                    ("PeerLeft", "hal"),
                ]
            assert finn.state == "joined"


def kinds(events: list[Event]) -> list[tuple[str, str]]:
    return [
        (type(event).__name__, event.peer.id)
        for event in events
        if isinstance(event, PeerJoined | PeerLeft | WentLive | Stopped)
    ]


async def test_a_broadcast_starts_again_after_reconnecting(serve: Serve) -> None:
    async with (
        serve(resume_grace=0) as service,
        bots(service, "bob") as (bob,),
        open_line(service.base) as line,
        bot(line.base, "ann") as ann,
    ):
        await ann.broadcast("audio")
        await wait_for(bob, WentLive)
        line.cut()
        await wait_for(bob, Stopped)
        again = (await wait_for(bob, WentLive)).peer.live
        assert again is not None
        assert again.media_type == "audio"
        await wait_state(ann, "waiting")
        await wait_state(ann, "joined")
        await ann.stop_broadcast()
        await wait_for(bob, Stopped)


async def test_broadcasts_change_while_disconnected(serve: Serve) -> None:
    async with (
        serve() as service,
        open_line(service.base) as line,
        bots(service, "bob") as (bob,),
        bot(line.base, "ann") as ann,
    ):
        for wanted in ("video", None, "audio"):
            line.break_down()
            await wait_state(ann, "waiting")
            with trio.fail_after(PATIENCE):
                if wanted is None:
                    await ann.stop_broadcast()
                else:
                    await ann.broadcast("video" if wanted == "video" else "audio")
            line.mend()
            await wait_state(ann, "joined")
            await heard(ann)
            await heard(bob)
            live = bob.peers["ann"].live
            assert (live.media_type if live else None) == wanted == ann.broadcasting


async def test_sending_waits_while_disconnected(serve: Serve) -> None:
    async with (
        serve() as service,
        open_line(service.base) as line,
        bots(service, "bob") as (bob,),
        bot(line.base, "ann") as ann,
    ):
        line.break_down()
        await wait_state(ann, "waiting")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ann.send, "waited")
            with trio.move_on_after(0.05) as gave_up:
                await ann.send("cancelled")
            assert gave_up.cancelled_caught
            line.mend()
        assert (await wait_for(bob, Message)).data == "waited"
        assert await heard(bob) == []


async def test_clients_reconnect_to_a_restarted_server(serve: Serve, redis_url: str) -> None:
    async with serve() as service:
        port = int(service.base.rpartition(":")[2])
    async with trio.open_nursery() as nursery:
        stop = await nursery.start(_serve_until_told, serve, port)
        async with (
            bot(f"127.0.0.1:{port}", "ann") as ann,
            bot(f"127.0.0.1:{port}", "bob") as bob,
        ):
            await ann.broadcast()
            await wait_for(bob, WentLive)
            stop.set()
            for client in (ann, bob):
                waiting = await wait_state(client, "waiting")
                assert (waiting.code, waiting.reason) == (1001, "Server going away")
            stop = await nursery.start(_serve_until_told, serve, port)
            for client in (ann, bob):
                await wait_state(client, "joined")
            await until(lambda: bool(ann.peers and bob.live))
            assert dict(ann.peers) == {"bob": BOB}
        stop.set()


async def _serve_until_told(
    serve: Serve, port: int, *, task_status: trio.TaskStatus[trio.Event]
) -> None:
    stop = trio.Event()
    with trio.fail_after(PATIENCE):
        while True:
            try:
                async with serve(port=port):
                    task_status.started(stop)
                    await stop.wait()
            except* OSError:
                await trio.sleep(0.01)  # the port is still in use
            else:
                return


# Servers that are dead or slow


async def test_a_server_that_falls_silent_is_noticed(serve: Serve) -> None:
    async with (
        serve() as service,
        open_line(service.base) as line,
        bot(line.base, "ann", timing=WATCHFUL) as ann,
    ):
        line.pull()
        while "sign of life" not in (await wait_state(ann, "waiting")).reason:
            pass
        line.plug()
        await wait_state(ann, "joined")


async def test_a_silent_server_that_does_not_read_is_noticed(serve: Serve) -> None:
    """Not even the ping can be sent."""
    async with (
        serve() as service,
        open_line(service.base) as line,
        bot(line.base, "ann", timing=WATCHFUL) as ann,
    ):
        line.pull()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_talk, ann)
            while "sign of life" not in (await wait_state(ann, "waiting")).reason:
                pass
            nursery.cancel_scope.cancel()
        line.plug()
        await wait_state(ann, "joined")


async def _talk(client: Client) -> None:
    while True:
        await client.send("x" * 10_000)


async def test_cancelled_sends_break_nothing(serve: Serve) -> None:
    """The line stops in between, so that some sends are cancelled with half a frame sent."""
    async with (
        serve(messages_per_second=1e6, message_burst=1_000_000) as service,
        open_line(service.base) as line,
        bots(service, "bob") as (bob,),
        bot(line.base, "ann") as ann,
    ):
        await wait_for(bob, PeerJoined)
        numbers, sent, cancelled = itertools.count(), list[int](), 0
        for _ in range(5):
            line.pull()
            for _ in range(3):
                while await say(ann, number := next(numbers)):
                    sent.append(number)
                cancelled += 1
            line.plug()
            await ann.send([number := next(numbers), ""])
            sent.append(number)
        assert cancelled == 15
        heard_by_bob: list[int] = []
        while sent[-1] not in heard_by_bob:
            heard_by_bob.append((await wait_for(bob, Message)).data[0])
        # A send that was cancelled on its way out has been sent all the same.
        assert sorted(heard_by_bob) == heard_by_bob
        assert [number for number in heard_by_bob if number in sent] == sent
        assert await heard(ann) == [StateChanged("joined"), PeerJoined(BOB)]


async def say(client: Client, number: int) -> bool:
    """Whether the message was sent before the timeout."""
    with trio.move_on_after(0.02):
        await client.send([number, "x" * 100_000])
        return True
    return False


async def test_a_slow_reader_stalls_the_server_and_loses_nothing(serve: Serve) -> None:
    async with (
        serve() as service,
        bots(service, "bob") as (bob,),
        bot(service.base, "ann", max_events=3) as ann,
    ):
        await wait_for(bob, PeerJoined)
        for number in range(150):
            await bob.send(number, to="ann")
        await heard(bob)
        await until(lambda: ann.session.stalled)
        events = [(await wait_for(ann, Message)).data for _ in range(150)]
        assert events == list(range(150))


async def test_a_client_that_never_reads_gets_an_error(serve: Serve) -> None:
    async with serve() as service, bots(service, "bob") as (bob,):
        timing = replace(PATIENT, slow_reader=0.1)
        async with bot(service.base, "ann", max_events=3, timing=timing) as ann:
            await wait_for(bob, PeerJoined)
            for number in range(10):
                await bob.send(number, to="ann")
            await wait_for(bob, PeerLeft)
            with pytest.raises(SlowReaderError):
                await ann.send("hello")
            assert [await receive(ann) for _ in range(3)] == [
                StateChanged("joined"),
                PeerJoined(BOB),
                Message("bob", "Bob", 0),
            ]
            with pytest.raises(SlowReaderError):
                await receive(ann)


async def test_a_snapshot_may_exceed_the_limit_of_waiting_events(serve: Serve) -> None:
    async with (
        serve() as service,
        bots(service, *"abcdefgh"),
        bot(service.base, "ann", max_events=2) as ann,
    ):
        assert len(ann.peers) == 8
        assert len(await heard(ann)) == 9


# Servers that are not ours


async def _silence(stream: trio.SocketStream) -> None:
    await trio.sleep_forever()


async def _hang_up(stream: trio.SocketStream) -> None:
    await trio.lowlevel.checkpoint()


async def _read_and_hang_up(stream: trio.SocketStream) -> None:
    await stream.receive_some()


async def _reset(stream: trio.SocketStream) -> None:
    await stream.receive_some(1)
    linger = (1).to_bytes(4, "little") + bytes(4)
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


async def _nonsense(stream: trio.SocketStream) -> None:
    await stream.receive_some()
    await stream.send_all(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")


async def _redirect(stream: trio.SocketStream) -> None:
    await _answer(stream, "301 Moved Permanently")


async def _forbid(stream: trio.SocketStream) -> None:
    await _answer(stream, "403 Forbidden")


async def _overload(stream: trio.SocketStream) -> None:
    await _answer(stream, "503 Service Unavailable")


async def _answer(stream: trio.SocketStream, status: str) -> None:
    await stream.receive_some()
    await stream.send_all(
        f"HTTP/1.1 {status}\r\nContent-Length: 5\r\nConnection: close\r\n\r\nsorry".encode()
    )
    await stream.receive_some()


@pytest.mark.parametrize(
    ("handler", "reason", "status"),
    [
        (_hang_up, "closed the connection before", None),
        (_read_and_hang_up, "closed the connection before", None),
        (_reset, "closed the connection before", None),
        (_nonsense, "can't handle", None),
        (_redirect, "301 sorry", 301),
        (_forbid, "403 sorry", 403),
        (_overload, "503 sorry", 503),
    ],
)
async def test_a_failed_first_connection_raises(
    handler: object, reason: str, status: int | None
) -> None:
    assert callable(handler)
    async with listen(handler) as base:
        with pytest.raises(NotConnectedError, match=reason) as failed, trio.fail_after(PATIENCE):
            async with bot(base, "ann", timing=replace(PATIENT, connect=1000)):
                raise AssertionError("nobody let us in")
        assert failed.value.status == status


@pytest.mark.parametrize("steps", range(4))
async def test_a_server_that_stops_talking_is_given_up(steps: int) -> None:
    """The client waits for a limited time at every step."""
    said = ['{"type":"auth_required","message":""}', '{"type":"news"}', '{"type":"users_in_room"}']

    async def serve(stream: trio.SocketStream) -> None:
        if steps:
            await speak(stream, said[: steps - 1])
        await trio.sleep_forever()

    async with listen(serve) as base:
        with pytest.raises(NotConnectedError, match="too long"), trio.fail_after(PATIENCE):
            async with bot(base, "ann", timing=replace(PATIENT, connect=0.2)):
                raise AssertionError("nobody let us in")


async def speak(stream: trio.SocketStream, texts: list[str]) -> None:
    """Open a WebSocket and send these texts."""
    protocol = ServerProtocol()
    while not (events := protocol.events_received()):
        protocol.receive_data(await stream.receive_some())
    protocol.send_response(protocol.accept(events[0]))  # type: ignore[arg-type]
    for text in texts:
        protocol.send_text(text.encode())
    for data in protocol.data_to_send():
        await stream.send_all(data)


async def test_a_final_refusal_on_reconnecting_ends_the_client(serve: Serve) -> None:
    async with (
        serve() as service,
        open_line(service.base) as line,
        bot(line.base, "ann") as ann,
    ):
        line.break_down()
        await wait_state(ann, "waiting")
        async with serve(dialects="room") as other:
            line.target = other.base
            line.mend()
            with pytest.raises(NotConnectedError) as failed:
                await wait_state(ann, "joined")
        assert failed.value.status == 404
        with pytest.raises(NotConnectedError):
            await ann.send("hello")


# TLS


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


async def test_a_client_works_over_tls(
    serve: Serve, authority: trustme.CA, server_context: ssl.SSLContext
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with serve() as service, open_line(service.base, server_context) as line:
        options = {"timing": PATIENT, "ssl_context": context, "room": "r"}
        async with enter(f"https://{line.base}", **options) as ann:
            assert await heard(ann) == [StateChanged("joined")]
            line.cut()
            await wait_state(ann, "joined")
            await ann.send("hello", to="zed")
            assert (await wait_for(ann, Error)).to == "zed"


async def test_an_untrusted_certificate_is_refused(
    serve: Serve, server_context: ssl.SSLContext
) -> None:
    async with serve() as service, open_line(service.base, server_context) as line:
        with pytest.raises(NotConnectedError, match="certificate verify failed"):
            async with enter(f"wss://{line.base}", room="r"):
                raise AssertionError("this is nobody whom we know")


async def test_tls_to_a_plain_server_fails() -> None:
    async with listen(_nonsense) as base:
        with pytest.raises(NotConnectedError, match="TLS: "):
            async with enter(f"https://{base}", room="r"):
                raise AssertionError("this is plain text")
