"""The fuzzing corpus and a few random inputs; `make fuzz` runs for ten minutes."""

import logging
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS

CORPUS = Path(__file__).resolve().parent.parent / "fuzz" / "corpus"
#: Lines of a conversation: dialect words mixed with random bytes.
WORDS = [
    *(b'{"type":"', b'"}', b'","', b'":"', b'":', b"null", b"{", b"}", b"[", b"]", b",", b"\n"),
    *(b"message", b"offer", b"join_room", b"room_id", b"streamId", b"viewerId", b"content"),
    *(b"broadcaster-ready", b"join-stream", b"auth_token", b"to", b"r", b"mia", b"ann", b"\\u0000"),
]
pieces = st.lists(st.sampled_from(WORDS) | st.binary(max_size=8), max_size=60).map(b"".join)


@pytest.mark.parametrize("target", TARGETS)
def test_corpus_passes(target: str, caplog: pytest.LogCaptureFixture) -> None:
    files = sorted((CORPUS / target).iterdir())
    assert files
    for file in files:
        TARGETS[target](file.read_bytes())
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("target", TARGETS)
@settings(deadline=None)
@given(pieces)
@example(b"")
@example(b"\xff\n\x00")
def test_random_input_passes(target: str, data: bytes) -> None:
    TARGETS[target](data)


def test_targets_detect_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("trio_signal.dialects.room.chat_message", fail)
    monkeypatch.setattr("trio_signal.session.logger.exception", lambda *args: None)
    with pytest.raises(AssertionError):
        TARGETS["room"](b'{"type":"message","content":"x"}')
