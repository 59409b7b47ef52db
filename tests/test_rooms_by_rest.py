"""REST of `room` and `mesh`: lists of rooms, users, and messages sent by POST."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import trio

from tests.clients import PATIENCE, Client, Service
from tests.conftest import Serve
from tests.test_room_protocol import TIMESTAMP, enter
from tests.tokens import SECRET, make_token
from trio_signal.dialects.rest import MAX_BYTES, fit, rooms
from trio_signal.notes.memory import MemoryNotes
from trio_signal.web import listing
from trio_signal.web.listing import granted

TOKENS = {"auth": "token", "jwt_secret": SECRET}


@asynccontextmanager
async def browse(service: Service, token: str | None = None) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with httpx.AsyncClient(
        base_url=f"http://{service.base}", headers=headers, timeout=PATIENCE
    ) as http:
        yield http


async def until(read: Callable[[], Awaitable[Any]], expected: Any) -> None:
    """Wait until the result is as expected: the server refreshes a list once a second."""
    found = None
    with trio.move_on_after(PATIENCE):
        while (found := await read()) != expected:  # noqa: ASYNC110
            await trio.sleep(0.05)
    assert found == expected


async def enter_many(stack: AsyncExitStack, service: Service, *room_ids: str) -> list[Client]:
    return [await stack.enter_async_context(enter(service, "ann", room_id)) for room_id in room_ids]


# Lists


async def test_occupied_room_is_listed_with_its_counts(service: Service) -> None:
    async with browse(service) as http:

        async def listed() -> Any:
            rooms = (await http.get("/rooms")).json()
            for room in rooms:
                assert TIMESTAMP.fullmatch(room.pop("created_at"))
            return rooms

        async def active() -> Any:
            return (await http.get("/api/rooms")).json()

        assert await listed() == []
        assert await active() == []
        async with (
            enter(service, "ann") as ann,
            enter(service, "bob") as bob,
            enter(service, "bob") as tab,
            enter(service, "cat", "a b"),
        ):
            for broadcaster in (bob, tab):
                await broadcaster.send("broadcast-started")
                await ann.wait_for("broadcast-started")
            mesh = {"thumbnail_url": None}
            await until(
                listed,
                [
                    {"id": "a b", "name": "a b", "member_count": 1, "peers": 1, "live": 0, **mesh},
                    {"id": "r", "name": "r", "member_count": 2, "peers": 3, "live": 1, **mesh},
                ],
            )
            await until(
                active,
                [
                    {"room_id": "a b", "connected_users": 1, "is_active": True},
                    {"room_id": "r", "connected_users": 3, "is_active": True},
                ],
            )
        await until(listed, [])
        await until(active, [])


async def test_list_is_paginated(service: Service) -> None:
    names = sorted(["a", "b/c?d=e&f", "команда", "😀", "z", "dm2"])
    async with AsyncExitStack() as stack, browse(service) as http:
        await enter_many(stack, service, *names)
        for path, key in (("/rooms", "id"), ("/api/rooms", "room_id")):
            found, url = [], f"{path}?limit=2"
            while url:
                answer = await http.get(url)
                page = [room[key] for room in answer.json()]
                assert 0 < len(page) <= 2
                found += page
                url = answer.links.get("next", {}).get("url", "")
            assert found == names
        for limit, count in (("0", 1), ("5", 5), ("6", 6), ("999999999", 6)):
            answer = await http.get("/rooms", params={"limit": limit})
            assert len(answer.json()) == count
            assert ("link" in answer.headers) == (count < 6)
        assert (await http.get("/rooms?limit=ten")).status_code == 422
        assert (await http.get("/rooms?cursor=zz")).json()[-1]["id"] == "😀"
        assert (await http.get("/rooms", params={"cursor": "😀"})).json() == []


async def test_page_size_is_limited_in_bytes(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_BYTES", 2_000)
    names = [f"{n}" + "x" * 200 for n in range(9)]
    async with AsyncExitStack() as stack, browse(service) as http:
        await enter_many(stack, service, *names)
        found, url = [], "/rooms"
        while url:
            answer = await http.get(url)
            assert len(answer.content) <= 2_002
            found += [room["id"] for room in answer.json()]
            url = answer.links.get("next", {}).get("url", "")
        assert found == names


async def test_list_is_encoded_once_a_second(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = 0
    make = rooms.room_entry

    def count(*args: Any) -> Any:
        nonlocal encoded
        encoded += 1
        return make(*args)

    monkeypatch.setattr("trio_signal.dialects.rest.rooms.room_entry", count)
    monkeypatch.setattr(listing, "FRESH", 3600.0)
    async with serve() as service, AsyncExitStack() as stack, browse(service) as http:
        await enter_many(stack, service, "a", "b", "c")
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(http.get, "/rooms")
        for limit in (1, 2, 3):
            await http.get(f"/rooms?limit={limit}")
        assert encoded == 3


async def test_list_contains_granted_rooms_only(serve: Serve) -> None:
    async with (
        serve(**TOKENS) as service,
        AsyncExitStack() as stack,
        browse(service, make_token("eve", rooms=["t?am-*", "z[ab]", "one"])) as http,
        browse(service, make_token("eve", rooms=[])) as nobody,
    ):
        for room_id in ("one", "team-1", "team-2", "teem", "za", "zc", "dm"):
            path = f"/ws/{room_id}/ann?token={make_token('ann')}"
            client = await stack.enter_async_context(service.connect(path))
            if room_id == "dm":
                await client.send("keep_alive")
                await client.expect("ping")
            else:
                await client.expect("room_state")
        for path, key in (("/rooms", "id"), ("/api/rooms", "room_id")):
            answer = await http.get(path)
            assert [room[key] for room in answer.json()] == ["one", "team-1", "team-2", "za"]
            assert (await nobody.get(path)).json() == []
        answer = await http.get("/rooms?limit=2")
        assert [room["id"] for room in answer.json()] == ["one", "team-1"]
        answer = await http.get(answer.links["next"]["url"])
        assert [room["id"] for room in answer.json()] == ["team-2", "za"]
        assert "link" not in answer.headers


IDS = sorted(["a", "ab", "abc", "b", "ba", "\0", "aé", "a" + chr(0x10FFFF)])


@pytest.mark.parametrize(
    ("globs", "cursor", "found"),
    [
        (["*"], "", IDS),
        (["*"], "ab", ["abc", "a" + chr(0x10FFFF), "aé", "b", "ba"]),
        (["ab"], "", ["ab"]),
        (["a*"], "", ["a", "ab", "abc", "aé", "a" + chr(0x10FFFF)]),
        (["b*", "ab*", "ab*", "abc"], "", ["ab", "abc", "b", "ba"]),
        (["zz"], "", []),
        ([], "", []),
        (["abc*"], "abc", []),
    ],
)
def test_only_grantable_ids_are_searched(globs: list[str], cursor: str, found: list[str]) -> None:
    assert list(granted(IDS, globs, cursor)) == sorted(found)


def test_first_entry_always_fits() -> None:
    assert fit([b"12345", b"1"], 3) == [b"12345"]
    assert fit([b"1", b"12", b"1"], 5) == [b"1", b"12"]
    assert fit([], 5) == []


async def test_history_is_limited_in_bytes(service: Service) -> None:
    async with enter(service, "ann") as ann, browse(service) as http:
        for n in range(12):
            await ann.send("message", content=f"{n}" + "x" * 60_000)
            await ann.wait_for("message")
        await ann.settle()
        answer = await http.get("/rooms/r/messages")
        assert len(answer.content) <= MAX_BYTES
        assert [message["content"][:2] for message in answer.json()] == ["8x", "9x", "10", "11"]


async def test_single_room_is_limited_in_bytes(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trio_signal.dialects.rest.rooms.MAX_BYTES", 300)
    async with AsyncExitStack() as stack, browse(service) as http:
        for n in range(6):
            await stack.enter_async_context(enter(service, f"{n}", avatar_url="y" * 50))
        room = (await http.get("/rooms/r")).json()
        assert room["member_count"] == 6
        assert [user["user_id"] for user in room["users"]] == ["0", "1"]


# Rooms with names


async def test_created_room_keeps_its_name(service: Service) -> None:
    async with browse(service) as http, browse(service) as elsewhere:
        answer = await http.post(
            "/rooms", json={"name": " Lounge\n", "thumbnail_url": "https://x.example/t.png"}
        )
        assert answer.status_code == 200
        made = answer.json()
        assert made.keys() == {"id", "name", "created_at", "thumbnail_url"}
        assert made["name"] == "Lounge"
        assert TIMESTAMP.fullmatch(made["created_at"])
        async with enter(service, "ann", made["id"]):
            numbers = {"member_count": 1, "peers": 1, "live": 0}

            async def listed() -> Any:
                return (await elsewhere.get("/rooms")).json()

            await until(listed, [{**made, **numbers}])
            room = (await elsewhere.get(f"/rooms/{made['id']}")).json()
            assert room | made | numbers == room


@pytest.mark.parametrize("body", [{}, {"name": ""}, {"name": " \n"}, {"name": None}])
async def test_room_needs_a_name(service: Service, body: Any) -> None:
    async with browse(service) as http:
        answer = await http.post("/rooms", json=body)
        assert (answer.status_code, answer.json()) == (400, {"detail": "A room needs a name"})
        assert (await http.post("/rooms", content=b"nonsense")).status_code == 422


# Users


async def test_same_name_gives_the_same_guest(service: Service) -> None:
    async with browse(service) as http, browse(service) as elsewhere:
        ann = (await http.post("/users", json={"username": "Ann"})).json()
        assert TIMESTAMP.fullmatch(ann.pop("created_at"))
        id_ = ann.pop("id")
        assert ann == {
            "username": "Ann",
            "display_name": "Ann",
            "email": "",
            "bio": "",
            "avatar_url": "",
            "avatar_urls": {},
        }
        again = (await elsewhere.post("/users", json={"username": "aNN"})).json()
        assert (again["id"], again["username"]) == (id_, "Ann")
        other = (await elsewhere.post("/users", json={"username": "Bob"})).json()
        assert other["id"] != id_
        assert (await elsewhere.get(f"/users/{id_}")).json() == again
        answer = await http.get("/users/nobody")
        assert (answer.status_code, answer.json()) == (404, {"detail": "User not found"})
        for body in ({}, {"username": " "}):
            assert (await http.post("/users", json=body)).status_code == 400
        both = set()

        async def create(client: httpx.AsyncClient) -> None:
            both.add((await client.post("/users", json={"username": "Twice"})).json()["id"])

        async with trio.open_nursery() as nursery:
            for client in (http, elsewhere):
                nursery.start_soon(create, client)
        assert len(both) == 1


async def test_concurrent_requests_give_the_same_guest(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two concurrent requests, the second finds the id stored by the first, but no name yet."""

    async def user_named(_: MemoryNotes, __: str) -> None:
        return None

    monkeypatch.setattr(MemoryNotes, "user_named", user_named)
    async with serve() as service, browse(service) as http:
        answers = [await http.post("/users", json={"username": name}) for name in ("Ann", "aNN")]
        first, second = (answer.json() for answer in answers)
        assert first == second


