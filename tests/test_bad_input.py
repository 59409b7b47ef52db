"""Whatever a client sends, it gets the answer that its page documents, and nobody else notices.

Each table holds for all dialects. A client that receives an error is still served, so each test
ends with an ordinary exchange.
"""

import json
import random
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clients import Client, Message, Service
from tests.conftest import one_replica
from tests.families import FAMILIES, Family, open_member
from tests.raw import BINARY, TEXT, client_frame, open_raw
from trio_signal.dialects import DIALECTS, dialect_at
from trio_signal.messages.commands import Close, Malformed
from trio_signal.messages.identity import Identity, ServerInfo

#: The server parses client input before any other replica could receive it.
service = one_replica
#: These log a warning if they wait long for a database or Redis, as on a busy machine.
MAY_BE_SLOW = ("trio_signal.announcements", "trio_signal.bus")


@pytest.fixture(autouse=True)
def _nothing_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that clients send is a server error."""
    yield
    records = caplog.get_records("call")
    assert [r for r in records if r.exc_info or not r.name.startswith(MAY_BE_SLOW)] == []


# The kinds of field, and the values that they must not hold

NOT_TEXT: tuple[Any, ...] = (5, 1.5, True, [], ["x"], {}, {"x": "y"})
WRONG: Mapping[str, tuple[Any, ...]] = {
    "text": (None, *NOT_TEXT),
    "text or null": NOT_TEXT,
    "media": (None, "", "smellovision", "VIDEO", *NOT_TEXT),
    "flag": (None, 0, 1, "true", [], {}),
    "opaque": (),
}
RIGHT: Mapping[str, Any] = {
    "text": "x",
    "text or null": None,
    "media": "audio",
    "flag": True,
    "opaque": {"sdp": "v=0"},
}
SIGNALS = ("offer", "answer", "candidate")


def fits(answer: Message, wanted: Message) -> bool:
    """Whether the answer has these fields; a text that ends in `: ` is only the beginning."""
    return all(
        answer[name].startswith(value) if value.endswith(": ") else answer[name] == value
        for name, value in wanted.items()
    )


class Scene(NamedTuple):
    """A client that sends bad input, and one client of each dialect in the same room."""

    family: Family
    ann: Client
    others: list[Client]

    async def check(self, text: str, wanted: Message | None) -> None:
        """Send it, get this answer or none, and still be served."""
        await self.ann.send_text(text)
        await self.ann.send_json(self.family.ask)
        if wanted is not None:
            answer = await self.ann.receive()
            assert fits(answer, wanted), (text[:200], answer)
            assert {*answer} == {"message", *wanted}
            assert isinstance(answer["message"], str)
            assert answer["message"]
        await self.ann.expect(self.family.answer)

    async def check_peace(self) -> None:
        """No other client noticed anything."""
        for other in self.others:
            await other.expect_nothing()


@asynccontextmanager
async def open_scene(service: Service, dialect: str) -> AsyncIterator[Scene]:
    async with (
        open_member(service, FAMILIES["room"], "eva") as eva,
        open_member(service, FAMILIES["live"], "leo") as leo,
        open_member(service, FAMILIES["mesh"], "mia") as mia,
        open_member(service, FAMILIES["stream"], "sam") as sam,
        open_member(service, FAMILIES[dialect], "ann") as ann,
    ):
        others = [eva, leo, mia, sam]
        for number, other in enumerate(others):
            for _ in range(len(others) - number):  # each hears those after it
                await other.wait_for("viewer-count" if other is sam else "user_joined")
            await other.expect_nothing()
        await ann.settle()
        yield Scene(FAMILIES[dialect], ann, others)


# Not a message at all

NOT_JSON = [
    "",
    " ",
    "nonsense",
    "{",
    "}",
    '{"type"}',
    '{"type":"ping"',
    '{"type":"ping",}',
    "{'type':'ping'}",
    '{"type":"ping"} {"type":"ping"}',
    '{"type":"ping","x":NaN}',
    '{"type":"ping","x":01}',
    '{"type":"ping","x":"\n"}',
    '{"type":"ping","x":"\\x41"}',
    "\ufeff{}",
    "\0",
    "null and void",
    # Half of a surrogate pair: valid JSON grammar, but no valid text.
    '{"type":"\\ud800"}',
    '{"type":"nonsense","content":"\\udfff\\ud800"}',
    '"\\ud800"',
    # Nested deeper than any parser should follow.
    "[" * 60_000,
    "[" * 60_000 + "]" * 60_000,
    '{"a":' * 20_000 + "1" + "}" * 20_000,
    '{"type":"nonsense","x":' + "[" * 60_000 + "]" * 60_000 + "}",
    '{"type":"nonsense","content":' + "[" * 60_000 + "]" * 60_000 + "}",
]
NOT_OBJECTS = ["[]", "[{}]", '["type","ping"]', "1", "-0.5e3", "true", "null", '"ping"', '"{}"']
WITHOUT_TYPE = ["{}", " {} ", '{"Type":"ping"}', '{"x":{"type":"ping"}}', '{"":"type"}']
WRONG_TYPES = [json.dumps({"type": wrong}) for wrong in (None, *NOT_TEXT)]


@pytest.mark.parametrize("dialect", FAMILIES)
@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (NOT_JSON, "not_json"),
        (NOT_OBJECTS, "not_json"),
        (WITHOUT_TYPE, "type_missing"),
        (WRONG_TYPES, "type_missing"),
        (['{"type":"nonsense"}', '{"type":"nonsense","room_id":"r"}'], "type_unknown"),
    ],
    ids=["not JSON", "not an object", "without type", "type of a wrong type", "unknown type"],
)
async def test_malformed_message_gets_an_error(
    service: Service, dialect: str, texts: Iterable[str], kind: str
) -> None:
    async with open_scene(service, dialect) as scene:
        for text in texts:
            await scene.check(text, getattr(scene.family, kind))
        await scene.check_peace()


# Fields


def wrong_messages(family: Family) -> Iterator[Message]:
    """Every message with one wrong field: each value of a wrong type, or the field left out."""
    for type_, (needed, optional) in family.messages.items():
        fields = needed | optional
        right = {"type": type_} | {name: RIGHT[kind] for name, kind in fields.items()}
        # Without a room id, the error is another one.
        right |= {name: "r" for name in fields if name in {"room_id", "streamId", "orderId"}}
        for name, kind in fields.items():
            yield from (right | {name: wrong} for wrong in WRONG[kind])
        for name in needed:
            yield {key: value for key, value in right.items() if key != name}


@pytest.mark.parametrize("dialect", FAMILIES)
async def test_missing_or_wrongly_typed_field_gets_an_error(service: Service, dialect: str) -> None:
    messages = list(wrong_messages(FAMILIES[dialect]))
    assert len(messages) > 40
    async with open_scene(service, dialect) as scene:
        for message in messages:
            await scene.check(json.dumps(message), scene.family.field(message["type"]))
        await scene.check_peace()


@pytest.mark.parametrize(
    ("type_", "error"),
    [
        *((type_, "room_id required") for type_ in ("join_room", "leave_room", "live_stop")),
        ("live_start", "room_id required for live_start"),
        ("live_status", "room_id required for live_status"),
        *((type_, "room_id required") for type_ in ("typing", "live_offer", "live_ice")),
        ("send_message", "room_id and content required"),
    ],
)
async def test_live_needs_a_room_id(service: Service, type_: str, error: str) -> None:
    async with open_scene(service, "live") as scene:
        wanted = {"type": "error", "message": error}
        for room_id in ({}, {"room_id": ""}):
            fields = {"content": "x", "target_user_id": "eva", "payload": 1}
            message = {"type": type_, **fields} | room_id
            await scene.check(json.dumps(message), wanted)
        if type_ == "send_message":
            for content in ({}, {"content": ""}):
                await scene.check(json.dumps({"type": type_, "room_id": "r"} | content), wanted)
        await scene.check_peace()


@pytest.mark.parametrize("type_", FAMILIES["stream"].messages)
async def test_stream_needs_a_stream_id(service: Service, type_: str) -> None:
    fields = {"streamId": "", "orderId": "", "viewerId": "x", **dict.fromkeys(SIGNALS, 1)}
    async with open_scene(service, "stream") as scene:
        wanted = FAMILIES["stream"].field(type_)
        await scene.check(json.dumps({"type": type_, **fields}), wanted)
        await scene.check_peace()


async def test_room_takes_only_text_content_as_chat(service: Service) -> None:
    async with open_scene(service, "room") as scene:
        for content in (5, True, ["x"], {"x": "y"}):
            for type_ in ({}, {"type": "nonsense"}):
                await scene.check(
                    json.dumps(type_ | {"content": content}), FAMILIES["room"].not_json
                )
        for nothing in ("null", '""', "0", "false", "[]", "{}"):
            await scene.check(f'{{"type": "nonsense", "content": {nothing}}}', None)
        await scene.check_peace()


@pytest.mark.parametrize("dialect", FAMILIES)
async def test_moderate_nesting_is_accepted(service: Service, dialect: str) -> None:
    async with open_scene(service, dialect) as scene:
        ask = json.dumps(scene.family.ask)
        await scene.ann.send_text(f'{ask[:-1]}, "x": {"[" * 200}{"]" * 200}' + "}")
        await scene.ann.expect(scene.family.answer)
        await scene.check_peace()


@pytest.mark.parametrize("text", [*NOT_JSON, *NOT_OBJECTS, *WITHOUT_TYPE, '{"type":"ping"}'])
async def test_mesh_closes_on_bad_input_before_authentication(service: Service, text: str) -> None:
    async with service.connect("/ws/r") as ann:
        await ann.expect("auth_required")
        await ann.send_text(text)
        await ann.expect_close(1008, "Authentication required")


# What ends the connection


@pytest.mark.parametrize("dialect", FAMILIES)
@pytest.mark.parametrize(
    ("code", "frames"),
    [
        (1003, client_frame(BINARY, b'{"type": "ping"}')),
        (1003, client_frame(BINARY)),
        (1007, client_frame(TEXT, b"\xff")),
        (1007, client_frame(TEXT, b'{"type":"x","content":"\xed\xa0\x80"}')),
        (1007, client_frame(TEXT, '{"type":"ü'.encode()[:-1])),
        (1009, client_frame(TEXT, b" " * 131_073)),
        (1009, client_frame(TEXT, b"x" * 1_000_000)[:20]),
        (
            1009,
            client_frame(TEXT, b" " * 130_000, final=False) + client_frame(0, b" " * 2000),
        ),
        (1008, client_frame(TEXT, b"[") * 25 + client_frame(TEXT, b'{"type":5}') * 25),
    ],
    ids=lambda value: None if isinstance(value, int) else "",
)
async def test_fatal_input_closes_the_connection(
    service: Service, dialect: str, code: int, frames: bytes
) -> None:
    family = FAMILIES[dialect]
    async with open_scene(service, dialect) as scene, open_raw(service.base) as bob:
        await family.upgrade(bob, "bob")
        for other in scene.others:
            await other.wait_for("viewer-count" if other is scene.others[3] else "user_joined")
            await other.expect_nothing()
        await bob.send(frames)
        await bob.expect_close(code)
        # The others see it leave like any peer, and nothing else.
        for other in scene.others:
            await other.expect("viewer-count" if other is scene.others[3] else "user_left")
        await scene.check_peace()


@pytest.mark.parametrize("dialect", FAMILIES)
async def test_only_many_malformed_messages_in_a_row_close(service: Service, dialect: str) -> None:
    async with open_scene(service, dialect) as scene:
        family, ann = scene.family, scene.ann
        for _ in range(2):
            for _ in range(49):
                await ann.send_text("nonsense")
            await ann.send_json(family.ask)
            for _ in range(49):
                assert fits(await ann.receive(), family.not_json)
            await ann.expect(family.answer)
        for number in range(50):
            await ann.send_text("{" if number % 2 else '{"type": 5}')
        errors = await ann.expect_close(1008, "Too many malformed messages")
        assert [error["type"] for error in errors] == ["error"] * 50
        for other in scene.others:
            await other.expect("viewer-count" if other is scene.others[3] else "user_left")
        await scene.check_peace()


@pytest.mark.parametrize("dialect", FAMILIES)
async def test_message_at_the_size_limit_is_accepted(service: Service, dialect: str) -> None:
    async with open_scene(service, dialect) as scene:
        await scene.ann.send_text(json.dumps(scene.family.ask).ljust(131_072))
        await scene.ann.expect(scene.family.answer)
        await scene.check_peace()


# Names


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("J%C3%BCrgen", "Jürgen"),
        ("%F0%9F%98%80", "\U0001f600"),
        ("a%2Fb%3Fc%23d", "a/b?c#d"),
        ("%22%5C%0A%00", '"\\\n\0'),
        ("%3Cscript%3E", "<script>"),
        ("a+b", "a+b"),
        ("..", ".."),
        ("%FF%C3", "\ufffd\ufffd"),  # invalid UTF-8
        ("%ED%A0%80", "\ufffd\ufffd\ufffd"),  # half of a surrogate pair
        ("%zz%", "%zz%"),
        ("x" * 256, "x" * 256),
    ],
)
async def test_ids_and_names_may_be_any_text(service: Service, sent: str, meant: str) -> None:
    """An id is used unchanged; a display name is made harmless."""
    shown = meant.replace("\n\0", "")[:64]
    async with (
        service.connect(f"/ws/{sent}/eva") as eva,
        service.connect(f"/ws/{sent}") as mia,
    ):
        await eva.expect("room_state", room_id=meant)
        await mia.send("auth_token", username=meant)
        await mia.wait_for("auth_success", room_id=meant, user=shown)
        await eva.expect("user_joined", username=shown)
        username = sent.replace("+", "%2B")
        async with service.connect(f"/ws/{sent}/{sent}?username={username}") as ann:
            await ann.wait_for("room_state", room_id=meant)
            await eva.expect("user_joined", user_id=meant, username=shown)
            await mia.wait_for("user_joined", username=shown, room_id=meant)


# Random input


vocabulary = st.sampled_from(
    sorted(
        {
            word
            for family in FAMILIES.values()
            for type_, (needed, optional) in family.messages.items()
            for word in (type_, *needed, *optional)
        }
        | {"type", "r", "ann", "keep_alive", "typing_start", "broadcast-started", "kick", "audio"}
    )
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | vocabulary | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(vocabulary, inner, max_size=4),
    max_leaves=8,
)
messages = st.one_of(
    st.builds(
        lambda type_, rest: {**rest, "type": type_},
        vocabulary,
        st.dictionaries(vocabulary, anything, max_size=5),
    ),
    anything,
)


@pytest.mark.parametrize(
    "path",
    [
        *("/ws/r/ann", "/api/v1/ws/connect", "/ws", "/ws/r"),
        *("/api/creator/broadcast/ws?user_id=ann", "/topics", "/peerjs?key=k&id=ann&token=t"),
    ],
)
@given(st.lists(messages, max_size=5))
def test_random_input_raises_in_no_dialect(path: str, said: list[Any]) -> None:
    dialect = dialect_at(path, DIALECTS)
    assert dialect is not None
    list(dialect.opened("p1"))
    list(
        dialect.authenticated(Identity("s", "ann", "Ann"), ServerInfo(), "2026-11-20T10:15:30.123Z")
    )
    for message in said:
        text = json.dumps(message).encode()
        for action in dialect.received(text, "2026-11-20T10:15:30.123Z"):
            assert not isinstance(action, Close)
            if isinstance(action, Malformed) and action.text:
                assert json.loads(action.text)["type"] == "error"


@pytest.mark.parametrize("dialect", FAMILIES)
async def test_random_valid_messages_do_not_close_the_connection(
    service: Service, dialect: str
) -> None:
    """The hub carries out random messages, and every client can be sent the results."""
    family = FAMILIES[dialect]
    chance = random.Random(dialect)
    values: dict[str, list[Any]] = {
        "text": ["r", "ann", "eva", "mia", "zoe", ""],
        "text or null": [None, "r", "ann", "mia"],
        "media": ["audio", "video"],
        "flag": [True, False],
        "opaque": [None, {"sdp": "v=0"}, "x", [1]],
    }
    plain = {"room": ["typing_start", "broadcast-started", "broadcast-stopped"]}
    types = [*family.messages, *plain.get(dialect, []), "broadcast_stop"]
    async with open_scene(service, dialect) as scene:
        for _ in range(500):
            type_ = chance.choice(types)
            needed, optional = family.messages.get(type_, ({}, {}))
            message = {"type": type_}
            for name, kind in (needed | optional).items():
                if name in needed or chance.random() < 0.8:
                    message[name] = chance.choice(values[kind])
            await scene.ann.send_json(message)
            await scene.ann.send_json(family.ask)
        for client in (scene.ann, *scene.others):
            await client.settle()
        await scene.ann.send_json(family.ask)
        await scene.ann.wait_for(family.answer)
