"""Relayed broadcasts in `live` and `room`, as far as they differ from `stream`."""

from contextlib import AsyncExitStack
from typing import Any

import pytest
import trio

from tests.clients import Client, Service
from tests.relay.cast import Served, described, serve_relayed, until
from trio_signal.relay import broadcast
from trio_signal.relay import viewers as legs
from trio_signal.relay.relays import TICK


def live(user: str) -> str:
    return f"/api/v1/ws/connect?user_id={user}&username={user}"


async def enter(stack: AsyncExitStack, service: Service, user: str) -> Client:
    """Let a user of `room` in, and tell all replicas: the first viewer is direct."""
    client = await stack.enter_async_context(service.connect(f"/ws/r/{user}"))
    await client.wait_for("room_state")
    await service.quiesce()
    return client


async def test_listeners_of_live_are_relayed(served: Served) -> None:
    service, server = served
    async with (
        service.connect(live("ann")) as ann,
        service.connect(live("bob")) as bob,
        service.connect(live("eve")) as eve,
    ):
        for each in (ann, bob, eve):
            await each.send("join_room", room_id="r")
            await each.wait_for("joined_room")
        await ann.send("live_start", room_id="r")
        asked = await ann.wait_for("live_peer_joined")
        relay = asked["user_id"]
        assert (asked["username"], relay.partition(":")[0]) == ("Viewers", "relay")
        await ann.send(
            "live_offer", room_id="r", target_user_id=relay, payload=described("offer", "7")
        )
        answer = await ann.wait_for("live_answer", from_user_id=relay)
        assert answer["payload"]["type"] == "answer"
        # The first listener is direct; the second asks, and gets an offer in ann's name.
        for listener in (bob, eve):  # their replicas know the broadcast by then
            await listener.wait_for("live_peer_joined", user_id="ann")
        await bob.send("live_status", room_id="r")
        await ann.wait_for("live_peer_joined", user_id="bob")
        assert not server.viewings
        await eve.send("live_status", room_id="r")
        offer = await eve.wait_for("live_offer", from_user_id="ann")
        assert offer["payload"]["type"] == "offer"
        reply = described("answer", "9")
        await eve.send("live_answer", room_id="r", target_user_id="ann", payload=reply)
        await until(lambda: server.viewings[0].descriptions)
        assert not [m for m in await ann.settle() if m.get("user_id") == "eve"]
        await ann.send("live_stop", room_id="r")
        await ann.wait_for("live_peer_left", user_id=relay)
        await until(lambda: not server.ingests and not server.viewings)


async def test_a_viewer_that_was_live_itself_is_relayed_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as a viewer, so its media are not stopped as unused."""
    service, server = served
    async with AsyncExitStack() as stack:
        clients = []
        for name in ("ann", "bob", "eve"):
            clients.append(await stack.enter_async_context(service.connect(live(name))))
            await clients[-1].send("join_room", room_id="r")
            await clients[-1].wait_for("joined_room")
            await service.quiesce()
        ann, _, eve = clients
        await ann.send("live_start", room_id="r")
        relay = (await ann.wait_for("live_peer_joined", username="Viewers"))["user_id"]
        await ann.send(
            "live_offer", room_id="r", target_user_id=relay, payload=described("offer", "7")
        )
        await ann.wait_for("live_answer", from_user_id=relay)
        await eve.wait_for("live_peer_joined", user_id="ann")
        await eve.send("live_start", room_id="r")
        await ann.wait_for("live_peer_joined", user_id="eve")
        await trio.sleep(2 * TICK)
        await eve.send("live_stop", room_id="r")
        await ann.wait_for("live_peer_left", user_id="eve")
        await eve.send("live_status", room_id="r")
        await eve.wait_for("live_offer", from_user_id="ann")
        reply = described("answer", "9")
        await eve.send("live_answer", room_id="r", target_user_id="ann", payload=reply)
        await until(lambda: server.viewings[0].descriptions)
        monkeypatch.setattr(broadcast, "IDLE", 0.1)
        await trio.sleep(1.5)
        assert server.viewings
        assert not [m for m in await ann.settle() if m.get("user_id") in ("eve", relay)]


async def test_viewers_of_room_are_relayed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    service, server = served
    async with AsyncExitStack() as stack:
        ann, bob, eve = [await enter(stack, service, name) for name in ("ann", "bob", "eve")]
        await ann.send("broadcast-started")
        relay = (await ann.wait_for("broadcast-started"))["user_id"]
        assert relay.startswith("relay:")
        for each in (bob, eve):
            await each.wait_for("broadcast-started", user_id="ann")
            own = described("offer", "5")
            await each.send("webrtc-signal", target_user_id="ann", signal=own)
        # The broadcaster answers the first offer; the second viewer gets a counter-offer.
        await ann.wait_for("webrtc-signal", from_user_id="bob")
        await ann.send("webrtc-signal", target_user_id=relay, signal=described("offer", "7"))
        answer = await ann.wait_for("webrtc-signal", from_user_id=relay)
        assert answer["signal"]["type"] == "answer"
        counter = await eve.wait_for("webrtc-signal", from_user_id="ann")
        assert counter["signal"]["type"] == "offer"
        reply = described("answer", "5")
        await eve.send("webrtc-signal", target_user_id="ann", signal=reply)
        await until(lambda: server.viewings[0].descriptions)
        # A viewer that returns without an offer gets one after a while.
        monkeypatch.setattr(legs, "_OFFERING", 0.1)
        await eve.close()
        await until(lambda: not server.viewings)
        async with service.connect("/ws/r/eve") as back:
            await back.wait_for("webrtc-signal", from_user_id="ann")


async def test_new_legs_count_towards_the_message_limit() -> None:
    """Each new offer of a viewer needs a new leg, so a client with many offers has to wait."""
    budget: dict[str, Any] = {
        "messages_per_second": 1,
        "message_burst": 40,
        "message_burst_per_ip": 4000,
    }
    async with (
        serve_relayed(relay_from=0, **budget) as (service, _),
        service.connect("/ws/r/ann") as ann,
        service.connect("/ws/r/eve") as eve,
    ):
        await ann.send("broadcast-started")
        relay = (await ann.wait_for("broadcast-started"))["user_id"]
        await eve.wait_for("broadcast-started", user_id="ann")
        await ann.send("webrtc-signal", target_user_id=relay, signal=described("offer", "7"))
        made = 0
        with trio.move_on_after(1):
            for made in range(15):
                for type_ in ("offer", "answer"):
                    own = described(type_, f"{made}")
                    await eve.send("webrtc-signal", target_user_id="ann", signal=own)
                    if type_ == "offer":
                        await eve.wait_for("webrtc-signal")
        assert 1 < made < 10


async def test_a_broadcaster_without_media_for_the_relay_serves_all_viewers(served: Served) -> None:
    service, _ = served
    async with AsyncExitStack() as stack:
        ann, _, eve = [await enter(stack, service, name) for name in ("ann", "bob", "eve")]
        await ann.send("broadcast-started")
        relay = (await ann.wait_for("broadcast-started"))["user_id"]
        watches = described("offer", "7", "recvonly")
        await eve.wait_for("broadcast-started", user_id="ann")
        await ann.send("webrtc-signal", target_user_id=relay, signal=watches)
        await ann.wait_for("broadcast-stopped", user_id=relay)
        await eve.wait_for("broadcast-started", user_id="ann")
        await eve.send("webrtc-signal", target_user_id="ann", signal=described("offer", "5"))
        await ann.wait_for("webrtc-signal", from_user_id="eve")
