"""The driver for Janus, with a real one: broadcasters and viewers use aiortc."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    open_websocket_url,
    serve_websocket,
)

from tests.clients import PATIENCE
from tests.conftest import settings
from tests.janus import SECRET, Janus, run_janus
from tests.redis.server import free_port
from tests.relay.peers import Peer, Peers, run_peers
from trio_signal.doctor.facts import ask_relays
from trio_signal.relay import (
    DEADLINE,
    Ingest,
    Leg,
    LegEvent,
    Lost,
    Offered,
    RelayError,
    Up,
    Viewing,
)
from trio_signal.relay.janus import JanusNode, connection, legs, node
from trio_signal.relay.janus.connection import QUIET

BITRATE = 1_000_000
#: Seconds of delay that a busy machine may add.
BUSY = 5.0
JUNK = (
    *("", "{", "null", "[]", "7", "[" * 100_000, '{"janus": 7}', '{"janus": "event"}'),
    *('{"janus": "ack"}', '{"janus": "success", "transaction": "1"}', '{"janus": "nonsense"}'),
    '{"janus": "event", "sender": 1, "plugindata": {"data": {"publishers": 7}}}',
    '{"janus": "timeout", "session_id": 1}',
    b"\x00\xff",
)


@pytest.fixture(scope="module")
def janus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Janus]:
    with run_janus(Path(tmp_path_factory.mktemp("janus"))) as janus:
        yield janus


@pytest.fixture
def own_janus(tmp_path: Path) -> Iterator[Janus]:
    """A Janus that the test may kill."""
    with run_janus(tmp_path) as janus:
        yield janus


@pytest.fixture(scope="module")
def peers() -> Iterator[Peers]:
    with run_peers() as peers:
        yield peers


async def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    """Poll for a condition."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.02)


