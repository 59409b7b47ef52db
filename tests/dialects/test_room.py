"""The `room` dialect without sockets: text in, actions out; events in, notices out."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from msgspec import Raw

from tests.members import AT, member
from trio_signal.dialects.room import RoomDialect, chat_message, live_broadcasters
from trio_signal.dialects.wire import encode
from trio_signal.errors import AuthenticationError
from trio_signal.messages.commands import (
    Action,
    Authenticate,
    ChangeProfile,
    Chat,
    Close,
    GoLive,
    Join,
    Malformed,
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
    Notice,
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
from trio_signal.messages.identity import Identity, Live, Member, ServerInfo, SignalKind

ANN = member("a1", "ann", dialect="room", avatar_url="ann.png")
BOB = member("b1", "bob", dialect="room")
BOB_LIVE = member("b1", "bob", dialect="room", live="video")
INVALID = Malformed(b'{"type":"error","message":"Invalid message format"}')


def dialect(user_id: str = "ann", **query: str) -> RoomDialect:
    made = RoomDialect.at(["ws", "r", user_id], query)
    assert made is not None
    return made


def wire(actions: Iterable[Action]) -> list[Any]:
    """Sent messages as the client reads them; other actions unchanged."""
    return [json.loads(a.text) if isinstance(a, Send | Malformed) else a for a in actions]


def told(event: RoomEvent) -> list[tuple[Audience, Any]]:
    return [(notice.audience, json.loads(notice.text)) for notice in RoomDialect.tell(event)]


# Paths and identity


@pytest.mark.parametrize(
    ("path", "query", "claims"),
    [
        ("ws/r/ann", {}, Authenticate("ann", claimed="ann")),
        (
            "ws/r/ann",
            {"username": "Ann", "avatar_url": "ann.png", "token": "t", "more": "x"},
            Authenticate("ann", None, "Ann", "ann.png", claimed="ann"),
        ),
        ("ws/r/ann", {"username": "", "avatar_url": ""}, Authenticate("ann", claimed="ann")),
        ("ws/r", {}, None),
        ("ws", {}, None),
        ("ws/r/ann/x", {}, None),
        ("rooms/r/ann", {}, None),
        ("api/v1/ws/connect", {}, None),
    ],
)
def test_path_and_query_have_the_identity(
    path: str, query: dict[str, str], claims: Authenticate | None
) -> None:
    made = RoomDialect.at(path.split("/"), query)
    opened = None if made is None else list(made.opened("p"))
    assert opened == (None if claims is None else [claims])


def test_a_user_joins_the_room_of_its_path() -> None:
    made = dialect()
    assert list(made.authenticated(Identity("s", "ann"), ServerInfo(), AT)) == [
        Join("r", restore_profile=True, reachable=True)
    ]
    assert list(made.rejoin(["other"])) == []


def test_a_refusal_has_a_close_code_that_clients_do_not_retry() -> None:
    assert dialect().authentication_failed(AuthenticationError("Invalid token")) == Close(
        4004, "Invalid token"
    )


# Messages from clients


def signal(payload: bytes) -> Signal:
    return Signal("r", "signal", Raw(payload), To.USER, "bob")


RECEIVED: list[tuple[str, list[Action]]] = [
    # keep_alive and pong
    ('{"type":"keep_alive"}', [Send(b'{"type":"ping","timestamp":"%b"}' % AT.encode())]),
    (
        '{"type":"keep_alive","timestamp":1763632530123}',
        [Send(b'{"type":"ping","timestamp":"%b"}' % AT.encode())],
    ),
    ('{"type":"pong"}', []),
    ('{"type":"pong","content":"not chat"}', []),
    # message
    ('{"type":"message","content":"hi"}', [Chat("r", "hi")]),
    ('{"type":"message","content":"hi","avatar":"x.png"}', [Chat("r", "hi", "x.png")]),
    ('{"type":"message","content":"hi","avatar":null}', [Chat("r", "hi")]),
    ('{"type":"message","content":" "}', [Chat("r", " ")]),
    ('{"type":"message","content":"\\u0000é\\ud83d\\ude00"}', [Chat("r", "\0é😀")]),
    ('{"type":"message","content":""}', []),
    (
        '{"type":"message","content":"hi","user_id":"eve","room_id":"x","username":1,"id":[]}',
        [Chat("r", "hi")],
    ),
    # typing
    ('{"type":"typing_start","is_typing":false}', [SetTyping("r", typing=True)]),
    ('{"type":"typing_stop"}', [SetTyping("r", typing=False)]),
    # the profile
    ('{"type":"profile_updated"}', [ChangeProfile("r", "profile_updated")]),
    (
        '{"type":"profile_updated","username":"Anna","prevUsername":"Ann","email":"a@b.c",'
        '"bio":"","avatar":"y.png"}',
        [ChangeProfile("r", "profile_updated", "Anna", "y.png", "Ann", "a@b.c", "")],
    ),
    (
        '{"type":"profile_updated","username":null,"prevUsername":null,"email":null,'
        '"bio":null,"avatar":null}',
        [ChangeProfile("r", "profile_updated")],
    ),
    (
        '{"type":"avatar_updated","avatar":"y.png"}',
        [ChangeProfile("r", "avatar_updated", avatar_url="y.png")],
    ),
    # signals
    ('{"type":"webrtc-signal","target_user_id":"bob","signal":null}', [signal(b"null")]),
    (
        '{"signal": { "type" : "ice-candidate","candidate":{}} ,"from_user_id":"eve",'
        '"target_user_id":"bob","type":"webrtc-signal"}',
        [signal(b'{ "type" : "ice-candidate","candidate":{}}')],
    ),
    # broadcasts: the server decides the name
    ('{"type":"broadcast-started"}', [GoLive("r")]),
    (
        '{"type":"broadcast-started","username":"Eve","media_type":"x"}',
        [GoLive("r", username="Eve")],
    ),
    ('{"type":"broadcast-stopped","username":5}', [StopLive("r")]),
    # other types: chat if they have content, otherwise ignored
    ('{"type":"shout","content":"hi"}', [Chat("r", "hi")]),
    ('{"type":"shout","content":"hi","avatar":5}', [Chat("r", "hi")]),
    ('{"type":"","content":"hi"}', [Chat("r", "hi")]),
    ('{"content":"hi"}', [Chat("r", "hi")]),
    ('{"type":"shout"}', []),
    ('{"type":"shout","content":""}', []),
    ('{"type":"shout","content":null}', []),
    ('{"type":"shout","content":0}', []),
    ('{"type":"join"}', []),
]


@pytest.mark.parametrize(("text", "actions"), RECEIVED, ids=[text[:50] for text, _ in RECEIVED])
def test_messages_become_actions(text: str, actions: list[Action]) -> None:
    assert list(dialect().received(text.encode(), AT)) == actions


MALFORMED = [
    "",
    "ping",
    "{",
    "null",
    "[]",
    '"message"',
    "{}",
    '{"content":""}',
    '{"content":null}',
    '{"type":null,"content":"hi"}',
    '{"type":5,"content":"hi"}',
    '{"type":"shout","content":5}',
    '{"type":"shout","content":["hi"]}',
    '{"type":"shout","content":' + "[" * 50_000 + "]" * 50_000 + "}",
    '{"type":"shout","content":"hi"',
    '{"type":"message"}',
    '{"type":"message","content":null}',
    '{"type":"message","content":5}',
    '{"type":"message","content":"hi","avatar":5}',
    '{"type":"message","content":"half a pair: \\ud83d"}',
    '{"type":"profile_updated","username":5}',
    '{"type":"avatar_updated","avatar":{}}',
    '{"type":"webrtc-signal"}',
    '{"type":"webrtc-signal","target_user_id":"bob"}',
    '{"type":"webrtc-signal","signal":{}}',
    '{"type":"webrtc-signal","target_user_id":5,"signal":{}}',
    '{"type":"webrtc-signal","target_user_id":null,"signal":{}}',
]


@pytest.mark.parametrize("text", MALFORMED, ids=[text[:50] for text in MALFORMED])
def test_invalid_messages_are_malformed(text: str) -> None:
    assert list(dialect().received(text.encode(), AT)) == [INVALID]


# Answers to commands


def room_state(*users: dict[str, Any]) -> dict[str, Any]:
    return {"type": "room_state", "room_id": "r", "users": list(users), "timestamp": AT}


ANN_USER = {"user_id": "ann", "username": "Ann", "avatar_url": "ann.png"}
BOB_USER = {"user_id": "bob", "username": "Bob", "avatar_url": None}
STOPPED = {"type": "broadcast-stopped", "user_id": "ann", "username": "Ann", "timestamp": AT}

ANSWERED: list[tuple[Answer, list[Any]]] = [
    (Entered("r", ANN, (ANN,), AT), [room_state(ANN_USER)]),
    (
        # a user with two tabs is one participant
        Entered("r", ANN, (BOB, ANN, member("b2", "bob")), AT),
        [room_state(BOB_USER, ANN_USER)],
    ),
    (
        Entered("r", ANN, (BOB_LIVE, ANN), AT),
        [
            room_state(BOB_USER, ANN_USER),
            {
                "type": "active-broadcasts",
                "room_id": "r",
                "broadcasters": [{"user_id": "bob", "username": "Bob", "started_at": AT}],
                "timestamp": AT,
            },
        ],
    ),
    (Refused(StopLive("r"), Refusal.NOT_LIVE, AT), [STOPPED]),
    (Refused(Join("r"), Refusal.ROOM_FULL, AT), [Close(1013, "Room is full")]),
    (Refused(Join("r"), Refusal.NOT_ALLOWED, AT), [Close(4004, "Not allowed in this room")]),
    # the client learns everything else from events, or not at all
    (Refused(signal(b"1"), Refusal.TARGET_NOT_FOUND, AT), []),
    (Refused(Chat("r", "hi"), Refusal.NOT_IN_ROOM, AT), []),
    (LiveNow("r", ANN, (BOB,)), []),
    (LivePeers("r", (BOB_LIVE,)), []),
    (ChatSent("r", "id", AT), []),
    (Exited("r", AT), []),
    (Removed("r", "Spam", AT), []),
]


@pytest.mark.parametrize(("answer", "sent"), ANSWERED)
def test_answers_become_messages(answer: Answer, sent: list[Any]) -> None:
    made = dialect()
    list(made.authenticated(Identity("s", "ann"), ServerInfo(), AT))
    list(made.answered(Entered("r", ANN, (ANN,), AT)))
    assert wire(made.answered(answer)) == sent


def test_each_live_user_is_listed_once_with_its_first_start() -> None:
    later = Live("audio", "2026-11-20T11:00:00.000Z")
    second = Member("b2", "bob", "Bob", "room", "a", "bob", live=later)
    listed = live_broadcasters([ANN, BOB_LIVE, second, member("c1", "cat", live="audio")])
    assert [(who.user_id, who.started_at) for who in listed] == [("bob", AT), ("cat", AT)]


# Events


def signalled(kind: SignalKind, payload: bytes, target: Member | None = BOB) -> Signalled:
    return Signalled("r", kind, Raw(payload), ANN, target, "", AT)


def moved(type_: str, **more: Any) -> dict[str, Any]:
    return {
        "type": type_,
        "room_id": "r",
        "user_id": "ann",
        "username": "Ann",
        **more,
        "timestamp": AT,
    }


def broadcast(type_: str) -> dict[str, Any]:
    return {"type": type_, "user_id": "ann", "username": "Ann", "timestamp": AT}


TOLD: list[tuple[RoomEvent, list[tuple[Audience, Any]]]] = [
    (
        Joined("r", ANN, first=True, peers=2, at=AT),
        [(Audience.OTHER_USERS, moved("user_joined", avatar_url="ann.png"))],
    ),
    (Joined("r", ANN, first=False, peers=3, at=AT), []),
    (Rejoined("r", ANN, 2, AT), []),
    (Left("r", ANN, last=True, peers=1, at=AT), [(Audience.OTHER_USERS, moved("user_left"))]),
    (Left("r", ANN, last=False, peers=2, at=AT), []),
    *(
        (
            WentLive("r", ANN, news, exclusive, AT),
            [(Audience.OTHER_PEERS, broadcast("broadcast-started"))],
        )
        for news in News
        for exclusive in (False, True)
    ),
    *(
        (
            StoppedLive("r", ANN, last, cause, AT),
            [(audience, broadcast("broadcast-stopped"))],
        )
        for cause in StopCause
        for last, audience in ((True, Audience.EVERYONE), (False, Audience.ITSELF))
    ),
    (
        Chatted("r", ANN, "7", "hi", None, AT),
        [(Audience.EVERYONE, moved("message", id="7", content="hi", avatar=None))],
    ),
    (Typing("r", ANN, True, AT), [(Audience.OTHER_USERS, moved("typing_start"))]),
    (Typing("r", ANN, False, AT), [(Audience.OTHER_USERS, moved("typing_stop"))]),
    (
        ProfileChanged("r", ANN, "profile_updated", "Anna", "a@b.c", "bio", AT),
        [
            (
                Audience.EVERYONE,
                moved(
                    "profile_updated",
                    avatar_url="ann.png",
                    avatar="ann.png",
                    prevUsername="Anna",
                    email="a@b.c",
                    bio="bio",
                ),
            )
        ],
    ),
    (
        ProfileChanged("r", ANN, "avatar_updated", None, None, None, AT),
        [
            (
                Audience.EVERYONE,
                moved(
                    "avatar_updated",
                    avatar_url="ann.png",
                    avatar="ann.png",
                    prevUsername=None,
                    email=None,
                    bio=None,
                ),
            )
        ],
    ),
    # `broadcast-started` follows
    (StreamStarting("r", ANN, AT), []),
    # `room` has no signals to everybody, and no application messages
    (signalled("offer", b"{}", None), []),
    (signalled("message", b"{}"), []),
]


@pytest.mark.parametrize(
    ("event", "notices"),
    TOLD,
    ids=[f"{n}-{type(event).__name__}" for n, (event, _) in enumerate(TOLD)],
)
def test_events_become_notices(event: RoomEvent, notices: list[tuple[Audience, Any]]) -> None:
    assert told(event) == notices


@pytest.mark.parametrize(
    ("kind", "payload", "carried"),
    [
        ("signal", b' {"type" :"offer","n":1.0}', b' {"type" :"offer","n":1.0}'),
        ("signal", b"null", b"null"),
        # from dialects with separate message types
        ("offer", b'{"type":"offer","sdp":"v=0"}', b'{"type":"offer","sdp":"v=0"}'),
        ("answer", b'{"type":"answer","sdp":"v=0"}', b'{"type":"answer","sdp":"v=0"}'),
        ("candidate", b"null", b'{"type":"ice-candidate","candidate":null}'),
        ("candidate", b'{"n":1e400}', b'{"type":"ice-candidate","candidate":{"n":1e400}}'),
    ],
)
def test_signals_are_relayed_unchanged_with_the_senders_name(
    kind: SignalKind, payload: bytes, carried: bytes
) -> None:
    head = (
        b'{"type":"webrtc-signal","room_id":"r","target_user_id":"bob",'
        b'"from_user_id":"ann","from_username":"Ann","signal":'
    )
    (notice,) = RoomDialect.tell(signalled(kind, payload))
    assert notice.text == head + carried + b"}"


def test_the_history_has_messages_in_the_same_form() -> None:
    chat = Chatted("r", ANN, "7", "hi", "x.png", AT)
    assert [Notice(Audience.EVERYONE, encode(chat_message(chat)))] == list(RoomDialect.tell(chat))


def test_a_recorded_conversation() -> None:
    """A late joiner asks the broadcaster for its stream, and is told when it stops."""
    bea = dialect("bea", username="Bea")
    bea_here = member("c1", "bea", dialect="room")
    ann_live = member("a1", "ann", dialect="room", live="video")
    said = {
        kind: b'{"type":"webrtc-signal","target_user_id":"ann","signal":%b}' % payload
        for kind, payload in (
            ("offer", b'{"type":"offer","sdp":"v=0"}'),
            ("candidate", b'{"type":"ice-candidate","candidate":null}'),
        )
    }

    assert list(bea.opened("c1")) == [Authenticate("bea", username="Bea", claimed="bea")]
    assert list(bea.authenticated(Identity("", "bea", "Bea"), ServerInfo(), AT)) == [
        Join("r", restore_profile=True, reachable=True)
    ]
    state, live = wire(bea.answered(Entered("r", bea_here, (ann_live, bea_here), AT)))
    assert [user["user_id"] for user in state["users"]] == ["ann", "bea"]
    assert [user["user_id"] for user in live["broadcasters"]] == ["ann"]

    assert list(bea.received(said["offer"], AT)) == [
        Signal("r", "signal", Raw(b'{"type":"offer","sdp":"v=0"}'), To.USER, "ann")
    ]
    assert list(bea.received(said["candidate"], AT)) == [
        Signal("r", "signal", Raw(b'{"type":"ice-candidate","candidate":null}'), To.USER, "ann")
    ]
    answer = Signalled(
        "r", "signal", Raw(b'{"type":"answer","sdp":"v=0"}'), ann_live, bea_here, "", AT
    )
    assert told(answer) == [
        (
            Audience.EVERYONE,
            {
                "type": "webrtc-signal",
                "room_id": "r",
                "target_user_id": "bea",
                "from_user_id": "ann",
                "from_username": "Ann",
                "signal": {"type": "answer", "sdp": "v=0"},
            },
        )
    ]
    assert wire(bea.received(b'{"type":"keep_alive"}', AT)) == [{"type": "ping", "timestamp": AT}]
    assert told(StoppedLive("r", ANN, True, StopCause.LEFT, AT)) == [
        (Audience.EVERYONE, broadcast("broadcast-stopped"))
    ]
    assert told(Left("r", ANN, last=True, peers=1, at=AT)) == [
        (Audience.OTHER_USERS, moved("user_left"))
    ]
