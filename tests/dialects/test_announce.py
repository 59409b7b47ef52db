"""The `announce` dialect without sockets: text in, actions out; events in, notices out."""

import json
from collections.abc import Iterable
from typing import Any

import pytest

from tests.members import member
from trio_signal.dialects.announce import AnnounceDialect
from trio_signal.errors import AuthenticationError, IdentityMismatchError
from trio_signal.messages.commands import (
    Acknowledge,
    Action,
    AskAnnouncement,
    Authenticate,
    Close,
    HearAnnouncements,
    IdlePing,
    Send,
)
from trio_signal.messages.events import (
    Acknowledged,
    ActiveAnnouncement,
    Announced,
    AnnouncementCleared,
    Audience,
    Event,
    Exited,
    Joined,
    Left,
)
from trio_signal.messages.identity import Announcement, Identity, ServerInfo

NOW = "2026-11-20T10:46:02.174Z"
PATH = ["api", "creator", "broadcast", "ws"]
HELLO = Announcement("7", "Hello", "alert", "u1", "Ada", NOW)
SHOWN = {"id": "7", "message": "Hello", "message_type": "alert", "created_at": NOW}


def dialect(**query: str) -> AnnounceDialect:
    made = AnnounceDialect.at(PATH, query)
    assert made is not None
    return made


def told(actions: Iterable[Action]) -> list[Any]:
    return [json.loads(a.text) if isinstance(a, Send) else a for a in actions]


def noticed(event: Event) -> list[tuple[Audience, Any]]:
    return [(notice.audience, json.loads(notice.text)) for notice in AnnounceDialect.tell(event)]


@pytest.mark.parametrize(
    "path", [[], ["ws"], PATH[:-1], [*PATH, "x"], ["api", "creator", "broadcast", "active"]]
)
def test_other_paths_are_not_served(path: list[str]) -> None:
    assert AnnounceDialect.at(path, {}) is None


def test_the_user_id_is_in_the_query() -> None:
    assert dialect(user_id="u1").opened("p") == [Authenticate("u1", claimed="u1")]
    for query in ({}, {"user_id": ""}):
        assert dialect(**query).opened("p") == [Authenticate("", claimed=None)]


def test_it_subscribes_before_asking_so_that_nothing_is_missed() -> None:
    actions = list(dialect(user_id="u1").authenticated(Identity("s", "u1"), ServerInfo(), NOW))
    assert actions == [
        HearAnnouncements(),
        Send(b'{"type":"connected","message":"Connected to broadcast live updates"}'),
        IdlePing(b"ping", 30.0),
        AskAnnouncement(),
    ]


def test_refused_clients_get_a_close_code() -> None:
    one = dialect(user_id="u1")
    nobody = Close(1008, "User not found")
    assert one.authentication_failed(AuthenticationError("Invalid token")) == nobody
    mismatch = IdentityMismatchError("x")
    assert one.authentication_failed(mismatch) == Close(1008, "Identity mismatch")
    assert list(one.authenticated(Identity("s", ""), ServerInfo(), NOW)) == [nobody]
    list(one.authenticated(Identity("s", "u1"), ServerInfo(), NOW))
    expired = AuthenticationError("Token expired")
    assert one.authentication_failed(expired) == Close(1008, "Token expired")


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("ping", [Send(b"pong")]),
        ("pong", []),
        ("", []),
        ("{", []),
        ('"ping"', []),
        ('{"type":"ping"}', []),
        ('{"type":"get_active_broadcast"}', [AskAnnouncement()]),
        ('{"type":"get_active_broadcast","more":1}', [AskAnnouncement()]),
        ('{"type":"acknowledge_broadcast","broadcast_id":"7"}', [Acknowledge("7")]),
        ('{"type":"acknowledge_broadcast","broadcast_id":7}', []),
        ('{"type":"acknowledge_broadcast"}', []),
    ],
)
def test_messages_become_actions(text: str, commands: list[Action]) -> None:
    assert list(dialect(user_id="u1").received(text.encode(), NOW)) == commands


def test_active_broadcast_has_the_creators_user_id() -> None:
    assert told(dialect().answered(ActiveAnnouncement(HELLO))) == [
        {"type": "active_broadcast", "broadcast": {**SHOWN, "created_by": "u1"}}
    ]
    assert told(dialect().answered(Exited("r", NOW))) == []


@pytest.mark.parametrize(
    ("event", "notices"),
    [
        (
            Announced(HELLO),
            [
                (
                    Audience.EVERYONE,
                    {"type": "new_broadcast", "broadcast": {**SHOWN, "created_by": "Ada"}},
                )
            ],
        ),
        (
            AnnouncementCleared(HELLO),
            [
                (
                    Audience.EVERYONE,
                    {"type": "broadcast_cleared", "message": "Active broadcast has been cleared"},
                )
            ],
        ),
        (
            Acknowledged(HELLO, 5),
            [
                (
                    Audience.EVERYONE,
                    {"type": "broadcast_acknowledged", "broadcast_id": "7", "acknowledged": 5},
                )
            ],
        ),
        (Joined("r", member("p"), first=True, peers=1, at=NOW), []),
        (Left("r", member("p"), last=True, peers=0, at=NOW), []),
    ],
)
def test_events_become_notices(event: Event, notices: list[tuple[Audience, Any]]) -> None:
    assert noticed(event) == notices


def test_there_are_no_rooms_to_rejoin() -> None:
    assert list(dialect().rejoin(["r"])) == []
