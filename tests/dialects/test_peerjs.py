"""The `peerjs` dialect without sockets: text in, actions out; signals in, notices out."""

from typing import Any

import pytest
from msgspec import UNSET, Raw

from trio_signal.dialects import dialect_at
from trio_signal.dialects.peerjs import PeerJsDialect
from trio_signal.errors import AuthenticationError
from trio_signal.messages.commands import (
    Action,
    Authenticate,
    Claim,
    Close,
    Malformed,
    Release,
    Send,
    SignalName,
)
from trio_signal.messages.events import (
    Answer,
    Claimed,
    NameSignalled,
    Refusal,
    Refused,
    Unreached,
)
from trio_signal.messages.identity import Identity, NameSignalKind, ServerInfo


def dialect(key: str = "peerjs", id_: str = "ann", token: str = "t") -> PeerJsDialect:
    return PeerJsDialect(key, id_, token)


@pytest.mark.parametrize(
    ("target", "found"),
    [
        ("/peerjs?key=a&id=b&token=c", True),
        ("/a/b/peerjs", True),
        ("/ws/peerjs", False),  # a room of that name
        ("/topics/peerjs", False),
        ("/peerjs/id", False),
    ],
)
def test_it_is_served_below_any_path(target: str, found: bool) -> None:
    known = ["room", "mesh", "topics", "peerjs"]
    assert isinstance(dialect_at(target, known), PeerJsDialect) is found


def test_a_complete_query_claims_the_id() -> None:
    assert list(dialect().opened("p1")) == [Authenticate("ann", "t")]
    known = Identity("s", "ann")
    assert list(dialect().authenticated(known, ServerInfo(), "")) == [Claim("peerjs:ann")]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("", "ann", "t"), b"No id, token, or key supplied to websocket server"),
        (("peerjs", "", "t"), b"No id, token, or key supplied to websocket server"),
        (("peerjs", "ann", ""), b"No id, token, or key supplied to websocket server"),
        (("peerjs", "__proto__", "t"), b"Invalid id provided"),
        (("peerjs", "a--b", "t"), b"Invalid id provided"),
        (("peerjs", "a\n", "t"), b"Invalid id provided"),
        (("peerjs", "a" * 257, "t"), b"Invalid id provided"),
    ],
)
def test_missing_or_invalid_parameters_are_reported(
    given: tuple[str, str, str], text: bytes
) -> None:
    said, close = PeerJsDialect(*given).opened("p1")
    assert said == Send(b'{"type":"ERROR","payload":{"msg":"' + text + b'"}}')
    assert isinstance(close, Close)
    assert close.code == 1008


def test_an_invalid_token_is_reported_in_a_message() -> None:
    close = dialect().authentication_failed(AuthenticationError("Token expired"))
    assert close.code == 1008
    assert close.last == b'{"type":"ERROR","payload":{"msg":"Invalid token provided"}}'


@pytest.mark.parametrize(
    ("text", "actions"),
    [
        (
            '{"type":"OFFER","src":"x","dst":"bob","payload": 1.0}',
            [SignalName("peerjs:bob", "offer", Raw(b"1.0"))],
        ),
        ('{"type":"ANSWER","dst":"bob"}', [SignalName("peerjs:bob", "answer", UNSET)]),
        (
            '{"type":"CANDIDATE","dst":"a:b","payload":null}',
            [SignalName("peerjs:a:b", "candidate", Raw(b"null"))],
        ),
        ('{"type":"LEAVE","dst":"bob","payload":1}', [SignalName("peerjs:bob", "leave")]),
        ('{"type":"LEAVE"}', [Release()]),
        ('{"type":"LEAVE","dst":null}', [Release()]),
        ('{"type":"HEARTBEAT"}', []),
        ('{"type":"EXPIRE","dst":"bob"}', []),
        ('{"type":"OPEN"}', []),
        ('{"type":"OFFER"}', [Malformed(b"")]),
        ('{"type":"OFFER","dst":7}', [Malformed(b"")]),
        ('{"type":7}', [Malformed(b"")]),
        ("{}", [Malformed(b"")]),
        ("ping", [Malformed(b"")]),
    ],
)
def test_messages_become_actions(text: str, actions: list[Action]) -> None:
    assert list(dialect().received(text.encode(), "")) == actions


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (Claimed("peerjs:ann"), b'{"type":"OPEN"}'),
        (Unreached("peerjs:bob"), b'{"type":"EXPIRE","src":"bob","dst":"ann"}'),
        (
            Refused(Claim("peerjs:ann"), Refusal.PEER_ID_IN_USE, ""),
            b'{"type":"ID-TAKEN","payload":{"msg":"ID is taken"}}',
        ),
        (
            Refused(Claim("peerjs:ann"), Refusal.UNKNOWN_NAMESPACE, ""),
            b'{"type":"ERROR","payload":{"msg":"Invalid key provided"}}',
        ),
    ],
)
def test_answers_become_messages(answer: Answer, text: bytes) -> None:
    said, *closes = dialect().answered(answer)
    assert said == Send(text)
    assert bool(closes) is isinstance(answer, Refused)


@pytest.mark.parametrize(
    ("kind", "payload", "text"),
    [
        ("offer", Raw(b"[1.0]"), b'{"type":"OFFER","src":"ann","dst":"bob","payload":[1.0]}'),
        ("answer", UNSET, b'{"type":"ANSWER","src":"ann","dst":"bob"}'),
        ("candidate", Raw(b"1"), b'{"type":"CANDIDATE","src":"ann","dst":"bob","payload":1}'),
        ("leave", UNSET, b'{"type":"LEAVE","src":"ann","dst":"bob"}'),
    ],
)
def test_signals_become_notices(kind: NameSignalKind, payload: Any, text: bytes) -> None:
    (notice,) = PeerJsDialect.tell(NameSignalled("peerjs:ann", "peerjs:bob", kind, payload))
    assert notice.text == text
