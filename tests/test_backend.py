"""The HTTP server API, on one replica and on three, with peers of every dialect in the room."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
import jwt
import pytest
import trio

from tests.clients import PATIENCE, Client, Service
from tests.conftest import Serve, serve_once, serve_replicas
from tests.test_openapi import KEY
from tests.tokens import SECRET, make_token
from trio_signal.server import AsyncServerApi, ServerApi, ServerApiError
from trio_signal.web.calls import read_path

API = "/api/v1/server"
KEYS = {"api_keys": f"backend:{KEY},other:{KEY[::-1]}"}
TOKENS = {"auth": "token", "jwt_secret": SECRET, **KEYS}


@pytest.fixture(params=["one replica", "three replicas"])
async def open_service(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    """A service with API keys, in open mode."""
    if request.param == "one replica":
        async with serve_once(resume_grace=60, **KEYS) as service:
            yield service
    else:
        redis_url = request.getfixturevalue("redis_url")
        async with serve_replicas(3, redis_url, resume_grace=60, **KEYS) as service:
            yield service


class Backend:
    """A site's backend; each call goes to the next replica."""

    def __init__(self, service: Service, http: httpx.AsyncClient, key: str) -> None:
        self._service = service
        self._http = http
        self.key = key

    async def ask(self, method: str, path: str, expected: int = 200, **more: Any) -> Any:
        url = f"http://{self._service.base}{API}{path}"
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        answer = await self._http.request(method, url, headers=headers, **more)
        assert answer.status_code == expected, answer.text
        return answer.json()


@asynccontextmanager
async def backend(service: Service, key: str = KEY) -> AsyncIterator[Backend]:
    async with httpx.AsyncClient(timeout=PATIENCE) as http:
        yield Backend(service, http, key)


@asynccontextmanager
async def mesh(
    service: Service, client_id: str, room: str = "r", token: str | None = None
) -> AsyncIterator[Client]:
    async with service.connect(f"/ws/{quote(room, safe='')}") as client:
        await client.expect("auth_required")
        await client.send("auth_token", clientId=client_id, username=client_id, token=token)
        yield client


