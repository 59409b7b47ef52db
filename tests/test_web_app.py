"""The HTTP side as clients see it: the dialects' REST, health, CORS, and refusals."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import trio

from tests.clients import Client, Service, settle
from tests.conftest import Serve, one_replica, settings
from tests.raw import Answer, open_raw, upgrade_head
from trio_signal.auth import OpenAuth
from trio_signal.bus.memory import MemoryBus
from trio_signal.hub import Hub
from trio_signal.limits import Limits
from trio_signal.messages.commands import Close
from trio_signal.metrics import Metrics
from trio_signal.web.app import create_app
from trio_signal.web.callers import request_address

#: Pages and HTTP responses come from one server.
service = one_replica
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")

#: Every path at which a dialect is spoken.
WEBSOCKET_PATHS = ["/ws/r/ann", "/ws/r", "/ws", "/api/v1/ws/connect"]


@asynccontextmanager
async def browse(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    with trio.fail_after(30):
        async with httpx.AsyncClient(base_url=f"http://{service.base}") as http:
            yield http


@pytest.fixture(name="http")
async def _http(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    async with browse(service) as http:
        yield http


@asynccontextmanager
async def enter(
    service: Service, *user_ids: str, room_id: str = "r"
) -> AsyncIterator[list[Client]]:
    """Clients of the `room` dialect that have joined and seen each other join."""
    async with AsyncExitStack() as stack:
        clients: list[Client] = []
        for user_id in user_ids:
            path = f"/ws/{quote(room_id)}/{user_id}?username={user_id.title()}"
            newcomer = await stack.enter_async_context(service.connect(path))
            await newcomer.expect("room_state")
            for client in clients:
                await client.expect("user_joined")
            clients.append(newcomer)
        yield clients


async def say(speaker: Client, content: str, *listeners: Client) -> dict[str, Any]:
    """Send chat, and wait until everybody has received it."""
    await speaker.send("message", content=content)
    for client in (speaker, *listeners):
        message = await client.wait_for("message", content=content)
    return message


async def upgrade(service: Service, path: str, **headers: str | None) -> Answer:
    """The response to an opening handshake; the connection is then closed."""
    async with open_raw(service.base) as client:
        await client.send(upgrade_head(path, **headers))
        return await client.receive_head()


# Health


async def test_server_is_alive_and_ready(http: httpx.AsyncClient) -> None:
    for path, status in (("/healthz", "ok"), ("/readyz", "ready")):
        answer = await http.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": status})
        assert answer.headers["content-type"] == "application/json"
        assert (await http.head(path)).status_code == 200


async def test_stopping_server_is_alive_but_not_ready() -> None:
    hub = Hub(MemoryBus("a"))
    given = settings()
    client = create_app(hub, OpenAuth(), given, Limits(given), Metrics()).test_client()
    await hub.close_all(Close(1001))
    answer = await client.get("/readyz")
    assert (answer.status_code, await answer.get_json()) == (503, {"status": "stopping"})
    assert (await client.get("/healthz")).status_code == 200


async def test_health_counts_connections_and_rooms(service: Service) -> None:
    async def counts() -> tuple[int, int]:
        """Connections are counted for each replica, rooms for all of them."""
        connections, rooms = 0, set()
        for base in service.bases:
            async with browse(Service(base)) as http:
                answer = await http.get("/health")
            health = answer.json()
            assert (answer.status_code, health["status"]) == (200, "healthy")
            connections += health["active_connections"]
            rooms.add(health["rooms"])
        assert len(rooms) == 1
        return connections, rooms.pop()

    assert await counts() == (0, 0)
    async with (
        enter(service, "ann", "bob") as (ann, bob),
        enter(service, "ann", room_id="s"),
        service.connect("/ws"),  # in no room yet
    ):
        assert await counts() == (4, 2)
        await bob.close()
        await ann.expect("user_left")
        assert await counts() == (3, 2)
    assert (await counts())[0] == 0


# Rooms


JOINS: list[dict[str, Any]] = [
    {"user_id": "ann", "username": "Ann"},
    {"user_id": "ann", "username": "Ann", "avatar_url": "https://x.example/a.png"},
    {"user_id": "ann", "username": "Ann", "avatar_url": None, "email": 5},
    {"user_id": "ann"},
    {"user_id": "ann", "username": None},
    {"user_id": "ann", "username": ""},
]


@pytest.mark.parametrize("body", JOINS)
async def test_joining_by_rest_makes_nobody_present(
    http: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    answer = await http.post("/rooms/r/join", json=body)
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "success", "room_id": "r", "user_id": "ann"},
    )
    assert (await http.get("/rooms")).json() == []


async def test_trailing_slash_makes_no_difference(http: httpx.AsyncClient) -> None:
    """The old servers accepted it; a redirect would fail the preflight of another origin's page."""
    assert (await http.post("/rooms/r/join/", json=JOINS[0])).status_code == 200
    for path in ("/rooms/", "/api/rooms/", "/api/v1/ws/stats/", "/api/creator/broadcast/active/"):
        assert (await http.get(path)).status_code == 200
    login = await http.post("/auth/login/", json={"username": "ann", "password": "x"})
    assert login.status_code == 200
    assert (await http.options("/rooms/")).headers["allow"]
    assert (await http.get("/rooms/dm/")).status_code == 404


