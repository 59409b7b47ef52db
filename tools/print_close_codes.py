"""Print the table of close codes into docs/close-codes.md.

    python -m tools.print_close_codes

The source is the table in the code, `trio_signal.errors.CLOSE_CODES`.
"""

from pathlib import Path

from tools import markers
from trio_signal.errors import CLOSE_CODES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "close-codes.md"


def table() -> str:
    """The table in Markdown."""
    lines = ["| code | meaning | connect again? |", "|---|---|---|"]
    lines += [
        f"| {code.value} | {text.meaning} | {text.reconnect} |"
        for code, text in CLOSE_CODES.items()
    ]
    return "\n".join(lines) + "\n"


def printed(page: str) -> str:
    """The page with the table between its markers."""
    return markers.printed(page, "print_close_codes", table())


if __name__ == "__main__":
    PAGE.write_text(printed(PAGE.read_text()))
