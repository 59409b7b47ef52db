"""Attacks over sockets: what an attacker might try, and how the server responds.

In token mode, in every dialect, on one replica and on three.
"""

import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from unittest.mock import ANY
from urllib.parse import quote

import httpx
import pytest

from tests.clients import PATIENCE, Client, Service, settle
from tests.conftest import Serve, serve_once, serve_replicas
from tests.test_auth import BAD_TOKENS
from tests.test_web_app import upgrade
from tests.tokens import SECRET, make_token
from trio_signal.auth import MAX_TOKEN
from trio_signal.dialects import DIALECTS
from trio_signal.tokens import LEEWAY

#: Each dialect's path, and how it refuses a client.
PATHS = {
    "room": ("/ws/{room}/{user}", 4004, None),
    "live": ("/api/v1/ws/connect", 4001, "Authentication failed"),
    "stream": ("/ws", 1008, None),
    "mesh": ("/ws/{room}", 1008, None),
    "announce": ("/api/creator/broadcast/ws", 1008, "User not found"),
    "topics": ("/topics", 1008, None),
    "peerjs": ("/peerjs", 1008, None),
}
EVIL = "https://evil.example"


@pytest.fixture(params=["one replica", "three replicas"])
async def service(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    """A service in token mode."""
    given = {"jwt_secret": SECRET, "auth_failures_per_ip": 1000}
    if request.param == "one replica":
        async with serve_once(**given) as service:
            yield service
    else:
        async with serve_replicas(3, request.getfixturevalue("redis_url"), **given) as service:
            yield service


def browse(service: Service, token: str | None = None, **headers: str) -> httpx.AsyncClient:
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    return httpx.AsyncClient(base_url=f"http://{service.base}", headers=headers)


@asynccontextmanager
async def knock(
    service: Service,
    dialect: str,
    token: str | None,
    *,
    room: str = "r",
    user: str = "ann",
    query: str = "",
    **first: Any,
) -> AsyncIterator[Client]:
    """A connection that presents a token, as its dialect's clients do."""
    path = PATHS[dialect][0].format(room=room, user=user)
    if token is not None and dialect != "mesh":
        query += f"&token={quote(token)}"
    if dialect == "peerjs":
        query += f"&key=peerjs&id={user}"
    async with service.connect(f"{path}?{query}") as client:
        if dialect == "mesh":
            await client.expect("auth_required")
            await client.send("auth_token", **({"token": token} if token else {}), **first)
        yield client


@asynccontextmanager
async def enter(
    service: Service, dialect: str, user: str, *, room: str = "r", **claims: Any
) -> AsyncIterator[Client]:
    """A client that is in a room, or in none yet if the dialect joins later."""
    token = make_token(user, name=user.title(), **claims)
    async with knock(service, dialect, token, room=room, user=user) as client:
        match dialect:
            case "room":
                await client.wait_for("room_state")
            case "live":
                await client.expect("connected", user_id=user)
                await client.send("join_room", room_id=room)
                await client.expect("joined_room")
            case "stream":
                await client.send("join-stream", streamId=room)
                await client.expect("viewer-count")
            case "mesh":
                await client.wait_for("auth_success", user_id=user)
                await client.wait_for("users_in_room")
            case "announce":
                await client.expect("connected")
            case "topics":
                await client.send("subscribe", topic=room)
                await client.send("ping")
                await client.expect("pong")
            case "peerjs":
                await client.expect("OPEN")
        yield client


every_dialect = pytest.mark.parametrize("dialect", list(PATHS))
every_dialect_with_rooms = pytest.mark.parametrize(
    "dialect", [name for name in PATHS if name not in ("announce", "topics", "peerjs")]
)


def test_every_dialect_is_covered() -> None:
    assert set(PATHS) == set(DIALECTS)


# Tokens


PRESENTABLE = {
    name: token for name, make in BAD_TOKENS.items() if (token := make() or "").isascii()
}
#: For the request's head: a longer token is refused before anybody looks for one.
SHORT = {name: token for name, token in PRESENTABLE.items() if len(token) < MAX_TOKEN - 1000}


@every_dialect
async def test_bad_token_is_refused(service: Service, dialect: str) -> None:
    _, code, reason = PATHS[dialect]
    for token in PRESENTABLE.values() if dialect == "mesh" else SHORT.values():
        async with knock(service, dialect, token) as eve:
            if dialect == "peerjs":  # its clients read a message instead of a close reason
                assert [said["type"] for said in await eve.expect_close(code)] == ["ERROR"]
            else:
                assert await eve.expect_close(code, reason or "Invalid token") == []


async def test_huge_token_in_request_head_is_refused(service: Service) -> None:
    token = PRESENTABLE["gigantic"]
    assert (await upgrade(service, f"/ws/r/ann?token={token}")).status == 400
    answer = await upgrade(service, "/ws/r/ann", Authorization=f"Bearer {token}")
    assert answer.status == 400


async def test_bad_token_is_refused_over_http(service: Service) -> None:
    async with browse(service) as http:
        for token in filter(None, PRESENTABLE.values()):
            for path in ("/rooms", "/rooms/r", "/auth/me", "/rooms/r/messages"):
                answer = await http.get(path, headers={"Authorization": f"Bearer {token}"})
                assert (answer.status_code, answer.json()) == (401, {"detail": "Invalid token"})
                assert "www-authenticate" in answer.headers


@every_dialect
async def test_good_token_is_accepted(service: Service, dialect: str) -> None:
    async with enter(service, dialect, "ann"), enter(service, dialect, "bob"):
        pass


@pytest.mark.parametrize(
    "headers",
    [
        ("Authorization", "Bearer {}"),
        ("Cookie", "a=b; session_id={}"),
        ("Cookie", "session={}"),
    ],
)
async def test_token_is_read_from_headers(service: Service, headers: tuple[str, str]) -> None:
    name, value = headers
    for token, good in ((make_token("ann"), True), (make_token("ann", exp=1), False)):
        async with service.connect("/ws/r/ann", headers=[(name, value.format(token))]) as ann:
            if good:
                await ann.expect("room_state")
            else:
                await ann.expect_close(4004, "Invalid token")


async def test_token_is_read_from_subprotocol(service: Service) -> None:
    for token, good in ((make_token("ann"), True), (make_token("ann", exp=1), False)):
        async with service.connect("/ws/r/ann", subprotocols=["bearer", token]) as ann:
            assert ann.socket.subprotocol == "bearer"
            if good:
                await ann.expect("room_state")
            else:
                await ann.expect_close(4004, "Invalid token")


# Claimed identities


async def test_user_in_path_must_match_token(service: Service) -> None:
    for user in ("bob", "Ann", "ann%20", "%61nn%00"):
        async with knock(service, "room", make_token("ann"), user=user) as eve:
            assert await eve.expect_close(4004, "Identity mismatch") == []
    async with knock(service, "room", make_token("ann"), user="%61nn") as ann:
        await ann.expect("room_state")


async def test_user_in_query_or_body_must_match_token(service: Service) -> None:
    token = make_token("ann")
    async with knock(service, "live", token, query="user_id=bob") as eve:
        assert await eve.expect_close(1008, "Identity mismatch") == []
    async with knock(service, "live", token, query="user_id=ann&username=Boss") as ann:
        await ann.expect("connected", user_id="ann", username="Boss")
    async with browse(service, token) as http:
        answer = await http.get("/auth/me", params={"user_id": "bob"})
        assert (answer.status_code, answer.json()) == (403, {"detail": "Identity mismatch"})
        answer = await http.post("/rooms/r/join", json={"user_id": "bob", "username": "Eve"})
        assert (answer.status_code, answer.json()) == (403, {"detail": "Identity mismatch"})
        assert (await http.post("/rooms/r/join", json={"user_id": "ann"})).status_code == 200


async def test_client_id_of_another_user_is_refused(service: Service) -> None:
    async with knock(service, "mesh", make_token("ann"), clientId="one") as ann:
        await ann.expect("auth_success", client_id="one", user_id="ann")
        await ann.expect("users_in_room")
        async with knock(service, "mesh", make_token("eve"), clientId="one") as eve:
            assert await eve.expect_close(1008, "Client id in use") == []
        # The same user id from another issuer is another user.
        async with knock(service, "mesh", make_token("ann", iss="evil"), clientId="one") as eve:
            assert await eve.expect_close(1008, "Client id in use") == []
        await ann.expect_nothing()
        async with knock(service, "mesh", make_token("ann"), clientId="one") as again:
            await again.expect("auth_success", client_id="one")
            await ann.expect_close(4409)


async def test_token_name_overrides_client_name(service: Service) -> None:
    token = make_token("eve", name="Eve\u202e\nAdmin")
    async with (
        enter(service, "mesh", "ann") as ann,
        knock(service, "mesh", token, username="Ann") as eve,
    ):
        await eve.expect("auth_success", user="Eve Admin")
        await ann.expect("user_joined", username="Eve Admin")


async def test_control_characters_are_removed_from_names(service: Service) -> None:
    said, shown = "Eve\u202e\r\n\x1b[31m" + "x" * 99, "Eve [31m" + "x" * 56
    assert len(shown) == 64
    async with browse(service, make_token("eve")) as http:
        await http.post("/rooms/r/join", json={"user_id": "eve", "username": said})
    async with (
        enter(service, "mesh", "ann") as ann,
        knock(service, "room", make_token("eve"), user="eve") as eve,
    ):
        await ann.expect("user_joined", username=shown)  # the name given by REST
        await eve.send("profile_updated", username="\u2066", prevUsername=said)
        await eve.wait_for("profile_updated", username=shown, prevUsername=shown)
        await eve.send("profile_updated", username=f"\u202e{said}")
        await eve.expect("profile_updated", username=shown)
    async with knock(service, "live", make_token("bob"), query=f"username={quote(said)}") as bob:
        await bob.expect("connected", username=shown)


FORGED = {
    "from": "ann",
    "from_user_id": "ann",
    "sender_id": "ann",
    "user_id": "ann",
    "username": "Ann",
    "client_id": "ann",
    "viewerId": "ann",
}


async def test_sender_cannot_be_forged_in_room(service: Service) -> None:
    """Sender fields in a message are ignored, in every dialect."""
    async with (
        enter(service, "room", "ann") as ann,
        enter(service, "room", "bob") as bob,
        enter(service, "room", "eve") as eve,
    ):
        await settle(ann, bob, eve)
        await ann.settle()
        await bob.settle()
        await eve.send("message", content="hi", **FORGED)
        told = await bob.expect("message", user_id="eve", username="Eve")
        assert "ann" not in json.dumps({**told, "content": ""})
        await eve.send("webrtc-signal", target_user_id="bob", signal={}, **FORGED)
        await bob.expect("webrtc-signal", from_user_id="eve", from_username="Eve")
        await eve.send("typing_start", **FORGED)
        await bob.expect("typing_start", user_id="eve", username="Eve")
        await eve.send("broadcast-started", **FORGED)
        await bob.expect("broadcast-started", user_id="eve", username="Eve")


async def test_sender_cannot_be_forged_in_live(service: Service) -> None:
    async with enter(service, "live", "bob") as bob, enter(service, "live", "eve") as eve:
        await bob.expect("user_joined")
        await eve.send("live_offer", room_id="r", target_user_id="bob", payload=1, **FORGED)
        await bob.expect("live_offer", from_user_id="eve")
        await eve.send("send_message", room_id="r", content="hi", **FORGED)
        await bob.expect("message", sender_id="eve", sender_username="Eve")


async def test_sender_cannot_be_forged_in_mesh(service: Service) -> None:
    async with enter(service, "mesh", "bob") as bob, enter(service, "mesh", "eve") as eve:
        me = (await bob.expect("user_joined"))["client_id"]
        for type_, field in (("offer", "offer"), ("answer", "answer"), ("message", "data")):
            await eve.send(type_, **{field: 1}, **FORGED)
            await bob.expect(type_, from_=me, username="Eve")


async def test_sender_cannot_be_forged_in_stream(service: Service) -> None:
    async with enter(service, "stream", "host") as host:
        await host.send("broadcaster-ready", streamId="r")
        await host.settle()
        async with enter(service, "stream", "eve") as eve:
            joined = await host.wait_for("viewer-joined")
            await eve.send("webrtc-answer", streamId="r", answer=1, **FORGED)
            await host.expect("webrtc-answer", viewerId=joined["viewerId"])
            await eve.send("webrtc-ice-candidate", streamId="r", candidate=1, **FORGED)
            await host.expect("webrtc-ice-candidate", viewerId=joined["viewerId"])


SERVER_ONLY = {
    "room": ("room_state", "user_joined", "user_left", "active-broadcasts"),
    "live": ("joined_room", "user_left", "live_peer_joined", "live_peer_left", "message"),
    "stream": ("viewer-joined", "viewer-left", "stream-ended", "broadcaster-disconnected"),
    "mesh": ("user_joined", "user_left", "broadcast_started", "auth_success", "token_renewed"),
    "announce": ("new_broadcast", "broadcast_cleared", "broadcast_acknowledged", "connected"),
    "topics": ("pong",),
    "peerjs": ("OPEN", "ERROR", "ID-TAKEN", "EXPIRE"),
}


@every_dialect
async def test_server_only_messages_are_not_relayed(service: Service, dialect: str) -> None:
    async with enter(service, dialect, "bob") as bob, enter(service, dialect, "eve") as eve:
        await settle(bob, eve)
        await bob.settle()
        for type_ in SERVER_ONLY[dialect]:
            await eve.send(type_, room_id="r", streamId="r", users=[], **FORGED)
        await settle(eve)
        await bob.expect_nothing()


# Rooms


@every_dialect_with_rooms
async def test_room_without_grant_cannot_be_entered(service: Service, dialect: str) -> None:
    token = make_token("eve", rooms=["mine", "team-*"])
    async with enter(service, dialect, "ann", room="secret") as ann:
        for room in ("secret", "xteam-1", "MINE"):
            async with knock(service, dialect, token, room=room, user="eve") as eve:
                match dialect:
                    case "room":
                        assert await eve.expect_close(4004, "Not allowed in this room") == []
                    case "mesh":
                        assert await eve.expect_close(1008, "Not allowed in this room") == []
                    case "live":
                        await eve.expect("connected")
                        for type_ in ("join_room", "live_status"):
                            await eve.send(type_, room_id=room)
                            await eve.expect("error", message="Not allowed in this room")
                    case "stream":
                        for type_ in ("join-stream", "broadcaster-ready"):
                            await eve.send(type_, streamId=room)
                            await eve.expect("error", code="not_allowed")
        await ann.expect_nothing()


async def test_signal_into_room_without_grant_is_not_delivered(service: Service) -> None:
    token = make_token("eve", rooms=["mine"])
    async with (
        enter(service, "live", "ann", room="secret") as ann,
        knock(service, "live", token) as eve,
        enter(service, "stream", "host", room="show") as host,
        knock(service, "stream", token) as viewer,
    ):
        await eve.expect("connected")
        await eve.send("join_room", room_id="mine")
        await eve.expect("joined_room")
        for type_ in ("live_offer", "live_answer", "live_ice"):
            await eve.send(type_, room_id="secret", target_user_id="ann", payload=1)
        await eve.send("send_message", room_id="secret", content="hi")
        await eve.expect("error")
        await eve.send("typing", room_id="secret")
        await eve.expect_nothing()
        await ann.expect_nothing()
        await host.send("broadcaster-ready", streamId="show")
        await host.settle()
        await viewer.send("webrtc-answer", streamId="show", answer=1)
        await viewer.send("webrtc-ice-candidate", streamId="show", candidate=1)
        await viewer.expect("error", code="not_allowed")
        await viewer.expect("error", code="not_allowed")
        await host.expect_nothing()


async def test_rooms_cannot_be_enumerated(service: Service) -> None:
    async with (
        enter(service, "room", "ann", room="secret"),
        enter(service, "room", "bob", room="team-1"),
    ):
        for path in ("/rooms", "/rooms/secret", "/rooms/secret/messages", "/rooms/none"):
            async with browse(service) as http:
                answer = await http.get(path)
                assert (answer.status_code, answer.json()) == (
                    401,
                    {"detail": "Authentication required"},
                )
        async with browse(service, make_token("eve", rooms=["team-*"])) as http:
            listed = (await http.get("/rooms")).json()
            assert [room["id"] for room in listed] == ["team-1"]
            listed = (await http.get("/api/rooms")).json()
            assert [room["room_id"] for room in listed] == ["team-1"]
            # The answer is the same whether the room exists or not.
            for path in ("/rooms/{}", "/rooms/{}/messages", "/api/rooms/{}/info"):
                for room in ("secret", "none"):
                    method = "POST" if path.startswith("/api") else "GET"
                    answer = await http.request(method, path.format(room))
                    assert (answer.status_code, answer.json()) == (
                        403,
                        {"detail": "Not allowed in this room"},
                    )
            assert (await http.get("/rooms/team-1")).json()["users"]
            answer = await http.post("/rooms/secret/join", json={"user_id": "eve"})
            assert answer.status_code == 403
        async with browse(service) as http:
            for path in ("/healthz", "/readyz", "/health"):
                answer = await http.get(path)
                assert answer.status_code == 200
                assert "secret" not in answer.text
            answer = await http.post("/rooms/secret/join", json={"user_id": "ann"})
            assert answer.status_code == 401


# Grants


async def test_going_live_needs_publish_grant(service: Service) -> None:
    async with AsyncExitStack() as stack:
        watching = await stack.enter_async_context(enter(service, "mesh", "ann"))
        for dialect, start, answer in (
            ("room", {"type": "broadcast-started"}, "Not allowed to broadcast"),
            ("live", {"type": "live_start", "room_id": "r"}, "Not allowed to go live"),
            ("mesh", {"type": "broadcast_start"}, "Not allowed"),
        ):
            eve = await stack.enter_async_context(enter(service, dialect, "eve", publish=False))
            await eve.settle()
            await eve.send_json(start)
            await eve.expect("error", message=answer)
        viewer = make_token("eve", publish=False)
        stream = await stack.enter_async_context(knock(service, "stream", viewer))
        await stream.send("broadcaster-ready", streamId="r")
        while (await stream.receive()).get("code") != "not_allowed":
            pass
        told = {message["type"] for message in await watching.settle()}
        assert told == {"user_joined"}


async def test_broadcaster_name_comes_from_token(service: Service) -> None:
    async with enter(service, "room", "ann") as ann, enter(service, "room", "bob") as bob:
        await ann.expect("user_joined")
        await ann.send("broadcast-started", username="Somebody Else")
        await bob.expect("broadcast-started", username="Ann")
        async with enter(service, "room", "late") as late:
            active = await late.expect("active-broadcasts")
            assert active["broadcasters"][0]["username"] == "Ann"
        await bob.wait_for("user_left")
        await ann.send("broadcast-stopped", username="Somebody Else")
        await bob.expect("broadcast-stopped", username="Ann")


async def test_only_moderators_can_kick(service: Service) -> None:
    async with enter(service, "mesh", "bob") as bob, enter(service, "mesh", "eve") as eve:
        await bob.expect("user_joined")
        (him,) = [user["client_id"] for user in eve.log[-1]["users"]]
        await eve.send("kick", client_id=him, reason="out")
        await eve.expect("error", code="not_allowed")
        await eve.send("kick", client_id="nobody")
        await eve.expect("error", code="not_allowed")  # and does not learn who is there
        await bob.expect_nothing()


@every_dialect_with_rooms
async def test_moderator_kicks_peer_of_any_dialect(service: Service, dialect: str) -> None:
    async with (
        enter(service, dialect, "eve") as eve,
        enter(service, "mesh", "mod", moderator=True) as mod,
    ):
        (her,) = [user["client_id"] for user in mod.log[-1]["users"]]
        await mod.send("kick", client_id=her, reason="Be kind")
        await eve.expect_close(1008, "Be kind")
        await mod.expect("user_left", client_id=her)
        await mod.send("kick", client_id=her)
        await mod.expect("error", code="target_not_found")


async def test_kick_removes_peer_from_one_room_only(service: Service) -> None:
    token = make_token("eve")
    async with AsyncExitStack() as stack:
        enter_context = stack.enter_async_context
        eve = await enter_context(enter(service, "live", "eve", room="r"))
        await eve.send("join_room", room_id="s")
        await eve.expect("joined_room", room_id="s")
        await eve.send("live_start", room_id="r")
        await eve.expect("live_peers")
        bob = await enter_context(enter(service, "live", "bob", room="r"))
        mod = await enter_context(enter(service, "mesh", "mod", moderator=True))
        witness = await enter_context(enter(service, "live", "cat", room="s"))
        for client in (eve, bob):
            await client.settle()
        (her,) = [user["client_id"] for user in mod.log[-1]["users"] if user["username"] == "Eve"]
        await mod.expect("active_broadcasts")
        await mod.send("kick", client_id=her, reason="Be kind")
        await eve.expect("left_room", room_id="r")
        await eve.expect("error", message="Be kind")
        assert [(await bob.receive())["type"] for _ in range(2)] == ["live_peer_left", "user_left"]
        await mod.wait_for("broadcast_stopped", client_id=her)
        await mod.expect("user_left", client_id=her)
        for client in (eve, bob, mod, witness):
            await client.expect_nothing()
        # It stays in the other room, and cannot rejoin this one.
        await eve.send("send_message", room_id="s", content="still here")
        await witness.expect("message", content="still here")
        await eve.wait_for("message_sent")
        await eve.send("join_room", room_id="r")
        await eve.expect("error", message="Not allowed in this room")
        # A reconnect does not restore the room either.
        await eve.close()
        await witness.expect("user_left", user_id="eve")
        async with knock(service, "live", token) as again:
            await again.expect("connected")
            await again.expect("joined_room", room_id="s")
            await again.expect_nothing()
        for client in (bob, mod):
            await client.expect_nothing()


async def test_kicked_user_is_kept_out_in_every_dialect(service: Service) -> None:
    async with enter(service, "mesh", "mod", moderator=True) as mod:
        async with enter(service, "mesh", "eve") as eve:
            joined = await mod.expect("user_joined")
            await mod.send("kick", client_id=joined["client_id"])
            await eve.expect_close(1008, "Kicked")
            await mod.expect("user_left", client_id=joined["client_id"])
        token = make_token("eve")
        for dialect in [*PATHS] * 2:  # on one replica and on another
            async with knock(service, dialect, token, user="eve") as eve:
                match dialect:
                    case "mesh":
                        await eve.expect_close(1008, "Not allowed in this room")
                    case "room":
                        await eve.expect_close(4004, "Not allowed in this room")
                    case "live":
                        await eve.expect("connected")
                        await eve.send("join_room", room_id="r")
                        await eve.expect("error", message="Not allowed in this room")
                    case "stream":
                        await eve.send("join-stream", streamId="r")
                        await eve.expect("error", code="not_allowed")
        headers = {"Authorization": f"Bearer {token}"}
        for _ in range(2):
            async with httpx.AsyncClient(
                base_url=f"http://{service.base}", headers=headers, timeout=PATIENCE
            ) as http:
                said = {"user_id": "eve", "content": "I am still here"}
                assert (await http.post("/rooms/r/messages", json=said)).status_code == 403
                for path in ("/rooms/r", "/rooms/r/messages"):
                    assert (await http.get(path)).status_code == 403
                assert (await http.post("/rooms/s/messages", json=said)).status_code == 200
        async with knock(service, "live", token) as eve:
            await eve.expect("connected")
            await eve.send("live_status", room_id="r")
            await eve.expect("error", message="Not allowed in this room")
        await mod.expect_nothing()
        async with enter(service, "mesh", "eve", room="s"), enter(service, "mesh", "bob"):
            await mod.expect("user_joined", username="Bob")


async def test_peer_id_of_lost_connection_stays_reserved(service: Service) -> None:
    """Otherwise its signals would go to whoever took the id, and it could not reconnect."""
    me, her = make_token("ann", name="Ann"), make_token("eve")
    async with enter(service, "mesh", "bob") as bob:
        async with knock(service, "mesh", me, clientId="ann-1") as ann:
            await ann.expect("auth_success", client_id="ann-1")
            await bob.expect("user_joined", client_id="ann-1")
            ann.reset()
            await bob.expect("user_left", client_id="ann-1")
        for _ in range(3):
            async with knock(service, "mesh", her, clientId="ann-1") as eve:
                await eve.expect_close(1008, "Client id in use")
        await bob.expect_nothing()
        async with (
            knock(service, "mesh", her, room="s", clientId="ann-1") as eve,
            knock(service, "mesh", me, clientId="ann-1") as ann,
        ):
            await eve.expect("auth_success", client_id="ann-1")
            await ann.expect("auth_success", client_id="ann-1")
            await bob.expect("user_joined", client_id="ann-1")
            await bob.send("offer", offer=1, to_="ann-1")
            await ann.wait_for("offer", offer=1)


async def test_moderator_cannot_kick_in_another_room(service: Service) -> None:
    async with (
        enter(service, "mesh", "ann", room="secret") as ann,
        enter(service, "mesh", "mod", room="r", moderator=True, rooms=["r"]) as mod,
    ):
        await mod.send("kick", client_id=ann.log[1]["client_id"])
        await mod.expect("error", code="target_not_found")
        await ann.expect_nothing()


async def test_stream_of_another_user_cannot_be_taken(service: Service) -> None:
    async with enter(service, "stream", "host") as host:
        await host.send("broadcaster-ready", streamId="r")
        await host.settle()
        async with enter(service, "stream", "eve") as eve:
            await eve.settle()
            await eve.send("broadcaster-ready", streamId="r")
            await eve.expect("error", code="stream_taken")
            await eve.send("end-stream", streamId="r")
            await eve.expect("error", code="not_allowed")
        told = {message["type"] for message in await host.settle()}
        assert told == {"viewer-count", "viewer-joined", "viewer-left"}


# Token renewal


async def test_connection_closes_when_token_expires(service: Service) -> None:
    end = int(time.time()) + 10
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(enter(service, dialect, "ann", exp=end - LEEWAY))
            for dialect in PATHS
        ]
        own = {"live": "Authentication failed", "peerjs": "Invalid token provided"}
        for client, (dialect, (_, code, _)) in zip(clients, PATHS.items(), strict=True):
            await client.expect_close(code, own.get(dialect, "Token expired"))
            assert time.time() >= end


