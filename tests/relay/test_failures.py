"""What clients notice when a media server or the connection to it fails."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio

from tests.clients import Client, Service
from tests.relay.cast import (
    STREAM,
    Cast,
    answer,
    candidate,
    cast,
    described,
    offered,
    serve_relayed,
    until,
)
from trio_signal import supervision
from trio_signal.relay import broadcast, nodes, relays, viewer
from trio_signal.relay.memory import MemoryNode, MemoryServer


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "_PAUSE", 0.2)
    monkeypatch.setattr(broadcast, "_FIRST_PAUSE", 0.01)


@asynccontextmanager
async def relayed(
    redis_url: str | None = None, servers: int = 1
) -> AsyncIterator[tuple[Service, list[MemoryServer], Cast, list[Client]]]:
    """A broadcast with one direct viewer, and one relayed viewer that is connected."""
    async with serve_relayed(redis_url, servers=servers) as (service, media), cast(service) as show:
        direct = await show.viewer()
        await show.asked()
        late = await show.viewer()
        await show.publish(await show.asked())
        await offered(late)
        await answer(late)
        await until(lambda: sum(len(each.viewings) for each in media) == 1)
        yield service, media, show, [direct, late]


async def is_back(show: Cast, late: Client) -> None:
    """The broadcaster is asked again, with another relay id; then the viewer gets an offer."""
    await show.caster.wait_for("viewer-left")
    relay = await show.asked()
    assert relay.startswith("relay_")
    await show.publish(relay, "8")
    await offered(late)
    await answer(late, "10")


def nobody_left(*clients: Client) -> bool:
    told = {message["type"] for client in clients for message in client.log}
    return told.isdisjoint({"broadcaster-disconnected", "stream-ended", "error"})


async def test_relaying_continues_after_a_media_server_restarts(redis_url: str) -> None:
    async with relayed(redis_url) as (_, (server,), show, viewers):
        server.crash()
        server.restart()
        await is_back(show, viewers[1])
        assert len(server.ingests) == len(server.viewings) == 1
        await viewers[0].settle()
        assert nobody_left(*viewers)


async def test_another_media_server_replaces_a_crashed_one() -> None:
    async with relayed(servers=2) as (_, media, show, viewers):
        first, second = sorted(media, key=lambda each: not each.ingests)
        first.crash()
        await is_back(show, viewers[1])
        await until(lambda: second.viewings)
        assert nobody_left(*viewers)


async def test_a_lost_viewer_gets_another_offer() -> None:
    async with relayed() as (_, (server,), show, viewers):
        before = server.viewings[0]
        before.lose("no way")
        await offered(viewers[1])
        await answer(viewers[1], "10")
        await until(lambda: server.viewings[0].descriptions)
        assert server.viewings[0] is not before
        assert {m["type"] for m in await show.caster.settle()} <= {"viewer-count"}


async def test_after_three_tries_a_viewer_gets_an_error_if_no_place_is_free(redis_url: str) -> None:
    async with relayed(redis_url) as (service, (server,), _, viewers):
        for session in "abc":
            server.viewings[0].lose("no way")
            if session != "c":
                await offered(viewers[1])
                await answer(viewers[1], session)
                await until(lambda: server.viewings)
        await viewers[1].wait_for("error", code="relay_failed", streamId=STREAM)
        # It may ask again.
        await viewers[1].send("join-stream", streamId=STREAM)
        await offered(viewers[1])
        assert service is not None


async def test_after_three_tries_a_viewer_gets_a_direct_place(redis_url: str) -> None:
    async with relayed(redis_url) as (_, (server,), show, viewers):
        await viewers[0].close()
        await show.caster.wait_for("viewer-left")
        for session in "abc":
            server.viewings[0].lose("no way")
            if session != "c":
                await offered(viewers[1])
                await answer(viewers[1], session)
                await until(lambda: server.viewings)
        viewer_id = await show.asked()
        assert viewer_id.startswith("client_")
        await show.caster.send("webrtc-offer", streamId=STREAM, viewerId=viewer_id, offer=1)
        await viewers[1].wait_for("webrtc-offer", offer=1)
        await viewers[1].send("webrtc-answer", streamId=STREAM, answer=2)
        await show.caster.wait_for("webrtc-answer", answer=2, viewerId=viewer_id)


async def test_viewers_are_direct_if_no_media_server_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nodes, "PATIENCE", 0.1)
    async with relayed() as (service, (server,), show, viewers):
        server.crash()
        await show.caster.wait_for("viewer-left")
        viewer_id = await show.asked()
        assert viewer_id.startswith("client_")
        await show.caster.send("webrtc-offer", streamId=STREAM, viewerId=viewer_id, offer=1)
        await viewers[1].wait_for("webrtc-offer", offer=1)
        # Operators are told, too.
        async with httpx.AsyncClient(base_url=f"http://{service.base}") as http:
            ready, metrics = (await http.get("/readyz")).text, (await http.get("/metrics")).text
        assert f"media server memory:{server.name}: it is gone" in ready
        assert 'relay_failures_total{reason="lost",side="broadcast"} 1.0' in metrics
        # After it has restarted, direct viewers stay direct, and the next one is relayed.
        server.restart()
        late = await show.viewer()
        assert (await show.asked()).startswith("relay_")
        assert nobody_left(*viewers, late)


async def test_the_limit_of_viewers_depends_on_the_media_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nodes, "PATIENCE", 0.01)
    caps: dict[str, Any] = {"max_viewers": 1, "max_relay_viewers": 2}
    async with (
        serve_relayed(**caps) as (service, (server,)),
        service.connect("/ws") as third,
        cast(service) as show,
    ):
        second = [await show.viewer() for _ in range(2)][1]
        await third.send("join-stream", streamId=STREAM)
        await third.wait_for("error", code="stream_full")
        await second.close()
        await show.caster.wait_for("viewer-count", count=2)
        server.crash()
        await trio.sleep(0.02)
        await third.send("join-stream", streamId=STREAM)
        await third.wait_for("error", code="stream_full")
        server.restart()
        await third.send("join-stream", streamId=STREAM)
        await third.wait_for("viewer-count", count=3)


async def test_a_broadcaster_that_never_makes_an_offer_serves_all_viewers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broadcast, "_ASK_ANEW_AFTER", (0.01, 0.01))
    async with serve_relayed() as (service, _), cast(service) as show:
        await show.viewer()
        await show.asked()
        await show.viewer()
        told = [await show.asked() for _ in range(3)]
        assert [each.split("_")[0] for each in told] == ["relay", "relay", "client"]
        await show.viewer()
        assert (await show.asked()).startswith("client_")


@pytest.mark.parametrize("refuses", [True, False])
async def test_viewers_are_direct_if_no_media_server_receives_the_broadcast(
    monkeypatch: pytest.MonkeyPatch, *, refuses: bool
) -> None:
    """It works, but has no free ports; or the broadcaster's network blocks the way to it."""
    monkeypatch.setattr(broadcast, "UP_WITHIN", 0.1)
    monkeypatch.setattr(broadcast, "_PATIENCE", 0.2)
    async with serve_relayed() as (service, (server,)), cast(service) as show:
        server.refuses, server.connects = "no free ports" if refuses else None, False
        await show.viewer()
        await show.asked()
        late = await show.viewer()
        tries = 0
        while (viewer_id := await show.asked()).startswith("relay_"):
            tries += 1
            offer = described("offer", str(tries))
            to = {"streamId": STREAM, "viewerId": viewer_id}
            await show.caster.send("webrtc-offer", offer=offer, **to)
        assert tries >= 3
        await show.caster.send("webrtc-offer", streamId=STREAM, viewerId=viewer_id, offer=1)
        await late.wait_for("webrtc-offer", offer=1)
        # The next one is not asked to wait for the same.
        await show.viewer()
        assert (await show.asked()).startswith("client_")


