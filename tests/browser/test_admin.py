"""The page for operators, and the effects of their actions on other pages."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.visitors import expect_accessible
from tests.test_openapi import KEY

Visit = Callable[..., Page]


def test_an_operator_sees_and_ends_a_call(visit: Visit) -> None:
    ann = visit("/demo/call")
    ann.get_by_label("Your name").fill("Ann")
    ann.get_by_label("Room").fill("admin-test")
    ann.get_by_role("button", name="Join without camera", exact=True).click()
    expect(ann.get_by_role("toolbar", name="Call")).to_be_visible()

    admin = visit("/admin")
    admin.get_by_label("API key").fill(KEY)
    expect_accessible(admin)
    admin.get_by_role("button", name="Connect").click()
    expect(admin.get_by_role("row").filter(has_text="ready")).to_be_visible()
    admin.get_by_label("Rooms whose names begin with").fill("admin-")
    expect_accessible(admin)
    admin.get_by_role("button", name="admin-test", exact=True).click()
    expect(admin.get_by_text("1 of 1 peers")).to_be_visible()
    expect(admin.get_by_role("row").filter(has_text="loopback")).to_contain_text("here")
    expect_accessible(admin)
    # The page follows events by itself.
    bob = visit("/demo/call")
    bob.get_by_label("Your name").fill("Bob")
    bob.get_by_label("Room").fill("admin-test")
    bob.get_by_role("button", name="Join without camera", exact=True).click()
    expect(admin.get_by_text("2 of 2 peers")).to_be_visible()
    admin.get_by_label("Filter peers").fill("bob")
    expect(admin.get_by_text("1 of 2 peers")).to_be_visible()

    admin.get_by_role("button", name="Lock", exact=True).click()
    expect(admin.get_by_role("button", name="Unlock", exact=True)).to_be_visible()
    admin.get_by_label("Message to all").fill("The break is over")
    admin.get_by_role("button", name="Send").click()
    expect(admin.get_by_role("status").filter(has_text="Sent")).to_be_visible()
    admin.get_by_label("Reason").fill("Be kind")
    admin.get_by_role("button", name="Ban Bob").click()
    expect(admin.get_by_text("0 of 1 peers")).to_be_visible()
    expect(bob.get_by_text("Be kind")).to_be_visible()
    expect(ann.get_by_role("toolbar", name="Call")).to_be_visible()
    admin.get_by_role("button", name="Remove everybody").click()
    expect(admin.get_by_text("0 of 0 peers")).to_be_visible()
    for page in (ann, bob):  # these moved when the call ended
        page.close()


def test_an_operator_sees_the_quality_of_calls(visit: Visit) -> None:
    page = visit("/tests/client.html")
    page.evaluate("""async () => {
        const { join } = await import('/client/trio-signal.js');
        const join_as = (username) => join(location.origin, { room: 'quality-test', username });
        window.rooms = [await join_as('Ann'), await join_as('Bob')];
        const [peer] = rooms[1].peers.values();
        peer.channel('any');
    }""")
    admin = visit("/admin")
    admin.get_by_label("API key").fill(KEY)
    admin.get_by_role("button", name="Connect").click()
    said = r"through TURN: 0 of \d+ \(0 %\) · round trip: \d+ ms"
    expect(admin.get_by_text(re.compile(said))).to_be_visible()
    expect_accessible(admin)