async def test_backend_manages_room_with_peers_of_every_dialect(open_service: Service) -> None:
    async with AsyncExitStack() as stack, backend(open_service) as api:
        enter = stack.enter_async_context
        ann = await enter(mesh(open_service, "ann"))
        await ann.wait_for("users_in_room")
        bob = await enter(open_service.connect("/ws/r/bob?username=Bob"))
        await bob.wait_for("room_state")
        cat = await enter(open_service.connect("/api/v1/ws/connect?user_id=cat"))
        await cat.send("join_room", room_id="r")
        await cat.wait_for("joined_room")
        dan = await enter(open_service.connect("/ws?userId=dan"))
        await dan.send("join-stream", streamId="r")
        room = await api.ask("GET", "/rooms/r")
        with trio.fail_after(PATIENCE):
            while len(room["peers"]) < 4:
                await trio.sleep(0.01)
                room = await api.ask("GET", "/rooms/r")
        peers = {peer["dialect"]: peer for peer in room["peers"]}
        assert set(peers) == {"mesh", "room", "live", "stream"}
        assert peers["mesh"]["peer_id"] == peers["mesh"]["username"] == "ann"
        assert (room["id"], room["locked"], peers["room"]["live"]) == ("r", False, False)
        assert {peer["address_class"] for peer in peers.values()} == {"loopback"}
        # Every replica reports a peer that lost its connection as away.
        path = "/ws/r"
        async with open_service.connect(path) as gus:
            await gus.expect("auth_required")
            await gus.send("auth_token", clientId="gus", resume=True)
            await gus.wait_for("users_in_room")
            gus.reset()
        for _ in open_service.bases:
            away = ["not known yet"]
            with trio.fail_after(PATIENCE):
                while away != ["gus"]:
                    room = await api.ask("GET", "/rooms/r")
                    away = [peer["peer_id"] for peer in room["peers"] if peer["away"]]
        await api.ask("DELETE", "/rooms/r/peers/gus")
        replicas = (await api.ask("GET", "/replicas"))["replicas"]
        assert {replica["status"] for replica in replicas} == {"ready"}
        assert len({replica["replica"] for replica in replicas}) == len(open_service.bases)
        assert sum(replica["peers"] for replica in replicas) == 4
        listed = await api.ask("GET", "/rooms", params={"prefix": "r"})
        assert listed == {"rooms": [{"id": "r", "peers": 4, "users": 4, "live": 0}], "next": None}
        assert (await api.ask("GET", "/rooms?prefix=x"))["rooms"] == []

        # One page of a large room.
        part = await api.ask("GET", "/rooms/r", params={"search": "BOB", "limit": 1})
        assert [peer["username"] for peer in part["peers"]] == ["Bob"]
        assert (part["total"], part["found"]) == (4, 1)
        ids = [peer["peer_id"] for peer in room["peers"]]
        part = await api.ask("GET", "/rooms/r", params={"limit": 2, "offset": 1})
        assert [peer["peer_id"] for peer in part["peers"]] == ids[1:3]
        await api.ask("GET", "/rooms/r?limit=some", 422)

        # A message to all, and one to a single peer.
        said = await api.ask("POST", "/rooms/r/messages", json={"data": {"n": 1}})
        assert said == {"peers": 4}
        assert (await ann.wait_for("message"))["data"] == {"n": 1}
        chat = await bob.wait_for("message", user_id="server")
        assert chat["content"] == '{"n":1}'
        await cat.wait_for("message", sender_id="server", content='{"n":1}')
        await api.ask("POST", "/rooms/r/messages", json={"data": "hi", "to": "ann"})
        await ann.wait_for("message", data="hi", from_="server", username="server")
        body = {"data": 1, "to": "nobody"}
        error = (await api.ask("POST", "/rooms/r/messages", 404, json=body))["error"]
        assert error == {"code": "not_found", "message": "There is no such peer"}
        await api.ask("POST", "/rooms/empty/messages", 404, json={"data": 1})
        await api.ask("POST", "/rooms/r/messages", 422, json={"to": "ann"})

        # A locked room admits nobody new; those in it stay.
        assert (await api.ask("PATCH", "/rooms/r", json={"locked": True}))["locked"]
        await ann.wait_for("room_locked", room_id="r", locked=True)
        for _ in open_service.bases:
            async with mesh(open_service, "eve") as eve:
                await eve.expect_close(1008, "Not allowed in this room")
        assert not (await api.ask("PATCH", "/rooms/r", json={"locked": False}))["locked"]
        await ann.wait_for("room_locked", locked=False)
        async with mesh(open_service, "eve") as eve:
            await eve.wait_for("users_in_room")
            # A ban holds on every replica, in every dialect and in every tab.
            body = {"reason": "Be kind", "ban_seconds": 3600}
            answer = await api.ask("DELETE", "/rooms/r/peers/eve", json=body)
            assert answer == {"removed": 1}
            await eve.expect_close(1008, "Be kind")
        await ann.wait_for("user_left", client_id="eve", cause="banned")
        await api.ask("DELETE", "/rooms/r/peers/eve", 404)
        for _ in open_service.bases:
            async with mesh(open_service, "eve") as eve:
                await eve.expect_close(1008, "Not allowed in this room")
            async with open_service.connect("/ws/r/eve?username=Other") as eve:
                await eve.expect_close(4004)

        # Closing the room removes everybody, but without a ban they may return.
        assert await api.ask("DELETE", "/rooms/r") == {"removed": 4}
        await ann.expect_close(1008, "Room closed")
        assert (await api.ask("GET", "/rooms/r"))["peers"] == []
        assert await api.ask("DELETE", "/rooms/r") == {"removed": 0}
        async with mesh(open_service, "ann") as ann:
            await ann.wait_for("users_in_room", users=[])
            await api.ask("DELETE", "/rooms/r/peers/ann?reason=Bye")
            await ann.expect_close(1008, "Bye")


