"""The driver for Cloudflare's media server, with a replacement that forwards real media."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import av
import pytest
import trio
from aiortc import MediaStreamTrack
from aiortc.mediastreams import AudioStreamTrack, VideoStreamTrack

from tests.clients import PATIENCE
from tests.cloudflare import SECRET, Asked, Reply
from tests.conftest import serve_once, settings
from tests.relay.cast import STREAM, cast, offered, wait_ready
from tests.relay.peers import Peer, Peers, run_peers
from tests.relay.sfu import APP, Sfu, open_sfu
from trio_signal import cloudflare
from trio_signal.doctor.facts import RelayFacts, ask_relays
from trio_signal.errors import SettingError
from trio_signal.relay import (
    Ingest,
    Leg,
    LegEvent,
    Lost,
    Offered,
    RelayError,
    Report,
    Up,
    Viewing,
)
from trio_signal.relay.cloudflare import CloudflareNode, keeper, legs, node
from trio_signal.relay.cloudflare.sdp import fingerprints, in_one_stream, sending, with_bitrate
from trio_signal.relay.nodes import nodes_of

BITRATE = 1_000_000
BROWSER = "".join(
    f"{line}\r\n"
    for line in (
        *("v=0", "o=- 46117317 2 IN IP4 127.0.0.1", "s=-", "t=0 0", "a=group:BUNDLE 0 1 2 3"),
        *("m=audio 9 UDP/TLS/RTP/SAVPF 111", "c=IN IP4 0.0.0.0", "a=mid:0", "a=sendrecv"),
        *("a=fingerprint:sha-256 AB:CD", "a=msid:s1 t1"),
        *("m=video 0 UDP/TLS/RTP/SAVPF 96", "c=IN IP4 0.0.0.0", "b=AS:9", "a=bundle-only"),
        *("a=mid:1", "a=sendonly", "a=msid:s2 t2", "a=ssrc:1 msid:s2 t2"),
        *("m=video 9 UDP/TLS/RTP/SAVPF 96", "a=mid:2", "a=recvonly"),
        *("m=video 0 UDP/TLS/RTP/SAVPF 96", "a=mid:3", "a=sendonly"),
        *("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=mid:4"),
    )
)


def test_the_tracks_that_an_offer_sends() -> None:
    assert sending(BROWSER) == {"0": "audio", "1": "video"}
    assert sending("") == sending("v=0\n") == {}
    assert fingerprints(BROWSER) == {"sha-256 ab:cd"}


def test_all_tracks_are_in_one_stream() -> None:
    changed = in_one_stream(BROWSER, "relay").split("\r\n")
    assert [line for line in changed if line.startswith("a=msid")] == [
        *("a=msid:relay audio-0", "a=msid:relay video-1")
    ]
    assert len(changed) == len(BROWSER.split("\r\n"))


def test_bandwidth_lines_are_added_at_the_right_place() -> None:
    changed = with_bitrate(BROWSER, BITRATE)
    assert "c=IN IP4 0.0.0.0\r\nb=AS:1000\r\nb=TIAS:1000000\r\na=bundle-only" in changed
    assert (changed.count("b=AS"), changed.count("b=AS:9")) == (3, 0)
    assert with_bitrate(changed, BITRATE) == changed


@pytest.fixture(scope="module")
def peers() -> Iterator[Peers]:
    with run_peers() as peers:
        yield peers


@pytest.fixture
async def sfu(peers: Peers) -> AsyncIterator[Sfu]:
    async with open_sfu(peers) as sfu:
        yield sfu


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "FEED", 0.2)
    monkeypatch.setattr(legs, "VIEWER", 0.4)
    monkeypatch.setattr(node, "UNWELL", 0.1)
    for module in (legs, node):  # all media is handled in this process
        monkeypatch.setattr(module, "DEADLINE", PATIENCE)


async def wait_until(condition: Callable[[], object]) -> None:
    with trio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.02)


@asynccontextmanager
async def running(sfu: Sfu, secret: str = SECRET, app: str = APP) -> AsyncIterator[CloudflareNode]:
    made = CloudflareNode(app, secret, BITRATE, sfu.api.url)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.run)
        yield made
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(sfu: Sfu) -> AsyncIterator[CloudflareNode]:
    async with running(sfu) as made:
        await wait_until(lambda: made.degraded is None)
        yield made


async def next_event(leg: Leg) -> LegEvent:
    with trio.fail_after(PATIENCE):
        return await leg.events.receive()


async def expect_lost(leg: Leg) -> None:
    assert isinstance(await next_event(leg), Lost)
    with pytest.raises(trio.EndOfChannel):
        await next_event(leg)


class Small(VideoStreamTrack):
    """Small frames, since the replacement encodes everything again."""

    async def recv(self) -> av.VideoFrame:
        frame = av.VideoFrame(64, 64)
        frame.pts, frame.time_base = await self.next_timestamp()
        return frame


async def add(peers: Peers, peer: Peer, track: MediaStreamTrack) -> None:
    async def do() -> None:
        peer._open().addTransceiver(track, "sendonly")

    await peers.call(do())


async def new_caster(peers: Peers) -> Peer:
    peer = peers.new()
    await add(peers, peer, Small())
    return peer


async def publish(ingest: Ingest, peer: Peer) -> None:
    answer = await ingest.offer(await peer.offer())
    assert "b=AS:1000\r\n" in answer
    ingest.candidate({"candidate": "candidate:1"})
    ingest.candidate(None)
    await peer.take(answer)
    assert await next_event(ingest) == Up()


async def watch(viewing: Viewing, peer: Peer) -> None:
    offer = await viewing.offer()
    assert "a=msid:relay video-" in offer
    await viewing.answer(await peer.answer(offer))
    assert await next_event(viewing) == Up()
    await see(peer)


async def see(peer: Peer) -> None:
    with trio.fail_after(PATIENCE):
        await peer.see()


def open_tracks(sfu: Sfu) -> int:
    """The number of tracks that were not closed."""
    return sum(
        len({*session.names, *session.remote} - session.closed) for session in sfu.sessions.values()
    )


async def test_viewers_of_two_replicas_see_a_broadcast(sfu: Sfu, peers: Peers) -> None:
    async with connected(sfu) as here, connected(sfu) as there:
        with here.ingest("a broadcast") as ingest:
            await publish(ingest, await new_caster(peers))
            with here.view(ingest.feed) as one, there.view(ingest.feed) as two:
                await watch(one, peers.new())
                await watch(two, peers.new())
                await wait_until(lambda: open_tracks(sfu) == 3)
                with pytest.raises(RelayError, match="no offer to answer"):
                    await two.answer("v=0")
                two.close()
                two.close()
                await wait_until(lambda: open_tracks(sfu) == 2)
                ingest.close()
                await expect_lost(one)
        await wait_until(lambda: open_tracks(sfu) == 0)
        with pytest.raises(RelayError, match="has no media"):
            await there.view(ingest.feed).offer()


async def test_viewers_follow_the_broadcasters_tracks(sfu: Sfu, peers: Peers) -> None:
    peer, viewer = await new_caster(peers), peers.new()

    async def remove() -> None:
        assert peer.pc is not None
        peer.pc.getTransceivers()[0].direction = "inactive"

    async def offer(ingest: Ingest) -> None:
        await peer.take(await ingest.offer(await peer.offer()))

    async with connected(sfu) as here, connected(sfu) as there:
        with here.ingest("a broadcast") as ingest:
            await publish(ingest, peer)
            with there.view(ingest.feed) as viewing:
                await watch(viewing, viewer)
                # The same offer again, as for an ICE restart.
                await offer(ingest)
                # Another camera in a new media section: the viewer needs no offer.
                await add(peers, peer, Small())
                await peers.call(remove())
                await offer(ingest)
                await wait_until(lambda: any("update" in path for path in sfu.api.paths()))
                await see(viewer)
                # Audio in addition: the viewer needs an offer.
                await add(peers, peer, AudioStreamTrack())
                await offer(ingest)
                event = await next_event(viewing)
                assert isinstance(event, Offered)
                assert sorted(sending(event.sdp).values()) == ["audio", "video"]
                await viewing.answer(await viewer.answer(event.sdp))
                await see(viewer)
                assert [track.kind for track in viewer._tracks] == ["video", "audio"]


async def test_a_new_peer_connection_needs_a_new_ingest(sfu: Sfu, peers: Peers) -> None:
    async with connected(sfu) as here:
        with here.ingest("a broadcast") as ingest:
            await publish(ingest, await new_caster(peers))
            with pytest.raises(RelayError, match="new peer connection"):
                await ingest.offer(await (await new_caster(peers)).offer())
            await expect_lost(ingest)
            with pytest.raises(RelayError, match="over"):
                await ingest.offer(BROWSER)


async def test_an_ended_session_is_reported_as_lost(sfu: Sfu, peers: Peers) -> None:
    async with connected(sfu) as here, connected(sfu) as there:
        with here.ingest("a broadcast") as ingest:
            await publish(ingest, await new_caster(peers))
            with there.view(ingest.feed) as one, there.view(ingest.feed) as two:
                await watch(one, peers.new())
                await watch(two, peers.new())
                answered = [asked for asked in sfu.api.asked if "renegotiate" in asked.path]
                await sfu.end(answered[-1].path.split("/")[5])
                await expect_lost(two)
                await sfu.end(ingest.feed)
                await expect_lost(one)
                await expect_lost(ingest)


async def test_missing_media_are_reported(
    sfu: Sfu, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(legs, "COMING", 0.5)
    async with connected(sfu) as here:
        with here.ingest("a broadcast") as ingest:
            await ingest.offer(await (await new_caster(peers)).offer())  # the answer gets lost
            with pytest.raises(RelayError, match="No media"):
                await here.view(ingest.feed).offer()
            await expect_lost(ingest)


async def fail(sfu: Sfu, path: str, reply: Reply | bytes) -> None:
    """Answer requests to a path with this reply."""

    async def fault(asked: Asked) -> Reply | bytes | None:
        await trio.lowlevel.checkpoint()
        return reply if asked.path.endswith(path) else None

    sfu.api.fault = fault
    await trio.lowlevel.checkpoint()


BAD: list[tuple[Reply | bytes, str]] = [
    ((401, {"errorCode": "unauthorized"}), r"refuses the secret \(401, unauthorized\)"),
    ((406, {"errorCode": "invalid_session_description", "errorDescription": "SDP\n"}), "406.*SDP"),
    ((429, None), r"refuses \(429\)"),
    ((500, {"errorCode": "internal_error"}), "500, internal_error"),
    ((302, None), "302"),
    (b"\x00", "cannot be read"),
    (b"[]", "cannot be read"),
    (b'{"new": ' + b"[" * 100_000, "cannot be read"),
    (b'{"tracks": 7}', "cannot be read"),
    (b"{}", "gave no answer"),
    (b"", "gave no answer"),
    (b'{"sessionDescription": {"type": "offer", "sdp": ""}}', "gave no answer"),
    (b'{"errorCode": "session_error", "errorDescription": "Later"}', "session_error: Later"),
    (b'{"tracks": [{"errorCode": "a", "errorDescription": "b"}]}', r"gave no answer \(a: b\)"),
    (b" " * 300_000, "longer than 262144 bytes"),
]


async def test_refusals_of_the_api_are_reported(sfu: Sfu, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "trio_signal")
    async with connected(sfu) as here:
        for reply, problem in BAD:
            await fail(sfu, "tracks/new", reply)
            with here.ingest("a broadcast") as ingest, pytest.raises(RelayError, match=problem):
                await ingest.offer(BROWSER)
        await fail(sfu, "tracks/new", (404, None))
        with here.ingest("a broadcast") as ingest, pytest.raises(RelayError, match="sends nothing"):
            await ingest.offer(
                "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=recvonly\r\n"
            )
        await fail(sfu, "sessions/new", b'{"sessionId": "../../turn"}')
        with here.ingest("a broadcast") as ingest, pytest.raises(RelayError, match="such an id"):
            await ingest.offer(BROWSER)
        for feed in ("", "a/../b", "x" * 200, "é"):
            with here.view(feed) as viewing, pytest.raises(RelayError, match="such an id"):
                await viewing.offer()
    assert SECRET not in caplog.text
    assert not any("turn" in path for path in sfu.api.paths())


async def test_a_silent_api_ends_no_existing_leg(
    sfu: Sfu, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = False
    for module in (legs, node):
        monkeypatch.setattr(module, "DEADLINE", 4.0)

    async def fault(asked: Asked) -> Reply | bytes | None:
        await trio.lowlevel.checkpoint()
        if silent:
            await trio.sleep_forever()
        return None

    sfu.api.fault = fault
    async with connected(sfu) as here:
        with here.ingest("a broadcast") as ingest, here.view("x") as other:
            await publish(ingest, await new_caster(peers))
            with here.view(ingest.feed) as viewing:
                viewer = peers.new()
                await watch(viewing, viewer)
                silent = True
                began = trio.current_time()
                with pytest.raises(RelayError, match="no answer within 4 s"):
                    await other.offer()
                assert trio.current_time() - began < 4 + PATIENCE / 2
                await wait_until(lambda: here.degraded is not None)
                assert here.degraded == "no answer within 4 s"
                await see(viewer)
                silent = False
                await wait_until(lambda: here.degraded is None)
                for leg in (ingest, viewing):
                    with pytest.raises(trio.WouldBlock):
                        leg.events.receive_nowait()


@pytest.mark.parametrize(
    ("secret", "app", "problem"),
    [
        ("another", APP, "refuses the secret (401, unauthorized: Bad secret)"),
        ("", APP, "TRIO_SIGNAL_RELAY_TOKEN is not set"),
        ("\N{BULLET}", APP, "cannot be reached (UnicodeEncodeError)"),
        (SECRET, "nope", "refuses (404, not_found: No such app)"),
    ],
)
async def test_a_wrong_secret_or_app_degrades_the_node(
    sfu: Sfu, secret: str, app: str, problem: str
) -> None:
    async with running(sfu, secret, app) as made:
        assert made.degraded == "not asked yet"
        with pytest.raises(RelayError, match=re.escape(problem)):
            await made.probe()
        await wait_until(lambda: made.degraded == problem)
        assert made.name == f"cloudflare:{app}"


async def test_the_session_for_probing_may_end(sfu: Sfu) -> None:
    async with connected(sfu) as here:
        (session,) = sfu.sessions
        await sfu.end(session)
        here._keeper.suspicion.set()
        await wait_until(lambda: len(sfu.sessions) == 1)
        assert here.degraded is None


async def test_a_node_is_made_from_settings(sfu: Sfu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudflare, "BASE_URL", sfu.api.url)
    given = settings(relay_urls=f"cloudflare:{APP}", relay_token=SECRET)
    (made,) = nodes_of(given)
    assert made.name == f"cloudflare:{APP}"
    assert await ask_relays(given) == {made.name: RelayFacts(Report("it answers"))}
    with pytest.raises(SettingError, match="cloudflare:APP_ID"):
        settings(relay_urls="cloudflare:a/b")


async def test_a_node_that_stops_loses_its_legs(sfu: Sfu, peers: Peers) -> None:
    made = CloudflareNode(APP, SECRET, BITRATE, sfu.api.url)
    for leg in (made.ingest("x"), made.view("y")):
        leg.close()
    with made.view("y") as viewing, pytest.raises(RelayError, match="is not connected"):
        await viewing.offer()
    async with connected(sfu) as here:
        ingest = here.ingest("a broadcast")
        await publish(ingest, await new_caster(peers))
    await expect_lost(ingest)
    ingest.close()
    assert here.degraded == "stopped"


async def test_a_stream_reaches_its_viewers_through_cloudflare(
    sfu: Sfu, peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cloudflare, "BASE_URL", sfu.api.url)
    given = {"relay_urls": f"cloudflare:{APP}", "relay_token": SECRET, "relay_from": "0"}
    peer = await new_caster(peers)
    async with serve_once(**given) as service, cast(service) as show:
        await wait_ready(service)
        viewers = [await show.viewer() for _ in range(2)]
        relay = await show.asked()
        assert relay.startswith("relay_")
        described = {"type": "offer", "sdp": await peer.offer()}
        of_relay = {"streamId": STREAM, "viewerId": relay}
        await show.caster.send("webrtc-offer", offer=described, **of_relay)
        answer = await show.caster.wait_for("webrtc-answer", viewerId=relay)
        await peer.take(answer["answer"]["sdp"])
        for viewer in viewers:
            page = peers.new()
            described = {"type": "answer", "sdp": await page.answer(await offered(viewer))}
            await viewer.send("webrtc-answer", streamId=STREAM, answer=described)
            await see(page)
        await wait_until(lambda: open_tracks(sfu) == 3)
        await viewers[0].close()
        await wait_until(lambda: open_tracks(sfu) == 2)
        assert {message["type"] for message in await show.caster.settle()} == {"viewer-count"}
        await show.caster.close()
        await wait_until(lambda: open_tracks(sfu) == 0)
