"""Users of `room` and `live` whose replica stops: nobody is notified that they left.

Real servers on real sockets. What users get back after all servers stop together, or one is
killed, is tested in tests/replicas/test_coming_back.py.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import NamedTuple
from uuid import uuid4

import trio

from tests.clients import Client, Message, Service, open_client
from tests.conftest import serve_once
from tests.raw import get
from tests.tokens import SECRET, make_token


class Scene(NamedTuple):
    """Two replicas, of which the first is about to stop, and their clients."""

    nursery: trio.Nursery
    first: Service
    second: Service
    stopping: AsyncExitStack
    sockets: ExitStack

    async def open(self, service: Service, path: str) -> Client:
        client = await open_client(self.nursery, service.base, path)
        self.sockets.callback(client.socket._stream.socket.close)  # type: ignore[attr-defined]
        return client

    async def stop(self) -> None:
        await self.stopping.aclose()

    async def live(self, service: Service, user: str, *, new: bool = True) -> Client:
        """A user of `live`. If it is not new, the server puts it into its room again."""
        path = f"/api/v1/ws/connect?user_id={user}&username={user.title()}"
        client = await self.open(service, path)
        await client.expect("connected")
        if new:
            await client.send("join_room", room_id="r")
        await client.expect("joined_room", room_id="r")
        return client

    async def room(self, service: Service, user: str, query: str = "") -> Client:
        """A user of `room`."""
        client = await self.open(service, f"/ws/r/{user}{query}")
        await client.expect("room_state")
        return client

    async def mesh(self, service: Service, name: str, **claims: object) -> Client:
        """A user of `mesh`."""
        client = await self.open(service, "/ws/r")
        await client.send("auth_token", token="t", clientId=name, username=name, **claims)
        await client.wait_for("users_in_room")
        return client


@asynccontextmanager
async def open_scene(redis_url: str, **given: object) -> AsyncIterator[Scene]:
    given = {
        **{"redis_url": redis_url, "redis_prefix": f"{uuid4()}:", "drain_pause": 0, "drain": 3},
        **given,
    }
    async with trio.open_nursery() as nursery, serve_once(**given) as second:
        async with AsyncExitStack() as stopping:
            with ExitStack() as sockets:
                first = await stopping.enter_async_context(serve_once(**given))
                yield Scene(nursery, first, second, stopping, sockets)
        nursery.cancel_scope.cancel()


async def said(client: Client) -> list[Message]:
    """Everything it received up to now."""
    await client.send("ping" if "connected" in {m["type"] for m in client.log} else "keep_alive")
    heard: list[Message] = []
    while (message := await client.receive())["type"] not in {"pong", "ping"}:
        heard.append(message)
    return heard


async def test_users_of_a_stopped_replica_do_not_seem_to_leave(redis_url: str) -> None:
    async with open_scene(redis_url) as scene:
        witnesses = [
            await scene.live(scene.second, "liz"),
            await scene.room(scene.second, "rob"),
        ]
        mesh = await scene.mesh(scene.second, "max", resume=True)
        old = await scene.mesh(scene.second, "old")
        ann = await scene.live(scene.first, "ann")
        await ann.send("live_start", room_id="r", media_type="audio")
        bob = await scene.room(scene.first, "bob", "?username=Bob")
        await bob.send("broadcast-started")
        for client in (mesh, old):
            for _ in range(2):
                await client.wait_for("broadcast_started")
        for client in witnesses:
            await client.wait_for("live_peer_joined" if client is witnesses[0] else "user_joined")
        await witnesses[0].wait_for("live_peer_joined", user_id="bob")
        await witnesses[1].wait_for("broadcast-started", user_id="bob")
        await scene.stop()
        for client in (ann, bob):
            await client.expect_close(1001)
        # Signals for them wait until they reconnect.
        await witnesses[0].send("live_offer", room_id="r", target_user_id="ann", payload={"n": 1})
        await witnesses[1].send("webrtc-signal", target_user_id="bob", signal={"type": "offer"})
        await witnesses[0].send("send_message", room_id="r", content="hello")
        for type_ in ("message", "message_sent"):
            await witnesses[0].wait_for(type_)
        await witnesses[1].wait_for("message")
        ann = await scene.live(scene.second, "ann", new=False)
        await ann.expect("live_peers")
        await ann.expect("live_offer", from_user_id="liz", payload={"n": 1})
        bob = await scene.room(scene.second, "bob")
        await bob.expect("active-broadcasts")
        await bob.expect("webrtc-signal", from_user_id="rob")
        assert bob.log[0]["users"][-1]["username"] == "Bob"
        # Only ann is listed: otherwise the client would watch its own broadcast.
        assert [user["user_id"] for user in bob.log[1]["broadcasters"]] == ["ann"]
        for client in witnesses:
            assert await said(client) == []
        types = [(await mesh.receive())["type"] for _ in range(4)]
        assert types == ["user_away", "user_away", "user_back", "user_back"]
        await old.send("offer", to_="nobody", offer={})
        await old.expect("error")
        # They are still live, and can stop.
        await ann.send("live_stop", room_id="r")
        await witnesses[0].expect("live_peer_left", user_id="ann")
        await bob.send("broadcast-stopped")
        await witnesses[0].expect("live_peer_left", user_id="bob")
        moved = 'trio_signal_sessions_moved_total{to="here"} 2.0'
        assert moved in (await get(scene.second.base, "/metrics")).decode()


async def test_user_that_does_not_reconnect_leaves_once(redis_url: str) -> None:
    async with open_scene(redis_url, resume_grace=0.5) as scene:
        liz, rob = await scene.live(scene.second, "liz"), await scene.room(scene.second, "rob")
        ann = await scene.live(scene.first, "ann")
        await ann.send("live_start", room_id="r")
        await liz.wait_for("live_peer_joined", user_id="ann")
        await scene.stop()
        await liz.expect("live_peer_left", user_id="ann")
        await liz.expect("user_left", user_id="ann")
        await rob.wait_for("user_left", user_id="ann")
        # A little later it gets everything back, and that is announced.
        ann = await scene.live(scene.second, "ann", new=False)
        await ann.expect("live_peers")
        await liz.expect("user_joined", user_id="ann")
        await liz.expect("live_peer_joined", user_id="ann")


async def test_two_tabs_reconnect_as_two(redis_url: str) -> None:
    async with open_scene(redis_url) as scene:
        mesh = await scene.mesh(scene.second, "max", resume=True)
        for _ in range(2):
            await scene.room(scene.first, "bob", "?username=Bob")
        for _ in range(2):
            await mesh.expect("user_joined")
        await scene.stop()
        for _ in range(3):  # the third is new
            await scene.room(scene.second, "bob")
        types = [(await mesh.receive())["type"] for _ in range(5)]
        assert sorted(types) == ["user_away", "user_away", "user_back", "user_back", "user_joined"]


async def test_stand_in_is_bound_to_its_subject(redis_url: str) -> None:
    """Two issuers may use the same user id; and a banned user stays banned."""
    async with open_scene(redis_url, jwt_secret=SECRET) as scene:
        rob = await scene.room(scene.second, "rob", f"?token={make_token('rob')}")
        await scene.room(scene.first, "bob", f"?token={make_token('bob')}")
        await rob.expect("user_joined", user_id="bob")
        await scene.stop()
        token = make_token("bob", iss="another")
        await scene.room(scene.second, "bob", f"?token={token}")
        assert await said(rob) == []  # the user is already present for the others
        # The other one has not used it up.
        mesh = await scene.open(scene.second, "/ws/r")
        await mesh.send("auth_token", token=make_token("max"), clientId="max", username="max")
        await mesh.wait_for("users_in_room")
        await scene.room(scene.second, "bob", f"?token={make_token('bob')}")
        await mesh.send("offer", to_="nobody", offer={})
        await mesh.expect("error")