@asynccontextmanager
async def run_node(url: str, token: str = SECRET) -> AsyncIterator[JanusNode]:
    node = JanusNode(url, token=token, bitrate=BITRATE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(node.run)
        yield node
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(janus: Janus, url: str = "") -> AsyncIterator[JanusNode]:
    async with run_node(url or janus.url) as node:
        await wait_until(lambda: node.degraded is None)
        yield node


async def next_event(leg: Leg) -> LegEvent:
    with trio.fail_after(PATIENCE):
        return await leg.events.receive()


async def expect_lost(leg: Leg) -> None:
    """Check that the leg is lost once, and that no event follows."""
    assert isinstance(await next_event(leg), Lost)
    with pytest.raises(trio.EndOfChannel):
        await next_event(leg)


def without_candidates(sdp: str) -> tuple[str, list[dict[str, object]]]:
    """A description without its candidates, and these as a browser trickles them."""
    found = re.findall(r"^a=(candidate:.*?)\r\n", sdp, re.MULTILINE)
    rest = re.sub(r"^a=(candidate:.*|end-of-candidates)\r\n", "", sdp, flags=re.MULTILINE)
    return rest, [{"candidate": text, "sdpMid": "0", "sdpMLineIndex": 0} for text in found]


async def publish(ingest: Ingest, peer: Peer) -> None:
    offer, candidates = without_candidates(await peer.offer())
    for candidate in (*candidates, {"candidate": 7}, "junk", None):
        ingest.candidate(candidate)
    await peer.take(await ingest.offer(offer))
    assert await next_event(ingest) == Up()


async def watch(viewing: Viewing, peer: Peer) -> None:
    answer, candidates = without_candidates(await peer.answer(await viewing.offer()))
    await viewing.answer(answer)
    for candidate in (*candidates, None):
        viewing.candidate(candidate)
    assert await next_event(viewing) == Up()
    await see(peer)


async def see(peer: Peer) -> None:
    with trio.fail_after(PATIENCE):
        await peer.see()


async def test_viewers_of_two_replicas_watch_and_leave(janus: Janus, peers: Peers) -> None:
    async with connected(janus) as here, connected(janus) as there:
        idle = set(janus.handles())
        with here.ingest("a broadcast") as ingest:
            await publish(ingest, peers.new())
            assert list(janus.rooms().values()) == [1]
            with here.view(ingest.feed) as one, there.view(ingest.feed) as two:
                await watch(one, peers.new())
                await watch(two, peers.new())
                # The broadcaster's, two viewers', and one for each replica, as a listener.
                assert len(set(janus.handles()) - idle) == 5
            await wait_until(lambda: len(set(janus.handles()) - idle) == 1, BUSY)
            with pytest.raises(RelayError):
                await one.offer()
        await wait_until(lambda: set(janus.handles()) == idle, BUSY)
        await wait_until(lambda: janus.rooms() == {}, BUSY)
        with pytest.raises(trio.EndOfChannel):
            await next_event(ingest)


async def test_the_broadcaster_may_replace_its_peer_connection(janus: Janus, peers: Peers) -> None:
    """Viewers keep theirs, whether the old one was closed before or not."""
    async with connected(janus) as here, connected(janus) as there:
        ingest, viewer, broadcaster = here.ingest("a broadcast"), peers.new(), peers.new()
        await publish(ingest, broadcaster)
        viewing = there.view(ingest.feed)
        await watch(viewing, viewer)
        for closes in (True, False):
            if closes:
                await broadcaster.close()
                await trio.sleep(0.1)
            broadcaster = peers.new()
            await publish(ingest, broadcaster)
            offered = await next_event(viewing)
            assert isinstance(offered, Offered)
            await viewing.answer(await viewer.answer(offered.sdp))
            await see(viewer)
        offer = await broadcaster.offer()
        await broadcaster.take(await ingest.offer(offer))  # like an ICE restart
        await see(viewer)
        await broadcaster.close()
        await expect_lost(ingest)
        await expect_lost(viewing)
        await wait_until(lambda: janus.rooms() == {}, BUSY)


@pytest.mark.parametrize("closes", [True, False])
async def test_a_stopped_replica_leaves_no_rooms(
    janus: Janus, peers: Peers, *, closes: bool
) -> None:
    """Janus ends sessions before it handles earlier requests."""
    offer = await peers.new().offer()
    for _ in range(3):
        async with connected(janus) as node:
            ingests = [node.ingest("a broadcast") for _ in range(8)]
            for ingest in ingests:
                await ingest.offer(offer)
            assert len(janus.rooms()) == len(ingests)
            for ingest in ingests if closes else ():
                ingest.close()
        assert janus.rooms() == {}


async def test_another_peer_connection_of_a_viewer_needs_another_leg(
    janus: Janus, peers: Peers
) -> None:
    async with connected(janus) as node:
        with node.ingest("a broadcast") as ingest:
            await publish(ingest, peers.new())
            viewing = node.view(ingest.feed)
            with pytest.raises(RelayError, match="no offer"):
                await viewing.answer("v=0")
            await watch(viewing, peers.new())
            await publish(ingest, peers.new())
            offered = await next_event(viewing)
            assert isinstance(offered, Offered)
            answer = await peers.new().answer(offered.sdp)
            with pytest.raises(RelayError, match="another peer connection"):
                await viewing.answer(answer)
            viewing.close()


async def test_unknown_feeds_and_invalid_offers_raise(janus: Janus) -> None:
    async with connected(janus) as node:
        for feed in ("", "junk", "1-2-3", f"1-2-{'0' * 32}"):
            with node.view(feed) as viewing, pytest.raises(RelayError):
                await viewing.offer()
        for offer in ("", "junk", "\udcff"):
            with node.ingest("a broadcast") as ingest, pytest.raises(RelayError):
                await ingest.offer(offer)


async def test_viewing_a_broadcast_without_media_raises(janus: Janus, peers: Peers) -> None:
    """The broadcaster is there and may send again; the viewer gets the reason."""
    async with connected(janus) as node:
        with node.ingest("a broadcast") as ingest:
            broadcaster = peers.new()
            await publish(ingest, broadcaster)
            await broadcaster.close()
            await trio.sleep(0.1)
            with (
                node.view(ingest.feed) as viewing,
                pytest.raises(RelayError, match="sends nothing"),
            ):
                await viewing.offer()


async def test_a_leg_with_unread_events_is_lost(janus: Janus) -> None:
    async with connected(janus) as node:
        leg = node.view("a feed")
        assert isinstance(leg, legs.JanusViewing)
        for _ in range(20):
            leg.put(Up())
        events = [event async for event in leg.events]
        assert events == [*[Up()] * 15, Lost("its events are not read")]


async def test_a_request_is_forgotten_when_nobody_waits_any_more(janus: Janus) -> None:
    """Janus never answers it if the handle was detached before."""
    async with connected(janus) as node:
        with trio.CancelScope() as scope:
            scope.cancel()
            await node._session.ask({"janus": "info"})
        assert not node._session._waiting


async def test_a_session_without_its_own_handle_is_replaced(janus: Janus, peers: Peers) -> None:
    """As when an operator detaches it by the Admin API: it creates all rooms."""
    async with connected(janus) as node:
        before = node._session
        before.tell({"janus": "detach", "handle_id": before.control._id})
        await wait_until(lambda: node._session is not before and node.degraded is None)
        with node.ingest("a broadcast") as ingest:
            await publish(ingest, peers.new())


async def test_a_media_server_that_does_not_read_is_lost(
    janus: Janus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_MAX_UNSENT", 1000)
    async with connected(janus) as node:
        leg = node.view(f"1-2-{'0' * 32}")
        for _ in range(30):
            node._session.tell({"janus": "keepalive"})
        assert "does not read" in (node.degraded or "")
        with pytest.raises(RelayError, match="does not read"):
            await leg.offer()


async def test_a_killed_and_restarted_janus_is_used_again(own_janus: Janus, peers: Peers) -> None:
    async with connected(own_janus) as node:
        ingest = node.ingest("a broadcast")
        await publish(ingest, peers.new())
        viewing = node.view(ingest.feed)
        await watch(viewing, peers.new())
        own_janus.kill()
        with trio.fail_after(BUSY):
            await expect_lost(ingest)
            await expect_lost(viewing)
        await wait_until(lambda: node.degraded)
        with pytest.raises(RelayError), node.ingest("another") as another:
            await another.offer("v=0")
        own_janus.start()
        await wait_until(lambda: node.degraded is None)
        with node.ingest("another") as another:
            await publish(another, peers.new())


async def test_a_frozen_janus_is_given_up(own_janus: Janus, peers: Peers) -> None:
    """Its sockets stay open, but it is silent: all is lost after the deadline."""
    async with connected(own_janus) as node:
        ingest = node.ingest("a broadcast")
        await publish(ingest, peers.new())
        own_janus.freeze()
        viewing = node.view(ingest.feed)
        with trio.fail_after(DEADLINE + BUSY), pytest.raises(RelayError):
            await viewing.offer()
        with trio.fail_after(DEADLINE + QUIET + BUSY):
            await expect_lost(ingest)
        await wait_until(lambda: node.degraded)
        own_janus.thaw()
        await wait_until(lambda: node.degraded is None)
        await wait_until(lambda: own_janus.rooms() == {})


async def test_a_wrong_secret_is_reported_without_quoting_it(
    janus: Janus, caplog: pytest.LogCaptureFixture
) -> None:
    url = janus.url.replace("127", ":hunter2@127")
    async with run_node(url, token="") as node:
        await wait_until(lambda: "secret" in (node.degraded or ""))
        told = f"{node.name} {node.degraded} {caplog.text}"
        assert "TRIO_SIGNAL_RELAY_TOKEN" in told
        assert "hunter2" not in told
    async with connected(janus, janus.url.replace("127", f":{SECRET.replace(' ', '%20')}@127")):
        pass


async def test_the_doctor_asks_janus(janus: Janus) -> None:
    """If it may not open a session, it does not learn the version either."""
    for secret, expected in ((SECRET, "Janus 1."), ("wrong", "TRIO_SIGNAL_RELAY_TOKEN")):
        given = {"relay_urls": janus.url, "relay_token": secret}
        (relay,) = (await ask_relays(settings(**given))).values()
        assert expected in f"{relay.report.says}{relay.problem}"
        assert any(relay.report.addresses.values()) is (secret == SECRET)
    assert janus.rooms() == {}
    (relay,) = (
        await ask_relays(settings(relay_urls=f"janus+ws://127.0.0.1:{free_port()}"))
    ).values()
    assert relay.problem is not None


async def accept(request: WebSocketRequest) -> None:
    """A server that accepts a WebSocket and never sends anything."""
    await request.accept(subprotocol="janus-protocol")
    await trio.sleep_forever()


async def test_silent_servers_are_reported() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, accept, "127.0.0.1", 0, None)
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        ports = (server.port, listener.socket.getsockname()[1])
        urls = [f"janus+ws://127.0.0.1:{port}" for port in ports]
        async with listener, run_node(urls[0]) as one, run_node(urls[1]) as two:
            await wait_until(lambda: "within 2 s" in f"{one.degraded}", DEADLINE + BUSY)
            await wait_until(lambda: "within 2 s" in f"{two.degraded}", DEADLINE + BUSY)
        nursery.cancel_scope.cancel()


async def chatter(request: WebSocketRequest, *, heard: list[str]) -> None:
    """A server that sends all the time."""
    websocket = await request.accept(subprotocol="janus-protocol")

    async def chat() -> None:
        while True:
            await websocket.send_message('{"janus": "slowlink", "sender": 1}')
            await trio.sleep(QUIET / 10)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(chat)
        with suppress(ConnectionClosed):
            while True:
                asked = json.loads(await websocket.get_message())
                heard.append(asked["janus"])
                said = {"janus": "success", "transaction": asked["transaction"], "data": {"id": 1}}
                await websocket.send_message(json.dumps(said))
        nursery.cancel_scope.cancel()


async def test_sessions_are_kept_alive_however_much_janus_sends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Janus ends a session that has been silent for a minute, whatever Janus itself sent."""
    monkeypatch.setattr(connection, "KEEPALIVE", 0.1)
    heard: list[str] = []
    async with trio.open_nursery() as nursery:
        handler = partial(chatter, heard=heard)
        server = await nursery.start(serve_websocket, handler, "127.0.0.1", 0, None)
        async with run_node(f"janus+ws://127.0.0.1:{server.port}"):
            await wait_until(lambda: "keepalive" in heard, BUSY)
        nursery.cancel_scope.cancel()


async def test_janus_over_tls(
    janus: Janus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"janus+wss://localhost:{janus.tls_port}"
    async with run_node(url) as node:
        await wait_until(lambda: "certificate" in (node.degraded or ""))
    authority = tmp_path / "ca.pem"
    janus.authority.cert_pem.write_to_path(str(authority))
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    async with connected(janus, url):
        pass


async def pass_on(request: WebSocketRequest, *, url: str) -> None:
    """A proxy between a node and its Janus that adds junk."""
    here = await request.accept(subprotocol="janus-protocol")
    async with open_websocket_url(url, subprotocols=["janus-protocol"]) as there:

        async def pump(source: WebSocketConnection, target: WebSocketConnection) -> None:
            try:
                while True:
                    message = await source.get_message()
                    if source is there:
                        for junk in JUNK:
                            await target.send_message(junk)
                    await target.send_message(message)
            except ConnectionClosed:
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump, here, there)
            nursery.start_soon(pump, there, here)


async def test_junk_from_janus_ends_nothing(janus: Janus, peers: Peers) -> None:
    async with trio.open_nursery() as nursery:
        handler = partial(pass_on, url=janus.url.removeprefix("janus+"))
        server = await nursery.start(serve_websocket, handler, "127.0.0.1", 0, None)
        async with connected(janus, f"janus+ws://127.0.0.1:{server.port}") as node:
            with node.ingest("a broadcast") as ingest:
                await publish(ingest, peers.new())
                with node.view(ingest.feed) as viewing:
                    await watch(viewing, peers.new())
        nursery.cancel_scope.cancel()


async def test_rooms_of_a_killed_replica_are_removed(
    janus: Janus, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "SWEEP", 0.2)
    async with connected(janus) as dies, connected(janus) as stays:
        left, kept = dies.ingest("a broadcast"), stays.ingest("another")
        await publish(left, peers.new())
        await publish(kept, peers.new())
        viewing = stays.view(left.feed)
        await watch(viewing, peers.new())
        monkeypatch.setattr(dies, "_use", lambda _: None)  # it does not reconnect
        dies._session.end("killed")
        await expect_lost(viewing)
        await wait_until(lambda: list(janus.rooms().values()) == [1], BUSY)
        kept.close()
