"""Private messages of `room`: they reach the receiver only, wherever it is."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.clients import Client, Service
from tests.conftest import Serve
from tests.test_room_protocol import enter
from tests.test_room_protocol import path as room_path
from tests.tokens import SECRET, make_token


@asynccontextmanager
async def open_inbox(service: Service, user_id: str, query: str = "") -> AsyncIterator[Client]:
    """A user's inbox, known to all replicas."""
    async with service.connect(f"/ws/dm/{quote(user_id)}{query}") as client:
        await client.send("keep_alive")
        await client.expect("ping")
        await client.quiesce()
        yield client


async def send(client: Client, to: str, content: str, **fields: Any) -> None:
    """Send what the real client sends; the server ignores its sender and time."""
    said = {"sender_id": "mallory", "sender_username": None, "timestamp": "yesterday", **fields}
    await client.send("dm_message", receiver_id=to, content=content, **said)


async def get(service: Service, path: str) -> httpx.Response:
    async with httpx.AsyncClient() as http:
        return await http.get(f"http://{service.base}{path}")


async def test_only_the_receiver_gets_the_message(service: Service) -> None:
    async with (
        open_inbox(service, "ann") as ann,
        open_inbox(service, "bob") as bob,
        open_inbox(service, "eve") as eve,
        open_inbox(service, "ann") as other_tab,
        enter(service, "eve") as listener,
    ):
        await send(ann, "bob", "secret", sender_username="Ann", sender_avatar="a.png")
        heard = await bob.expect("dm_message")
        message = heard["message"]
        assert heard.keys() == {"type", "message"}
        assert message.pop("id")
        assert message.pop("timestamp").endswith("Z")
        assert message == {
            "sender_id": "ann",
            "sender_username": "Ann",
            "sender_avatar": "a.png",
            "receiver_id": "bob",
            "content": "secret",
        }
        await bob.send("dm_typing", sender_id="eve", receiver_id="ann", is_typing=True)
        for client in (ann, other_tab):
            assert await client.receive() == {
                "type": "dm_typing",
                "sender_id": "bob",
                "is_typing": True,
            }
        await bob.send("dm_read", reader_id="eve", sender_id="ann", timestamp="yesterday")
        for client in (ann, other_tab):
            read = await client.expect("dm_read", reader_id="bob", sender_id="ann")
            assert read["timestamp"].endswith("Z")
        for client in (ann, other_tab, bob, eve, listener):
            await client.expect_nothing()
        for path in ("/rooms/dm", "/rooms/dm/messages", "/rooms/%64m/messages"):
            assert (await get(service, path)).status_code == 404
        listed = (await get(service, "/rooms")).text
        assert '"r"' in listed
        assert "dm" not in listed
        assert "inbox" not in listed
        assert "u0000" not in listed
        assert (await get(service, "/health")).json()["rooms"] == 1


async def test_receiver_without_an_inbox_gets_it_in_its_rooms(
    service: Service,
) -> None:
    async with (
        enter(service, "bob", "one") as first,
        enter(service, "bob", "two") as second,
        enter(service, "ann", "one", username="Ann", avatar_url="a.png") as ann,
        enter(service, "eve", "two") as eve,
    ):
        await first.wait_for("user_joined", user_id="ann")
        await second.wait_for("user_joined", user_id="eve")
        await send(ann, "bob", "hello")  # it may be sent from a room as well
        for client in (first, second):
            message = (await client.expect("dm_message"))["message"]
            assert (message["sender_username"], message["sender_avatar"]) == ("Ann", "a.png")
        async with open_inbox(service, "bob") as inbox:
            await send(ann, "bob", "and now?")
            assert (await inbox.expect("dm_message"))["message"]["content"] == "and now?"
            for client in (first, second, eve, ann):
                await client.expect_nothing()


async def test_messages_to_absent_users_are_not_kept(service: Service) -> None:
    async with open_inbox(service, "ann") as ann:
        await send(ann, "bob", "are you there?")
        await ann.expect_nothing()
        async with open_inbox(service, "bob") as bob, enter(service, "bob") as in_room:
            await bob.expect_nothing()
            await in_room.expect_nothing()


@pytest.mark.parametrize("type_", ["dm_message", "dm_reaction", "dm_"])
async def test_private_types_are_never_chat(service: Service, type_: str) -> None:
    async with enter(service, "ann") as ann, enter(service, "bob") as bob:
        await ann.expect("user_joined")
        await ann.send(type_, receiver_id="carol", content="secret")
        await ann.expect_nothing()
        await bob.expect_nothing()
        assert (await get(service, "/rooms/r/messages")).json() == []


async def test_inbox_is_in_no_room(service: Service) -> None:
    """Room messages sent from an inbox go nowhere, and no other path leads into an inbox."""
    async with open_inbox(service, "ann") as ann, open_inbox(service, "bob") as bob:
        await ann.send("message", content="Hello, room!")
        await ann.send("broadcast-started")
        await ann.send("webrtc-signal", target_user_id="bob", signal={"type": "offer"})
        await ann.send("anything", content="Hello?")
        await ann.expect_nothing()
        await bob.expect_nothing()
        await ann.send_text("nonsense")
        await ann.expect("error", message="Invalid message format")
        await ann.send("dm_message", receiver_id="bob")
        await ann.expect("error", message="Invalid message format")
    inbox = room_path("eve", "\0inbox:bob")
    async with service.connect(inbox) as eve:
        await eve.expect_close(4004, "Not allowed in this room")


async def test_token_gives_access_to_own_inbox_only(serve: Serve) -> None:
    """The name comes from the token, whatever the message says."""
    async with serve(auth="token", jwt_secret=SECRET) as service:
        ann, bob = make_token("ann", name="Ann", rooms=["r*"]), make_token("bob", rooms=[])
        async with service.connect(f"/ws/dm/bob?token={ann}") as eve:
            await eve.expect_close(4004, "Identity mismatch")
        async with (
            open_inbox(service, "ann", f"?token={ann}") as sender,
            open_inbox(service, "bob", f"?token={bob}") as receiver,
        ):
            await send(sender, "bob", "hello", sender_username="Mallory")
            message = (await receiver.expect("dm_message"))["message"]
            assert (message["sender_id"], message["sender_username"]) == ("ann", "Ann")


async def test_inbox_sockets_per_user_are_limited(service: Service) -> None:
    async with open_inbox(service, "ann") as ann, AsyncExitStack() as stack:
        for _ in range(49):
            await stack.enter_async_context(open_inbox(service, "bob"))
        last = await stack.enter_async_context(open_inbox(service, "bob"))
        async with service.connect("/ws/dm/bob") as one_more:
            await one_more.expect_close(1013, "Too many connections of this user")
        await send(ann, "bob", "hello")
        await last.expect("dm_message")
