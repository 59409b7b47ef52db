"""Relayed broadcasts in `mesh`, whose clients must declare that they support them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tests.clients import Client, Service, connect
from tests.relay.cast import Served, candidate, described, serve_relayed, until
from tests.traveller import UNCOUNTED


async def enter(client: Client, name: str, **fields: Any) -> dict[str, Any]:
    await client.send("auth_token", clientId=name, **{"relay": True, **fields})
    success = await client.wait_for("auth_success")
    await client.wait_for("users_in_room")
    await client.quiesce()
    return success


async def test_a_broadcast_is_relayed_to_later_viewers(served: Served) -> None:
    service, server = served
    async with (
        service.connect("/ws/r") as ann,
        service.connect("/ws/r") as bob,
        service.connect("/ws/r") as eve,
        service.connect("/ws/r") as old,
    ):
        assert (await enter(ann, "ann"))["relay"] is True
        await enter(bob, "bob")
        await ann.expect("user_joined", client_id="bob")
        await ann.send("broadcast_start")
        # The broadcaster serves all viewers that it was not told about by now.
        assert await ann.receive() == {"type": "relay", "for": [], "offer_to": None}
        await bob.wait_for("broadcast_started")

        # The next viewer is relayed, and the broadcaster is told so before it sees the join.
        await enter(eve, "eve")
        told = await ann.expect("relay")
        assert told["for"] == ["eve"]
        relay = told["offer_to"]
        assert relay.startswith("relay_")
        await ann.wait_for("user_joined", client_id="eve")
        await ann.send("offer", to=relay, offer=described("offer", "7"))
        await ann.wait_for("answer", from_=relay)
        await ann.send("ice_candidate", to=relay, candidate=candidate("7"))
        offer = await eve.wait_for("offer")
        assert (offer["from"], offer["relay"]) == ("ann", True)
        await eve.send("answer", to="ann", relay=True, answer=described("answer", "9"))
        await eve.send("ice_candidate", to="ann", relay=True, candidate=candidate("9"))
        await until(lambda: [v.candidates for v in server.viewings] == [[candidate("9")]])
        assert [each.candidates for each in server.ingests.values()] == [[candidate("7")]]

        # Messages without the mark are for the broadcaster, such as an offer for data channels.
        await eve.send("offer", to="ann", offer=1)
        assert "relay" not in await ann.wait_for("offer", from_="eve", offer=1)
        await eve.send("message", to="ann", data=2)
        await ann.wait_for("message", data=2)

        # A client without support for media servers is served directly.
        assert "relay" not in await enter(old, "old", relay=False)
        assert (await ann.receive())["type"] == "user_joined"
        assert len(server.viewings) == 1
        await ann.send("broadcast_stop")
        await ann.wait_for("relay_over", offer_to=relay)
        await until(lambda: not server.ingests and not server.viewings)


@asynccontextmanager
async def three_peers(service: Service) -> AsyncIterator[tuple[Client, Client]]:
    """The first and the last of three peers of a room: a broadcaster, and its second viewer."""
    async with AsyncExitStack() as stack:
        clients = []
        for name in ("ann", "bob", "eve"):
            clients.append(await stack.enter_async_context(service.connect("/ws/r")))
            await enter(clients[-1], name)
        yield clients[0], clients[-1]


async def test_peers_already_in_the_room_are_placed_first(served: Served) -> None:
    service, _ = served
    async with three_peers(service) as (ann, _eve):
        await ann.send("broadcast_start")
        told = await ann.wait_for("relay")
        assert told["for"] == ["eve"]
        last = await ann.wait_for("relay", offer_to=None)
        assert last["for"] == []


async def test_a_broadcaster_without_relay_support_serves_all_viewers(served: Served) -> None:
    service, _ = served
    async with (
        service.connect("/ws/r") as ann,
        service.connect("/ws/r") as bob,
        service.connect("/ws/r") as eve,
    ):
        await enter(ann, "ann", relay=False)
        await enter(bob, "bob")
        await enter(eve, "eve")
        await ann.send("broadcast_start")
        assert {m["type"] for m in await ann.settle()} == {"user_joined"}
        await eve.wait_for("broadcast_started")
        await ann.send("offer", to="eve", offer=1)
        await eve.wait_for("offer", offer=1)
        await eve.send("answer", to="ann", answer=2)
        await ann.wait_for("answer", answer=2)


async def move(base: str, client: Client, session: str, stack: AsyncExitStack) -> Client:
    """Resume on another replica as the same peer."""
    received = sum(message["type"] not in UNCOUNTED for message in client.log)
    moved = await stack.enter_async_context(connect(base, "/ws/r", quiesce=client.quiesce))
    name = client.log[1]["client_id"]
    claims = {"clientId": name, "session": session, "received": received, "relay": True}
    await moved.send("auth_token", **claims)
    await moved.wait_for("resumed")
    return moved


async def test_relaying_follows_sessions_to_other_replicas(redis_url: str) -> None:
    async with (
        serve_relayed(redis_url, relay_from=0) as (service, (server,)),
        connect(service.bases[0], "/ws/r", quiesce=service.quiesce) as ann,
        connect(service.bases[1], "/ws/r", quiesce=service.quiesce) as eve,
        AsyncExitStack() as stack,
    ):
        sessions = [
            (await enter(client, name, resume=True))["session"]["id"]
            for client, name in ((ann, "ann"), (eve, "eve"))
        ]
        await ann.send("broadcast_start")
        first = (await ann.wait_for("relay"))["offer_to"]
        await ann.send("offer", to=first, offer=described("offer", "7"))
        await eve.wait_for("offer", relay=True)
        await eve.send("answer", to="ann", relay=True, answer=described("answer", "9"))
        await until(lambda: server.viewings[0].descriptions)

        # The viewer moves: its new peer connection needs a new leg.
        before = server.viewings[0]
        eve = await move(service.bases[2], eve, sessions[1], stack)
        await eve.wait_for("offer", relay=True)
        await eve.send("answer", to="ann", relay=True, answer=described("answer", "10"))
        await until(lambda: [each is before for each in server.viewings] == [False])
        await until(lambda: server.viewings[0].descriptions)
        assert {m["type"] for m in await ann.settle()} <= {"relay", "answer"}

        # The broadcaster moves: it is asked again, and then the viewer gets an offer.
        ann = await move(service.bases[1], ann, sessions[0], stack)
        told = await ann.wait_for("relay")
        assert told["for"] == ["eve"]
        assert told["offer_to"] != first
        await ann.send("offer", to=told["offer_to"], offer=described("offer", "8"))
        await eve.wait_for("offer", relay=True)
        await eve.send("answer", to="ann", relay=True, answer=described("answer", "11"))
        await until(lambda: [len(each.descriptions) for each in server.viewings] == [1])
        assert len(server.ingests) == 1
        await ann.settle()
        await eve.settle()
        said = {message["type"] for client in (ann, eve) for message in client.log}
        assert said.isdisjoint({"user_left", "broadcast_stopped", "relay_over", "error"})


async def test_a_relayed_viewer_that_goes_live_is_served_directly(served: Served) -> None:
    """It is no viewer any more, so the media server ends its leg, and the broadcaster takes over.

    When it stops, it is a viewer again, and is placed as a newcomer is.
    """
    service, server = served
    async with three_peers(service) as (ann, eve):
        await ann.send("broadcast_start")
        relay = (await ann.wait_for("relay", **{"for": ["eve"]}))["offer_to"]
        await ann.send("offer", to=relay, offer=described("offer", "7"))
        await eve.wait_for("offer", relay=True)
        await until(lambda: server.viewings)
        await eve.send("broadcast_start")
        await until(lambda: not server.viewings)
        await ann.wait_for("relay", offer_to=None, **{"for": ["eve"]})
        await eve.send("broadcast_stop")
        await ann.wait_for("relay", offer_to=relay, **{"for": ["eve"]})
        await eve.wait_for("offer", relay=True)
