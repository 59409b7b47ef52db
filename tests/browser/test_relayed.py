"""A broadcast that a media server brings to its later viewers: a real Janus, real pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_broadcast import broadcast, expect_watching, watch
from tests.browser.visitors import Server, close_tab, expect_playing
from tests.effort import EFFORT
from tests.janus import SECRET, Janus, run_janus

#: Served by the broadcaster itself; and all viewers.
DIRECT = 4
VIEWERS = 6 if EFFORT == 1 else 20
#: Seconds after which a handle must be gone; half of them are for a machine that has much to do.
GONE = 4.0
#: Bytes that the page has sent, on all its peer connections.
BYTES_SENT = """async () => {
    let sent = 0;
    for (const { pc } of calls.values()) {
        for (const { type, bytesSent } of (await pc.getStats()).values()) {
            if (type === 'outbound-rtp') sent += bytesSent;
        }
    }
    return sent;
}"""


@pytest.fixture(scope="module")
def janus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Janus]:
    with run_janus(Path(tmp_path_factory.mktemp("janus"))) as janus:
        yield janus


@pytest.fixture(scope="module")
def server(janus: Janus) -> Iterator[Server]:
    environment = {
        "TRIO_SIGNAL_RELAY_URLS": janus.url,
        "TRIO_SIGNAL_RELAY_TOKEN": SECRET,
        "TRIO_SIGNAL_RELAY_FROM": str(DIRECT),
    }
    server = Server(environment=environment)
    server.start()
    yield server
    assert server.stop() == 0


def left(viewer: Page) -> list[str]:
    """What the viewer was told of the broadcaster's leaving."""
    told: list[str] = viewer.evaluate("messages.map(m => m.type)")
    return [type_ for type_ in told if type_ in ("broadcaster-disconnected", "stream-ended")]


def bytes_a_second(broadcaster: Page) -> float:
    before, since = broadcaster.evaluate(BYTES_SENT), time.monotonic()
    broadcaster.wait_for_timeout(2000)
    sent: float = broadcaster.evaluate(BYTES_SENT) - before
    return sent / (time.monotonic() - since)


def wait_for_handles(janus: Janus, count: int, seconds: float) -> None:
    until = time.monotonic() + seconds
    while len(janus.handles()) != count:
        assert time.monotonic() < until, f"{len(janus.handles())} handles, not {count}"
        time.sleep(0.05)


def test_viewers_beyond_the_fourth(visit: Callable[..., Page], janus: Janus) -> None:
    stream = "/tests/stream.html?stream=relayed"
    broadcaster = visit(f"{stream}&role=broadcaster")
    expect(broadcaster.locator("#state")).to_have_text("live")
    viewers: list[Page] = []
    uploads = []
    for _ in range(VIEWERS):
        viewers.append(visit(f"{stream}&role=viewer"))
        expect_playing(viewers[-1].locator("#video"))
        if EFFORT > 1:
            uploads.append(round(bytes_a_second(broadcaster)))
    print("bytes a second by viewers:", uploads)
    direct, relayed = viewers[:DIRECT], viewers[DIRECT:]
    assert broadcaster.evaluate("connectionsMade") == DIRECT + 1
    assert max(uploads[DIRECT + 1 :], default=0) <= 1.3 * max(
        uploads[DIRECT : DIRECT + 1], default=1
    )

    # A viewer leaves: there remain the replica's own handle, the broadcaster's, that of the
    # participant that hears of it, and those of the other viewers.
    close_tab(relayed.pop())
    wait_for_handles(janus, 3 + len(relayed), GONE)

    # A crash.
    killed = time.monotonic()
    janus.kill()
    janus.start()
    for viewer in relayed:
        viewer.wait_for_function("answered === 2")
        expect_playing(viewer.locator("#video"))
    seconds = time.monotonic() - killed
    print("seconds until all had pictures again:", round(seconds, 1))
    assert seconds < 15

    # Another camera, by the same peer connections and by new ones.
    for page in (*direct, *relayed):
        page.evaluate("answered = 0")
    made = [viewer.evaluate("connectionsMade") for viewer in viewers if not viewer.is_closed()]
    broadcaster.evaluate(
        """async () => {
            const other = await navigator.mediaDevices.getUserMedia({ video: true });
            for (const { pc } of calls.values()) {
                await pc.getSenders()[0].replaceTrack(other.getTracks()[0]);
            }
        }"""
    )
    for viewer in (*direct, *relayed):
        expect_playing(viewer.locator("#video"))
    assert [v.evaluate("connectionsMade") for v in (*direct, *relayed)] == made
    broadcaster.evaluate("goLive()")
    for viewer in (*direct, *relayed):
        viewer.wait_for_function("answered > 0")
        expect_playing(viewer.locator("#video"))
        assert left(viewer) == []

    close_tab(broadcaster)
    wait_for_handles(janus, 1, GONE)
    until = time.monotonic() + GONE
    while janus.rooms():
        assert time.monotonic() < until


def test_the_pages_to_broadcast_and_to_watch(visit: Callable[..., Page], janus: Janus) -> None:
    """By our own client, which is asked for a stream to a media server in so many words."""
    ada = broadcast(visit, "relayed pages")
    viewers = []
    for _ in range(DIRECT + 2):
        viewers.append(watch(visit, "relayed pages", "live"))
        expect_watching(viewers[-1])
    assert ada.evaluate("connectionsMade") == DIRECT + 1
    wait_for_handles(janus, 3 + 2, GONE)
    expect(ada.get_by_role("img", name=f"{DIRECT + 2} viewers")).to_be_visible()

    janus.kill()
    janus.start()
    for viewer in viewers[DIRECT:]:
        viewer.wait_for_function("() => connectionsMade === 2")
    for viewer in viewers:
        expect_watching(viewer)

    ada.get_by_role("button", name="End").click()
    for viewer in viewers:
        expect(viewer.get_by_text("The broadcast has ended")).to_be_visible()
    wait_for_handles(janus, 1, GONE)
