"""Take screenshots of the real pages: those in docs/img/, or of every page in every state.

        python -m tools.take_screenshots              # those in the documentation, into docs/img/
    python -m tools.take_screenshots FOLDER       # all, at 1280 and 390 px, light and dark

axe-core checks each page that is taken into a folder; it must find nothing serious.

It starts its own servers and browsers, and needs Chromium and the packages of the tests. Cameras
show drawn people: tools/people.js.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, Playwright, ViewportSize, expect, sync_playwright

from tests.browser.visitors import AUTOPLAY, SILENT, Server, find_faults, open_chromium
from tests.tokens import SECRET
from trio_signal.users import User, hash_password, write_users

ROOT = Path(__file__).resolve().parent.parent
PEOPLE = Path(__file__).with_name("people.js")
NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gert", "Hana", "Iris", "Jun", "Karl", "Lea")
WIDTHS: dict[int, ViewportSize] = {
    1280: {"width": 1280, "height": 800},
    390: {"width": 390, "height": 844},
}
SCHEMES = ("light", "dark")
#: The screenshots in the documentation: name, scene, width and colour scheme.
SHOWN = {
    "index": ("front", 1280, "light"),
    "call": ("call-4", 1280, "dark"),
    "call-phone": ("call-4", 390, "light"),
    "call-lobby": ("call-lobby", 1280, "light"),
    "broadcast": ("broadcast-live", 1280, "light"),
    "watch-phone": ("watch-live", 390, "dark"),
    "announcements": ("announcements-banner", 1280, "light"),
    "inspect": ("inspect", 1280, "dark"),
}
#: Milliseconds; many people in one browser are slow.
PATIENCE = 240_000
#: Milliseconds until a changed picture is visible.
SETTLED = 400

DENY = """navigator.mediaDevices.getUserMedia = async () => {
    throw new DOMException('Permission denied', 'NotAllowedError');
};"""


class Studio:
    """Opens pages with people in front of their cameras, and takes screenshots."""

    def __init__(self, playwright: Playwright, stack: ExitStack, folder: Path | None) -> None:
        self._playwright = playwright
        self._stack = stack
        self._folder = folder
        self.browser: Browser = self.open_browser()
        self.server = Server()
        #: The faults that were found.
        self.faults: list[str] = []

    def open_browser(self) -> Browser:
        return self._stack.enter_context(open_chromium(self._playwright, AUTOPLAY))

    @property
    def is_brief(self) -> bool:
        """Whether only the screenshots for the documentation are taken."""
        return self._folder is None

    @contextmanager
    def serving(self, **environment: str) -> Iterator[Server]:
        """Use a separate server until the end of the block."""
        with tempfile.TemporaryDirectory() as folder:
            database = {"DATABASE_URL": f"sqlite:///{folder}/pictures.db", "LOG_LEVEL": "error"}
            self.server = Server(environment=database | environment)
            self.server.start()
            try:
                yield self.server
            finally:
                for context in self.browser.contexts:
                    context.close()
                self.server.stop()

    def page(
        self, path: str, person: int | None = None, *, height: int = 360, script: str = ""
    ) -> Page:
        """Open a page, with a person in front of its camera."""
        options: dict[str, Any] = {"base_url": self.server.url, "viewport": WIDTHS[1280]}
        context = self.browser.new_context(**options)
        context.set_default_timeout(PATIENCE)
        context.grant_permissions(["camera", "microphone", "clipboard-write"])
        if person is not None:
            size = f"{{ width: {height * 16 // 9}, height: {height}, frameRate: {height // 60} }}"
            context.add_init_script(f"window.person = {person}; window.pictureSize = {size};")
            context.add_init_script(path=PEOPLE)
        if script:
            context.add_init_script(script)
        page = context.new_page()
        page.goto(path)
        return page

    def shoot(self, page: Page, scene: str, hover: str = "") -> None:
        """Take all screenshots of a scene, or only those for the documentation."""
        for width, viewport in WIDTHS.items():
            for scheme in SCHEMES:
                if self._folder is not None:
                    path = self._folder / f"{scene}-{width}-{scheme}.png"
                elif names := [
                    name for name, shot in SHOWN.items() if shot == (scene, width, scheme)
                ]:
                    path = ROOT / "docs" / "img" / f"{names[0]}.png"
                else:
                    continue
                page.set_viewport_size(viewport)
                page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                if hover:
                    page.locator(hover).hover()
                else:
                    page.mouse.move(0, 0)
                page.wait_for_timeout(SETTLED)
                page.screenshot(path=path)
                print(path)
                if self._folder is not None:
                    self.faults += [f"{path.name}: {fault}" for fault in find_faults(page)]
        page.set_viewport_size(WIDTHS[1280])


def wait_for_pictures(page: Page, count: int) -> None:
    """Wait until this many videos are playing, in any element."""
    page.wait_for_function(
        """count => {
            const within = (root) => [...root.querySelectorAll('*')].flatMap((element) =>
                [element, ...(element.shadowRoot ? within(element.shadowRoot) : [])]);
            const seen = within(document).filter((element) =>
                element.localName === 'video' && element.checkVisibility() && element.videoHeight);
            return seen.length >= count;
        }""",
        arg=count,
    )


def join_call(
    studio: Studio, room: str, person: int, height: int = 270, *, script: str = ""
) -> Page:
    """Join a call; with more people, smaller videos are enough for the machine."""
    page = studio.page(f"/demo/call?room={room}", person, height=height, script=script)
    page.get_by_label("Your name").fill(NAMES[person])
    page.get_by_role("button", name="Join", exact=True).click()
    expect(page.get_by_role("toolbar", name="Call")).to_be_visible()
    return page


def go_live(studio: Studio, room: str, person: int) -> Page:
    """Go live as somebody."""
    page = studio.page(f"/demo/broadcast?room={room}", person)
    wait_for_pictures(page, 1)
    page.get_by_label("Your name").fill(NAMES[person])
    page.get_by_role("button", name="Go live").click()
    expect(page.get_by_role("button", name="End")).to_be_visible()
    return page


def take_front(studio: Studio) -> None:
    """The start page."""
    with studio.serving():
        studio.shoot(studio.page("/"), "front")


def take_shared_front(studio: Studio) -> None:
    """The start page of a server that phones can reach."""
    with studio.serving() as server:
        server.stop()
        server.options = ("--share", "--host", "127.0.0.1")
        server.start()
        page = studio.browser.new_page(ignore_https_errors=True)
        page.goto(server.url)
        studio.shoot(page, "front-shared")
        page.context.close()


def take_broadcast(studio: Studio) -> None:
    """A broadcast from both sides, and a developer's view of it."""
    with studio.serving() as server:
        studio.shoot(studio.page("/demo/watch"), "watch-form")
        watch = studio.page("/demo/watch?room=spring+fair")
        expect(watch.get_by_role("status")).to_contain_text("will begin soon")
        studio.shoot(watch, "watch-waiting")
        denied = studio.page("/demo/broadcast?room=spring+fair", script=DENY)
        expect(denied.get_by_text("Camera blocked")).to_be_visible()
        studio.shoot(denied, "broadcast-denied")
        preview = studio.page("/demo/broadcast?room=spring+fair", 2)
        wait_for_pictures(preview, 1)
        preview.get_by_label("Your name").fill("Cleo")
        studio.shoot(preview, "broadcast-preview")
        inspect = studio.page("/demo/inspect?room=spring+fair")
        expect(inspect.get_by_label("Your name")).to_be_focused()
        studio.shoot(inspect, "inspect-form")
        inspect.get_by_label("Your name").fill("Dev")
        inspect.get_by_role("button", name="Inspect").click()
        expect(inspect.get_by_role("button", name="Leave")).to_be_visible()

        preview.get_by_role("button", name="Go live").click()
        expect(preview.get_by_role("button", name="End")).to_be_visible()
        for name in ("Hana", "Iris"):
            other = studio.page("/demo/watch?room=spring+fair")
            wait_for_pictures(other, 1)
            other.evaluate(
                "n => document.querySelector('trio-watch').setAttribute('name', n)", name
            )
            expect(preview.get_by_role("listitem").filter(has_text=name)).to_contain_text("Good")
        wait_for_pictures(watch, 1)
        expect(preview.get_by_role("listitem").filter(has_text="Good")).to_have_count(3)
        studio.shoot(preview, "broadcast-live")
        studio.shoot(watch, "watch-tap")
        watch.get_by_role("button", name="Tap for sound").click()
        studio.shoot(watch, "watch-live", "trio-watch")
        studio.shoot(inspect, "inspect")
        preview.get_by_role("button", name="Share screen").click()
        preview.get_by_role("button", name="Mute", exact=True).click()
        studio.shoot(preview, "broadcast-screen")
        studio.shoot(watch, "watch-screen", "trio-watch")
        preview.get_by_role("button", name="End").click()
        expect(watch.get_by_text("The broadcast has ended")).to_be_visible()
        studio.shoot(preview, "broadcast-ended")
        studio.shoot(watch, "watch-ended")
        server.kill()
        expect(watch.get_by_text("No connection to the server")).to_be_visible()
        studio.shoot(watch, "watch-offline")
        studio.shoot(inspect, "inspect-offline")
        server.start()


