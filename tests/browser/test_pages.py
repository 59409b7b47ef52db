"""All pages: small screens, keyboards, labels and layout shifts; and what `inspect` shows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.visitors import FITS, expect_accessible, expect_playing

Visit = Callable[..., Page]
DEMOS = ["/demo/call", "/demo/broadcast", "/demo/watch", "/demo/announcements", "/demo/inspect"]
PAGES = ["/", *DEMOS]


def enter(page: Page, room: str, name: str = "Ada") -> None:
    page.get_by_label("Room").fill(room)
    if page.get_by_label("Your name").count():
        page.get_by_label("Your name").fill(name)
    page.locator("#join button").click()
    expect(page.get_by_role("status")).to_have_text("Connected")


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_a_narrow_screen_without_layout_shifts(visit: Visit, path: str) -> None:
    page = visit(path, viewport={"width": 360, "height": 740})
    assert page.evaluate(FITS)
    expect(page.get_by_role("heading", level=1)).to_have_count(1)
    expect(page.get_by_role("navigation", name="Demos")).to_be_visible()
    if path == "/demo/inspect":
        expect_accessible(page)
        enter(page, "narrow" + "-room" * 10, "A" * 60)
        assert page.evaluate(FITS)
    if path == "/demo/call":
        expect_playing(page.get_by_label("Your picture", exact=True))
        expect_accessible(page)
        page.get_by_label("Your name").fill("A" * 60)
        page.get_by_label("Room").focus()
        page.keyboard.type("narrow" + "-room" * 10)
        page.keyboard.press("Enter")
        expect_playing(page.get_by_role("figure").get_by_label("Video of You"))
        assert page.evaluate(FITS)
    if path == "/demo/broadcast":
        page.get_by_label("Room").fill("narrow" + "-room" * 10)
        expect_playing(page.get_by_label("Your picture", exact=True))
        expect_accessible(page)
        page.get_by_role("button", name="Go live").click()
        expect(page.get_by_role("button", name="End")).to_be_visible()
        assert page.evaluate(FITS)
    expect_accessible(page)
    if path == "/demo/call":
        page.keyboard.press("Shift+L")
        expect(page.get_by_role("button", name="Rejoin")).to_be_focused()
        expect_accessible(page)
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Join", exact=True)).to_be_focused()


def test_the_first_page_links_to_the_others(visit: Visit) -> None:
    page = visit("/")
    expect(page.get_by_text("phone")).to_have_count(0)  # a phone needs https
    room = page.get_by_label("Room").input_value()
    page.get_by_role("button", name="Propose another name").click()
    proposed = page.get_by_label("Room").input_value()
    assert room != proposed
    page.get_by_role("button", name="Start the call").click()
    page.wait_for_url(f"**/demo/call?room={proposed}")
    page.go_back()
    for path in DEMOS:
        expect(page.locator(f"main a[href='{path}'], main form[action='{path}']")).to_be_visible()
        page.goto(path)
        expect(page.locator("nav a[aria-current='page']")).to_have_attribute("href", path)
        page.get_by_role("link", name="trio-signal").click()
        expect(page).to_have_title("trio-signal")


def test_a_broadcast_can_be_made_with_the_keyboard(visit: Visit) -> None:
    page = visit("/demo/broadcast", sound=True)
    expect_playing(page.get_by_label("Your picture", exact=True))
    for keys in ("keyboard", "Tab", "Ada", "Enter"):
        type_or_press = page.keyboard.press if keys in {"Tab", "Enter"} else page.keyboard.type
        type_or_press(keys)
    expect(page.get_by_role("button", name="End")).to_be_focused()
    page.keyboard.press("m")
    expect(page.get_by_role("button", name="Unmute")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Your broadcast has ended")).to_be_focused()
    expect_accessible(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Go live")).to_be_enabled()


def test_inspect_can_be_used_with_the_keyboard(visit: Visit) -> None:
    page = visit("/demo/inspect")
    expect(page.get_by_label("Room")).to_be_focused()
    page.keyboard.type("keys")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("Connected")
    expect(page.get_by_role("heading", name="keys")).to_be_focused()
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "leave":
            break
    expect(page.get_by_role("button", name="Leave")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Room")).to_be_focused()


def test_a_refused_join_is_explained(visit: Visit) -> None:
    page = visit("/demo/watch")
    page.route_web_socket(
        "**/ws/full", lambda socket: socket.close(code=4001, reason="Not allowed")
    )
    page.route_web_socket("**/ws/away", lambda socket: socket.close(code=1011))
    expect(page.get_by_label("Room")).to_be_focused()
    page.keyboard.type("full")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("cannot be watched")
    expect(page.get_by_role("status")).to_contain_text("Not allowed")
    expect_accessible(page)
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("status")).to_contain_text("cannot be watched")
    page.get_by_role("link", name="Leave").click()
    expect(page.get_by_label("Room")).to_be_focused()
    page.keyboard.type("away")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_contain_text("No connection to the server")
    expect_accessible(page)


def test_inspect_shows_messages_as_they_arrive(visit: Visit) -> None:
    page, bob = visit("/demo/inspect"), visit("/demo/inspect")
    enter(page, "inspected")
    log = page.get_by_role("list", name="Messages")
    expect(log.locator("summary").filter(has_text="auth_required")).to_be_visible()
    expect(log.locator("summary").filter(has_text="users_in_room")).to_be_visible()
    enter(bob, "inspected", "Bob")
    came = log.locator("summary").filter(has_text="user_joined").filter(has_text="Bob")
    expect(came).to_be_visible()
    listed = page.get_by_role("complementary").get_by_role("listitem").filter(has_text="Bob")
    short_id = listed.locator("code").inner_text().rstrip("…")
    assert len(short_id) == 8
    expect(came).to_contain_text(f"Bob {short_id}")

    bob.get_by_label("Send to all").fill('{"from the other": 7}')
    bob.get_by_role("button", name="Send").click()
    page.get_by_label("Filter messages").press_sequentially("from the other")
    said = log.locator("summary").filter(has_text="message").filter(has_text="Bob")
    expect(said).to_contain_text('{"data":{"from the other":7}}')
    expect(came).to_be_hidden()
    said.click()
    expect(log.get_by_text('"from the other": 7')).to_be_visible()

    page.get_by_label("Send to all").fill("{")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_contain_text("That is not JSON.")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Clear").click()
    bob.get_by_role("button", name="Leave").click()
    expect(page.get_by_text("Nobody but you.")).to_be_visible()
    expect(log.locator("li")).to_have_count(0)
