"""Pages of other origins: an allowed one may act for its user, and others may not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, Route

from tests.browser.visitors import ELSEWHERE, Server, Visitors
from tests.tokens import SECRET, make_token

NAMED, OTHER = ELSEWHERE, "http://elsewhere.test:8081"

# A client on another site: calls with credentials, then a WebSocket.
JOIN = """async ([server, room]) => {
    const call = (path, options) => fetch(server + path, { credentials: 'include', ...options });
    const me = await (await call('/auth/me')).json();
    const joined = await call(`/rooms/${room}/join`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ user_id: me.user_id }),
    });
    const socket = new WebSocket(`${server.replace('http', 'ws')}/ws/${room}/${me.user_id}`);
    const first = await new Promise((resolve, reject) => {
        socket.onmessage = ({ data }) => resolve(JSON.parse(data));
        socket.onclose = ({ code, reason }) => reject(new Error(`${code} ${reason}`));
    });
    socket.close();
    return [me.user_id, (await joined.json()).status, first.type];
}"""

ATTACK = """async (server) => {
    const tried = [];
    for (let i = 0; i < 5; i++) {
        tried.push(new Promise((resolve) => {
            const image = new Image();
            image.onload = image.onerror = resolve;
            image.src = `${server}/auth/me?token=${i}`;
        }));
        tried.push(fetch(`${server}/auth/me?token=${i}`, { mode: 'no-cors' }));
        tried.push(fetch(`${server}/auth/me`, { credentials: 'include' }).then(
            () => { throw new Error('it may read the answer'); }, () => {}));
    }
    await Promise.all(tried);
}"""


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """A server with tokens whose pages are on another origin."""
    server = Server(
        environment={
            "TRIO_SIGNAL_JWT_SECRET": SECRET,
            "TRIO_SIGNAL_ALLOWED_ORIGINS": NAMED,
            "TRIO_SIGNAL_AUTH_FAILURES_PER_IP": "3",
        }
    )
    server.start()
    yield server
    assert server.stop() == 0


@pytest.fixture
def visit(guarded: Server, browser: Browser) -> Iterator[Callable[[str], Page]]:
    """`visit(origin)` opens an empty page there, for a user who is logged in to the server."""
    visitors = Visitors(guarded)

    def visit(origin: str) -> Page:
        page = visitors.page(browser)
        token = make_token("ann")
        page.context.add_cookies([{"name": "session", "value": token, "url": guarded.url}])

        def serve(route: Route) -> None:
            route.fulfill(body="<!doctype html><title>elsewhere</title>", content_type="text/html")

        page.route(f"{origin}/**", serve)
        page.goto(f"{origin}/")
        return page

    yield visit
    visitors.close()


def test_a_page_of_an_allowed_origin_joins_with_its_users_cookie(
    guarded: Server, visit: Callable[[str], Page]
) -> None:
    page = visit(NAMED)
    assert page.evaluate(JOIN, [guarded.url, "r"]) == ["ann", "success", "room_state"]


def test_a_page_of_another_origin_locks_nobody_out(
    guarded: Server, visit: Callable[[str], Page]
) -> None:
    visit(OTHER).evaluate(ATTACK, guarded.url)
    page = visit(NAMED)
    assert page.evaluate(JOIN, [guarded.url, "r"]) == ["ann", "success", "room_state"]
    status = "async (server) => (await fetch(`${server}/auth/me?token=x`)).status"
    assert page.evaluate(status, guarded.url) == 401  # and not 429: no earlier attempt was counted
