"""What the site has besides docs/: README as its first page, and links that stay inside.

A hook of mkdocs, named in mkdocs.yml.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s#]+)(#[^()\s]*)?\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """README is the first page."""
    files.append(File.generated(config, "index.md", content=README.read_text()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to README lead to the first page; of those to other files only the words are left."""
    place = page.file.src_uri
    source = README if place == "index.md" else DOCS / place

    def moved(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        goal = (source.parent / target).resolve()
        if not goal.exists():
            return match[0]
        if goal == README:
            goal = DOCS / "index.md"
        if not goal.is_relative_to(DOCS):
            return text
        return f"[{text}]({os.path.relpath(goal, (DOCS / place).parent)}{anchor})"

    return LINK.sub(moved, markdown)