async def test_joining_again_without_a_name_keeps_it(
    service: Service, http: httpx.AsyncClient
) -> None:
    await http.post(
        "/rooms/r/join", json={"user_id": "ann", "username": "Ann", "avatar_url": "a.png"}
    )
    await http.post("/rooms/r/join", json={"user_id": "ann"})
    async with service.connect("/ws/r/ann") as ann:
        state = await ann.expect("room_state")
    assert state["users"] == [{"user_id": "ann", "username": "Ann", "avatar_url": "a.png"}]


async def test_body_is_read_as_json_whatever_its_type(http: httpx.AsyncClient) -> None:
    answer = await http.post("/rooms/r/join", content=b'{"user_id":"ann"}')
    assert answer.status_code == 200


BAD_BODIES = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"ann"',
    b"{}",
    b"user_id=ann",
    b'{"user_id":null}',
    b'{"user_id":5}',
    b'{"user_id":"ann","username":{}}',
    b'{"user_id":"ann","avatar_url":false}',
    b'{"user_id":"ann","x":' + b"[" * 60_000,
    b'{"user_id":"\xff"}',
    b'{"user_id":"\\ud800"}',
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=[repr(body[:30]) for body in BAD_BODIES])
async def test_bad_body_is_refused_with_a_reason(http: httpx.AsyncClient, body: bytes) -> None:
    answer = await http.post(
        "/rooms/r/join", content=body, headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["detail"]


async def test_room_list_can_be_disabled(serve: Serve) -> None:
    async with serve(list_rooms=False) as service, browse(service) as http:
        answer = await http.get("/rooms")
        assert answer.status_code == 403
        assert answer.json()["detail"]
        assert (await http.get("/rooms/r")).status_code == 200


async def test_single_room_shows_its_users_and_broadcasters(
    service: Service, http: httpx.AsyncClient
) -> None:
    async with enter(service, "ann", "bob") as (ann, bob), enter(service, "ann") as (tab,):
        await tab.send("broadcast-started")
        for client in (ann, bob):
            await client.expect("broadcast-started")
        answer = await http.get("/rooms/r")
        room = answer.json()
        (broadcaster,) = room["broadcasters"]
        assert TIMESTAMP.fullmatch(room.pop("created_at"))
        assert room == {
            "id": "r",
            "room_id": "r",
            "name": "r",
            "thumbnail_url": None,
            "member_count": 2,
            "peers": 3,
            "live": 1,
            "users": [
                {"user_id": "ann", "username": "Ann", "avatar_url": None},
                {"user_id": "bob", "username": "Bob", "avatar_url": None},
            ],
            "broadcasters": [
                {"user_id": "ann", "username": "Ann", "started_at": broadcaster["started_at"]}
            ],
        }
        assert TIMESTAMP.fullmatch(broadcaster["started_at"])
        await tab.close()
        for client in (ann, bob):
            await client.expect("broadcast-stopped")
        assert (await http.get("/rooms/r")).json()["broadcasters"] == []


async def test_room_without_peers_is_empty(http: httpx.AsyncClient) -> None:
    answer = await http.get("/rooms/nowhere")
    assert answer.status_code == 200
    room = answer.json()
    assert (room["id"], room["created_at"], room["member_count"]) == ("nowhere", None, 0)
    assert (room["users"], room["broadcasters"]) == ([], [])


@pytest.mark.parametrize("room_id", ["a b", "команда", "😀", "a+b", "%", "a?b#c"])
async def test_room_id_is_the_same_by_rest_and_by_socket(
    service: Service, http: httpx.AsyncClient, room_id: str
) -> None:
    quoted = quote(room_id)
    answer = await http.post(f"/rooms/{quoted}/join", json={"user_id": "ann", "username": "Ann"})
    assert answer.json()["room_id"] == room_id
    async with service.connect(f"/ws/{quoted}/ann") as ann:
        await ann.expect("room_state", room_id=room_id)
        assert ann.log[0]["users"][0]["username"] == "Ann"
        assert (await http.get(f"/rooms/{quoted}")).json()["room_id"] == room_id


async def test_room_info_counts_connected_users(service: Service, http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/rooms/r/info")
    assert answer.json() == {"room_id": "r", "connected_users": 0, "is_active": False}
    async with enter(service, "ann", "bob"):
        answer = await http.post("/api/rooms/r/info", json={})
        assert answer.json() == {"room_id": "r", "connected_users": 2, "is_active": True}


# Chat history


async def test_history_lists_messages_oldest_first(
    service: Service, http: httpx.AsyncClient
) -> None:
    assert (await http.get("/rooms/r/messages")).json() == []
    async with enter(service, "ann", "bob") as (ann, bob):
        told = [await say(ann, "one", bob), await say(bob, "two", ann)]
        answer = await http.get("/rooms/r/messages?limit=100")
        assert answer.headers["content-type"] == "application/json"
        assert answer.json() == told
    assert (await http.get("/rooms/r/messages")).json() == told, "lost with the last user"
    assert (await http.get("/rooms/s/messages")).json() == []


async def test_history_keeps_the_sender_names_of_the_time(
    service: Service, http: httpx.AsyncClient
) -> None:
    async with enter(service, "ann", "bob") as (ann, bob):
        await say(ann, "one", bob)
        await ann.send("profile_updated", username="Anna")
        await say(ann, "two", bob)
        history = (await http.get("/rooms/r/messages")).json()
    assert [message["username"] for message in history] == ["Ann", "Anna"]


async def test_chat_of_other_dialects_is_in_the_history(
    service: Service, http: httpx.AsyncClient
) -> None:
    async with (
        enter(service, "bob") as (bob,),
        service.connect("/api/v1/ws/connect?user_id=ann&username=Ann") as ann,
    ):
        await ann.send("join_room", room_id="r")
        await ann.send("send_message", room_id="r", content="hi")
        told = await bob.wait_for("message", user_id="ann", content="hi")
        assert (await http.get("/rooms/r/messages")).json() == [told]


async def test_history_length_is_limited(service: Service, http: httpx.AsyncClient) -> None:
    async with enter(service, "ann", "bob", "cat") as clients:
        for n in range(210):
            await clients[n % 3].send("message", content=str(n))
            # Each sender has received the previous message: this fixes the order on several
            # replicas.
            await clients[(n + 1) % 3].wait_for("message", content=str(n))
        for client in clients:
            await client.settle()
        for client in clients:
            await say(client, "done", *[other for other in clients if other is not client])

    async def contents(query: str) -> list[str]:
        answer = await http.get(f"/rooms/r/messages{query}")
        assert answer.status_code == 200
        return [message["content"] for message in answer.json()]

    everything = [*map(str, range(210)), "done", "done", "done"]
    assert await contents("?limit=1000") == everything[-200:]
    assert await contents("") == everything[-100:]
    assert await contents("?limit=100") == everything[-100:]
    assert await contents("?limit=5") == everything[-5:]
    assert await contents("?limit=0") == []


@pytest.mark.parametrize("limit", ["", "-1", "1.5", "ten", "1e2", "²", "9" * 5000])
async def test_limit_must_be_a_whole_number(http: httpx.AsyncClient, limit: str) -> None:
    answer = await http.get("/rooms/r/messages", params={"limit": limit})
    assert answer.status_code == 422
    assert "limit" in answer.json()["detail"]


# Accounts


@pytest.mark.parametrize(
    "body",
    [
        {"json": {"username": "Ann Ä", "password": "any"}},
        {"json": {"username": "Ann Ä", "password": "", "remember": True}},
        {"data": {"username": "Ann Ä", "password": "any", "grant_type": "password"}},
        {"files": {"username": (None, "Ann Ä"), "password": (None, "any")}},
    ],
    ids=["json", "json with more", "form", "multipart form"],
)
async def test_open_mode_accepts_any_password(
    service: Service, http: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    answer = await http.post("/auth/login", **body)
    assert answer.status_code == 200
    login = answer.json()
    token = login["access_token"]
    assert token
    user = {"user_id": "Ann Ä", "username": "Ann Ä"}
    assert login == {"access_token": token, "token_type": "bearer", "token": token, "user": user}

    answer = await http.get("/auth/me", headers={"Authorization": f"Bearer {token}"})
    assert (answer.status_code, answer.json()) == (200, user)
    answer = await http.get("/auth/me", headers={"Authorization": f"bearer  {token}"})
    assert answer.status_code == 200, "the scheme is case-insensitive"

    async with service.connect("/ws/r") as client:
        await client.expect("auth_required")
        await client.send("auth_token", token=token)
        await client.expect("auth_success", user="Ann Ä")


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"json": {}},
        {"json": []},
        {"json": {"username": "ann"}},
        {"json": {"username": None, "password": "x"}},
        {"json": {"username": "ann", "password": 5}},
        {"content": b"{", "headers": {"Content-Type": "application/json"}},
        {"data": {"username": "ann"}},
        {"data": {"password": "x"}},
        {"files": {"username": (None, "ann")}},
        {"content": b"--x\r\nno form", "headers": {"Content-Type": "multipart/form-data"}},
        {"content": b"username=ann&password=x", "headers": {"Content-Type": "text/x"}},
    ],
)
async def test_incomplete_login_is_refused(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    answer = await http.post("/auth/login", **body)
    assert answer.status_code == 422
    assert answer.json()["detail"]


@pytest.mark.parametrize("path", ["/auth/me", "/auth/turn-credentials"])
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer x", "Basic YW5uOng=", "Bearer open.", "Bearer open.x"],
)
async def test_foreign_tokens_are_refused(
    http: httpx.AsyncClient, path: str, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = await http.get(path, headers=headers)
    assert (answer.status_code, answer.json()) == (401, {"detail": "Authentication required"})


async def test_no_turn_credentials_without_turn(http: httpx.AsyncClient) -> None:
    login = (await http.post("/auth/login", json={"username": "ann", "password": ""})).json()
    answer = await http.get(
        "/auth/turn-credentials", headers={"Authorization": f"Bearer {login['token']}"}
    )
    assert answer.status_code == 503
    assert answer.json() == {"detail": "TURN is not configured"}


# Refusals


@pytest.mark.parametrize(
    "path",
    ["/nowhere", "/ws/r/ann/more", "/api/v1/ws", "/rooms/r/join/now", "/demo/nothing"],
)
async def test_unknown_path_is_404(service: Service, path: str) -> None:
    async with open_raw(service.base) as client:
        await client.send(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        answer = await client.receive_answer()
    assert answer.status == 404
    assert answer.headers["content-type"] == "application/json"
    assert b'"detail"' in answer.body


@pytest.mark.parametrize("path", ["/", "/nowhere", "/ws/r/ann/more", "/rooms", "/api/v1/ws", "//["])
async def test_websocket_at_an_unknown_path_is_404(service: Service, path: str) -> None:
    async with open_raw(service.base) as client:
        await client.send(upgrade_head(path))
        answer = await client.receive_answer()
    assert answer.status == 404
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.body


@pytest.mark.parametrize("slashes", ["//", "///"])
@pytest.mark.parametrize("host", ["localhost", "localhost "])  # a library reads unusual heads
async def test_leading_slashes_do_not_count(service: Service, slashes: str, host: str) -> None:
    """A client gets two if its address of the server ends in one."""
    async with open_raw(service.base) as client:
        await client.upgrade(f"{slashes}ws/r/ann/?username=Ann", Host=host)
        state = await client.wait_for("room_state")
    assert (state["room_id"], state["users"][0]["username"]) == ("r", "Ann")
    async with open_raw(service.base) as client:
        await client.send(upgrade_head(f"{slashes}x/ws/r/ann"))
        assert (await client.receive_answer()).status == 404


@pytest.mark.parametrize("path", WEBSOCKET_PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
async def test_http_at_a_websocket_path_is_426(
    http: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await http.request(method, f"{path}?username=Ann")
    assert answer.status_code == 426
    assert answer.headers["upgrade"] == "websocket"
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text


@pytest.mark.parametrize("path", WEBSOCKET_PATHS)
async def test_disabled_dialect_is_404(serve: Serve, path: str) -> None:
    names = dict(zip(WEBSOCKET_PATHS, ("room", "mesh", "stream", "live"), strict=True))
    others = ",".join(name for name in names.values() if name != names[path])
    async with serve(dialects=others) as service, browse(service) as http:
        for other in WEBSOCKET_PATHS:
            there = other != path
            assert (await http.get(other)).status_code == (426 if there else 404)
            assert (await upgrade(service, other)).status == (101 if there else 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/rooms/r/join", "POST"),
        ("DELETE", "/rooms/r", "GET"),
        ("DELETE", "/rooms", "GET"),
        ("GET", "/api/rooms/r/info", "POST"),
        ("GET", "/auth/login", "POST"),
        ("POST", "/health", "GET"),
    ],
)
async def test_wrong_method_is_405_and_lists_allowed_methods(
    http: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == 405
    assert allowed in answer.headers["allow"].split(", ")
    assert answer.json()["detail"]


@pytest.mark.parametrize("path", ["/rooms/r/join", "/auth/login"])
async def test_oversized_body_is_413(http: httpx.AsyncClient, path: str) -> None:
    big = {"user_id": "ann", "username": "x" * 65_536, "password": ""}
    assert (await http.post(path, json=big)).status_code == 413
    big["username"] = "x" * 65_000
    assert (await http.post(path, json=big)).status_code == 200
    assert (await http.post("/auth/login", data={"username": "x" * 65_536})).status_code == 413


async def test_too_many_connections_are_503(serve: Serve) -> None:
    async with serve(max_connections=2) as service:
        replica = Service(service.bases[0])
        async with enter(replica, "ann", "bob") as (ann, bob):
            answer = await upgrade(replica, "/ws/r/cat")
            assert answer.status == 503
            assert answer.headers["content-type"].startswith("text/plain")
            await bob.close()
            await ann.expect("user_left")
            assert (await upgrade(replica, "/ws/r/cat")).status == 101


async def test_address_with_too_many_failures_is_refused_by_rest() -> None:
    given = settings(auth_failures_per_ip=1, trusted_proxies=1)
    limits = Limits(given)
    app = create_app(Hub(MemoryBus("a")), OpenAuth(), given, limits, Metrics())

    @app.get("/guess")
    async def guess() -> str:
        address = request_address(given)
        limits.check_failures(address, 0)
        limits.count_failure(address, 0)
        return address

    client = app.test_client()
    headers = {"X-Forwarded-For": "203.0.113.9, 198.51.100.1"}
    assert await (await client.get("/guess", headers=headers)).get_data(False) == b"198.51.100.1"
    answer = await client.get("/guess", headers=headers)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "300")
    assert "failed" in (await answer.get_json())["detail"]
    others = {"X-Forwarded-For": "198.51.100.2"}
    assert (await client.get("/guess", headers=others)).status_code == 200
    metrics = (await (await client.get("/metrics")).get_data(False)).decode()
    assert 'trio_signal_refused_total{reason="auth_failures_per_ip"} 1.0' in metrics


# Pages of other origins

EVERY_ORIGIN = {"allowed_origins": "*"}
SOME_ORIGINS = {"allowed_origins": "https://app.example.com, https://*.example.org"}

ORIGINS: list[tuple[dict[str, str], str | None, bool]] = [
    # (settings, origin, whether it is allowed)
    ({}, None, True),  # not a browser
    ({}, "http://signal.localhost", True),
    ({}, "https://signal.localhost", True),  # a proxy in front ends TLS
    ({}, "HTTP://SIGNAL.LOCALHOST", True),
    ({}, "http://signal.localhost:8080", False),
    ({}, "http://evil.signal.localhost", False),
    ({}, "http://signal.localhost.evil", False),
    ({}, "https://app.example.com", False),
    ({}, "null", False),
    ({}, "http://[", False),
    ({}, "http://[signal.localhost", False),
    ({}, "", False),
    (SOME_ORIGINS, "http://signal.localhost", True),
    (SOME_ORIGINS, "https://app.example.com", True),
    (SOME_ORIGINS, "http://app.example.com", False),
    (SOME_ORIGINS, "https://app.example.com:8443", False),
    (SOME_ORIGINS, "https://evil-app.example.com", False),
    (SOME_ORIGINS, "https://app.example.com.evil", False),
    (SOME_ORIGINS, "https://a.example.org", True),
    (SOME_ORIGINS, "https://a.b.example.org", True),
    (SOME_ORIGINS, "https://example.org", False),
    (SOME_ORIGINS, "https://evilexample.org", False),
    (SOME_ORIGINS, "http://a.example.org", False),
    (SOME_ORIGINS, "null", False),
    (EVERY_ORIGIN, "https://anything.example", True),
    (EVERY_ORIGIN, "null", True),
]


@pytest.mark.parametrize(("given", "origin", "may"), ORIGINS)
async def test_websockets_need_an_allowed_origin(
    serve: Serve, given: dict[str, str], origin: str | None, *, may: bool
) -> None:
    async with serve(**given) as service:
        for path in WEBSOCKET_PATHS:
            answer = await upgrade(service, path, Host="signal.localhost", Origin=origin)
            assert answer.status == (101 if may else 403)


async def test_refused_origin_gets_a_reason(service: Service) -> None:
    async with open_raw(service.base) as client:
        await client.send(upgrade_head("/ws/r", Origin="https://evil.example"))
        answer = await client.receive_answer()
    assert answer.status == 403
    assert answer.headers["content-type"].startswith("text/plain")
    assert b"origin" in answer.body


async def test_two_origin_headers_are_refused(service: Service) -> None:
    head = upgrade_head("/ws/r", Origin="http://localhost")
    twice = head.replace(b"Origin:", b"Origin: http://localhost\r\nOrigin:")
    for sent, status in ((head, 101), (twice, 403)):
        async with open_raw(service.base) as client:
            await client.send(sent)
            assert (await client.receive_head()).status == status


@pytest.mark.parametrize(("given", "origin", "may"), [o for o in ORIGINS if o[1] is not None])
async def test_responses_are_readable_from_allowed_origins_only(
    serve: Serve, given: dict[str, str], origin: str, *, may: bool
) -> None:
    headers = {"Host": "signal.localhost", "Origin": origin}
    async with serve(**given) as service, browse(service) as http:
        for answer in (
            await http.get("/rooms", headers=headers),
            await http.post("/rooms/r/join", json={"user_id": "ann"}, headers=headers),
            # a page must be able to read the error
            await http.post("/rooms/r/join", content=b"{", headers=headers),
            await http.post("/rooms/r/join", content=b"x" * 70_000, headers=headers),
            await http.get("/auth/me", headers=headers),
            await http.get("/rooms/r/join", headers=headers),
            await http.get("/nowhere", headers=headers),
        ):
            allowed = answer.headers.get("access-control-allow-origin")
            assert allowed == (origin if may else None)
            assert not may or answer.headers["vary"] == "Origin"


async def test_preflight_requests_are_answered(
    serve: Serve,
) -> None:
    async with serve(**SOME_ORIGINS) as service, browse(service) as http:
        for path, method in (("/rooms/r/join", "POST"), ("/auth/me", "GET")):
            answer = await http.options(
                path,
                headers={
                    "Origin": "https://app.example.com",
                    "Access-Control-Request-Method": method,
                    # As libraries add it; the old servers allowed it.
                    "Access-Control-Request-Headers": "authorization,x-requested-with",
                },
            )
            assert answer.is_success
            assert answer.headers["access-control-allow-origin"] == "https://app.example.com"
            assert method in answer.headers["access-control-allow-methods"].split(", ")
            names = re.split(", ?", answer.headers["access-control-allow-headers"].lower())
            assert {"authorization", "content-type", "x-requested-with"} <= {*names}


async def test_requests_without_an_origin_are_allowed(http: httpx.AsyncClient) -> None:
    answer = await http.get("/rooms")
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


# Pages


DEMOS = ["broadcast", "watch", "call", "announcements", "inspect"]
KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@pytest.mark.parametrize("path", ["/", *(f"/demo/{name}" for name in DEMOS)])
async def test_page_links_to_existing_files(http: httpx.AsyncClient, path: str) -> None:
    page = await http.get(path)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    needed = re.findall(r'(?:src|href)="(/[^"]*\.\w+)"', page.text)
    assert needed
    for file in [*needed, "/client/trio-signal.js"]:
        answer = await http.get(file)
        assert answer.status_code == 200, file
        kind = KINDS[PurePosixPath(file).suffix]
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"


@pytest.mark.parametrize("path", ["/demo/../cli.py", "/demo/..%2fcli.py", "/demo/%2e%2e/cli.py"])
async def test_paths_cannot_leave_the_pages_folder(service: Service, path: str) -> None:
    async with open_raw(service.base) as client:
        await client.send(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
        assert (await client.receive_answer()).status == 404


async def test_metrics_count_connections_and_broadcasts(service: Service) -> None:
    async with service.connect("/ws/r1/ann") as ann:
        await ann.expect("room_state")
        await ann.send("broadcast-started")
        await settle(ann)
        total: dict[str, float] = {}
        for base in service.bases:
            async with httpx.AsyncClient(base_url=f"http://{base}") as http:
                text = (await http.get("/metrics")).text
            for line in text.splitlines():
                if not line.startswith("#"):
                    name, value = line.rsplit(" ", 1)
                    total[name] = total.get(name, 0) + float(value)
    assert total['trio_signal_connections{dialect="room"}'] == 1
    assert total['trio_signal_connections{dialect="mesh"}'] == 0
    assert total["trio_signal_rooms"] == 1
    assert total["trio_signal_live"] == 1
    replicas = len(service.bases)
    assert total.get("trio_signal_redis_up", 1) == replicas
