"""The broadcast and watch pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, Playwright, expect

from tests.browser.test_pages import enter
from tests.browser.visitors import (
    Visitors,
    allow,
    ask_the_user,
    close_tab,
    crash_tab,
    expect_accessible,
    expect_closed,
    expect_playing,
    expect_prompts,
    open_chromium,
)

Visit = Callable[..., Page]


def broadcast(visit: Visit, room: str, source: str = "camera", **options: Any) -> Page:
    """Start a preview, and go live with what it shows."""
    page = visit("/demo/broadcast", **options)
    page.get_by_label("Room").fill(room)
    page.get_by_label("Your name").fill("Ada")
    expect_playing(page.get_by_label("Your picture", exact=True))
    if source == "screen":
        page.get_by_role("button", name="Share screen").click()
        expect(page.get_by_role("button", name="Stop sharing")).to_be_visible()
    page.get_by_role("button", name="Go live").click()
    expect(page.get_by_role("heading", name=room)).to_be_visible()
    expect_playing(page.get_by_label("Your picture", exact=True))
    return page


def watch(visit: Visit, room: str, scene: str = "waiting") -> Page:
    """Open a watch link; no click is needed."""
    page = visit(f"/demo/watch?room={room}")
    expect_scene(page, scene)
    return page


def expect_scene(page: Page, scene: str) -> None:
    page.wait_for_function(
        "scene => document.querySelector('trio-watch')?.state === scene", arg=scene
    )


def expect_watching(page: Page, name: str = "Ada") -> None:
    expect_playing(page.get_by_label(f"Video of {name}"))
    expect_scene(page, "live")


def test_six_viewers_see_the_broadcast_and_the_camera_switch(visit: Visit) -> None:
    viewers = [watch(visit, "six") for _ in range(3)]
    expect(viewers[0].get_by_text("The broadcast will begin soon")).to_be_visible()
    expect_accessible(viewers[0])
    ada = broadcast(visit, "six")
    for viewer in viewers:
        expect_watching(viewer)
    viewers += [watch(visit, "six", "live") for _ in range(3)]
    for viewer in viewers[3:]:
        expect_watching(viewer)
    expect(ada.get_by_role("img", name="6 viewers")).to_be_visible()
    expect(ada.get_by_role("listitem").filter(has_text="Good")).to_have_count(6)
    expect(viewers[0].get_by_role("img", name="6 viewers")).to_be_visible()

    developer = visit("/demo/inspect")
    enter(developer, "six", "Dev")
    for camera in ("fake_device_1", "fake_device_2"):  # Chromium encodes nothing of the former
        ada.get_by_role("button", name="Switch camera").click()
        ada.wait_for_function(
            """label => document.querySelector('#video').srcObject.getVideoTracks()[0].label
                === label""",
            arg=camera,
        )
        expect_playing(ada.get_by_label("Your picture", exact=True))
    for viewer in viewers:
        viewer.wait_for_function(  # of a camera that was chosen
            """() => document.querySelector('trio-watch').shadowRoot
                .querySelector('video').videoWidth === 320"""
        )
        expect_watching(viewer)
        assert viewer.evaluate("connectionsMade") == 1
    # A peer that only inspects does not count as a viewer.
    expect(ada.get_by_role("listitem").filter(has_text="Dev")).to_be_visible()
    expect(ada.get_by_role("img", name="6 viewers")).to_be_visible()
    expect(viewers[0].get_by_role("img", name="6 viewers")).to_be_visible()

    ada.get_by_role("button", name="End").click()
    for viewer in viewers:
        expect(viewer.get_by_text("The broadcast has ended")).to_be_visible()
    expect_accessible(viewers[0])
    expect(ada.get_by_role("definition").last).to_have_text("6")
    assert not ada.evaluate("document.querySelector('#video').srcObject")  # nothing is recording
    ada.get_by_role("button", name="Go live again").click()
    expect_playing(ada.get_by_label("Your picture", exact=True))
    ada.get_by_role("button", name="Go live").click()
    for viewer in viewers:  # back without a reload
        expect_watching(viewer)


def test_a_camera_that_is_allowed_too_late_is_closed(visit: Visit) -> None:
    ada = broadcast(visit, "too-late")
    ask_the_user(ada)
    ada.get_by_role("button", name="Switch camera").click()
    expect_prompts(ada, 1)
    ada.get_by_role("button", name="End").click()
    expect(ada.get_by_role("heading", name="Your broadcast has ended")).to_be_focused()
    allow(ada)
    expect_closed(ada)

    ada.get_by_role("button", name="Go live again").click()
    expect_prompts(ada, 2)
    ada.get_by_role("button", name="Share screen").click()
    expect_prompts(ada, 3)
    allow(ada)  # the camera opens first, and the screen is shown
    expect(ada.get_by_role("button", name="Stop sharing")).to_be_visible()


def test_a_broadcast_ends_when_the_broadcasters_tab_dies(visit: Visit) -> None:
    ada = broadcast(visit, "dies", "screen")
    bob = watch(visit, "dies", "live")
    for kill in (close_tab, crash_tab):
        expect_watching(bob)
        kill(ada)
        expect(bob.get_by_text("The broadcast has ended")).to_be_visible()
        expect(bob.locator("trio-watch video")).to_have_count(0)
        ada = broadcast(visit, "dies")
    expect_watching(bob)  # back without a reload


def test_a_video_is_muted_until_the_viewer_turns_the_sound_on(
    visit: Visit, visitors: Visitors, playwright: Playwright
) -> None:
    broadcast(visit, "autoplay", sound=True)
    with open_chromium(playwright) as careful:  # it plays no sound before the first click
        page = visitors.page(careful)
        page.goto("/demo/watch?room=autoplay")
        expect_watching(page)
        video = page.get_by_label("Video of Ada")
        assert video.evaluate("video => video.muted")
        expect_accessible(page)
        page.get_by_role("button", name="Tap for sound").click()
        expect(page.get_by_role("button", name="Tap for sound")).to_be_hidden()
        assert not video.evaluate("video => video.muted")
        page.get_by_label("Volume").fill("0.5")
        assert video.evaluate("video => video.volume") == 0.5
        page.keyboard.press("m")
        expect(page.get_by_role("button", name="Turn the sound on")).to_be_visible()
        # The viewer chose silence, so no prompt is shown.
        expect(page.get_by_role("button", name="Tap for sound")).to_be_hidden()
        page.keyboard.press("f")
        expect(page.get_by_role("button", name="Leave full screen")).to_be_visible()
        page.keyboard.press("f")
        expect(page.get_by_role("button", name="Full screen")).to_be_visible()
        expect_watching(page)
        visitors.close()


def test_viewers_can_enter_the_room_by_a_link(visit: Visit) -> None:
    permissions = ["clipboard-read", "clipboard-write"]
    page = visit("/demo/broadcast?room=a+%26+b", permissions=permissions)
    page.get_by_label("Your name").fill("<img src=x onerror=alert(1)>")
    expect_playing(page.get_by_label("Your picture", exact=True))
    page.get_by_role("button", name="Go live").click()
    page.get_by_role("button", name="Copy the link").click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    viewer = visit(page.evaluate("navigator.clipboard.readText()"))
    expect(viewer.get_by_role("heading", name="a & b")).to_be_visible()
    expect_watching(viewer, "<img src=x onerror=alert(1)>")
    expect(viewer.locator("img")).to_have_count(0)
    close_tab(viewer)
    expect(page.get_by_text("Nobody yet.")).to_be_visible()


def test_camera_problems_are_shown_in_place_of_the_picture(visit: Visit) -> None:
    """Denied, then allowed; unplugged, and replaced by another one."""
    page = visit("about:blank")
    page.add_init_script(
        """const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
        navigator.mediaDevices.getUserMedia = async (wanted) => {
            if (!window.allowed) throw new DOMException('Permission denied', 'NotAllowedError');
            return open(wanted);
        };"""
    )
    page.goto("/demo/broadcast?room=denied")
    expect(page.get_by_role("status")).to_contain_text("Camera blocked")
    expect(page.get_by_role("status")).to_contain_text("Allow the camera for this page")
    expect(page.get_by_role("button", name="Go live")).to_be_disabled()
    expect_accessible(page)
    page.evaluate("window.allowed = true")
    page.get_by_role("button", name="Try again").click()
    picture = page.get_by_label("Your picture", exact=True)
    expect_playing(picture)
    page.get_by_role("button", name="Go live").click()
    bob = watch(visit, "denied", "live")
    expect_playing(bob.locator("trio-watch video"))
    page.evaluate(
        """() => {
            const [track] = document.querySelector('#video').srcObject.getVideoTracks();
            track.stop();
            track.dispatchEvent(new Event('ended'));
        }"""
    )
    page.wait_for_function(
        "() => document.querySelector('#video').srcObject?.getVideoTracks()[0].enabled"
    )
    expect_playing(picture)
    expect_playing(bob.locator("trio-watch video"))


def test_the_picture_changes_if_only_one_of_two_streams_ends(visit: Visit) -> None:
    ada = visit("/tests/client.html")
    ada.wait_for_function("'enter' in window")
    ada.evaluate(
        """async () => {
            await enter('two-streams', { username: 'Ada' });
            room.publish(await camera());
            room.publish(await display(), { name: 'screen' });
        }"""
    )
    bob = watch(visit, "two-streams", "live")
    bob.evaluate("window.watch = document.querySelector('trio-watch')")
    shown = """name => {
        const [ada] = watch.joined.peers.values();
        return watch.shadowRoot.querySelector('video').srcObject === ada.streams.get(name);
    }"""
    bob.evaluate("window.streams = () => [...watch.joined.peers.values()][0].streams")
    bob.wait_for_function("() => streams().size === 2")
    bob.wait_for_function(shown, arg="camera")
    ada.evaluate("room.unpublish('camera')")
    bob.wait_for_function("() => streams().size === 1")
    bob.wait_for_function(shown, arg="screen", timeout=5000)


def test_going_live_twice_is_impossible(visit: Visit) -> None:
    page = visit("about:blank")
    page.route_web_socket("**/ws/twice", lambda _: None)  # a server that does not answer yet
    page.goto("/demo/broadcast?room=twice")
    expect_playing(page.get_by_label("Your picture", exact=True))
    go = page.get_by_role("button", name="Go live")
    go.click()
    expect(go).to_be_disabled()
    page.get_by_role("button", name="Share screen").click()  # any change draws the form again
    expect(page.get_by_role("button", name="Stop sharing")).to_be_visible(timeout=5000)
    expect(go).to_be_disabled(timeout=2000)
