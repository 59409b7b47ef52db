"""The four families whose clients share rooms: what they send and receive, one row for each.

What holds for all of them is tested once, for every row.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from tests.clients import Client, Message, Service
from tests.raw import RawClient

#: By message type: the required and the optional fields, with the kind of value that each holds.
Fields = tuple[dict[str, str], dict[str, str]]


class Family(NamedTuple):
    """One dialect: how its clients join, what they send and receive, how errors are worded."""

    path: str
    #: How `{name}` enters the room, and which message shows that it is in.
    enter: Sequence[Message]
    entered: str
    #: The number of peers or users in the room, from that message.
    count: Callable[[Message], int]
    #: An ordinary request and its answer.
    ask: Message
    answer: str
    go_live: Message
    #: What others receive when somebody joins, goes live, stops and leaves.
    joined: str
    live: str
    stopped: str
    left: str
    #: The field that says who it was; `stream` has none.
    who: str | None
    #: A long message that a live peer receives; do all others receive it too?
    chatter: Callable[[str], Message]
    all_hear_chatter: bool
    messages: Mapping[str, Fields]
    not_json: Message
    type_missing: Message
    type_unknown: Message | None
    #: The error for a wrong field, by message type; a text that ends in `: ` continues.
    field: Callable[[str], Message]

    def entering(self, name: str) -> list[Message]:
        """What a client of this name sends to join."""
        return [
            {key: value.replace("{name}", name) for key, value in message.items()}
            for message in self.enter
        ]

    async def upgrade(self, client: RawClient, name: str) -> None:
        """Bring a raw client into the room."""
        await client.upgrade(self.path.format(name=name))
        await client.say(*self.entering(name))
        await client.wait_for(self.entered)


@asynccontextmanager
async def open_member(service: Service, family: Family, name: str) -> AsyncIterator[Client]:
    """A client that is in the room."""
    async with service.connect(family.path.format(name=name)) as client:
        for message in family.entering(name):
            await client.send_json(message)
        await client.wait_for(family.entered)
        yield client


_ROOM_ERROR = {"type": "error", "message": "Invalid message format"}
_PROFILE = dict.fromkeys(("username", "prevUsername", "email", "bio", "avatar"), "text or null")
_LIVE_SIGNAL: tuple[dict[str, str], dict[str, str]] = (
    {"target_user_id": "text", "payload": "opaque"},
    {"room_id": "text or null"},
)
_STREAM = {"streamId": "text"}

FAMILIES = {
    "room": Family(
        path="/ws/r/{name}?username={name}",
        enter=[],
        entered="room_state",
        count=lambda state: len(state["users"]),
        ask={"type": "keep_alive"},
        answer="ping",
        go_live={"type": "broadcast-started"},
        joined="user_joined",
        live="broadcast-started",
        stopped="broadcast-stopped",
        left="user_left",
        who="user_id",
        chatter=lambda text: {"type": "message", "content": text},
        all_hear_chatter=True,
        messages={
            "message": ({"content": "text"}, {"avatar": "text or null"}),
            "profile_updated": ({}, _PROFILE),
            "avatar_updated": ({}, _PROFILE),
            "webrtc-signal": ({"target_user_id": "text", "signal": "opaque"}, {}),
        },
        not_json=_ROOM_ERROR,
        type_missing=_ROOM_ERROR,
        type_unknown=None,
        field=lambda type_: _ROOM_ERROR,
    ),
    "live": Family(
        path="/api/v1/ws/connect?user_id={name}&username={name}",
        enter=[{"type": "join_room", "room_id": "r"}],
        entered="joined_room",
        count=lambda joined: len(joined["members"]),
        ask={"type": "ping"},
        answer="pong",
        go_live={"type": "live_start", "room_id": "r"},
        joined="user_joined",
        live="live_peer_joined",
        stopped="live_peer_left",
        left="user_left",
        who="user_id",
        chatter=lambda text: {"type": "send_message", "room_id": "r", "content": text},
        all_hear_chatter=True,
        messages={
            # A missing or null `room_id` has errors of its own, below.
            "join_room": ({}, {"room_id": "text or null"}),
            "leave_room": ({}, {"room_id": "text or null"}),
            "live_start": ({}, {"room_id": "text or null", "media_type": "media"}),
            "live_stop": ({}, {"room_id": "text or null"}),
            "live_status": ({}, {"room_id": "text or null"}),
            "live_offer": _LIVE_SIGNAL,
            "live_answer": _LIVE_SIGNAL,
            "live_ice": _LIVE_SIGNAL,
            "send_message": ({}, {"room_id": "text or null", "content": "text or null"}),
            "typing": ({}, {"room_id": "text or null", "is_typing": "flag"}),
        },
        not_json={"type": "error", "message": "Invalid JSON"},
        type_missing={"type": "error", "message": "type required"},
        type_unknown={"type": "error", "message": "Unknown message type: nonsense"},
        field=lambda type_: {"type": "error", "message": f"Invalid {type_}: "},
    ),
    "stream": Family(
        path="/ws",
        enter=[{"type": "join-stream", "streamId": "r"}],
        entered="viewer-count",
        count=lambda told: int(told["count"]),
        # Refused, but not malformed.
        ask={"type": "end-stream", "streamId": "r"},
        answer="error",
        go_live={"type": "broadcaster-ready", "streamId": "r"},
        joined="viewer-count",
        live="broadcaster-ready-signal",
        stopped="broadcaster-disconnected",
        left="viewer-count",
        who=None,
        chatter=lambda text: {"type": "webrtc-answer", "streamId": "r", "answer": text},
        all_hear_chatter=False,
        messages={
            "broadcaster-ready": (_STREAM, {}),
            "join-stream": (_STREAM, {}),
            "webrtc-offer": (_STREAM | {"offer": "opaque", "viewerId": "text"}, {}),
            "webrtc-answer": (_STREAM | {"answer": "opaque"}, {}),
            "webrtc-ice-candidate": (
                _STREAM | {"candidate": "opaque"},
                {"viewerId": "text or null"},
            ),
            "ice-candidate": (_STREAM | {"candidate": "opaque"}, {"viewerId": "text or null"}),
            "start-streaming": ({"orderId": "text"}, {}),
            "end-stream": (_STREAM, {}),
        },
        not_json={"type": "error", "code": "invalid_message"},
        type_missing={"type": "error", "code": "unknown_type"},
        type_unknown={"type": "error", "code": "unknown_type"},
        field=lambda type_: {"type": "error", "code": "invalid_message"},
    ),
    "mesh": Family(
        path="/ws/r",
        enter=[{"type": "auth_token", "token": "", "clientId": "{name}", "username": "{name}"}],
        entered="users_in_room",
        count=lambda others: len(others["users"]) + 1,
        ask={"type": "ping"},
        answer="pong",
        go_live={"type": "broadcast_start"},
        joined="user_joined",
        live="broadcast_started",
        stopped="broadcast_stopped",
        left="user_left",
        who="client_id",
        chatter=lambda text: {"type": "message", "data": text},
        all_hear_chatter=True,
        messages={
            "auth_token": (
                {},
                dict.fromkeys(("token", "clientId", "username"), "text or null"),
            ),
            "offer": ({"offer": "opaque"}, {"to": "text or null"}),
            "answer": ({"answer": "opaque"}, {"to": "text or null"}),
            "ice_candidate": ({"candidate": "opaque"}, {"to": "text or null"}),
            "message": ({"data": "opaque"}, {"to": "text or null"}),
            "broadcast_start": ({}, {"media_type": "media"}),
        },
        not_json={"type": "error", "code": "invalid_json"},
        type_missing={"type": "error", "code": "invalid_message"},
        type_unknown={
            "type": "error",
            "code": "unknown_type",
            "message": "Unknown message type: nonsense",
        },
        field=lambda type_: {"type": "error", "code": "invalid_message"},
    ),
}
