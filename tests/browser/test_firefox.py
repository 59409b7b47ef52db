"""The browser client between Firefox and Chromium."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page

from tests.browser.firefox import open_firefox
from tests.browser.visitors import Server

Visit = Callable[..., Page]

ROUNDS = 5
# For both browsers: enters, publishes a picture for camera and screen, and keeps what it sees.
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


def test_firefox_and_chromium_show_each_other_camera_and_screen(
    server: Server, visit: Visit, tmp_path: Path
) -> None:
    with open_firefox(tmp_path) as firefox:
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
            rows = "camera VP8,screen VP8"
            assert page.evaluate(MEASURE) == [True, rows, rows]
            assert page.evaluate("troubles") == []
            assert page.evaluate("other().connection.getTransceivers().length") == 3
        assert firefox.complaints == []
