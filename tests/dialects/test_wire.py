"""Reading messages, how far invalid ones can be read, and that Raw stays unchanged."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw, Struct

from trio_signal.dialects.wire import Reader, UnreadableError, encode


class Say(Struct, tag="say"):
    """A message with a typed field."""

    content: str


class Carry(Struct, tag="carry"):
    """A message with an opaque field."""

    payload: Raw
    target: str = ""


class Hush(Struct, tag="hush"):
    """A message without fields."""


reader = Reader((Say, Carry, Hush))

#: Deeper than any reader goes; a browser's payload has five levels.
TOO_DEEP = "[" * 50_000 + "]" * 50_000

READ: list[tuple[str, Struct]] = [
    ('{"type":"hush"}', Hush()),
    ('{"type":"say","content":"hi"}', Say("hi")),
    ('{"content":"hi","type":"say"}', Say("hi")),
    (' \r\n\t{ "type" : "say" , "content" : "hi" } ', Say("hi")),
    (r'{"type":"s\u0061y","content":"\u00e9\ud83d\ude00"}', Say("é😀")),
    ('{"type":"say","content":"é😀"}', Say("é😀")),
    ('{"type":"say","content":""}', Say("")),
    ('{"type":"hush","content":5,"timestamp":[{}],"big":1e400}', Hush()),
    ('{"type":"carry","payload":null}', Carry(Raw(b"null"))),
    ('{"payload":{"a":1},"type":"carry","target":"t"}', Carry(Raw(b'{"a":1}'), "t")),
]


@pytest.mark.parametrize(("text", "message"), READ)
def test_the_type_may_be_anywhere_and_unknown_fields_are_ignored(
    text: str, message: Struct
) -> None:
    assert reader.read(text.encode()) == message


UNREADABLE: list[tuple[str, str, str | None]] = [
    # not a JSON object
    ("", "json", None),
    ("   ", "json", None),
    ("ping", "json", None),
    ("{", "json", None),
    ("{]", "json", None),
    ("{'type':'hush'}", "json", None),
    ('{"type":"hush"', "json", None),
    ('{"type":"hush"} {}', "json", None),
    ('{"type":"hush",}', "json", None),
    ('{"type":"say","content":"a\nb"}', "json", None),
    ('{"type":"say","content":"\\x41"}', "json", None),
    ('{"type":"say","content":"\\ud83d"}', "json", None),
    ('{"type":"carry","payload":NaN}', "json", None),
    ('{"type":"carry","payload":01}', "json", None),
    ('{"type":"carry","payload":}', "json", None),
    ('{"type":"nod","payload":NaN}', "json", None),
    ('\ufeff{"type":"hush"}', "json", None),
    ("null", "json", None),
    ("5", "json", None),
    ('"hush"', "json", None),
    ("[]", "json", None),
    ('[{"type":"hush"}]', "json", None),
    (f'{{"type":"carry","payload":{TOO_DEEP}}}', "json", None),
    (f'{{"type":"nod","payload":{TOO_DEEP}}}', "json", None),
    (f'{{"payload":{TOO_DEEP}}}', "json", None),
    (TOO_DEEP, "json", None),
    # an object of an unknown type
    ("{}", "type", None),
    ('{"content":"hi"}', "type", None),
    ('{"Type":"hush"}', "type", None),
    ('{"type":null}', "type", None),
    ('{"type":5}', "type", None),
    ('{"type":["hush"]}', "type", None),
    ('{"type":""}', "type", ""),
    ('{"type":"nod"}', "type", "nod"),
    ('{"type":"Hush"}', "type", "Hush"),
    ('{"type":"hush "}', "type", "hush "),
    # a known type with invalid fields
    ('{"type":"say"}', "fields", "say"),
    ('{"type":"say","content":null}', "fields", "say"),
    ('{"type":"say","content":5}', "fields", "say"),
    ('{"type":"say","content":{"text":"hi"}}', "fields", "say"),
    ('{"type":"carry"}', "fields", "carry"),
    ('{"type":"carry","payload":1,"target":1}', "fields", "carry"),
]


@pytest.mark.parametrize(
    ("text", "problem", "type_"), UNREADABLE, ids=[text[:40] for text, *_ in UNREADABLE]
)
def test_errors_say_how_far_a_message_could_be_read(
    text: str, problem: str, type_: str | None
) -> None:
    with pytest.raises(UnreadableError) as caught:
        reader.read(text.encode())
    assert (caught.value.problem, caught.value.type) == (problem, type_)
    assert str(caught.value)


def test_an_error_names_the_invalid_field() -> None:
    with pytest.raises(UnreadableError, match="content"):
        reader.read(b'{"type":"say"}')


PAYLOADS = [
    "null",
    "true",
    '""',
    "0",
    "-0",
    "1.0",
    "1E+2",
    "1e400",
    "-1e-400",
    "123456789012345678901234567890",
    "0.1000000000000000055511151231257827",
    "{}",
    "{ }",
    "[ ]",
    '{"a" :\t1.0 ,\r\n"b":[ 1,2 ] }',
    '{"a":1,"a":2}',
    '{"z":1,"a":2}',
    '{"":null}',
    r'"\u00e9\/\ud83d\ude00"',
    '"é\u2028😀"',
    '{"candidate":""}',
    r'{"type":"offer","sdp":"v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n"}',
    "[" * 100 + "]" * 100,
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=[payload[:30] for payload in PAYLOADS])
def test_opaque_fields_are_not_changed(payload: str) -> None:
    text = f'{{"type":"carry", "payload": \n {payload} \t,"target":"t"}}'
    carried = reader.read(text.encode())
    assert encode(carried) == f'{{"type":"carry","payload":{payload},"target":"t"}}'.encode()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(value=json_values, indent=st.sampled_from([None, 0, 2]), ascii_only=st.booleans())
def test_any_json_value_is_carried_unchanged(
    value: object, indent: int | None, *, ascii_only: bool
) -> None:
    payload = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()
    assert bytes(reader.read(b'{"type":"carry","payload":%b}' % payload).payload) == payload


@given(st.binary() | st.text().map(str.encode))
def test_arbitrary_bytes_only_raise_unreadable_error(data: bytes) -> None:
    with pytest.raises(UnreadableError):
        reader.read(data)


@given(json_values.map(json.dumps))
def test_json_without_a_known_type_only_raises_unreadable_error(text: str) -> None:
    with pytest.raises(UnreadableError):
        reader.read(text.encode())
