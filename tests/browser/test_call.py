"""The call page, made of `<trio-call>`: what people do in a call, and what may go wrong."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, Playwright, Route, WebSocketRoute, expect

from tests.browser.cut import Cut, open_cut
from tests.browser.visitors import (
    ASK_THE_USER,
    AUTOPLAY,
    ELSEWHERE,
    Server,
    Visitors,
    allow,
    crash_tab,
    expect_accessible,
    expect_all_playing,
    expect_closed,
    expect_prompts,
    kill_browser,
    open_chromium,
)

Visit = Callable[..., Page]
EXAMPLES = Path(__file__).resolve().parent.parent.parent / "examples"


def call(page: Page, room: str, name: str, *, camera: bool = True) -> Page:
    page.get_by_label("Your name").fill(name)
    if page.get_by_label("Room").is_visible():
        page.get_by_label("Room").fill(room)
    page.get_by_role("button", name="Join" if camera else "Join without camera", exact=True).click()
    expect(page.get_by_role("toolbar", name="Call")).to_be_visible()
    return page


def tile(page: Page, name: str) -> Locator:
    return page.get_by_role("figure").filter(has=page.get_by_text(name, exact=True))


def tool(page: Page, name: str) -> Locator:
    return page.get_by_role("toolbar", name="Call").get_by_role("button", name=name)


def reconnecting(page: Page) -> Locator:
    return page.get_by_text("Reconnecting…")


# When each tile was removed, by the machine's clock.
WATCH_TILES = """() => {
    window.gone = {};
    const stage = () => document.querySelector('trio-call').shadowRoot.querySelector('.stage');
    new MutationObserver((records) => {
        for (const { removedNodes } of records) {
            for (const node of removedNodes) {
                gone[node.querySelector('.name').textContent] = Date.now() / 1000;
            }
        }
    }).observe(stage(), { childList: true });
}"""
#: Seconds for a page that closes without a leave: its session is kept, but no media arrive.
SILENT = 2.0
#: How a page may end: how to end it, and the seconds within which the others must notice.
ENDS: dict[str, tuple[Callable[[Page], object], float]] = {
    "crashes": (crash_tab, SILENT),
    "presses Leave": (lambda page: tool(page, "Leave").click(), 0.3),
    "goes elsewhere": (lambda page: page.goto("about:blank", wait_until="commit"), 0.3),
    "is loaded again": (lambda page: page.reload(wait_until="commit"), 0.3),
    "is closed": (lambda page: page.close(), 0.3),
    "is killed": (lambda page: kill_browser(browser_of(page)), SILENT),
}


def browser_of(page: Page) -> Browser:
    browser = page.context.browser
    assert browser is not None
    return browser


def test_six_are_in_a_call_and_each_one_who_leaves_disappears_at_once(
    visitors: Visitors, browser: Browser, playwright: Playwright
) -> None:
    def join(name: str, chromium: Browser) -> Page:
        page = visitors.page(chromium)
        page.goto("/demo/call")
        return call(page, "six", name)

    def see_it_go(name: str, page: Page, end: str) -> float:
        """The seconds from the act until the tile is removed."""
        began = time.time()
        ENDS[end][0](page)
        expect(tile(fay, name)).to_have_count(0)
        gone: float = fay.evaluate("name => gone[name]", name)
        return gone - began

    # The pages of one Chromium share one camera, which stalls with more than five pages.
    with ExitStack() as stack:
        open_another = partial(open_chromium, playwright, AUTOPLAY)
        other = stack.enter_context(open_another())
        names = ("Ada", "Bob", "Cyd", "Dan", "Eve", "Fay")
        pages = [join(name, other if name in "Ada Bob Cyd" else browser) for name in names]
        for page in pages:
            expect(page.get_by_role("img", name="6 people")).to_be_visible()
            expect_all_playing(page, 6)  # five others and one's own
        ada, bob, cyd, dan, eve, fay = pages
        fay.evaluate(WATCH_TILES)

        eve_leaves = see_it_go("Eve", eve, "presses Leave")
        expect(eve.get_by_role("heading", name="You have left the call")).to_be_visible()
        eve.get_by_role("button", name="Rejoin").click()
        eve.get_by_role("button", name="Join", exact=True).click()
        expect(tile(fay, "Eve")).to_be_visible()
        delays = {
            "presses Leave": eve_leaves,
            "crashes": see_it_go("Dan", dan, "crashes"),
            "goes elsewhere": see_it_go("Ada", ada, "goes elsewhere"),
            "is closed": see_it_go("Bob", bob, "is closed"),
            "is loaded again": see_it_go("Eve", eve, "is loaded again"),
            "is killed": see_it_go("Cyd", cyd, "is killed"),
        }
        expect(fay.get_by_text("You are the only one here")).to_be_visible()
        for end, (_, limit) in ENDS.items():
            for _ in range(3):  # retried, since the machine may be busy
                if delays[end] < limit:
                    break
                page = join("Gus", stack.enter_context(open_another()))
                expect_all_playing(fay, 2)
                delays[end] = min(delays[end], see_it_go("Gus", page, end))
        print(", ".join(f"{end}: {delay * 1000:.0f} ms" for end, delay in delays.items()))
        slow = {end: delay for end, delay in delays.items() if delay >= ENDS[end][1]}
        assert not slow
        visitors.close()


# Its track ends, and the browser no longer lists it until it is plugged in again.
UNPLUG = """() => {
    const devices = navigator.mediaDevices;
    if (!window.unplugged) {
        window.unplugged = { ids: new Set(), all: false };
        const open = devices.getUserMedia.bind(devices);
        devices.getUserMedia = async (wanted) => {
            if (wanted.video && unplugged.all) throw new DOMException('none', 'NotFoundError');
            const id = wanted.video?.deviceId?.exact;
            if (unplugged.ids.has(id)) throw new OverconstrainedError('deviceId', 'away');
            return open(wanted);
        };
    }
    const [track] = document.querySelector('trio-call').joined.published.getVideoTracks();
    unplugged.ids.add(track.getSettings().deviceId);
    track.stop();
    track.dispatchEvent(new Event('ended'));
}"""


def expect_width(page: Page, name: str, width: int) -> None:
    """Check the width of the video received from somebody, which tells the cameras apart."""
    video = tile(page, name).locator("video").element_handle()
    page.wait_for_function("([video, width]) => video.videoWidth === width", arg=[video, width])


def test_everything_two_people_can_do_in_a_call(visit: Visit) -> None:
    ada, bob = visit("/demo/call?room=two", sound=True), visit("/demo/call?room=two", sound=True)
    for page, name in ((ada, "Ada"), (bob, "Bob")):
        call(page, "two", name)
    expect_all_playing(bob, 2)

    ada.keyboard.press("m")
    expect(bob.get_by_role("img", name="Ada is muted")).to_be_visible()
    expect(tool(ada, "Unmute")).to_be_visible()
    cyd = call(visit("/demo/call?room=two"), "two", "Cyd", camera=False)
    expect(cyd.get_by_role("img", name="Ada is muted")).to_be_visible()
    expect(tile(ada, "Cyd").locator(".avatar")).to_have_text("C")
    tool(ada, "Unmute").click()
    expect(bob.get_by_role("img", name="Ada is muted")).to_be_hidden()
    ada.keyboard.press("v")
    expect(tile(bob, "Ada").locator(".avatar")).to_be_visible()
    tool(ada, "Start video").click()
    expect(tile(bob, "Ada").locator(".avatar")).to_be_hidden()
    expect_all_playing(bob, 2, ".tile video:not(.absent)")
    expect(tile(bob, "Ada")).to_have_class("tile speaking")  # Chromium's microphone beeps

    # The camera stays on beside the screen.
    ada.keyboard.press("s")
    expect(tile(bob, "Ada’s screen")).to_be_visible()
    expect(bob.locator(".stage")).to_have_attribute("data-layout", "focus")
    expect_all_playing(bob, 3, ".tile video:not(.absent)")
    tool(ada, "Stop sharing").click()
    expect(tile(bob, "Ada’s screen")).to_have_count(0)
    tile(bob, "Cyd").hover()
    bob.get_by_role("button", name="Pin Cyd").click()
    expect(bob.locator(".stage")).to_have_attribute("data-layout", "focus")
    bob.get_by_role("button", name="Unpin Cyd").click()
    expect(bob.locator(".stage")).to_have_attribute("data-layout", "grid")

    bob.keyboard.press("c")
    bob.get_by_label("Message", exact=True).fill("<b>Hello</b>")
    bob.keyboard.press("Enter")
    expect(tool(ada, "Chat, 1 unread")).to_be_visible()
    tool(ada, "Chat").click()
    expect(ada.get_by_role("log").get_by_text("<b>Hello</b>")).to_be_visible()
    expect(tool(ada, "Close chat")).to_be_visible()
    expect_accessible(ada)
    ada.keyboard.press("Escape")
    ada.keyboard.press("p")
    expect(ada.get_by_role("heading", name="People (3)")).to_be_visible()
    expect_accessible(ada, "light")
    ada.keyboard.press("i")
    assert ada.get_by_label("Link to this call").input_value().endswith("/demo/call?room=two")
    expect(ada.get_by_role("img", name="The link as a QR code")).to_be_visible()
    expect_accessible(ada, "dark")
    ada.keyboard.press("d")
    expect_accessible(ada, "light")
    # Chromium has three cameras here, and encodes the first and the last.
    expect_width(bob, "Ada", 160)
    ada.get_by_role("combobox", name="Camera").select_option(index=2)
    expect_width(bob, "Ada", 320)

    # The camera is unplugged, and another one takes over; then there is none left.
    ada.evaluate(UNPLUG)
    expect_width(bob, "Ada", 160)
    expect_all_playing(bob, 2, ".tile video:not(.absent)")
    ada.evaluate("() => { unplugged.all = true; }")
    ada.evaluate(UNPLUG)
    expect(tile(ada, "You").get_by_text("No camera found")).to_be_visible()
    expect(tile(bob, "Ada").locator(".avatar")).to_be_visible()
    ada.evaluate("() => { unplugged.all = false; }")
    tile(ada, "You").get_by_role("button", name="Try again").click()
    expect(tile(bob, "Ada").locator(".avatar")).to_be_hidden()
    expect_all_playing(bob, 2, ".tile video:not(.absent)")
    ada.keyboard.press("Escape")
    ada.keyboard.press("f")
    ada.wait_for_function("() => document.fullscreenElement?.localName === 'trio-call'")
    ada.keyboard.press("Shift+L")
    expect(ada.get_by_role("button", name="Rejoin")).to_be_focused()
    expect(tile(bob, "Ada")).to_have_count(0)


DENY = """
    window.denied = true;
    const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
    navigator.mediaDevices.getUserMedia = async (wanted) => {
        if (denied && wanted.video) throw new DOMException('no', 'NotAllowedError');
        return ask(wanted);
    };
    navigator.permissions.query = async () => ({ state: 'denied' });
