"""The announcements page: the creator's desk, and every user's banner."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from tests.browser.visitors import ELSEWHERE, HERE, Server, Visitors, expect_accessible

PAGE = "/demo/announcements"
HTML = "<img src=x onerror=\"document.title='broken'\"><b>bold</b>"
HARMLESS = HTML.translate(str.maketrans("<>", "＜＞"))


@pytest.fixture
def desk(visit: Callable[..., Page]) -> Iterator[Page]:
    """The creator's page; when the test ends, no announcement is active."""
    page = visit(f"{PAGE}?user_id=boss")
    expect(page.locator("#state")).to_have_text("Connected")
    yield page
    page.click("#clear")
    expect(page.locator("#banner")).to_be_hidden()


def announce(desk: Page, text: str, type_: str = "info") -> None:
    desk.fill("#message", text)
    desk.check(f"input[value={type_}]")
    desk.get_by_role("button", name="Announce").click()


def test_a_banner_stays_until_it_is_acknowledged(visit: Callable[..., Page], desk: Page) -> None:
    ann = visit(f"{PAGE}?user_id=ann")
    expect(ann.locator("#state")).to_have_text("Connected")
    expect(desk.locator("#connected")).to_have_text("2")
    announce(desk, "Back in five minutes", "warning")
    expect(desk.locator("#outcome")).to_have_text("Sent to 2 people.")
    for page in (desk, ann):
        expect(page.locator("#banner-text")).to_have_text("Back in five minutes")
        expect(page.locator("#banner")).to_have_attribute("data-type", "warning")
    ann.click("#acknowledge")
    expect(ann.locator("#banner")).to_be_hidden()
    expect(desk.locator("#acknowledged")).to_have_text("1")
    ann.reload()
    expect(ann.locator("#state")).to_have_text("Connected")
    bob = visit(f"{PAGE}?user_id=bob")
    expect(bob.locator("#banner")).to_be_visible()
    expect(ann.locator("#banner")).to_be_hidden()
    desk.click("#clear")
    expect(bob.locator("#banner")).to_be_hidden()


def test_texts_and_names_are_never_html(visit: Callable[..., Page], desk: Page) -> None:
    eve = visit(f"{PAGE}?user_id=%3Cb%3Eeve%3C/b%3E")
    expect(eve.locator("#state")).to_have_text("Connected")
    announce(eve, HTML)
    for page in (desk, eve):
        expect(page.locator("#banner-text")).to_have_text(HARMLESS)
        expect(page.locator("#banner-from")).to_contain_text("＜b＞eve＜/b＞")
        assert page.locator("#banner img, #banner b b").count() == 0
        assert page.title() == "Announcements · trio-signal"


@pytest.mark.parametrize("origin", ["", ELSEWHERE], ids=["own origin", "named origin"])
def test_an_old_page_without_a_user_id_in_its_http_calls_works(
    visit: Callable[..., Page], desk: Page, origin: str, server: Server
) -> None:
    """Its HTTP calls carry only what the browser adds, and it trusts every text."""
    page = visit("about:blank")
    page.route("**/old.html*", lambda route: route.fulfill(path=HERE / "old_announcements.html"))
    address = f"{origin or server.url}/old.html?server={server.url.removeprefix('http://')}"
    page.goto(address)
    expect(page.locator("#state")).to_have_text("ready")
    announce(desk, HTML)
    expect(page.locator("#banner")).to_have_text(HARMLESS)
    assert page.locator("#banner *").count() == 0
    page.reload()
    expect(page.locator("#banner")).to_have_text(HARMLESS)
    page.click("#acknowledge")
    expect(page.locator("#state")).to_have_text("acknowledged")
    page.reload()
    expect(page.locator("#state")).to_have_text("ready")
    expect(page.locator("#banner")).to_be_empty()
    page.goto(f"{address}&user_id=another")
    expect(page.locator("#banner")).to_have_text(HARMLESS)
    page.goto("about:blank")


def test_the_page_reconnects_if_the_server_is_silent(
    visit: Callable[..., Page], visitors: Visitors
) -> None:
    visitors.tolerate("closed before the connection is established")
    is_silent = False

    def route(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        server.on_message(lambda message: None if is_silent else socket.send(message))

    page = visit("about:blank")
    page.clock.install()
    page.route_web_socket("**/broadcast/ws*", route)
    page.goto(f"{PAGE}?user_id=ann")
    state = page.locator("#state")
    expect(state).to_have_text("Connected")
    is_silent = True
    page.clock.fast_forward(76_000)
    expect(state).to_contain_text("Reconnecting")
    # An attempt without an answer times out, too.
    page.clock.fast_forward(1000)
    expect(state).to_contain_text("Connecting")
    page.clock.fast_forward(16_000)
    expect(state).to_contain_text("Reconnecting")
    is_silent = False
    page.clock.fast_forward(2000)
    expect(state).to_have_text("Connected")


def test_a_text_that_is_too_long_is_reported(desk: Page, visitors: Visitors) -> None:
    visitors.tolerate("422")
    desk.fill("#message", "👋" * 281)
    expect(desk.locator("#left")).to_have_text("-1 characters left")
    desk.get_by_role("button", name="Announce").click()
    expect(desk.get_by_role("alert")).to_contain_text("Current: 281")


def test_a_banner_fits_a_small_screen(visit: Callable[..., Page], desk: Page) -> None:
    phone = visit(f"{PAGE}?user_id=ann", viewport={"width": 360, "height": 640})
    announce(desk, "W" * 280, "alert")
    expect(phone.locator("#banner")).to_be_visible()
    expect_accessible(phone)
    phone.click("#acknowledge")
