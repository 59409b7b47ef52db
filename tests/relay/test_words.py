"""Messages to Janus, and how its messages are read."""

from typing import Any

import pytest

from trio_signal.relay import RelayError
from trio_signal.relay.janus import words
from trio_signal.relay.janus.words import Address, Feed
from trio_signal.urls import read_relay_urls

FEED = Feed(2**52, 7, "0123456789abcdef" * 2)
FINGERPRINT = "a=fingerprint:sha-256 AB:CD"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("janus+ws://media:8188", ("media", 8188, False, "/", "token")),
        ("janus+ws://media/janus", ("media", 8188, False, "/janus", "token")),
        ("janus+wss://m.example.com", ("m.example.com", 443, True, "/", "token")),
        ("janus+ws://:s%40x@[::1]:1", ("::1", 1, False, "/", "s@x")),
    ],
)
def test_addresses_are_parsed(url: str, address: tuple[object, ...]) -> None:
    name, *rest, netloc = Address.of(url, "token")
    assert netloc in name
    assert (name, tuple(rest)) == (url.replace(":s%40x@", ""), address)


@pytest.mark.parametrize(
    "url", ["", "janus", "ws://media:8188", "janus+ws://", "janus+ws://:hunter2@", "janus+ws://m:x"]
)
def test_invalid_addresses_raise(url: str) -> None:
    with pytest.raises(ValueError) as raised:
        Address.of(url)
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "is_one"),
    [
        *(("janus+ws://media:8188", True), ("JANUS+WSS://:secret@[::1]/janus", True)),
        *(("cloudflare:app", True), ("cloudflare:", False), ("ws://media:8188", False)),
        *(("janus+ws://", False), ("janus+ws://m:x", False), ("janus+ws://m:0", False)),
        *(("janus+ws://[::1", False), ("janus+http://media", False), ("janus:", False)),
    ],
)
def test_urls_in_settings_are_checked(url: str, is_one: bool) -> None:
    if is_one:
        assert read_relay_urls((url, url)) == (url,)
    else:
        with pytest.raises(ValueError, match="must list media servers"):
            read_relay_urls((url,))


def test_feeds_can_be_written_and_read() -> None:
    assert Feed.of(str(FEED)) == FEED


@pytest.mark.parametrize("text", ["", "1-2", f"{FEED}0", f"-{FEED}", "1-2-xyz", f"{FEED}\n"])
def test_invalid_feeds_raise(text: str) -> None:
    with pytest.raises(RelayError):
        Feed.of(text)


END = {"completed": True}
TEXT = "candidate:1 1 udp 1 192.0.2.1 9 typ host"


@pytest.mark.parametrize(
    ("value", "candidate"),
    [
        (None, END),
        ({"candidate": ""}, END),
        ({"candidate": "", "sdpMid": "0"}, END),
        ({"candidate": TEXT, "sdpMid": "0"}, {"candidate": TEXT, "sdpMid": "0"}),
        (
            {"candidate": TEXT, "sdpMLineIndex": 0, "sdpMid": None, "foundation": {}},
            {"candidate": TEXT, "sdpMLineIndex": 0},
        ),
        ({"candidate": TEXT}, None),
        ({"candidate": TEXT, "sdpMid": 1, "sdpMLineIndex": -1}, None),
        ({"candidate": TEXT, "sdpMLineIndex": True}, None),
        ({"candidate": "c" * 10_000, "sdpMid": "0"}, None),
        ({"candidate": "\udcff", "sdpMid": "0"}, None),
        ({"candidate": 1, "sdpMid": "0"}, None),
        ({}, None),
        ([], None),
        ("candidate:1", None),
        (7, None),
    ],
)
def test_candidates_are_converted(value: object, candidate: dict[str, Any] | None) -> None:
    assert words.candidate(value) == candidate


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "7", "null", "[" * 100_000, b"\x00\xff", '{"janus": 1}', '{"sender": 1}'),
        *('{"janus": "event", "sender": "1"}', '{"janus": "event", "jsep": {"type": "offer"}}'),
    ],
)
def test_invalid_messages_are_ignored(text: str | bytes) -> None:
    assert words.read(text) is None


def test_unknown_fields_are_ignored() -> None:
    message = words.read('{"janus": "event", "new": {"a": [1]}, "plugindata": {"data": {"b": 2}}}')
    assert message is not None
    assert message.room == words.VideoRoom()


def test_peer_connections_are_identified_by_certificate() -> None:
    one = words.fingerprints(f"v=0\r\n{FINGERPRINT}\r\nm=video\r\n{FINGERPRINT.lower()}\r\n")
    assert one == words.fingerprints(f"o=- 2 2\n{FINGERPRINT}\n") == {"sha-256 ab:cd"}
    assert words.fingerprints("v=0") == frozenset()


def test_a_description_may_lack_ice_credentials() -> None:
    assert words.has_credentials("v=0\r\na=ice-ufrag:BDfr\r\na=ice-pwd:0vaQg\r\n")
    assert not words.has_credentials("v=0\r\na=ice-ufrag:(null)\r\na=ice-pwd:(null)\r\n")


def test_every_room_has_its_own_number_and_pin() -> None:
    (one, pin, creation), (other, other_pin, _) = words.new_room(5), words.new_room(5)
    assert one != other
    assert pin != other_pin
    assert (creation["room"], creation["pin"], creation["bitrate"]) == (one, pin, 5)


@pytest.mark.parametrize(
    ("version", "is_older"),
    [
        ("1.1.2", False),
        ("1.1.1", True),
        ("0.14.4", True),
        ("1.10.0", False),
        ("1.3.3", False),
        ("2", False),
        ("1.1", True),
        ("", False),
        ("unknown", False),
    ],
)
def test_versions_are_compared(version: str, is_older: bool) -> None:
    assert words.is_older(version, "1.1.2") is is_older
