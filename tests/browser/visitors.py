"""A server in a process of its own, the installed Chromium, and the visitors of the pages."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    Error,
    Locator,
    Page,
    Playwright,
    Route,
    ViewportSize,
    expect,
)

from tests.node import node_package

HERE = Path(__file__).parent
CHROMIUM_NAMES = ["chromium", "chromium-browser", "google-chrome"]
CHROME_ON_MACOS = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream=device-count=3",
    "--use-fake-ui-for-media-stream",
    # Host candidates contain addresses, since a test machine need not resolve mDNS names. A page
    # that a route fulfilled has no address, so Chromium would not let it connect to loopback.
    "--disable-features=WebRtcHideLocalIpsWithMdns,LocalNetworkAccessChecks",
]
# The origin of the tutorial's pages.
ELSEWHERE = "http://127.0.0.1:8080"
AUTOPLAY = "--autoplay-policy=no-user-gesture-required"

# Milliseconds. Waiting is limited, but generous: slow cores encode and decode every video.
PATIENCE = 60_000
expect.set_options(timeout=PATIENCE)

# All pages share a few cores, so the video is small and slow. A camera that the user chose is
# larger, so that it can be recognized. The number of peer connections that a page ever made tells
# whether one had to be replaced.
SMALL_PICTURES = """
    const small = { width: 160, height: 120, frameRate: 5 };
    const larger = { width: 320, height: 240, frameRate: 5 };
    for (const name of ['getUserMedia', 'getDisplayMedia']) {
        const open = navigator.mediaDevices?.[name].bind(navigator.mediaDevices);
        if (!open) continue;
        navigator.mediaDevices[name] = ({ video, ...others }) =>
            open({ ...others, video: video && {
                ...(video === true ? {} : video), ...(video.deviceId ? larger : small),
            } });
    }
    window.connectionsMade = 0;
    window.openConnections = new Set();
    window.RTCPeerConnection = class extends RTCPeerConnection {
        constructor(...given) {
            super(...given);
            window.connectionsMade += 1;
            window.openConnections.add(this);
        }
        close() {
            window.openConnections.delete(this);
            super.close();
        }
    };
"""
# Sound costs four times as much as such a video.
SILENT = """
    const openAll = navigator.mediaDevices?.getUserMedia.bind(navigator.mediaDevices);
    if (openAll) navigator.mediaDevices.getUserMedia = ({ video }) => openAll({ video });
"""
# Layout shifts without a user's action, as Chromium measures them. A resized window shifts
# everything, but that is a user's action, too.
WATCH_SHIFTS = """
    window.shifted = 0;
    window.shifts = [];
    let resized = -Infinity;
    for (const event of ['resize', 'fullscreenchange']) {
        window.addEventListener(event, () => { resized = performance.now(); });
    }
    new PerformanceObserver((list) => {
        for (const { value, hadRecentInput, sources, startTime } of list.getEntries()) {
            if (hadRecentInput || startTime < resized + 1000) continue;
            window.shifted += value;
            for (const { node, previousRect, currentRect } of sources) {
                window.shifts.push([node?.outerHTML ?? node?.data, previousRect, currentRect]);
            }
        }
    }).observe({ type: 'layout-shift', buffered: true });
"""
LOOK = "video => [video.currentTime, video.getVideoPlaybackQuality().totalVideoFrames]"
MOVED = """([video, time, frames]) =>
    video.currentTime > time && video.getVideoPlaybackQuality().totalVideoFrames > frames"""


@dataclass
class Server:
    """A server process; after a stop, it can be started again on the same port."""

    port: int = 0
    process: subprocess.Popen[str] | None = None
    #: Settings in addition to those of this process.
    environment: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    url: str = ""

    def start(self) -> None:
        command = [sys.executable, "-m", "trio_signal", "serve", "--port", str(self.port)]
        command += self.options
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | self.environment
        )
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], PATIENCE / 1000)
        ready = self.process.stdout.readline() if readable else ""
        found = re.search(r"listening on (https?://.+:(\d+))", ready)
        assert found, f"not ready: {ready!r}"
        self.url, self.port = found[1], int(found[2])

    def stop(self) -> int:
        """Stop it gracefully; its exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=PATIENCE / 1000)
        except subprocess.TimeoutExpired:
            self.kill()
        return self.process.returncode

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def open_chromium(playwright: Playwright, *extra: str) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, CHROMIUM_NAMES)), CHROME_ON_MACOS)
    arguments = [*CHROMIUM_ARGS, *extra]
    browser = playwright.chromium.launch(executable_path=program, args=arguments)
    try:
        yield browser
    finally:
        browser.close()


def serve_test_page(route: Route) -> None:
    """Serve `/tests/<file>` from this folder, so that the page has the server's own origin."""
    route.fulfill(path=HERE / route.request.url.split("?")[0].rsplit("/", 1)[1])


