"""The React example: its types are checked, it is built, and it makes a call."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.test_package import PACKAGE, ROOT, npm
from tests.browser.visitors import ELSEWHERE, Server, expect_all_playing

EXAMPLE = ROOT / "examples" / "react"
#: Its types are checked with those of the example, which does not use this part of the package.
BACKEND = """\
import { ServerApi, ServerApiError, type HookEvent, verifyWebhook } from 'trio-signal/server';

export async function names(secret: string): Promise<string[]> {
  const api = new ServerApi('https://signal.example.com', secret);
  try {
    const room = await api.room('lobby');
    return room.peers.map((peer) => peer.username);
  } catch (error) {
    if (error instanceof ServerApiError && error.status === 404) return [];
    throw error;
  }
}

export function roomOf(headers: Headers, body: string, secret: string): HookEvent['room'] {
  return verifyWebhook(headers, body, secret).room;
}
"""

Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example with the current package; the rest is installed only once."""
    installed, lock = EXAMPLE / "node_modules", EXAMPLE / "package-lock.json"
    receipt = installed / ".package-lock.json"
    if not receipt.is_file() or receipt.stat().st_mtime < lock.stat().st_mtime:
        npm("ci", folder=EXAMPLE, offline=False)
    folder = tmp_path_factory.mktemp("react") / "example"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("node_modules", "call.js"))
    (folder / "node_modules").mkdir()
    for path in installed.iterdir():
        (folder / "node_modules" / path.name).symlink_to(path)
    (folder / "node_modules" / "trio-signal").unlink()
    shutil.copytree(PACKAGE, folder / "node_modules" / "trio-signal")
    (folder / "src" / "backend.ts").write_text(BACKEND)
    npm("run", "check", folder=folder)
    npm("run", "build", "--", "--minify=false", folder=folder)  # so that React uses strict mode
    return folder


def test_the_example_makes_a_call(built: Path, server: Server, visit: Visit) -> None:
    code = (built / "call.js").read_text().replace("http://127.0.0.1:8000", server.url)

    def serve(route: Route) -> None:
        if route.request.url.endswith(".js"):
            route.fulfill(body=code, content_type="text/javascript")
        else:
            route.fulfill(path=built / "index.html")

    pages, sockets = {}, []
    for name in ("Ada", "Bob"):
        page = visit("about:blank")
        page.on("websocket", lambda socket: sockets.append(socket.url))
        page.route(f"{ELSEWHERE}/**", serve)
        page.goto(f"{ELSEWHERE}/?name={name}")
        pages[name] = page
    ada, bob = pages.values()
    expect(ada.locator("#here")).to_have_text("You, Bob")
    expect(bob.locator("#here")).to_have_text("You, Ada")
    # In strict mode a component mounts twice. If it joined twice, the first could come last.
    assert len(sockets) == 2
    for page in (ada, bob):
        expect(page.locator("#state")).to_have_text("joined ")
        expect(page.locator("video")).to_have_count(2)
    ada.fill("input", "hello")
    ada.press("input", "Enter")
    expect(ada.locator("#chat li")).to_have_text(["You: hello"])
    expect(bob.locator("#chat li")).to_have_text(["Ada: hello"])
    ada.get_by_role("button", name="Share the screen").click()
    expect(bob.get_by_label("Ada, screen")).to_be_visible()
    expect_all_playing(bob, 3, "video")
    ada.get_by_role("button", name="Stop sharing").click()
    expect(bob.locator("video")).to_have_count(2)
    bob.close()
    expect(ada.locator("#here")).to_have_text("You")
    expect(ada.locator("video")).to_have_count(1)
