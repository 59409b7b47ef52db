"""The `mesh` dialect as its clients see it: every row of its page, over real sockets.

To show that somebody received nothing, a test uses a fence: a message from whoever could have
caused it, which must be the next to arrive.
"""

import re
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest
import trio

from tests.clients import PATIENCE, Client, Message, Service
from tests.conftest import Serve, serve_once
from tests.leaving import WAYS
from tests.raw import open_raw
from trio_signal.auth import make_login_token

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def path(room: str = "r") -> str:
    return f"/ws/{quote(room, safe='')}"


@asynccontextmanager
async def enter(
    service: Service, client_id: str, *, room: str = "r", **fields: Any
) -> AsyncIterator[Client]:
    """A client that is in the room; its name comes from its id."""
    async with service.connect(path(room)) as client:
        await client.expect("auth_required")
        claims = {"token": "t", "clientId": client_id, "username": client_id.title(), **fields}
        await client.send("auth_token", **claims)
        await client.expect("auth_success", client_id=client_id, user=claims["username"])
        await client.expect("users_in_room")
        yield client


@asynccontextmanager
async def enter_all(
    service: Service, *client_ids: str, room: str = "r"
) -> AsyncIterator[list[Client]]:
    """Clients that have joined one after the other and seen each other join."""
    async with AsyncExitStack() as stack:
        clients: list[Client] = []
        for client_id in client_ids:
            newcomer = await stack.enter_async_context(enter(service, client_id, room=room))
            for client in clients:
                await client.expect("user_joined", client_id=client_id)
            clients.append(newcomer)
        yield clients


async def fence(sender: Client, *others: Client) -> None:
    """Nothing that this client did up to now reached the others."""
    await sender.send("message", data="fence")
    for other in others:
        await other.expect("message", data="fence")


async def go_live(client: Client, *others: Client, **fields: str) -> None:
    await client.send("broadcast_start", **fields)
    for other in others:
        await other.expect("broadcast_started")


# Connecting


async def test_first_client_receives_all_it_needs(service: Service) -> None:
    async with service.connect(path()) as ann:
        question = await ann.expect("auth_required")
        assert question["message"]
        await ann.send("auth_token", token="t", clientId="ann", username="Ann")
        success = await ann.receive()
        assert success == {
            "type": "auth_success",
            "user": "Ann",
            "client_id": "ann",
            "message": success["message"],
            "user_id": "ann",
            "room_id": "r",
            "ice_servers": [],
            "heartbeat": 20.0,
            "protocol": 1,
        }
        assert success["message"]
        assert await ann.receive() == {"type": "users_in_room", "users": []}
        await ann.expect_nothing()


async def test_newcomer_receives_members_and_is_announced(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob), service.connect(path()) as carl:
        await carl.expect("auth_required")
        await carl.send("auth_token", token="t", clientId="carl", username="Carl")
        await carl.expect("auth_success")
        assert await carl.receive() == {
            "type": "users_in_room",
            "users": [
                {"client_id": "ann", "username": "Ann"},
                {"client_id": "bob", "username": "Bob"},
            ],
        }
        for other in (ann, bob):
            assert await other.receive() == {
                "type": "user_joined",
                "room_id": "r",
                "from": "carl",
                "client_id": "carl",
                "username": "Carl",
                "connected_users": 3,
            }
        await fence(ann, bob, carl)
        await fence(bob, ann, carl)


async def test_late_joiner_receives_active_broadcasts(service: Service) -> None:
    async with enter_all(service, "ann", "bob", "carl") as (ann, bob, carl):
        await go_live(ann, bob, carl, media_type="audio")
        await go_live(carl, ann, bob)
        async with enter(service, "dora") as dora:
            active = await dora.expect("active_broadcasts")
            heard = [message for message in bob.log if message["type"] == "broadcast_started"]
            assert active == {
                "type": "active_broadcasts",
                "broadcasters": [
                    {
                        "client_id": "ann",
                        "username": "Ann",
                        "media_type": "audio",
                        "started_at": heard[0]["started_at"],
                    },
                    {
                        "client_id": "carl",
                        "username": "Carl",
                        "media_type": "video",
                        "started_at": heard[1]["started_at"],
                    },
                ],
            }


