"""Simultaneous joins on all replicas: limits and unique ids hold."""

from contextlib import AsyncExitStack
from functools import partial
from itertools import cycle
from pathlib import Path

import trio

from tests.effort import EFFORT
from tests.raw import RawClient, open_raw
from tests.replicas.guests import Closed, Guest, Party, open_party
from tests.replicas.processes import open_cluster


async def enter_at_once(*guests: tuple[Party, Guest, str]) -> None:
    """Enter, each guest with its token."""
    async with trio.open_nursery() as nursery:
        for party, guest, token in guests:
            nursery.start_soon(partial(party.enter, guest, token))


async def test_the_limit_of_a_room_holds(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, TRIO_SIGNAL_MAX_ROOM_PEERS=8) as cluster:
        for number in range(3 * EFFORT):
            async with open_party(f"room-{number}") as party:
                replicas = cycle(cluster.replicas)
                guests = [await party.connect(f"guest-{i}", next(replicas)) for i in range(30)]
                await enter_at_once(*[(party, guest, "") for guest in guests])
                refused = [guest.closed for guest in guests if guest.closed is not None]
                assert refused == [Closed(1013, "Room is full")] * 22
                await party.agree()
                await guests_of(party)[0].leave()
                await party.agree()
                await party.join("another", cluster.replicas[number % 3])
                await party.agree()


def guests_of(party: Party) -> list[Guest]:
    return list(party.guests.values())


async def test_the_limit_of_viewers_holds(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, TRIO_SIGNAL_MAX_VIEWERS=5) as cluster:
        for number in range(3 * EFFORT):
            async with AsyncExitStack() as stack:
                replicas = cycle(cluster.replicas)
                clients = []
                for _ in range(31):
                    client = await stack.enter_async_context(open_raw(next(replicas).base))
                    await client.upgrade("/ws")
                    clients.append(client)
                await check_viewers(*clients, stream=f"stream-{number}")


async def check_viewers(broadcaster: RawClient, *viewers: RawClient, stream: str) -> None:
    await broadcaster.say({"type": "broadcaster-ready", "streamId": stream})
    await broadcaster.wait_for("viewer-count")
    for viewer in viewers:
        await viewer.say({"type": "join-stream", "streamId": stream})
    answers = [(await viewer.receive()).message for viewer in viewers]
    admitted = [answer for answer in answers if answer["type"] == "viewer-count"]
    refused = [answer for answer in answers if answer.get("code") == "stream_full"]
    assert (len(admitted), len(refused)) == (5, 25)
    joined = {(await broadcaster.wait_for("viewer-joined"))["viewerId"] for _ in range(5)}
    assert len(joined) == 5


async def test_one_of_two_identities_gets_the_client_id(tmp_path: Path) -> None:
    """Of two simultaneous joins, one is admitted."""
    async with open_cluster(tmp_path) as cluster, open_party() as party:
        here, there, elsewhere = cluster.replicas
        witness = await party.join("witness", elsewhere)
        for number in range(8 * EFFORT):
            name = f"guest-{number}"
            async with open_party() as left, open_party() as right:
                one, other = await left.connect(name, here), await right.connect(name, there)
                await enter_at_once((left, one, "a"), (right, other, "b"))
                winner, loser = (one, other) if other.closed else (other, one)
                assert winner.closed is None
                assert loser.closed == Closed(1008, "Client id in use")
                await winner.leave()
            await witness.wait_told("user_left", name)
            assert witness.told_of(name) == ["user_joined", "user_left"]


async def test_one_of_two_connections_of_one_identity_stays(tmp_path: Path) -> None:
    """The newer connection replaces the older one, and nobody else notices."""
    async with open_cluster(tmp_path) as cluster, open_party() as party:
        here, there, elsewhere = cluster.replicas
        witness = await party.join("witness", elsewhere)
        for number in range(8 * EFFORT):
            name = f"guest-{number}"
            async with open_party() as left, open_party() as right:
                one, other = await left.connect(name, here), await right.connect(name, there)
                await enter_at_once((left, one, "a"), (right, other, "a"))
                replaced = await first_gone(one, other)
                assert replaced.closed == Closed(4409, "Replaced by a newer connection")
                winner = other if replaced is one else one
                await winner.settle()
                await witness.wait_told("user_joined", name)
                assert witness.told_of(name) == ["user_joined"]
                await winner.leave()
                left.lost.clear()
                right.lost.clear()
            await witness.wait_told("user_left", name)
            assert witness.told_of(name) == ["user_joined", "user_left"]


async def first_gone(*guests: Guest) -> Guest:
    gone: list[Guest] = []
    async with trio.open_nursery() as nursery:

        async def wait(guest: Guest) -> None:
            await guest.wait_gone()
            gone.append(guest)
            nursery.cancel_scope.cancel()

        for guest in guests:
            nursery.start_soon(wait, guest)
    return gone[0]


async def test_the_newer_connection_stays_after_a_cut(tmp_path: Path) -> None:
    """The older one's replica requested its join first, but Redis receives that last."""
    async with open_cluster(tmp_path, 1, TRIO_SIGNAL_LEASE=60) as cluster, open_party() as party:
        wire = await cluster.add_wired()
        there, here = cluster.replicas
        witness = await party.join("witness", there)
        await party.join("neighbour", here)
        async with open_party() as left, open_party() as right:
            wire.pull()
            older = await left.join("guest", here)
            newer = await right.join("guest", there)
            wire.plug()
            assert await older.wait_gone() == Closed(4409, "Replaced by a newer connection")
            left.lost.clear()
            await newer.settle()
            assert witness.told_of("guest") == ["user_joined"]


async def test_the_newer_connection_stays_after_an_outage(tmp_path: Path) -> None:
    async with open_cluster(tmp_path) as cluster, open_party() as party:
        here, there, elsewhere = cluster.replicas
        witness = await party.join("witness", elsewhere)
        for number in range(3 * EFFORT):
            name = f"guest-{number}"
            async with open_party() as left, open_party() as right:
                await cluster.redis.kill()
                await cluster.wait_status("degraded")
                older = await left.join(name, here)
                newer = await right.join(name, there)
                await cluster.redis.start()
                assert await older.wait_gone() == Closed(4409, "Replaced by a newer connection")
                left.lost.clear()
                await newer.settle()
                await witness.wait_told("user_joined", name)
                await newer.leave()
            await witness.wait_told("user_left", name)
            assert witness.told_of(name) == ["user_joined", "user_left"]
