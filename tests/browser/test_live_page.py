"""The `live` dialect with its usual client, in which listeners never make offers."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.visitors import crash_tab, expect_playing


def test_early_and_late_listeners_see_who_is_live(visit: Callable[..., Page]) -> None:
    room = "/tests/live.html?room=lobby"
    early = visit(f"{room}&user=bob")
    expect(early.locator("#state")).to_have_text("joined")
    ada = visit(f"{room}&user=ada")
    expect(ada.locator("#state")).to_have_text("joined")
    ada.click("#live")
    late = visit(f"{room}&user=cyd")
    for listener in (early, late):
        expect(listener.locator("#state")).to_have_text("watching ada")
        expect_playing(listener.locator("#video"))
    told = ada.evaluate("messages.filter(m => m.listener).map(m => m.user_id)")
    assert sorted(told) == ["bob", "cyd"]

    crash_tab(ada)
    for listener in (early, late):
        expect(listener.locator("#state")).to_have_text("ada stopped")