async def test_late_joiner_does_not_receive_ended_broadcasts(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await go_live(ann, bob)
        await ann.send("broadcast_stop")
        await bob.expect("broadcast_stopped")
        async with enter(service, "carl") as carl:
            for other in (ann, bob):
                await other.expect("user_joined", client_id="carl")
            await fence(ann, carl, bob)


@pytest.mark.parametrize("fields", [{}, {"token": None}, {"token": "any"}, {"more": [{}]}])
async def test_missing_id_and_name_are_generated(service: Service, fields: dict[str, Any]) -> None:
    async with service.connect(path()) as client:
        await client.expect("auth_required")
        await client.send("auth_token", **fields)
        success = await client.expect("auth_success")
        assert uuid.UUID(success["client_id"]).version == 4
        assert re.fullmatch(r"Guest-[0-9a-f]{4}", success["user"])
        assert success["user_id"] == success["client_id"]


@pytest.mark.parametrize("nothing", ["", None])
async def test_empty_id_and_name_count_as_missing(service: Service, nothing: str | None) -> None:
    async with service.connect(path()) as client:
        await client.expect("auth_required")
        await client.send("auth_token", token="t", clientId=nothing, username=nothing)
        success = await client.expect("auth_success")
        assert uuid.UUID(success["client_id"])
        assert success["user"].startswith("Guest-")


async def test_generated_ids_are_unique(service: Service) -> None:
    ids = set()
    async with AsyncExitStack() as stack:
        for _ in range(5):
            client = await stack.enter_async_context(service.connect(path()))
            await client.send("auth_token", token="t")
            ids.add((await client.wait_for("auth_success"))["client_id"])
            assert len((await client.expect("users_in_room"))["users"]) == len(ids) - 1
    assert len(ids) == 5


async def test_login_token_of_open_mode_gives_the_name(service: Service) -> None:
    async with service.connect(path()) as client:
        await client.send("auth_token", token=make_login_token("Ännchen"))
        await client.wait_for("auth_success", user="Ännchen")


@pytest.mark.parametrize("client_id", ["a", "A-z_0", "x" * 64, "-", "0"])
async def test_client_may_choose_its_id(service: Service, client_id: str) -> None:
    async with enter(service, client_id):
        pass


@pytest.mark.parametrize("client_id", ["x" * 65, "a b", "a.b", "ä", "a\n"])
async def test_invalid_id_is_refused(service: Service, client_id: str) -> None:
    async with service.connect(path()) as client:
        await client.send("auth_token", token="t", clientId=client_id)
        (question,) = await client.expect_close(1008, "Invalid client id")
        assert question["type"] == "auth_required"


@pytest.mark.parametrize("room", ["r", "a room", "a/b", "Straße ☃", "ws", "%41", "x" * 256, "?#"])
async def test_room_ids_may_be_any_text(service: Service, room: str) -> None:
    async with enter(service, "ann", room=room) as ann, enter(service, "bob", room=room) as bob:
        assert ann.log[1]["room_id"] == room
        await ann.expect("user_joined", client_id="bob", room_id=room)
        assert bob.log[2]["users"] == [{"client_id": "ann", "username": "Ann"}]


async def test_client_settings_are_sent(serve: Serve) -> None:
    async with (
        serve(stun_urls="stun:a.example, stun:b.example", heartbeat=7) as service,
        enter(service, "ann") as ann,
    ):
        success = ann.log[1]
        assert success["ice_servers"] == [{"urls": ["stun:a.example", "stun:b.example"]}]
        assert success["heartbeat"] == 7


# Connecting: failures


@pytest.mark.parametrize(
    "first",
    [
        '{"type": "ping"}',
        '{"type": "message", "data": 1}',
        '{"type": "offer", "offer": {}, "to": "ann"}',
        '{"type": "broadcast_start"}',
        '{"type": "nonsense"}',
        '{"type": "auth_token", "clientId": {}}',
        "{}",
        "[]",
        "nonsense",
        "",
    ],
)
async def test_first_message_must_authenticate(service: Service, first: str) -> None:
    async with enter(service, "ann") as ann, service.connect(path()) as client:
        await client.expect("auth_required")
        await client.send_text(first)
        assert await client.expect_close(1008, "Authentication required") == []
        await ann.expect_nothing()


async def test_token_must_be_text(service: Service) -> None:
    async with enter(service, "ann") as ann, service.connect(path()) as client:
        await client.expect("auth_required")
        await client.send("auth_token", token=7, clientId="bob")
        assert await client.expect_close(1008, "Invalid token") == []
        await ann.send("auth_token", token={})
        await ann.expect("error", code="invalid_message")
        await ann.expect_nothing()


async def test_authentication_times_out(serve: Serve) -> None:
    async with serve(auth_timeout=1) as service:
        async with service.connect(path()) as client:
            (question,) = await client.expect_close(1008, "Authentication timeout")
            assert question["type"] == "auth_required"
        async with enter(service, "ann") as ann:
            # Authenticated clients have no time limit.
            await trio.sleep(1.2)
            await ann.send("ping")
            await ann.expect("pong")


async def test_unauthenticated_client_is_not_present(service: Service) -> None:
    async with service.connect(path()) as stranger, enter(service, "ann") as ann:
        assert ann.log[2]["users"] == []
        await stranger.close()
        async with enter(service, "bob"):
            await ann.expect("user_joined", client_id="bob", connected_users=2)


async def test_full_room_is_refused_until_a_peer_leaves(serve: Serve) -> None:
    async with serve(max_room_peers=2) as service, enter_all(service, "ann", "bob") as (ann, bob):
        async with service.connect(path()) as carl:
            await carl.send("auth_token", token="t")
            await carl.expect_close(1013, "Room is full")
        async with enter(service, "carl", room="another"):
            pass
        await bob.close()
        await ann.expect("user_left", client_id="bob", connected_users=1)
        async with enter(service, "carl"):
            await ann.expect("user_joined", client_id="carl", connected_users=2)


# Connecting: an id that is in use


@pytest.mark.parametrize(
    "fields",
    [
        {"token": "another", "username": "Ann"},
        {"token": "t", "username": "Somebody else"},
        {"username": "Ann"},
        {"token": "t"},
    ],
)
async def test_id_in_use_by_another_user_is_refused(
    service: Service, fields: dict[str, str]
) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob), service.connect(path()) as thief:
        await thief.expect("auth_required")
        await thief.send("auth_token", clientId="ann", **fields)
        assert await thief.expect_close(1008, "Client id in use") == []
        await fence(ann, bob)
        await fence(bob, ann)


