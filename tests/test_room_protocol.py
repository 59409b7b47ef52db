"""The `room` dialect as its clients see it: every row of its page, over real sockets."""

import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest
import trio

from tests.clients import PATIENCE, Client, Message, Service, settle
from tests.raw import open_raw

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def path(user_id: str, room_id: str = "r", **query: str) -> str:
    """Encoded as a browser encodes it."""
    segments = "/".join(quote(segment, safe="") for segment in ("ws", room_id, user_id))
    return f"/{segments}?{urlencode(query)}"


@asynccontextmanager
async def enter(
    service: Service, user_id: str, room_id: str = "r", **query: str
) -> AsyncIterator[Client]:
    """A client that is in the room; the snapshot is in its log."""
    async with service.connect(path(user_id, room_id, **query)) as client:
        await client.expect("room_state", room_id=room_id)
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


async def go_live(client: Client, *others: Client) -> None:
    """Start a broadcast, which the others receive next."""
    await client.send("broadcast-started")
    for other in others:
        await other.expect("broadcast-started")
    await settle(client)


async def register(service: Service, room_id: str = "r", **body: Any) -> None:
    """The REST call that clients make before they open a socket."""
    async with httpx.AsyncClient() as http:
        answer = await http.post(f"http://{service.base}/rooms/{room_id}/join", json=body)
    assert answer.json() == {"status": "success", "room_id": room_id, "user_id": body["user_id"]}


async def expect_silence(client: Client, *others: Client) -> None:
    """None of them receives anything before a message that the first one sends now."""
    await client.send("message", content="Is anybody talking?")
    for listener in (client, *others):
        await listener.expect("message", content="Is anybody talking?")


def without_time(message: Message) -> Message:
    """The message without its timestamp, which is checked here."""
    assert TIMESTAMP.fullmatch(message["timestamp"]), message
    return {name: value for name, value in message.items() if name != "timestamp"}


# On connect


async def test_newcomer_is_announced_and_receives_all_members(service: Service) -> None:
    async with enter(service, "ann", username="Ann", avatar_url="https://x.example/a.png") as ann:
        assert without_time(ann.log[0]) == {
            "type": "room_state",
            "room_id": "r",
            "users": [
                {"user_id": "ann", "username": "Ann", "avatar_url": "https://x.example/a.png"}
            ],
        }
        async with enter(service, "bob", username="Bob") as bob:
            assert without_time(await ann.receive()) == {
                "type": "user_joined",
                "room_id": "r",
                "user_id": "bob",
                "username": "Bob",
                "avatar_url": None,
            }
            assert bob.log[0]["users"] == [
                {"user_id": "ann", "username": "Ann", "avatar_url": "https://x.example/a.png"},
                {"user_id": "bob", "username": "Bob", "avatar_url": None},
            ]
            await expect_silence(ann, bob)


@pytest.mark.parametrize(
    ("room_id", "user_id", "name"),
    [
        ("0443bed3-7a5e-4a4e-9c41-7c1c2d3e4f50", "7d44f2f0", "Dude40"),
        ("Zimmer 1", "jürgen müller", "Jürgen & Söhne"),
        ("a+b", "a=b&c?d#e", "a+b c%20d"),
        ("команда/один", "😀", "名前"),
        ("..", "~\n\t", '<b>\\"'),
    ],
)
async def test_names_and_ids_may_be_any_text(
    service: Service, room_id: str, user_id: str, name: str
) -> None:
    async with (
        enter(service, "watcher", room_id) as watcher,
        enter(service, user_id, room_id, username=name) as client,
    ):
        joined = await watcher.expect("user_joined", room_id=room_id, user_id=user_id)
        assert joined["username"] == name
        await client.send("message", content=name)
        await watcher.expect("message", room_id=room_id, user_id=user_id, username=name)


