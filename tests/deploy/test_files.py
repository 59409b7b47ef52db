"""The files for platforms name existing settings and files."""

import re
from pathlib import Path

import pytest
import yaml

from trio_signal.config import Settings

ROOT = Path(__file__).parents[2]
FILES = [
    path
    for folder in ("deploy", "docs/deploy")
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and path.suffix != ".pyc"
]
COMPOSE = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_settings_exist(path: Path) -> None:
    named = re.findall(r"\bTRIO_SIGNAL_([A-Z_]*[A-Z])\b", path.read_text())
    assert {name.lower() for name in named} <= Settings.model_fields.keys()


def test_pages_name_existing_files() -> None:
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "deploy").iterdir())
    named = set(re.findall(r"\bdeploy/[a-zA-Z.-]+[a-z]\b", pages)) - {"deploy/.env"}
    assert {f"deploy/{name}" for name in ("Dockerfile", "railway.json")} <= named
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_all_variables_of_the_nginx_template_are_set() -> None:
    lines = (ROOT / "deploy" / "nginx.conf.template").read_text().splitlines()
    directives = "".join(line for line in lines if not line.startswith("#"))
    names = set(re.findall(r"\$\{(\w+)\}", directives))
    assert names == {"LISTEN", "REPLICAS", "STATE"}
    assert names <= COMPOSE["services"]["nginx"]["environment"].keys()


def test_nginx_in_compose_knows_all_replicas() -> None:
    services = COMPOSE["services"]
    replicas = {name for name in services if name.startswith("replica-")}
    given = services["nginx"]["environment"]["REPLICAS"]
    assert set(re.findall(r"server ([\w-]+):8000;", given)) == replicas
    assert set(services["nginx"]["depends_on"]) == replicas
    assert len(replicas) == 3


def test_secrets_of_compose_are_in_the_example() -> None:
    wanted = set(re.findall(r"\$\{(\w+):[?-]", (ROOT / "deploy" / "compose.yaml").read_text()))
    example = (ROOT / "deploy" / "env.example").read_text()
    assert wanted == set(re.findall(r"^(\w+)=", example, re.MULTILINE))
