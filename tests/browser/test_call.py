"""The page of calls: six people, and all that may happen to the server between them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, Playwright, WebSocketRoute, expect

from tests.browser.cut import Cut, open_cut
from tests.browser.visitors import (
    AUTOPLAY,
    Server,
    Visitors,
    allow,
    ask_the_user,
    crash_tab,
    expect_all_playing,
    expect_closed,
    expect_prompts,
    open_chromium,
)

Visit = Callable[..., Page]


def call(page: Page, room: str, name: str) -> Page:
    page.get_by_label("Room").fill(room)
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Join").click()
    expect(page.get_by_role("status")).to_have_text("Connected")
    return page


def tile(page: Page, name: str) -> Locator:
    return page.get_by_role("figure").filter(has=page.get_by_text(name, exact=True))


def test_six_call_each_other_and_one_is_killed(
    visit: Visit, visitors: Visitors, browser: Browser, playwright: Playwright
) -> None:
    # The pages of one Chromium share one camera, and it stalls for more than five.
    with open_chromium(playwright, AUTOPLAY) as other:
        pages: list[Page] = []
        for name in ("Ada", "Bob", "Cyd", "Dan", "Eve", "Fay"):
            page = visitors.page(other if len(pages) < 3 else browser)
            page.goto("/demo/call")
            pages.append(call(page, "six", name))
        expect_six_then_five(pages, visit("/demo/call"))
        visitors.close()


def expect_six_then_five(pages: list[Page], seventh: Page) -> None:
    for page in pages:
        expect(page.get_by_text("6 of 6")).to_be_visible()
        expect_all_playing(page, 6)  # five others and oneself

    seventh.get_by_label("Room").fill("six")
    seventh.get_by_role("button", name="Join").click()
    expect(seventh.get_by_role("alert")).to_contain_text("This call is full")

    crash_tab(pages[5])
    for page in pages[:5]:
        expect(tile(page, "Fay")).to_have_count(0)
        expect(page.get_by_text("5 of 6")).to_be_visible()
        expect_all_playing(page, 5)


def test_muting_and_sharing_the_screen_is_told(visit: Visit) -> None:
    ada, bob = (call(visit("/demo/call", sound=True), "buttons", name) for name in ("Ada", "Bob"))
    expect_all_playing(bob, 2)
    mute = ada.get_by_role("button", name="Mute")
    mute.click()
    expect(mute).to_have_attribute("aria-pressed", "true")
    expect(tile(bob, "Ada")).to_contain_text("muted")
    cyd = call(visit("/demo/call"), "buttons", "Cyd")
    expect(tile(cyd, "Ada")).to_contain_text("muted")
    mute.click()
    expect(tile(bob, "Ada")).not_to_contain_text("muted")

    share = ada.get_by_role("button", name="Share screen")
    share.click()
    expect(share).to_have_attribute("aria-pressed", "true")
    expect_all_playing(bob, 3)
    share.click()
    expect(share).to_have_attribute("aria-pressed", "false")
    expect_all_playing(bob, 3)
    ada.get_by_role("button", name="Leave").click()
    expect(ada.get_by_role("button", name="Join")).to_be_visible()
    for page in (bob, cyd):
        expect(tile(page, "Ada")).to_have_count(0)


def test_who_is_muted_before_the_camera_opens_is_muted(visit: Visit) -> None:
    page = visit("/demo/call", sound=True)
    ask_the_user(page)
    call(page, "prompt", "Ada")
    expect_prompts(page, 1)
    for name in ("Mute", "Camera off"):
        page.get_by_role("button", name=name).click()
    allow(page)
    page.wait_for_function("() => document.querySelector('.tile video').srcObject")
    assert page.evaluate("streams[0].getTracks().map(track => track.enabled)") == [False, False]
    page.get_by_role("button", name="Mute").click()
    enabled = page.evaluate("streams[0].getTracks().map(track => [track.kind, track.enabled])")
    assert dict(enabled) == {"audio": True, "video": False}


def test_a_screen_that_is_shared_twice_is_closed_at_the_end(visit: Visit) -> None:
    page = visit("/demo/call")
    ask_the_user(page)
    call(page, "twice", "Ada")
    expect_prompts(page, 1)
    allow(page)
    share = page.get_by_role("button", name="Share screen")
    share.click()
    share.click()
    expect_prompts(page, 3)
    allow(page)
    expect(share).to_have_attribute("aria-pressed", "true")
    share.click()
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

    ada, bob = visit("/demo/call"), visit("/demo/call")
    ada.route_web_socket("**/ws/*", route)
    for page, name in ((ada, "Ada"), (bob, "Bob")):
        call(page, "marks", name)
    expect(tile(bob, "Ada")).to_be_visible()
    is_away = True
    sockets[0].close(code=1011)
    expect(ada.get_by_role("status")).to_contain_text("Trying again")
    ada.get_by_role("button", name="Mute").click()
    bob.get_by_role("button", name="Camera off").click()
    is_away = False
    expect(ada.get_by_role("status")).to_have_text("Connected")
    expect(tile(bob, "Ada")).to_contain_text("muted")
    expect(tile(ada, "Bob")).to_contain_text("camera off")


# A call of two, and a newcomer afterwards. Their video must go on, over the same connections.


def call_of_two(visit: Visit, url: str, room: str) -> list[Page]:
    pages = [call(visit(f"{url}/demo/call", sound=True), room, name) for name in ("Ada", "Bob")]
    for page in pages:
        expect_all_playing(page, 2)
        page.evaluate(
            """() => {
                window.interrupted = window.connectionsMade = 0;
                for (const video of document.querySelectorAll('.tile video')) {
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
            expect(page.get_by_role("status")).to_contain_text("Trying again")
            expect_uninterrupted(page)
        own_server.start()
        for page in pages:
            expect(page.get_by_role("status")).to_have_text("Connected")
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
        expect(page.get_by_role("status")).to_contain_text("Trying again")
    pages[0].wait_for_timeout(1000 * max(0, mended - time.monotonic()))
    for page in pages:
        expect_uninterrupted(page)

    network.mend()
    for page in pages:
        expect(page.get_by_role("status")).to_have_text("Connected")
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
    expect(tile(ada, "Bob")).to_contain_text("the server has lost it")
    for page in (ada, bob):
        expect_all_playing(page, 2)
    network.mend()
    expect(bob.get_by_role("status")).to_have_text("Connected")
    expect(tile(ada, "Bob")).not_to_contain_text("the server has lost it")
    for page in (ada, bob):
        expect_all_playing(page, 2)
