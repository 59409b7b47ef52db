"""The list of words that the pages avoid."""

from pathlib import Path

import pytest

from tools import check_words


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Who comes late gets the whole picture.\n", [1, 1]),
        ("An edition,\nand a nudge.\n", [1, 2]),
        ("`edition` is a field\n\n```sh\nmend it\n```\n\nMend it.\n", [7]),
        ("Late joiners receive the full room state.\n", []),
        ("An additional amendment.\n", []),
    ],
)
def test_words_are_found_outside_of_code(text: str, lines: list[int]) -> None:
    assert [line for line, *_ in check_words.findings(text)] == lines


def test_page_with_such_words_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG"):
        (tmp_path / f"{name}.md").write_text("Plain.\n")
    assert check_words.main(tmp_path) == 0
    (tmp_path / "docs" / "a.md").write_text("TURN is yours to run.\n")
    assert check_words.main(tmp_path) == 1
    assert capsys.readouterr().out == "docs/a.md:1: 'yours to run'; rather: you need, you have to\n"


def test_only_docstrings_and_comments_of_sources_are_read() -> None:
    source = '"""An edition."""\n\nEDITION = "an edition"  # a nudge\n'
    assert check_words.prose_of(source, ".py") == '"""An edition."""\n\n  # a nudge\n'
    assert check_words.prose_of("-- An edition.\nlocal edition -- a nudge", ".lua") == (
        "-- An edition.\n -- a nudge"
    )
