"""Frames and the opening handshake, without I/O."""

import logging
import reprlib
import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.http11 import Request
from websockets.server import ServerProtocol

from tests.raw import (
    ACCEPT,
    BINARY,
    CLOSE,
    CONTINUATION,
    MASK,
    PING,
    PONG,
    TEXT,
    Frame,
    client_close,
    client_frame,
    parse_answer,
    split_frames,
    upgrade_head,
)
from trio_signal.websocket import (
    FrameParser,
    Handshake,
    Message,
    Opcode,
    close_frame,
    close_reply,
    control_frame,
    is_upgrade,
    text_frame,
)

LIMIT = 200_000


class Parsed(NamedTuple):
    """The result of parsing some bytes: the messages, and the error code if it failed."""

    messages: list[Message]
    code: int | None


def parse(*pieces: bytes, limit: int = LIMIT) -> Parsed:
    parser = FrameParser(limit)
    messages = [message for piece in pieces for message in parser.feed(piece)]
    return Parsed(messages, parser.failure.code if parser.failure else None)


def in_bytes(data: bytes) -> Iterator[bytes]:
    return (data[i : i + 1] for i in range(len(data)))


# What clients may send

#: Around the limits between the three ways to write a length.
SIZES = [0, 1, 2, 3, 4, 5, 7, 8, 9, 124, 125, 126, 127, 128, 255, 256, 65534, 65535, 65536, 65537]


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
@pytest.mark.parametrize("size", SIZES)
def test_messages_of_every_size(opcode: Opcode, size: int) -> None:
    payload = bytes(range(32, 127)) * (size // 95 + 1)
    payload = payload[:size]
    assert parse(client_frame(opcode, payload)) == ([(opcode, payload)], None)


@pytest.mark.parametrize("mask", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\xff\0\xff", MASK])
def test_every_mask_is_removed(mask: bytes) -> None:
    assert parse(client_frame(TEXT, "grüß dich".encode(), mask=mask)) == (
        [(Opcode.TEXT, "grüß dich".encode())],
        None,
    )


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG])
@pytest.mark.parametrize("size", [0, 1, 124, 125])
def test_control_frames_are_parsed(opcode: Opcode, size: int) -> None:
    # The payload is arbitrary bytes, not text.
    payload = b"\xff" * size
    assert parse(client_frame(opcode, payload)) == ([(opcode, payload)], None)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x03\xe8",
        b"\x03\xe8bye",
        "\x03\u00e8".encode("latin-1") + "müde".encode(),
        b"\x03\xe8" + b"x" * 123,
        *(code.to_bytes(2) for code in (1001, 1003, 1007, 1011, 1014, 3000, 3999, 4000, 4999)),
    ],
)
def test_close_frames_are_parsed(payload: bytes) -> None:
    assert parse(client_frame(CLOSE, payload)) == ([(Opcode.CLOSE, payload)], None)


def test_many_frames_at_once_are_parsed() -> None:
    data = client_frame(TEXT, b"one") + client_frame(PING, b"two") + client_frame(BINARY, b"three")
    assert parse(data) == (
        [(Opcode.TEXT, b"one"), (Opcode.PING, b"two"), (Opcode.BINARY, b"three")],
        None,
    )


def test_nothing_follows_a_close_frame() -> None:
    data = client_close(1000) + client_frame(TEXT, b"late") + b"\xff\xff\xff"
    assert parse(data) == ([(Opcode.CLOSE, b"\x03\xe8")], None)


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
@pytest.mark.parametrize(
    "fragments",
    [
        [b"", b""],
        [b"one ", b"two"],
        [b"one ", b"two ", b"three"],
        [b"", b"one", b"", b"", b"two", b""],
        [b"x" * 126, b"y" * 65536],
        [bytes((byte,)) for byte in b"a letter each"],
        ["größer".encode()[:3], "größer".encode()[3:]],
        [bytes((byte,)) for byte in "\U0001f600".encode()],
    ],
)
def test_fragments_make_one_message(opcode: Opcode, fragments: Sequence[bytes]) -> None:
    data = b"".join(fragmented(opcode, fragments))
    assert parse(data) == ([(opcode, b"".join(fragments))], None)
    assert parse(*in_bytes(data)) == ([(opcode, b"".join(fragments))], None)