@pytest.mark.parametrize("query", [{}, {"username": "", "avatar_url": ""}])
async def test_user_without_a_name_is_anonymous(service: Service, query: dict[str, str]) -> None:
    async with enter(service, "ann", **query) as ann:
        assert ann.log[0]["users"] == [
            {"user_id": "ann", "username": "Anonymous", "avatar_url": None}
        ]


async def test_name_given_by_rest_is_used_by_the_socket(service: Service) -> None:
    await register(service, user_id="ann", username="Ann", avatar_url="a.png")
    async with enter(service, "ann") as ann:
        assert ann.log[0]["users"] == [{"user_id": "ann", "username": "Ann", "avatar_url": "a.png"}]


async def test_name_given_by_the_socket_wins_and_is_kept(service: Service) -> None:
    await register(service, user_id="ann", username="Ann", avatar_url="a.png")
    async with enter(service, "ann", username="Annie") as ann:
        assert ann.log[0]["users"][0]["username"] == "Annie"
        assert ann.log[0]["users"][0]["avatar_url"] == "a.png"
    async with enter(service, "ann") as ann:
        assert ann.log[0]["users"][0]["username"] == "Annie"


async def test_reconnect_without_a_name_keeps_it(service: Service) -> None:
    async with enter(service, "bob") as bob:
        async with enter(service, "ann", username="Ann", avatar_url="a.png"):
            await bob.expect("user_joined", username="Ann")
        await bob.expect("user_left", username="Ann")
        async with enter(service, "ann") as ann:
            await bob.expect("user_joined", username="Ann", avatar_url="a.png")
            await ann.send("message", content="back")
            await bob.expect("message", username="Ann", avatar="a.png")


async def test_name_applies_to_one_room(service: Service) -> None:
    async with (
        enter(service, "ann", "r", username="Ann"),
        enter(service, "ann", "s") as elsewhere,
    ):
        assert elsewhere.log[0]["users"][0]["username"] == "Anonymous"


async def test_late_joiner_receives_active_broadcasts(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await go_live(ann, bob)
        await go_live(bob, ann)
        async with enter(service, "late") as late:
            active = await late.receive()
            assert without_time(active) == {
                "type": "active-broadcasts",
                "room_id": "r",
                "broadcasters": [
                    {
                        "user_id": user_id,
                        "username": "Anonymous",
                        "started_at": who["started_at"],
                    }
                    for user_id, who in zip(("ann", "bob"), active["broadcasters"], strict=True)
                ],
            }
            assert all(TIMESTAMP.fullmatch(who["started_at"]) for who in active["broadcasters"])
            await expect_silence(late)


async def test_late_joiner_does_not_receive_ended_broadcasts(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await go_live(ann, bob)
        await ann.send("broadcast-stopped")
        await bob.expect("broadcast-stopped")
        async with enter(service, "late") as late:
            await expect_silence(late)


# Client -> server


@pytest.mark.parametrize("fields", [{}, {"timestamp": 1763632530123}, {"timestamp": "now"}])
async def test_keep_alive_is_answered_with_a_ping(service: Service, fields: dict[str, Any]) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send("keep_alive", **fields)
        assert without_time(await ann.receive()) == {"type": "ping"}
        await ann.send("pong", **fields)
        await expect_silence(ann, bob)


async def test_chat_goes_to_everyone_including_the_sender(service: Service) -> None:
    async with (
        enter(service, "ann", username="Ann", avatar_url="a.png") as ann,
        enter(service, "bob") as bob,
    ):
        await ann.expect("user_joined")
        await ann.send("message", content="hi <b>é😀</b>")
        echo = await ann.receive()
        assert without_time(echo) == {
            "type": "message",
            "id": echo["id"],
            "room_id": "r",
            "user_id": "ann",
            "username": "Ann",
            "content": "hi <b>é😀</b>",
            "avatar": "a.png",
        }
        assert await bob.receive() == echo
        await ann.send("message", content="hi <b>é😀</b>", avatar="other.png")
        again = await ann.expect("message", avatar="other.png")
        assert again["id"] != echo["id"]
        assert await bob.receive() == again


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ('{"type":"shout","content":"hi"}', "hi"),
        ('{"type":"chat_message","content":"hi","avatar":7,"id":"temp-1"}', "hi"),
        ('{"content":"hi"}', "hi"),
    ],
)
async def test_any_message_with_content_is_chat(service: Service, text: str, content: str) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send_text(text)
        echo = await ann.expect("message", content=content, user_id="ann")
        assert await bob.receive() == echo


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"message","content":""}',
        '{"type":"presence"}',
        '{"type":"presence","content":""}',
        '{"type":"presence","content":null}',
        '{"type":"join","room_id":"s"}',
        '{"type":"pong","content":"hi"}',
    ],
)
async def test_unknown_message_without_content_is_ignored(service: Service, text: str) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send_text(text)
        await expect_silence(ann, bob)