async def test_id_may_be_used_in_several_rooms(service: Service) -> None:
    async with (
        enter(service, "ann") as ann,
        enter(service, "ann", room="another", token="another"),
    ):
        await ann.send("ping")
        await ann.expect("pong")


async def test_same_identity_takes_over_its_id(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        async with enter(service, "ann") as newer:
            assert newer.log[2]["users"] == [{"client_id": "bob", "username": "Bob"}]
            assert await ann.expect_close(4409) == []
            await fence(newer, bob)
            await bob.send("offer", offer=1, to="ann")
            await newer.expect("offer", from_="bob")
        await bob.expect("user_left", client_id="ann", connected_users=1)
        await bob.expect_nothing()


async def test_broadcast_ends_with_its_connection(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await go_live(ann, bob)
        async with enter(service, "ann") as newer:
            await bob.expect("broadcast_stopped", client_id="ann")
            await fence(newer, bob)
            await go_live(newer, bob)
            async with enter(service, "carl") as carl:
                (broadcaster,) = (await carl.expect("active_broadcasts"))["broadcasters"]
                assert broadcaster["client_id"] == "ann"


@pytest.mark.parametrize("way", ["vanish", "reset", "say_goodbye"])
async def test_late_end_of_a_stale_connection_is_harmless(service: Service, way: str) -> None:
    async with enter(service, "bob") as bob, open_raw(service.base) as stale:
        await stale.upgrade(path())
        await stale.say({"type": "auth_token", "token": "t", "clientId": "a", "username": "A"})
        await bob.expect("user_joined", client_id="a")
        async with enter(service, "a") as newer:
            await WAYS[way].leave(stale)
            await fence(newer, bob)
        await bob.expect("user_left", client_id="a", connected_users=1)


async def test_of_concurrent_clients_one_keeps_the_id(service: Service) -> None:
    taken_over = trio.Semaphore(0)

    async def take_over() -> None:
        async with service.connect(path()) as ann:
            await ann.send("auth_token", token="t", clientId="ann", username="Ann")
            await ann.expect_close(4409)
            taken_over.release()

    with trio.fail_after(PATIENCE):
        async with enter(service, "bob") as bob, trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(take_over)
            await bob.expect("user_joined", client_id="ann", connected_users=2)
            for _ in range(19):
                await taken_over.acquire()
            async with enter(service, "ann") as last:
                await taken_over.acquire()
                await fence(last, bob)
                await fence(bob, last)
            await bob.expect("user_left", client_id="ann", connected_users=1)


# Messages: signals

KINDS = {"offer": "offer", "answer": "answer", "ice_candidate": "candidate", "message": "data"}
PAYLOADS = [
    '{"type": "offer",  "sdp":"v=0\\r\\no=- 1 2 IN IP4 127.0.0.1\\r\\n"}',
    '{"b":1.50,"a":1e3,"a":"twice","u":"\\u00e4\\ud83d\\ude00 ä😀","s":"\\/"}',
    '"text"',
    '""',
    "null",
    "{ }",
    "[\t]",
    "-0.0",
    "123456789012345678901234567890",
    "[" * 200 + "]" * 200,
]


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize(("type_", "field"), KINDS.items())
async def test_payload_is_relayed_byte_for_byte(
    service: Service, type_: str, field: str, payload: str
) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send_text(f'{{"type":"{type_}","{field}":{payload},"to":"bob"}}')
        expected = f'{{"type":"{type_}","{field}":{payload},"from":"ann","username":"Ann"}}'
        assert await bob.receive_text() == expected


@pytest.mark.parametrize(("type_", "field"), KINDS.items())
async def test_signal_with_a_target_reaches_only_it(
    service: Service, type_: str, field: str
) -> None:
    async with enter_all(service, "ann", "bob", "carl") as (ann, bob, carl):
        await ann.send(type_, to="bob", **{field: "x"})
        assert await bob.receive() == {"type": type_, field: "x", "from": "ann", "username": "Ann"}
        await fence(ann, bob, carl)
        await ann.expect_nothing()


@pytest.mark.parametrize("nobody", [{}, {"to": None}, {"to": ""}])
@pytest.mark.parametrize(("type_", "field"), KINDS.items())
async def test_signal_without_a_target_reaches_all_others(
    service: Service, type_: str, field: str, nobody: dict[str, Any]
) -> None:
    async with enter_all(service, "ann", "bob", "carl") as (ann, bob, carl):
        await ann.send(type_, **{field: "x"}, **nobody)
        for other in (bob, carl):
            assert await other.receive() == {
                "type": type_,
                field: "x",
                "from": "ann",
                "username": "Ann",
            }
        await fence(ann, bob, carl)
        await fence(bob, ann, carl)


async def test_server_sets_the_sender(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        forged = {"from_": "bob", "username": "Bob", "client_id": "bob", "user_id": "bob"}
        await ann.send("offer", offer=1, to="bob", **forged)
        assert await bob.receive() == {
            "type": "offer",
            "offer": 1,
            "from": "ann",
            "username": "Ann",
        }


@pytest.mark.parametrize(("type_", "field"), KINDS.items())
@pytest.mark.parametrize("target", ["nobody", "ann", "dora"])
async def test_error_names_the_missing_target(
    service: Service, type_: str, field: str, target: str
) -> None:
    """An unknown id, the sender itself, and a peer in another room."""
    async with (
        enter_all(service, "ann", "bob") as (ann, bob),
        enter(service, "dora", room="another") as dora,
    ):
        await ann.send(type_, to=target, **{field: "x"})
        assert await ann.receive() == {
            "type": "error",
            "message": f"Target client {target} not found",
            "code": "target_not_found",
            "to": target,
        }
        await fence(ann, bob)
        await dora.expect_nothing()


async def test_departed_target_is_an_error(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await bob.close()
        await ann.expect("user_left", client_id="bob")
        await ann.send("ice_candidate", candidate=None, to="bob")
        await ann.expect("error", code="target_not_found", to="bob")


async def test_nothing_leaks_into_another_room(service: Service) -> None:
    async with (
        enter_all(service, "ann", "bob") as (ann, bob),
        enter_all(service, "ann", "bob", room="another") as (other_ann, other_bob),
    ):
        await go_live(ann, bob)
        await ann.send("offer", offer=1)
        await ann.send("offer", offer=2, to="bob")
        await bob.expect("offer", offer=1)
        await bob.expect("offer", offer=2)
        await bob.close()
        await ann.expect("user_left")
        await fence(other_ann, other_bob)
        await fence(other_bob, other_ann)


async def test_signals_arrive_in_order(service: Service) -> None:
    async with enter_all(service, "ann", "bob", "carl") as (ann, bob, carl):
        sent = []
        for n in range(200):
            type_ = list(KINDS)[n % 4]
            to = "bob" if n % 3 else None
            await ann.send(type_, to=to, **{KINDS[type_]: n})
            sent.append((n, to))
        for receiver, mine in ((bob, sent), (carl, [each for each in sent if not each[1]])):
            for n, _ in mine:
                type_ = list(KINDS)[n % 4]
                await receiver.expect(type_, **{KINDS[type_]: n})


# Messages: broadcasts


@pytest.mark.parametrize(
    ("fields", "media_type"),
    [({}, "video"), ({"media_type": "video"}, "video"), ({"media_type": "audio"}, "audio")],
)
async def test_broadcast_start_and_stop_are_announced(
    service: Service, fields: dict[str, str], media_type: str
) -> None:
    async with enter_all(service, "ann", "bob", "carl") as (ann, bob, carl):
        await ann.send("broadcast_start", **fields)
        for other in (bob, carl):
            started = await other.receive()
            assert started == {
                "type": "broadcast_started",
                "from": "ann",
                "client_id": "ann",
                "username": "Ann",
                "media_type": media_type,
                "started_at": started["started_at"],
            }
            assert TIMESTAMP.fullmatch(started["started_at"])
        await ann.send("broadcast_stop")
        for other in (bob, carl):
            assert await other.receive() == {
                "type": "broadcast_stopped",
                "from": "ann",
                "client_id": "ann",
                "username": "Ann",
            }
        await fence(bob, ann)


async def test_restarted_broadcast_is_announced_once(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await go_live(ann, bob)
        await ann.send("broadcast_start", media_type="video")
        await fence(ann, bob)


async def test_other_media_are_announced_with_the_same_start(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send("broadcast_start", media_type="audio")
        first = await bob.expect("broadcast_started", media_type="audio")
        await ann.send("broadcast_start", media_type="video")
        await bob.expect("broadcast_started", media_type="video", started_at=first["started_at"])
        await ann.send("broadcast_stop")
        await bob.expect("broadcast_stopped")
        await fence(ann, bob)


async def test_stopping_without_a_broadcast_is_not_announced(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send("broadcast_stop")
        await fence(ann, bob)
        await go_live(ann, bob)
        await ann.send("broadcast_stop")
        await ann.send("broadcast_stop")
        await bob.expect("broadcast_stopped")
        await fence(ann, bob)
        await ann.expect_nothing()


# Messages: others


@pytest.mark.parametrize(
    ("ping", "pong"),
    [
        ('{"type": "ping"}', '{"type":"pong"}'),
        ('{"type": "ping", "id": 7}', '{"type":"pong","id":7}'),
        ('{"type": "ping", "id": "x y"}', '{"type":"pong","id":"x y"}'),
        ('{"type": "ping", "id": null}', '{"type":"pong","id":null}'),
        ('{"type": "ping", "id": {"a": 1.0}}', '{"type":"pong","id":{"a": 1.0}}'),
    ],
)
async def test_ping_is_answered(service: Service, ping: str, pong: str) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send_text(ping)
        assert await ann.receive_text() == pong
        await fence(ann, bob)


async def test_repeated_token_is_ignored_in_open_mode(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send("auth_token", token="another", clientId="other", username="Other")
        await ann.send("message", data=1)
        await bob.expect("message", data=1, from_="ann", username="Ann")
        await ann.expect_nothing()


async def test_message_size_is_limited(serve: Serve) -> None:
    async with serve(max_message_bytes=2000) as service, enter_all(service, "ann", "bob") as both:
        ann, bob = both
        text = '{"type":"message","data":""}'
        filling = "x" * (2000 - len(text))
        await ann.send_text(text.replace('""', f'"{filling}"'))
        await bob.expect("message", data=filling)
        await ann.send_text(text.replace('""', f'"x{filling}"'))
        assert await ann.expect_close(1009) == []
        await bob.expect("user_left", client_id="ann")


# Leaving, however it happens


async def test_stopping_server_closes_with_1001() -> None:
    async def stay(service: Service, client_id: str, *, task_status: trio.TaskStatus[None]) -> None:
        async with enter(service, client_id) as client:
            task_status.started()
            await client.expect_close(1001)

    async def hesitate(service: Service, *, task_status: trio.TaskStatus[None]) -> None:
        async with service.connect(path()) as client:
            task_status.started()
            await client.expect_close(1001)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery, serve_once() as service:
            await nursery.start(stay, service, "ann")
            await nursery.start(stay, service, "bob")
            await nursery.start(hesitate, service)


# Peers of all dialects in one room


async def expect_joined(client: Client, connected_users: int) -> Message:
    """Somebody joined, with this count."""
    return await client.expect("user_joined", connected_users=connected_users, room_id="r")


async def test_peers_of_other_dialects_are_visible(service: Service) -> None:
    async with (
        enter(service, "ann") as ann,
        service.connect("/ws/r/rob?username=Rob") as rob,
        service.connect("/api/v1/ws/connect?user_id=liv&username=Liv") as liv,
    ):
        joined = await expect_joined(ann, 2)
        rob_id = joined["client_id"]
        assert joined["username"] == "Rob"
        assert rob_id != "rob", "a user may have several peers"
        await rob.wait_for("room_state")
        await liv.send("join_room", room_id="r")
        joined = await expect_joined(ann, 3)
        assert joined["username"] == "Liv"
        await rob.wait_for("user_joined", user_id="liv")
        await liv.send("live_start", room_id="r", media_type="audio")
        await ann.expect("broadcast_started", username="Liv", media_type="audio")
        await rob.wait_for("broadcast-started", username="Liv")
        await go_live(ann)
        await rob.wait_for("broadcast-started", user_id="ann", username="Ann")
        await ann.send("offer", offer={"sdp": 1}, to=rob_id)
        signal = await rob.wait_for("webrtc-signal", from_user_id="ann")
        assert signal["signal"] == {"sdp": 1}
        async with enter(service, "dora") as dora:
            users = {user["username"] for user in dora.log[2]["users"]}
            assert users == {"Ann", "Rob", "Liv"}
            active = await dora.expect("active_broadcasts")
            assert [b["username"] for b in active["broadcasters"]] == ["Ann", "Liv"]
        await ann.wait_for("user_left", client_id="dora")
        await liv.close()
        await ann.expect("broadcast_stopped", username="Liv")
        await ann.expect("user_left", username="Liv", connected_users=2)


async def test_mesh_peer_broadcasts_to_a_stream_viewer(service: Service) -> None:
    async with enter(service, "ann") as ann, service.connect("/ws") as viewer:
        await go_live(ann)
        await viewer.send("join-stream", streamId="r")
        await viewer.expect("viewer-count", count=2)
        viewer_id = (await expect_joined(ann, 2))["client_id"]
        assert viewer_id.startswith("client_")
        await ann.send("offer", offer={"sdp": 1}, to=viewer_id)
        await viewer.expect("webrtc-offer", offer={"sdp": 1}, viewerId=viewer_id)
        await viewer.send("webrtc-answer", streamId="r", answer={"sdp": 2}, viewerId="forged")
        await ann.expect("answer", answer={"sdp": 2}, from_=viewer_id)
        await viewer.send("ice-candidate", streamId="r", candidate=None)
        await ann.expect("ice_candidate", candidate=None, from_=viewer_id)
        await ann.send("ice_candidate", candidate="c", to=viewer_id)
        await viewer.expect("webrtc-ice-candidate", candidate="c", viewerId=viewer_id)
        await ann.send("broadcast_stop")
        await viewer.expect("stream-ended", streamId="r")
