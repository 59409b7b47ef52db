"""Find unusual words that readers would have to learn, in pages, docstrings and comments.

    python tools/check_words.py

codespell checks spelling, and proselint style; this is a short list of our own habits.
"""

import ast
import re
import sys
from collections.abc import Iterator
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
#: Parts that are not prose: code blocks, and code in sentences.
CODE = re.compile(r"^```.*?^```|`[^`\n]*`|<!--.*?-->", re.MULTILINE | re.DOTALL)


def findings(text: str) -> list[tuple[int, str, str]]:
    """The line numbers, the words that were found, and what to write instead."""
    prose = CODE.sub(lambda code: re.sub(r"[^\n]", " ", code[0]), text)
    found = [
        (prose.count("\n", 0, match.start()) + 1, match[0], instead)
        for pattern, instead in WORDS.items()
        for match in re.finditer(rf"\b({pattern})", prose, re.IGNORECASE)
    ]
    return sorted(found)


def prose_of(source: str, suffix: str) -> str:
    """The docstrings and comments of a module or a Lua script, on their own lines."""
    lines = source.split("\n")
    comment = re.compile(r"(?:^|\s)--.*" if suffix == ".lua" else r"(?:^\s*|  )#.*")
    prose = [found[0] if (found := comment.search(line)) else "" for line in lines]
    if suffix == ".py":
        for first, last in _docstrings(ast.parse(source)):
            prose[first:last] = lines[first:last]
    return "\n".join(prose)


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, int]]:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        match body[0] if isinstance(body, list) and body else None:
            case ast.Expr(value=ast.Constant(value=str()), lineno=first, end_lineno=int(last)):
                yield first - 1, last


def main(root: Path) -> int:
    """Check all pages and sources below `root`; return the exit status."""
    pages = [
        root / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
    ]
    pages += sorted((root / "docs").rglob("*.md"))
    texts = [(page, page.read_text()) for page in pages]
    texts += [
        (path, prose_of(path.read_text(), path.suffix))
        for path in sorted((root / "trio_signal").rglob("*"))
        if path.suffix in (".py", ".lua")
    ]
    count = 0
    for path, text in texts:
        for line, words, instead in findings(text):
            print(f"{path.relative_to(root)}:{line}: {words!r}; rather: {instead}")
            count += 1
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(ROOT))
