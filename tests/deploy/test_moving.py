"""The proxy of docs/moving: nginx in front of this server and an old backend, as documented."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from tests import old_servers
from tests.clients import PATIENCE, Service
from tests.conftest import Serve
from tests.old_servers import open_old_server
from trio_signal.dialects import DIALECTS

PAGES = Path(__file__).parents[2] / "docs" / "moving"
#: A WebSocket's path, a message, the answer that only this server gives, and the HTTP calls.
FAMILIES = {
    "room": ("/ws/r/ann", '{"type":"keep_alive"}', "ping", ["/rooms", "/rooms/r/messages"]),
    "announce": (
        *("/api/creator/broadcast/ws?user_id=ann", '{"type":"get_active_broadcast"}'),
        *("active_broadcast", ["/api/creator/broadcast/active"]),
    ),
    "live": ("/api/v1/ws/connect?user_id=ann", '{"type":"ping"}', "pong", ["/api/v1/ws/stats"]),
    "stream": ("/ws", "{}", "error", []),
    "mesh": (
        *("/ws/r", '{"type":"auth_token","token":"x"}', "auth_success"),
        ["/api/rooms", "/auth/turn-credentials"],
    ),
}


def example(page: str) -> str:
    (found,) = re.findall(r"```nginx\n(.*?)```", (PAGES / page).read_text(), re.DOTALL)
    assert isinstance(found, str)
    return found


@asynccontextmanager
async def run_nginx(directory: Path, family: str, new: str, old: str) -> AsyncIterator[str]:
    """Run the pages' example with other ports; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = example("README.md")
    for said, meant in (
        ("127.0.0.1:8000", new),
        ("127.0.0.1:3000", old),
        ("listen 8080", f"listen 127.0.0.1:{port}"),
    ):
        assert text.count(said) == 1
        text = text.replace(said, meant)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in kinds)
    user = "user root;\n" if os.geteuid() == 0 else ""
    (directory / "signal.conf").write_text(example(f"{family}.md"))
    (directory / "nginx.conf").write_text(
        f"{user}pid {directory}/pid;\nevents {{}}\nhttp {{\naccess_log off;\n{paths}{text}}}\n"
    )
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None
    command = [program, "-p", directory, "-c", directory / "nginx.conf", "-g", "daemon off;"]
    async with trio.open_nursery() as nursery:
        options = {"stderr": subprocess.PIPE, "check": False}
        process = await nursery.start(partial(trio.run_process, [*command], **options))
        with trio.fail_after(PATIENCE):
            while True:
                assert process.returncode is None
                try:
                    stream = await trio.open_tcp_stream("127.0.0.1", port)
                except OSError:
                    await trio.sleep(0.02)  # by polling
                else:
                    await stream.aclose()
                    break
        yield f"127.0.0.1:{port}"
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("family", FAMILIES)
async def test_one_address_serves_both_backends(family: str, serve: Serve, tmp_path: Path) -> None:
    path, said, answered, calls = FAMILIES[family]
    async with (
        open_old_server(old_servers.backend) as old,
        serve(trusted_proxies=1, stun_urls="stun:stun.example.com") as new,
        run_nginx(tmp_path, family, new.base, old.removeprefix("http://")) as base,
        httpx.AsyncClient(base_url=f"http://{base}", timeout=PATIENCE) as http,
    ):
        if family == "announce":
            posted = await http.post("/api/creator/broadcast", json={"message": "Hello"})
            assert posted.json()["status"] == "success"
        headers = [("Origin", f"http://{base}")]
        async with Service(base).connect(path, headers=headers) as client:
            await client.send_text(said)
            await client.wait_for(answered)
        for call in calls:
            answer = await http.get(call)
            assert answer.status_code in (200, 401), call
            assert "old" not in answer.json(), call
        assert "stun.example.com" in (await http.get("/ice-servers")).text
        for call in ("/", "/api/products", "/api/v1/lands/7", "/api/creator/profile", "/wsx"):
            assert (await http.get(call)).json() == {"old": call}


def test_each_dialect_of_an_old_server_has_a_page() -> None:
    assert FAMILIES.keys() <= DIALECTS.keys()
    assert {"README", *FAMILIES} <= {page.stem for page in PAGES.iterdir()}
    for family in FAMILIES:
        text = (PAGES / f"{family}.md").read_text()
        headings = re.findall(r"^## (.*)", text, re.MULTILINE)
        assert headings[:3] == ["Is it yours?", "What to set", "What stays on the old backend"]
