"""The `live` dialect as its clients see it: every row of its page, over real sockets."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlencode

import pytest
import trio

from tests.clients import Client, Message, Service
from tests.conftest import Serve, serve_replicas
from tests.leaving import WAYS, Way
from tests.raw import open_raw

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def path(**query: str) -> str:
    return f"/api/v1/ws/connect?{urlencode(query)}"


@asynccontextmanager
async def sign_in(service: Service, user_id: str, **query: str) -> AsyncIterator[Client]:
    """A client that has received the greeting and is in no room."""
    query = {"token": "t", "user_id": user_id, "username": user_id.title(), **query}
    async with service.connect(path(**query)) as client:
        await client.expect("connected", user_id=user_id)
        yield client


async def join(client: Client, room_id: str = "r") -> Message:
    await client.send("join_room", room_id=room_id)
    return await client.expect("joined_room", room_id=room_id)


@asynccontextmanager
async def enter(service: Service, user_id: str, room_id: str = "r") -> AsyncIterator[Client]:
    """A client that is in one room."""
    async with sign_in(service, user_id) as client:
        await join(client, room_id)
        yield client


@asynccontextmanager
async def enter_all(service: Service, *user_ids: str) -> AsyncIterator[list[Client]]:
    """Clients that have joined one after the other and seen each other join."""
    async with AsyncExitStack() as stack:
        clients: list[Client] = []
        for user_id in user_ids:
            newcomer = await stack.enter_async_context(enter(service, user_id))
            for client in clients:
                await client.expect("user_joined", user_id=user_id)
            clients.append(newcomer)
        yield clients


async def go_live(client: Client, *others: Client, media_type: str = "video") -> Message:
    """Start a broadcast, which the others receive next; return the answer with who else is live."""
    await client.send("live_start", room_id="r", media_type=media_type)
    for other in others:
        await other.expect("live_peer_joined", media_type=media_type)
    return await client.expect("live_peers")


async def ask_who_is_live(client: Client, room_id: str = "r") -> list[Any]:
    await client.send("live_status", room_id=room_id)
    answer = await client.expect("live_peers", room_id=room_id)
    assert isinstance(answer["peers"], list)
    return answer["peers"]


async def expect_silence(client: Client, *others: Client, room_id: str = "r") -> None:
    """None of them receives anything before a message that the first one sends now."""
    await client.send("send_message", room_id=room_id, content="Is anybody talking?")
    for listener in (client, *others):
        await listener.expect("message", content="Is anybody talking?")
    await client.expect("message_sent")


def without_time(message: Message) -> Message:
    """The message without its timestamp, which is checked here."""
    assert TIMESTAMP.fullmatch(message["timestamp"]), message
    return {name: value for name, value in message.items() if name != "timestamp"}


# On connect


async def test_user_is_greeted(service: Service) -> None:
    async with service.connect(path(token="t", user_id="ann", username="Ann Ä")) as ann:
        greeting = await ann.receive()
        assert isinstance(greeting["message"], str)
        assert without_time(greeting) == {
            "type": "connected",
            "user_id": "ann",
            "username": "Ann Ä",
            "message": greeting["message"],
        }
        await ann.expect_nothing()


@pytest.mark.parametrize("query", [{}, {"token": "t"}, {"user_id": "", "username": ""}])
async def test_anonymous_client_is_a_guest_with_its_own_id(
    service: Service, query: dict[str, str]
) -> None:
    async with service.connect(path(**query)) as first, service.connect(path(**query)) as second:
        greetings = [await guest.expect("connected") for guest in (first, second)]
        assert greetings[0]["user_id"] != greetings[1]["user_id"]
        assert all(greeting["username"].startswith("Guest-") for greeting in greetings)
        await join(first)
        joined = await join(second)
        assert joined["members"] == [greeting["user_id"] for greeting in greetings]


# join_room and leave_room


async def test_join_returns_members_and_is_announced(
    service: Service,
) -> None:
    async with sign_in(service, "ann") as ann, sign_in(service, "bob") as bob:
        assert without_time(await join(ann)) == {
            "type": "joined_room",
            "room_id": "r",
            "room_name": "r",
            "members": ["ann"],
        }
        assert (await join(bob))["members"] == ["ann", "bob"]
        assert without_time(await ann.receive()) == {
            "type": "user_joined",
            "room_id": "r",
            "user_id": "bob",
        }
        await expect_silence(bob, ann)


async def test_joining_again_is_answered_but_not_announced(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        assert (await join(ann))["members"] == ["ann", "bob"]
        await expect_silence(ann, bob)


async def test_leaving_is_answered_and_announced(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send("leave_room", room_id="r")
        assert without_time(await ann.receive()) == {"type": "left_room", "room_id": "r"}
        assert without_time(await bob.receive()) == {
            "type": "user_left",
            "room_id": "r",
            "user_id": "ann",
        }
        await expect_silence(bob)
        await ann.expect_nothing()


async def test_leaving_ends_the_broadcast_first(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await go_live(ann, bob)
        await ann.send("leave_room", room_id="r")
        await ann.expect("left_room")
        assert [without_time(await bob.receive()) for _ in range(2)] == news_of_leaving("ann")
        await join(ann)
        await bob.expect("user_joined", user_id="ann")
        assert await ask_who_is_live(bob) == []


async def test_leaving_without_having_joined_is_answered(
    service: Service,
) -> None:
    async with enter(service, "ann") as ann, sign_in(service, "bob") as bob:
        await bob.send("leave_room", room_id="r")
        await bob.expect("left_room", room_id="r")
        await expect_silence(ann)


async def test_one_socket_may_join_many_rooms(service: Service) -> None:
    rooms = [f"land_265_{n}" for n in range(20)]
    async with sign_in(service, "ann") as ann, sign_in(service, "bob") as bob:
        for room_id in rooms:
            await join(ann, room_id)
            await join(bob, room_id)
            await ann.expect("user_joined", room_id=room_id)
        await bob.send("live_start", room_id=rooms[3])
        await bob.expect("live_peers", room_id=rooms[3], peers=[])
        await ann.expect("live_peer_joined", room_id=rooms[3])
        await bob.send("leave_room", room_id=rooms[5])
        await ann.expect("user_left", room_id=rooms[5])
        await bob.expect("left_room")
        await bob.close()
        left = [await ann.receive() for _ in range(20)]
        assert [m["room_id"] for m in left if m["type"] == "live_peer_left"] == [rooms[3]]
        assert sorted(m["room_id"] for m in left if m["type"] == "user_left") == sorted(
            {*rooms} - {rooms[5]}
        )
        await expect_silence(ann, room_id=rooms[0])


@pytest.mark.parametrize("room_id", ["Zimmer 1/ä", "😀", "a?b&c#d%20", " ", "x" * 256])
async def test_room_ids_may_be_any_text(service: Service, room_id: str) -> None:
    async with sign_in(service, "ann") as ann, sign_in(service, "bob") as bob:
        assert (await join(ann, room_id))["room_name"] == room_id
        await join(bob, room_id)
        await ann.expect("user_joined", room_id=room_id, user_id="bob")


# live_start, live_stop, live_status


@pytest.mark.parametrize(
    ("fields", "media_type"),
    [({}, "video"), ({"media_type": "video"}, "video"), ({"media_type": "audio"}, "audio")],
)
async def test_live_start_is_announced_and_returns_other_live_peers(
    service: Service, fields: dict[str, str], media_type: str
) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send("live_start", room_id="r", username="Eve", user_id="eve", **fields)
        assert without_time(await bob.receive()) == {
            "type": "live_peer_joined",
            "room_id": "r",
            "user_id": "ann",
            "username": "Ann",
            "media_type": media_type,
        }
        assert await ann.receive() == {"type": "live_peers", "room_id": "r", "peers": []}
        answer = await go_live(bob, ann)
        assert answer["peers"] == [{"user_id": "ann", "username": "Ann", "media_type": media_type}]
        await expect_silence(ann, bob)


async def test_live_status_omits_the_requester(service: Service) -> None:
    async with enter_all(service, "ann", "bob", "cat") as (ann, bob, cat):
        await go_live(ann, bob, cat, media_type="audio")
        await go_live(bob, ann, cat)
        ann_live = {"user_id": "ann", "username": "Ann", "media_type": "audio"}
        bob_live = {"user_id": "bob", "username": "Bob", "media_type": "video"}
        assert await ask_who_is_live(cat) == [ann_live, bob_live]
        for broadcaster in (ann, bob):
            await broadcaster.expect("live_peer_joined", user_id="cat", listener=True)
        for _ in range(3):
            assert await ask_who_is_live(ann) == [bob_live]
            assert await ask_who_is_live(bob) == [ann_live]
            assert await ask_who_is_live(cat) == [ann_live, bob_live]
        await expect_silence(ann, bob, cat)


async def test_live_status_omits_the_requester_in_all_its_tabs(
    service: Service,
) -> None:
    async with (
        enter_all(service, "bob", "ann") as (bob, ann),
        enter(service, "ann") as tab,
        sign_in(service, "ann") as outside,
    ):
        await go_live(ann, bob)
        for client in (ann, tab, outside):
            assert await ask_who_is_live(client) == []
        assert [peer["user_id"] for peer in await ask_who_is_live(bob)] == ["ann"]


async def test_live_status_needs_no_membership(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob), sign_in(service, "cat") as cat:
        assert await ask_who_is_live(cat) == []
        await go_live(ann, bob)
        assert [peer["user_id"] for peer in await ask_who_is_live(cat)] == ["ann"]
        assert await ask_who_is_live(cat, "nowhere") == []
        await ann.send("live_stop", room_id="r")
        await bob.expect("live_peer_left")
        assert await ask_who_is_live(cat) == []
        await expect_silence(ann, bob)
        await cat.expect_nothing()


async def test_late_joiner_queries_who_is_live(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await go_live(ann, bob)
        async with enter(service, "late") as late:
            await late.expect_nothing()
            assert [peer["user_id"] for peer in await ask_who_is_live(late)] == ["ann"]


async def test_stopping_is_announced_to_the_others_only(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await go_live(ann, bob)
        await ann.send("live_stop", room_id="r")
        assert without_time(await bob.receive()) == news_of_leaving("ann")[0]
        await expect_silence(ann, bob)


async def test_stopping_without_being_live_is_not_announced(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob), sign_in(service, "cat") as cat:
        await ann.send("live_stop", room_id="r")
        await cat.send("live_stop", room_id="r")
        await expect_silence(ann, bob)
        await cat.expect_nothing()


async def test_going_live_again_is_announced_only_with_other_media(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await go_live(ann, bob, media_type="audio")
        await ann.send("live_start", room_id="r", media_type="audio")
        await ann.expect("live_peers")
        await expect_silence(ann, bob)
        await go_live(ann, bob, media_type="video")
        await ann.send("live_stop", room_id="r")
        await bob.expect("live_peer_left")
        await expect_silence(ann, bob)


# live_offer, live_answer, live_ice


@pytest.mark.parametrize("type_", ["live_offer", "live_answer", "live_ice"])
@pytest.mark.parametrize("live", [(), ("ann",), ("bob",), ("ann", "bob")])
async def test_signals_work_in_both_directions(
    service: Service, type_: str, live: tuple[str, ...]
) -> None:
    async with enter_all(service, "ann", "bob", "cat") as (ann, bob, cat):
        clients = {"ann": ann, "bob": bob, "cat": cat}
        for user_id in live:
            others = [client for name, client in clients.items() if name != user_id]
            await go_live(clients[user_id], *others)
        for sender, target in (("ann", "bob"), ("bob", "ann")):
            await clients[sender].send(
                type_,
                room_id="r",
                target_user_id=target,
                payload={"to": target},
                from_user_id="cat",
            )
            assert without_time(await clients[target].receive()) == {
                "type": type_,
                "room_id": "r",
                "from_user_id": sender,
                "payload": {"to": target},
            }
        await expect_silence(ann, bob, cat)


OPAQUE = [
    '{"type":"offer","sdp":"v=0\\r\\no=- 4611 2 IN IP4 127.0.0.1\\r\\n"}',
    '{"candidate":"","sdpMid":"0","sdpMLineIndex":0}',
    '{ "type" :\t"answer" ,\r\n "sdp":\n"" }',
    '{"b":1,"a":2,"b":3}',
    "[1.0, -0, 1e400, 1E-7, 123456789012345678901234567890, 0.1000000000000000055]",
    r'"\u00e9\/\ud83d\ude00"',
    '"é\u2028😀"',
    "null",
    "false",
    "0",
    '""',
    "[" * 100 + "]" * 100,
    '"' + "x" * 100_000 + '"',
]


@pytest.mark.parametrize("payload", OPAQUE, ids=[payload[:30] for payload in OPAQUE])
async def test_payload_is_relayed_byte_for_byte(service: Service, payload: str) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        for type_ in ("live_offer", "live_answer", "live_ice"):
            await ann.send_text(
                f'{{"payload" : {payload} ,"room_id":"r","type":"{type_}","target_user_id":"bob"}}'
            )
            text = await bob.receive_text()
            assert f'"payload":{payload},' in text
            assert json.loads(text)["type"] == type_


@pytest.mark.parametrize("type_", ["live_offer", "live_answer", "live_ice"])
@pytest.mark.parametrize(
    ("sender", "room_id", "target"),
    [
        ("ann", "r", "nobody"),
        ("ann", "r", "ann"),
        ("ann", "r", ""),
        ("ann", "r", "elsewhere"),  # the target is in another room
        ("ann", "s", "elsewhere"),  # the sender is in another room
        ("ann", "s", "bob"),
        ("elsewhere", "r", "bob"),
        ("ann", "nowhere", "bob"),
        ("outside", "r", "ann"),
    ],
)
async def test_undeliverable_signal_is_dropped_silently(
    service: Service, type_: str, sender: str, room_id: str, target: str
) -> None:
    async with (
        enter_all(service, "ann", "bob") as (ann, bob),
        enter(service, "elsewhere", "s") as elsewhere,
        sign_in(service, "outside") as outside,
    ):
        clients = {"ann": ann, "elsewhere": elsewhere, "outside": outside}
        await clients[sender].send(type_, room_id=room_id, target_user_id=target, payload={})
        for client in (elsewhere, outside):
            await client.expect_nothing()
        await expect_silence(ann, bob)


async def test_signals_arrive_in_order(service: Service) -> None:
    async with enter_all(service, "ann", "bob", "cat") as (ann, bob, cat):
        async with trio.open_nursery() as nursery:
            for client in (ann, cat):
                nursery.start_soon(offer_and_trickle, client, "bob")
        received = [await bob.receive() for _ in range(120)]
        for sender in ("ann", "cat"):
            signals = [m for m in received if m["from_user_id"] == sender]
            assert [m["payload"]["n"] for m in signals] == list(range(60))
            assert [n for n, m in enumerate(signals) if m["type"] == "live_offer"] == [0, 20, 40]


async def offer_and_trickle(client: Client, target: str) -> None:
    for n in range(60):
        type_, size = ("live_ice", 200) if n % 20 else ("live_offer", 20_000)
        await client.send(
            type_, room_id="r", target_user_id=target, payload={"n": n, "sdp": "x" * size}
        )


# send_message, typing, ping


async def test_chat_goes_to_everyone_and_sender_gets_its_id(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send("send_message", room_id="r", content="hi <b>é😀</b>", sender_id="bob")
        echo = await ann.receive()
        assert without_time(echo) == {
            "type": "message",
            "message_id": echo["message_id"],
            "room_id": "r",
            "sender_id": "ann",
            "sender_username": "Ann",
            "content": "hi <b>é😀</b>",
            "is_leave_message": False,
        }
        assert await bob.receive() == echo
        assert without_time(await ann.receive()) == {
            "type": "message_sent",
            "message_id": echo["message_id"],
            "room_id": "r",
        }
        await expect_silence(ann, bob)
        assert ann.log[-1]["message_id"] != echo["message_id"]


@pytest.mark.parametrize(
    ("fields", "is_typing"),
    [({}, True), ({"is_typing": True}, True), ({"is_typing": False}, False)],
)
async def test_typing_is_sent_to_the_others(
    service: Service, fields: dict[str, bool], is_typing: bool
) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send("typing", room_id="r", **fields)
        assert without_time(await bob.receive()) == {
            "type": "typing",
            "room_id": "r",
            "user_id": "ann",
            "is_typing": is_typing,
        }
        await expect_silence(ann, bob)


async def test_ping_is_answered_inside_and_outside_a_room(service: Service) -> None:
    async with sign_in(service, "ann") as ann:
        for _ in range(2):
            await ann.send("ping", timestamp=1763632530123)
            assert without_time(await ann.receive()) == {"type": "pong"}
            await join(ann)


# Errors


async def test_sending_to_a_room_needs_membership(service: Service) -> None:
    async with enter(service, "ann") as ann, sign_in(service, "bob") as bob:
        await bob.send("send_message", room_id="r", content="hi")
        await bob.expect("error")
        await bob.send("typing", room_id="r")
        await bob.send("live_start", room_id="r")
        await bob.expect("error", message="Join the room before going live")
        await bob.expect_nothing()
        await expect_silence(ann)


# Disconnecting and reconnecting


def news_of_leaving(user_id: str, room_id: str = "r") -> list[Message]:
    return [
        {"type": type_, "room_id": room_id, "user_id": user_id}
        for type_ in ("live_peer_left", "user_left")
    ]


async def test_disconnecting_leaves_every_room(service: Service) -> None:
    async with (
        enter_all(service, "ann", "bob") as (ann, bob),
        enter(service, "cat", "s") as cat,
        open_raw(service.base) as gone,
    ):
        await gone.upgrade(path(user_id="gone"))
        await gone.say(
            {"type": "join_room", "room_id": "r"},
            {"type": "join_room", "room_id": "s"},
            {"type": "live_start", "room_id": "r"},
        )
        for client in (ann, bob):
            await client.expect("user_joined", user_id="gone")
            await client.expect("live_peer_joined", user_id="gone")
        await cat.expect("user_joined", user_id="gone", room_id="s")
        gone.reset()
        for client in (ann, bob):
            told = [without_time(await client.receive()) for _ in range(2)]
            assert told == news_of_leaving("gone")
        assert without_time(await cat.receive()) == news_of_leaving("gone", "s")[1]
        await expect_silence(ann, bob)
        await expect_silence(cat, room_id="s")
        assert await ask_who_is_live(cat, "r") == []
        async with enter(service, "late") as late:
            assert (await join(late))["members"] == ["ann", "bob", "late"]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_reconnecting_user_rejoins_its_rooms(serve: Serve, way: Way) -> None:
    async with (
        serve(**way.settings) as service,
        enter(service, "bob") as bob,
        sign_in(service, "cat") as cat,
        open_raw(service.base) as gone,
    ):
        await join(cat, "s")
        await gone.upgrade(path(user_id="ann", username="Ann"))
        await gone.say(
            {"type": "join_room", "room_id": "r"},
            {"type": "join_room", "room_id": "s"},
            {"type": "join_room", "room_id": "t"},
            {"type": "leave_room", "room_id": "t"},
            {"type": "live_start", "room_id": "r"},
        )
        for client in (bob, cat):
            await client.expect("user_joined", user_id="ann")
        await bob.expect("live_peer_joined", user_id="ann")
        await way.leave(gone)
        for client in (bob, cat):
            await client.wait_for("user_left", user_id="ann")
        async with sign_in(service, "ann") as ann:
            again = [await ann.expect("joined_room") for _ in range(2)]
            assert {m["room_id"]: m["members"] for m in again} == {
                "r": ["bob", "ann"],
                "s": ["cat", "ann"],
            }
            await bob.expect("user_joined", room_id="r", user_id="ann")
            await cat.expect("user_joined", room_id="s", user_id="ann")
            assert await ask_who_is_live(bob) == []  # a broadcast ends with its connection
            await bob.send("live_offer", room_id="r", target_user_id="ann", payload=1)
            await ann.expect("live_offer", room_id="r", from_user_id="bob", payload=1)
            await expect_silence(ann, bob)
            await expect_silence(ann, cat, room_id="s")


async def test_room_left_on_purpose_is_not_rejoined(service: Service) -> None:
    async with enter(service, "bob") as bob:
        async with enter(service, "ann") as ann:
            await bob.expect("user_joined", user_id="ann")
            await ann.send("leave_room", room_id="r")
            await ann.expect("left_room")
            await bob.expect("user_left", user_id="ann")
        async with sign_in(service, "ann") as ann:
            await ann.expect_nothing()
            await expect_silence(bob)


async def test_other_users_do_not_rejoin_those_rooms(service: Service) -> None:
    async with enter(service, "bob") as bob:
        async with enter(service, "ann"):
            await bob.expect("user_joined", user_id="ann")
        await bob.expect("user_left", user_id="ann")
        async with service.connect("/ws/r/eve"):  # a dialect whose clients join by themselves
            await bob.expect("user_joined", user_id="eve")
        await bob.expect("user_left", user_id="eve")
        async with sign_in(service, "eve") as eve, service.connect(path()) as guest:
            await guest.expect("connected")
            await eve.expect_nothing()
            await guest.expect_nothing()
            await expect_silence(bob)


async def test_reconnecting_user_may_also_join_itself(service: Service) -> None:
    async with enter(service, "bob") as bob:
        async with enter(service, "ann"):
            await bob.expect("user_joined", user_id="ann")
        await bob.expect("user_left", user_id="ann")
        async with sign_in(service, "ann") as ann:
            await ann.expect("joined_room", room_id="r")
            assert (await join(ann))["members"] == ["bob", "ann"]
            await bob.expect("user_joined", user_id="ann")
            await expect_silence(ann, bob)


# Tabs: the others see one participant


async def test_second_tab_is_not_announced(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (first, bob):
        async with sign_in(service, "ann") as second:
            assert (await join(second))["members"] == ["ann", "bob"]
            await expect_silence(second, first, bob)
        await expect_silence(first, bob)
        await first.close()
        await bob.expect("user_left", user_id="ann")
        await expect_silence(bob)


async def test_other_tabs_get_chat_but_no_events_of_their_user(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob), enter(service, "ann") as tab:
        await ann.send("typing", room_id="r")
        await ann.send("live_start", room_id="r")
        await ann.send("live_stop", room_id="r")
        await ann.send("leave_room", room_id="r")
        for type_ in ("live_peers", "left_room"):
            await ann.expect(type_)
        for type_ in ("typing", "live_peer_joined", "live_peer_left"):
            await bob.expect(type_, user_id="ann")
        await expect_silence(tab, bob)
        await ann.expect_nothing()


async def test_user_live_in_two_tabs_is_announced_once(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob), enter(service, "ann") as tab:
        await go_live(ann, bob)
        await expect_silence(ann, tab, bob)
        assert (await go_live(tab))["peers"] == []
        await expect_silence(tab, ann, bob)
        assert [peer["user_id"] for peer in await ask_who_is_live(bob)] == ["ann"]
        # Only the tab that receives the user's signals learns about the listener.
        await tab.expect("live_peer_joined", user_id="bob", listener=True)
        await ann.send("live_stop", room_id="r")
        await expect_silence(ann, tab, bob)
        assert [peer["user_id"] for peer in await ask_who_is_live(bob)] == ["ann"]
        await tab.send("live_stop", room_id="r")
        await bob.expect("live_peer_left", user_id="ann")
        await expect_silence(tab, ann, bob)


async def test_closing_the_live_tab_ends_the_broadcast_only(
    service: Service,
) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        async with enter(service, "ann") as tab:
            await go_live(tab, bob)
        await bob.expect("live_peer_left", user_id="ann")
        await expect_silence(ann, bob)
        assert await ask_who_is_live(bob) == []


async def test_signal_reaches_the_live_tab_or_the_newest(
    service: Service,
) -> None:
    async with (
        enter_all(service, "bob", "ann") as (bob, first),
        enter(service, "ann") as second,
        enter(service, "ann") as third,
    ):
        tabs = [first, second, third]

        async def assert_reached(target: Client) -> None:
            await bob.send("live_offer", room_id="r", target_user_id="ann", payload=1)
            await target.expect("live_offer", payload=1)
            await expect_silence(bob, *tabs)

        await expect_silence(third, bob, first, second)
        await assert_reached(third)
        await go_live(first, bob)
        await assert_reached(first)
        await first.send("live_stop", room_id="r")
        await bob.expect("live_peer_left")
        await assert_reached(third)


async def test_late_close_of_a_stale_socket_is_harmless(service: Service) -> None:
    async with enter(service, "bob") as bob, open_raw(service.base) as stale:
        await stale.upgrade(path(user_id="ann", username="Ann"))
        await stale.say({"type": "join_room", "room_id": "r"})
        await bob.expect("user_joined", user_id="ann")
        async with enter(service, "ann") as ann:
            stale.reset()
            await expect_silence(ann, bob)
            await bob.send("live_offer", room_id="r", target_user_id="ann", payload=1)
            await ann.expect("live_offer", payload=1)
        await bob.expect("user_left", user_id="ann")


# Separate rooms


async def test_nothing_leaks_between_rooms(service: Service) -> None:
    async with (
        enter_all(service, "ann", "bob") as (ann, bob),
        enter(service, "cat", "s") as cat,
        enter(service, "dan", "s") as dan,
    ):
        await cat.expect("user_joined", user_id="dan")
        await go_live(ann, bob)
        await ann.send("typing", room_id="r")
        await ann.send("live_ice", room_id="r", target_user_id="bob", payload=None)
        await ann.send("live_stop", room_id="r")
        for type_ in ("typing", "live_ice", "live_peer_left"):
            await bob.expect(type_, room_id="r")
        await expect_silence(ann, bob)
        await expect_silence(cat, dan, room_id="s")
        assert await ask_who_is_live(cat, "s") == []


# With the dialects of other families in one room


async def test_dialects_in_one_room_see_each_other(
    service: Service,
) -> None:
    async with (
        enter(service, "ann") as live,
        service.connect("/ws/r/bob?username=Bob") as room,
        service.connect("/ws/r") as mesh,
        service.connect("/ws") as stream,
    ):
        assert [u["user_id"] for u in (await room.expect("room_state"))["users"]] == ["ann", "bob"]
        await live.expect("user_joined", user_id="bob")
        await mesh.send("auth_token", clientId="mia", username="Mia")
        users = (await mesh.wait_for("users_in_room"))["users"]
        assert [user["username"] for user in users] == ["Ann", "Bob"]
        await live.expect("user_joined", user_id="mia")
        await room.expect("user_joined", user_id="mia", username="Mia")
        await stream.send("join-stream", streamId="r")
        await stream.expect("viewer-count", count=4, streamId="r")
        viewer_id = (await live.expect("user_joined"))["user_id"]
        await room.expect("user_joined", user_id=viewer_id)
        await mesh.expect("user_joined", client_id=viewer_id, connected_users=4)

        await live.send("live_start", room_id="r", media_type="audio")
        await live.expect("live_peers", peers=[])
        await room.expect("broadcast-started", user_id="ann", username="Ann")
        await mesh.expect("broadcast_started", username="Ann", media_type="audio")
        await stream.expect("broadcaster-ready-signal", streamId="r")

        await live.send("live_offer", room_id="r", target_user_id="bob", payload={"sdp": "v=0"})
        await room.expect("webrtc-signal", from_user_id="ann", signal={"sdp": "v=0"})
        await live.send("live_ice", room_id="r", target_user_id="bob", payload=None)
        await room.expect("webrtc-signal", signal={"type": "ice-candidate", "candidate": None})
        await live.send("live_offer", room_id="r", target_user_id="mia", payload={"sdp": "v=0"})
        await mesh.expect("offer", offer={"sdp": "v=0"}, username="Ann")
        await live.send("live_offer", room_id="r", target_user_id=viewer_id, payload=1)
        await stream.expect("webrtc-offer", offer=1, viewerId=viewer_id)
        await stream.send("webrtc-answer", streamId="r", answer={"sdp": "v=1"})
        await live.expect("live_answer", from_user_id=viewer_id, payload={"sdp": "v=1"})

        await room.send("message", content="hi")
        await room.expect("message", content="hi")
        await live.expect("message", sender_id="bob", sender_username="Bob", content="hi")
        await room.send("broadcast-started")
        await live.expect("live_peer_joined", user_id="bob", media_type="video")
        await mesh.expect("broadcast_started", username="Bob")
        await stream.expect("broadcaster-ready-signal")

        await live.close()
        await room.expect("broadcast-stopped", user_id="ann")
        await room.expect("user_left", user_id="ann")
        await mesh.expect("broadcast_stopped", username="Ann")
        await mesh.expect("user_left", username="Ann", connected_users=3)
        await stream.expect("broadcaster-disconnected")
        await stream.expect("viewer-count", count=3)


@pytest.mark.parametrize("count", [1, 3])
async def test_client_that_changes_networks_rejoins_its_rooms(redis_url: str, count: int) -> None:
    """It reconnects before anybody knows that its old connection is dead."""
    path = "/api/v1/ws/connect?user_id=ann"
    async with (
        serve_replicas(count, redis_url, heartbeat=0.5, heartbeat_timeout=2) as service,
        open_raw(service.base) as dead,
    ):
        await dead.upgrade(path)
        await dead.say({"type": "join_room", "room_id": "r"})
        await dead.wait_for("joined_room")
        async with service.connect(path) as back:
            await back.expect("connected")
            await back.expect("joined_room", room_id="r", members=["ann"])
            await back.expect_nothing()


@pytest.mark.parametrize("joined", [True, False], ids=["joined again", "left at once"])
@pytest.mark.parametrize("count", [1, 3])
async def test_left_room_is_not_rejoined_after_an_older_connection_dies(
    redis_url: str, count: int, joined: bool
) -> None:
    path = "/api/v1/ws/connect?user_id=ann"
    async with (
        serve_replicas(count, redis_url, heartbeat=0.5, heartbeat_timeout=2) as service,
        service.connect("/api/v1/ws/connect?user_id=bob") as bob,
        open_raw(service.base) as dead,
    ):
        await bob.expect("connected")
        for room_id in ("r", "s"):
            await join(bob, room_id)
        await dead.upgrade(path)
        await dead.say(*({"type": "join_room", "room_id": room_id} for room_id in ("r", "s")))
        for room_id in ("r", "s"):
            await bob.expect("user_joined", user_id="ann", room_id=room_id)
        async with service.connect(path) as back:
            await back.expect("connected")
            if joined:
                await join(back)
            await back.send("leave_room", room_id="r")
            await back.expect("left_room")
            told = [await bob.receive() for _ in range(3)]
            assert sorted((m["type"], m["room_id"]) for m in told) == [
                ("user_joined", "s"),
                ("user_left", "r"),
                ("user_left", "s"),
            ]
            await back.expect("joined_room", room_id="s")
            await expect_silence(back, bob, room_id="s")
            # A later reconnect does not restore the room either.
            back.reset()
        await bob.expect("user_left", room_id="s", user_id="ann")
        async with service.connect(path) as again:
            await again.expect("connected")
            await again.expect("joined_room", room_id="s")
            await again.expect_nothing()


# Listeners that are not live: their clients never offer


async def ask_as_listener(listener: Client) -> None:
    await listener.send("live_status", room_id="r")
    await listener.expect("live_peers")


async def expect_listener(caster: Client, user_id: str) -> None:
    assert without_time(await caster.receive()) == {
        "type": "live_peer_joined",
        "room_id": "r",
        "user_id": user_id,
        "username": user_id.title(),
        "media_type": "audio",
        "listener": True,
    }


async def test_broadcasters_learn_of_a_listener_once(service: Service) -> None:
    async with enter_all(service, "ann", "bob", "eve") as (ann, bob, eve):
        await go_live(ann, bob, eve)
        await go_live(bob, ann, eve)
        for _ in range(3):
            await ask_as_listener(eve)
        for caster in (ann, bob):
            await expect_listener(caster, "eve")
            await caster.expect_nothing()
        await eve.expect_nothing()


@pytest.mark.parametrize("type_", ["live_offer", "live_answer"])
@pytest.mark.parametrize("offerer", ["ann", "eve"])
async def test_listener_with_signals_is_not_announced(
    service: Service, type_: str, offerer: str
) -> None:
    async with enter_all(service, "ann", "eve") as (ann, eve):
        await go_live(ann, eve)
        sender, target = (ann, eve) if offerer == "ann" else (eve, ann)
        target_id = "eve" if offerer == "ann" else "ann"
        await sender.send(type_, room_id="r", target_user_id=target_id, payload=1)
        await target.expect(type_)
        await ask_as_listener(eve)
        await ann.expect_nothing()


async def test_new_broadcast_or_membership_announces_the_listener_again(service: Service) -> None:
    async with enter_all(service, "ann", "eve") as (ann, eve):
        await go_live(ann, eve)
        await ask_as_listener(eve)
        await expect_listener(ann, "eve")
        await ann.send("live_stop", room_id="r")
        await eve.expect("live_peer_left")
        await go_live(ann, eve)
        await ask_as_listener(eve)
        await expect_listener(ann, "eve")
        await eve.send("leave_room", room_id="r")
        await ann.expect("user_left")
        await eve.expect("left_room")
        await join(eve)
        await ann.expect("user_joined")
        await ask_as_listener(eve)
        await expect_listener(ann, "eve")
        await ann.expect_nothing()


@pytest.mark.parametrize("signals", [False, True])
async def test_listener_that_stopped_being_live_is_announced_again(
    service: Service, signals: bool
) -> None:
    async with enter_all(service, "ann", "eve") as (ann, eve):
        await go_live(ann, eve)
        await ask_as_listener(eve)
        await expect_listener(ann, "eve")
        await go_live(eve, ann)
        if signals:
            await ann.send("live_offer", room_id="r", target_user_id="eve", payload=1)
            await eve.expect("live_offer")
        # Upon this, a client ends its peer connection with the user, in both directions.
        await eve.send("live_stop", room_id="r")
        await ann.expect("live_peer_left", user_id="eve")
        for _ in range(2):
            await ask_as_listener(eve)
        await expect_listener(ann, "eve")
        await ann.expect_nothing()


async def test_listener_whose_other_tab_is_still_live_is_not_announced(service: Service) -> None:
    async with enter_all(service, "ann", "eve") as (ann, eve):
        await go_live(ann, eve)
        await ask_as_listener(eve)
        await expect_listener(ann, "eve")
        async with enter(service, "eve") as tab:
            await go_live(eve, ann)
            await tab.send("live_start", room_id="r")
            await tab.expect("live_peers")
            await eve.send("live_stop", room_id="r")
            await ask_as_listener(eve)
            await ann.expect_nothing()


async def test_live_or_absent_users_are_not_listeners(service: Service) -> None:
    async with (
        enter_all(service, "ann", "bob") as (ann, bob),
        sign_in(service, "eve") as eve,
    ):
        await go_live(ann, bob)
        await go_live(bob, ann)
        for asking in (bob, eve):
            await ask_as_listener(asking)
        async with enter(service, "bob") as other_tab:
            await ask_as_listener(other_tab)
            await ann.expect_nothing()
            await bob.expect_nothing()


async def test_broadcasters_of_other_dialects_get_no_listeners(service: Service) -> None:
    async with service.connect("/ws/r/ann") as ann:
        await ann.wait_for("room_state")
        await ann.send("broadcast-started")
        await ann.settle()
        async with enter(service, "eve") as eve:
            await ann.wait_for("user_joined", user_id="eve")
            await ann.settle()
            assert [peer["user_id"] for peer in await ask_who_is_live(eve)] == ["ann"]
            await ann.expect_nothing()


async def test_listeners_can_be_disabled(serve: Serve) -> None:
    async with (
        serve(live_listeners=False) as service,
        enter_all(service, "ann", "eve") as (ann, eve),
    ):
        await go_live(ann, eve)
        await ask_as_listener(eve)
        await ann.expect_nothing()
