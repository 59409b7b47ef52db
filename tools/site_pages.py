"""Pages of the site that are not in docs/: the references of the two APIs, and the demo's client.

A hook for mkdocs, named in mkdocs.yml.
"""

import os
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # mkdocs loads this file on its own

from tools import api_pages, bundle_browser_client  # noqa: E402

DOCS = ROOT / "docs"
README = ROOT / "README.md"
LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s#]+)(#[^()\s]*)?\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the generated files."""
    client = bundle_browser_client.classic(bundle_browser_client.BUNDLE.read_text())
    for path, content in {**api_pages.generated(), "demo/trio-signal.js": client}.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to README lead to the first page; those to other files become plain text."""
    place = page.file.src_uri
    source = DOCS / place

    def moved(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        goal = (source.parent / target).resolve()
        if not goal.exists():
            return match[0]
        if goal == README:
            goal, anchor = DOCS / "index.md", ""
        if not goal.is_relative_to(DOCS):
            return text
        return f"[{text}]({os.path.relpath(goal, (DOCS / place).parent)}{anchor})"

    return LINK.sub(moved, markdown)
