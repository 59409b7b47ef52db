"""The demo page: going live, watching, and everything that may happen in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Playwright, WebSocketRoute, expect
from websockets.sync.client import connect

from tests.browser.visitors import (
    PATIENCE,
    Server,
    Visitors,
    close_tab,
    crash_tab,
    expect_playing,
    open_chromium,
)

Visit = Callable[..., Page]


def join(page: Page, room: str, name: str) -> Page:
    page.get_by_label("Room").fill(room)
    page.get_by_label("Your name").fill(name)
    page.get_by_role("button", name="Join").click()
    expect(page.get_by_role("status")).to_have_text("Connected")
    return page


def go_live(page: Page, button: str = "Go live with camera") -> Page:
    page.get_by_role("button", name=button).click()
    expect(tile(page, "You")).to_be_visible()
    return page


def tile(page: Page, name: str) -> Locator:
    return page.get_by_role("figure").filter(has=page.get_by_text(name, exact=True))


def person(page: Page, name: str) -> Locator:
    return page.get_by_role("listitem").filter(has=page.get_by_text(name, exact=True))


def expect_watching(page: Page, name: str) -> None:
    expect_playing(tile(page, name).locator("video"))


@pytest.mark.parametrize("kill", [close_tab, crash_tab])
def test_late_joiners_watch_until_the_tab_dies(visit: Visit, kill: Callable[[Page], None]) -> None:
    room = f"late-{kill.__name__}"
    ada = go_live(join(visit("/"), room, "Ada"))
    expect_watching(ada, "You")

    ada.wait_for_timeout(3000)  # late is the case under test
    bob = join(visit("/"), room, "Bob")
    expect_watching(bob, "Ada")
    cyd = join(visit("/"), room, "Cyd")
    for page in (bob, cyd):
        expect_watching(page, "Ada")
        expect(person(page, "Ada")).to_contain_text("2 viewers")
    expect(tile(ada, "You")).to_contain_text("camera · 2 viewers")

    kill(ada)
    for page in (bob, cyd):
        expect(page.get_by_text("Nobody is live.")).to_be_visible()
        expect(tile(page, "Ada")).to_have_count(0)
        expect(page.get_by_role("listitem")).to_have_count(2)
        expect(person(page, "Ada")).to_have_count(0)


def test_early_viewers_watch_and_see_the_stop(visit: Visit) -> None:
    ada, bob = (join(visit("/"), "early", name) for name in ("Ada", "Bob"))
    expect(person(ada, "Bob")).to_be_visible()
    go_live(ada)
    expect_watching(bob, "Ada")
    expect(person(bob, "Ada")).to_contain_text("live")

    ada.get_by_role("button", name="Stop broadcast").click()
    for page in (ada, bob):
        expect(page.get_by_text("Nobody is live.")).to_be_visible()
        expect(page.get_by_role("figure")).to_have_count(0)
    expect(person(bob, "Ada")).not_to_contain_text("live")

    go_live(ada)
    expect_watching(bob, "Ada")
    ada.get_by_role("button", name="Leave").click()
    expect(ada.get_by_role("button", name="Join")).to_be_visible()
    expect(bob.get_by_role("listitem")).to_have_text(["Bob (you)"])


def test_two_broadcasters_and_each_watches_the_other(visit: Visit) -> None:
    ada, bob, cyd = (join(visit("/"), "both", name) for name in ("Ada", "Bob", "Cyd"))
    go_live(ada)
    go_live(bob, "Share screen")
    expect_watching(ada, "Bob")
    expect_watching(bob, "Ada")
    for name, what in (("Ada", "camera"), ("Bob", "screen")):
        expect_watching(cyd, name)
        expect(tile(cyd, name)).to_contain_text(f"{what} · 2 viewers")

    close_tab(bob)
    expect(tile(cyd, "Bob")).to_have_count(0)
    expect_watching(cyd, "Ada")
    expect(tile(cyd, "Ada")).to_contain_text("1 viewer")


@pytest.mark.parametrize("killed", [False, True])
def test_everybody_comes_back_after_the_server_did(
    visit: Visit, visitors: Visitors, own_server: Server, killed: bool
) -> None:
    visitors.tolerate("ERR_CONNECTION_REFUSED")
    ada = go_live(join(visit(own_server.url), "restart", "Ada"))
    bob = join(visit(own_server.url), "restart", "Bob")
    expect_watching(bob, "Ada")

    if killed:
        own_server.kill()
    else:
        assert own_server.stop() == 0
    for page in (ada, bob):
        expect(page.get_by_role("status")).to_contain_text("Trying again in")
    if killed:
        expect_watching(bob, "Ada")  # the picture does not need the server

    own_server.start()
    for page in (ada, bob):
        expect(page.get_by_role("status")).to_have_text("Connected")
        expect(page.get_by_role("listitem")).to_have_count(2)
    expect_watching(bob, "Ada")
    expect(tile(bob, "Ada")).to_contain_text("1 viewer")


def test_a_final_close_is_not_retried_and_a_lost_connection_is(visit: Visit) -> None:
    page = visit("/")
    page.clock.install()
    sockets: list[WebSocketRoute] = []

    def pass_through(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        socket.connect_to_server()

    page.route_web_socket("**/ws/*", pass_through)
    go_live(join(page, "final", "Ada"))
    sockets[0].close(code=1001, reason="going away")
    expect(page.get_by_role("status")).to_contain_text("Trying again in 1 s")
    page.clock.run_for(1000)
    expect(page.get_by_role("status")).to_have_text("Connected")
    expect(tile(page, "You")).to_be_visible()

    sockets[1].close(code=1008, reason="Removed by a moderator")
    expect(page.get_by_role("status")).to_have_text("Disconnected: Removed by a moderator")
    expect(page.get_by_role("button", name="Join")).to_be_visible()
    page.clock.run_for(60_000)
    assert len(sockets) == 2


def test_a_quiet_room_stays_connected(visit: Visit) -> None:
    page = visit("/")
    page.clock.install()
    with page.expect_websocket() as opened:
        join(page, "quiet", "Ada")
    for _ in range(3):
        with opened.value.expect_event("framereceived", lambda frame: '"pong"' in frame):
            page.clock.run_for(20_000)
    expect(page.get_by_role("status")).to_have_text("Connected")
    assert not opened.value.is_closed()


def test_a_silent_server_is_taken_for_gone(visit: Visit, visitors: Visitors) -> None:
    visitors.tolerate("closed before the connection is established")
    page = visit("/")
    page.clock.install()
    silent = False

    def silence(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()
        server.on_message(lambda message: None if silent else socket.send(message))

    page.route_web_socket("**/ws/*", silence)
    join(page, "silent", "Ada")
    silent = True
    page.clock.run_for(45_000)
    expect(page.get_by_role("status")).not_to_have_text("Connected")
    silent = False
    page.clock.run_for(30_000)
    expect(page.get_by_role("status")).to_have_text("Connected")


def test_attempts_spread_out_up_to_a_limit(visit: Visit) -> None:
    delays = visit("/").evaluate(
        """async () => {
            const { backoff } = await import('/demo/trio-signal.js');
            return [0, 1, 2, 50].map(n => [backoff(n, () => 0), backoff(n, () => 1)]);
        }"""
    )
    assert delays == [[250, 500], [500, 1000], [1000, 2000], [7500, 15000]]


# Joins by itself, and says when play() was refused: whatever playwright does in a page counts as
# the user's doing, and then the browser would allow sound.
UNTOUCHED = """
    addEventListener('load', () => document.getElementById('join').requestSubmit());
    const play = HTMLMediaElement.prototype.play;
    HTMLMediaElement.prototype.play = function () {
        const playing = play.call(this);
        playing.catch((error) => console.log(error.name));
        return playing;
    };