"""


def test_a_denied_camera_is_explained_in_place_of_the_picture(
    visitors: Visitors, browser: Browser
) -> None:
    page = visitors.page(browser, sound=True, viewport={"width": 390, "height": 844})
    page.add_init_script(DENY)
    page.goto("/demo/call?room=denied")
    expect(page.get_by_text("Camera blocked")).to_be_in_viewport()
    expect(page.get_by_text("Allow the camera for this page")).to_be_in_viewport()
    expect_accessible(page)
    call(page, "denied", "Ada")
    blocked = tile(page, "You").get_by_text("Camera blocked")
    expect(blocked).to_be_in_viewport()
    expect_accessible(page)
    page.evaluate("() => { denied = false; }")
    tile(page, "You").get_by_role("button", name="Try again").click()
    expect_all_playing(page, 1)
    expect(blocked).to_be_hidden()
    tool(page, "More").click()
    tool(page, "Invite").click()
    expect(page.get_by_label("Link to this call")).to_be_visible()


def test_muting_before_the_camera_opens_works(visit: Visit) -> None:
    page = visit("about:blank", sound=True)
    page.add_init_script(f"({ASK_THE_USER})()")
    page.goto("/demo/call")
    expect_prompts(page, 1)
    call(page, "prompt", "Ada")
    tool(page, "Mute").click()
    tool(page, "Stop video").click()
    allow(page)
    page.wait_for_function("() => document.querySelector('trio-call').joined.published")
    tracks = "streams[0].getTracks().map(t => [t.kind, t.enabled && t.readyState])"
    assert dict(page.evaluate(tracks)) == {"audio": False, "video": "ended"}
    tool(page, "Unmute").click()
    assert dict(page.evaluate(tracks)) == {"audio": "live", "video": "ended"}
    tool(page, "Share screen").click()
    tool(page, "Share screen").click()
    expect_prompts(page, 3)
    allow(page)
    tool(page, "Stop sharing").click()
    expect_closed(page, "streams.slice(1)")


def test_muting_while_the_server_is_away_is_told_afterwards(visit: Visit) -> None:
    sockets: list[WebSocketRoute] = []
    is_away = False

    def route(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        if is_away:
            socket.close(code=1011)
        else:
            socket.connect_to_server()

    ada, bob = visit("/demo/call", sound=True), visit("/demo/call", sound=True)
    ada.route_web_socket("**/ws/*", route)
    for page, name in ((ada, "Ada"), (bob, "Bob")):
        call(page, "marks", name)
    expect(tile(bob, "Ada")).to_be_visible()
    is_away = True
    sockets[0].close(code=1011)
    expect(reconnecting(ada)).to_be_visible()
    expect_accessible(ada)
    tool(ada, "Mute").click()
    tool(bob, "Stop video").click()
    is_away = False
    expect(reconnecting(ada)).to_be_hidden()
    expect(bob.get_by_role("img", name="Ada is muted")).to_be_visible()
    expect(tile(ada, "Bob").locator(".avatar")).to_be_visible()


def test_a_call_in_a_page_of_another_origin(server: Server, visit: Visit) -> None:
    page_text = (
        (EXAMPLES / "call_element.html").read_text().replace("http://127.0.0.1:8000", server.url)
    )

    def serve(route: Route) -> None:
        route.fulfill(body=page_text, content_type="text/html")

    page = visit("about:blank")
    page.route(f"{ELSEWHERE}/**", serve)
    page.goto(f"{ELSEWHERE}/call.html")
    here = call(visit("/demo/call?room=meeting"), "meeting", "Here")
    call(page, "meeting", "There")
    for one in (page, here):
        expect_all_playing(one, 2)
    expect(page.get_by_role("status").first).to_be_attached()
    expect(page.locator("#state")).to_have_text("joined")


# A call of two, and then a newcomer. Their video must continue over the same connections.


def call_of_two(visit: Visit, urls: tuple[str, str], room: str) -> list[Page]:
    """Put Ada and Bob into a call, by two addresses of the same server."""
    named = zip(("Ada", "Bob"), urls, strict=True)
    pages = [call(visit(f"{url}/demo/call", sound=True), room, name) for name, url in named]
    for page in pages:
        expect_all_playing(page, 2)
        page.evaluate(
            """() => {
                window.interrupted = window.connectionsMade = 0;
                const root = document.querySelector('trio-call').shadowRoot;
                for (const video of root.querySelectorAll('.tile video')) {
                    for (const event of ['emptied', 'ended', 'pause']) {
                        video.addEventListener(event, () => { window.interrupted += 1; });
                    }
                }
            }"""
        )
    return pages


def expect_uninterrupted(page: Page, newcomers: int = 0) -> None:
    expect_all_playing(page, 2 + newcomers)
    assert page.evaluate("interrupted") == 0
    # With a newcomer, the first connection may be replaced if both make an offer.
    assert page.evaluate("connectionsMade") <= 2 * newcomers


def newcomer_sees_everyone(visit: Visit, url: str, room: str, pages: list[Page]) -> None:
    cyd = call(visit(f"{url}/demo/call"), room, "Cyd")
    for page in [cyd, *pages]:
        expect(page.get_by_role("figure")).to_have_count(3)
        expect_all_playing(page, 3)


def test_video_continues_while_the_server_restarts(
    own_server: Server, visit: Visit, visitors: Visitors
) -> None:
    visitors.tolerate("ERR_CONNECTION_REFUSED")
    visitors.tolerate("ERR_CONNECTION_RESET")  # it was killed with unread data
    pages = call_of_two(visit, (own_server.url, own_server.url), "restart")
    for end in (own_server.stop, own_server.kill):  # by SIGTERM and SIGKILL
        assert end() in {0, None}
        for page in pages:
            expect(reconnecting(page)).to_be_visible()
            expect_uninterrupted(page)
        own_server.start()
        for page in pages:
            expect(reconnecting(page)).to_be_hidden()
            expect_uninterrupted(page)
    newcomer_sees_everyone(visit, own_server.url, "restart", pages)
    for page in pages:
        expect_uninterrupted(page, newcomers=1)


@pytest.fixture
def quick_server() -> Iterator[Server]:
    """A server that notices a dead network within ten seconds."""
    server = Server(
        environment={"TRIO_SIGNAL_HEARTBEAT": "4", "TRIO_SIGNAL_HEARTBEAT_TIMEOUT": "6"}
    )
    server.start()
    yield server
    assert server.stop() == 0


@pytest.fixture
def network(quick_server: Server) -> Iterator[Cut]:
    with open_cut(quick_server.port) as cut:
        yield cut


def test_video_continues_while_one_peers_network_is_cut(
    quick_server: Server, network: Cut, visit: Visit, visitors: Visitors
) -> None:
    visitors.tolerate("closed before the connection is established")
    ada, bob = pages = call_of_two(visit, (quick_server.url, network.url), "cut")
    network.cut()
    expect(reconnecting(bob)).to_be_visible()
    expect(tile(ada, "Bob")).to_contain_text("Lost the connection to the server")
    for page in pages:
        expect_uninterrupted(page)
    network.mend()
    expect(reconnecting(bob)).to_be_hidden()
    expect(tile(ada, "Bob")).not_to_contain_text("Lost the connection to the server")
    newcomer_sees_everyone(visit, quick_server.url, "cut", pages)
    for page in pages:
        expect_uninterrupted(page, newcomers=1)
