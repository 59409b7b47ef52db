"""The `mesh` dialect without sockets: text in, actions out; events in, notices out."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from msgspec import Raw

from tests.members import AT, member
from trio_signal.dialects.mesh import MeshDialect
from trio_signal.errors import AuthenticationError
from trio_signal.messages.commands import (
    Action,
    Authenticate,
    Close,
    GoLive,
    Join,
    LeaveCause,
    Malformed,
    Renew,
    Send,
    Signal,
    StopLive,
    To,
)
from trio_signal.messages.events import (
    Answer,
    Audience,
    ChatSent,
    Chatted,
    Displaced,
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

ANN = member("ann")
ANN_LIVE = member("ann", live="audio")
BOB = member("bob")
SERVER = ServerInfo(ice_servers=({"urls": ["stun:stun.example.com"]},), heartbeat=25.0)


def new_dialect() -> MeshDialect:
    made = MeshDialect.at(["ws", "r"], {})
    assert made is not None
    return made


def dialect() -> MeshDialect:
    """The dialect of a connection that has authenticated as `ann`."""
    made = new_dialect()
    made.opened("0123456789")
    made.received(b'{"type": "auth_token", "clientId": "ann"}', AT)
    made.authenticated(Identity("subject", "ann", "Ann"), SERVER, AT)
    return made


def received(text: str) -> list[Action]:
    return list(dialect().received(text.encode(), AT))


def wire(actions: Iterable[Action]) -> list[Any]:
    """Sent messages as the client reads them; other actions unchanged."""
    return [json.loads(a.text) if isinstance(a, Send | Malformed) else a for a in actions]


def told(event: RoomEvent) -> list[tuple[Audience, Any]]:
    return [(notice.audience, json.loads(notice.text)) for notice in MeshDialect.tell(event)]


def signalled(
    kind: SignalKind, payload: str, target: Member | None = None, sender: Member = ANN
) -> Signalled:
    return Signalled("r", kind, Raw(payload.encode()), sender, target, "", AT)


def left(connected_users: int, cause: str = "lost") -> dict[str, Any]:
    return {**moved("user_left", connected_users), "cause": cause}


def moved(type_: str, connected_users: int) -> dict[str, Any]:
    return {
        "type": type_,
        "room_id": "r",
        "from": "ann",
        "client_id": "ann",
        "username": "Ann",
        "connected_users": connected_users,
    }


# Paths and identity


@pytest.mark.parametrize("path", ["", "ws", "ws/r/ann", "api/r", "api/v1/ws/connect"])
def test_other_paths_are_not_served(path: str) -> None:
    assert MeshDialect.at(path.split("/"), {}) is None


def test_it_begins_with_auth_required() -> None:
    (question,) = wire(new_dialect().opened("0123456789"))
    assert question == {"type": "auth_required", "message": question["message"]}


@pytest.mark.parametrize(
    ("fields", "claims"),
    [
        ({}, Authenticate("0123456789", None, None, guest_name="Guest-0123")),
        ({"token": None}, Authenticate("0123456789", None, None, guest_name="Guest-0123")),
        (
            {"token": "t", "username": "Ann"},
            Authenticate("0123456789", "t", "Ann", guest_name="Guest-0123"),
        ),
        (
            {"token": "t", "clientId": "ann", "username": "Ann"},
            Authenticate("ann", "t", "Ann", guest_name="Guest-ann"),
        ),
        ({"clientId": "A-z_0" * 12}, Authenticate("A-z_0" * 12, guest_name="Guest-A-z_")),
        ({"clientId": "x" * 64}, Authenticate("x" * 64, guest_name="Guest-xxxx")),
        ({"clientId": ""}, Authenticate("0123456789", guest_name="Guest-0123")),
        ({"clientId": None}, Authenticate("0123456789", guest_name="Guest-0123")),
        ({"username": ""}, Authenticate("0123456789", guest_name="Guest-0123")),
        ({"username": None, "x": [1]}, Authenticate("0123456789", guest_name="Guest-0123")),
    ],
)
def test_the_first_message_has_the_identity(fields: dict[str, Any], claims: Authenticate) -> None:
    made = new_dialect()
    made.opened("0123456789")
    text = json.dumps({"type": "auth_token", **fields}).encode()
    assert list(made.received(text, AT)) == [claims]
    join = Join("r", claims.user_id, reserve=True)
    assert list(made.authenticated(Identity("subject", "u", "n"), SERVER, AT)) == [join]
    assert list(made.rejoin(["r"])) == []


@pytest.mark.parametrize("client_id", ["x" * 65, "a b", "a.b", "ä", "a\n", "a/b", " "])
def test_an_invalid_client_id_is_refused(client_id: str) -> None:
    made = new_dialect()
    made.opened("0123456789")
    text = json.dumps({"type": "auth_token", "clientId": client_id}).encode()
    assert list(made.received(text, AT)) == [Close(1008, "Invalid client id")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "{}",
        '{"type": "ping"}',
        '{"type": "offer", "offer": {}}',
        '{"type": "offer"}',
        '{"type": "nonsense"}',
        '{"type": "auth_token", "clientId": 7}',
    ],
)
def test_any_other_first_message_ends_the_connection(text: str) -> None:
    made = new_dialect()
    made.opened("0123456789")
    assert list(made.received(text.encode(), AT)) == [Close(1008, "Authentication required")]


@pytest.mark.parametrize("token", ["7", "{}", "[]", "true"])
def test_a_token_that_is_not_a_string_is_invalid(token: str) -> None:
    made = new_dialect()
    made.opened("0123456789")
    text = f'{{"type": "auth_token", "token": {token}}}'.encode()
    assert list(made.received(text, AT)) == [Close(1008, "Invalid token")]


def test_a_refusal_has_the_reason() -> None:
    assert dialect().authentication_failed(AuthenticationError("Invalid token")) == Close(
        1008, "Invalid token"
    )


# Messages from clients


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        (
            '{"type": "offer", "offer": {"sdp" :  1e3}, "to": "bob"}',
            [Signal("r", "offer", Raw(b'{"sdp" :  1e3}'), To.PEER, "bob")],
        ),
        ('{"type": "offer", "offer": 1}', [Signal("r", "offer", Raw(b"1"), To.OTHERS)]),
        (
            '{"type": "answer", "answer": null, "to": "bob", "from": "forged"}',
            [Signal("r", "answer", Raw(b"null"), To.PEER, "bob")],
        ),
        (
            '{"type": "answer", "answer": 1, "to": ""}',
            [Signal("r", "answer", Raw(b"1"), To.OTHERS)],
        ),
        (
            '{"type": "ice_candidate", "candidate": "", "to": "bob"}',
            [Signal("r", "candidate", Raw(b'""'), To.PEER, "bob")],
        ),
        (
            '{"type": "ice_candidate", "candidate": null, "to": null}',
            [Signal("r", "candidate", Raw(b"null"), To.OTHERS)],
        ),
        (
            '{"type": "message", "data": [1, 2], "to": "bob"}',
            [Signal("r", "message", Raw(b"[1, 2]"), To.PEER, "bob")],
        ),
        ('{"type": "message", "data": 1}', [Signal("r", "message", Raw(b"1"), To.OTHERS)]),
        ('{"type": "broadcast_start"}', [GoLive("r", "video")]),
        ('{"type": "broadcast_start", "media_type": "audio"}', [GoLive("r", "audio")]),
        ('{"type": "broadcast_stop"}', [StopLive("r")]),
        ('{"type": "ping"}', [Send(b'{"type":"pong"}')]),
        ('{"type": "ping", "id": 7}', [Send(b'{"type":"pong","id":7}')]),
        ('{"type": "ping", "id": "a\\u0062"}', [Send(b'{"type":"pong","id":"a\\u0062"}')]),
        ('{"type": "ping", "id": null}', [Send(b'{"type":"pong","id":null}')]),
        ('{"type": "auth_token", "token": "another"}', [Renew("another")]),
    ],
)
def test_messages_become_actions(text: str, actions: list[Action]) -> None:
    assert received(text) == actions


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_json"),
        ("nonsense", "invalid_json"),
        ("[]", "invalid_json"),
        ("null", "invalid_json"),
        ('{"type": "ping"', "invalid_json"),
        ('{"type": "offer", "offer": ' + "[" * 100_000, "invalid_json"),
        ("{}", "invalid_message"),
        ('{"type": 7}', "invalid_message"),
        ('{"type": null}', "invalid_message"),
        ('{"type": "offer", "to": "bob"}', "invalid_message"),
        ('{"type": "answer", "offer": {}}', "invalid_message"),
        ('{"type": "ice_candidate"}', "invalid_message"),
        ('{"type": "message"}', "invalid_message"),
        ('{"type": "offer", "offer": {}, "to": 7}', "invalid_message"),
        ('{"type": "offer", "offer": {}, "to": ["bob"]}', "invalid_message"),
        ('{"type": "broadcast_start", "media_type": "screen"}', "invalid_message"),
        ('{"type": "broadcast_start", "media_type": null}', "invalid_message"),
        ('{"type": "nonsense"}', "unknown_type"),
        ('{"type": "user_left"}', "unknown_type"),
        ('{"type": ""}', "unknown_type"),
    ],
)
def test_invalid_messages_are_answered_with_an_error(text: str, code: str) -> None:
    (malformed,) = received(text)
    assert isinstance(malformed, Malformed)
    error = json.loads(malformed.text)
    assert error == {"type": "error", "message": error["message"], "code": code}
    assert error["message"]


def test_an_error_names_the_unknown_type() -> None:
    (malformed,) = received('{"type": "näher"}')
    assert wire([malformed]) == [
        {"type": "error", "message": "Unknown message type: näher", "code": "unknown_type"}
    ]


# Answers to commands

SUCCESS = {
    "type": "auth_success",
    "user": "Ann",
    "client_id": "ann",
    "message": "Authenticated",
    "user_id": "ann",
    "room_id": "r",
    "ice_servers": [{"urls": ["stun:stun.example.com"]}],
    "heartbeat": 25.0,
    "protocol": 1,
}


def test_entering_an_empty_room() -> None:
    assert wire(dialect().answered(Entered("r", ANN, (ANN,), AT))) == [
        SUCCESS,
        {"type": "users_in_room", "users": []},
    ]


def test_entering_lists_peers_and_broadcasts() -> None:
    members = (BOB, member("carl-1", "carl", live="audio"), ANN)
    assert wire(dialect().answered(Entered("r", ANN, members, AT))) == [
        SUCCESS,
        {
            "type": "users_in_room",
            "users": [
                {"client_id": "bob", "username": "Bob"},
                {"client_id": "carl-1", "username": "Carl"},
            ],
        },
        {
            "type": "active_broadcasts",
            "broadcasters": [
                {
                    "client_id": "carl-1",
                    "username": "Carl",
                    "media_type": "audio",
                    "started_at": AT,
                }
            ],
        },
    ]


@pytest.mark.parametrize(
    ("answer", "sent"),
    [
        (
            Refused(Signal("r", "offer", Raw(b"1"), To.PEER, "bob"), Refusal.TARGET_NOT_FOUND, AT),
            [
                {
                    "type": "error",
                    "message": "Target client bob not found",
                    "code": "target_not_found",
                    "to": "bob",
                }
            ],
        ),
        (Refused(Join("r"), Refusal.PEER_ID_IN_USE, AT), [Close(1008, "Client id in use")]),
        (Refused(Join("r"), Refusal.ROOM_FULL, AT), [Close(1013, "Room is full")]),
        (Refused(Join("r"), Refusal.NOT_ALLOWED, AT), [Close(1008, "Not allowed in this room")]),
        (
            Refused(GoLive("r"), Refusal.NOT_ALLOWED, AT),
            [{"type": "error", "message": "Not allowed", "code": "not_allowed"}],
        ),
        (Refused(StopLive("r"), Refusal.NOT_LIVE, AT), []),
        (LiveNow("r", ANN_LIVE, (BOB,)), []),
        (LivePeers("r", (ANN_LIVE,)), []),
        (ChatSent("r", "id", AT), []),
        (Exited("r", AT), []),
        (Displaced("r"), []),
        (Removed("r", "Spam", AT), []),
    ],
)
def test_answers_become_messages(answer: Answer, sent: list[Any]) -> None:
    assert wire(dialect().answered(answer)) == sent


# Events in the room

STARTED = {
    "type": "broadcast_started",
    "from": "ann",
    "client_id": "ann",
    "username": "Ann",
    "media_type": "audio",
    "started_at": AT,
}
STOPPED = {"type": "broadcast_stopped", "from": "ann", "client_id": "ann", "username": "Ann"}


@pytest.mark.parametrize(
    ("event", "notices"),
    [
        *(
            (
                Joined("r", ANN, first, 3, AT),
                [(Audience.OTHER_PEERS, moved("user_joined", 3))],
            )
            for first in (True, False)
        ),
        *(
            (Left("r", ANN, last, 2, AT), [(Audience.OTHER_PEERS, left(2))])
            for last in (True, False)
        ),
        *(
            (Left("r", ANN, True, 2, AT, cause), [(Audience.OTHER_PEERS, left(2, cause.value))])
            for cause in LeaveCause
        ),
        *(
            (
                WentLive("r", ANN_LIVE, news, False, AT),
                [(Audience.OTHER_PEERS, STARTED)] if news is not News.AGAIN else [],
            )
            for news in News
        ),
        *(
            (StoppedLive("r", ANN, last, cause, AT), [(Audience.OTHER_PEERS, STOPPED)])
            for last in (True, False)
            for cause in StopCause
        ),
        (Rejoined("r", ANN, 3, AT), []),
        (Chatted("r", ANN, "id", "hello", None, AT), []),
        (Typing("r", ANN, True, AT), []),
        (ProfileChanged("r", ANN, "profile", None, None, None, AT), []),
        (StreamStarting("r", ANN, AT), []),
    ],
)
def test_events_become_notices(event: RoomEvent, notices: list[tuple[Audience, Any]]) -> None:
    assert told(event) == notices


SDP = '{"sdp" :  "v=0\\r\\n", "sdp": 1e3}'


@pytest.mark.parametrize("target", [BOB, None])
@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("offer", '{"type":"offer","offer":'),
        ("answer", '{"type":"answer","answer":'),
        ("candidate", '{"type":"ice_candidate","candidate":'),
        ("message", '{"type":"message","data":'),
    ],
)
@pytest.mark.parametrize("payload", [SDP, "null", '""', "[ ]"])
def test_signals_are_relayed_unchanged_with_their_sender(
    kind: SignalKind, head: str, payload: str, target: Member | None
) -> None:
    (notice,) = MeshDialect.tell(signalled(kind, payload, target))
    assert notice.audience is Audience.OTHER_PEERS
    assert notice.text.decode() == head + payload + ',"from":"ann","username":"Ann"}'


def test_signals_that_only_other_dialects_have_are_ignored() -> None:
    assert told(signalled("signal", "{}", BOB)) == []


# A recorded conversation: a call, from the first message to the last


def test_a_conversation_from_the_callees_side() -> None:
    me = member("0123456789", username="Guest-0123")
    page = new_dialect()
    conversation: list[tuple[str | Identity | Answer | RoomEvent, list[Any]]] = [
        (
            '{"type":"auth_token","token":"t"}',
            [Authenticate("0123456789", "t", guest_name="Guest-0123")],
        ),
        (Identity("subject", "0123456789", "Guest-0123"), [Join("r", "0123456789", reserve=True)]),
        (
            Entered("r", me, (ANN, me), AT),
            [
                {
                    **SUCCESS,
                    "user": "Guest-0123",
                    "client_id": "0123456789",
                    "user_id": "0123456789",
                },
                {"type": "users_in_room", "users": [{"client_id": "ann", "username": "Ann"}]},
            ],
        ),
        (
            signalled("offer", '{"type":"offer"}', me),
            [
                (
                    Audience.OTHER_PEERS,
                    {
                        "type": "offer",
                        "offer": {"type": "offer"},
                        "from": "ann",
                        "username": "Ann",
                    },
                )
            ],
        ),
        (
            '{"type":"answer","answer":{"type":"answer"},"to":"ann"}',
            [Signal("r", "answer", Raw(b'{"type":"answer"}'), To.PEER, "ann")],
        ),
        (
            '{"type":"ice_candidate","candidate":null,"to":"ann"}',
            [Signal("r", "candidate", Raw(b"null"), To.PEER, "ann")],
        ),
        (WentLive("r", ANN_LIVE, News.FIRST, False, AT), [(Audience.OTHER_PEERS, STARTED)]),
        (
            StoppedLive("r", ANN, True, StopCause.LEFT, AT),
            [(Audience.OTHER_PEERS, STOPPED)],
        ),
        (Left("r", ANN, True, 1, AT), [(Audience.OTHER_PEERS, left(1))]),
        (
            '{"type":"message","data":"still there?","to":"ann"}',
            [Signal("r", "message", Raw(b'"still there?"'), To.PEER, "ann")],
        ),
        (
            Refused(
                Signal("r", "message", Raw(b"1"), To.PEER, "ann"), Refusal.TARGET_NOT_FOUND, AT
            ),
            [
                {
                    "type": "error",
                    "message": "Target client ann not found",
                    "code": "target_not_found",
                    "to": "ann",
                }
            ],
        ),
    ]
    assert wire(page.opened("0123456789"))[0]["type"] == "auth_required"
    for given, expected in conversation:
        match given:
            case str():
                assert list(page.received(given.encode(), AT)) == expected
            case Identity():
                assert list(page.authenticated(given, SERVER, AT)) == expected
            case Entered() | Refused():
                assert wire(page.answered(given)) == expected
            case WentLive() | StoppedLive() | Left() | Signalled():
                assert told(given) == expected
            case _:
                pytest.fail(f"not in this conversation: {given}")