def fragmented(opcode: int, fragments: Sequence[bytes]) -> Iterator[bytes]:
    last = len(fragments) - 1
    for i, fragment in enumerate(fragments):
        yield client_frame(CONTINUATION if i else opcode, fragment, final=i == last)


def test_control_frames_between_fragments_come_first() -> None:
    first, second, third = fragmented(TEXT, [b"one ", b"two ", b"three"])
    data = [first, client_frame(PING, b"?"), second, client_frame(PONG), third]
    expected = [(Opcode.PING, b"?"), (Opcode.PONG, b""), (Opcode.TEXT, b"one two three")]
    assert parse(b"".join(data)) == (expected, None)
    assert parse(*data) == (expected, None)


def test_close_frame_between_fragments_is_read() -> None:
    first, second = fragmented(TEXT, [b"one ", b"two"])
    assert parse(first + client_close(1001) + second) == ([(Opcode.CLOSE, b"\x03\xe9")], None)


def test_one_message_leaves_no_trace_in_the_next() -> None:
    # Neither fragments, nor bytes, nor half a character.
    data = b"".join(
        (
            *fragmented(TEXT, ["ü".encode()[:1], "ü".encode()[1:]]),
            *fragmented(BINARY, [b"\xc3", b"\xc3"]),
            *fragmented(TEXT, [b"a", b"b"]),
            client_frame(TEXT, b"c"),
        )
    )
    assert parse(data) == (
        [
            (Opcode.TEXT, "ü".encode()),
            (Opcode.BINARY, b"\xc3\xc3"),
            (Opcode.TEXT, b"ab"),
            (Opcode.TEXT, b"c"),
        ],
        None,
    )


@pytest.mark.parametrize(
    "frame",
    [
        bytes((0x81, 0x80 | 126, 0, 2)) + b"\0\0\0\0hi",
        bytes((0x81, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 2)) + b"\0\0\0\0hi",
    ],
)
def test_non_minimal_length_is_accepted(frame: bytes) -> None:
    assert parse(frame) == ([(Opcode.TEXT, b"hi")], None)


# What clients may not send

