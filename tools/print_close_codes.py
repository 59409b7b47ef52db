"""Print the table of close codes into docs/close-codes.md.

    python -m tools.print_close_codes

The table in the code, `trio_signal.errors.CLOSE_CODES`, is the one that counts.
"""

from pathlib import Path

from trio_signal.errors import CLOSE_CODES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "close-codes.md"
BEGIN = "<!-- begin: printed by python -m tools.print_close_codes -->\n"
END = "<!-- end -->\n"


def table() -> str:
    """The table in Markdown."""
    lines = ["| code | meaning | connect again? |", "|---|---|---|"]
    lines += [
        f"| {code.value} | {text.meaning} | {text.reconnect} |"
        for code, text in CLOSE_CODES.items()
    ]
    return "\n".join(lines) + "\n"


def printed(page: str) -> str:
    """The page with the table between its two markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{PAGE} has no markers")
    return before + begin + table() + end + after


if __name__ == "__main__":
    PAGE.write_text(printed(PAGE.read_text()))
