"""A call of twelve in one Chromium, the largest that is allowed. Run it by `make call12`.

    python -m tests.browser.twelve

Everybody must see eleven others move, the thirteenth is told that the call is full, and the tile
of each one who leaves disappears everywhere. The videos are drawn, small and slow, and there is
no sound, since this machine encodes and decodes each of them eleven times.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tests.browser.visitors import (
    AUTOPLAY,
    SILENT,
    Server,
    expect_all_playing,
    open_chromium,
)

PEOPLE = Path(__file__).parents[2] / "tools" / "people.js"
SMALL = "window.pictureSize = { width: 160, height: 90, frameRate: 2 };"
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gert", "Hana", "Iris", "Jun", "Karl", "Lea")
PATIENCE = 300_000  # ms


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.1f} s", flush=True)


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    server.start()
    try:
        yield server
    finally:
        assert server.stop() == 0


def main() -> None:
    expect.set_options(timeout=PATIENCE)
    with (
        serving() as server,
        sync_playwright() as playwright,
        open_chromium(playwright, AUTOPLAY) as browser,
    ):
        complaints: list[str] = []

        def open_page(person: int) -> Page:
            context = browser.new_context(
                base_url=server.url, viewport={"width": 640, "height": 400}
            )
            context.set_default_timeout(PATIENCE)
            context.add_init_script(f"window.person = {person}; {SMALL}")
            context.add_init_script(path=PEOPLE)
            context.add_init_script(SILENT)
            page = context.new_page()
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto("/demo/call?room=twelve")
            return page

        pages = [open_page(person) for person in range(len(NAMES))]
        with timed("all have joined"):
            for page, name in zip(pages, NAMES, strict=True):
                page.get_by_label("Your name").fill(name)
                page.get_by_role("button", name="Join", exact=True).click()
                expect(page.get_by_role("toolbar", name="Call")).to_be_visible()
        with timed("each sees the eleven others move"):
            for page in pages:
                expect_all_playing(page, len(NAMES))
        thirteenth = open_page(0)
        thirteenth.get_by_role("button", name="Join", exact=True).click()
        expect(thirteenth.get_by_text(f"This call is full: {len(NAMES)} people")).to_be_visible()
        with timed("all have left, and nobody was seen any longer"):
            while len(pages) > 1:
                pages.pop().keyboard.press("Shift+L")
                for page in pages:
                    expect(page.get_by_role("figure")).to_have_count(len(pages))
        expect(pages[0].get_by_text("You are the only one here")).to_be_visible()
        assert complaints == []


if __name__ == "__main__":
    main()
