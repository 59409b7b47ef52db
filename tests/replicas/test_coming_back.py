"""A server is restarted, and its users return: what their clients do not repeat is restored.

Real processes end with SIGTERM and SIGKILL. Changes in the last second before a
SIGKILL may be lost, so the tests wait until they are stored.
"""

import signal
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.raw import CLOSE, TEXT, Frame, RawClient, open_raw
from tests.replicas.processes import STARTING, Replica, open_cluster, open_replica

ENDS = [signal.SIGTERM, signal.SIGKILL]


class Clients(AsyncExitStack):
    """Connections to one or several servers."""

    async def open(self, replica: Replica, path: str) -> RawClient:
        client = await self.enter_async_context(open_raw(replica.base))
        answer = await client.upgrade(path)
        assert answer.status == 101, answer
        return client

    async def room(self, replica: Replica, user: str, name: str = "") -> RawClient:
        """A client of dialect `room` that has entered the room r."""
        client = await self.open(replica, f"/ws/r/{user}" + (f"?username={name}" if name else ""))
        await client.wait_for("room_state")
        return client

    async def live(self, replica: Replica, user: str) -> RawClient:
        """A client of dialect `live`."""
        query = f"user_id={user}&username={user.title()}"
        client = await self.open(replica, f"/api/v1/ws/connect?{query}")
        await client.wait_for("connected")
        return client


@asynccontextmanager
async def open_clients() -> AsyncIterator[Clients]:
    with trio.fail_after(STARTING):
        async with Clients() as clients:
            yield clients


async def wait_written(database: Path, is_so: Callable[[list[str]], bool]) -> None:
    """Wait until this is true of the members in the database."""
    while not is_so(read_members(database)):  # noqa: ASYNC110  another process writes it
        await trio.sleep(0.05)