async def test_token_of_another_user_does_not_renew(service: Service) -> None:
    async with enter(service, "mesh", "ann", exp=int(time.time()) + 30) as ann:
        await ann.settle()
        assert {"type": "token_expiring", "expires_in": ANY} in ann.log
        for token in (
            make_token("eve"),
            make_token("ann", exp=1),
            make_token("ann", rooms=["else"]),
            make_token("ann", iss="another"),  # another issuer's ann is another user
            None,
        ):
            await ann.send("auth_token", token=token)
            await ann.expect("error", code="invalid_token")
        await ann.send("auth_token", token=make_token("ann"))
        await ann.expect("token_renewed")


# Other sites


async def test_other_sites_cannot_use_the_cookie(service: Service) -> None:
    cookie = f"session={make_token('ann')}"
    answer = await upgrade(service, "/ws/r/ann", Cookie=cookie, Origin=EVIL)
    assert answer.status == 403
    replica = Service(service.base)
    own = f"http://{replica.base}"
    async with browse(replica, Cookie=cookie) as http:
        for origin, status in ((EVIL, 403), ("null", 403), (None, 403), (own, 200)):
            joined = await http.post(
                "/rooms/r/join",
                json={"user_id": "ann"},
                headers={"Origin": origin} if origin is not None else {},
            )
            assert joined.status_code == status
        read = await http.get("/auth/me", headers={"Origin": EVIL})
        assert "access-control-allow-origin" not in read.headers


async def test_cookies_are_ignored_when_all_origins_are_allowed(serve: Serve) -> None:
    """`*` is for pages that send a token on purpose; a browser sends cookies on its own."""
    token = make_token("ann")
    origin = ("Origin", EVIL)
    given = {"jwt_secret": SECRET, "allowed_origins": "*, https://app.example.com"}
    async with serve(**given) as service:
        cookie = ("Cookie", f"session={token}")
        async with service.connect("/ws/r/ann", headers=[cookie, origin]) as ann:
            await ann.expect_close(4004, "Invalid token")
        for headers in (
            [("Authorization", f"Bearer {token}"), origin],
            [cookie, ("Origin", "https://app.example.com")],
            [cookie, ("Origin", f"http://{service.base}")],
            [cookie],
        ):
            async with service.connect("/ws/r/ann", headers=headers) as ann:
                await ann.expect("room_state")
        async with browse(service, Cookie=f"session={token}", Origin=EVIL) as http:
            answer = await http.post("/rooms/r/join", json={"user_id": "ann"})
            assert answer.status_code == 403
