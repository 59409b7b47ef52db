"""The `stream` dialect with its usual client: one broadcaster, many viewers."""

from __future__ import annotations

import time
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.visitors import close_tab, crash_tab, expect_playing


def types(page: Page) -> list[str]:
    told: list[str] = page.evaluate("messages.map(m => m.type)")
    return told


def test_early_and_late_viewers_watch_until_the_tab_dies(visit: Callable[..., Page]) -> None:
    stream = "/tests/stream.html?stream=order"
    early = visit(f"{stream}&role=viewer")
    expect(early.locator("#count")).to_have_text("1")
    broadcaster = visit(f"{stream}&role=broadcaster")
    expect(broadcaster.locator("#state")).to_have_text("live")
    expect(early.locator("#state")).to_have_text("watching")
    expect_playing(early.locator("#video"))
    assert "broadcaster-ready-signal" in types(early)

    late = [visit(f"{stream}&role=viewer") for _ in range(2)]
    for viewer in [early, *late]:
        expect_playing(viewer.locator("#video"))
        expect(viewer.locator("#count")).to_have_text("4")

    close_tab(broadcaster)
    for viewer in [early, *late]:
        expect(viewer.locator("#state")).to_have_text("broadcaster disconnected")
        expect(viewer.locator("#count")).to_have_text("3")
        assert types(viewer).count("broadcaster-disconnected") == 1


def test_the_broadcaster_is_told_that_a_viewer_left(visit: Callable[..., Page]) -> None:
    stream = "/tests/stream.html?stream=order-left"
    broadcaster = visit(f"{stream}&role=broadcaster")
    expect(broadcaster.locator("#state")).to_have_text("live")
    viewer = visit(f"{stream}&role=viewer")
    expect_playing(viewer.locator("#video"))
    crash_tab(viewer)
    broadcaster.wait_for_function("messages.some(m => m.type === 'viewer-left')")
    joined, left = broadcaster.evaluate(
        "['viewer-joined', 'viewer-left'].map(t => messages.find(m => m.type === t).viewerId)"
    )
    assert joined == left
    expect(broadcaster.locator("#count")).to_have_text("1")


def test_a_viewer_that_loses_early_candidates_can_watch(visit: Callable[..., Page]) -> None:
    """Each side applies a description some time after it arrived."""
    stream = "/tests/stream.html?stream=order-old"
    broadcaster = visit(f"{stream}&role=broadcaster&old=50")
    expect(broadcaster.locator("#state")).to_have_text("live")
    viewer = visit(f"{stream}&role=viewer&old=500")
    expect_playing(viewer.locator("#video"))


def test_a_broadcaster_that_starts_over_gets_its_viewers_back(visit: Callable[..., Page]) -> None:
    """Viewers ignore its offers until their connections fail, so it is asked again until then.

    One broadcaster reloads its page while another switches cameras, since both take long.
    """
    pairs = []
    for name in ("reload", "switch"):
        stream = f"/tests/stream.html?stream=order-{name}&old=0"
        broadcaster = visit(f"{stream}&role=broadcaster")
        expect(broadcaster.locator("#state")).to_have_text("live")
        viewer = visit(f"{stream}&role=viewer")
        expect_playing(viewer.locator("#video"))
        pairs.append((broadcaster, viewer))

    (reloads, _), (switches, _) = pairs
    began = time.monotonic()
    switches.evaluate("goLive()")
    reloads.reload()
    for broadcaster, viewer in pairs:
        expect(broadcaster.locator("#state")).to_have_text("live")
        viewer.wait_for_function("answered === 2")
        expect_playing(viewer.locator("#video"))
    assert time.monotonic() - began < 45
