"""PeerJS and y-webrtc from npm, in Chromium, on three replicas that share a Redis."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.test_package import npm
from tests.browser.visitors import HERE, Server, Visitors

#: What a page uses of these: `Peer`, `Y` and `WebrtcProvider`.
ENTRY = """
export { Peer } from 'peerjs';
export * as Y from 'yjs';
export { WebrtcProvider } from 'y-webrtc';
"""

# `log` has the events of a peer, and `heard` what it received.
MAKE_PEER = """([port, id, token]) => {
    const peer = window.peer = new ecosystems.Peer(id, {
        host: '127.0.0.1', port, path: '/some/where', token, config: {}, debug: 0,
    });
    window.log = [];
    window.heard = [];
    window.links = {};
    const listen = link => {
        links[link.peer] = link;
        link.on('data', data => heard.push(data));
        link.on('open', () => log.push(`linked ${link.peer}`));
        link.on('close', () => log.push(`closed ${link.peer}`));
    };
    window.link = (id, serialization) =>
        listen(peer.connect(id, serialization ? { serialization } : {}));
    for (const event of ['open', 'disconnected', 'close']) peer.on(event, () => log.push(event));
    peer.on('error', ({ type }) => log.push(type));
    peer.on('connection', listen);
    window.calls = {};
    const canvas = document.createElement('canvas');
    const context = canvas.getContext('2d');
    setInterval(() => context.fillRect(0, 0, Math.random() * 9, 9), 50);
    const show = call => {
        calls[call.peer] = call;
        call.on('close', () => log.push(`closed ${call.peer}`));
    };
    window.ring = id => show(peer.call(id, canvas.captureStream(15)));
    peer.on('call', call => { show(call); call.answer(canvas.captureStream(15)); });
}"""
# The frames received in a call.
DECODED = """async id => {
    let frames = 0;
    for (const stats of (await calls[id]?.peerConnection?.getStats() ?? new Map()).values())
        frames += stats.framesDecoded ?? 0;
    return frames;
}"""
# The client has no setting for the server: behind a load balancer it would get another replica.
MOVE = "port => { peer.socket._baseUrl = peer.socket._baseUrl.replace(/:\\d+/, `:${port}`); }"
LOGGED = "([entry, times]) => log.filter(each => each === entry).length >= times"

EDIT = """([port, password]) => {
    window.document_ = new ecosystems.Y.Doc();
    window.provider = new ecosystems.WebrtcProvider('sheet-7', document_, {
        signaling: [`ws://127.0.0.1:${port}/topics`], password, filterBcConns: false,
        peerOpts: { config: { iceServers: [] } },
    });
    window.sheet = document_.getText('sheet');
}"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """All packages in one script."""
    folder = Path(tmp_path_factory.mktemp("ecosystems"))
    for name in ("package.json", "package-lock.json"):
        (folder / name).write_text((HERE / name).read_text())
    npm("ci", "--ignore-scripts", folder=folder, offline=False)
    (folder / "entry.js").write_text(ENTRY)
    command = [f"{folder}/node_modules/.bin/esbuild", "entry.js", "--bundle"]
    command += ["--format=iife", "--global-name=ecosystems", "--define:global=window"]
    made = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    # Each `eval` has a scope of its own.
    script: str = made.stdout.replace("var ecosystems =", "window.ecosystems =", 1)
    return script + "; 0"


@pytest.fixture
def replicas(redis_url: str) -> Iterator[list[Server]]:
    environment = {"REDIS_URL": redis_url, "TRIO_SIGNAL_ALLOWED_ORIGINS": "*"}
    environment |= {"TRIO_SIGNAL_REDIS_PREFIX": "ecosystems:"}
    servers = [Server(environment=environment) for _ in range(3)]
    for server in servers:
        server.start()
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture
def pages(replicas: list[Server], browser: Browser, bundle: str) -> Iterator[list[Page]]:
    visitors = Visitors(replicas[0])
    pages = [visitors.page(browser, bypass_csp=True) for _ in range(3)]
    for page in pages:
        page.goto("/healthz")
        page.evaluate(bundle)
    yield pages
    visitors.close()


def wait(page: Page, entry: str, times: int = 1) -> None:
    page.wait_for_function(LOGGED, arg=[entry, times])


def open_peer(page: Page, server: Server, id_: str, token: str) -> None:
    page.evaluate(MAKE_PEER, [server.port, id_, token])


def expect_heard(page: Page, wanted: Any) -> None:
    page.wait_for_function("wanted => JSON.stringify(heard.at(-1)) === wanted", arg=wanted)


def see(page: Page, id_: str) -> None:
    """Wait until new frames of the call with a peer arrive."""
    known = page.evaluate(DECODED, id_)
    page.wait_for_function(
        f"async ([id, known]) => await ({DECODED})(id) > known", arg=[id_, known]
    )


def test_peerjs_clients_connect(pages: list[Page], replicas: list[Server]) -> None:
    """Across replicas, with a late peer, an absent one, and a replica that dies."""
    ann, bob, eve = pages
    one, two, three = replicas
    open_peer(ann, one, "ann", "a")
    wait(ann, "open")
    ann.evaluate("link('bob'); link('nobody')")  # bob is not there yet
    open_peer(bob, two, "bob", "b")
    wait(bob, "linked ann")
    wait(ann, "linked bob")
    for serialization in ("json", "binary", "raw"):
        ann.evaluate("serialization => link('bob', serialization)", serialization)
        bob.wait_for_function("() => links.ann.open")
        ann.wait_for_function("() => links.bob.open")
        text = f'"over {serialization}"'
        ann.evaluate("text => links.bob.send(JSON.parse(text))", text)
        if serialization == "raw":
            continue  # it arrives as another type
        expect_heard(bob, text)
    ann.evaluate("ring('bob')")
    see(ann, "bob")
    see(bob, "ann")
    wait(ann, "peer-unavailable")
    assert ann.evaluate("log.filter(each => each === 'peer-unavailable').length") == 1
    open_peer(eve, three, "bob", "e")
    wait(eve, "unavailable-id")
    open_peer(eve, three, "eve", "e")
    wait(eve, "open")
    for page, id_ in ((ann, "ann"), (bob, "bob")):
        eve.evaluate("id => link(id)", id_)
        wait(eve, f"linked {id_}")
        wait(page, "linked eve")
    # A cut socket: media continue, and the peer gets its id back, here on the other replica.
    bob.evaluate("peer.disconnect()")
    wait(bob, "disconnected")
    bob.evaluate(MOVE, one.port)
    bob.evaluate("peer.reconnect()")
    wait(bob, "open", 2)
    ann.evaluate("links.bob.send('still')")
    # A replica is killed and restarted.
    one.kill()
    wait(ann, "disconnected")
    ann.wait_for_function("() => links.bob.open")
    see(ann, "bob")
    see(bob, "ann")
    one.start()
    ann.evaluate("peer.reconnect()")
    wait(ann, "open", 2)
    assert ann.evaluate("log.filter(each => each.startsWith('closed')).length") == 0


def test_two_users_of_y_webrtc_edit_one_document(pages: list[Page], replicas: list[Server]) -> None:
    """Over two replicas, with a password: the server sees no content."""
    ann, bob, _ = pages
    sent: list[bytes | str] = []
    for page, server in ((ann, replicas[0]), (bob, replicas[1])):
        page.on("websocket", lambda socket: socket.on("framesent", lambda text: sent.append(text)))
        page.evaluate(EDIT, [server.port, "secret"])
        # Two that announce themselves at once call each other, which may fail in y-webrtc.
        page.wait_for_function("() => provider.signalingConns[0]?.connected")
    ann.evaluate("() => { sheet.insert(0, 'hello '); }")
    bob.evaluate("() => { sheet.insert(0, 'world'); }")
    for page in (ann, bob):
        page.wait_for_function("() => ['hello world', 'worldhello '].includes(sheet.toString())")
    assert ann.evaluate("sheet.toString()") == bob.evaluate("sheet.toString()")
    published = [message for text in sent if (message := json.loads(text))["type"] == "publish"]
    assert {type(message["data"]) for message in published} == {str}  # encrypted