class Visitors:
    """Makes pages, each in a browser context of its own, and keeps the errors that they log."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.complaints: list[str] = []
        self.tolerated: list[str] = []
        self.pages: list[Page] = []
        self.crashed: list[Page] = []

    def page(self, browser: Browser, *, sound: bool = False, **options: Any) -> Page:
        """A blank page; its camera has a microphone only with `sound`."""
        context = browser.new_context(base_url=self.server.url, **options)
        context.set_default_timeout(PATIENCE)
        context.add_init_script(SMALL_PICTURES)
        context.add_init_script(WATCH_SHIFTS)
        if not sound:
            context.add_init_script(SILENT)
        context.route("**/tests/*", serve_test_page)
        page = context.new_page()
        page.on("console", lambda message: self.logged(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("crash", lambda page: self.crashed.append(page))
        self.pages.append(page)
        return page

    def tolerate(self, words: str) -> None:
        """Allow Chromium to log `words`: a page cannot prevent errors about a refused socket."""
        self.tolerated.append(words)

    def logged(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"} and not any(words in text for words in self.tolerated):
            self.complaints.append(text)

    def close(self) -> None:
        """Close all pages; those of the server must not have had layout shifts.

        The next page may be in another browser.
        """
        for page in self.pages:
            where = urlsplit(page.url)
            is_served = where.netloc == urlsplit(self.server.url).netloc
            is_ours = is_served and re.match(r"/($|demo/)", where.path)
            if is_ours and not page.is_closed() and page not in self.crashed:
                moved = page.evaluate("shifted < 0.01 ? [] : [shifted, ...shifts]")
                self.complaints += [f"{page.url} moves: {moved}"] if moved else []
            page.context.close()
        self.pages.clear()


def expect_playing(video: Locator) -> None:
    """Check twice that the clock and the number of decoded frames advance."""
    page, element = video.page, video.element_handle()
    page.wait_for_function(MOVED, arg=[element, 0, 0])
    time, frames = element.evaluate(LOOK)
    page.wait_for_function(MOVED, arg=[element, time, frames])


# What matches and is visible in a page, including inside its elements.
_ALL = """[...document.querySelectorAll('trio-call, trio-watch')].map(e => e.shadowRoot)
    .concat(document).flatMap(root => [...root.querySelectorAll(selector)])
    .filter(e => e.checkVisibility())"""
COUNT_IS = f"([selector, count]) => {_ALL}.length === count"
LOOK_AT_ALL = f"""selector => {_ALL}.map(
    video => [video.currentTime, video.getVideoPlaybackQuality().totalVideoFrames])"""
ALL_MOVED = f"""([selector, before]) => {{
    const videos = {_ALL};
    return videos.length === before.length && videos.every((video, i) =>
        video.currentTime > before[i][0]
        && video.getVideoPlaybackQuality().totalVideoFrames > before[i][1]);
}}"""


def expect_all_playing(page: Page, count: int, selector: str = ".tile video") -> None:
    """Check that there are `count` videos, and that each advances."""
    for _ in range(2):
        page.wait_for_function(COUNT_IS, arg=[selector, count])
        before = page.evaluate(LOOK_AT_ALL, selector)
        page.wait_for_function(ALL_MOVED, arg=[selector, before])


# Serious findings of axe-core, including those about best practices.
WRONG = """async () => {
    const runOnly = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'];
    const found = await axe.run(document, { runOnly, resultTypes: ['violations'] });
    return found.violations
        .filter(({ impact }) => ['serious', 'critical'].includes(impact))
        .flatMap(({ id, nodes }) => nodes.map((node) => [id, node.html, node.failureSummary]));
}"""


PHONE: ViewportSize = {"width": 390, "height": 844}
FITS = "document.documentElement.scrollWidth <= innerWidth"


def find_faults(page: Page) -> list[Any]:
    """Serious findings of axe-core in the page now, and whether the page is too wide."""
    if not page.evaluate("'axe' in window"):
        page.evaluate((node_package("axe-core") / "axe.min.js").read_text())
    found: list[Any] = page.evaluate(WRONG)
    return found if page.evaluate(FITS) else [*found, "wider than its window"]


def expect_accessible(page: Page, *schemes: str) -> None:
    """Check the page in light mode at its size, and in dark mode at the width of a phone or less.

    `python -m tools.take_screenshots FOLDER` checks all four combinations, in every state.
    """
    before = page.viewport_size
    for scheme in schemes or ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        if before and scheme == "dark" and before["width"] > PHONE["width"]:
            page.set_viewport_size(PHONE)
        assert find_faults(page) == [], scheme
    if before:
        page.set_viewport_size(before)


# The browser asks for a camera or a screen, and waits for the user's answer.
ASK_THE_USER = """() => {
    window.prompts = []; // call one to allow it
    window.streams = []; // that were opened
    for (const name of ['getUserMedia', 'getDisplayMedia']) {
        const open = navigator.mediaDevices[name].bind(navigator.mediaDevices);
        navigator.mediaDevices[name] = async (wanted) => {
            await new Promise((allow) => { prompts.push(allow); });
            const stream = await open(wanted);
            streams.push(stream);
            return stream;
        };
    }
}"""


def ask_the_user(page: Page) -> None:
    """From now on cameras and screens open only after `allow`."""
    page.evaluate(ASK_THE_USER)


def expect_prompts(page: Page, count: int) -> None:
    page.wait_for_function("count => prompts.length === count", arg=count)


def allow(page: Page) -> None:
    """Allow all pending requests, in order."""
    page.evaluate("() => { for (const allow of prompts) allow(); }")
    page.wait_for_function("() => streams.length === prompts.length")


def expect_closed(page: Page, streams: str = "streams") -> None:
    """Check that all cameras and microphones are closed."""
    page.wait_for_function(
        f"() => {streams}.every(s => s.getTracks().every(track => track.readyState === 'ended'))"
    )


def close_tab(page: Page) -> None:
    """Close the tab without running its handlers: no beforeunload, no leave."""
    page.close(run_before_unload=False)


def crash_tab(page: Page) -> None:
    """Crash the renderer; therefore the address is never reached."""
    with page.expect_event("crash"), contextlib.suppress(Error):
        page.goto("chrome://crash")


def kill_browser(browser: Browser) -> None:
    """Kill all of its processes: nothing is sent, and the kernel closes the sockets.

    The process that has the sockets goes first, since it would close them in order otherwise.
    """
    session = browser.new_browser_cdp_session()
    processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
    for process in sorted(processes, key=lambda process: process["type"] != "utility"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process["id"], signal.SIGKILL)