async def test_profile_change_is_sent_once_in_each_room_of_the_user(service: Service) -> None:
    async with browse(service) as http, AsyncExitStack() as stack:
        id_ = (await http.post("/users", json={"username": "Ann"})).json()["id"]
        one = [
            await stack.enter_async_context(enter(service, user, "one", username="Ann"))
            for user in (id_, id_, "bob", id_)
        ]
        two = [
            await stack.enter_async_context(enter(service, user, "two", username="Ann"))
            for user in ("eve", id_)
        ]
        three = await stack.enter_async_context(enter(service, "eve", "three"))
        for client in (*one, *two, three):
            await client.settle()
        change = {"username": "Anna", "bio": "A\nB", "email": "a@x", "avatar_url": "a.png"}
        answer = await http.put(f"/users/{id_}/profile", json=change)
        user = answer.json()["user"]
        assert answer.json() == {"success": True, "user": user}
        assert user | change == user
        assert (user["id"], user["display_name"]) == (id_, "Ann")
        assert (await http.get(f"/users/{id_}")).json() == user
        for room_id, clients in (("one", one), ("two", two)):
            for client in clients:
                told = await client.expect("profile_updated", room_id=room_id, user_id=id_)
                assert (told["username"], told["avatar"], told["bio"]) == ("Anna", "a.png", "A\nB")
                assert (told["prevUsername"], told["email"]) == ("Ann", None)
        for client in (*one, *two, three):
            await client.expect_nothing()
        late = await stack.enter_async_context(enter(service, "late", "one"))
        names = {user["user_id"]: user["username"] for user in late.log[0]["users"]}
        assert names == {id_: "Anna", "bob": "Ann", "late": "Anonymous"}
        # The name is free again, and its next owner is another user.
        new = (await http.post("/users", json={"username": "Ann"})).json()
        assert new["id"] != id_


