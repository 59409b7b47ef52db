"""The client as an npm package, and the tutorial's code, in a browser."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.visitors import ELSEWHERE, Server, expect_all_playing
from tests.test_docs import blocks
from tools import bundle_browser_client

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = ROOT / "trio_signal" / "browser"
README = (ROOT / "README.md").read_text()
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()

Visit = Callable[..., Page]


def npm(*arguments: str, folder: Path, offline: bool = True) -> str:
    where = ["--offline"] if offline else []
    command = ["npm", "--no-audit", "--no-fund", "--no-update-notifier", *where, *arguments]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=180)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which `npm install` has installed what `npm pack` made."""
    folder = Path(tmp_path_factory.mktemp("npm"))
    npm("pack", "--pack-destination", str(folder), folder=PACKAGE)
    (tarball,) = folder.glob("*.tgz")
    (folder / "package.json").write_text('{"name": "page", "private": true}')
    npm("install", str(tarball), folder=folder)
    with tarfile.open(tarball) as tar:
        assert {Path(name).name for name in tar.getnames()} == {
            "package.json",
            "trio-signal.js",
            "trio-signal.d.ts",
            "react.js",
            "react.d.ts",
            "server.js",
            "server.d.ts",
        }
    return folder / "node_modules" / "trio-signal"


def test_the_installed_package_joins_a_room(installed: Path, visit: Visit) -> None:
    package = json.loads((installed / "package.json").read_text())
    entry = package["exports"]["."]
    assert (installed / entry["types"]).is_file()

    def serve(route: Route) -> None:
        route.fulfill(path=installed / entry["default"], content_type="text/javascript")

    page = visit("/tests/client.html")
    page.route("**/installed.js", serve)
    joined = """async () => {
        const { join } = await import('/installed.js');
        const room = await join(location.origin, { room: 'npm', username: 'Ada' });
        return [room.state, room.me.name];
    }"""
    assert page.evaluate(joined) == ["joined", "Ada"]


def visit_elsewhere(server: Server, visit: Visit, code: str) -> Page:
    """A page of another origin, with `code` changed to use the test's server."""
    body = code.replace("http://127.0.0.1:8000", server.url)
    page = visit("about:blank")
    page.route(f"{ELSEWHERE}/**", lambda route: route.fulfill(body=body, content_type="text/html"))
    page.goto(f"{ELSEWHERE}/call.html")
    return page


def test_the_tutorial_makes_a_call(server: Server, visit: Visit) -> None:
    assert f"TRIO_SIGNAL_ALLOWED_ORIGINS={ELSEWHERE} make serve" in TUTORIAL
    (code,) = re.findall(r"^```html\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL)
    assert len(code.splitlines()) <= 30
    pages = [visit_elsewhere(server, visit, code) for _ in range(3)]
    for page in pages:
        expect(page.locator("video")).to_have_count(3)
        expect_all_playing(page, 3, "video")
    pages[2].close()
    for page in pages[:2]:
        expect(page.locator("video")).to_have_count(2)
        expect_all_playing(page, 2, "video")


def test_the_readme_example_makes_a_call(server: Server, visit: Visit) -> None:
    (code,) = re.findall(r"^```js\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    code = code.replace("'/client/", f"'{server.url}/client/")
    code = code.replace("location.origin", f"'{server.url}'")
    body = f'<!doctype html><body><script type="module">{code}</script>'
    for page in [visit_elsewhere(server, visit, body) for _ in range(2)]:
        expect(page.locator("video")).to_have_count(1)
        expect_all_playing(page, 1, "video")


def test_a_call_with_chat_and_screen_is_a_short_page(server: Server, visit: Visit) -> None:
    code = (ROOT / "examples" / "call.html").read_text()
    assert len(code.splitlines()) < 40
    ada, bob = visit_elsewhere(server, visit, code), visit_elsewhere(server, visit, code)
    for page in (ada, bob):
        expect(page.locator("video")).to_have_count(2)
    ada.fill("input", "hello")
    ada.press("input", "Enter")
    expect(ada.locator("#chat")).to_contain_text("You: hello")
    expect(bob.locator("#chat")).to_contain_text(": hello")
    ada.click("#share")
    expect(bob.locator("video")).to_have_count(3)
    expect_all_playing(bob, 3, "video")
    ada.click("#share")
    expect(bob.locator("video")).to_have_count(2)
    expect_all_playing(ada, 2, "video")


def test_the_sites_demo_makes_a_broadcast(visit: Visit, tmp_path: Path) -> None:
    """From a file, as the site may be read. Early and late viewers see it."""
    for name in ("index.html", "server.js", "demo.js"):
        (tmp_path / name).write_text((ROOT / "docs" / "demo" / name).read_text())
    client = (PACKAGE / "trio-signal.js").read_text()
    (tmp_path / "trio-signal.js").write_text(bundle_browser_client.classic(client))
    page = visit((tmp_path / "index.html").as_uri())
    page.click("#start")
    page.click("#add")
    expect(page.locator("video")).to_have_count(3)
    expect_all_playing(page, 3, "video")
    page.click("#break")
    expect(page.get_by_label("Messages")).to_contain_text("Bob: user_left")
    expect(page.get_by_label("Messages")).to_contain_text(
        re.compile("user_left.*Ada → server: auth_token.*Bob: broadcast_started")
    )
    expect(page.locator(".state")).to_have_text(["", "", ""])
    expect_all_playing(page, 3, "video")


def test_javascript_on_all_pages_is_valid() -> None:
    codes = [param.values[0] for param in blocks("js")]
    assert codes
    check = """
        const { SourceTextModule } = require('node:vm');
        const codes = JSON.parse(require('node:fs').readFileSync(0));
        for (const code of codes) new SourceTextModule(code);
    """
    command = ["node", "--no-warnings", "--experimental-vm-modules", "-e", check]
    run = subprocess.run(
        command, input=json.dumps(codes), capture_output=True, text=True, timeout=60
    )
    assert run.stderr == ""
