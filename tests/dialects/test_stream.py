"""The `stream` dialect without sockets: text in, actions out; events in, notices out."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from msgspec import Raw

from tests.members import AT, member
from trio_signal.dialects.stream import StreamDialect
from trio_signal.errors import AuthenticationError
from trio_signal.messages.commands import (
    Action,
    Authenticate,
    ChangeProfile,
    Close,
    GoLive,
    Join,
    Malformed,
    Send,
    Signal,
    StartStreaming,
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

ME = "client_me"
CASTER = member("client_c", dialect="stream", live="video")
OFF_AIR = member("client_c", dialect="stream")
VIEWER = member("client_v", dialect="stream")
OTHER = member("client_w", dialect="stream")


def dialect(**query: str) -> StreamDialect:
    """The dialect of a connection that has its id."""
    made = StreamDialect.at(["ws"], query)
    assert made is not None
    made.opened("me")
    return made


def received(text: str) -> list[Action]:
    return list(dialect().received(text.encode(), AT))


def wire(actions: Iterable[Action]) -> list[Any]:
    """Sent messages as the client reads them; other actions unchanged."""
    return [json.loads(a.text) if isinstance(a, Send | Malformed) else a for a in actions]


def told(event: RoomEvent) -> list[tuple[Audience, Any]]:
    return [(notice.audience, json.loads(notice.text)) for notice in StreamDialect.tell(event)]


def signalled(
    kind: SignalKind, sender: Member, target: Member | None, payload: str, wire_type: str = ""
) -> Signalled:
    return Signalled("s", kind, Raw(payload.encode()), sender, target, wire_type, AT)


def count(number: int) -> dict[str, Any]:
    return {"type": "viewer-count", "count": number, "streamId": "s"}


def viewer(type_: str, viewer_id: str = "client_v") -> dict[str, Any]:
    return {"type": type_, "streamId": "s", "viewerId": viewer_id}


def notice(type_: str) -> dict[str, Any]:
    return {"type": type_, "streamId": "s"}


# Paths and identity


@pytest.mark.parametrize("path", ["", "wss", "ws/r", "ws/r/ann", "api/ws"])
def test_other_paths_are_not_served(path: str) -> None:
    assert StreamDialect.at(path.split("/"), {}) is None


@pytest.mark.parametrize("query", [{}, {"token": "t"}, {"user_id": "ann"}])
def test_the_server_chooses_every_id(query: dict[str, str]) -> None:
    made = StreamDialect.at(["ws"], query)
    assert made is not None
    assert list(made.opened("0f")) == [Authenticate("client_0f")]


def test_nothing_is_sent_before_the_client_names_a_stream() -> None:
    assert list(dialect().authenticated(Identity("s", ME), ServerInfo(), AT)) == []
    assert list(dialect().rejoin(["s"])) == []


def test_a_refusal_has_the_reason() -> None:
    assert dialect().authentication_failed(AuthenticationError("Invalid token")) == Close(
        1008, "Invalid token"
    )


# Messages from clients


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        (
            '{"type": "broadcaster-ready", "streamId": "s"}',
            [Join("s", ME, broadcaster=True), GoLive("s", exclusive=True)],
        ),
        ('{"type": "join-stream", "streamId": "s"}', [Join("s", ME, viewer=True)]),
        (
            '{"type": "webrtc-offer", "offer": {"sdp" :  1e3}, "streamId": "s", "viewerId": "v"}',
            [Signal("s", "offer", Raw(b'{"sdp" :  1e3}'), To.VIEWER, "v")],
        ),
        (
            '{"type": "webrtc-answer", "answer": null, "streamId": "s"}',
            [Signal("s", "answer", Raw(b"null"), To.BROADCASTER)],
        ),
        (
            '{"viewerId": "forged", "streamId": "s", "answer": [1], "type": "webrtc-answer"}',
            [Signal("s", "answer", Raw(b"[1]"), To.BROADCASTER)],
        ),
        (
            '{"type": "webrtc-ice-candidate", "candidate": "", "streamId": "s", "viewerId": "v"}',
            [Signal("s", "candidate", Raw(b'""'), To.COUNTERPART, "v", "webrtc-ice-candidate")],
        ),
        (
            '{"type": "ice-candidate", "candidate": {}, "streamId": "s"}',
            [Signal("s", "candidate", Raw(b"{}"), To.COUNTERPART, "", "ice-candidate")],
        ),
        (
            '{"type": "ice-candidate", "candidate": null, "streamId": "s", "viewerId": null}',
            [Signal("s", "candidate", Raw(b"null"), To.COUNTERPART, "", "ice-candidate")],
        ),
        (
            '{"type": "start-streaming", "orderId": "s"}',
            [Join("s", ME, viewer=True, broadcaster=True), StartStreaming("s")],
        ),
        ('{"type": "end-stream", "streamId": "s"}', [StopLive("s")]),
        ('{"type": "end-stream", "streamId": "s", "more": [{}]}', [StopLive("s")]),
        ('{"type": "end-stream", "streamId": "Straße ☃"}', [StopLive("Straße ☃")]),
    ],
)
def test_messages_become_actions(text: str, commands: list[Action]) -> None:
    assert received(text) == commands


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_message"),
        ("nonsense", "invalid_message"),
        ("[]", "invalid_message"),
        ("null", "invalid_message"),
        ('"end-stream"', "invalid_message"),
        ('{"type": "end-stream", "streamId": "s"', "invalid_message"),
        ('{"type": "end-stream", "streamId": "s"} ?', "invalid_message"),
        ('{"type": "end-stream"}', "invalid_message"),
        ('{"type": "end-stream", "streamId": 7}', "invalid_message"),
        ('{"type": "end-stream", "streamId": null}', "invalid_message"),
        ('{"type": "start-streaming", "streamId": "s"}', "invalid_message"),
        ('{"type": "webrtc-offer", "offer": {}, "streamId": "s"}', "invalid_message"),
        ('{"type": "webrtc-offer", "streamId": "s", "viewerId": "v"}', "invalid_message"),
        ('{"type": "webrtc-answer", "streamId": "s"}', "invalid_message"),
        ('{"type": "webrtc-answer", "answer": nan, "streamId": "s"}', "invalid_message"),
        ('{"type": "ice-candidate", "streamId": "s"}', "invalid_message"),
        (
            '{"type": "webrtc-offer", "streamId": "s", "offer": ' + "[" * 100_000,
            "invalid_message",
        ),
        ("{}", "unknown_type"),
        ('{"type": null}', "unknown_type"),
        ('{"type": 7, "streamId": "s"}', "unknown_type"),
        ('{"type": "chat", "streamId": "s"}', "unknown_type"),
        ('{"type": "error", "code": "x", "message": "y"}', "unknown_type"),
        ('{"type": "viewer-count", "count": 7, "streamId": "s"}', "unknown_type"),
    ],
)
def test_invalid_messages_are_answered_with_an_error(text: str, code: str) -> None:
    (malformed,) = received(text)
    assert isinstance(malformed, Malformed)
    error = json.loads(malformed.text)
    assert (error["type"], error["code"]) == ("error", code)
    assert error["message"]
    assert error.keys() == {"type", "code", "message"}


# Answers to commands


@pytest.mark.parametrize(
    ("answer", "sent"),
    [
        (Entered("s", VIEWER, (CASTER, VIEWER), AT), []),
        (Exited("s", AT), []),
        (LivePeers("s", (CASTER,)), []),
        (ChatSent("s", "id", AT), []),
        (LiveNow("s", CASTER, ()), []),
        (
            LiveNow("s", CASTER, (VIEWER, OTHER)),
            [viewer("viewer-joined"), viewer("viewer-joined", "client_w")],
        ),
        # A broadcaster in another dialect of the room makes offers by itself.
        (
            LiveNow("s", CASTER, (member("m", live="video"), VIEWER)),
            [viewer("viewer-joined")],
        ),
        (Refused(GoLive("s"), Refusal.NOT_IN_ROOM, AT), []),
        (Refused(StartStreaming("s"), Refusal.NOT_IN_ROOM, AT), []),
        (Refused(ChangeProfile("s", "profile"), Refusal.NOT_IN_ROOM, AT), []),
    ],
)
def test_answers_become_messages(answer: Answer, sent: list[Any]) -> None:
    assert wire(dialect().answered(answer)) == sent


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Refused(Join("s", viewer=True), Refusal.STREAM_FULL, AT), "stream_full"),
        (Refused(Join("s"), Refusal.ROOM_FULL, AT), "stream_full"),
        *(
            (Refused(Signal("s", "offer", Raw(b"1"), To.VIEWER, "v"), reason, AT), "not_allowed")
            for reason in (Refusal.NOT_IN_ROOM, Refusal.NOT_ALLOWED, Refusal.TARGET_NOT_FOUND)
        ),
        (Refused(StopLive("s"), Refusal.NOT_LIVE, AT), "not_allowed"),
        (Refused(StopLive("s"), Refusal.NOT_IN_ROOM, AT), "not_allowed"),
        (Displaced("s"), "stream_taken"),
        (Removed("s", "Spam", AT), "kicked"),
    ],
)
def test_errors_name_their_stream(answer: Answer, code: str) -> None:
    (error,) = wire(dialect().answered(answer))
    assert error == {"type": "error", "code": code, "message": error["message"], "streamId": "s"}
    assert error["message"]


# Events in the stream


@pytest.mark.parametrize(
    ("event", "notices"),
    [
        (
            Joined("s", VIEWER, True, 3, AT),
            [(Audience.EVERYONE, count(3)), (Audience.BROADCASTERS, viewer("viewer-joined"))],
        ),
        (
            Rejoined("s", VIEWER, 3, AT),
            [(Audience.EVERYONE, count(3)), (Audience.BROADCASTERS, viewer("viewer-joined"))],
        ),
        (
            Left("s", VIEWER, True, 2, AT),
            [(Audience.BROADCASTERS, viewer("viewer-left")), (Audience.EVERYONE, count(2))],
        ),
        *(
            (
                WentLive("s", CASTER, news, True, AT),
                [(Audience.OTHER_PEERS, notice("broadcaster-ready-signal"))],
            )
            for news in News
        ),
        (
            StoppedLive("s", OFF_AIR, True, StopCause.STOPPED, AT),
            [
                (Audience.OTHER_PEERS, notice("stream-ended")),
                (Audience.ITSELF, notice("stream-end-confirmed")),
            ],
        ),
        (
            StoppedLive("s", OFF_AIR, True, StopCause.LEFT, AT),
            [(Audience.OTHER_PEERS, notice("broadcaster-disconnected"))],
        ),
        # Replaced by a newer broadcaster, which is announced next.
        (StoppedLive("s", OFF_AIR, True, StopCause.REPLACED, AT), []),
        # Replaced by a newer connection, which need not go live.
        (
            StoppedLive("s", member("m"), True, StopCause.REPLACED, AT),
            [(Audience.OTHER_PEERS, notice("broadcaster-disconnected"))],
        ),
        (
            StreamStarting("s", OFF_AIR, AT),
            [(Audience.OTHER_PEERS, notice("stream-started"))],
        ),
        (Chatted("s", VIEWER, "id", "hello", None, AT), []),
        (Typing("s", VIEWER, True, AT), []),
        (ProfileChanged("s", VIEWER, "profile", None, None, None, AT), []),
    ],
)
def test_events_become_notices(event: RoomEvent, notices: list[tuple[Audience, Any]]) -> None:
    assert told(event) == notices


SDP = '{"sdp" :  "v=0\\r\\n", "sdp": 1e3}'


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            signalled("offer", CASTER, VIEWER, SDP),
            '{"type":"webrtc-offer","offer":' + SDP + ',"streamId":"s","viewerId":"client_v"}',
        ),
        (
            signalled("answer", VIEWER, CASTER, SDP),
            '{"type":"webrtc-answer","answer":' + SDP + ',"streamId":"s","viewerId":"client_v"}',
        ),
        (
            signalled("candidate", CASTER, VIEWER, "null", "ice-candidate"),
            '{"type":"ice-candidate","candidate":null,"streamId":"s","viewerId":"client_v"}',
        ),
        (
            signalled("candidate", VIEWER, CASTER, SDP, "webrtc-ice-candidate"),
            '{"type":"webrtc-ice-candidate","candidate":'
            + SDP
            + ',"streamId":"s","viewerId":"client_v"}',
        ),
        # From a dialect with one type for all candidates.
        (
            signalled("candidate", member("m", live="video"), VIEWER, '""'),
            '{"type":"webrtc-ice-candidate","candidate":"","streamId":"s","viewerId":"client_v"}',
        ),
    ],
)
def test_signals_are_relayed_unchanged_with_the_viewers_id(event: Signalled, text: str) -> None:
    (notice,) = StreamDialect.tell(event)
    assert notice.text.decode() == text


@pytest.mark.parametrize(
    "event",
    [
        signalled("offer", member("m"), None, "{}"),
        signalled("message", member("m"), VIEWER, "{}"),
        signalled("signal", member("m"), VIEWER, "{}"),
    ],
)
def test_signals_that_only_other_dialects_have_are_ignored(event: Signalled) -> None:
    assert told(event) == []


# A recorded conversation: one broadcaster, one viewer, from the first message to the last


def test_a_conversation_from_the_viewers_side() -> None:
    me, caster = member(ME, dialect="stream"), CASTER
    page = dialect()
    conversation: list[tuple[str | Answer | RoomEvent, list[Any]]] = [
        ('{"type":"join-stream","streamId":"s"}', [Join("s", ME, viewer=True)]),
        (
            Joined("s", me, True, 2, AT),
            [
                (Audience.EVERYONE, count(2)),
                (Audience.BROADCASTERS, viewer("viewer-joined", ME)),
            ],
        ),
        (Entered("s", me, (caster, me), AT), []),
        (
            signalled("offer", caster, me, '{"type":"offer"}'),
            [
                (
                    Audience.EVERYONE,
                    {
                        "type": "webrtc-offer",
                        "offer": {"type": "offer"},
                        "streamId": "s",
                        "viewerId": ME,
                    },
                )
            ],
        ),
        (
            '{"type":"webrtc-answer","answer":{"type":"answer"},"streamId":"s","viewerId":"'
            + ME
            + '"}',
            [Signal("s", "answer", Raw(b'{"type":"answer"}'), To.BROADCASTER)],
        ),
        (
            '{"type":"ice-candidate","candidate":null,"streamId":"s","viewerId":"' + ME + '"}',
            [Signal("s", "candidate", Raw(b"null"), To.COUNTERPART, ME, "ice-candidate")],
        ),
        (
            StoppedLive("s", OFF_AIR, True, StopCause.LEFT, AT),
            [(Audience.OTHER_PEERS, notice("broadcaster-disconnected"))],
        ),
        (
            Left("s", OFF_AIR, True, 1, AT),
            [
                (Audience.BROADCASTERS, viewer("viewer-left", "client_c")),
                (Audience.EVERYONE, count(1)),
            ],
        ),
        (
            '{"type":"end-stream","streamId":"s"}',
            [StopLive("s")],
        ),
        (
            Refused(StopLive("s"), Refusal.NOT_LIVE, AT),
            [
                {
                    "type": "error",
                    "code": "not_allowed",
                    "message": "Only the broadcaster ends a stream",
                    "streamId": "s",
                }
            ],
        ),
    ]
    for given, expected in conversation:
        if isinstance(given, str):
            assert list(page.received(given.encode(), AT)) == expected
        elif isinstance(given, Answer):
            assert wire(page.answered(given)) == expected
        else:
            assert told(given) == expected
