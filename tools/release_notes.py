"""Print the changelog's section about a version, for a release.

    python tools/release_notes.py v0.2.0

Exits with 1 if a package has another version, or the changelog has no such section.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: The files that contain the version, and its pattern.
PLACES = {
    "pyproject.toml": r'^version = "(.+)"$',
    "trio_signal/browser/package.json": r'^  "version": "(.+)",$',
    "deploy/chart/Chart.yaml": r"^(?:version|appVersion): (.+)$",
    "deploy/kubernetes/trio-signal.yaml": r'\bimage: "trio-signal:(.+)"$',
    "docs/clients/browser.md": r"\btrio-signal-(.+)\.tgz$",
}


def versions(root: Path) -> dict[str, set[str]]:
    """The versions in each file."""
    return {
        name: set(re.findall(pattern, (root / name).read_text(), re.MULTILINE))
        for name, pattern in PLACES.items()
    }


def notes(changelog: str, version: str) -> str | None:
    """The section of a version, without its heading."""
    heading = rf"^## \[{re.escape(version)}\][^\n]*\n"
    found = re.search(rf"{heading}(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else None


def main(tag: str) -> int:
    """Print the notes; the exit status."""
    version = tag.removeprefix("v")
    wrong = {name: found for name, found in versions(ROOT).items() if found != {version}}
    for name, found in wrong.items():
        print(f"{name}: {', '.join(sorted(found)) or 'no version'}, not {version}", file=sys.stderr)
    text = notes((ROOT / "CHANGELOG.md").read_text(), version)
    if text is None:
        print(f"CHANGELOG.md: no section [{version}]", file=sys.stderr)
    if wrong or text is None:
        return 1
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