async def test_profile_fields_are_limited(service: Service) -> None:
    async with browse(service) as http:
        id_ = (await http.post("/users", json={"username": "Ann"})).json()["id"]
        path = f"/users/{id_}/profile"
        for body in ({"bio": "x" * 2001}, {"email": "x" * 255}, {"bio": 5}):
            assert (await http.put(path, json=body)).status_code == 422
        body = {"bio": "😀" * 2000, "avatar_url": "x" * 2048, "display_name": "x" * 100}
        user = (await http.put(path, json=body)).json()["user"]
        assert len(user["display_name"]) == 64
        assert (await http.get(f"/users/{id_}")).json() == user


async def test_unknown_user_may_change_its_profile_after_a_restart(service: Service) -> None:
    async with browse(service) as http:
        changed = await http.put("/users/old/profile", json={"username": "Ann", "bio": "hello"})
        user = changed.json()["user"]
        assert (user["id"], user["username"], user["bio"]) == ("old", "Ann", "hello")
        assert (await http.get("/users/old")).json() == user
        nameless = await http.put("/users/older/profile", json={"bio": "hello"})
        assert nameless.json()["user"]["username"] == "Anonymous"


# Messages by POST


async def test_posted_message_is_sent_to_the_room_and_kept(service: Service) -> None:
    async with (
        enter(service, "ann") as ann,
        enter(service, "bob") as bob,
        enter(service, "eve", "other") as eve,
        browse(service) as http,
    ):
        await ann.expect("user_joined")
        body = {"user_id": "carl", "username": "Carl", "content": "Hello", "type": "text"}
        answer = await http.post("/rooms/r/messages", json=body)
        assert answer.status_code == 200
        said = answer.json()
        assert (said["type"], said["username"], said["content"]) == ("message", "Carl", "Hello")
        for client in (ann, bob):
            assert await client.expect("message") == said
        await eve.expect_nothing()
        assert (await http.get("/rooms/r/messages")).json() == [said]
        for body in ({"user_id": "carl"}, {"user_id": "carl", "content": ""}, {"content": "x"}):
            assert (await http.post("/rooms/r/messages", json=body)).status_code == 422