def take_announcements(studio: Studio) -> None:
    """The creator's desk, and the banner."""
    with studio.serving():
        desk = studio.page("/demo/announcements")
        expect(desk.get_by_role("status").first).to_have_text("Connected")
        studio.shoot(desk, "announcements")
        desk.get_by_label("Message to everybody").fill(
            "The server restarts at noon. Save your work, and come back five minutes later."
        )
        desk.get_by_role("radio", name="Warning").check()
        desk.get_by_role("button", name="Announce").click()
        expect(desk.get_by_role("button", name="Got it")).to_be_visible()
        studio.shoot(desk, "announcements-banner")


def take_tokens(studio: Studio) -> None:
    """The forms that are shown if the server requires a token."""
    with tempfile.TemporaryDirectory() as folder:
        users = Path(folder) / "users.json"
        write_users(users, {"ann": User(hash_password("secret"))})
        login = {"TRIO_SIGNAL_JWT_SECRET": SECRET, "TRIO_SIGNAL_USERS_FILE": str(users)}
        with studio.serving(**login):
            for name in ("call", "broadcast", "watch", "inspect", "announcements"):
                page = studio.page(f"/demo/{name}?room=team")
                expect(page.get_by_text("This server requires a token.")).to_be_visible()
                studio.shoot(page, f"{name}-login")
    with studio.serving(TRIO_SIGNAL_JWT_SECRET=SECRET):
        page = studio.page("/demo/watch?room=team")
        expect(page.get_by_text("This server requires a token.")).to_be_visible()
        studio.shoot(page, "watch-token")


