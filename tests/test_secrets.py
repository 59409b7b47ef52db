"""No log line contains tokens or other secrets: at level debug, in tracebacks, anywhere."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.clients import PATIENCE, Service
from tests.raw import client_close, open_raw, upgrade_head
from tests.tokens import SECRET, make_token

#: The command, except that reading a token fails unexpectedly.
BROKEN = """
from trio_signal import auth
def fail(token, key, **wanted):
    payload = {"token": token}
    raise RuntimeError("nobody thought of this")
auth.read_token = fail
from trio_signal.cli import app
app()
"""


class Log:
    """What a server has written so far."""

    def __init__(self) -> None:
        self.text = ""

    async def read(self, stream: trio.abc.ReceiveStream) -> None:
        async for chunk in stream:
            self.text += chunk.decode()


@asynccontextmanager
async def run_server(*command: str, **variables: str) -> AsyncIterator[tuple[Service, Log]]:
    """A server process with the most verbose log; the log is complete after the block."""
    log = Log()
    run = partial(
        trio.run_process,
        [sys.executable, *command, "serve", "--port", "0"],
        env=os.environ
        | {
            "LOG_LEVEL": "debug",
            "TRIO_SIGNAL_JWT_SECRET": SECRET,
            "TRIO_SIGNAL_AUTH_FAILURES_PER_IP": "1000",
        }
        | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with trio.fail_after(3 * PATIENCE):
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(run)
            assert process.stdout is not None
            assert process.stderr is not None
            nursery.start_soon(log.read, process.stderr)
            ready = ""
            while not ready.endswith("\n"):
                ready += (await process.stdout.receive_some()).decode()
            yield Service(ready.split("http://")[1].strip()), log
            process.terminate()


async def present(service: Service, token: str) -> None:
    """Send a token in every possible way, right and wrong."""
    bearer = {"Authorization": f"Bearer {token}"}
    subprotocol = {"Sec_WebSocket_Protocol": f"bearer, {token}"}
    for path in (f"/ws/r/ann?token={token}", "/ws/r/ann", f"/ws?token={token}", "/ws/r"):
        for headers in ({}, bearer, {"Cookie": f"session={token}"}, subprotocol):
            async with open_raw(service.base) as client:
                await client.upgrade(path, **headers)
                await client.say(
                    {"type": "auth_token", "token": token},
                    {"type": "auth_token", "token": [token]},
                    {"type": "message", "content": token},
                    token,
                )
                await client.send(client_close(1000))
                await client.read_to_end()
    base = f"http://{service.base}"
    async with httpx.AsyncClient(base_url=base) as http:
        for headers in (bearer, {"Cookie": f"session_id={token}"}, {}):
            for path in ("/auth/me", "/rooms", "/metrics", "/nowhere", f"/{token}"):
                await http.get(path, params={"token": token}, headers=headers)
            body: dict[str, Any] = {"user_id": token, "username": token, "password": token}
            await http.post("/rooms/r/join", json=body, headers=headers)
            await http.post("/auth/login", json=body, headers=headers)
    head = upgrade_head(f"/ws/r/ann?token={token}", Sec_WebSocket_Protocol=f"bearer, {token}, [")
    for broken in (
        head,
        head.replace(b"HTTP/1.1", b"HTTP/9.9"),
        head.replace(b"Upgrade: websocket", b"Upgrade: x\x00").replace(b"Host", b"Ho st"),
        f"GET http://[{token} HTTP/1.1\r\n\r\n".encode(),
    ):
        async with open_raw(service.base) as client:
            await client.send(broken)
            await client.receive_head()


@pytest.mark.parametrize("form", ["console", "json"])
async def test_no_token_is_in_the_log(form: str, tmp_path: Path) -> None:
    tokens = [make_token("ann"), make_token("ann", exp=1), "nonsense-that-is-secret"]
    settings = {"LOG_FORMAT": form, "TRIO_SIGNAL_USERS_FILE": str(tmp_path / "users.json")}
    async with run_server("-m", "trio_signal", **settings) as (service, log):
        for token in tokens:
            await present(service, token)
    assert "SIGTERM: stopping" in log.text
    assert [part for token in [*tokens, SECRET] for part in parts(token) if part in log.text] == []


@pytest.mark.parametrize("form", ["console", "json"])
async def test_no_token_is_in_a_traceback(form: str) -> None:
    token = make_token("ann")
    async with run_server("-c", BROKEN, LOG_FORMAT=form) as (service, log):
        await present(service, token)
    assert log.text.count("nobody thought of this") > 9
    assert [part for part in [*parts(token), SECRET] if part in log.text] == []


def parts(token: str) -> list[str]:
    """The secret parts of a token; its head is the same in every token."""
    return token.split(".")[1:] or [token]