#: Each with the reason; messages before it are read in any case.
VIOLATIONS: list[tuple[int, str, bytes]] = [
    (1002, "not masked", b"\x81\x02hi"),
    (1002, "not masked, and empty", b"\x81\x00"),
    (1002, "not masked, and long", b"\x81\x7e\x01\x00"),
    *(
        (1002, f"reserved bit {bit:#x}", bytes((0x81 | bit, 0x82)) + MASK + b"hi")
        for bit in (0x40, 0x20, 0x10, 0x70)
    ),
    (1002, "reserved bit in a control frame", bytes((0xC9, 0x80)) + MASK),
    *((1002, f"opcode {opcode}", client_frame(opcode)) for opcode in (3, 4, 5, 6, 7)),
    *((1002, f"opcode {opcode}", client_frame(opcode)) for opcode in (11, 12, 13, 14, 15)),
    *(
        (1002, f"control frame {opcode} in fragments", client_frame(opcode, final=False))
        for opcode in (CLOSE, PING, PONG)
    ),
    *(
        (1002, f"control frame {opcode} too long", client_frame(opcode, b"\x03\xe8" + b"x" * 124))
        for opcode in (CLOSE, PING, PONG)
    ),
    (1002, "control frame with a long length", bytes((0x89, 0x80 | 126, 0, 5)) + MASK + b"12345"),
    (1002, "continuation of nothing", client_frame(CONTINUATION, b"x")),
    (1002, "continuation of nothing, not the last", client_frame(CONTINUATION, final=False)),
    (
        1002,
        "text amid fragments",
        client_frame(TEXT, b"x", final=False) + client_frame(TEXT, b"y"),
    ),
    (
        1002,
        "binary amid fragments",
        client_frame(TEXT, b"x", final=False) + client_frame(BINARY, b"y", final=False),
    ),
    (1002, "half a close code", client_frame(CLOSE, b"\x03")),
    *(
        (1002, f"close code {code}", client_close(code))
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535)
    ),
    (1007, "close reason that is not UTF-8", client_frame(CLOSE, b"\x03\xe8\xff")),
    (1007, "close reason cut in a character", client_frame(CLOSE, b"\x03\xe8\xc3")),
    *(
        (1007, f"text {text!r}", client_frame(TEXT, text))
        for text in (
            b"\xff",
            b"abc\x80",
            b"\xc3",
            b"\xc0\xaf",  # overlong
            b"\xed\xa0\x80",  # a surrogate
            b"\xf4\x90\x80\x80",  # beyond Unicode
            b"x" * 70_000 + b"\xe2\x82",
        )
    ),
    (
        1007,
        "text that is wrong in its second fragment",
        b"".join(fragmented(TEXT, [b"abc", b"\xff", b"def"])),
    ),
    (
        1007,
        "text whose character two fragments do not make",
        b"".join(fragmented(TEXT, [b"\xe2\x82", b"x"])),
    ),
    (
        1007,
        "text that ends within a character",
        b"".join(fragmented(TEXT, [b"abc", b"\xe2\x82"])),
    ),
    (1009, "too big", client_frame(TEXT, b"x" * (LIMIT + 1))),
    (1009, "too big, and binary", client_frame(BINARY, b"x" * (LIMIT + 1))),
    (1009, "64 bits of length", bytes((0x81, 0xFF)) + b"\xff" * 8 + MASK),
    (1009, "63 bits of length", bytes((0x82, 0xFF, 0x7F)) + b"\xff" * 7 + MASK),
    (
        1009,
        "too big together",
        b"".join(fragmented(BINARY, [b"x" * (LIMIT // 2), b"y" * (LIMIT // 2), b"z"])),
    ),
]


@pytest.mark.parametrize(
    ("code", "data"),
    [(code, data) for code, _, data in VIOLATIONS],
    ids=[name for _, name, _ in VIOLATIONS],
)
def test_violation_has_its_code(code: int, data: bytes) -> None:
    before = client_frame(TEXT, b"before")
    assert parse(before + data) == ([(Opcode.TEXT, b"before")], code)
    assert parse(before, *in_bytes(data[:1000]), data[1000:]) == (
        [(Opcode.TEXT, b"before")],
        code,
    )


def test_continuation_after_the_last_fragment_is_an_error() -> None:
    data = b"".join(fragmented(BINARY, [b"x", b"y"])) + client_frame(CONTINUATION, b"z")
    assert parse(data) == ([(Opcode.BINARY, b"xy")], 1002)


def test_nothing_follows_a_violation() -> None:
    parser = FrameParser(LIMIT)
    assert parser.feed(b"\x81\x02hi" + client_frame(TEXT, b"late")) == []
    failure = parser.failure
    assert failure is not None
    assert parser.feed(client_frame(TEXT, b"later")) == []
    assert parser.failure is failure


@pytest.mark.parametrize(
    ("code", "head"),
    [
        (1002, b"\x81\x02"),
        (1002, b"\x83\x80"),
        (1002, b"\x89\xfe"),
        (1002, b"\x80\x80"),
        (1009, client_frame(TEXT, b"x" * (LIMIT + 1))[:14]),
    ],
)
def test_violation_is_detected_before_the_payload_arrives(code: int, head: bytes) -> None:
    assert parse(head) == ([], code)


def test_invalid_text_is_detected_before_the_last_fragment() -> None:
    assert parse(client_frame(TEXT, b"\xff", final=False)) == ([], 1007)


def test_message_at_the_size_limit_is_accepted() -> None:
    payload = b"x" * LIMIT
    assert parse(client_frame(TEXT, payload)) == ([(Opcode.TEXT, payload)], None)
    fragments = [payload[: LIMIT // 2], payload[LIMIT // 2 :], b""]
    assert parse(b"".join(fragmented(TEXT, fragments))) == ([(Opcode.TEXT, payload)], None)


def test_size_limit_ignores_control_frames_between_fragments() -> None:
    first, second = fragmented(BINARY, [b"x" * LIMIT, b""])
    ping = client_frame(PING, b"p" * 125)
    assert parse(first + ping + second) == (
        [(Opcode.PING, b"p" * 125), (Opcode.BINARY, b"x" * LIMIT)],
        None,
    )


@pytest.mark.parametrize("payload", [b"", b"x"])
def test_tiny_fragments_use_no_more_memory_than_counted(payload: bytes) -> None:
    parser = FrameParser(max_size=1 << 16)
    parser.feed(client_frame(BINARY, payload, final=False))
    fragments = client_frame(CONTINUATION, payload, final=False) * 1000
    tracemalloc.start()
    for _ in range(65):
        parser.feed(fragments)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert parser.failure is None
    assert taken < 2 << 16


# Bytes cut anywhere


class Sent(NamedTuple):
    """Bytes, and the messages in them."""

    data: bytes
    messages: list[tuple[Opcode, bytes]]


def _control(opcode: Opcode, payload: bytes, mask: bytes) -> Sent:
    return Sent(client_frame(opcode, payload, mask=mask), [(opcode, payload)])


controls = st.builds(
    _control,
    st.sampled_from([Opcode.PING, Opcode.PONG]),
    st.binary(max_size=125),
    st.binary(min_size=4, max_size=4),
)
payloads = st.one_of(
    st.tuples(st.just(Opcode.TEXT), st.text(max_size=300).map(str.encode)),
    st.tuples(st.just(Opcode.BINARY), st.binary(max_size=300)),
    # Long texts are built from few choices, so that Hypothesis does not draw every byte.
    st.builds(
        lambda text, times: (Opcode.TEXT, (text * times).encode()),
        st.text(min_size=1, max_size=5),
        st.sampled_from([25, 126, 3300, 6600]),
    ),
)


@st.composite
def one_message(draw: st.DrawFn) -> Sent:
    """A message in any number of fragments, with control frames between them."""
    opcode, payload = draw(payloads)
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    bounds = [0, *cuts, len(payload)]
    data = b""
    messages: list[tuple[Opcode, bytes]] = []
    for i, (start, stop) in enumerate(pairwise(bounds)):
        if i:
            for control in draw(st.lists(controls, max_size=2)):
                data += control.data
                messages += control.messages
        mask = draw(st.binary(min_size=4, max_size=4))
        data += client_frame(
            opcode if i == 0 else Opcode.CONTINUATION,
            payload[start:stop],
            final=i == len(bounds) - 2,
            mask=mask,
        )
    return Sent(data, [*messages, (opcode, payload)])


#: The end is a violation, a close frame, or nothing.
endings = st.sampled_from(
    [
        (b"", [], None),
        (client_close(1000), [(Opcode.CLOSE, b"\x03\xe8")], None),
        *((data, [], code) for code, _, data in VIOLATIONS if len(data) < 1000),
    ]
)


class Conversation(NamedTuple):
    """What a client sends, cut anywhere, and the expected result."""

    pieces: list[bytes]
    expected: Parsed

    def __repr__(self) -> str:
        return reprlib.repr(tuple(self))


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    sent = draw(st.lists(st.one_of(one_message(), controls), max_size=8))
    last, last_message, code = draw(endings)
    data = b"".join(part.data for part in sent) + last
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=30)))
    pieces = [data[start:stop] for start, stop in pairwise([0, *cuts, len(data)])]
    messages = [message for part in sent for message in part.messages] + last_message
    return Conversation(pieces, Parsed([Message(*message) for message in messages], code))


@given(conversations())
def test_messages_do_not_depend_on_how_bytes_are_cut(sent: Conversation) -> None:
    assert parse(*sent.pieces) == sent.expected


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_random_bytes_raise_nothing(pieces: list[bytes]) -> None:
    messages, code = parse(*pieces)
    assert code in {None, 1002, 1007, 1009}
    for message in messages:
        if message.opcode is Opcode.TEXT:
            message.payload.decode()


def test_buffer_of_an_incomplete_message_is_small() -> None:
    # A client that announces much and sends little must not use more memory than it sent.
    parser = FrameParser(10_000_000)
    parser.feed(client_frame(TEXT, b"x" * 9_000_000)[:1000])
    assert len(parser._buffer or b"") == 1000
    for _ in range(1000):
        parser.feed(client_frame(PING))
    assert len(parser._buffer or b"") == 7000


# What we send


@pytest.mark.parametrize("size", SIZES)
def test_text_frame_is_encoded(size: int) -> None:
    text = b"x" * size
    assert split_frames(text_frame(text)) == ([Frame(TEXT, text)], b"")


@pytest.mark.parametrize("payload", [b"", b"p", b"p" * 125])
def test_control_frame_is_encoded(payload: bytes) -> None:
    assert split_frames(control_frame(Opcode.PING, payload)) == ([Frame(PING, payload)], b"")


@pytest.mark.parametrize(
    ("reason", "sent"),
    [
        ("", ""),
        ("Going away", "Going away"),
        ("x" * 123, "x" * 123),
        ("x" * 124, "x" * 123),
        ("x" * 122 + "ü", "x" * 122),
        ("\U0001f600" * 40, "\U0001f600" * 30),
    ],
)
def test_close_frame_truncates_its_reason(reason: str, sent: str) -> None:
    ((frame,), rest) = split_frames(close_frame(1001, reason))
    assert (frame.close_code, frame.close_reason, rest) == (1001, sent, b"")


@pytest.mark.parametrize(
    ("received", "sent"),
    [(b"", b""), (b"\x03\xe8", b"\x03\xe8"), (b"\x0f\xa0because", b"\x0f\xa0")],
)
def test_close_reply_repeats_the_code(received: bytes, sent: bytes) -> None:
    assert split_frames(close_reply(received)) == ([Frame(CLOSE, sent)], b"")


# The opening handshake


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (upgrade_head("/ws/r"), True),
        (b"GET / HTTP/1.1\r\nUPGRADE:WebSocket\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nupgrade \t:\t h2c, websocket\r\n\r\n", True),
        (b"GET / HTTP/1.1\nUpgrade: websocket\n\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nUpgrade:\r\nX: websocket\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nX-Upgrade: websocket\r\n\r\n", False),
        (b"GET /Upgrade:websocket HTTP/1.1\r\n\r\n", False),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", False),
    ],
)
def test_upgrade_requests_are_recognized(head: bytes, expected: bool) -> None:
    assert is_upgrade(head) is expected