def read_members(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection, suppress(sqlite3.OperationalError):
        rows = connection.execute("SELECT member FROM present_members WHERE key != ''")
        return [row for (row,) in rows]
    return []  # there is no table yet, or it is locked


def started(of: dict[str, Any]) -> dict[str, str]:
    """Since when each user is live, by user id, as `active-broadcasts` says."""
    return {user["user_id"]: user["started_at"] for user in of["broadcasters"]}


async def fill_room(clients: Clients, server: Replica) -> dict[str, str]:
    """Ann is live, bob watches, carl was live, dora has left; returns since when ann is live."""
    bob = await clients.room(server, "bob", "Bob")
    ann = await clients.room(server, "ann", "Ann")
    carl = await clients.room(server, "carl", "Carl")
    dora = await clients.room(server, "dora", "Dora")
    for client in (ann, carl, dora):
        await client.say({"type": "broadcast-started"})
        await bob.wait_for("broadcast-started")
    await carl.say({"type": "broadcast-stopped"})
    await bob.wait_for("broadcast-stopped")
    dora.reset()
    await bob.wait_for("user_left")
    late = await clients.room(server, "late", "Late")
    return started(await late.wait_for("active-broadcasts"))


async def check_room(clients: Clients, server: Replica, since: dict[str, str]) -> None:
    """They reconnect without their names, and ann does not say that she is live."""
    bob = await clients.room(server, "bob")
    await clients.room(server, "carl")
    assert (await bob.wait_for("user_joined"))["username"] == "Carl"
    await clients.room(server, "ann")
    assert (await bob.wait_for("user_joined"))["username"] == "Ann"
    assert (await bob.wait_for("broadcast-started"))["username"] == "Ann"
    later = await clients.room(server, "later", "Later")
    assert started(await later.wait_for("active-broadcasts")) == since
    # Only once: restored state is not kept for the next client.
    await clients.room(server, "dora")
    latest = await clients.room(server, "latest")
    assert started(await latest.wait_for("active-broadcasts")) == since


@pytest.mark.parametrize("end", ENDS)
async def test_a_room_is_restored_after_a_restart(tmp_path: Path, end: signal.Signals) -> None:
    database = tmp_path / "trio-signal.db"
    settings = {"DATABASE_URL": f"sqlite:///{database}", "TRIO_SIGNAL_DRAIN": 5}
    async with open_clients() as clients, open_replica(**settings) as server:
        since = await fill_room(clients, server)
        assert set(since) == {"ann"}
        if end is signal.SIGKILL:
            await wait_written(database, is_settled)
        await server.end(end)
        async with open_replica(**settings) as again:
            await check_room(clients, again, since)
            # And once more, with those who have returned.
            await again.end(signal.SIGTERM)
        async with open_replica(**settings) as last:
            await check_room(clients, last, since)
            await last.stop()


def is_settled(members: list[str]) -> bool:
    live = [member for member in members if "started_at" in member]
    return len(members) == 4 and len(live) == 1


async def test_a_room_is_restored_on_another_replica(tmp_path: Path) -> None:
    """For replicas that end in order, see tests/test_stand_ins.py."""
    async with open_cluster(tmp_path, 3) as cluster, open_clients() as clients:
        first, second, third = cluster.replicas
        since = await fill_room(clients, first)
        witness = await clients.room(third, "witness", "Witness")
        await cluster.kill(first)
        # At once, before anybody knows that the replica is dead.
        await clients.room(second, "ann")
        while True:
            if (await witness.wait_for("broadcast-started"))["user_id"] == "ann":
                break
        later = await clients.room(third, "later", "Later")
        assert started(await later.wait_for("active-broadcasts")) == since
        back = await clients.room(third, "carl")
        await back.wait_for("active-broadcasts")
        joined = await witness.receive_until(
            lambda frame: (
                frame.message["type"] == "user_joined" and frame.message["user_id"] == "carl"
            )
        )
        assert joined.message["username"] == "Carl"


async def fill_live(clients: Clients, server: Replica) -> None:
    """Ann is live in r and in q; bob was live in r, and has left q; carl is in r."""
    carl = await clients.live(server, "carl")
    ann, bob = [await clients.live(server, user) for user in ("ann", "bob")]
    for client, rooms in ((carl, "r"), (ann, "rq"), (bob, "rq")):
        for room in rooms:
            await client.say({"type": "join_room", "room_id": room})
            await client.wait_for("joined_room")
    for client, room in ((ann, "r"), (ann, "q"), (bob, "r")):
        await client.say({"type": "live_start", "room_id": room, "media_type": "audio"})
        await client.wait_for("live_peers")
    await bob.say({"type": "live_stop", "room_id": "r"}, {"type": "leave_room", "room_id": "q"})
    await bob.wait_for("left_room")


async def check_live(clients: Clients, server: Replica) -> None:
    """They reconnect without joining: their rooms and broadcasts are restored."""
    carl = await clients.live(server, "carl")
    assert (await carl.wait_for("joined_room"))["room_id"] == "r"
    bob = await clients.live(server, "bob")
    assert (await bob.wait_for("joined_room"))["room_id"] == "r"
    assert (await carl.wait_for("user_joined"))["user_id"] == "bob"
    ann = await clients.live(server, "ann")
    assert {(await ann.wait_for("joined_room"))["room_id"] for _ in "rq"} == {"q", "r"}
    peer = await carl.wait_for("live_peer_joined")
    assert (peer["user_id"], peer["media_type"]) == ("ann", "audio")
    await carl.say({"type": "live_status", "room_id": "r"})
    peers = (await carl.wait_for("live_peers"))["peers"]
    assert [(peer["user_id"], peer["media_type"]) for peer in peers] == [("ann", "audio")]
    # Nobody has to join again before going live.
    await bob.say({"type": "live_start", "room_id": "r"})
    assert (await carl.wait_for("live_peer_joined"))["user_id"] == "bob"
    await bob.say({"type": "live_stop", "room_id": "r"})
    await carl.wait_for("live_peer_left")


@pytest.mark.parametrize("end", ENDS)
async def test_rooms_of_live_users_are_restored_after_a_restart(
    tmp_path: Path, end: signal.Signals
) -> None:
    database = tmp_path / "trio-signal.db"
    # Without announcements, only this feature opens the database.
    settings = {"DATABASE_URL": f"sqlite:///{database}", "TRIO_SIGNAL_DIALECTS": "live"}
    async with open_clients() as clients, open_replica(**settings) as server:
        await fill_live(clients, server)
        if end is signal.SIGKILL:
            await wait_written(database, is_live_settled)
        await server.end(end)
        async with open_replica(**settings) as again:
            await check_live(clients, again)
            await again.stop()


def is_live_settled(members: list[str]) -> bool:
    live = [member for member in members if "started_at" in member]
    return len(members) == 4 and len(live) == 2


async def test_rooms_of_live_users_are_restored_on_another_replica(tmp_path: Path) -> None:
    async with open_cluster(tmp_path, 3) as cluster, open_clients() as clients:
        first, second, _ = cluster.replicas
        await fill_live(clients, first)
        # Changes that have not reached Redis when the replica dies are lost.
        while await cluster.redis.ask("HLEN", "trio_signal:room:q:members") != 1:  # noqa: ASYNC110
            await trio.sleep(0.01)
        await cluster.kill(first)
        await check_live(clients, second)


async def test_a_server_with_redis_restores_its_room_after_a_restart(tmp_path: Path) -> None:
    """It restarts before the lease of the killed process has expired."""
    async with open_cluster(tmp_path, 1) as cluster, open_clients() as clients:
        (server,) = cluster.replicas
        since = await fill_room(clients, server)
        await cluster.kill(server)
        again = await cluster.add()
        bob = await clients.room(again, "bob")
        await clients.room(again, "ann")
        while (await bob.wait_for("broadcast-started"))["user_id"] != "ann":
            pass
        later = await clients.room(again, "later", "Later")
        assert started(await later.wait_for("active-broadcasts")) == since


async def test_no_leave_is_reported_during_a_restart(tmp_path: Path) -> None:
    """All return, and media between browsers continue; a leave would end them."""
    settings = {"DATABASE_URL": f"sqlite:///{tmp_path / 'trio-signal.db'}"}
    async with (
        open_clients() as clients,
        open_replica(**settings) as server,
        AsyncExitStack() as stack,
    ):
        users = [await clients.room(server, f"user-{n}") for n in range(20)]
        viewers = [await clients.live(server, f"viewer-{n}") for n in range(20)]
        for viewer in viewers:
            await viewer.say({"type": "join_room", "room_id": "r"})
            await viewer.wait_for("joined_room")
        for user in users:
            await user.say({"type": "broadcast-started"})
        for viewer in viewers:
            await viewer.say({"type": "live_start", "room_id": "r"})
            await viewer.wait_for("live_peers")
        witnesses = []
        for number in range(20):
            witness = await stack.enter_async_context(open_raw(server.base))
            await witness.upgrade("/ws/r")
            await witness.say({"type": "auth_token", "clientId": f"witness-{number}"})
            await witness.wait_for("users_in_room")
            witnesses.append(witness)
        server.send(signal.SIGTERM)
        for client in (*users, *viewers):
            heard = [frame.message for frame in await receive_all(client)]
            gone = {message["user_id"] for message in heard if message["type"] in GOODBYES}
            assert not [user_id for user_id in gone if user_id.startswith(("user-", "viewer-"))]
        # Clients of mesh keep their media, and are told about leaves until they disconnect.
        left = [frame.message for witness in witnesses for frame in await receive_all(witness)]
        assert any((m["type"], m.get("username")) == ("user_left", "Anonymous") for m in left)
        assert await server.end(signal.SIGTERM) == 0


GOODBYES = {"broadcast-stopped", "user_left", "live_peer_left"}


async def receive_all(client: RawClient) -> list[Frame]:
    """All text frames before the close frame."""
    frames = []
    while (frame := await client.receive()).opcode != CLOSE:
        if frame.opcode == TEXT:
            frames.append(frame)
    return frames


async def test_an_unwritable_database_delays_nobody(tmp_path: Path) -> None:
    """The path is a folder: it is logged, and the server continues without it."""
    settings = {"DATABASE_URL": f"sqlite:///{tmp_path}", "TRIO_SIGNAL_DIALECTS": "room,live"}
    async with open_clients() as clients, open_replica(**settings) as server:
        await fill_room(clients, server)
        await server.wait_logged("a restart would forget them")
        assert await server.end(signal.SIGTERM) == 0
        assert len(server.logged("a restart would forget them")) == 1
