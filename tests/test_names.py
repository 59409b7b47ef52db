"""Names and pictures from clients."""

import logging
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_signal.names import MAX_NAME, MAX_PICTURE, clean_name, clean_picture

NAMES = [
    ("Ann", "Ann"),
    ("  Ann   of\tthe \n lobby ", "Ann of the lobby"),
    ("Ann\r\n2026-11-20 ERROR forged", "Ann 2026-11-20 ERROR forged"),
    ("\x1b[31mAnn\x00\x7f", "[31mAnn"),
    ("Ann\u202egnp.exe", "Anngnp.exe"),
    ("\u2066Ann\u2069\u200f", "Ann"),
    ("Ann\u2028Bob\u2029Cyd\x85Dan", "Ann Bob Cyd Dan"),
    ("\ufeffAnn\u200b", "Ann"),
    ("Ann\ud800", "Ann"),
    ("Zoë Łukasz 小明 محمد", "Zoë Łukasz 小明 محمد"),
    ("👩\u200d💻", "👩\u200d💻"),
    ("x" * 65, "x" * 64),
    ("x" * 63 + "  y", "x" * 63),
    ("", None),
    (" \u202e\u200b\n", None),
    ("\u200d\u200c", None),
    (None, None),
]


@pytest.mark.parametrize(("said", "shown"), NAMES)
def test_name_is_cleaned(said: str | None, shown: str | None) -> None:
    assert clean_name(said) == shown


@given(st.text(max_size=200))
def test_control_characters_are_removed_from_names(said: str) -> None:
    name = clean_name(said)
    if name is not None:
        assert 0 < len(name) <= MAX_NAME
        assert name == " ".join(name.split())
        assert not any(unicodedata.bidirectional(c) in {"RLO", "LRO", "RLI"} for c in name)
        assert not any(unicodedata.category(c) in {"Cc", "Cs"} for c in name)
        assert clean_name(name) == name


def test_name_cannot_forge_a_log_line(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("names").warning("%s came", clean_name("Ann\nERROR the server is down"))
    assert caplog.text.count("\n") == 1


def test_picture_is_kept_unchanged_or_dropped() -> None:
    for url in (None, "", "a.png", "x" * MAX_PICTURE):
        assert clean_picture(url) == url
    assert clean_picture("x" * (MAX_PICTURE + 1)) is None
