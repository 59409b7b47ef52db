"""Check that the relative links in Markdown files lead somewhere.

Prints each link whose file, or whose heading in a Markdown file, does not
exist, and exits with 1 if there are any. Links to other hosts are not checked.
"""

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from urllib.parse import unquote

FENCED = re.compile(r"^ *(```|~~~).*?^ *\1", re.MULTILINE | re.DOTALL)
QUOTED = re.compile(r"`+[^`\n]+`+")
LINK = re.compile(
    r"""\]\(<?([^)\s>]+)                # [text](target), ![image](target)
      | ^\[[^\]\n]+\]:\s+<?(\S+?)>?\s   # [name]: target
      | (?:href|src)="([^"]+)"          # in HTML
    """,
    re.MULTILINE | re.VERBOSE,
)
HEADING = re.compile(r"^#{1,6} +(.+?)[ #]*$", re.MULTILINE)
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


def markdown_files(root: Path) -> Iterator[Path]:
    """The project's own pages, without hidden and installed folders."""
    for path in sorted(root.rglob("*.md")):
        folders = path.relative_to(root).parts[:-1]
        if not any(name == "node_modules" or name.startswith(".") for name in folders):
            yield path


def links(text: str) -> Iterator[str]:
    """The targets of links in `text` within the project."""
    for match in LINK.finditer(QUOTED.sub("", FENCED.sub("", text))):
        target = match[1] or match[2] or match[3]
        if not ELSEWHERE.match(target):
            yield unquote(target)


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors that GitHub gives to the page's headings."""
    seen: dict[str, int] = {}
    for heading in HEADING.findall(FENCED.sub("", page.read_text())):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        count = seen[name] = seen.get(name, -1) + 1
        if count:
            seen[f"{name}-{count}"] = 0
    return frozenset(seen)


def leads_nowhere(page: Path, target: str, root: Path) -> bool:
    """Whether no file or heading exists for the link `target` in `page`."""
    path, _, anchor = target.partition("#")
    goal = root / path[1:] if path.startswith("/") else page.parent / (path or page.name)
    if not goal.exists():
        return True
    return bool(anchor) and goal.suffix == ".md" and anchor not in anchors(goal)


def main(root: Path) -> int:
    """Check all pages below `root`; the exit status."""
    broken = 0
    for page in markdown_files(root):
        for target in links(page.read_text()):
            if leads_nowhere(page, target, root):
                print(f"{page.relative_to(root)}: {target}")
                broken += 1
    print(f"{broken} broken links" if broken else "all links resolve")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
