"""A broadcast that a media server forwards to later viewers: a real Janus and real pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.cut import open_cut
from tests.browser.test_broadcast import broadcast, expect_watching, watch
from tests.browser.test_client import enter_again, publish, told
from tests.browser.test_restart import WATCH_PAUSES, expect_no_pause, expect_uninterrupted
from tests.browser.visitors import Server, close_tab, expect_playing
from tests.effort import EFFORT
from tests.janus import SECRET, START, Janus, run_janus

Visit = Callable[..., Page]

#: Viewers served by the broadcaster itself, and all viewers.
DIRECT, VIEWERS = (2, 4) if EFFORT == 1 else (4, 20)
#: Seconds within which a handle must be gone; half of them are for a busy machine.
GONE = 4.0
#: The bytes that the page has sent on all its peer connections.
BYTES_SENT = """async () => {
    let sent = 0;
    for (const pc of openConnections) {
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


def relayed_server(janus: Janus, direct: int, **environment: str) -> Server:
    """A server whose broadcasts use Janus from a given viewer on; not started yet."""
    environment["TRIO_SIGNAL_RELAY_URLS"] = janus.url
    environment["TRIO_SIGNAL_RELAY_TOKEN"] = SECRET
    environment["TRIO_SIGNAL_RELAY_FROM"] = str(direct)
    return Server(environment=environment)


@pytest.fixture(scope="module")
def server(janus: Janus) -> Iterator[Server]:
    server = relayed_server(janus, DIRECT)
    server.start()
    yield server
    assert server.stop() == 0


def left(viewer: Page) -> list[str]:
    """The messages that told the viewer about the broadcaster's leaving."""
    told: list[str] = viewer.evaluate("messages.map(m => m.type)")
    return [type_ for type_ in told if type_ in ("broadcaster-disconnected", "stream-ended")]


def bytes_a_second(broadcaster: Page) -> float:
    before, since = broadcaster.evaluate(BYTES_SENT), time.monotonic()
    broadcaster.wait_for_timeout(2000)
    sent: float = broadcaster.evaluate(BYTES_SENT) - before
    return sent / (time.monotonic() - since)


class Upload:
    """A broadcaster's upload rate after each new viewer; measured if there are many."""

    def __init__(self, broadcaster: Page) -> None:
        self._broadcaster = broadcaster
        self._bytes: list[int] = []

    def measure(self) -> None:
        if EFFORT > 1:
            self._bytes.append(round(bytes_a_second(self._broadcaster)))

    def expect_flat(self) -> None:
        """Check that relayed viewers cost no upload, except the first of them."""
        print("bytes a second by viewers:", self._bytes)
        assert self._broadcaster.evaluate("connectionsMade") == DIRECT + 1
        first = max(self._bytes[DIRECT : DIRECT + 1], default=1)
        assert max(self._bytes[DIRECT + 1 :], default=0) <= 1.3 * first


def wait_for_handles(janus: Janus, count: int, seconds: float) -> None:
    began = time.monotonic()
    while len(janus.handles()) != count:
        assert time.monotonic() < began + seconds, f"{len(janus.handles())} handles, not {count}"
        time.sleep(0.05)
    print(f"{count} handles after {time.monotonic() - began:.2f} s")


def wait_for_no_rooms(janus: Janus) -> None:
    until = time.monotonic() + GONE
    while janus.rooms():
        assert time.monotonic() < until


def test_later_viewers_of_stream_are_relayed(visit: Visit, janus: Janus) -> None:
    stream = "/tests/stream.html?stream=relayed"
    broadcaster = visit(f"{stream}&role=broadcaster")
    expect(broadcaster.locator("#state")).to_have_text("live")
    viewers: list[Page] = []
    upload = Upload(broadcaster)
    for _ in range(VIEWERS):
        viewers.append(visit(f"{stream}&role=viewer"))
        expect_playing(viewers[-1].locator("#video"))
        upload.measure()
    upload.expect_flat()
    direct, relayed = viewers[:DIRECT], viewers[DIRECT:]

    # A viewer leaves: the handles of the replica, the broadcaster, the participant that
    # listens to the room, and the other viewers remain.
    close_tab(relayed.pop())
    wait_for_handles(janus, 3 + len(relayed), GONE)

    # Another camera, in other tracks of the same peer connections.
    broadcaster.evaluate("switchCamera()")
    for viewer in (*direct, *relayed):
        viewer.wait_for_function("document.getElementById('video').videoWidth === 320")
        expect_playing(viewer.locator("#video"))
        assert viewer.evaluate("connectionsMade") == 1
    assert broadcaster.evaluate("connectionsMade") == DIRECT + 1

    # The broadcaster crashes.
    for viewer in relayed:
        viewer.evaluate("answered = 0")
    killed = time.monotonic()
    janus.kill()
    janus.start()
    for viewer in relayed:
        viewer.wait_for_function("answered === 1")
        expect_playing(viewer.locator("#video"))
    seconds = time.monotonic() - killed
    print("seconds until all had pictures again:", round(seconds, 1))
    assert seconds < 15

    # Another camera, in the same tracks and then in new peer connections.
    for page in (*direct, *relayed):
        page.evaluate("answered = 0")
    made = [viewer.evaluate("connectionsMade") for viewer in viewers if not viewer.is_closed()]
    broadcaster.evaluate(
        """async () => {
            const other = await navigator.mediaDevices.getUserMedia({ video: true });
            for (const { pc } of calls.values()) {
                const sender = pc.getSenders().find(({ track }) => track);
                await sender.replaceTrack(other.getTracks()[0]);
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
    wait_for_no_rooms(janus)


@pytest.mark.parametrize("dialect", ["live", "room"])
def test_later_viewers_of_live_and_room_are_relayed(
    visit: Visit, janus: Janus, dialect: str
) -> None:
    """Clients of `room` make offers, and get an offer instead of an answer."""

    def enter(user: str) -> Page:
        page = visit(f"/tests/{dialect}.html?room=relayed-{dialect}&user={user}")
        page.wait_for_function("document.getElementById('state').textContent !== 'offline'")
        return page

    ada = enter("ada")
    ada.click("#live")
    viewers: list[Page] = []
    upload = Upload(ada)
    for number in range(VIEWERS):
        viewers.append(enter(f"viewer-{number}"))
        expect(viewers[-1].locator("#state")).to_have_text("watching ada")
        expect_playing(viewers[-1].locator("#video"))
        viewers[-1].evaluate(WATCH_PAUSES)
        upload.measure()
    upload.expect_flat()
    close_tab(viewers.pop())
    wait_for_handles(janus, 3 + len(viewers[DIRECT:]), GONE)
    for viewer in viewers:
        expect_uninterrupted(viewer)
        offers = viewer.evaluate(
            "messages.filter(m => m.type === 'live_offer' || m.signal?.type === 'offer').length"
        )
        assert offers == (dialect == "live" or viewer in viewers[DIRECT:])

    close_tab(ada)
    for viewer in viewers:
        expect(viewer.locator("#state")).to_have_text("ada stopped")
    wait_for_handles(janus, 1, GONE)
    wait_for_no_rooms(janus)


def test_broadcast_and_watch_pages_use_the_media_server(visit: Visit, janus: Janus) -> None:
    """With our own client, which is explicitly asked for a stream to the media server."""
    ada = broadcast(visit, "relayed pages")
    viewers: list[Page] = []
    upload = Upload(ada)
    for _ in range(VIEWERS):
        viewers.append(watch(visit, "relayed pages", "live"))
        expect_watching(viewers[-1])
        upload.measure()
    upload.expect_flat()
    wait_for_handles(janus, 3 + len(viewers[DIRECT:]), GONE)
    expect(ada.get_by_role("img", name=f"{VIEWERS} viewers")).to_be_visible()

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


def expect_moved(viewer: Page, connections: int) -> None:
    """Check that it has a new connection to the media server after a short pause."""
    viewer.wait_for_function("least => connectionsMade >= least", arg=connections)
    expect_no_pause(viewer)


def test_broadcasts_survive_a_rolling_restart(visit: Visit, janus: Janus, redis_url: str) -> None:
    """Each replica in turn is stopped and started again."""
    settings = {"REDIS_URL": redis_url, "TRIO_SIGNAL_REDIS_PREFIX": "relayed:"}
    settings["TRIO_SIGNAL_DRAIN_PAUSE"] = "0"
    first, second = [relayed_server(janus, 0, **settings) for _ in range(2)]
    with ExitStack() as stack:
        for replica in (first, second):
            replica.start()
            stack.callback(replica.stop)
        wait_for_handles(janus, 3, START)  # those of both replicas, and of the other tests' server
        to_first, to_second = [
            stack.enter_context(open_cut(replica.port)) for replica in (first, second)
        ]

        def enter(url: str, name: str) -> Page:
            page = visit(f"{url}/tests/client.html")
            enter_again(page, "moving", name)
            return page

        ada = enter(to_second.url, "Ada")
        publish(ada)
        viewers = [enter(to_first.url, "Bob"), enter(to_second.url, "Cyd")]
        for viewer in viewers:
            expect_playing(viewer.locator("#video"))
            viewer.evaluate(WATCH_PAUSES)
        # The broadcaster's, and for both replicas a listening participant and a viewer.
        wait_for_handles(janus, 3 + 5, GONE)

        to_first.target = second.port
        assert first.stop() == 0
        expect_moved(viewers[0], 2)
        wait_for_handles(janus, 2 + 4, GONE)
        expect_uninterrupted(viewers[1])

        first.start()
        to_first.target = to_second.target = first.port
        assert second.stop() == 0
        for viewer, made in zip(viewers, (3, 2), strict=True):
            expect_moved(viewer, made)
        wait_for_handles(janus, 2 + 4, GONE)
        for page in (ada, *viewers):
            assert [told(page, event) for event in ("left", "stopped", "error")] == [[], [], []]

        for page in (ada, *viewers):
            close_tab(page)
        wait_for_handles(janus, 2, GONE)
        wait_for_no_rooms(janus)