@pytest.mark.parametrize("type_", ["typing_start", "typing_stop"])
async def test_typing_is_sent_to_the_others(service: Service, type_: str) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send(type_)
        assert without_time(await bob.receive()) == {
            "type": type_,
            "room_id": "r",
            "user_id": "ann",
            "username": "Anonymous",
        }
        await expect_silence(ann, bob)


async def test_overlong_picture_changes_nothing(service: Service) -> None:
    """However it is sent: newcomers receive everybody's pictures."""
    long = "https://x.example/" + 2048 * "a"
    await register(service, user_id="ann", avatar_url="a.png")
    await register(service, user_id="ann", avatar_url=long)
    async with enter(service, "ann", avatar_url=long) as ann:
        assert ann.log[0]["users"][0]["avatar_url"] == "a.png"
        for type_ in ("profile_updated", "avatar_updated"):
            await ann.send(type_, username="Ann", avatar=long)
            await ann.expect(type_, username="Ann", avatar_url="a.png", avatar="a.png")
        await ann.send("message", content="hi", avatar=long)
        await ann.expect("message", avatar="a.png")


@pytest.mark.parametrize("type_", ["profile_updated", "avatar_updated"])
async def test_new_profile_goes_to_everyone_and_into_later_events(
    service: Service, type_: str
) -> None:
    change = {"username": "Anna", "prevUsername": "Ann", "email": "a@b.c", "bio": "I am"}
    async with (
        enter(service, "ann", username="Ann") as ann,
        enter(service, "bob") as bob,
    ):
        await ann.expect("user_joined")
        await ann.send(type_, **change, avatar="n.png", user_id="bob", room_id="s")
        told = await ann.receive()
        assert without_time(told) == {
            "type": type_,
            "room_id": "r",
            "user_id": "ann",
            "avatar_url": "n.png",
            "avatar": "n.png",
            **change,
        }
        assert await bob.receive() == told

        await ann.send("message", content="hi")
        await bob.expect("message", username="Anna", avatar="n.png")
        await ann.send("typing_start")
        await bob.expect("typing_start", username="Anna")
        await ann.send("webrtc-signal", target_user_id="bob", signal=1)
        await bob.expect("webrtc-signal", from_username="Anna")
        await ann.send("broadcast-started")
        await bob.expect("broadcast-started", username="Anna")
        async with enter(service, "late") as late:
            assert {"user_id": "ann", "username": "Anna", "avatar_url": "n.png"} in late.log[0][
                "users"
            ]
            active = await late.expect("active-broadcasts")
            assert active["broadcasters"][0]["username"] == "Anna"
        await bob.expect("user_joined")
        await bob.expect("user_left")
        await ann.close()
        await bob.expect("broadcast-stopped", username="Anna")
        await bob.expect("user_left", username="Anna")
        async with enter(service, "ann"):
            await bob.expect("user_joined", username="Anna", avatar_url="n.png")