def test_handshake_is_accepted() -> None:
    handshake = Handshake(upgrade_head("/ws/r?x=1"))
    assert handshake.request is not None
    assert handshake.request.path == "/ws/r?x=1"
    accepted, data = handshake.accept()
    answer = parse_answer(data)
    assert (accepted, answer.status, answer.body) == (True, 101, b"")
    assert answer.headers["upgrade"].lower() == "websocket"
    assert answer.headers["connection"].lower() == "upgrade"
    assert answer.headers["sec-websocket-accept"] == ACCEPT
    assert "sec-websocket-protocol" not in answer.headers


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ("bearer", "bearer"),
        ("bearer, eyJhbGciOiJIUzI1NiJ9.e30.c2ln", "bearer"),
        ("eyJhbGciOiJIUzI1NiJ9.e30.c2ln, bearer", "bearer"),
        ("graphql-ws", None),
        ("Bearer", None),
    ],
)
def test_only_subprotocol_bearer_is_chosen(offered: str, chosen: str | None) -> None:
    accepted, data = Handshake(upgrade_head("/ws/r", Sec_WebSocket_Protocol=offered)).accept()
    assert accepted
    assert parse_answer(data).headers.get("sec-websocket-protocol") == chosen


def test_no_extension_is_negotiated() -> None:
    extensions = "permessage-deflate; client_max_window_bits"
    head = upgrade_head("/ws/r", Sec_WebSocket_Extensions=extensions)
    accepted, data = Handshake(head).accept()
    assert accepted
    assert "sec-websocket-extensions" not in parse_answer(data).headers


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (upgrade_head("/ws/r", Sec_WebSocket_Version="8"), 400),
        (upgrade_head("/ws/r", Sec_WebSocket_Version=None), 400),
        (upgrade_head("/ws/r", Connection="keep-alive"), 426),
        (upgrade_head("/ws/r", Upgrade="websockets"), 426),
        (upgrade_head("/ws/r", Sec_WebSocket_Key=None), 400),
        (upgrade_head("/ws/r", Sec_WebSocket_Key="c2hvcnQ="), 400),
        (upgrade_head("/ws/r", Sec_WebSocket_Key="not base64 at all"), 400),
        (upgrade_head("/ws/r", Sec_WebSocket_Protocol="b\u00e4rer"), 400),
        (upgrade_head("/ws/r", Sec_WebSocket_Protocol='"'), 400),
        (upgrade_head("/ws/r").replace(b"GET", b"POST"), 405),
        (upgrade_head("/ws/r").replace(b"/1.1", b"/1.0"), 505),
    ],
)
def test_bad_handshake_gets_an_error_response(head: bytes, status: int) -> None:
    accepted, data = Handshake(head).accept()
    answer = parse_answer(data)
    assert (accepted, answer.status) == (False, status)
    assert answer.headers["connection"] == "close"
    assert int(answer.headers["content-length"]) == len(answer.body) > 0