async def test_requests_need_a_valid_key(serve: Serve) -> None:
    async with serve(**TOKENS) as service, backend(service) as api:
        now = int(time.time())

        def sign(key: str = KEY, **claims: Any) -> str:
            return jwt.encode({"iss": "backend", "exp": now + 300, **claims}, key)

        good = (KEY, KEY[::-1], sign(), sign(KEY[::-1], iss="other"), make_token(admin=True))
        bad = (
            *("", "wrong", KEY[:-1], make_token(iss="backend")),
            *(sign(KEY[::-1]), sign(iss="nobody"), sign(exp=now - 60), sign(exp=now + 3600)),
            jwt.encode({"iss": "backend"}, KEY),
            jwt.encode({"iss": "backend", "exp": now + 300}, KEY, "HS384"),
        )
        for key in good:
            api.key = key
            await api.ask("GET", "/rooms")
        for key in bad:
            api.key = key
            assert (await api.ask("GET", "/rooms", 401))["error"]["code"] == "unauthorized"
        api.key = make_token()
        assert (await api.ask("GET", "/rooms", 403))["error"]["code"] == "forbidden"
        # A client that guesses keys is refused; one with a valid key is not.
        api.key = "guess"
        while (answer := await guess(service)).status_code == 401:
            pass
        assert answer.json()["error"]["code"] == "too_many_requests"
        api.key = KEY
        await api.ask("GET", "/rooms")
        for path in ("/rooms?limit=x", "/rooms?limit=-1"):
            await api.ask("GET", path, 422)
        # Tokens for clients.
        body = {"sub": "ann", "name": "Ann", "rooms": ["r"], "moderator": True, "ttl": 60}
        minted = await api.ask("POST", "/tokens", json=body)
        assert minted["expires_in"] == 60
        claims = jwt.decode(minted["token"], SECRET, ["HS256"])
        assert (claims["sub"], claims["rooms"], claims["moderator"]) == ("ann", ["r"], True)
        await api.ask("POST", "/tokens", 422, json={})
        # No server would accept a token as long as this.
        await api.ask("POST", "/tokens", 422, json={"sub": "ann", "rooms": ["r" * 100] * 100})
    async with serve(auth="open") as service, backend(service) as api:
        assert (await api.ask("GET", "/rooms", 404))["error"]["code"] == "not_found"
    async with serve(auth="open", **KEYS) as service, backend(service) as api:
        await api.ask("POST", "/tokens", 404, json={"sub": "ann"})


async def guess(service: Service) -> httpx.Response:
    async with httpx.AsyncClient(timeout=PATIENCE) as http:
        headers = {"Authorization": "Bearer guess"}
        return await http.get(f"http://{service.base}{API}/rooms", headers=headers)


async def test_python_backend_modules(serve: Serve) -> None:
    async with serve(**TOKENS) as service:
        url = f"http://{service.base}/"
        async with AsyncServerApi(url, KEY) as api:
            token = await api.token("ann", rooms=["a/*"])
            async with mesh(service, "ann", "a/b", token) as ann:
                await ann.wait_for("users_in_room")
                assert [room.id async for room in api.rooms()] == ["a/b"]
                await api.lock("a/b")
                room = await api.room("a/b")
                assert [replica.peers for replica in await api.replicas()] == [1]
                assert (room.locked, [peer.user_id for peer in room.peers]) == (True, ["ann"])
                assert await api.send("a/b", [1]) == 1
                await ann.wait_for("message", data=[1])
                await trio.to_thread.run_sync(act, url)
                await ann.wait_for("message", data="plain")
                await ann.expect_close(1008, "Bye")
                assert await api.close_room("a/b") == 0
                with pytest.raises(ServerApiError) as refused:
                    await api.remove("a/b", "nobody", ban_seconds=1)
                assert (refused.value.status, refused.value.code) == (404, "not_found")


def act(url: str) -> None:
    """The calls of a backend without `async`."""
    with ServerApi(url, KEY) as api:
        assert [room.peers for room in api.rooms("a/")] == [1]
        assert api.send("a/b", "plain", "ann") == 1
        api.lock("a/b", locked=False)
        assert [replica.status for replica in api.replicas()] == ["ready"]
        assert not api.room("a/b").locked
        api.remove("a/b", "ann", reason="Bye")
        assert api.close_room("a/b") == 0
        assert api.token("ann")


