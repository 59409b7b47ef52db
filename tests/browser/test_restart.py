"""The server restarts while clients are connected that send little when they reconnect."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.cut import open_cut
from tests.browser.test_client import (
    enter,
    enter_again,
    expect_told,
    expect_watching,
    publish,
    told,
    wait_until,
)
from tests.browser.visitors import Server, Visitors, expect_playing
from tests.replicas.test_coming_back import read_members

Visit = Callable[..., Page]

# Video must continue: how often the stream was replaced or stopped, and how long no new frame
# came.
WATCH_PAUSES = """() => {
    const video = document.getElementById('video');
    window.interrupted = window.longestPause = 0;
    for (const event of ['emptied', 'ended', 'pause']) {
        video.addEventListener(event, () => { window.interrupted += 1; });
    }
    let [frames, at] = [0, performance.now()];
    setInterval(() => {
        const { totalVideoFrames } = video.getVideoPlaybackQuality();
        if (totalVideoFrames === frames) return;
        window.longestPause = Math.max(window.longestPause, performance.now() - at);
        [frames, at] = [totalVideoFrames, performance.now()];
    }, 50);
}"""
#: Milliseconds. A machine with two cores may be busy for a while, but not for as long as a restart.
PAUSE = 4_000


def expect_no_pause(page: Page) -> None:
    expect_playing(page.locator("#video"))
    pause = page.evaluate("longestPause")
    print(f"the longest pause so far took {pause:.0f} ms")
    assert pause < PAUSE


def expect_uninterrupted(page: Page) -> None:
    expect_no_pause(page)
    assert page.evaluate("[interrupted, connectionsMade]") == [0, 1]


def wait_told(page: Page, type_: str, times: int = 1) -> None:
    told = "([type, times]) => messages.filter(m => m.type === type).length >= times"
    page.wait_for_function(told, arg=[type_, times])


def wait_live(page: Page, *users: str) -> None:
    """Wait until the server says that these users are live."""
    live = """async users => {
        const { broadcasters } = await (await fetch('/rooms/deploy')).json();
        return users.join() === broadcasters.map(({ user_id }) => user_id).sort().join();
    }"""
    page.wait_for_function(live, arg=users)


def wait_written(page: Page, database_url: str, members: int) -> None:
    """Wait until the server has stored its members, which it does once a second."""
    database = Path(database_url.removeprefix("sqlite:///"))
    while len(read_members(database)) != members:
        page.wait_for_timeout(50)


def names(page: Page) -> dict[str, str]:
    """Names by user id, as the page received them on entering."""
    users = page.evaluate("messages.find(m => m.type === 'room_state').users")
    return {user["user_id"]: user["username"] for user in users}


def started(page: Page) -> list[tuple[str, str, str]]:
    """The users who were live when the page entered, and since when."""
    told = page.evaluate("messages.find(m => m.type === 'active-broadcasts').broadcasters")
    return [(user["user_id"], user["username"], user["started_at"]) for user in told]


def test_names_broadcasts_and_video_of_room_clients_survive_restarts(
    own_server: Server, visit: Visit, visitors: Visitors, database_url: str
) -> None:
    visitors.tolerate("ERR_CONNECTION_RE")  # refused or reset

    def enter(user: str) -> Page:
        query = f"room=deploy&user={user}&username={user.title()}"
        page = visit(f"{own_server.url}/tests/room.html?{query}")
        wait_told(page, "room_state")
        return page

    ada = enter("ada")
    ada.click("#live")
    expect(ada.locator("#state")).to_have_text("live")
    wait_live(ada, "ada")
    bob = enter("bob")
    expect_playing(bob.locator("#video"))
    bob.evaluate(WATCH_PAUSES)
    since = started(bob)
    everyone = {"ada": "Ada", "bob": "Bob"}
    assert names(bob) == everyone

    for times, end, late in ((2, own_server.stop, "cyd"), (3, own_server.kill, "dan")):
        wait_written(bob, database_url, len(everyone))
        assert end() in {0, None}  # by SIGTERM and SIGKILL
        expect_uninterrupted(bob)
        own_server.start()
        for page in (ada, bob):
            wait_told(page, "room_state", times)
        newcomer = enter(late)
        assert names(newcomer) == everyone | {late: late.title()}
        assert started(newcomer) == since
        expect_playing(newcomer.locator("#video"))
        expect_uninterrupted(bob)
        newcomer.close()
    for page in (ada, bob):
        assert "Anonymous" not in page.evaluate("JSON.stringify(messages)")
        assert "broadcast-stopped" not in page.evaluate("messages.map(m => m.type)")


def test_rooms_broadcasts_and_video_of_live_clients_survive_restarts(
    own_server: Server, visit: Visit, visitors: Visitors, database_url: str
) -> None:
    visitors.tolerate("ERR_CONNECTION_RE")  # refused or reset

    def enter(user: str) -> Page:
        page = visit(f"{own_server.url}/tests/live.html?room=deploy&user={user}")
        expect(page.locator("#state")).to_have_text("joined")
        return page

    ada, bob, cyd = (enter(user) for user in ("ada", "bob", "cyd"))
    ada.click("#live")
    expect_playing(bob.locator("#video"))
    bob.evaluate(WATCH_PAUSES)
    for times, end, live in ((2, own_server.stop, ["ada"]), (3, own_server.kill, ["ada", "cyd"])):
        wait_written(bob, database_url, 3)
        assert end() in {0, None}  # by SIGTERM and SIGKILL
        expect_no_pause(bob)
        if "cyd" in live:
            cyd.click("#live")  # it announces itself as soon as it is connected
        own_server.start()
        for page in (ada, bob, cyd):
            wait_told(page, "joined_room", times)
        wait_live(bob, *live)  # and ada has not announced herself again
        # Ada is told again that bob listens, and makes an offer; that must not take long.
        expect_no_pause(bob)
    # Whether he reconnected before or after cyd went live, cyd is told that he listens.
    bob.wait_for_function("messages.some(m => m.type === 'live_offer' && m.from_user_id === 'cyd')")
    for page in (ada, bob, cyd):
        assert "error" not in page.evaluate("messages.map(m => m.type)")
    assert "live_peer_left" not in bob.evaluate("messages.map(m => m.type)")


def test_a_phone_that_changes_networks_resumes(server: Server, visit: Visit) -> None:
    """The video does not stop, and no message is lost."""
    with open_cut(server.port) as network:
        ada = visit(f"{network.url}/tests/client.html")
        enter_again(ada, "moving", "Ada", clientId="ada")
        bob = enter(visit, "moving", "Bob")
        publish(ada)
        expect_watching(bob)
        bob.evaluate(WATCH_PAUSES)
        bob.evaluate("""() => {
            let next = 0;
            setInterval(() => room.send(next++, { to: 'ada' }), 5);
            room.on('away', () => { told.push(['peer.away', peer('Ada').away]); });
        }""")
        for number, source in enumerate(["127.0.0.2", "127.0.0.3"], 1):
            network.move(source)
            wait_until(bob, partial(_has_come_back, bob, number))
            ada.wait_for_function("room.send('here I am')")
        expect_told(bob, "message", "Ada", "here I am")
        assert told(bob, "peer.away") == [["peer.away", True]] * 2
        assert bob.evaluate("peer('Ada').away") is False
        assert told(bob, "left") == told(bob, "stopped") == told(ada, "left") == []
        heard = "told.filter(([event]) => event === 'message').map(([, , data]) => data)"
        assert ada.evaluate(f"{heard}.every((number, i) => number === i)")
        assert ada.evaluate(f"{heard}.length") > 20
        assert [state for _, state, _ in told(ada, "state")].count("waiting") == 2
        expect_no_pause(bob)
        assert bob.evaluate("interrupted") == 0
        assert len(told(bob, "stream")) == 1


def _has_come_back(page: Page, times: int) -> bool:
    return len(told(page, "back")) == times
