"""Who is online and where, as clients of `live` see it, on one replica and on three."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from tests.clients import PATIENCE, Client, Service
from tests.conftest import Serve, serve_replicas
from tests.test_live_protocol import enter, join, path, sign_in, without_time
from tests.tokens import SECRET, make_token
from trio_signal import online
from trio_signal.auth import share_room
from trio_signal.bus import Delivery
from trio_signal.bus.memory import MemoryBus, MemoryNetwork
from trio_signal.hub import Hub

USERS = "/api/v1/ws/online-users"
STATS = "/api/v1/ws/stats"


async def get(base: str, what: str, **options: Any) -> Any:
    async with httpx.AsyncClient() as http:
        answer = await http.get(f"http://{base}{what}", **options)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "application/json"
    return answer.json()


async def wait_online(service: Service, *user_ids: str, **options: Any) -> None:
    """Wait until every replica lists these users as online, and no others."""
    with trio.fail_after(PATIENCE):
        for base in service.bases:
            while True:
                answer = await get(base, USERS, **options)
                if sorted(user["user_id"] for user in answer["users"]) == sorted(user_ids):
                    assert answer["count"] == len(user_ids)
                    break
                await trio.sleep(0.1)


async def wait_stats(base: str, **numbers: int) -> None:
    """Wait until this replica returns these numbers."""
    with trio.fail_after(PATIENCE):
        while True:
            if await get(base, STATS) == numbers:
                return
            await trio.sleep(0.1)


async def move(client: Client, x: float, y: float) -> list[str]:
    """Move there; return who is near."""
    await client.send("update_location", x=x, y=y)
    answer = await client.wait_for("location_updated")
    near = answer["nearby_users"]
    assert without_time(answer) == {
        "type": "location_updated",
        "x": x,
        "y": y,
        "nearby_users": near,
    }
    return sorted(near)


async def expect_place(client: Client, user_id: str, x: float, y: float) -> None:
    assert without_time(await client.receive()) == {
        "type": "player_location",
        "user_id": user_id,
        "username": user_id.title(),
        "x": x,
        "y": y,
    }


# Who is online


async def test_users_of_all_replicas_are_listed_once(service: Service) -> None:
    await wait_online(service)
    async with sign_in(service, "ann"), enter(service, "bob") as bob, sign_in(service, "bob"):
        await wait_online(service, "ann", "bob")
        await move(bob, 1.5, -2)
        async with sign_in(service, "cat"):
            await wait_online(service, "ann", "bob", "cat")
        answer = await get(service.base, USERS)
        for user in answer["users"]:
            assert user.keys() == {"user_id", "username", "presence"}
            presence = user["presence"]
            assert user["username"] == user["user_id"].title()
            assert presence["status"] == "online"
            assert presence["last_seen"].endswith("Z")
        for base in service.bases:
            with trio.fail_after(PATIENCE):
                while True:
                    users = {u["user_id"]: u for u in (await get(base, USERS))["users"]}
                    if users["bob"]["presence"].get("location") == {"x": 1.5, "y": -2}:
                        break
                    await trio.sleep(0.1)
            assert "location" not in users["ann"]["presence"]
            await wait_stats(base, connections=3, users=2, rooms=1)
    await wait_online(service)


async def test_other_dialects_are_not_online(service: Service) -> None:
    async with service.connect("/ws/r/eve"), sign_in(service, "ann"):
        await wait_online(service, "ann")


async def test_users_of_a_stopped_replica_go_offline(redis_url: str) -> None:
    async with serve_replicas(1, redis_url, redis_prefix="stops:") as service:
        async with (
            serve_replicas(1, redis_url, redis_prefix="stops:") as other,
            sign_in(service, "ann"),
            sign_in(other, "bob"),
        ):
            await wait_online(service, "ann", "bob")
            await wait_online(other, "ann", "bob")
        await wait_online(service)
        assert await get(service.base, STATS) == {"connections": 0, "users": 0, "rooms": 0}


@asynccontextmanager
async def running(replica: str, network: MemoryNetwork, told: list[Delivery]) -> AsyncIterator[Hub]:
    """A replica without a socket, which records its deliveries."""
    bus = MemoryBus(replica, network)
    hub = Hub(bus)

    def deliver(delivery: Delivery) -> None:
        told.append(delivery)
        hub.deliver(delivery)

    async with trio.open_nursery() as nursery:
        await nursery.start(bus.run, deliver)
        nursery.start_soon(hub.online.run)
        yield hub
        nursery.cancel_scope.cancel()


async def test_idle_replicas_greet_each_other_once() -> None:
    told: list[Delivery] = []
    network = MemoryNetwork()
    with trio.fail_after(PATIENCE):
        async with running("a", network, told), running("b", network, told):
            await trio.testing.wait_all_tasks_blocked(0.1)
    assert 1 <= len(told) <= 2


async def test_list_is_limited_but_its_count_is_not(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "MAX_SHOWN", 2)
    async with (
        serve() as service,
        sign_in(service, "ann"),
        sign_in(service, "bob"),
        sign_in(service, "cat"),
    ):
        answer = await get(service.base, USERS)
        assert [user["user_id"] for user in answer["users"]] == ["ann", "bob"]
        assert answer["count"] == 3


# With tokens


@asynccontextmanager
async def bearing(service: Service, user_id: str, *rooms: str) -> AsyncIterator[Client]:
    async with service.connect(path(token=token(user_id, *rooms))) as client:
        await client.expect("connected")
        yield client


def token(user_id: str, *rooms: str) -> str:
    return make_token(sub=user_id, name=user_id.title(), rooms=list(rooms))


def as_(user_id: str, *rooms: str) -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {token(user_id, *rooms)}"}}


async def test_tokens_show_users_with_a_shared_grant(
    redis_url: str,
) -> None:
    async with (
        serve_replicas(2, redis_url, jwt_secret=SECRET) as service,
        bearing(service, "ann", "team-a") as ann,
        bearing(service, "bob", "team-*") as bob,
        bearing(service, "cat", "team-b", "hall") as cat,
        bearing(service, "dan") as dan,
    ):
        await wait_online(service, "ann", "bob", **as_("ann", "team-a"))
        await wait_online(service, "ann", "bob", "cat", **as_("bob", "team-*"))
        await wait_online(service, "bob", "cat", **as_("cat", "team-b", "hall"))
        await wait_online(service, **as_("dan"))
        await move(bob, 1, 1)
        for knows in (ann, cat):
            await expect_place(knows, "bob", 1, 1)
        assert await move(cat, 1, 1) == ["bob"]
        await expect_place(bob, "cat", 1, 1)
        await bob.settle()
        assert await move(ann, 1, 1) == ["bob"]
        await expect_place(bob, "ann", 1, 1)
        for other in (ann, cat, dan):
            await other.expect_nothing()


async def test_online_list_needs_a_token(serve: Serve) -> None:
    async with serve(jwt_secret=SECRET) as service, httpx.AsyncClient() as http:
        answer = await http.get(f"http://{service.base}{USERS}")
        assert answer.status_code == 401
        assert await get(service.base, STATS) == {"connections": 0, "users": 0, "rooms": 0}


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        (["*"], ["a"], True),
        (["*"], ["*"], True),
        (["*"], [], False),
        (["a"], ["b", "a"], True),
        (["a"], ["b"], False),
        (["a*"], ["*b"], True),
        (["a*"], ["b*"], False),
        (["a?"], ["?b"], True),
        (["a?"], ["a??"], False),
        (["a?*"], ["a"], False),
        (["a*c"], ["ab*"], True),
        (["*a*b"], ["b*a"], False),
        (["team-[0-4]*"], ["team-[3-9]"], True),
        (["team-[0-4]"], ["team-[5-9]"], False),
        (["team-[!0-4]"], ["team-[!5-9]"], True),
        (["[!a]"], ["a"], False),
        (["[!a]"], ["?"], True),
        (["[a"], ["*a"], True),
        (["x*" * 200], ["*x" * 200], False),  # too long to compare
    ],
)
def test_shared_rooms_of_two_grants(one: list[str], other: list[str], shared: bool) -> None:
    assert share_room(tuple(one), tuple(other)) is shared
    assert share_room(tuple(other), tuple(one)) is shared


# Locations


async def test_location_is_sent_to_all_other_users(service: Service) -> None:
    async with (
        enter(service, "ann") as ann,
        sign_in(service, "ann") as tab,
        sign_in(service, "bob") as bob,
        enter(service, "cat", "elsewhere") as cat,
    ):
        assert await move(ann, 3, 4.5) == []
        for other in (bob, cat):
            await expect_place(other, "ann", 3, 4.5)
        await tab.expect_nothing()
        assert await move(tab, 3, 4.5) == []
        for other in (bob, cat):
            await expect_place(other, "ann", 3, 4.5)


async def test_nearby_users_are_returned(service: Service) -> None:
    async with (
        sign_in(service, "ann") as ann,
        sign_in(service, "bob") as bob,
        sign_in(service, "cat") as cat,
        sign_in(service, "dan"),
    ):
        await wait_online(service, "ann", "bob", "cat", "dan")
        assert await move(ann, -1, -1) == []
        await cat.wait_for("player_location", user_id="ann")
        assert await move(cat, 3.1, -1) == ["ann"]
        await bob.wait_for("player_location", user_id="cat")
        assert await move(bob, 2, 3) == ["ann", "cat"]
        await ann.wait_for("player_location", user_id="bob")
        assert await move(ann, -1.01, -1) == ["cat"]
        await cat.close()
        await wait_online(service, "ann", "bob", "dan")
        assert await move(ann, 2, 3) == ["bob"]


async def test_frequent_locations_are_thinned_out(service: Service) -> None:
    async with sign_in(service, "ann") as ann, sign_in(service, "bob") as bob:
        began = trio.current_time()
        for n in range(200):
            await ann.send("update_location", x=n, y=0)
        heard = [await bob.expect("player_location")]
        while heard[-1]["x"] != 199:
            heard.append(await bob.expect("player_location"))
        assert [m["x"] for m in heard] == sorted(m["x"] for m in heard)
        assert len(heard) <= 2 + (trio.current_time() - began) / online.MOVE_AFTER
        await ann.settle()
        await bob.expect_nothing()


@pytest.mark.parametrize(
    "fields",
    [
        *('"x":1', '"y":1', '"x":null,"y":1', '"x":"1","y":1', '"x":true,"y":1'),
        *('"x":1e10,"y":1', '"x":1e400,"y":1', f'"x":1,"y":-{"9" * 400}'),
    ],
)
async def test_invalid_location_is_refused(serve: Serve, fields: str) -> None:
    async with serve() as service, sign_in(service, "ann") as ann, sign_in(service, "bob") as bob:
        await ann.send_text(f'{{"type":"update_location",{fields}}}')
        await ann.expect("error", message="x and y coordinates required")
        await bob.expect_nothing()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
async def test_location_must_be_valid_json(serve: Serve, number: str) -> None:
    async with serve() as service, sign_in(service, "ann") as ann:
        await ann.send_text(f'{{"type":"update_location","x":{number},"y":1}}')
        await ann.expect("error", message="Invalid JSON")
        await join(ann)
