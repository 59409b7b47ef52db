"""Unreadable data become None, are counted, and are logged at a bounded rate."""

import logging

import msgspec
import pytest
from trio.testing import MockClock

from trio_signal.redis.reading import LOG_PAUSE, Reader, read_text


class Point(msgspec.Struct):
    x: int
    y: int = 0


decode = msgspec.json.Decoder(Point).decode


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"null", b"[]", b"{}", b'{"x": "1"}', b"\xff", b'{"x": 1, "y": null}'),
        b"[" * 10_000,
        b'{"x": 1, "z": ' + b"[" * 10_000,
    ],
)
async def test_unreadable_data_become_none(data: bytes) -> None:
    reader = Reader()
    assert reader.read("point", decode, data, "somewhere") is None
    assert reader.unreadable == {"point": 1}


async def test_data_of_a_neighbouring_version_are_read() -> None:
    reader = Reader()
    assert reader.read("point", decode, b'{"x": 1, "z": 2}', "somewhere") == Point(1)
    assert reader.read("name", read_text, "grün".encode(), "somewhere") == "grün"
    assert reader.unreadable == {}


async def test_the_log_is_bounded(mock_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    reader = Reader()
    for _ in range(1000):
        reader.read("name", read_text, b"\xff", "a key\n" + 1000 * "x")
    mock_clock.jump(LOG_PAUSE)
    reader.drop("name", "here", 1000 * "y")
    texts = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(texts) == 2
    assert texts[0].startswith("cannot decode a name from Redis, at 'a key\\nxxx")
    assert texts[1].endswith("(and 999 earlier ones)")
    assert max(map(len, texts)) < 500
    assert reader.unreadable == {"name": 1001}
