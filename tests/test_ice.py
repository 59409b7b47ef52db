"""Which STUN and TURN servers clients receive, and their credentials."""

import base64
import hashlib
import hmac
import time
from typing import Any

import httpx
import pytest

from tests.conftest import Serve, settings
from tests.tokens import SECRET, make_token
from trio_signal.ice import ice_servers, turn_credentials

TURN = {"turn_urls": "turn:turn.example.com:3478, turns:turn.example.com", "turn_secret": "north"}
STUN = {"stun_urls": "stun:stun.example.com:3478"}
URLS = ["turn:turn.example.com:3478", "turns:turn.example.com"]


def test_credentials_follow_coturns_scheme() -> None:
    made = turn_credentials(settings(**TURN, turn_ttl=600), "ann")
    expiry, user = made.username.split(":")
    assert user == "ann"
    assert int(expiry) == pytest.approx(time.time() + 600, abs=10)
    digest = hmac.new(b"north", made.username.encode(), hashlib.sha1).digest()
    assert base64.b64decode(made.credential) == digest


@pytest.mark.parametrize("user_id", ["a b", "é", "a:b", "x" * 129, "\ud800", "a\nb", ""])
def test_unusual_user_id_is_hashed(user_id: str) -> None:
    made = turn_credentials(settings(**TURN), user_id)
    _, user = made.username.split(":")
    assert len(user) == 64
    assert user.isalnum()
    assert user != turn_credentials(settings(**TURN), user_id + "x").username.split(":")[1]


def test_only_configured_servers_are_sent() -> None:
    assert ice_servers(settings(), "ann") == ()
    assert ice_servers(settings(**STUN), "ann") == ({"urls": ("stun:stun.example.com:3478",)},)
    assert [server["urls"] for server in ice_servers(settings(**STUN, **TURN), "ann")] == [
        ("stun:stun.example.com:3478",),
        tuple(URLS),
    ]


def check(servers: list[dict[str, Any]], user: str) -> None:
    stun, turn = servers
    assert stun == {"urls": ["stun:stun.example.com:3478"]}
    assert (turn["urls"], turn["username"].split(":")[1]) == (URLS, user)
    assert turn["credential"]


async def test_authenticated_client_gets_its_own_credentials(serve: Serve) -> None:
    async with (
        serve(jwt_secret=SECRET, **STUN, **TURN) as service,
        service.connect("/ws/r") as ann,
        service.connect("/ws/r") as eve,
    ):
        assert set(await ann.expect("auth_required")) == {"type", "message"}
        await ann.send("auth_token", token=make_token("ann"))
        check((await ann.expect("auth_success"))["ice_servers"], "ann")
        await eve.expect("auth_required")
        await eve.send("auth_token", token="nonsense")
        assert await eve.expect_close(1008, "Invalid token") == []


async def test_http_credentials_need_a_token(serve: Serve) -> None:
    async with (
        serve(jwt_secret=SECRET, **STUN, **TURN, turn_ttl=600) as service,
        httpx.AsyncClient(base_url=f"http://{service.base}") as http,
    ):
        for path in ("/ice-servers", "/auth/turn-credentials"):
            assert (await http.get(path)).status_code == 401
            answer = await http.get(path, headers={"Authorization": "Bearer x"})
            assert answer.status_code == 401
            assert "turn" not in answer.text
        http.headers["Authorization"] = f"Bearer {make_token('ann')}"
        answer = await http.get("/ice-servers")
        assert answer.headers["cache-control"] == "no-store"
        assert (answer.status_code, answer.json()["ttl"]) == (200, 600)
        check(answer.json()["iceServers"], "ann")
        answer = await http.get("/auth/turn-credentials")
        assert answer.headers["cache-control"] == "no-store"
        made = answer.json()
        assert set(made) == {"username", "credential", "urls", "ttl"}
        assert (made["urls"], made["ttl"]) == (URLS, 600)


async def test_open_mode_gives_credentials_to_everybody(serve: Serve) -> None:
    async with (
        serve(**STUN, **TURN) as service,
        httpx.AsyncClient(base_url=f"http://{service.base}") as http,
    ):
        check((await http.get("/ice-servers")).json()["iceServers"], "guest")
        check((await http.get("/ice-servers?user_id=ann")).json()["iceServers"], "ann")


async def test_without_turn_there_are_no_credentials(serve: Serve) -> None:
    async with (
        serve(jwt_secret=SECRET) as service,
        httpx.AsyncClient(base_url=f"http://{service.base}") as http,
    ):
        http.headers["Authorization"] = f"Bearer {make_token('ann')}"
        assert (await http.get("/auth/turn-credentials")).status_code == 503
        assert (await http.get("/ice-servers")).json()["iceServers"] == []
