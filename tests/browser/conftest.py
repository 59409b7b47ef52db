"""One server and one browser for all of them; for each test, visitors without complaints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from tests.browser.visitors import AUTOPLAY, ELSEWHERE, Server, Visitors, open_chromium


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One browser at a time, whatever else runs at the same time: each decodes many videos."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.xdist_group("browser"))


@pytest.fixture(scope="package")
def server() -> Iterator[Server]:
    server = Server(environment={"TRIO_SIGNAL_ALLOWED_ORIGINS": ELSEWHERE})
    server.start()
    yield server
    assert server.stop() == 0


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server that the test may stop and kill; it must run again when the test ends."""
    server = Server()
    server.start()
    yield server
    assert server.stop() == 0


@pytest.fixture(scope="package")
def playwright() -> Iterator[Playwright]:
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
    """`visit(path)` opens a page; at the end of the test, no page may have logged an error."""

    def visit(path: str, **options: Any) -> Page:
        page = visitors.page(browser, **options)
        page.goto(path)
        return page

    return visit
