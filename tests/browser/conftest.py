"""One server and one browser for all tests; for each test, visitors that may log no errors."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from tests.browser.visitors import AUTOPLAY, ELSEWHERE, Server, Visitors, open_chromium
from tests.test_openapi import KEY


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    environment = {
        "TRIO_SIGNAL_ALLOWED_ORIGINS": ELSEWHERE,
        "TRIO_SIGNAL_API_KEYS": f"site:{KEY}",
        "TRIO_SIGNAL_QUALITY_INTERVAL": "2",
    }
    server = Server(environment=environment)
    server.start()
    yield server
    assert server.stop() == 0


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that the test may stop and kill; it must be running again when the test ends."""
    server = Server()
    server.start()
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="package")
def playwright(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Playwright]:
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the folder shared by all workers
    with (folder / "browser.lock").open("w") as lock:
        # Fails if two workers run browser tests; see `BrowserScheduling`.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with sync_playwright() as playwright:
            yield playwright


@pytest.fixture(scope="package")
def browser(playwright: Playwright) -> Iterator[Browser]:
    with open_chromium(playwright, AUTOPLAY) as browser:
        yield browser


@pytest.fixture
def visitors(server: Server) -> Iterator[Visitors]:
    visitors = Visitors(server)
    yield visitors
    visitors.close()
    assert visitors.complaints == []


@pytest.fixture
def visit(visitors: Visitors, browser: Browser) -> Callable[..., Page]:
    """`visit(path)` opens a page; no page may have logged an error when the test ends."""

    def visit(path: str, **options: Any) -> Page:
        page = visitors.page(browser, **options)
        page.goto(path)
        return page

    return visit
