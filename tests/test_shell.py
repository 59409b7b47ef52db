"""The shell blocks of README and docs/: each is run here, or marked as a sketch on its page.

A sketch needs something that a test does not have: `<!-- sketch: why -->` stands on the line
above it. The commands of docs/commands.md are read by `tests/test_docs.py`.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from deploy.cluster import free_ports
from tests.conftest import serve_once

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^(<!-- sketch: .+ -->\n)?```(?:sh|bash|shell)\n(.*?)^```", re.MULTILINE | re.DOTALL
)
#: How a server reports that it is ready: ours, and Python's for files.
READY = re.compile(rb"listening on (https?)://|Serving (HTTP) on")
STARTS = re.compile(r"\bmake serve|\btrio-signal serve|\bhttp\.server")
#: Time limit for a block, in seconds.
PATIENCE = 60.0


def blocks() -> list[Any]:
    """The blocks that are not sketches."""
    return [
        pytest.param(code, id=f"{page.relative_to(ROOT)}:{number}")
        for page in PAGES
        if page.name != "commands.md"
        for number, (sketch, code) in enumerate(BLOCK.findall(page.read_text()))
        if not sketch
    ]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that these commands take for a checkout; they may write next to it."""
    folder = tmp_path / "trio-signal"
    folder.mkdir()
    (tmp_path / "your-project").mkdir()
    for name in ("Makefile", "pyproject.toml", "trio_signal"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    (folder / ".venv" / ".installed").touch()  # so that `make` does not install it again
    return folder


@asynccontextmanager
async def running(code: str, folder: Path, port: int) -> AsyncIterator[trio.Process]:
    """A shell that runs the code, with a password on stdin; everything it started ends with it."""
    # `make test` passes its own options to every `make` below it.
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS", "ARGS"))
    }
    environment = inherited | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PORT": str(port),
        "DATABASE_URL": f"sqlite:///{folder}/announcements.db",
        "npm_config_offline": "true",
    }
    shell = partial(
        trio.run_process,
        ["bash", "-euo", "pipefail", "-c", code],
        stdin=b"correct horse battery\n",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        deliver_cancel=kill,
        cwd=folder,
        env=environment,
        process_group=0,
    )
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(shell)
        yield process
        nursery.cancel_scope.cancel()
    kill_group(process)


async def kill(process: trio.Process) -> None:
    kill_group(process)


def kill_group(process: trio.Process) -> None:
    """Kill it and everything it started, even if it has already ended."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def said(process: trio.Process) -> tuple[bytes, str | None]:
    """Its output until it is ready or ends, and the protocol if it is ready."""
    assert process.stdout is not None
    text = b""
    while not (found := READY.search(text)):
        chunk = await process.stdout.receive_some()
        if not chunk:
            return text, None
        text += chunk
    return text, (found[1] or found[2]).decode().lower()


@pytest.mark.parametrize("code", blocks())
async def test_shell_block_works(code: str, checkout: Path) -> None:
    if not STARTS.search(code) and "127.0.0.1:8000" in code:
        async with serve_once() as service:  # the reader's own server, from another block
            await run(code, checkout, int(service.base.rpartition(":")[2]))
    else:
        await run(code, checkout, *free_ports(1))


async def run(code: str, folder: Path, port: int) -> None:
    """Run a block. If it ends with a server in the foreground, request a page from it."""
    code = re.sub(r"127\.0\.0\.1:8000\b", f"127.0.0.1:{port}", code)
    code = re.sub(r"(http\.server) 8080\b", rf"\1 {port}", code)
    with trio.fail_after(PATIENCE):
        async with running(code, folder, port) as process:
            text, speaks = await said(process)
            if speaks is None or " &\n" in code:
                assert await process.wait() == 0, text.decode()
            elif speaks == "http":
                async with httpx.AsyncClient(timeout=PATIENCE) as http:
                    answer = await http.get(f"http://127.0.0.1:{port}/")
                assert answer.status_code == 200


def test_sketches_are_few() -> None:
    found = [sketch for page in PAGES for sketch, _ in BLOCK.findall(page.read_text())]
    assert 0 < sum(map(bool, found)) < 12
