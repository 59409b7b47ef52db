"""The page of calls, made of `<trio-call>`: what people do in it, and what may happen to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
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


# When the page is told that somebody left, and when the tile is gone.
WATCH_LEAVING = """() => {
    window.left = new Map();
    const root = document.querySelector('trio-call').shadowRoot;
    document.querySelector('trio-call').joined.on('left', ({ name }) => {
        const entry = [...told].reverse().find(({ username }) => username === name);
        left.set(name, [entry.cause, performance.now() - entry.at]);
    });
}"""
WATCH_SOCKETS = """
    window.told = [];
    window.WebSocket = class extends WebSocket {
        constructor(...given) {
            super(...given);
            this.addEventListener('message', ({ data }) => {
                const message = JSON.parse(data);
                if (message.type === 'user_left') told.push({ ...message, at: performance.now() });
            });
        }
    };
"""


def test_six_call_each_other_and_whoever_goes_is_gone_at_once(
    visit: Visit, visitors: Visitors, browser: Browser, playwright: Playwright
) -> None:
    # The pages of one Chromium share one camera, and it stalls for more than five.
    with open_chromium(playwright, AUTOPLAY) as other:
        pages: list[Page] = []
        for name in ("Ada", "Bob", "Cyd", "Dan", "Eve", "Fay"):
            page = visitors.page(other if len(pages) < 3 else browser)
            page.add_init_script(WATCH_SOCKETS)
            page.goto("/demo/call")
            pages.append(call(page, "six", name))
        for page in pages:
            expect(page.get_by_role("img", name="6 people")).to_be_visible()
            expect_all_playing(page, 6)  # five others and oneself
        *lost, dan, eve, fay = pages
        fay.evaluate(WATCH_LEAVING)

        crash_tab(dan)
        expect(tile(fay, "Dan")).to_have_count(0)
        tool(eve, "Leave").click()
        expect(tile(fay, "Eve")).to_have_count(0)
        lost[0].goto("about:blank")
        lost[1].close()
        for name in ("Ada", "Bob"):
            expect(tile(fay, name)).to_have_count(0)
        kill_browser(other)
        expect(tile(fay, "Cyd")).to_have_count(0)
        for name, (cause, delay) in fay.evaluate("Object.fromEntries(left)").items():
            if name == "Cyd":  # within two seconds, if the machine has time to count packets
                assert (cause, delay < 5_000) == ("lost", True)
            else:
                assert (cause, delay < 300) == ("closed", True), name
        expect(fay.get_by_text("You are the only one here")).to_be_visible()
        expect(eve.get_by_role("heading", name="You have left the call")).to_be_visible()
        eve.get_by_role("button", name="Rejoin").click()
        eve.get_by_role("button", name="Join", exact=True).click()
        expect(tile(fay, "Eve")).to_be_visible()
        expect_all_playing(fay, 2)
        visitors.close()


def test_what_two_do_in_a_call(visit: Visit) -> None:
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
    expect(tile(bob, "Ada")).to_have_class("tile speaking")  # the microphone of Chromium beeps

    # The camera stays, beside the screen.
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
    ada.keyboard.press("i")
    assert ada.get_by_label("Link to this call").input_value().endswith("/demo/call?room=two")
    expect(ada.get_by_role("img", name="The link as a QR code")).to_be_visible()
    ada.keyboard.press("d")
    cameras = ada.get_by_role("combobox", name="Camera")
    track = "document.querySelector('trio-call').joined.published?.getVideoTracks()[0]"
    # Chromium lets nobody see the second one: its frames are older than what went out before.
    for index in (1, 0):
        cameras.select_option(index=index)
        ada.wait_for_function(f"() => {track}?.label === 'fake_device_{index}'")
    expect_all_playing(bob, 2, ".tile video:not(.absent)")

    # The cable is pulled, and another camera takes over.
    ada.evaluate(f"() => {{ window.pulled = {track}; pulled.dispatchEvent(new Event('ended')); }}")
    ada.wait_for_function(f"() => {track} && {track} !== pulled")
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


def test_a_camera_that_is_denied_is_told_in_its_place(visitors: Visitors, browser: Browser) -> None:
    page = visitors.page(browser, sound=True, viewport={"width": 390, "height": 844})
    page.add_init_script(DENY)
    page.goto("/demo/call?room=denied")
    expect(page.get_by_text("Camera blocked")).to_be_in_viewport()
    expect(page.get_by_text("Allow the camera for this page")).to_be_in_viewport()
    call(page, "denied", "Ada")
    blocked = tile(page, "You").get_by_text("Camera blocked")
    expect(blocked).to_be_in_viewport()
    page.evaluate("() => { denied = false; }")
    tile(page, "You").get_by_role("button", name="Try again").click()
    expect_all_playing(page, 1)
    expect(blocked).to_be_hidden()
    tool(page, "More").click()
    tool(page, "Invite").click()
    expect(page.get_by_label("Link to this call")).to_be_visible()


def test_who_is_muted_before_the_camera_opens_is_muted(visit: Visit) -> None:
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


def test_what_was_muted_while_the_server_was_away_is_told(visit: Visit) -> None:
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


# A call of two, and a newcomer afterwards. Their video must go on, over the same connections.


def call_of_two(visit: Visit, url: str, room: str) -> list[Page]:
    pages = [call(visit(f"{url}/demo/call", sound=True), room, name) for name in ("Ada", "Bob")]
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
    # With a newcomer the first one may begin anew, when both make an offer.
    assert page.evaluate("connectionsMade") <= 2 * newcomers


def newcomer_sees_everyone(visit: Visit, url: str, room: str, pages: list[Page]) -> None:
    cyd = call(visit(f"{url}/demo/call"), room, "Cyd")
    for page in [cyd, *pages]:
        expect(page.get_by_role("figure")).to_have_count(3)
        expect_all_playing(page, 3)


def test_the_video_goes_on_while_the_server_restarts(
    own_server: Server, visit: Visit, visitors: Visitors
) -> None:
    visitors.tolerate("ERR_CONNECTION_REFUSED")
    visitors.tolerate("ERR_CONNECTION_RESET")  # it had not read all, when it was killed
    pages = call_of_two(visit, own_server.url, "restart")
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
    """One that notices a dead network in ten seconds."""
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


def test_the_video_goes_on_while_the_network_is_cut(
    network: Cut, visit: Visit, visitors: Visitors
) -> None:
    visitors.tolerate("closed before the connection is established")
    pages = call_of_two(visit, network.url, "cut")
    network.cut()
    mended = time.monotonic() + 20  # the length of the cut is the case under test
    for page in pages:
        expect(reconnecting(page)).to_be_visible()
    pages[0].wait_for_timeout(1000 * max(0, mended - time.monotonic()))
    for page in pages:
        expect_uninterrupted(page)

    network.mend()
    for page in pages:
        expect(reconnecting(page)).to_be_hidden()
    newcomer_sees_everyone(visit, network.url, "cut", pages)
    for page in pages:
        expect_uninterrupted(page, newcomers=1)


def test_the_video_goes_on_while_one_of_two_has_lost_the_server(
    quick_server: Server, network: Cut, visit: Visit, visitors: Visitors
) -> None:
    visitors.tolerate("closed before the connection is established")
    near, far = quick_server.url, network.url
    ada, bob = (
        call(visit(f"{near}/demo/call", sound=True), "half", "Ada"),
        call(visit(f"{far}/demo/call", sound=True), "half", "Bob"),
    )
    for page in (ada, bob):
        expect_all_playing(page, 2)
    network.cut()
    expect(tile(ada, "Bob")).to_contain_text("The server has lost them")
    for page in (ada, bob):
        expect_all_playing(page, 2)
    network.mend()
    expect(reconnecting(bob)).to_be_hidden()
    expect(tile(ada, "Bob")).not_to_contain_text("The server has lost them")
    for page in (ada, bob):
        expect_all_playing(page, 2)
