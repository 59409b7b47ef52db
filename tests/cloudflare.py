"""A stand-in for Cloudflare's API on loopback, which checks each request against the published one.

https://developers.cloudflare.com/realtime/static/realtime-api-2024-05-21.yaml
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, NamedTuple

import h11
import msgspec
import trio

SECRET = "the secret of an app"
KEY = "a0b1c2d3"
ISSUED = {
    "iceServers": [
        {"urls": ["stun:stun.cloudflare.com:3478", "stun:stun.cloudflare.com:53"]},
        {
            "urls": [
                "turn:turn.cloudflare.com:3478?transport=udp",
                "turn:turn.cloudflare.com:53?transport=udp",
                "turns:turn.cloudflare.com:443?transport=tcp",
            ],
            "username": "bc91",
            "credential": "ebd7",
        },
    ]
}


class Asked(NamedTuple):
    """A request."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


Reply = tuple[int, Any]


class Api:
    """Serves; `answer` makes each answer. Requests that break the published rules are recorded."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.wrong: list[str] = []
        self.answer: Callable[[Asked], Awaitable[Reply]] = self._answer_nothing
        #: Called in place of an answer; it may wait for ever.
        self.fault: Callable[[Asked], Awaitable[Reply | bytes | None]] = self._no_fault
        self.came = trio.Event()

    async def _answer_nothing(self, asked: Asked) -> Reply:
        await trio.lowlevel.checkpoint()
        return 404, {"errorCode": "not_found", "errorDescription": asked.path}

    async def _no_fault(self, asked: Asked) -> Reply | bytes | None:
        await trio.lowlevel.checkpoint()
        return None

    def paths(self) -> list[str]:
        return [f"{asked.method} {asked.path}" for asked in self.asked]

    async def until(self, is_enough: Callable[[], bool]) -> None:
        while not is_enough():
            await self.came.wait()

    async def serve(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        async with stream:
            try:
                while await self._serve_one(connection, stream):
                    connection.start_next_cycle()
            except (trio.BrokenResourceError, h11.RemoteProtocolError):
                return

    async def _serve_one(self, connection: h11.Connection, stream: trio.SocketStream) -> bool:
        body, head = b"", None
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some())
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        assert head is not None
        headers = {name.decode(): value.decode() for name, value in head.headers}
        asked = Asked(head.method.decode(), head.target.decode(), headers, None)
        if body:
            asked = asked._replace(body=msgspec.json.decode(body))
        self.asked.append(asked)
        fault = await self.fault(asked)
        if isinstance(fault, bytes):
            status, text = 200, fault
        else:
            status, value = fault or await self._check(asked)
            text = msgspec.json.encode(value) if value is not None else b""
        self.came.set()
        self.came = trio.Event()
        reply = h11.Response(
            status_code=status,
            headers=[("Content-Length", str(len(text))), ("Content-Type", "application/json")],
        )
        for part in (reply, h11.Data(text), h11.EndOfMessage()):
            await stream.send_all(connection.send(part) or b"")
        return connection.our_state is h11.DONE

    async def _check(self, asked: Asked) -> Reply:
        if asked.headers.get("authorization") != f"Bearer {SECRET}":
            return 401, {"errorCode": "unauthorized", "errorDescription": "Bad secret"}
        if asked.body is not None and asked.headers.get("content-type") != "application/json":
            self.wrong.append(f"{asked.path}: a body that is not said to be JSON")
        return await self.answer(asked)

    async def issue(self, asked: Asked) -> Reply:
        """TURN credentials, as https://developers.cloudflare.com/realtime/turn/ describes."""
        await trio.lowlevel.checkpoint()
        if not re.fullmatch(f"/v1/turn/keys/{KEY}/credentials/generate-ice-servers", asked.path):
            return 404, {"errorCode": "not_found", "errorDescription": "no such key"}
        ttl = asked.body.get("ttl") if isinstance(asked.body, dict) else None
        if asked.method != "POST" or not isinstance(ttl, int) or not 0 < ttl <= 172_800:
            self.wrong.append(f"{asked.method} {asked.path} {asked.body}")
            return 400, {"errorCode": "invalid_params", "errorDescription": "ttl"}
        return 201, ISSUED


@asynccontextmanager
async def open_api() -> AsyncIterator[Api]:
    """Serve while the block runs; at its end, every request must have been valid."""
    api = Api()
    async with trio.open_nursery() as nursery:
        (listener, *_) = await nursery.start(
            partial(trio.serve_tcp, api.serve, 0, host="127.0.0.1")
        )
        api.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/v1"
        yield api
        nursery.cancel_scope.cancel()
    assert api.wrong == []
