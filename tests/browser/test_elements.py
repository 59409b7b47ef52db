"""The elements in a page of another site, and the pages when the server requires a token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.visitors import (
    ELSEWHERE,
    Server,
    Visitors,
    expect_accessible,
    expect_playing,
)
from tests.tokens import SECRET, make_token
from trio_signal.errors import ConfigError
from trio_signal.sharing import find_address
from trio_signal.users import User, hash_password, write_users

EXAMPLE = Path(__file__).parents[2] / "examples" / "elements.html"
PASSWORD = "correct horse battery staple"


def go_live(page: Page, path: str, name: str = "Ada") -> None:
    page.goto(path)
    expect_playing(page.get_by_label("Your picture", exact=True))
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Go live").click()
    expect(page.get_by_role("button", name="End")).to_be_visible()


def test_elements_in_a_page_of_another_site(visit: Callable[..., Page], server: Server) -> None:
    page = visit("about:blank")
    code = EXAMPLE.read_text().replace("http://127.0.0.1:8000", server.url)

    def serve(route: Route) -> None:
        route.fulfill(body=code, content_type="text/html")

    page.route(f"{ELSEWHERE}/**", serve)
    page.goto(f"{ELSEWHERE}/elements.html")
    states = page.locator("trio-watch")
    expect(states.get_by_role("status").first).to_contain_text("will begin soon")
    go_live(visit("about:blank"), "/demo/broadcast?room=spring-fair")
    expect_playing(page.get_by_label("Video of Ada"))
    assert page.evaluate("document.querySelector('trio-watch').state") == "live"
    expect_accessible(page, "light")
    # Another room is watched as soon as the page sets it.
    page.evaluate("document.querySelector('trio-watch').setAttribute('room', 'elsewhere')")
    expect(states.get_by_role("status").first).to_contain_text("will begin soon")


LISTENERS = """
    window.listeners = new Set();
    const { mediaDevices } = navigator;
    const { addEventListener: add, removeEventListener: remove } = EventTarget.prototype;
    mediaDevices.addEventListener = (type, one) => {
        listeners.add(one);
        add.call(mediaDevices, type, one);
    };
    mediaDevices.removeEventListener = (type, one) => {
        listeners.delete(one);
        remove.call(mediaDevices, type, one);
    };
