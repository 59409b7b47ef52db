"""What users install: the wheel and the locked versions, in an environment of its own.

It is run by the commands in the platforms' files.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tomllib import loads

import pytest
import trio
from packaging.requirements import Requirement

from tests.raw import get
from tests.replicas.processes import STARTING
from tools import check_licences

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "requirements.txt"
PROCFILE = dict(line.split(": ", 1) for line in (ROOT / "Procfile").read_text().splitlines())
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()
#: Seconds to build, and to download what is not cached.
INSTALLING = 300.0


async def run(*command: str | Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> None:
    """Run a command that must succeed."""
    with trio.fail_after(INSTALLING):
        ended = await trio.run_process(
            list(command),
            check=False,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
        )
    assert ended.returncode == 0, ended.stdout.decode()


async def install(folder: Path) -> Path:
    """Install the package into a new environment; the folder of its programs."""
    uv = (sys.executable, "-m", "uv")
    environment, dist = folder / "environment", folder / "dist"
    await run(*uv, "build", "--quiet", "--wheel", "--out-dir", dist, ROOT)
    (wheel,) = dist.glob("*.whl")
    await run(*uv, "venv", "--quiet", "--python", sys.executable, environment)
    pip = (*uv, "pip", "install", "--quiet", "--python", environment, "--only-binary", ":all:")
    await run(*pip, "--require-hashes", "--requirements", LOCK)
    await run(*pip, "--no-deps", "--no-index", wheel)
    return environment / "bin"


async def read_line(process: trio.Process) -> str:
    assert process.stdout is not None
    line = b""
    with trio.fail_after(STARTING):
        while not line.endswith(b"\n"):
            chunk = await process.stdout.receive_some()
            assert chunk, line
            line += chunk
    return line.decode().strip()


async def test_the_wheel_serves_in_an_empty_environment(tmp_path: Path) -> None:
    """By the commands of the Procfile, and checked by the image's health check."""
    programs = await install(tmp_path)
    database = tmp_path / "announcements.db"
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PORT": "0",
        "REDIS_URL": "",  # platforms set missing variables to empty values
        "DATABASE_URL": f"sqlite:///{database}",
    }
    await run("sh", "-c", PROCFILE["release"], env=environment, cwd=tmp_path)
    assert database.exists()
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                ["sh", "-c", f"exec {PROCFILE['web']}"],
                stdout=subprocess.PIPE,
                env=environment,
                cwd=tmp_path,
            )
        )
        port = re.fullmatch(r"listening on http://0\.0\.0\.0:(\d+)", await read_line(process))
        assert port is not None
        base = f"127.0.0.1:{port[1]}"
        assert json.loads(await get(base, "/healthz")) == {"status": "ok"}
        for path in ("/", "/demo/trio-signal.js", "/openapi.json"):
            assert await get(base, path)
        await run(*health_check(), env=environment | {"PORT": port[1]})
        process.send_signal(signal.SIGTERM)
        with trio.fail_after(STARTING):
            assert await process.wait() == 0


def health_check() -> list[str]:
    """The command of the image's HEALTHCHECK."""
    found = re.search(r"^HEALTHCHECK [^[]*CMD (\[.*?\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert found is not None
    command: list[str] = json.loads(found[1])
    return command


def test_the_lock_file_has_all_dependencies() -> None:
    """If this fails: make lock."""
    versions = dict(re.findall(r"^([\w.-]+)==(\S+)", LOCK.read_text(), re.MULTILINE))
    project = loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"]
    for line in [*project["dependencies"], *project["optional-dependencies"]["postgres"]]:
        needed = Requirement(line)
        assert versions[needed.name] in needed.specifier


def test_all_licences_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    check_licences.main()
    assert len(capsys.readouterr().out.splitlines()) > 40


@pytest.mark.parametrize("licence", ["GPL-3.0-only", "MIT AND AGPL-3.0-only", "not said"])
def test_a_forbidden_licence_is_found(licence: str) -> None:
    assert not check_licences.is_free("some-package", licence)
