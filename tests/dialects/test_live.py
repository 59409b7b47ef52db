"""The `live` dialect without sockets: text in, actions out; events in, notices out."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from msgspec import Raw

from tests.members import AT, member
from trio_signal.dialects.live import LiveDialect
from trio_signal.errors import AuthenticationError, IdentityMismatchError
from trio_signal.messages.commands import (
    Action,
    Appear,
    AskLive,
    Authenticate,
    Chat,
    Close,
    GoLive,
    Join,
    Leave,
    Malformed,
    RejoinRooms,
    Send,
    SetTyping,
    Signal,
    StopLive,
    To,
)
from trio_signal.messages.events import (
    Answer,
    Audience,
    ChatSent,
    Chatted,
    Entered,
    Exited,
    Joined,
    Left,
    LiveNow,
    LivePeers,
    News,
    ProfileChanged,
    Refusal,
    Refused,
    Rejoined,
    Removed,
    RoomEvent,
    Signalled,
    StopCause,
    StoppedLive,
    StreamStarting,
    Typing,
    WentLive,
)
from trio_signal.messages.identity import Identity, Member, ServerInfo, SignalKind

ANN = member("a1", "ann", dialect="live")
ANN_LIVE = member("a1", "ann", dialect="live", live="audio")
BOB = member("b1", "bob", dialect="live")
BOB_LIVE = member("b1", "bob", dialect="live", live="video")


def dialect(**query: str) -> LiveDialect:
    made = LiveDialect.at(["api", "v1", "ws", "connect"], query)
    assert made is not None
    return made


def wire(actions: Iterable[Action]) -> list[Any]:
    """Sent messages as the client reads them; other actions unchanged."""
    return [json.loads(a.text) if isinstance(a, Send | Malformed) else a for a in actions]


def told(event: RoomEvent) -> list[tuple[Audience, Any]]:
    return [(notice.audience, json.loads(notice.text)) for notice in LiveDialect.tell(event)]


def error(message: str) -> dict[str, str]:
    return {"type": "error", "message": message}


# Paths and identity


@pytest.mark.parametrize(
    "path", ["", "ws", "api/v1/ws", "api/v1/ws/connect/x", "api/v2/ws/connect", "ws/r/ann"]
)
def test_other_paths_are_not_served(path: str) -> None:
    assert LiveDialect.at(path.split("/"), {}) is None


@pytest.mark.parametrize(
    ("query", "claims"),
    [
        ({}, Authenticate("peer-id", guest_name="Guest-peer")),
        ({"user_id": "", "username": ""}, Authenticate("peer-id", guest_name="Guest-peer")),
        ({"token": "t"}, Authenticate("peer-id", guest_name="Guest-peer")),
        (
            {"user_id": "ann", "username": "Ann", "token": "t", "more": "x"},
            Authenticate("ann", username="Ann", guest_name="Guest-peer", claimed="ann"),
        ),
    ],
)
def test_the_query_has_the_identity_and_its_absence_means_guest(
    query: dict[str, str], claims: Authenticate
) -> None:
    assert list(dialect(**query).opened("peer-id")) == [claims]


def test_a_known_user_is_greeted_and_its_rooms_are_looked_up() -> None:
    greeting, *others = dialect().authenticated(Identity("s", "ann", "Ann"), ServerInfo(), AT)
    assert wire([greeting]) == [
        {
            "type": "connected",
            "user_id": "ann",
            "username": "Ann",
            "timestamp": AT,
            "message": "Connected to live updates",
        }
    ]
    assert others == [Appear(), RejoinRooms()]


def test_a_returning_user_rejoins_its_rooms() -> None:
    assert list(dialect().rejoin(["r", "s"])) == [Join("r"), Join("s")]
    assert list(dialect().rejoin([])) == []


def test_a_user_id_other_than_the_tokens_is_refused() -> None:
    error = IdentityMismatchError("Identity mismatch")
    assert dialect().authentication_failed(error) == Close(1008, "Identity mismatch")


def test_failed_authentication_closes_with_4001() -> None:
    assert dialect().authentication_failed(AuthenticationError("Invalid token")) == Close(
        4001, "Authentication failed"
    )


# Messages from clients


def signal(kind: SignalKind, payload: bytes) -> Signal:
    return Signal("r", kind, Raw(payload), To.USER, "bob")


RECEIVED: list[tuple[str, list[Action]]] = [
    ('{"type":"ping"}', [Send(b'{"type":"pong","timestamp":"%b"}' % AT.encode())]),
    ('{"type":"ping","room_id":5}', [Send(b'{"type":"pong","timestamp":"%b"}' % AT.encode())]),
    ('{"type":"join_room","room_id":"r"}', [Join("r")]),
    ('{"type":"join_room","room_id":"r","user_id":"eve","username":"Eve"}', [Join("r")]),
    ('{"type":"leave_room","room_id":"r"}', [Leave("r")]),
    ('{"type":"live_start","room_id":"r"}', [GoLive("r", "video")]),
    ('{"type":"live_start","room_id":"r","media_type":"video"}', [GoLive("r", "video")]),
    ('{"type":"live_start","room_id":"r","media_type":"audio"}', [GoLive("r", "audio")]),
    ('{"type":"live_stop","room_id":"r"}', [StopLive("r")]),
    ('{"type":"live_status","room_id":"r"}', [AskLive("r", listens=True)]),
    ('{"type":"send_message","room_id":"r","content":"hi"}', [Chat("r", "hi")]),
    ('{"type":"typing","room_id":"r"}', [SetTyping("r", typing=True)]),
    ('{"type":"typing","room_id":"r","is_typing":true}', [SetTyping("r", typing=True)]),
    ('{"type":"typing","room_id":"r","is_typing":false}', [SetTyping("r", typing=False)]),
    (
        '{"payload": {"type" :"offer"} ,"type":"live_offer","room_id":"r",'
        '"target_user_id":"bob","from_user_id":"eve"}',
        [signal("offer", b'{"type" :"offer"}')],
    ),
    (
        '{"type":"live_answer","room_id":"r","target_user_id":"bob","payload":"v=0"}',
        [signal("answer", b'"v=0"')],
    ),
    (
        '{"type":"live_ice","room_id":"r","target_user_id":"bob","payload":null}',
        [signal("candidate", b"null")],
    ),
]


@pytest.mark.parametrize(("text", "actions"), RECEIVED)
def test_messages_become_actions(text: str, actions: list[Action]) -> None:
    assert list(dialect().received(text.encode(), AT)) == actions


MALFORMED = [
    *(
        (text, "Invalid JSON")
        for text in (
            "",
            "ping",
            "{",
            "null",
            "[]",
            '"ping"',
            '{"type":"ping"',
            '{"type":"unheard","payload":NaN}',
            '{"type":"live_ice","payload":' + "[" * 50_000 + "]" * 50_000 + "}",
        )
    ),
    *((text, "type required") for text in ("{}", '{"type":null}', '{"room_id":"r"}')),
    ('{"type":"unheard"}', "Unknown message type: unheard"),
    ('{"type":""}', "Unknown message type: "),
    ('{"type":"unheard","room_id":5}', "Unknown message type: unheard"),
    *(
        (f'{{"type":"{type_}"{room}{rest}}}', message)
        for type_, rest, message in (
            ("join_room", "", "room_id required"),
            ("leave_room", "", "room_id required"),
            ("live_stop", "", "room_id required"),
            ("typing", "", "room_id required"),
            ("live_start", "", "room_id required for live_start"),
            ("live_status", "", "room_id required for live_status"),
            ("live_offer", ',"target_user_id":"bob","payload":1', "room_id required"),
            ("live_answer", ',"target_user_id":"bob","payload":1', "room_id required"),
            ("live_ice", ',"target_user_id":"bob","payload":1', "room_id required"),
            ("send_message", ',"content":"hi"', "room_id and content required"),
            ("send_message", "", "room_id and content required"),
        )
        for room in ("", ',"room_id":""')
    ),
    ('{"type":"send_message","room_id":"r"}', "room_id and content required"),
    ('{"type":"send_message","room_id":"r","content":""}', "room_id and content required"),
]


@pytest.mark.parametrize(
    ("text", "message"), MALFORMED, ids=[f"{text[:50]}" for text, _ in MALFORMED]
)
def test_an_error_says_what_is_missing(text: str, message: str) -> None:
    (action,) = dialect().received(text.encode(), AT)
    assert isinstance(action, Malformed)
    assert json.loads(action.text) == error(message)


@pytest.mark.parametrize(
    ("type_", "fields", "field"),
    [
        ("join_room", '"room_id":5', "room_id"),
        ("live_start", '"room_id":"r","media_type":"screen"', "media_type"),
        ("live_start", '"room_id":"r","media_type":null', "media_type"),
        ("send_message", '"room_id":"r","content":5', "content"),
        ("typing", '"room_id":"r","is_typing":1', "is_typing"),
        ("live_offer", '"room_id":"r","target_user_id":"bob"', "payload"),
        ("live_answer", '"room_id":"r","payload":{}', "target_user_id"),
        ("live_ice", '"room_id":"r","target_user_id":7,"payload":{}', "target_user_id"),
    ],
)
def test_an_error_names_the_invalid_field(type_: str, fields: str, field: str) -> None:
    (action,) = dialect().received(f'{{"type":"{type_}",{fields}}}'.encode(), AT)
    assert isinstance(action, Malformed)
    message = json.loads(action.text)["message"]
    assert message.startswith(f"Invalid {type_}: ")
    assert field in message


# Answers to commands


def live_peers(*peers: tuple[str, str, str]) -> dict[str, Any]:
    return {
        "type": "live_peers",
        "room_id": "r",
        "peers": [
            {"user_id": user_id, "username": username, "media_type": media_type}
            for user_id, username, media_type in peers
        ],
    }


ANSWERED: list[tuple[Answer, list[Any]]] = [
    (
        Entered("r", ANN, (BOB, ANN, member("b2", "bob")), AT),
        [
            {
                "type": "joined_room",
                "room_id": "r",
                "room_name": "r",
                "members": ["bob", "ann"],
                "timestamp": AT,
            }
        ],
    ),
    (Exited("r", AT), [{"type": "left_room", "room_id": "r", "timestamp": AT}]),
    (
        Removed("r", "Spam", AT),
        [
            {"type": "left_room", "room_id": "r", "timestamp": AT},
            {"type": "error", "message": "Spam"},
        ],
    ),
    (LiveNow("r", ANN_LIVE, (BOB,)), [live_peers()]),
    (
        # without oneself and one's other tabs, and each user once
        LiveNow(
            "r",
            ANN_LIVE,
            (member("a2", "ann", live="video"), BOB_LIVE, member("b2", "bob", live="audio")),
        ),
        [live_peers(("bob", "Bob", "video"))],
    ),
    (LivePeers("r", ()), [live_peers()]),
    (
        LivePeers("r", (BOB_LIVE, member("c1", "cat", live="audio"))),
        [live_peers(("bob", "Bob", "video"), ("cat", "Cat", "audio"))],
    ),
    (
        ChatSent("r", "7", AT),
        [{"type": "message_sent", "message_id": "7", "room_id": "r", "timestamp": AT}],
    ),
    (Refused(GoLive("r"), Refusal.NOT_IN_ROOM, AT), [error("Join the room before going live")]),
    (
        Refused(Chat("r", "hi"), Refusal.NOT_IN_ROOM, AT),
        [error("Join the room before sending messages")],
    ),
    (
        Refused(Leave("r"), Refusal.NOT_IN_ROOM, AT),
        [{"type": "left_room", "room_id": "r", "timestamp": AT}],
    ),
    (Refused(Join("r"), Refusal.ROOM_FULL, AT), [error("Room is full")]),
    (Refused(Join("r"), Refusal.NOT_ALLOWED, AT), [error("Not allowed in this room")]),
    # silently ignored
    (Refused(StopLive("r"), Refusal.NOT_IN_ROOM, AT), []),
    (Refused(StopLive("r"), Refusal.NOT_LIVE, AT), []),
    (Refused(SetTyping("r", typing=True), Refusal.NOT_IN_ROOM, AT), []),
    (Refused(signal("offer", b"1"), Refusal.NOT_IN_ROOM, AT), []),
    (Refused(signal("offer", b"1"), Refusal.TARGET_NOT_FOUND, AT), []),
]


@pytest.mark.parametrize(("answer", "sent"), ANSWERED)
def test_answers_become_messages(answer: Answer, sent: list[Any]) -> None:
    assert wire(dialect().answered(answer)) == sent


# Events


def signalled(kind: SignalKind, payload: bytes, target: Member | None = BOB) -> Signalled:
    return Signalled("r", kind, Raw(payload), ANN, target, "", AT)


def moved(type_: str, **more: Any) -> dict[str, Any]:
    return {"type": type_, "room_id": "r", "user_id": "ann", **more, "timestamp": AT}


def to_others(type_: str, **more: Any) -> list[tuple[Audience, Any]]:
    """The notice for an event, which no connection of the same user receives."""
    return [(Audience.OTHER_USERS, moved(type_, **more))]


LIVE_PEER_JOINED = to_others("live_peer_joined", username="Ann", media_type="audio")

TOLD: list[tuple[RoomEvent, list[tuple[Audience, Any]]]] = [
    (Joined("r", ANN, first=True, peers=2, at=AT), to_others("user_joined")),
    (Joined("r", ANN, first=False, peers=3, at=AT), []),
    (Rejoined("r", ANN, 2, AT), []),
    (Left("r", ANN, last=True, peers=1, at=AT), to_others("user_left")),
    (Left("r", ANN, last=False, peers=2, at=AT), []),
    (WentLive("r", ANN_LIVE, News.FIRST, False, AT), LIVE_PEER_JOINED),
    (WentLive("r", ANN_LIVE, News.CHANGED, False, AT), LIVE_PEER_JOINED),
    (WentLive("r", ANN_LIVE, News.FIRST, True, AT), LIVE_PEER_JOINED),
    (WentLive("r", ANN_LIVE, News.AGAIN, False, AT), []),
    (WentLive("r", ANN_LIVE, News.ANOTHER, False, AT), []),
    *((StoppedLive("r", ANN, True, cause, AT), to_others("live_peer_left")) for cause in StopCause),
    *((StoppedLive("r", ANN, False, cause, AT), []) for cause in StopCause),
    (
        Chatted("r", ANN, "7", "hi", "not shown", AT),
        [
            (
                Audience.EVERYONE,
                {
                    "type": "message",
                    "message_id": "7",
                    "room_id": "r",
                    "sender_id": "ann",
                    "sender_username": "Ann",
                    "content": "hi",
                    "is_leave_message": False,
                    "timestamp": AT,
                },
            )
        ],
    ),
    (Typing("r", ANN, True, AT), to_others("typing", is_typing=True)),
    (Typing("r", ANN, False, AT), to_others("typing", is_typing=False)),
    # events without a message in this dialect
    (ProfileChanged("r", ANN, "profile_updated", "Anna", None, None, AT), []),
    (StreamStarting("r", ANN, AT), []),
    (signalled("offer", b"{}", None), []),
    (signalled("message", b"{}"), []),
    (signalled("signal", b'{"type":"offer"}'), []),
]


@pytest.mark.parametrize(
    ("event", "notices"),
    TOLD,
    ids=[f"{n}-{type(event).__name__}" for n, (event, _) in enumerate(TOLD)],
)
def test_events_become_notices(event: RoomEvent, notices: list[tuple[Audience, Any]]) -> None:
    assert told(event) == notices


@pytest.mark.parametrize(
    ("kind", "type_"),
    [("offer", "live_offer"), ("answer", "live_answer"), ("candidate", "live_ice")],
)
@pytest.mark.parametrize("payload", [b' {"sdp" :"v=0","n":1.0} ', b"null", b'""', b"1e400"])
def test_signals_are_relayed_unchanged_with_the_senders_id(
    kind: SignalKind, type_: str, payload: bytes
) -> None:
    (notice,) = LiveDialect.tell(signalled(kind, payload))
    assert notice.text == (
        b'{"type":"%b","room_id":"r","from_user_id":"ann","payload":%b,"timestamp":"%b"}'
        % (type_.encode(), payload, AT.encode())
    )


def test_a_recorded_conversation() -> None:
    """The conversation that once revealed a bug: two live users must see each other."""
    bea = dialect(token="t", user_id="bea", username="Bea")
    bea_here = member("c1", "bea", dialect="live")
    bea_live = member("c1", "bea", dialect="live", live="audio")

    list(bea.opened("c1"))
    greeting, *_ = bea.authenticated(Identity("t", "bea", "Bea"), ServerInfo(), AT)
    assert [message["type"] for message in wire([greeting])] == ["connected"]

    assert list(bea.received(b'{"type":"join_room","room_id":"r"}', AT)) == [Join("r")]
    (joined,) = wire(bea.answered(Entered("r", bea_here, (ANN_LIVE, bea_here), AT)))
    assert (joined["type"], joined["members"]) == ("joined_room", ["ann", "bea"])

    assert list(bea.received(b'{"type":"live_status","room_id":"r"}', AT)) == [
        AskLive("r", listens=True)
    ]
    assert wire(bea.answered(LivePeers("r", (ANN_LIVE,)))) == [live_peers(("ann", "Ann", "audio"))]

    # she listens first, and offers the other direction when she goes live
    said = b'{"type":"live_offer","room_id":"r","target_user_id":"ann","payload":{"sdp":"v=0"}}'
    assert list(bea.received(said, AT)) == [
        Signal("r", "offer", Raw(b'{"sdp":"v=0"}'), To.USER, "ann")
    ]
    said = b'{"type":"live_start","room_id":"r","media_type":"audio"}'
    assert list(bea.received(said, AT)) == [GoLive("r", "audio")]
    assert wire(bea.answered(LiveNow("r", bea_live, (ANN_LIVE,)))) == [
        live_peers(("ann", "Ann", "audio"))
    ]
    offer = Signalled("r", "offer", Raw(b'{"sdp":"v=1"}'), ANN_LIVE, bea_live, "", AT)
    assert told(offer) == [
        (
            Audience.EVERYONE,
            {
                "type": "live_offer",
                "room_id": "r",
                "from_user_id": "ann",
                "payload": {"sdp": "v=1"},
                "timestamp": AT,
            },
        )
    ]
    assert told(StoppedLive("r", ANN, True, StopCause.LEFT, AT)) == to_others("live_peer_left")
    assert told(Left("r", ANN, last=True, peers=1, at=AT)) == to_others("user_left")