async def test_missing_profile_fields_stay_unchanged(service: Service) -> None:
    async with enter(service, "ann", username="Ann", avatar_url="a.png") as ann:
        await ann.send("avatar_updated", avatar="n.png")
        await ann.expect("avatar_updated", username="Ann", avatar_url="n.png")
        await ann.send("profile_updated", username="Anna", avatar=None)
        await ann.expect("profile_updated", username="Anna", avatar_url="n.png", email=None)
        await ann.send("profile_updated", username="", bio="")
        await ann.expect("profile_updated", username="Anna", avatar_url="n.png", bio="")


async def test_broadcast_is_announced_to_the_others(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send("broadcast-started")
        assert without_time(await bob.receive()) == {
            "type": "broadcast-started",
            "user_id": "ann",
            "username": "Anonymous",
        }
        await expect_silence(ann, bob)


async def test_broadcast_message_sets_the_broadcaster_name(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send("broadcast-started", username=" On\u202e Air ")
        await bob.expect("broadcast-started", user_id="ann", username="On Air")
        async with enter(service, "late") as late:
            assert {user["username"] for user in late.log[0]["users"]} == {"Anonymous"}
            first = (await late.expect("active-broadcasts"))["broadcasters"][0]
            assert (first["user_id"], first["username"]) == ("ann", "On Air")
        await bob.wait_for("user_left")
        # Again with another name: the broadcast is the same.
        await ann.send("broadcast-started", username="Still On Air")
        await bob.expect("broadcast-started", username="Still On Air")
        async with enter(service, "late") as late:
            again = (await late.expect("active-broadcasts"))["broadcasters"][0]
            assert again == first | {"username": "Still On Air"}
        await bob.wait_for("user_left")
        await ann.wait_for("user_left")
        await ann.wait_for("user_left")
        await ann.send("broadcast-stopped", username="Somebody Else")
        for client in (ann, bob):
            await client.expect("broadcast-stopped", user_id="ann", username="Still On Air")
        await expect_silence(ann, bob)


async def test_profile_change_renames_the_broadcaster(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send("broadcast-started", username="On Air")
        await bob.expect("broadcast-started", username="On Air")
        await ann.send("profile_updated", username="Anna")
        await bob.expect("profile_updated", username="Anna")
        async with enter(service, "late") as late:
            active = await late.expect("active-broadcasts")
            assert active["broadcasters"][0]["username"] == "Anna"
        await bob.wait_for("user_left")
        await ann.close()
        await bob.expect("broadcast-stopped", username="Anna")


async def test_lost_broadcaster_keeps_its_broadcast_name(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send("broadcast-started", username="On Air")
        await bob.expect("broadcast-started", username="On Air")
        ann.reset()
        await bob.expect("broadcast-stopped", user_id="ann", username="On Air")
        await bob.expect("user_left", user_id="ann", username="Anonymous")


async def test_restarted_broadcast_is_announced_with_the_same_start(
    service: Service,
) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await go_live(ann, bob)
        async with enter(service, "late") as late:
            first = await late.expect("active-broadcasts")
        await bob.wait_for("user_left")
        await go_live(ann, bob)
        async with enter(service, "late") as late:
            second = await late.expect("active-broadcasts")
        assert first["broadcasters"] == second["broadcasters"]


async def test_broadcast_stop_goes_to_everyone_including_the_sender(
    service: Service,
) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await go_live(ann, bob)
        await ann.send("broadcast-stopped", username="Somebody Else")
        stopped = await ann.receive()
        assert without_time(stopped) == {
            "type": "broadcast-stopped",
            "user_id": "ann",
            "username": "Anonymous",
        }
        assert await bob.receive() == stopped


async def test_stop_without_a_broadcast_is_answered_to_the_sender_only(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send("profile_updated", username="Anna")
        await ann.expect("profile_updated")
        await bob.expect("profile_updated")
        await ann.send("broadcast-stopped")
        assert without_time(await ann.receive()) == {
            "type": "broadcast-stopped",
            "user_id": "ann",
            "username": "Anna",
        }
        await expect_silence(ann, bob)


# Signals


async def test_signal_reaches_only_its_target_with_the_real_sender(
    service: Service,
) -> None:
    async with enter_all(service, "ann", "bob", "cat") as (ann, bob, cat):
        await ann.send(
            "webrtc-signal",
            target_user_id="bob",
            signal={"type": "offer", "sdp": "v=0\r\n"},
            from_user_id="cat",
            from_username="Cat",
            room_id="s",
        )
        assert await bob.receive() == {
            "type": "webrtc-signal",
            "room_id": "r",
            "target_user_id": "bob",
            "from_user_id": "ann",
            "from_username": "Anonymous",
            "signal": {"type": "offer", "sdp": "v=0\r\n"},
        }
        await expect_silence(ann, cat)


OPAQUE = [
    '{"type":"offer","sdp":"v=0\\r\\no=- 4611 2 IN IP4 127.0.0.1\\r\\n"}',
    '{"type":"ice-candidate","candidate":{"candidate":"","sdpMid":"0","sdpMLineIndex":0}}',
    '{"type":"ice-candidate","candidate":null}',
    '{ "type" :\t"answer" ,\r\n "sdp":\n"" }',
    '{"b":1,"a":2,"b":3}',
    "[1.0, -0, 1e400, 1E-7, 123456789012345678901234567890, 0.1000000000000000055]",
    r'"\u00e9\/\ud83d\ude00"',
    '"é\u2028😀"',
    "null",
    "true",
    "0",
    '""',
    "[" * 100 + "]" * 100,
    '"' + "x" * 100_000 + '"',
]


@pytest.mark.parametrize("signal", OPAQUE, ids=[signal[:30] for signal in OPAQUE])
async def test_signal_is_relayed_byte_for_byte(service: Service, signal: str) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await ann.send_text(
            f'{{"signal" : {signal} , "type":"webrtc-signal","target_user_id":"bob"}}'
        )
        text = await bob.receive_text()
        assert f'"signal":{signal}' in text
        assert json.loads(text)["from_user_id"] == "ann"


@pytest.mark.parametrize("target", ["nobody", "ann", "", "cat-of-another-room"])
async def test_signal_without_a_valid_target_is_dropped_silently(
    service: Service, target: str
) -> None:
    async with (
        enter_all(service, "ann", "bob") as (ann, bob),
        enter(service, "cat-of-another-room", "s") as cat,
    ):
        await ann.send("webrtc-signal", target_user_id=target, signal={})
        await expect_silence(ann, bob)
        await cat.expect_nothing()


async def test_signal_to_a_departed_user_is_dropped_silently(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await bob.close()
        await ann.expect("user_left")
        await ann.send("webrtc-signal", target_user_id="bob", signal={})
        await expect_silence(ann)


async def test_signals_arrive_in_order(service: Service) -> None:
    async with enter_all(service, "ann", "bob", "cat") as (ann, bob, cat):
        async with trio.open_nursery() as nursery:
            for client in (ann, cat):
                nursery.start_soon(send_numbered, client, "bob", 60)
        received = [await bob.expect("webrtc-signal") for _ in range(120)]
        for sender in ("ann", "cat"):
            numbers = [m["signal"]["n"] for m in received if m["from_user_id"] == sender]
            assert numbers == list(range(60))


async def send_numbered(client: Client, target: str, count: int) -> None:
    """Large offers, each followed by its candidates."""
    for n in range(count):
        size = 20_000 if n % 20 == 0 else 200
        await client.send(
            "webrtc-signal", target_user_id=target, signal={"n": n, "sdp": "x" * size}
        )


# Leaving


async def test_reconnect_is_announced_as_leave_and_join(service: Service) -> None:
    async with enter(service, "bob") as bob:
        for _ in range(3):
            async with enter(service, "ann") as ann:
                await bob.expect("user_joined", user_id="ann")
                await go_live(ann, bob)
            await bob.expect("broadcast-stopped", user_id="ann")
            await bob.expect("user_left", user_id="ann")
        await expect_silence(bob)


# Tabs: the others see one participant


async def test_second_tab_is_not_announced(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (first, bob):
        async with enter(service, "ann") as second:
            assert [user["user_id"] for user in second.log[0]["users"]] == ["ann", "bob"]
            await expect_silence(second, first, bob)
        await expect_silence(first, bob)
        await first.close()
        await bob.expect("user_left", user_id="ann")
        await expect_silence(bob)


async def test_late_close_of_a_stale_socket_is_harmless(service: Service) -> None:
    async with enter(service, "bob") as bob, open_raw(service.base) as stale:
        await stale.upgrade(path("ann"))
        await bob.expect("user_joined", user_id="ann")
        async with enter(service, "ann") as ann:
            stale.reset()
            await ann.send("message", content="1")
            await bob.expect("message", content="1")
            await bob.send("webrtc-signal", target_user_id="ann", signal=1)
            await ann.expect("message")
            await ann.expect("webrtc-signal", signal=1)
        await bob.expect("user_left", user_id="ann")


async def test_other_tabs_get_broadcasts_but_no_typing_of_their_user(
    service: Service,
) -> None:
    async with (
        enter_all(service, "ann", "bob") as (ann, bob),
        enter(service, "ann") as tab,
    ):
        await ann.send("typing_start")
        await ann.send("message", content="hi")
        await ann.send("typing_stop")
        await ann.send("broadcast-started")
        await ann.send("profile_updated", bio="me")
        await ann.send("broadcast-stopped")
        for client, types in (
            (ann, ["message", "profile_updated", "broadcast-stopped"]),
            (tab, ["message", "broadcast-started", "profile_updated", "broadcast-stopped"]),
            (
                bob,
                [
                    "typing_start",
                    "message",
                    "typing_stop",
                    "broadcast-started",
                    "profile_updated",
                    "broadcast-stopped",
                ],
            ),
        ):
            for type_ in types:
                await client.expect(type_, user_id="ann")
        await expect_silence(ann, tab, bob)


async def test_rename_applies_to_all_tabs(service: Service) -> None:
    async with (
        enter(service, "ann", username="Ann") as ann,
        enter(service, "ann") as tab,
    ):
        await ann.send("profile_updated", username="Anna")
        await tab.expect("profile_updated", username="Anna")
        await tab.send("message", content="hi")
        await tab.expect("message", username="Anna")


async def test_later_tab_sees_its_own_user_live(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob):
        await go_live(ann, bob)
        async with enter(service, "ann") as tab:
            active = await tab.expect("active-broadcasts")
            assert [who["user_id"] for who in active["broadcasters"]] == ["ann"]


async def test_closing_the_live_tab_stops_the_broadcast_only(
    service: Service,
) -> None:
    async with enter_all(service, "ann", "bob") as (tab, bob), enter(service, "ann") as live:
        await go_live(live, tab, bob)
        await live.close()
        for client in (tab, bob):
            await client.expect("broadcast-stopped", user_id="ann")
        await expect_silence(tab, bob)


async def test_user_live_in_two_tabs_stops_with_the_second(service: Service) -> None:
    async with enter_all(service, "ann", "bob") as (ann, bob), enter(service, "ann") as tab:
        await go_live(ann, tab, bob)
        await go_live(tab, ann, bob)
        async with enter(service, "late") as late:
            active = await late.expect("active-broadcasts")
            assert [who["user_id"] for who in active["broadcasters"]] == ["ann"]
        for client in (ann, tab, bob):
            await client.wait_for("user_left", user_id="late")
        await ann.send("broadcast-stopped")
        await ann.expect("broadcast-stopped", user_id="ann")
        await expect_silence(ann, tab, bob)
        await tab.send("broadcast-stopped")
        for client in (ann, tab, bob):
            await client.expect("broadcast-stopped", user_id="ann")


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
            await bob.send("webrtc-signal", target_user_id="ann", signal=1)
            await target.expect("webrtc-signal", signal=1)
            await expect_silence(bob, *tabs)

        await assert_reached(third)
        await go_live(first, bob, second, third)
        await assert_reached(first)
        await go_live(second, bob, first, third)
        await assert_reached(second)
        await first.send("broadcast-stopped")
        await first.expect("broadcast-stopped")
        await settle(first)
        await second.send("broadcast-stopped")
        for client in (bob, *tabs):
            await client.expect("broadcast-stopped")
        await assert_reached(third)


async def test_user_may_signal_its_other_tab(service: Service) -> None:
    async with enter(service, "ann") as first, enter(service, "ann") as second:
        await second.send("webrtc-signal", target_user_id="ann", signal="to first")
        await first.expect("webrtc-signal", from_user_id="ann", signal="to first")
        await expect_silence(second, first)


# Separate rooms, and complete snapshots


async def test_nothing_leaks_between_rooms(service: Service) -> None:
    async with (
        enter_all(service, "ann", "bob") as (ann, bob),
        enter(service, "ann", "s") as elsewhere,
        enter(service, "bob", "s") as other,
    ):
        await elsewhere.expect("user_joined", user_id="bob")
        await ann.send("message", content="hi")
        await ann.send("typing_start")
        await ann.send("broadcast-started")
        await ann.send("profile_updated", username="Anna")
        await ann.send("webrtc-signal", target_user_id="bob", signal=1)
        await ann.send("broadcast-stopped")
        await bob.wait_for("broadcast-stopped")
        await ann.close()
        await bob.expect("user_left")
        await expect_silence(elsewhere, other)
        await expect_silence(bob)


async def test_concurrent_joiners_see_each_other_exactly_once(service: Service) -> None:
    everyone = {f"user-{n}" for n in range(12)}
    all_here = Gathering(len(everyone))

    async def come(user_id: str) -> None:
        async with enter(service, user_id) as client:
            known = [user["user_id"] for user in client.log[0]["users"]]
            while len(known) < len(everyone):
                known.append((await client.expect("user_joined"))["user_id"])
            assert sorted(known) == sorted(everyone)
            await all_here.wait()
            await client.expect_nothing()
            await all_here.wait()

    async with trio.open_nursery() as nursery:
        for user_id in everyone:
            nursery.start_soon(come, user_id)


async def test_joiner_during_a_broadcast_start_learns_of_it_once(
    service: Service,
) -> None:
    viewers, broadcasters = 8, {"live-0", "live-1", "live-2"}
    all_here = Gathering(viewers)

    async def watch(user_id: str) -> None:
        async with enter(service, user_id) as client:
            live: list[str] = []
            while len(live) < len(broadcasters):
                message = await client.receive()
                if message["type"] == "active-broadcasts":
                    live += [who["user_id"] for who in message["broadcasters"]]
                elif message["type"] == "broadcast-started":
                    live.append(message["user_id"])
            assert sorted(live) == sorted(broadcasters)
            await all_here.wait()
            types = [message["type"] for message in await client.settle()]
            assert "broadcast-started" not in types
            await all_here.wait()

    async with AsyncExitStack() as stack:
        live = [await stack.enter_async_context(enter(service, name)) for name in broadcasters]
        async with trio.open_nursery() as nursery:
            for n in range(viewers):
                nursery.start_soon(watch, f"viewer-{n}")
            for client in live:
                nursery.start_soon(partial(client.send, "broadcast-started"))


class Gathering:
    """A barrier: all continue when the last one arrives."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._waiting: list[trio.Event] = []

    async def wait(self) -> None:
        """Wait for the others."""
        met = trio.Event()
        self._waiting.append(met)
        if len(self._waiting) == self._size:
            for event in self._waiting:
                event.set()
            self._waiting = []
        with trio.fail_after(PATIENCE):
            await met.wait()
