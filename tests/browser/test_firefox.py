"""The browser client and the pages between Firefox and Chromium."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser.firefox import Firefox, open_firefox
from tests.browser.test_broadcast import broadcast
from tests.browser.test_call import call, tile
from tests.browser.visitors import PATIENCE, Server, expect_all_playing

Visit = Callable[..., Page]

ROUNDS = 5
# For both browsers: enters, publishes a camera and a screen, and keeps what it sees.
ENTER = """(async () => {
    const client = await import('/client/trio-signal.js');
    const picture = () => {
        const canvas = document.createElement('canvas');
        const context = canvas.getContext('2d');
        setInterval(() => {
            context.fillStyle = `hsl(${performance.now() % 360}, 50%, 50%)`;
            context.fillRect(0, 0, canvas.width, canvas.height);
        }, 100);
        return canvas.captureStream(10);
    };
    window.troubles = [];
    window.videos = new Map();
    window.bytes = 0;
    window.room = await client.join(location.origin, { room: 'firefox', ...NAMES });
    window.screen_ = picture();
    room.on('error', (error) => troubles.push(error.message));
    room.on('stream', (stream, peer, name) => {
        const video = document.createElement('video');
        Object.assign(video, { muted: true, autoplay: true, srcObject: stream });
        document.documentElement.append(video);
        videos.set(name, video);
    });
    room.on('channel', (channel) => {
        channel.on('message', (data) => { window.bytes += data.byteLength; });
    });
    window.other = () => [...room.peers.values()][0];
    window.names = () => [...other()?.streams.keys() ?? []].sort().join();
    window.plays = (name) => videos.get(name)?.currentTime > 0.3;
    room.publish(await client.openCamera({ microphone: false }), { name: 'camera' });
})()"""
SEND = """(async () => {
    const file = other().channel(`from ${room.me.name}`);
    for (let i = 0; i < 16; i++) await file.send(new Uint8Array(65536));
})()"""
MEASURE = """other().stats().then(({ roundTripTime, sent, received }) => [
    roundTripTime !== null,
    ...[sent, received].map((rows) => rows.map((row) => `${row.name} ${row.codec}`).sort().join()),
])"""


@pytest.fixture(scope="module")
def firefox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Firefox]:
    with open_firefox(tmp_path_factory.mktemp("profile")) as firefox:
        yield firefox
        assert firefox.complaints == []


def test_firefox_and_chromium_see_each_others_camera_and_screen(
    server: Server, visit: Visit, firefox: Firefox
) -> None:
    fox, chrome = firefox.open(f"{server.url}/client/trio-signal.js"), visit("/healthz")
    chrome.goto("/client/trio-signal.js")
    for name, page in (("Fox", fox), ("Chrome", chrome)):
        names = json.dumps({"username": name, "clientId": name})
        page.evaluate(ENTER.replace("NAMES", names))

    def both_see(expression: str) -> None:
        chrome.wait_for_function(expression)
        fox.wait_for(expression)

    both_see("plays('camera')")
    for _ in range(ROUNDS):
        for page in (fox, chrome):
            page.evaluate("void room.publish(screen_, { name: 'screen' })")
        both_see("names() === 'camera,screen'")
        for page in (fox, chrome):
            page.evaluate("void room.unpublish('screen')")
        both_see("names() === 'camera'")
    for page in (fox, chrome):
        page.evaluate("void room.publish(screen_, { name: 'screen' })")
    both_see("plays('camera') && plays('screen')")
    for page in (fox, chrome):
        page.evaluate(SEND)
    both_see("bytes === 1 << 20")
    for page in (fox, chrome):
        # Firefox names no codec if all packets that it has counted so far were retransmissions.
        screens = ("VP8", "null") if page is fox else ("VP8",)
        known = [f"camera VP8,screen {codec}" for codec in screens]
        deadline = time.monotonic() + PATIENCE / 1000
        while not (measured := page.evaluate(MEASURE))[0] or not set(measured[1:]) <= {*known}:
            assert time.monotonic() < deadline, measured
            time.sleep(0.2)
        assert page.evaluate("troubles") == []
        assert page.evaluate("other().connection.getTransceivers().length") == 3
    fox.close()


# Scripts for the pages, since BiDi's keyboard is not needed here.
JOIN = """(() => {
    const { shadowRoot } = document.querySelector('trio-call');
    const form = shadowRoot.querySelector('#join');
    form.username.value = 'Fox';
    form.requestSubmit();
})()"""
VIDEOS = "[...document.querySelector('{}').shadowRoot.querySelectorAll('.stage video')]"
MOVING = f"{VIDEOS}.filter((v) => v.videoWidth && v.currentTime > 1).length === {{}}"


def test_a_call_and_a_broadcast_between_firefox_and_chromium(
    server: Server, visit: Visit, firefox: Firefox
) -> None:
    chrome = call(visit("/demo/call"), "browsers", "Chrome")
    fox = firefox.open(f"{server.url}/demo/call?room=browsers")
    fox.wait_for(
        "document.querySelector('trio-call')?.shadowRoot.querySelector('.lobby-place:not([hidden])')"
    )
    fox.evaluate(JOIN)
    fox.wait_for(MOVING.format("trio-call", 2))
    expect_all_playing(chrome, 2)
    expect(tile(chrome, "Fox")).to_be_visible()
    fox.close()
    expect(tile(chrome, "Fox")).to_have_count(0)
    chrome.close()

    ada = broadcast(visit, "foxes")
    watcher = firefox.open(f"{server.url}/demo/watch?room=foxes")
    watcher.wait_for("document.querySelector('trio-watch')?.state === 'live'")
    watcher.wait_for(MOVING.format("trio-watch", 1))
    expect(ada.get_by_role("img", name="1 viewer")).to_be_visible()
    watcher.close()
    expect(ada.get_by_text("Nobody yet.")).to_be_visible()
