"""A `stream` broadcast over real sockets, with a media server in memory."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import trio

from tests.clients import PATIENCE, Client, Service
from tests.conftest import serve_once, serve_replicas
from trio_signal.relay.memory import MemoryServer, server_named

STREAM = "show"
#: A service, and its media server.
Served = tuple[Service, MemoryServer]


def sdp(session: str, direction: str = "sendrecv") -> str:
    """The SDP of one peer connection of a client."""
    return (
        f"v=0\r\no=- {session} 2 IN IP4 127.0.0.1\r\ns=-\r\na=ice-ufrag:u{session}\r\n"
        f"m=video 9 UDP/TLS/RTP/SAVPF 96\r\na={direction}\r\n"
    )


def described(type_: str, session: str, direction: str = "sendrecv") -> dict[str, str]:
    return {"type": type_, "sdp": sdp(session, direction)}


@asynccontextmanager
async def serve_relayed(
    redis_url: str | None = None, *, servers: int = 1, relay_from: int = 1, **given: Any
) -> AsyncIterator[tuple[Service, list[MemoryServer]]]:
    """One replica, or three; each with the media servers."""
    names = [uuid4().hex for _ in range(servers)]
    given["relay_urls"] = ",".join(f"memory:{name}" for name in names)
    given["relay_from"] = str(relay_from)
    opened = serve_once(**given) if redis_url is None else serve_replicas(3, redis_url, **given)
    async with opened as service:
        yield service, [server_named(name) for name in names]


class Cast:
    """A broadcaster and its viewers; all of them send only what the test sends."""

    def __init__(self, service: Service, caster: Client, stack: AsyncExitStack) -> None:
        self.service = service
        self.caster = caster
        self._stack = stack
        #: The media server's id, as the broadcaster knows it.
        self.relay = ""

    async def viewer(self) -> Client:
        """Add a viewer that nobody but the server knows yet."""
        viewer = await self._stack.enter_async_context(self.service.connect("/ws"))
        await viewer.send("join-stream", streamId=STREAM)
        await viewer.wait_for("viewer-count")
        return viewer

    async def asked(self) -> str:
        """The id of the next viewer that the broadcaster is told about."""
        message = await self.caster.wait_for("viewer-joined")
        viewer_id = message["viewerId"]
        assert isinstance(viewer_id, str)
        return viewer_id

    async def publish(self, relay: str, session: str = "7") -> str:
        """Send an offer to the media server, as the broadcaster's page does; its answer."""
        self.relay = relay
        await self.caster.send(
            "webrtc-offer", streamId=STREAM, viewerId=relay, offer=described("offer", session)
        )
        answer = await self.caster.wait_for("webrtc-answer", viewerId=relay)
        text = answer["answer"]["sdp"]
        assert isinstance(text, str)
        return text

    async def relayed_viewer(self) -> tuple[Client, str]:
        """Add a direct and a relayed viewer, and publish; the relayed viewer and the relay's id."""
        await self.viewer()
        await self.asked()
        late = await self.viewer()
        relay = await self.asked()
        await self.publish(relay)
        return late, relay


@asynccontextmanager
async def cast(service: Service) -> AsyncIterator[Cast]:
    async with AsyncExitStack() as stack:
        caster = await stack.enter_async_context(service.connect("/ws"))
        await caster.send("broadcaster-ready", streamId=STREAM)
        await caster.wait_for("viewer-count")
        yield Cast(service, caster, stack)


async def offered(viewer: Client) -> str:
    """The offer that a relayed viewer receives."""
    message = await viewer.wait_for("webrtc-offer", streamId=STREAM)
    text = message["offer"]["sdp"]
    assert message["offer"]["type"] == "offer"
    assert message["viewerId"].startswith("client_")
    assert isinstance(text, str)
    return text


async def answer(viewer: Client, session: str = "9") -> None:
    await viewer.send("webrtc-answer", streamId=STREAM, answer=described("answer", session))


async def until(holds: Callable[[], object]) -> None:
    """Wait until something is true of a media server."""
    with trio.fail_after(PATIENCE):
        while not holds():  # noqa: ASYNC110  it is of another world
            await trio.sleep(0.01)


def candidate(session: str) -> dict[str, Any]:
    return {"candidate": f"candidate:{session}", "usernameFragment": f"u{session}"}


def types(messages: list[dict[str, Any]]) -> list[str]:
    return [json.dumps(message) for message in messages]


async def wait_ready(service: Service) -> None:
    """Wait until the server can use its media server: earlier viewers would be direct."""
    async with httpx.AsyncClient(timeout=PATIENCE) as http:
        with trio.fail_after(PATIENCE):
            while "degraded" in (await http.get(f"http://{service.base}/readyz")).text:  # noqa: ASYNC110
                await trio.sleep(0.05)