"""


def test_a_browser_that_blocks_sound_offers_a_play_button(
    visit: Visit, visitors: Visitors, playwright: Playwright
) -> None:
    go_live(join(visit("/"), "autoplay", "Ada"))
    with open_chromium(playwright) as careful:
        page = visitors.page(careful)
        page.add_init_script(UNTOUCHED)
        with page.expect_console_message(lambda message: message.text == "NotAllowedError"):
            page.goto("/?room=autoplay")
        button = tile(page, "Ada").get_by_role("button", name="Play")
        button.click()
        expect(button).to_be_hidden()
        expect_watching(page, "Ada")


def test_names_are_text(visit: Visit) -> None:
    name = "<img src=x onerror=alert(1)>"
    go_live(join(visit("/"), "names", name))
    bob = join(visit("/"), "names", "Bob")
    expect(tile(bob, name)).to_be_visible()
    expect(person(bob, name)).to_be_visible()
    expect(bob.locator("img")).to_have_count(0)


def test_a_peer_of_another_dialect_does_no_harm(visit: Visit, server: Server) -> None:
    ada = go_live(join(visit("/"), "mixed", "Ada"))
    bob = join(visit("/"), "mixed", "Bob")
    with connect(f"ws://127.0.0.1:{server.port}/ws/mixed/dora?username=Dora") as dora:
        users = json.loads(dora.recv(timeout=PATIENCE / 1000))["users"]

        def say(**message: Any) -> None:
            dora.send(json.dumps(message))

        expect(person(ada, "Dora")).to_be_visible()
        for user in users:
            for signal in (
                None,
                {"type": "offer", "sdp": "?"},
                {"type": "answer", "sdp": "?"},
                {"type": "ice-candidate", "candidate": {"candidate": "?"}},
            ):
                say(type="webrtc-signal", target_user_id=user["user_id"], signal=signal)
        say(type="message", content="<b>hello</b>")
        say(type="broadcast-started", username="Dora")
        expect(tile(bob, "Dora")).to_contain_text("Waiting for video")
        expect_watching(bob, "Ada")
    expect(tile(bob, "Dora")).to_have_count(0)
    expect(person(bob, "Dora")).to_have_count(0)
    expect_watching(bob, "Ada")


def test_an_invite_link_leads_into_the_room(visit: Visit) -> None:
    ada = join(visit("/", permissions=["clipboard-read", "clipboard-write"]), "invited", "Ada")
    ada.get_by_role("button", name="Copy").click()
    expect(ada.get_by_role("alert")).to_have_text("The invite link is copied.")
    bob = visit(ada.evaluate("navigator.clipboard.readText()"))
    expect(bob.get_by_label("Room")).to_have_value("invited")
    bob.get_by_role("button", name="Join").click()
    expect(ada.get_by_role("listitem")).to_have_count(2)


def test_all_of_it_works_from_the_keyboard(visit: Visit) -> None:
    page = visit("/")
    for keys in ("keyboard", "Tab", "Ada", "Enter"):
        type_or_press = page.keyboard.press if keys in {"Tab", "Enter"} else page.keyboard.type
        type_or_press(keys)
    expect(page.get_by_role("status")).to_have_text("Connected")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Stop broadcast")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Go live with camera")).to_be_focused()
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Leave")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Your name")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen(visit: Visit, scheme: str) -> None:
    page = visit("/", viewport={"width": 360, "height": 740}, color_scheme=scheme)
    fits = "document.documentElement.scrollWidth <= 360"
    assert page.evaluate(fits)
    go_live(join(page, f"narrow-{scheme}" + "-room" * 10, "A" * 60))
    assert page.evaluate(fits)