async def test_posting_user_keeps_its_name(service: Service) -> None:
    async with browse(service) as http:
        await http.post("/rooms/r/join", json={"user_id": "ann", "username": "Ann"})
        id_ = (await http.post("/users", json={"username": "Bob"})).json()["id"]
        for user_id, name in (("ann", "Ann"), (id_, "Bob"), ("carl", "Anonymous")):
            body = {"user_id": user_id, "content": "Hello"}
            assert (await http.post("/rooms/r/messages", json=body)).json()["username"] == name


@pytest.mark.parametrize("room_id", ["dm", "\0lobby", "\0inbox:bob"])
async def test_posting_to_a_reserved_id_is_refused(service: Service, room_id: str) -> None:
    async with service.connect("/ws/dm/bob") as bob, browse(service) as http:
        await bob.send("keep_alive")
        await bob.expect("ping")
        path = f"/rooms/{quote(room_id)}"
        body = {"user_id": "ann", "content": "Hello"}
        assert (await http.post(f"{path}/messages", json=body)).status_code == 404
        assert (await http.post(f"{path}/join", json=body)).status_code == 404
        assert (await http.get(path)).status_code == 404
        await bob.expect_nothing()


# With tokens


async def test_token_gives_access_to_own_user_only(serve: Serve) -> None:
    token = make_token("ann", name="Ann", rooms=["r"])
    async with serve(**TOKENS) as service, browse(service) as nobody, browse(service, token) as ann:
        hello = {"user_id": "ann", "username": "Mallory", "content": "Hello"}
        for method, path, body in (
            ("POST", "/rooms", {"name": "Lounge"}),
            ("POST", "/users", {"username": "Ann"}),
            ("GET", "/users/ann", None),
            ("PUT", "/users/ann/profile", {"bio": ""}),
            ("POST", "/rooms/r/messages", hello),
        ):
            assert (await nobody.request(method, path, json=body)).status_code == 401
        for method, path, body in (
            ("GET", "/users/bob", None),
            ("PUT", "/users/bob/profile", {"bio": ""}),
            ("POST", "/rooms/r/messages", {**hello, "user_id": "bob"}),
        ):
            answer = await ann.request(method, path, json=body)
            assert (answer.status_code, answer.json()) == (403, {"detail": "Identity mismatch"})
        for method, path, body in (
            ("POST", "/rooms", {"name": "Lounge"}),
            ("POST", "/rooms/other/messages", hello),
        ):
            assert (await ann.request(method, path, json=body)).status_code == 403
        said = (await ann.post("/rooms/r/messages", json=hello)).json()
        assert (said["user_id"], said["username"]) == ("ann", "Ann")
        me = (await ann.post("/users", json={"username": "Mallory"})).json()
        assert (me["id"], me["username"]) == ("ann", "Ann")
        assert (await ann.get("/users/ann")).json() == me
        changed = (await ann.put("/users/ann/profile", json={"bio": "I"})).json()["user"]
        assert (await ann.post("/users", json={})).json() == changed
        async with browse(service, make_token("bob")) as bob:
            assert (await bob.post("/rooms", json={"name": "Lounge"})).status_code == 200


async def test_posting_is_charged_for_all_receivers(serve: Serve) -> None:
    """Charged to the request bucket: posting to a large room costs more than to a small one."""
    async with (
        serve(http_requests_per_second=0.001, http_burst=10) as service,
        AsyncExitStack() as stack,
        browse(service) as http,
    ):
        for n in range(12):
            await stack.enter_async_context(enter(service, f"{n}"))
        body = {"user_id": "ann", "content": "x" * 60_000}
        assert (await http.post("/rooms/r/messages", json=body)).status_code == 200
        assert (await http.post("/rooms/r/messages", json=body)).status_code == 429