@pytest.mark.parametrize(
    "head",
    [
        upgrade_head("/ws/r").replace(b"HTTP/1.1", b"HTTP/2"),
        upgrade_head("/ws/r").replace(b" HTTP/1.1", b""),
        upgrade_head("/ws/r with spaces"),
        upgrade_head("/ws/r/ann?username=J\u00fcrgen"),
        upgrade_head("/ws/r", Content_Length="5"),
        upgrade_head("/ws/r", Transfer_Encoding="chunked"),
        upgrade_head("/ws/r").replace(b"Host:", b"Ho st:"),
        upgrade_head("/ws/r").replace(b"Host:", b"no colon\r\nHost:"),
        upgrade_head("/ws/r", X="a\0b"),
        upgrade_head("/ws/r", **{f"X-{i}": "y" for i in range(500)}),
        upgrade_head("/ws/r", X="y" * 15_000),
        upgrade_head("/ws/" + "y" * 15_000),
        b"\r\n\r\n",
        b"",
    ],
)
def test_unreadable_head_gives_no_request(head: bytes) -> None:
    assert Handshake(head).request is None


@pytest.mark.parametrize(
    "head",
    [
        upgrade_head("/ws/r?x=1"),
        upgrade_head("/ws/r", Connection="keep-alive, Upgrade", Upgrade="WebSocket"),
        upgrade_head("/ws/r", Connection="Upgrade, keep-alive"),
        upgrade_head("/ws/r", Cookie="a=b; c=d", Authorization="Bearer x.y.z"),
        upgrade_head("/ws/r", Origin="https://app.example.com", User_Agent="A (b; c) D/1: 2"),
        upgrade_head("/ws/r", Sec_WebSocket_Extensions="permessage-deflate"),
        upgrade_head("/ws/r", Sec_WebSocket_Protocol="bearer, x"),
        upgrade_head("/ws/r", Sec_WebSocket_Version="12"),
        upgrade_head("/ws/r", Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZR=="),
        upgrade_head("/ws/r", X=""),
        upgrade_head("/ws/r", X="a\tb"),
        upgrade_head("/ws/r", X="  both sides  "),
        upgrade_head("/ws/r", Content_Length="0"),
        upgrade_head("/ws/r", **{f"X-{i}": "y" for i in range(50)}),
        upgrade_head("/ws/r").replace(b"Host: ", b"Host:"),
        upgrade_head("/ws/r").replace(b"Host: ", b"Origin: a\r\nOrigin: b\r\nHost: "),
        upgrade_head("/ws/r").replace(b"Host: ", b"hOST: a\r\nHost: "),
        upgrade_head("/ws/r").replace(b"Host: ", b"X: a\r\n b\r\nHost: "),
        upgrade_head("/ws/r").replace(b"Host: ", b"X_y!#$%&'*+-.^`|~: a\r\nHost: "),
        upgrade_head("/ws/r").replace(b"\r\n", b"\n"),
        upgrade_head("*"),
        upgrade_head("http://127.0.0.1/ws/r"),
    ],
)
def test_handshakes_are_read_as_by_the_websockets_library(head: bytes) -> None:
    library = ServerProtocol(logger=logging.getLogger("trio_signal.handshake"))
    library.receive_data(head)
    (request,) = library.events_received() or (None,)
    assert request is None or isinstance(request, Request)
    handshake = Handshake(head)
    if request is None:
        assert handshake.request is None
        return
    assert handshake.request is not None
    assert handshake.request.path == request.path
    for name in {*request.headers, *handshake.request.fields}:
        assert handshake.request.get_all(name) == request.headers.get_all(name)
    expected = library.accept(request)
    _, data = handshake.accept()
    answer = parse_answer(data)
    assert answer.status == expected.status_code
    for name in ("Upgrade", "Connection", "Sec-WebSocket-Accept"):
        assert answer.headers.get(name.lower()) == expected.headers.get(name)
