"""Relayed broadcasts in `stream`, as its clients see them."""

from tests.relay.cast import STREAM, Served, answer, candidate, cast, offered, until


async def test_later_viewers_are_relayed(served: Served) -> None:
    service, server = served
    async with cast(service) as show:
        direct = await show.viewer()
        first_id = await show.asked()
        assert first_id.startswith("client_")

        late = await show.viewer()
        relay = await show.asked()
        assert relay.startswith("relay_")
        assert "answer of feed-" in await show.publish(relay)
        text = await offered(late)
        (feed,) = server.ingests
        assert f"offer of {feed}" in text
        await answer(late)
        await until(lambda: [len(v.descriptions) for v in server.viewings] == [1])

        # A third viewer joins; the broadcaster is not told.
        third = await show.viewer()
        assert f"offer of {feed}" in await offered(third)
        await answer(third)
        assert {m["type"] for m in await show.caster.settle()} == {"viewer-count"}
        await direct.expect("viewer-count", count=3)
        assert {m["type"] for m in await direct.settle()} == {"viewer-count"}

        # It leaves, and its leg ends.
        await third.close()
        await until(lambda: len(server.viewings) == 1)
        assert {m["type"] for m in await show.caster.settle()} == {"viewer-count"}


async def test_candidates_wait_for_the_media_servers_answer(served: Served) -> None:
    service, server = served
    async with cast(service) as show:
        await show.viewer()
        await show.asked()
        late = await show.viewer()
        relay = await show.asked()
        for_relay = {"streamId": STREAM, "viewerId": relay}
        await show.caster.send("webrtc-ice-candidate", candidate=candidate("7"), **for_relay)
        await show.publish(relay)
        await show.caster.send("webrtc-ice-candidate", candidate=candidate("7"), **for_relay)
        await show.caster.send("webrtc-ice-candidate", candidate=None, **for_relay)
        (ingest,) = server.ingests.values()
        await until(lambda: ingest.candidates == [candidate("7"), None])

        await offered(late)
        for value in (candidate("old"), candidate("9")):
            await late.send("webrtc-ice-candidate", streamId=STREAM, candidate=value)
        await answer(late)
        await late.send("webrtc-ice-candidate", streamId=STREAM, candidate=None)
        (viewing,) = server.viewings
        await until(lambda: viewing.candidates == [candidate("9"), None])
        await show.caster.send("broadcaster-ready", streamId=STREAM)


async def test_a_second_answer_changes_nothing(served: Served) -> None:
    """A slow viewer may get a second offer, and answer both."""
    service, server = served
    async with cast(service) as show:
        late, relay = await show.relayed_viewer()
        await offered(late)
        (viewing,) = server.viewings
        for _ in range(2):
            await answer(late)
        await until(lambda: viewing.descriptions)
        # Other tracks use the same viewing, so it was not given up.
        await show.publish(relay)
        await offered(late)
        await answer(late)
        await until(lambda: len(viewing.descriptions) == 2)
        assert server.viewings == [viewing]


async def test_waiting_viewers_are_placed_when_the_broadcast_begins(served: Served) -> None:
    service, server = served
    async with cast(service) as show:
        early = [await show.viewer() for _ in range(3)]
        await show.caster.settle()
        async with service.connect("/ws") as newer:
            await newer.send("broadcaster-ready", streamId=STREAM)
            joined = [(await newer.wait_for("viewer-joined"))["viewerId"] for _ in range(2)]
            assert sorted(each.split("_")[0] for each in joined) == ["client", "relay"]
            show.caster = newer
            await show.publish(next(each for each in joined if each.startswith("relay")))
            for viewer in early[1:]:
                await offered(viewer)
            assert len(server.viewings) == 2
        await until(lambda: not server.ingests and not server.viewings)


async def test_a_new_connection_of_the_broadcaster_is_a_new_ingest(served: Served) -> None:
    service, server = served
    async with cast(service) as show:
        late, relay = await show.relayed_viewer()
        old = await offered(late)
        await answer(late)
        # Other tracks on the same connection use the same ingest.
        await show.publish(relay)
        again = await offered(late)
        assert again.splitlines()[2] == old.splitlines()[2]
        # Another camera: the page has closed its connections.
        await show.caster.send("broadcaster-ready", streamId=STREAM)
        assert {await show.asked(), await show.asked()} >= {relay}
        await show.publish(relay, "8")
        new = await offered(late)
        assert new.splitlines()[2] != old.splitlines()[2]
        await until(lambda: len(server.ingests) == 1 == len(server.viewings))


async def test_without_a_media_server_nothing_is_relayed(served: Served) -> None:
    service, server = served
    server.is_down = True
    async with cast(service) as show:
        for _ in range(3):
            await show.viewer()
            assert (await show.asked()).startswith("client_")
