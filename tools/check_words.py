"""Finds words in the pages that readers would have to learn, and says which they know.

    python tools/check_words.py

Spelling is for codespell, and style for proselint; this is a short list of our own habits.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Patterns, and what to write instead.
WORDS = {
    r"whole picture|picture of (the|a) room": "the room's state, or its snapshot",
    r"couriers?\b": "flusher",
    r"nudge[sd]?\b": "ping",
    r"heirs?\b|bequeath\w*|inherit(s|ed)? (a|the) (room|peer)\w*": "rejoin",
    r"doubt(s|ed)?\b": "stale, resynchronize",
    r"mends?\b|mended|mending": "repair, fix",
    r"editions?\b": "revision",
    r"who(ever)? is believed": "trusts",
    r"is as one that|is as if it (were|was) not": "counts as",
    r"sees to (that|it)\b": "guarantees, ensures",
    r"who(ever)? comes (late|later)": "late joiners",
    r"is told of|are told of": "is told about, receives",
    r"yours to (run|stop)": "you need, you have to",
    r"goes on as before|go on as before": "continues",
    r"for want of": "because ... is missing",
    r"will not do\b": "is not allowed",
    r"said goodbye|takes? leave": "closed, left",
}
#: Where nothing is prose: code, and code in sentences.
CODE = re.compile(r"^```.*?^```|`[^`\n]*`|<!--.*?-->", re.MULTILINE | re.DOTALL)


def findings(text: str) -> list[tuple[int, str, str]]:
    """Lines of a page, the words found there, and what to write instead."""
    prose = CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)
    found = [
        (prose.count("\n", 0, match.start()) + 1, match[0], instead)
        for pattern, instead in WORDS.items()
        for match in re.finditer(rf"\b({pattern})", prose, re.IGNORECASE)
    ]
    return sorted(found)


def main(root: Path) -> int:
    """Check all pages below `root`; the exit status."""
    pages = [
        root / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
    ]
    pages += sorted((root / "docs").rglob("*.md"))
    count = 0
    for page in pages:
        for line, words, instead in findings(page.read_text()):
            print(f"{page.relative_to(root)}:{line}: {words!r}; rather: {instead}")
            count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(ROOT))
