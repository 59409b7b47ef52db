"""The `room` dialect with its usual client: late joiners see the broadcast."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.visitors import crash_tab, expect_playing


def types_from(page: Page, user: str) -> list[str]:
    """The types of the messages about `user` that `page` received, without signals."""
    told: list[str] = page.evaluate(
        "user => messages.filter(m => m.user_id === user).map(m => m.type)", user
    )
    return told


def test_late_joiners_watch_until_the_tab_dies(visit: Callable[..., Page]) -> None:
    room = "/tests/room.html?room=late"
    ada = visit(f"{room}&user=ada")
    expect(ada.locator("#state")).to_have_text("joined")
    ada.click("#live")
    expect(ada.locator("#state")).to_have_text("live")

    is_live = "async path => (await (await fetch(path)).json()).broadcasters.length === 1"
    ada.wait_for_function(is_live, arg="/rooms/late")
    viewers = [visit(f"{room}&user={name}") for name in ("bob", "cyd")]
    for viewer in viewers:
        expect(viewer.locator("#state")).to_have_text("watching ada")
        expect_playing(viewer.locator("#video"))

    crash_tab(ada)
    for viewer in viewers:
        expect(viewer.locator("#state")).to_have_text("ada stopped")
        viewer.wait_for_function("messages.some(m => m.type === 'user_left')")
        assert types_from(viewer, "ada") == ["broadcast-stopped", "user_left"]


def test_early_viewers_watch_and_a_stop_is_told_to_everyone(visit: Callable[..., Page]) -> None:
    room = "/tests/room.html?room=early"
    bob = visit(f"{room}&user=bob")
    expect(bob.locator("#state")).to_have_text("joined")
    ada = visit(f"{room}&user=ada")
    expect(ada.locator("#state")).to_have_text("joined")
    ada.click("#live")
    expect_playing(bob.locator("#video"))

    ada.click("#stop")
    expect(bob.locator("#state")).to_have_text("ada stopped")
    ada.wait_for_function("messages.some(m => m.type === 'broadcast-stopped')")
    assert types_from(bob, "ada") == ["user_joined", "broadcast-started", "broadcast-stopped"]
