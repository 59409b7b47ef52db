"""Take the pictures of docs/img/ from the real pages.

    python -m tools.take_screenshots

It starts a server and browsers of its own. Needs Chromium and the packages of the tests.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser.visitors import (
    AUTOPLAY,
    Server,
    Visitors,
    expect_all_playing,
    open_chromium,
)

OpenBrowser = Callable[[], AbstractContextManager[Browser]]

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "img"
WIDE = {"width": 1120, "height": 720}
PHONE = {"width": 360, "height": 720}


def join(page: Page, path: str, room: str, name: str) -> None:
    """Open a page, and come into the room."""
    page.goto(path)
    page.locator("[name=room]").fill(room)
    if page.locator("[name=username]").count():
        page.locator("[name=username]").fill(name)
    page.locator("#join button").click()
    expect(page.get_by_role("status")).to_have_text("Connected")


def take(page: Page, name: str) -> None:
    """One picture, of what the window shows."""
    page.mouse.move(0, 0)
    page.screenshot(path=FOLDER / f"{name}.png")


def take_call(stack: ExitStack, visitors: Visitors, open_browser: OpenBrowser) -> None:
    """Six people in a call; the first is shown."""
    pages: list[Page] = []
    for names in (("Ada", "Ben"), ("Cleo", "Dan"), ("Eve", "Finn")):
        browser = stack.enter_context(open_browser())
        for name in names:
            page = visitors.page(browser, viewport=WIDE, color_scheme="dark")
            join(page, "/demo/call", "team", name)
            pages.append(page)
    expect_all_playing(pages[0], 6)
    take(pages[0], "call")
    pages[1].set_viewport_size({"width": 360, "height": 720})
    pages[1].emulate_media(color_scheme="light")
    take(pages[1], "call-phone")
    visitors.close()


def take_broadcast(stack: ExitStack, visitors: Visitors, open_browser: OpenBrowser) -> None:
    """A broadcast, one who watches it on a phone, and what a developer sees of it."""
    browser = stack.enter_context(open_browser())
    ada = visitors.page(browser, viewport=WIDE, color_scheme="light")
    join(ada, "/demo/broadcast", "news", "Ada")
    ada.get_by_role("button", name="camera").click()
    inspector = visitors.page(browser, viewport=WIDE, color_scheme="dark")
    join(inspector, "/demo/inspect", "news", "Dev")
    viewers = [
        visitors.page(browser, viewport=PHONE, color_scheme="dark", is_mobile=True)
        for _ in range(2)
    ]
    for viewer in viewers:
        join(viewer, "/demo/watch", "news", "")
        expect_all_playing(viewer, 1)
    take(ada, "broadcast")
    take(viewers[0], "watch-phone")
    take(inspector, "inspect")
    index = visitors.page(browser, viewport=WIDE, color_scheme="light")
    index.goto("/")
    take(index, "index")


def main() -> None:
    """All pictures."""
    FOLDER.mkdir(exist_ok=True)
    server = Server()
    server.start()
    with sync_playwright() as playwright, ExitStack() as stack:
        stack.callback(server.stop)
        visitors = Visitors(server)

        def open_browser() -> AbstractContextManager[Browser]:
            return open_chromium(playwright, AUTOPLAY)

        take_call(stack, visitors, open_browser)
        take_broadcast(stack, visitors, open_browser)


if __name__ == "__main__":
    main()