"""


def test_an_element_that_is_removed_leaves_no_listener(visit: Callable[..., Page]) -> None:
    page = visit("about:blank")
    page.add_init_script(LISTENERS)
    page.goto("/demo/call?room=removed")
    expect_playing(page.get_by_label("Your picture", exact=True))
    assert page.evaluate("listeners.size") == 1
    page.evaluate("window.call = document.querySelector('trio-call'); call.remove()")
    assert page.evaluate("listeners.size") == 0
    page.evaluate("document.body.append(call)")
    expect_playing(page.get_by_label("Your picture", exact=True))
    assert page.evaluate("listeners.size") == 1


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    """A server with tokens and a login."""
    users = tmp_path / "users.json"
    write_users(users, {"ann": User(hash_password(PASSWORD), name="Ann")})
    server = Server(
        environment={"TRIO_SIGNAL_JWT_SECRET": SECRET, "TRIO_SIGNAL_USERS_FILE": str(users)}
    )
    server.start()
    yield server
    assert server.stop() == 0


def test_pages_ask_for_a_token_if_the_server_requires_one(
    guarded: Server, browser: Browser
) -> None:
    """By a login, a link and a field; each refusal is explained."""
    visitors = Visitors(guarded)
    visitors.tolerate("401")  # Chromium logs a wrong password
    visitors.tolerate("403")  # and a user who may not announce
    watcher, ada, dev, caller = (visitors.page(browser) for _ in range(4))

    watcher.goto("/demo/watch?room=guarded")
    expect(watcher.get_by_text("This server requires a token.")).to_be_visible()
    expect_accessible(watcher)
    watcher.get_by_label("User name").fill("ann")
    watcher.get_by_label("Password").fill("wrong")
    watcher.keyboard.press("Enter")
    expect(watcher.get_by_text("Wrong user name or password")).to_be_visible()
    watcher.get_by_label("Password").fill(PASSWORD)
    watcher.keyboard.press("Enter")
    expect(watcher.get_by_role("status")).to_contain_text("will begin soon")

    caller.goto("/demo/call?room=guarded#token=nonsense")
    caller.get_by_role("button", name="Join", exact=True).click()
    expect(caller.get_by_text("That token is not valid")).to_be_visible()
    assert "token" not in caller.url
    expect_accessible(caller)
    caller.get_by_label("User name").fill("ann")
    caller.get_by_label("Password").fill(PASSWORD)
    caller.keyboard.press("Enter")
    expect(caller.get_by_label("Your name")).to_have_value("Ann")
    caller.get_by_role("button", name="Join", exact=True).click()
    expect(caller.get_by_role("toolbar", name="Call")).to_be_visible()
    caller.close()

    token = make_token(sub="ada", name="Ada")
    go_live(ada, f"/demo/broadcast?room=guarded#token={token}", "")
    assert "token" not in ada.url
    expect_playing(watcher.get_by_label("Video of Ada"))

    dev.goto("/demo/announcements")
    expect(dev.get_by_text("This server requires a token.")).to_be_visible()
    expect_accessible(dev, "light")
    dev.goto("/demo/inspect?room=guarded")
    dev.get_by_text("Use a token instead").click()
    expect_accessible(dev, "dark")
    dev.get_by_label("Token").fill("nonsense")
    dev.keyboard.press("Enter")
    dev.get_by_role("button", name="Inspect").click()
    expect(dev.get_by_text("That token is not valid")).to_be_visible()
    dev.get_by_text("Use a token instead").click()
    dev.get_by_label("Token").fill(token)
    dev.keyboard.press("Enter")
    dev.get_by_role("button", name="Inspect").click()
    expect(dev.get_by_role("heading", name="guarded")).to_be_visible()

    dev.goto("/demo/announcements")  # the tab keeps its token
    expect(dev.get_by_text("Your token is not for creators")).to_be_visible()
    expect(dev.locator("#me")).to_have_text("Ada")
    creator = make_token(sub="boss", name="Boss", creator=True)
    ada.goto(f"/demo/announcements#token={creator}")
    ada.get_by_label("Message to everybody").fill("Doors open at nine")
    ada.get_by_role("button", name="Announce").click()
    expect(dev.locator("#banner-text")).to_have_text("Doors open at nine")
    expect_accessible(dev)
    visitors.close()
    assert visitors.complaints == []


def test_a_phone_can_join_by_the_qr_code(browser: Browser) -> None:
    """`serve --share`, in a browser that has accepted the certificate."""
    try:
        host = find_address()
    except ConfigError:
        host = "127.0.0.1"
    server = Server(options=("--share", "--host", host))
    server.start()
    assert server.url.startswith(f"https://{host}:")
    visitors = Visitors(server)
    page = visitors.page(browser, ignore_https_errors=True)
    small = {"width": 390, "height": 844}
    phone = visitors.page(browser, ignore_https_errors=True, viewport=small)
    page.goto("/")
    link = page.get_by_role("link", name="/demo/call?room=").inner_text()
    expect(page.get_by_role("img", name=f"QR code of {link}")).to_be_visible()
    expect_accessible(page)
    assert link.startswith(f"{server.url}/demo/call?room=")
    go_live(page, "/demo/broadcast?room=shared")
    assert page.evaluate("isSecureContext")
    phone.goto("/demo/watch?room=shared")
    expect_playing(phone.get_by_label("Video of Ada"))
    visitors.close()
    assert visitors.complaints == []
    assert server.stop() == 0