async def test_a_slow_broadcaster_may_be_asked_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its page makes a second peer connection, which must not get the answer to the first one."""
    monkeypatch.setattr(broadcast, "_ASK_ANEW_AFTER", (0.2, 10.0))
    async with serve_relayed() as (service, (server,)), cast(service) as show:
        await show.viewer()
        await show.asked()
        late = await show.viewer()
        first = await show.asked()
        await show.caster.expect("viewer-left", viewerId=first)
        second = await show.asked()
        to_first = {"streamId": STREAM, "viewerId": first}
        await show.caster.send("webrtc-offer", offer=described("offer", "6"), **to_first)
        await show.caster.send("webrtc-ice-candidate", candidate=candidate("6"), **to_first)
        await show.publish(second, "7")
        await offered(late)
        assert [each.candidates for each in server.ingests.values()] == [[]]
        await show.caster.settle()
        assert "error" not in {m["type"] for m in show.caster.log}


async def test_the_media_server_is_released_when_nobody_is_relayed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broadcast, "IDLE", 0.1)
    async with relayed() as (_, (server,), show, viewers):
        await viewers[1].close()
        left = await show.caster.wait_for("viewer-left")
        assert left["viewerId"].startswith("relay_")
        await until(lambda: not server.ingests)
        # A later viewer is relayed again.
        late = await show.viewer()
        await show.publish(await show.asked(), "8")
        await offered(late)


async def test_idle_broadcasts_are_checked_on_a_busy_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broadcast, "IDLE", 0.1)
    async with (
        relayed() as (service, (server,), _, viewers),
        service.connect("/ws") as busy,
        trio.open_nursery() as nursery,
    ):

        async def be_busy() -> None:
            while True:
                await busy.send("broadcaster-ready", streamId="another")
                await trio.sleep(relays.TICK / 5)

        nursery.start_soon(be_busy)
        await viewers[1].close()
        with trio.fail_after(10 * relays.TICK):
            await until(lambda: not server.ingests)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("method", ["view", "ingest"])
async def test_an_error_in_one_task_ends_no_other(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    async with relayed() as (_, (server,), show, viewers):
        before, works = list(server.viewings), getattr(MemoryNode, method)
        calls: list[str] = []

        def fail(node: MemoryNode, given: str) -> object:
            calls.append(given)
            if len(calls) == 1:
                raise RuntimeError("a defect")
            return works(node, given)

        monkeypatch.setattr(MemoryNode, method, fail)
        if method == "view":
            late = await show.viewer()
            await offered(late)
            await until(lambda: len(server.viewings) == 2)
            assert before[0] in server.viewings
        else:
            await show.caster.send(
                "webrtc-offer", streamId=STREAM, viewerId=show.relay, offer=described("offer", "8")
            )
            await is_back(show, viewers[1])
        assert caplog.text.count("failed, restarting") == 1


async def test_viewers_may_join_while_relaying_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE", 0.5)
    looks: list[object] = []
    look_at = relays.Relays._look_at

    def fail(it: relays.Relays, *given: Any) -> None:
        looks.append(given)
        if len(looks) == 1:
            raise RuntimeError("a defect")
        look_at(it, *given)

    async with serve_relayed() as (service, _), cast(service) as show:
        monkeypatch.setattr(relays.Relays, "_look_at", fail)
        await show.viewer()
        assert (await show.asked()).startswith("client_")
        await until(lambda: looks)
        late = await show.viewer()
        relay = await show.asked()
        while not relay.startswith("relay_"):
            relay = await show.asked()
        await show.publish(relay)
        await offered(late)


async def test_nothing_is_left_if_everybody_leaves_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relays, "_GATHERING", 10.0)  # so that each check is a full one
    async with relayed() as (_, (server,), show, viewers), trio.open_nursery() as nursery:
        for client in (show.caster, *viewers):
            nursery.start_soon(client.close)
        with trio.fail_after(10 * relays.TICK):
            await until(lambda: not server.ingests and not server.viewings)


async def test_nothing_is_left_when_the_broadcaster_leaves(redis_url: str) -> None:
    async with relayed(redis_url) as (_, (server,), show, viewers):
        await show.caster.close()
        for each in viewers:
            await each.wait_for("broadcaster-disconnected")
        await until(lambda: not server.ingests and not server.viewings)


async def test_a_silent_media_server_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trio_signal.relay.memory.DEADLINE", 0.1)
    async with serve_relayed(servers=2) as (service, media), cast(service) as show:
        await show.viewer()
        await show.asked()
        late = await show.viewer()
        relay = await show.asked()
        for each in media:
            each.is_silent = True
        offer = {"type": "offer", "sdp": "v=0\r\no=- 7 2 IN IP4 0\r\nm=video 9 X 96\r\n"}
        await show.caster.send("webrtc-offer", streamId=STREAM, viewerId=relay, offer=offer)
        await show.caster.wait_for("viewer-left", viewerId=relay)
        media[1].is_silent = False
        await show.publish(await show.asked(), "8")
        await offered(late)
        assert media[1].ingests
        await trio.lowlevel.checkpoint()
