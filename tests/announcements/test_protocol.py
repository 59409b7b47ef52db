"""Every row of the protocol's page, by real clients, in every setup."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from uuid import UUID

import pytest

from tests.announcements.office import WEBSOCKET, Office, open_office, token_of
from tests.clients import Client, Service, settle
from tests.conftest import serve_once
from tests.tokens import SECRET
from trio_signal.dialects import announce
from trio_signal.messages.commands import IdlePing

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


# The WebSocket


async def test_connected_comes_first(office: Office) -> None:
    async with office.connect("ann") as ann:
        message = await ann.receive()
        assert message == {"type": "connected", "message": "Connected to broadcast live updates"}
        await ann.expect_nothing()


async def test_new_broadcast_reaches_everybody_and_the_creator(office: Office) -> None:
    async with office.attend("ann") as ann, office.attend("boss") as boss:
        id_ = await office.announce("Hello", type="warning")
        for client in (ann, boss):
            message = await client.expect("new_broadcast")
            created_at = message["broadcast"].pop("created_at")
            assert TIME.fullmatch(created_at)
            assert message["broadcast"] == {
                "id": id_,
                "message": "Hello",
                "message_type": "warning",
                "created_by": "boss",
            }
            await client.expect_nothing()


async def test_late_joiners_receive_active_broadcast(office: Office) -> None:
    id_ = await office.announce("Hello")
    async with office.attend("ann") as ann:
        message = await ann.expect("active_broadcast")
        assert TIME.fullmatch(message["broadcast"].pop("created_at"))
        assert message["broadcast"] == {
            "id": id_,
            "message": "Hello",
            "message_type": "info",
            "created_by": "boss",
        }


async def test_ping_is_answered_by_pong(office: Office) -> None:
    async with office.attend("ann") as ann:
        await ann.send_text("ping")
        assert await ann.receive_text() == "pong"


@pytest.mark.parametrize(
    "text",
    [
        *("pong", "", "hello", "{", '"ping"', "[]", "7", "null", "{}", '{"type": 7}'),
        *('{"type": "nonsense"}', '{"type": "acknowledge_broadcast"}'),
        '{"type": "acknowledge_broadcast", "broadcast_id": 7}',
        '{"type": "acknowledge_broadcast", "broadcast_id": "unknown"}',
        "[" * 10_000,
    ],
)
async def test_other_text_is_ignored(text: str) -> None:
    async with serve_once() as service, open_office(service) as office:
        await office.announce("Hello")
        async with office.attend("ann") as ann:
            await ann.expect("active_broadcast")
            for _ in range(60):
                await ann.send_text(text)
            await ann.expect_nothing()


async def test_get_active_broadcast(office: Office) -> None:
    async with office.attend("ann") as ann:
        await ann.send("get_active_broadcast")
        await ann.expect_nothing()
        id_ = await office.announce("Hello")
        await ann.expect("new_broadcast")
        await ann.send("get_active_broadcast")
        message = await ann.expect("active_broadcast")
        assert (message["broadcast"]["id"], message["broadcast"]["created_by"]) == (id_, "boss")
        await ann.send("acknowledge_broadcast", broadcast_id=id_)
        await ann.send("get_active_broadcast")
        await ann.expect_nothing()


async def test_only_the_creator_receives_broadcast_acknowledged(office: Office) -> None:
    async with (
        office.attend("ann") as ann,
        office.attend("bob") as bob,
        office.attend("boss") as boss,
        office.attend("boss") as boss_too,
    ):
        id_ = await office.announce("Hello")
        for client in (ann, bob, boss, boss_too):
            await client.expect("new_broadcast")
        for number, client in enumerate((ann, bob), 1):
            await client.send("acknowledge_broadcast", broadcast_id=id_)
            for each in (boss, boss_too):
                message = await each.receive()
                assert message == {
                    "type": "broadcast_acknowledged",
                    "broadcast_id": id_,
                    "acknowledged": number,
                }
        for client in (ann, bob, boss, boss_too):
            await client.expect_nothing()


async def test_a_user_with_many_connections_counts_once(office: Office) -> None:
    async with (
        office.attend("ann") as one,
        office.attend("ann") as two,
        office.attend("ann") as three,
        office.attend("boss") as boss,
    ):
        await settle(one, two, three, boss)
        assert (await office.stats())["connected_users_total"] == 2
        id_ = await office.announce("Hello")
        for client in (one, two, three, boss):
            await client.expect("new_broadcast")
        for client in (one, two, three):
            await client.send("acknowledge_broadcast", broadcast_id=id_)
            await settle(client)
        await boss.expect("broadcast_acknowledged", acknowledged=1)
        await office.call("POST", "/acknowledge", "bob", json={"broadcast_id": id_})
        await boss.wait_for("broadcast_acknowledged", acknowledged=2)
        for client in (one, two, three):
            await client.expect_nothing()
    async with office.attend("ann") as again:
        await again.expect_nothing()


async def test_broadcast_cleared(office: Office) -> None:
    async with office.attend("ann") as ann, office.attend("boss") as boss:
        await office.announce("Hello")
        status, answer = await office.call("POST", "/clear", "boss")
        assert (status, answer) == (
            200,
            {
                "status": "success",
                "message": "Broadcast cleared successfully",
                "cleared_for_users": 2,
            },
        )
        for client in (ann, boss):
            await client.expect("new_broadcast")
            message = await client.receive()
            assert message == {
                "type": "broadcast_cleared",
                "message": "Active broadcast has been cleared",
            }
            await client.send("get_active_broadcast")
            await client.expect_nothing()


async def test_a_newer_announcement_replaces_the_older(office: Office) -> None:
    async with office.attend("ann") as ann:
        first = await office.announce("one")
        await ann.expect("new_broadcast")
        await ann.send("acknowledge_broadcast", broadcast_id=first)
        second = await office.announce("two")
        await ann.expect("new_broadcast")
        status, answer = await office.call(
            "POST", "/acknowledge", "ann", json={"broadcast_id": first}
        )
        assert (status, answer) == (404, {"status": "error", "message": "Broadcast not found"})
        assert await office.active("ann") == second


async def test_a_silent_client_is_pinged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announce, "_IDLE_PING", IdlePing(b"ping", 0.05))
    async with serve_once() as service, service.connect(f"{WEBSOCKET}?user_id=ann") as ann:
        await ann.expect("connected")
        assert [await ann.receive_text() for _ in range(3)] == ["ping"] * 3


def test_the_ping_interval_is_thirty_seconds() -> None:
    assert IdlePing(b"ping", 30.0) == announce._IDLE_PING


async def test_a_connection_without_a_user_id_is_refused(office: Office) -> None:
    async with office.service.connect(WEBSOCKET) as nobody:
        assert await nobody.expect_close(1008, "User not found") == []


# REST


async def test_answer_to_a_broadcast(office: Office) -> None:
    async with office.attend("ann") as ann, office.attend("bob") as bob:
        await settle(ann, bob)
        status, answer = await office.call("POST", "", "boss", json={"message": "  Grüße 👋  "})
        assert str(UUID(answer.pop("id")))
        assert (status, answer) == (
            200,
            {
                "status": "success",
                "message": "Broadcast sent successfully to 2 connected users.",
                "character_count": 7,
                "max_characters": 280,
                "sent_to_users": 2,
            },
        )
        message = await ann.expect("new_broadcast")
        assert message["broadcast"]["message"] == "Grüße 👋"
        assert message["broadcast"]["message_type"] == "info"


async def test_clearing_nothing_tells_nobody(office: Office) -> None:
    async with office.attend("ann") as ann:
        _, answer = await office.call("POST", "/clear", "boss")
        assert answer["cleared_for_users"] == 0
        await ann.expect_nothing()


async def test_acknowledging_by_rest(office: Office) -> None:
    id_ = await office.announce("Hello")
    assert await office.active("ann") == id_
    for _ in range(2):
        answer = await office.call("POST", "/acknowledge", "ann", json={"broadcast_id": id_})
        assert answer == (200, {"status": "success"})
        assert await office.active("ann") is None
    assert await office.active("bob") == id_
    async with office.attend("ann") as ann:
        await ann.expect_nothing()


async def test_the_active_announcement_by_rest(office: Office) -> None:
    assert await office.call("GET", "/active", "ann") == (200, {"broadcast": None})
    id_ = await office.announce("Hello", type="alert")
    assert await office.call("GET", "/active", "ann") == (
        200,
        {
            "broadcast": {
                "id": id_,
                "message": "Hello",
                "type": "alert",
                "message_type": "alert",
            }
        },
    )


async def test_limits(office: Office) -> None:
    for active in (0, 1):
        assert await office.call("GET", "/limits", "boss") == (
            200,
            {
                "max_characters": 280,
                "recommended_length": 120,
                "current_active_broadcasts": active,
            },
        )
        await office.announce("Hello")


async def test_stats(office: Office) -> None:
    async with office.attend("ann", at=0) as ann, office.attend("boss", at=-1) as boss:
        await settle(ann, boss)
        here = 1 if len(office.service.bases) > 1 else 2
        assert await office.stats(at=0) == {
            "broadcasts_today": 0,
            "active_broadcast": False,
            "connected_users": here,
            "connected_users_total": 2,
            "connected_users_note": "Count is for this replica only",
            "max_characters": 280,
        }
        await office.announce("one")
        await office.announce("two")
        await office.announce("from another", caller="rival")
        stats = await office.stats()
        assert (stats["broadcasts_today"], stats["active_broadcast"]) == (2, True)


# Identity by tokens


@asynccontextmanager
async def open_known_office() -> AsyncIterator[Office]:
    """A service that requires tokens."""
    async with serve_once(jwt_secret=SECRET) as service, open_office(service) as office:
        yield office


async def as_(office: Office, caller: str, method: str, name: str, **how: object) -> object:
    headers = {"Authorization": f"Bearer {token_of(caller)}"}
    return await office.call(method, name, headers=headers, **how)  # type: ignore[arg-type]


CREATORS_CALLS = [("POST", ""), ("POST", "/clear"), ("GET", "/limits"), ("GET", "/stats")]
USERS_CALLS = [("POST", "/acknowledge"), ("GET", "/active")]


@pytest.mark.parametrize(("method", "name"), [*CREATORS_CALLS, *USERS_CALLS])
async def test_calls_without_a_valid_token_are_refused(method: str, name: str) -> None:
    async with open_known_office() as office:
        expected = 401, {"detail": "Authentication required"}
        assert await office.call(method, name, json={}) == expected
        assert await office.call(method, name, "boss", json={}) == expected
        assert await as_(office, "bad", method, name, json={}) == expected


@pytest.mark.parametrize(("method", "name"), CREATORS_CALLS)
@pytest.mark.parametrize("caller", ["ann", "aide"])
async def test_users_without_the_grant_cannot_announce(caller: str, method: str, name: str) -> None:
    async with open_known_office() as office:
        assert await as_(office, caller, method, name, json={"message": "Hello"}) == (
            403,
            {"detail": "Only creators can perform this action"},
        )
        assert await as_(office, "boss", "GET", "/active") == (200, {"broadcast": None})


async def test_new_broadcast_names_the_creator_whose_team_hears_acknowledgements() -> None:
    async with open_known_office() as office:

        async def attend(who: str) -> Client:
            client = await stack.enter_async_context(
                office.service.connect(f"{WEBSOCKET}?token={token_of(who)}")
            )
            await client.expect("connected")
            return client

        async with AsyncExitStack() as stack:
            boss, aide, ann, rival = [await attend(w) for w in ("boss", "aide", "ann", "rival")]
            await as_(office, "boss", "POST", "", json={"message": "Hello"})
            for client in (boss, aide, ann, rival):
                message = await client.expect("new_broadcast")
                assert message["broadcast"]["created_by"] == "Boss"
            await ann.send("acknowledge_broadcast", broadcast_id=message["broadcast"]["id"])
            for client in (boss, aide):
                await client.expect("broadcast_acknowledged", acknowledged=1)
            bob = await attend("bob")
            message = await bob.expect("active_broadcast")
            assert message["broadcast"]["created_by"] == "boss"
            for client in (ann, rival):
                await client.expect_nothing()


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "User not found"),
        ("?user_id=ann", "User not found"),
        ("?token=bad", "User not found"),
        (f"?token={token_of('ann')}&user_id=bob", "Identity mismatch"),
    ],
)
async def test_connections_with_a_wrong_identity_are_refused(query: str, reason: str) -> None:
    async with open_known_office() as office, office.service.connect(WEBSOCKET + query) as client:
        assert await client.expect_close(1008, reason) == []


async def test_another_site_cannot_use_a_cookie() -> None:
    async with open_known_office() as office:
        for origin in ({"Origin": "https://evil.example"}, {}):
            headers = {"Cookie": f"session={token_of('boss')}", **origin}
            status, _ = await office.call("POST", "", headers=headers, json={"message": "Hello"})
            assert status == 403
        assert await as_(office, "boss", "GET", "/active") == (200, {"broadcast": None})
        headers = {
            "Cookie": f"session_id={token_of('boss')}",
            "Origin": f"http://{office.service.base}",
        }
        status, _ = await office.call("POST", "", headers=headers, json={"message": "Hello"})
        assert status == 200


async def test_in_open_mode_anybody_may_announce_and_see(office: Office) -> None:
    status, answer = await office.call("POST", "", json={"message": "Hello"})
    assert status == 200
    assert await office.active() == answer["id"]
    async with office.attend("ann") as ann:
        message = await ann.expect("active_broadcast")
        assert message["broadcast"]["created_by"] == "anonymous"
    body = {"broadcast_id": answer["id"]}
    assert await office.call("POST", "/acknowledge", json=body) == (
        401,
        {"detail": "Authentication required"},
    )


# The lobby is private


async def test_the_lobby_is_not_a_room(service: Service, office: Office) -> None:
    async with office.attend("ann") as ann:
        await settle(ann)
        for path in ("/rooms", "/rooms/%00lobby", "/rooms/%00lobby/messages", "/health"):
            answer = await office.http.get(f"http://{service.base}{path}")
            assert "ann" not in answer.text
        assert (await office.http.get(f"http://{service.base}/rooms")).json() == []
        assert (await office.http.get(f"http://{service.base}/health")).json()["rooms"] == 0
        metrics = (await office.http.get(f"http://{service.base}/metrics")).text
        assert "trio_signal_rooms 0.0" in metrics
        async with service.connect("/ws/%00lobby/eve") as eve:
            await eve.expect_close(4004)
        async with service.connect("/ws/%00lobby") as eve:
            await eve.expect("auth_required")
            await eve.send("auth_token", username="eve")
            assert "ann" not in str(await eve.expect_close(1008))
        await ann.expect_nothing()
