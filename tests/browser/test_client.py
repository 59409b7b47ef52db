"""The browser client on its own: joining, reconnecting, and perfect negotiation."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect
from websockets.sync.client import ClientConnection, connect

from tests.browser.visitors import PATIENCE, Server, Visitors, expect_playing
from trio_signal.errors import CLOSE_CODES

Visit = Callable[..., Page]


def enter(visit: Visit, room: str, name: str, **options: Any) -> Page:
    page = visit("/tests/client.html")
    enter_again(page, room, name, **options)
    return page


def enter_again(page: Page, room: str, name: str, **options: Any) -> None:
    page.wait_for_function("'enter' in window")
    page.evaluate(
        "([room, options]) => enter(room, options)", [room, {"username": name, **options}]
    )


def publish(page: Page) -> None:
    page.evaluate("async () => room.publish(await camera())")


def expect_told(page: Page, *event: Any) -> None:
    """Wait until the client reported this event; a state without its reason."""
    page.wait_for_function(
        "event => told.some(one => event.every((word, i) => one[i] === word))", arg=list(event)
    )


def told(page: Page, event: str) -> list[list[Any]]:
    found: list[list[Any]] = page.evaluate("event => told.filter(one => one[0] === event)", event)
    return found


def expect_watching(page: Page) -> None:
    expect_playing(page.locator("#video"))


# Close codes


def test_retries_follow_the_table_of_close_codes(visit: Visit) -> None:
    page = visit("/tests/client.html")
    page.wait_for_function("'enter' in window")
    delays = page.evaluate(
        "codes => codes.map(code => [retryDelay(code, 0, () => 0), retryDelay(code, 0, () => 1)])",
        [int(code) for code in CLOSE_CODES] + [1006],
    )
    expected = {"at once": [0, 500], "with backoff": [250, 500]}
    # No close code makes a `mesh` client get a new token, so "new token" means no retry here.
    assert delays == [
        *(expected.get(meaning.reconnect, [None, None]) for meaning in CLOSE_CODES.values()),
        [250, 500],
    ]
    # Retries are jittered, and start at least every five seconds.
    delays = page.evaluate(
        """() => [0, 1, 2, 3, 50].map(
            n => [retryDelay(1011, n, () => 0), retryDelay(1011, n, () => 1)])"""
    )
    assert delays == [[250, 500], [500, 1000], [1000, 2000], [2000, 4000], [2500, 5000]]


def pass_through(page: Page) -> list[WebSocketRoute]:
    """The page's sockets as it opens them, so that the test can close them."""
    sockets: list[WebSocketRoute] = []

    def route(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        socket.connect_to_server()

    page.route_web_socket("**/ws/*", route)
    return sockets


def test_only_lost_connections_are_retried(visit: Visit) -> None:
    page = visit("/tests/client.html")
    page.clock.install()
    sockets = pass_through(page)
    enter_again(page, "final", "Ada")

    sockets[0].close(code=1011, reason="No sign of life")
    expect_told(page, "state", "waiting", "No sign of life")
    page.clock.run_for(1000)
    expect_told(page, "state", "joined")

    sockets[1].close(code=1008, reason="Removed by a moderator")
    expect_told(page, "state", "closed", "Removed by a moderator")
    page.clock.run_for(60_000)
    assert len(sockets) == 2


def test_a_failed_first_attempt_is_reported_and_not_retried(visit: Visit) -> None:
    page = visit("/tests/client.html")
    sockets = pass_through(page)
    enter_again(page, "taken", "Ada", clientId="one")
    other = visit("/tests/client.html")
    other.wait_for_function("'enter' in window")
    failing = """options => join(location.origin, { room: 'taken', ...options })
        .then(() => 'joined', error => [error.name, error.message, error.code])"""
    assert other.evaluate(failing, {"username": "Bob", "clientId": "one"}) == [
        "RoomError",
        "Client id in use",
        1008,
    ]
    page.evaluate("room.send('still here')")
    assert len(sockets) == 1


def test_a_client_takes_a_new_id_if_its_own_was_taken_meanwhile(visit: Visit) -> None:
    page = visit("/tests/client.html")
    page.clock.install()
    sockets = pass_through(page)
    enter_again(page, "mine", "Ada", clientId="one", token="mine")
    page.clock.pause_at(page.evaluate("Date.now() / 1000") + 1)
    # The server keeps no session for it, as after 1011.
    sockets[0].close(code=1013, reason="Reads too slowly")
    expect_told(page, "state", "waiting", "Reads too slowly")
    other = visit("/tests/client.html")
    enter_again(other, "mine", "Eve", clientId="one", token="another")
    page.clock.run_for(1000)
    expect_told(page, "state", "joined")
    assert page.evaluate("room.me.id") != "one"
    assert page.evaluate("[...room.peers.keys()]") == ["one"]
    expect_told(other, "peer", "Ada")
    assert len(sockets) == 3  # lost, refused, and the new one
    # The new id is kept.
    sockets[2].close(code=1011, reason="No sign of life")
    mine = page.evaluate("room.me.id")
    page.clock.run_for(1000)
    page.wait_for_function("room.state === 'joined'")
    assert page.evaluate("room.me.id") == mine


def test_a_client_gives_up_if_its_second_id_is_taken(visit: Visit) -> None:
    page = visit("/tests/client.html")
    page.clock.install()
    sockets: list[WebSocketRoute] = []

    def route(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        if len(sockets) == 1:
            socket.connect_to_server()
        else:
            socket.close(code=1008, reason="Client id in use")

    page.route_web_socket("**/ws/*", route)
    enter_again(page, "never", "Ada", clientId="one")
    sockets[0].close(code=1011, reason="No sign of life")
    page.clock.run_for(1000)
    expect_told(page, "state", "closed", "Client id in use")
    page.clock.run_for(60_000)
    assert len(sockets) == 3


def test_a_quiet_room_stays_connected(visit: Visit) -> None:
    page = visit("/tests/client.html")
    page.clock.install()
    sockets = pass_through(page)
    page.wait_for_function("'enter' in window")
    page.evaluate(
        """() => {
            window.pongs = 0;
            const trace = ({ type }) => { window.pongs += type === 'pong'; };
            return enter('quiet', { trace });
        }"""
    )
    for pongs in range(2, 6):  # the first ping confirms the list of members
        page.wait_for_function("pongs => window.pongs === pongs", arg=pongs)
        page.clock.run_for(20_000)
    assert page.evaluate("room.state") == "joined"
    assert len(sockets) == 1


def test_the_client_reconnects_if_the_server_is_silent(visit: Visit, visitors: Visitors) -> None:
    visitors.tolerate("closed before the connection is established")
    page = visit("/tests/client.html")
    page.clock.install()
    silent = False

    def silence(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        server.on_message(lambda message: None if silent else socket.send(message))

    page.route_web_socket("**/ws/*", silence)
    enter_again(page, "silent", "Ada")
    silent = True
    page.clock.run_for(45_000)
    expect_told(page, "state", "waiting", "No sign of life")
    # An attempt without an answer times out, too.
    page.clock.run_for(11_000)
    expect_told(page, "state", "waiting", "The server does not answer")
    silent = False
    page.clock.run_for(30_000)
    expect_told(page, "state", "joined")


# Rooms


def test_peers_broadcasts_and_messages_are_reported(visit: Visit) -> None:
    ada = enter(visit, "people", "Ada")
    bob = enter(visit, "people", "Bob")
    expect_told(ada, "peer", "Bob")
    assert bob.evaluate("[...room.peers.values()].map(peer => peer.name)") == ["Ada"]
    assert told(bob, "peer") == [["peer", "Ada"]]  # peers that were there first are reported, too
    late = """() => {
        const late = [];
        room.on('peer', (peer) => late.push(peer.name));
        room.on('peer', () => late.push('gone'))();
        return Promise.resolve().then(() => late);
    }"""
    assert bob.evaluate(late) == ["Ada"]

    ada.evaluate("room.send({ hello: 'all' })")
    expect_told(bob, "message", "Ada")
    assert told(bob, "message") == [["message", "Ada", {"hello": "all"}]]
    bob.evaluate("room.send('you', { to: peer('Ada').id })")
    expect_told(ada, "message", "Bob", "you")
    bob.evaluate("room.send('who?', { to: 'nobody' })")
    expect_told(bob, "error", "target_not_found")

    publish(ada)
    expect_told(bob, "live", "Ada")
    cyd = enter(visit, "people", "Cyd")
    expect_told(cyd, "live", "Ada")
    assert cyd.evaluate("peer('Ada').live.media") == "video"
    expect_watching(cyd)
    ada.evaluate("room.unpublish()")
    for page in (bob, cyd):
        expect_told(page, "stopped", "Ada")
        assert page.evaluate("[peer('Ada').live, peer('Ada').stream]") == [None, None]
    publish(ada)
    expect_watching(bob)

    ada.evaluate("room.leave()")
    for page in (bob, cyd):
        expect_told(page, "left", "Ada")
    assert ada.evaluate("[room.state, room.peers.size]") == ["closed", 0]
    assert told(ada, "error") == told(cyd, "error") == []


def test_listeners_that_throw_or_are_removed_affect_no_others(
    visit: Visit, visitors: Visitors
) -> None:
    ada = enter(visit, "throws", "Ada")
    ada.evaluate(
        """() => {
            window.calls = [];
            room.on('message', () => calls.push('gone'))();
            room.on('message', () => { throw new Error('of the application'); });
            room.on('message', (data) => calls.push(data));
        }"""
    )
    bob = enter(visit, "throws", "Bob")
    bob.evaluate("room.send('hello')")
    ada.wait_for_function("calls.length === 1")
    assert ada.evaluate("calls") == ["hello"]
    assert visitors.complaints == ["of the application"]
    visitors.complaints.clear()


def test_every_connection_gets_a_new_token(visit: Visit) -> None:
    page = visit("/tests/client.html")
    sockets = pass_through(page)
    page.wait_for_function("'enter' in window")
    page.evaluate(
        """() => {
            let asked = 0;
            window.hellos = [];
            return enter('tokens', {
                token: async () => `token ${++asked}`,
                trace: (message, sent) => sent && hellos.push(message.token),
            });
        }"""
    )
    sockets[0].close(code=1001)
    expect_told(page, "state", "joined")
    page.wait_for_function("hellos.includes('token 2')")


def test_a_reloaded_page_replaces_its_peer(visit: Visit) -> None:
    ada, bob = enter(visit, "reload", "Ada"), enter(visit, "reload", "Bob", clientId="bob")
    publish(ada)
    expect_watching(bob)
    publish(bob)
    expect_watching(ada)
    again = enter(visit, "reload", "Bob", clientId="bob")
    expect_told(bob, "state", "closed", "Replaced by a newer connection")
    expect_watching(again)
    publish(again)
    expect_watching(ada)
    expect_told(again, "connection", "Ada", "connected")
    assert told(ada, "left") == []


# Audio and video


def test_publishing_another_stream_replaces_tracks_without_an_offer(visit: Visit) -> None:
    ada = visit("/tests/client.html", sound=True)
    enter_again(ada, "switch", "Ada")
    bob = enter(visit, "switch", "Bob")
    publish(ada)
    expect_watching(bob)
    count_offers = """() => {
        window.offers = 0;
        const description = RTCPeerConnection.prototype.setRemoteDescription;
        RTCPeerConnection.prototype.setRemoteDescription = function (given) {
            if (given.type === 'offer') window.offers += 1;
            return description.call(this, given);
        };
    }"""
    bob.evaluate(count_offers)
    stream = bob.evaluate("peer('Ada').stream.id")
    publish(ada)
    expect_watching(bob)
    ada.evaluate(
        """async () => room.publish(new MediaStream([
            ...(await navigator.mediaDevices.getDisplayMedia({ video: true })).getVideoTracks(),
            ...room.published.getAudioTracks(),
        ]))"""
    )
    expect_watching(bob)
    assert bob.evaluate("[offers, connectionsMade]") == [0, 1]
    assert bob.evaluate("peer('Ada').stream.id") == stream
    assert told(bob, "stream") == [["stream", "Ada", "camera"]]


# A picture that no camera shows, and whether a page sees it.
RED = """() => {
    const canvas = document.createElement('canvas');
    const context = canvas.getContext('2d');
    setInterval(() => {
        context.fillStyle = 'red';
        context.fillRect(0, 0, canvas.width, canvas.height);
    }, 100);
    room.publish(canvas.captureStream(10));
}"""
SEES_RED = """() => {
    const context = document.createElement('canvas').getContext('2d');
    context.drawImage(document.getElementById('video'), 0, 0);
    const [red, green, blue] = context.getImageData(9, 9, 1, 1).data;
    return red > 200 && green < 50 && blue < 50;
}"""


def test_video_is_back_quickly_after_a_reload_or_a_camera_switch(visit: Visit) -> None:
    ada, bob = enter(visit, "quick", "Ada", clientId="ada"), enter(visit, "quick", "Bob")
    publish(ada)
    expect_watching(bob)
    began = time.monotonic()
    ada.reload()
    enter_again(ada, "quick", "Ada", clientId="ada")
    publish(ada)
    bob.wait_for_function("connectionsMade === 2 && peer('Ada')?.stream")
    expect_watching(bob)
    reloaded = time.monotonic()
    assert not bob.evaluate(SEES_RED)
    ada.evaluate(RED)
    bob.wait_for_function(SEES_RED)
    switched = time.monotonic()
    assert (reloaded - began < 5, switched - reloaded < 5) == (True, True)
    print(f"back after {reloaded - began:.2f} s, another picture after {switched - reloaded:.2f} s")


class Glare:
    """Holds back the offers of two pages until both have made one, and then sends both at once."""

    def __init__(self) -> None:
        self.held: dict[int, Callable[[], None]] = {}
        self.rounds = 0
        self.holding = False

    def route(self, socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def pass_on(message: str | bytes) -> None:
            if self.holding and json.loads(message)["type"] == "offer":
                self.held[id(socket)] = lambda: server.send(message)
                self.release()
            else:
                server.send(message)

        socket.on_message(pass_on)

    def release(self) -> None:
        if len(self.held) == 2:
            self.holding = False
            self.rounds += 1
            for send in self.held.values():
                send()
            self.held.clear()


def test_fifty_simultaneous_screen_shares_and_stops_resolve(
    visit: Visit,
) -> None:
    glare = Glare()
    pages: list[Page] = []
    for name in ("Ada", "Bob"):
        page = visit("/tests/client.html", sound=True)
        page.route_web_socket("**/ws/*", glare.route)
        enter_again(page, "glare", name)
        page.evaluate("async () => { window.both = [await camera(), await display()]; }")
        pages.append(page)
    glare.holding = True
    for page in pages:
        page.evaluate("() => { room.publish(both[0]); }")
    for page in pages:
        page.wait_for_function("() => [...room.peers.values()][0].stream")
    for round_ in range(50):
        glare.holding = True
        shown = round_ % 2 == 0
        show, hide = "room.publish(both[1], { name: 'screen' })", "room.unpublish('screen')"
        for page in pages:
            page.evaluate(f"() => {{ {show if shown else hide}; }}")
        for page in pages:
            page.wait_for_function(
                """shown => [...room.peers.values()].every(peer => peer.state === 'connected'
                    && peer.streams.has('camera') && peer.streams.has('screen') === shown)""",
                arg=shown,
            )
    assert glare.rounds == 51
    # At first nothing flowed yet, and the polite peer made a new connection; never again.
    assert sorted(page.evaluate("connectionsMade") for page in pages) == [1, 2]
    for page in pages:
        expect_watching(page)
        assert told(page, "error") == told(page, "left") == told(page, "stopped") == []
        # Each screen needs one media section, which all fifty shares reuse.
        lines = "() => [...room.peers.values()][0].connection.getTransceivers().length"
        assert page.evaluate(lines) == 3
        page.evaluate("() => { room.publish(both[1], { name: 'screen' }); }")
    for page in pages:
        expect_playing(page.locator("#screen"))


@pytest.mark.parametrize("polite", [True, False])
def test_a_page_may_publish_while_an_offer_arrives(visit: Visit, polite: bool) -> None:
    """The page has not made an offer of its own then, and need not make one."""
    bob = visit("/tests/client.html")
    bob.wait_for_function("'enter' in window")
    bob.evaluate(
        """async (options) => {
            const stream = await camera();
            window.requests = 0;
            const trace = ({ type, offer }, sent) => {
                window.requests += sent && offer?.type === 'request';
                if (!sent && type === 'offer' && !room.published) room.publish(stream);
            };
            await enter('moment', { username: 'Bob', trace, ...options });
        }""",
        {"clientId": "a" if polite else "z"},
    )
    ada = enter(visit, "moment", "Ada", clientId="m")
    publish(ada)
    expect_watching(bob)
    expect_watching(ada)
    assert bob.evaluate("requests") == 0


def test_ice_restarts_when_the_connection_fails(visit: Visit) -> None:
    ada, bob = enter(visit, "restart", "Ada"), enter(visit, "restart", "Bob")
    keep = """() => {
        window.connections = [];
        window.RTCPeerConnection = class extends RTCPeerConnection {
            constructor(...given) { super(...given); connections.push(this); }
        };
    }"""
    ada.evaluate(keep)
    publish(ada)
    expect_watching(bob)
    # Do what the browser does when ICE has failed, without waiting half a minute for that.
    credentials = "connections[0].localDescription.sdp.match(/ice-ufrag:(.*)/)[1]"
    before = ada.evaluate(credentials)
    ada.evaluate(
        """() => {
            const value = 'failed';
            const state = { value, configurable: true };
            Object.defineProperty(connections[0], 'connectionState', state);
            connections[0].onconnectionstatechange();
            delete connections[0].connectionState;
            connections[0].onconnectionstatechange();
        }"""
    )
    ada.wait_for_function(f"before => {credentials} !== before", arg=before)
    expect_told(ada, "connection", "Bob", "failed")
    expect_watching(bob)
    assert bob.evaluate("connectionsMade") == 1


def test_lost_signals_are_sent_again(visit: Visit) -> None:
    lost: list[str] = []

    def lose(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def pass_on(message: str | bytes) -> None:
            content = json.loads(message)
            signal = content.get("offer", content.get("answer", {})).get("type")
            if signal and signal not in lost:
                lost.append(signal)
            else:
                server.send(message)

        socket.on_message(pass_on)

    pages = []
    for name in ("Bob", "Ada"):  # of two peers, the one with the lesser id is polite
        page = visit("/tests/client.html")
        page.clock.install()
        page.route_web_socket("**/ws/*", lose)
        enter_again(page, "lost", name, clientId=name)
        pages.append(page)
    bob, ada = pages
    publish(bob)
    for signal in ("offer", "answer"):
        say_again(bob, lost, signal)
    expect_watching(ada)
    publish(ada)
    say_again(ada, lost, "request")
    expect_watching(bob)


def say_again(page: Page, lost: list[str], signal: str) -> None:
    """Once the signal is lost, let the time pass after which the waiting page sends again."""
    wait_until(page, lambda: signal in lost)
    page.clock.run_for(3000)


def wait_until(page: Page, happened: Callable[[], bool]) -> None:
    """Run the routes of the page until this has happened."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not happened():
        assert time.monotonic() < deadline
        page.wait_for_timeout(10)


def test_a_pair_with_mismatched_connections_starts_over(visit: Visit) -> None:
    """Dan reconnects while Bob's answer is on its way, and both have made new connections since."""
    held: list[tuple[str, Callable[[], None]]] = []
    holding = False

    def hold(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def pass_on(message: str | bytes) -> None:
            nonlocal holding
            kind = json.loads(message)["type"]
            holding = holding or (kind == "answer" and not held)
            if holding and kind in {"offer", "answer", "ice_candidate"}:
                held.append((kind, lambda: server.send(message)))
            else:
                server.send(message)

        socket.on_message(pass_on)

    def answers() -> int:
        return [kind for kind, _ in held].count("answer")

    bob, dan = visit("/tests/client.html"), visit("/tests/client.html")
    bob.route_web_socket("**/ws/*", hold)
    sockets = pass_through(dan)
    for page, name in ((bob, "Bob"), (dan, "Dan")):
        enter_again(page, "apart", name, clientId=name)
    publish(dan)
    wait_until(bob, lambda: answers() == 1)
    publish(bob)
    sockets[0].close(code=1011)
    wait_until(bob, lambda: answers() == 2)
    holding = False
    for kind, send in held:
        if kind != "ice_candidate":  # those are lost
            send()
    for page in (bob, dan):
        expect_watching(page)


def test_a_peer_that_is_live_again_is_seen_again(visit: Visit) -> None:
    """The media never stopped; only the server, and therefore the other peer, assumed so."""
    sockets: list[WebSocketRoute] = []
    held: list[Callable[[], None]] = []

    def hold(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        sockets.append(socket)

        def pass_on(message: str | bytes) -> None:
            if len(sockets) > 1 and json.loads(message)["type"] == "broadcast_start":
                held.append(lambda: server.send(message))
            else:
                server.send(message)

        socket.on_message(pass_on)

    ada = visit("/tests/client.html")
    ada.route_web_socket("**/ws/*", hold)
    enter_again(ada, "again", "Ada")
    bob = enter(visit, "again", "Bob")
    publish(ada)
    expect_watching(bob)
    sockets[0].close(code=1013)  # the server keeps no session for it
    expect_told(bob, "stopped", "Ada")
    assert bob.evaluate("peer('Ada').stream") is None
    wait_until(ada, lambda: bool(held))
    held[0]()
    bob.wait_for_function("peer('Ada').live && peer('Ada').stream")
    expect_watching(bob)
    assert bob.evaluate("connectionsMade") == 1


@contextmanager
def open_mesh(
    server: Server, room: str, name: str, client_id: str = ""
) -> Iterator[ClientConnection]:
    with connect(f"ws://127.0.0.1:{server.port}/ws/{room}") as socket:
        socket.recv(timeout=PATIENCE / 1000)
        hello = {"type": "auth_token", "username": name, "clientId": client_id or name}
        socket.send(json.dumps(hello))
        for _ in range(2):
            socket.recv(timeout=PATIENCE / 1000)
        yield socket


def lose_server(page: Page, sockets: list[WebSocketRoute]) -> None:
    """Close the page's socket; it does not reconnect until its clock runs."""
    sockets[-1].close(code=1013)  # the server keeps no session for the page
    expect_told(page, "state", "waiting")


def test_a_listener_may_leave_the_room(visit: Visit, server: Server) -> None:
    page = visit("/tests/client.html")
    page.clock.install()
    sockets = pass_through(page)
    enter_again(page, "over", "Ada")
    publish(page)
    page.evaluate("() => { room.on('left', () => room.leave()); }")
    with open_mesh(server, "over", "bob"):
        expect_told(page, "peer", "bob")
        lose_server(page, sockets)
    with open_mesh(server, "over", "cyd"):
        page.clock.run_for(1000)
        expect_told(page, "state", "closed")
        assert page.evaluate("[room.state, room.peers.size]") == ["closed", 0]
    assert page.evaluate("connectionsMade") == 1


def test_a_peer_may_return_with_another_name(visit: Visit, server: Server) -> None:
    page = visit("/tests/client.html")
    page.clock.install()
    sockets = pass_through(page)
    enter_again(page, "renamed", "Ada")
    with open_mesh(server, "renamed", "Dora", client_id="d"):
        expect_told(page, "peer", "Dora")
        lose_server(page, sockets)
    with open_mesh(server, "renamed", "Dolly", client_id="d"):
        page.clock.run_for(1000)
        expect_told(page, "connection", "Dolly")
        assert page.evaluate("[...room.peers.values()].map(peer => peer.name)") == ["Dolly"]


NONSENSE: list[Any] = [None, 7, "?", {}, {"type": "offer", "sdp": "?"}, {"type": "answer"}]


def test_nonsense_from_another_client_does_no_harm(visit: Visit, server: Server) -> None:
    ada, bob = enter(visit, "nonsense", "Ada"), enter(visit, "nonsense", "Bob")
    publish(ada)
    with open_mesh(server, "nonsense", "dora") as dora:
        for field in ("offer", "answer", "candidate"):
            for value in NONSENSE:
                type_ = "ice_candidate" if field == "candidate" else field
                dora.send(json.dumps({"type": type_, field: value}))
        dora.send(json.dumps({"type": "broadcast_start"}))
        dora.send(json.dumps({"type": "message", "data": "done"}))
        for page in (ada, bob):
            expect_told(page, "message", "dora", "done")
        expect_watching(bob)
    expect_told(bob, "left", "dora")
    expect_watching(bob)


PLAIN_CLIENT = """async (room) => {
    const pc = new RTCPeerConnection();
    const candidates = [];
    pc.onicecandidate = ({ candidate }) => candidate && candidates.push(candidate);
    pc.ontrack = ({ streams }) => { document.getElementById('video').srcObject = streams[0]; };
    pc.addTransceiver('video', { direction: 'recvonly' });
    await pc.setLocalDescription();
    while (pc.iceGatheringState !== 'complete') await new Promise((r) => setTimeout(r, 20));
    const { type, sdp } = pc.localDescription;
    const offer = { type, sdp: sdp.replace(/a=candidate.*\\r\\n/g, '') };
    const socket = new WebSocket(`ws://${location.host}/ws/${room}`);
    const send = (message) => socket.send(JSON.stringify(message));
    socket.onmessage = async ({ data }) => {
        const message = JSON.parse(data);
        if (message.type === 'auth_required') send({ type: 'auth_token', username: 'Plain' });
        if (message.type === 'users_in_room') {
            const to = message.users[0].client_id;
            for (const candidate of candidates) send({ type: 'ice_candidate', candidate, to });
            send({ type: 'offer', offer, to });
        }
        if (message.type === 'answer') await pc.setRemoteDescription(message.answer);
        // Those of the offer that it did not take fit nothing.
        if (message.type === 'ice_candidate') pc.addIceCandidate(message.candidate).catch(() => {});
    };
}"""


def test_a_plain_client_that_sends_candidates_first_is_served(visit: Visit) -> None:
    ada = enter(visit, "plain", "Ada")
    ada.evaluate("async () => room.publish(await display(), { name: 'screen' })")
    plain = visit("/tests/client.html")
    plain.evaluate(PLAIN_CLIENT, "plain")
    expect_watching(plain)
    expect_told(ada, "connection", "Plain", "connected")
    # It sees one of several streams: the camera, or else the oldest.
    assert not plain.evaluate(SEES_RED)
    ada.evaluate(RED)
    plain.wait_for_function(SEES_RED)
    ada.evaluate("room.unpublish('camera')")
    plain.wait_for_function(f"() => !({SEES_RED})()")


SERVE_DATA = """() => {
    window.carried = {};
    room.on('channel', (channel) => {
        const got = carried[channel.name] = { bytes: 0, sum: 0, channel };
        channel.on('message', (data) => {
            got.bytes += data.byteLength ?? data.length;
            got.sum += typeof data === 'string' ? 0 : new Uint8Array(data)[0];
        });
    });
}"""
SEND_MEGABYTE = """async (name) => {
    const file = [...room.peers.values()][0].channel(name);
    for (let i = 0; i < 16; i++) await file.send(new Uint8Array(65536).fill(i));
    return file.state;
}"""


def measured(page: Page, peer: str, way: str) -> bool:
    """Whether the page has complete statistics of the peer's video."""
    rows = """async ([name, way]) => {
        const { roundTripTime, relayed, ...rows } = await peer(name).stats();
        return rows[way].filter((row) => row.kind === 'video' && row.codec === 'VP9'
            && row.bitrate > 0 && roundTripTime !== null && !relayed).map((row) => row.name);
    }"""
    return bool(page.evaluate(rows, [peer, way]) == ["camera"])


def test_a_channel_with_invalid_options_harms_nothing_else(visit: Visit) -> None:
    ada, bob = (enter(visit, "invalid", name) for name in ("Ada", "Bob"))
    expect_told(ada, "peer", "Bob")
    options = {"maxRetransmits": 1, "maxPacketLifeTime": 1}  # only one of the two is allowed
    error = ada.evaluate(
        """options => {
            try {
                peer('Bob').channel('odd', options);
            } catch (error) {
                return error.name;
            }
        }""",
        options,
    )
    assert error == "TypeError"
    publish(ada)
    expect_watching(bob)
    ada.evaluate("peer('Bob').channel('odd').send('!')")
    bob.wait_for_function("[...room.peers.values()][0].channel('odd').state === 'open'")


def test_statistics_speakers_and_data_channels(visit: Visit) -> None:
    ada, bob = (visit("/tests/client.html", sound=name == "Ada") for name in ("Ada", "Bob"))
    for page, name in ((ada, "Ada"), (bob, "Bob")):
        # Of two peers, the one with the lesser id is polite.
        enter_again(page, "data", name, clientId=name, iceServers=[{"urls": "stun:127.0.0.1:9"}])
        page.evaluate(SERVE_DATA)
    ada.evaluate(  # a channel that is too late for the first offer
        """() => {
            const stop = room.on('connection', ({ connection }) => {
                const open = () => { peer('Bob').channel('early').send('!'); };
                connection.addEventListener('signalingstatechange', open, { once: true });
                stop();
            });
        }"""
    )
    ada.evaluate(
        """async () => {
            const camera = await client.openCamera({ microphone: false });
            const context = new AudioContext();
            const tone = context.createOscillator();
            const voice = context.createMediaStreamDestination();
            tone.connect(voice);
            tone.start();
            const both = [...camera.getTracks(), ...voice.stream.getTracks()];
            room.publish(new MediaStream(both), { codec: 'VP9', maxBitrate: 100_000 });
        }"""
    )
    bob.evaluate("() => { room.on('speaker', (peer) => told.push(['speaker', peer?.name])); }")
    expect_watching(bob)
    servers = "peer('Bob').connection.getConfiguration().iceServers.flatMap(one => one.urls)"
    assert ada.evaluate(servers) == ["stun:127.0.0.1:9"]
    for page, other, way in ((ada, "Bob", "sent"), (bob, "Ada", "received")):
        wait_until(page, partial(measured, page, other, way))
    encoding = "peer('Bob').connection.getSenders().find(s => s.track?.kind === 'video')"
    assert ada.evaluate(f"{encoding}.getParameters().encodings[0].maxBitrate") == 100_000
    expect_told(bob, "speaker", "Ada")
    assert bob.evaluate("[room.speaker.name, peer('Ada').level >= 0]") == ["Ada", True]

    bob.wait_for_function("carried['early']?.bytes === 1")
    for sender, receiver, name in ((ada, bob, "from polite"), (bob, ada, "from impolite")):
        assert sender.evaluate(SEND_MEGABYTE, name) == "open"
        receiver.wait_for_function("name => carried[name]?.bytes === 1 << 20", arg=name)
        assert receiver.evaluate("name => carried[name].sum", name) == sum(range(16))
    at_once = time.time() * 1000 + 500
    for page in (ada, bob):  # at the same moment: both open the two ends of one channel
        page.evaluate(
            """(moment) => setTimeout(() => {
                window.both = [...room.peers.values()][0].channel('both');
                both.on('message', (data) => { told.push(['both', data]); });
            }, moment - Date.now())""",
            at_once,
        )
    for page in (ada, bob):
        page.wait_for_function("window.both?.state === 'open'")
    for page in (ada, bob):
        page.evaluate("() => { both.send('first'); both.send('second'); }")
    for page in (ada, bob):
        expect_told(page, "both", "second")
        assert told(page, "both") == [["both", "first"], ["both", "second"]]
    # Another page replaces Bob's, and the page that opened the channel opens it again.
    bob = visit("/tests/client.html")
    enter_again(bob, "data", "Bob", clientId="Bob")
    bob.evaluate(SERVE_DATA)
    bob.wait_for_function("carried['from polite']?.channel.state === 'open'")
    ada.evaluate("peer('Bob').channel('from polite').send('again')")
    bob.wait_for_function("carried['from polite']?.bytes === 5")
    ada.evaluate("peer('Bob').channel('from polite').close()")
    bob.wait_for_function("carried['from polite'].channel.state === 'closed'")
    ada.evaluate("peer('Bob').channel('after').send('')")
    bob.wait_for_function("carried['after']")
    ada.evaluate("room.leave()")
    bob.wait_for_function("carried['after'].channel.state === 'closed'")
    for page in (ada, bob):
        assert told(page, "error") == []


# A media server that accepts all layers of an offer.
TAKES_LAYERS = """async (room) => {
    const socket = new WebSocket(`ws://${location.host}/ws/${room}`);
    const send = (message) => socket.send(JSON.stringify(message));
    const pc = new RTCPeerConnection();
    pc.ontrack = ({ streams }) => { document.getElementById('video').srcObject = streams[0]; };
    socket.onmessage = async ({ data }) => {
        const { type, from: to, offer, candidate } = JSON.parse(data);
        if (type === 'auth_required') send({ type: 'auth_token', username: 'Layers' });
        if (type === 'ice_candidate') await pc.addIceCandidate(candidate);
        if (type !== 'offer') return;
        await pc.setRemoteDescription(offer);
        await pc.setLocalDescription();
        const layers = ['rid:h recv', 'rid:m recv', 'rid:l recv', 'simulcast:recv h;m;l'];
        const [before, video] = pc.localDescription.sdp.split(/(?=m=video)/);
        const sdp = before + video + layers.map((line) => `a=${line}\\r\\n`).join('');
        pc.onicecandidate = ({ candidate }) => {
            if (candidate) send({ type: 'ice_candidate', candidate, to });
        };
        send({ type: 'answer', answer: { type: 'answer', sdp }, to });
    };
}"""


def test_simulcast_layers_are_sent_to_peers_that_accept_them(visit: Visit) -> None:
    ada, sfu = enter(visit, "layers", "Ada"), visit("/tests/client.html")
    sfu.evaluate(TAKES_LAYERS, "layers")
    expect_told(ada, "peer", "Layers")
    ada.evaluate(
        """() => {
            const canvas = document.createElement('canvas');
            Object.assign(canvas, { width: 1280, height: 720 });
            const context = canvas.getContext('2d');
            setInterval(() => {
                context.fillStyle = `hsl(${performance.now() % 360}, 50%, 50%)`;
                context.fillRect(0, 0, canvas.width, canvas.height);
            }, 100);
            room.publish(canvas.captureStream(10), { simulcast: true });
        }"""
    )
    sent = """async () => {
        const { sent } = await peer('Layers').stats() ?? { sent: [] };
        const flowing = sent.filter(({ bytes, width }) => bytes > 0 && width);
        return flowing.map(({ rid, width }) => [rid, width]).sort();
    }"""
    wait_until(ada, lambda: ada.evaluate(sent) == [["h", 1280], ["l", 320], ["m", 640]])


def test_without_media_there_are_no_peer_connections(visit: Visit) -> None:
    ada = visit("/tests/client.html")
    ada.clock.install()
    enter_again(ada, "tools", "Ada")
    bob = enter(visit, "tools", "Bob", media=False)
    publish(ada)
    expect_told(bob, "live", "Ada")
    expect_told(ada, "connection", "Bob", "connecting")
    ada.clock.run_for(16_000)
    expect_told(ada, "connection", "Bob", "none")
    bob.evaluate("room.send('seen')")
    expect_told(ada, "message", "Bob", "seen")
    assert bob.evaluate("connectionsMade") == 0


def test_names_are_not_changed(visit: Visit) -> None:
    ada = enter(visit, "names", "<b>Ada</b>")
    bob = enter(visit, "names", "Bob")
    assert bob.evaluate("[...room.peers.values()][0].name") == "<b>Ada</b>"
    expect(ada.locator("b")).to_have_count(0)


def test_the_server_may_be_given_in_several_ways(visit: Visit) -> None:
    page = visit("/tests/client.html")
    page.wait_for_function("'enter' in window")
    for base in ("location.origin", "'/'", "`ws://${location.host}/?x#y`"):
        page.evaluate(f"async () => {{ window.room = await join({base}, {{ room: 'a/b c' }}); }}")
        assert page.evaluate("[room.name, room.state]") == ["a/b c", "joined"]
        assert page.evaluate("room.me.name").startswith("Guest-")
