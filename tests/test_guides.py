"""The examples in docs/server/ as sites: they make tokens, and learn who is in which room."""

import importlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import trio

from tests.clients import PATIENCE, Service
from tests.conftest import serve_once
from tests.node import node_package
from tests.receivers import receive
from tests.redis.server import free_port
from tests.test_backend import TOKENS, mesh
from tests.test_openapi import KEY
from trio_signal.hooks import signed_headers

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "server" / "README.md").read_text()
PACKAGE = ROOT / "trio_signal" / "browser"

#: Posts a body with headers to a path of the site; returns the status and the text.
Post = Callable[[str, bytes, dict[str, str]], tuple[int, str]]


def example(framework: str, base: str) -> str:
    """The code below a heading, changed to use the test's server."""
    section = GUIDE.partition(f"\n## {framework}\n")[2].partition("\n## ")[0]
    code = section.partition("```")[2].partition("\n")[2].partition("```")[0]
    for quote in "\"'":
        code = code.replace(f"{quote}...{quote}", repr(KEY))
    return code.replace("127.0.0.1:8000", base)


def run_site(framework: str, base: str) -> ModuleType:
    """The example as a module."""
    site = ModuleType(f"site_{framework.lower()}")
    exec(example(framework, base), site.__dict__)
    sys.modules[site.__name__] = site
    return site


def flask_site(site: Any) -> Post:
    browser = site.app.test_client()

    def post(path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
        answer = browser.post(path, data=body, headers=headers)
        return answer.status_code, answer.text

    return post


def django_site(site: Any) -> Post:
    importlib.import_module("django.conf").settings.configure(
        ROOT_URLCONF=site.__name__, ALLOWED_HOSTS=["*"], SECRET_KEY=KEY, USE_TZ=True
    )
    importlib.import_module("django").setup()
    browser = importlib.import_module("django.test").Client()

    def post(path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
        answer = browser.post(path, body, content_type="application/json", headers=headers)
        return answer.status_code, answer.content.decode()

    return post


@pytest.mark.parametrize(
    ("framework", "open_site"), [("Flask", flask_site), ("Django", django_site)]
)
async def test_python_site_example(framework: str, open_site: Callable[[Any], Post]) -> None:
    async with (
        receive(KEY) as receiver,
        serve_once(**TOKENS, webhook_urls=receiver.url) as service,
    ):
        site = run_site(framework, service.base)
        post = open_site(site)
        status, text = await trio.to_thread.run_sync(post, "/call/lobby/token", b"", {})
        assert status == 200
        async with mesh(service, "ann-1", "lobby", json.loads(text)["token"]) as ann:
            await ann.wait_for("users_in_room")
            await receiver.until(lambda: len(receiver.events) == 2)
        for _ in range(2):  # each event may arrive twice
            for event in receiver.events[:2]:
                body = json.dumps(event).encode()
                headers = signed_headers(KEY, event["id"], int(time.time()), body)
                assert post("/hooks", body, headers)[0] == 204
        assert site.present["lobby"] == {"ann-1": "ann"}
        assert post("/hooks", b"{}", {"Content-Type": "application/json"})[0] == 401
        site.api.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder where Node finds the packages."""
    modules = tmp_path / "node_modules"
    modules.mkdir()
    (modules / "express").symlink_to(node_package("express"))
    (modules / "trio-signal").symlink_to(PACKAGE)
    return tmp_path


@asynccontextmanager
async def run_node(path: Path, *arguments: str) -> AsyncIterator[trio.Process]:
    """A Node program, which ends with the block."""
    async with trio.open_nursery() as nursery:
        program = ["node", str(path), *arguments]
        run = partial(trio.run_process, stdout=subprocess.PIPE, check=False, deliver_cancel=_kill)
        yield await nursery.start(run, program)
        nursery.cancel_scope.cancel()


async def _kill(process: trio.Process) -> None:
    process.kill()


async def test_node_site_example(folder: Path) -> None:
    port = free_port()
    site, program = f"http://127.0.0.1:{port}", folder / "site.mjs"
    async with (
        serve_once(**TOKENS, webhook_urls=f"{site}/hooks") as service,
        httpx.AsyncClient(timeout=PATIENCE) as http,
    ):
        code = example("Express", service.base)
        assert "app.listen(3000);" in code
        code = code.replace(
            "app.listen(3000);",
            "app.get('/present', (_, response) => response.json(present));"
            f"app.listen({port}, () => console.log('ready'));",
        )
        program.write_text(code)
        async with run_node(program) as process:
            assert process.stdout is not None
            with trio.fail_after(PATIENCE):
                assert await process.stdout.receive_some() == b"ready\n"
            token = (await http.post(f"{site}/call/lobby/token")).json()["token"]
            async with mesh(service, "ann-1", "lobby", token) as ann:
                await ann.wait_for("users_in_room")
                await wait_present(http, site, {"lobby": {"ann-1": "ann"}})
            await wait_present(http, site, {"lobby": {}})
            unsigned = await http.post(f"{site}/hooks", json={})
            assert unsigned.status_code == 401


async def wait_present(http: httpx.AsyncClient, site: str, expected: dict[str, Any]) -> None:
    with trio.fail_after(PATIENCE):
        while (await http.get(f"{site}/present")).json() != expected:  # noqa: ASYNC110
            await trio.sleep(0.02)


async def test_node_backend_module(folder: Path) -> None:
    # Node searches for packages from the program's folder.
    program = folder / "backend.mjs"
    program.write_text((ROOT / "tests" / "backend.mjs").read_text())
    async with serve_once(**TOKENS) as service:
        webhook = signed_webhook()
        token = await token_for(service)
        async with mesh(service, "ann", "a/b", token) as ann:
            await ann.wait_for("users_in_room")
            async with run_node(program, f"http://{service.base}", KEY, webhook) as process:
                assert process.stdout is not None
                await ann.wait_for("message", data={"from": "node"})
                await ann.wait_for("message", data="plain")
                await ann.expect_close(1008, "Bye")
                with trio.fail_after(PATIENCE):
                    assert await process.stdout.receive_some() == b"done\n"


async def token_for(service: Service) -> str:
    async with httpx.AsyncClient(timeout=PATIENCE) as http:
        answer = await http.post(
            f"http://{service.base}/api/v1/server/tokens",
            json={"sub": "ann"},
            headers={"Authorization": f"Bearer {KEY}"},
        )
    token: str = answer.json()["token"]
    return token


def signed_webhook() -> str:
    """A signed webhook as JSON, for Node to verify."""
    event = {"id": "msg_1", "event": "room.started", "room": "é", "seq": 1, "at": "", "replica": ""}
    body = json.dumps(event, ensure_ascii=False)
    headers = signed_headers(KEY, "msg_1", int(time.time()), body.encode())
    return json.dumps({"headers": headers, "body": body})
