"""A release: one version everywhere, its section of the changelog, and the workflow's actions."""

import re
from pathlib import Path
from tomllib import loads
from typing import Any

import pytest
import yaml

from tools import release_notes

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").iterdir())
RELEASE: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
CHANGELOG = """\
# Changelog

## [Unreleased]

## [0.2.0] - 2026-12-01

### Added

- Something.

## [0.1.0] - 2026-11-01

- Everything.
"""


def test_all_packages_have_the_same_version() -> None:
    version = loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert set(map(frozenset, release_notes.versions(ROOT).values())) == {frozenset({version})}


def test_notes_are_the_changelog_section_of_the_version() -> None:
    assert release_notes.notes(CHANGELOG, "0.2.0") == "### Added\n\n- Something."
    assert release_notes.notes(CHANGELOG, "0.1.0") == "- Everything."
    assert release_notes.notes(CHANGELOG, "0.3.0") is None


def test_a_tag_of_another_version_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert release_notes.main("v0.0.7") == 1
    told = capsys.readouterr()
    assert told.out == ""
    for name in (*release_notes.PLACES, "CHANGELOG.md"):
        assert f"{name}: " in told.err


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned(path: Path) -> None:
    text = path.read_text()
    used = re.findall(r"uses: (.*)", text)
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_publishing_jobs_have_no_other_permissions() -> None:
    assert RELEASE["permissions"] == {}
    jobs = RELEASE["jobs"]
    assert jobs["build"]["permissions"] == {"contents": "read"}
    for name in ("pypi", "npm"):
        # By trusted publishing, so there is no secret to steal.
        assert jobs[name]["permissions"] == {"id-token": "write"}
        assert jobs[name]["needs"] == "build"
    assert "secrets." not in (ROOT / ".github/workflows/release.yml").read_text()
    # The announcement comes last.
    assert {*jobs["github"]["needs"], "build", "github"} == jobs.keys()


def test_the_image_can_be_built_from_the_published_wheel() -> None:
    (build,) = (step for step in RELEASE["jobs"]["image"]["steps"] if step.get("id") == "push")
    stage, _, folder = build["with"]["build-contexts"].partition("=")
    dockerfile = (ROOT / build["with"]["file"]).read_text()
    assert f" AS {stage}\n" in dockerfile
    assert f"COPY --from={stage} /trio_signal-*.whl /\n" in dockerfile
    assert folder == "dist"
