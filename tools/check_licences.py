"""Check the licences of everything that is deployed: each may require no more than notice.

    python tools/check_licences.py

Exits with 1 and names the others. It reads the metadata of the installed packages.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.txt"
#: As packages write them: SPDX, PyPI's classifiers, or free text.
FREE = re.compile(
    r"MIT|BSD|Apache|ISC|PSF|Python Software Foundation|MPL-2\.0|Mozilla Public License 2\.0"
    r"|Unlicense|0BSD|Zlib",
)
#: Packages whose licence requires more, with the reason why we comply.
ACCEPTED = {
    # A separate library, which everybody who deploys can replace.
    "psycopg": "LGPL-3.0-only",
    "psycopg-binary": "LGPL-3.0-only",
}


def locked() -> Iterator[str]:
    """The names of all deployed packages."""
    for line in LOCK.read_text().splitlines():
        if found := re.match(r"([\w.-]+)==", line):
            yield found[1]


def licence_of(package: Distribution) -> str:
    """The licence in a package's metadata."""
    data = package.metadata
    expressions: list[str] = data.get_all("License-Expression") or []
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in data.get_all("Classifier") or []
        if text.startswith("License ::") and text != "License :: OSI Approved"
    ]
    return ", ".join(expressions or classifiers or data.get_all("License") or ["not said"])


def is_free(name: str, licence: str) -> bool:
    """Whether we may deploy software under each of these licences."""
    if licence == ACCEPTED.get(name):
        return True
    parts = re.split(r",| AND ", licence) if "OR" not in licence else [licence]
    return all(FREE.search(part) for part in parts)


def main() -> None:
    """Print each package with its licence; exit with 1 if one is not acceptable."""
    wrong = []
    for name in locked():
        try:
            licence = licence_of(distribution(name))
        except PackageNotFoundError:  # only on another system
            continue
        print(f"{name}: {licence.splitlines()[0]}")
        if not is_free(name, licence):
            wrong.append(name)
    if wrong:
        sys.exit(f"their licences are not among those that we know: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