async def test_moderators_ban_and_lock(serve: Serve) -> None:
    async with (
        serve(**TOKENS) as service,
        mesh(service, "mod", token=make_token("mod", moderator=True)) as mod,
        mesh(service, "eve-1", token=make_token("eve")) as eve,
    ):
        await mod.wait_for("user_joined")
        await eve.wait_for("users_in_room")
        for type_, fields in (("ban", {"client_id": "mod"}), ("lock", {})):
            await eve.send(type_, **fields)
            await eve.expect("error", code="not_allowed")
        await mod.send("ban", client_id="nobody")
        await mod.expect("error", code="target_not_found")
        await mod.send("lock")
        for client in (mod, eve):
            await client.expect("room_locked", room_id="r", locked=True)
        await mod.send("ban", client_id="eve-1", seconds=3600, reason="Be kind")
        await eve.expect_close(1008, "Be kind")
        await mod.wait_for("user_left", client_id="eve-1", cause="banned")
        async with mesh(service, "new", token=make_token("new")) as new:
            await new.expect_close(1008, "Not allowed in this room")
        await mod.send("lock", locked=False)
        await mod.expect("room_locked", locked=False)
        async with mesh(service, "eve-2", token=make_token("eve")) as eve:
            await eve.expect_close(1008, "Not allowed in this room")
        async with mesh(service, "new", token=make_token("new")) as new:
            await new.wait_for("users_in_room")


async def test_removed_peer_may_come_back_at_once(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A removal without a ban is repeated, but not for newer peers with the same id."""
    monkeypatch.setattr("trio_signal.moderation.AGAIN", 0.01)
    async with serve_replicas(2, redis_url, **KEYS) as service:
        api = AsyncServerApi(f"http://{service.bases[0]}", KEY)
        async with api, mesh(service, "ann") as ann:
            await ann.wait_for("users_in_room")
            for _ in range(2):
                async with mesh(Service(service.bases[1]), "eve") as eve:
                    await eve.wait_for("users_in_room")
                    await ann.wait_for("user_joined", client_id="eve")
                    await api.remove("r", "eve")
                    await eve.expect_close(1008, "Kicked")
            async with mesh(Service(service.bases[1]), "eve") as eve:
                await eve.wait_for("users_in_room")
                await trio.sleep(0.1)
                await eve.send("message", data="here")
                await ann.wait_for("message", data="here")


async def test_dots_are_an_id_to_python_backend(serve: Serve) -> None:
    """A URL's parser would take `/rooms/r/peers/..` for `/rooms/r`, and close the room."""
    async with (
        serve(**KEYS) as service,
        mesh(service, "ann") as ann,
        mesh(service, "eve", "..") as eve,
        AsyncServerApi(f"http://{service.base}", KEY) as api,
    ):
        await ann.wait_for("users_in_room")
        await eve.wait_for("users_in_room")
        for dots in (".", ".."):
            with pytest.raises(ServerApiError) as refused:
                await api.remove("r", dots)
            assert (refused.value.status, refused.value.code) == (404, "not_found")
        assert [peer.peer_id for peer in (await api.room("r")).peers] == ["ann"]
        assert (await api.room(".")).peers == []
        await api.remove("..", "eve", reason="Bye")
        await eve.expect_close(1008, "Bye")


def test_encoded_slash_stays_in_the_id() -> None:
    path = f"{API}/rooms/{{room_id:path}}/peers/{{peer_id:path}}"
    raw = f"{API}/rooms/a%2Fb/peers/x%2Fpeers%2Fy".encode()
    assert read_path(path, raw) == {"room_id": "a/b", "peer_id": "x/peers/y"}


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/rooms", "GET, HEAD, OPTIONS"),
        ("/rooms/r", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("/rooms/r%2Fmessages", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("/rooms/r/messages", "OPTIONS, POST"),
        ("/rooms/r/peers/p", "DELETE, OPTIONS"),
        ("/tokens", "OPTIONS, POST"),
    ],
)
async def test_options_lists_allowed_methods(serve: Serve, path: str, allowed: str) -> None:
    async with serve(**KEYS) as service, httpx.AsyncClient() as http:
        answer = await http.options(f"http://{service.base}{API}{path}")
        assert (answer.status_code, answer.headers["Allow"]) == (200, allowed)
        assert (await http.options(f"http://{service.base}{API}/what/ever")).status_code == 404