def take_calls(studio: Studio) -> None:
    """Calls of several sizes, with their panels."""
    with studio.serving() as server:
        lobby = studio.page("/demo/call?room=team", 0, height=270)
        wait_for_pictures(lobby, 1)
        lobby.get_by_label("Your name").fill("Ada")
        studio.shoot(lobby, "call-lobby")
        denied = studio.page("/demo/call?room=team", script=DENY)
        expect(denied.get_by_text("blocked").first).to_be_visible()
        studio.shoot(denied, "call-denied")
        lobby.get_by_role("button", name="Join", exact=True).click()
        expect(lobby.get_by_role("toolbar", name="Call")).to_be_visible()
        studio.shoot(lobby, "call-alone")
        pages = [lobby]
        for count in (2, 4):
            while len(pages) < count:
                pages.append(join_call(studio, "team", len(pages)))
            wait_for_pictures(lobby, count)
            studio.shoot(lobby, f"call-{count}")
        if studio.is_brief:
            return
        pages[1].keyboard.press("c")
        for text in ("Can everybody see the slides?", "Yes, all fine here."):
            pages[1].get_by_label("Message", exact=True).fill(text)
            pages[1].keyboard.press("Enter")
        pages[2].keyboard.press("v")
        pages[3].keyboard.press("m")
        studio.shoot(lobby, "call-unread")
        for key, name in (("c", "chat"), ("p", "people"), ("i", "invite"), ("d", "devices")):
            lobby.keyboard.press(key)
            studio.shoot(lobby, f"call-{name}")
            lobby.keyboard.press("Escape")
        pages[1].keyboard.press("Escape")  # otherwise it would be typed into the chat
        pages[1].keyboard.press("s")
        wait_for_pictures(lobby, 4)  # one person has no camera now, and one shows a screen
        studio.shoot(lobby, "call-screen")
        studio.shoot(pages[1], "call-sharing")
        server.kill()
        expect(lobby.get_by_text("Reconnecting").first).to_be_visible()
        studio.shoot(lobby, "call-reconnecting")
        lobby.keyboard.press("Shift+L")
        studio.shoot(lobby, "call-goodbye")
        server.start()


def take_great_calls(studio: Studio) -> None:
    """Calls of six and of twelve, the largest that is allowed."""
    with studio.serving():
        pages: list[Page] = []
        for count in (6, 12):
            while len(pages) < count:
                # Sound costs this machine more than video, and is not visible.
                pages.append(join_call(studio, "all", len(pages), 144, script=SILENT))
            wait_for_pictures(pages[0], count)
            studio.shoot(pages[0], f"call-{count}")


def main() -> None:
    """Take all scenes, or only those for the documentation."""
    expect.set_options(timeout=PATIENCE)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, ExitStack() as stack:
        studio = Studio(playwright, stack, folder)
        for take in (
            *(take_front, take_broadcast, take_announcements, take_calls),
            *((take_shared_front, take_tokens, take_great_calls) if folder is not None else ()),
        ):
            take(studio)
    if studio.faults:
        sys.exit("\n".join(studio.faults))


if __name__ == "__main__":
    main()
