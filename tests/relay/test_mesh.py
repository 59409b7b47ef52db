"""Relayed broadcasts in the words of `mesh`, whose clients have to say that they know of them."""

from typing import Any

from tests.clients import Client
from tests.relay.cast import Served, candidate, described, until


async def enter(client: Client, name: str, **fields: Any) -> dict[str, Any]:
    await client.send("auth_token", clientId=name, **{"relay": True, **fields})
    success = await client.wait_for("auth_success")
    await client.wait_for("users_in_room")
    await client.quiesce()
    return success


async def test_a_broadcast(served: Served) -> None:
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
        # Whom it is not told of by now it serves itself.
        assert await ann.receive() == {"type": "relay", "for": [], "offer_to": None}
        await bob.wait_for("broadcast_started")

        # The next one is relayed, and the broadcaster knows that before it hears of it.
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

        # What is not marked is for the broadcaster, such as the way for data.
        await eve.send("offer", to="ann", offer=1)
        assert "relay" not in await ann.wait_for("offer", from_="eve", offer=1)
        await eve.send("message", to="ann", data=2)
        await ann.wait_for("message", data=2)

        # A client that does not know of media servers is served directly.
        assert "relay" not in await enter(old, "old", relay=False)
        assert (await ann.receive())["type"] == "user_joined"
        assert len(server.viewings) == 1
        await ann.send("broadcast_stop")
        await ann.wait_for("relay_over", offer_to=relay)
        await until(lambda: not server.ingests and not server.viewings)


async def test_who_is_there_already_is_placed_first(served: Served) -> None:
    service, _ = served
    async with (
        service.connect("/ws/r") as ann,
        service.connect("/ws/r") as bob,
        service.connect("/ws/r") as eve,
    ):
        for client, name in ((ann, "ann"), (bob, "bob"), (eve, "eve")):
            await enter(client, name)
        await ann.send("broadcast_start")
        told = await ann.wait_for("relay")
        assert told["for"] == ["eve"]
        last = await ann.wait_for("relay", offer_to=None)
        assert last["for"] == []


async def test_a_broadcaster_that_knows_no_media_server_serves_all(served: Served) -> None:
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
