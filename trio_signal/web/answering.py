"""Makes Quart-Trio's answers safe on our connections; `web/server.py` lists the defects fixed."""

import math
from contextlib import AbstractContextManager, ExitStack
from typing import Protocol

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from msgspec.json import encode
from quart.asgi import ASGIHTTPConnection
from quart.typing import ResponseTypes
from quart.wrappers import Request, Response
from quart_trio.asgi import TrioASGIHTTPConnection

from trio_signal.errors import RequestRefusedError
from trio_signal.rounds import Rounds

#: Key of the connection in a request's scope.
CONNECTION = "trio_signal.connection"


class Asking(Protocol):
    """The connection of a request."""

    is_frugal: bool

    @property
    def rounds(self) -> Rounds:
        """Shares the event loop between connections."""

    def sending(self, size: int) -> AbstractContextManager[None]:
        """Count an answer of `size` bytes while it is sent; raises RequestRefusedError."""


class Answering(TrioASGIHTTPConnection):
    """One request, from the call of the app until the answer is sent."""

    async def handle_messages(  # type: ignore[override]  # as Quart-Trio's overrides Quart's
        self, nursery: trio.Nursery, request: Request, receive: ASGIReceiveCallable
    ) -> None:
        # Hypercorn says "disconnect" at the end of each answer, just before it closes or recycles
        # the connection. Quart-Trio would then cancel the task that is about to do so.
        await ASGIHTTPConnection.handle_messages(self, request, receive)

    async def handle_request(  # type: ignore[override]  # as Quart-Trio's overrides Quart's
        self, nursery: trio.Nursery, request: Request, send: ASGISendCallable
    ) -> None:
        connection: Asking = self.scope["state"][CONNECTION]
        await connection.rounds.wait(overdrawn=not connection.is_frugal)
        await super().handle_request(nursery, request, send)

    async def _send_response(self, send: ASGISendCallable, response: ResponseTypes) -> None:
        connection: Asking = self.scope["state"][CONNECTION]
        size = response.content_length
        with ExitStack() as sent:
            if size:  # else it is a stream, which is made as it is sent
                try:
                    # Immediately after the answer was made, without a checkpoint, so that every
                    # answer is counted.
                    sent.enter_context(connection.sending(size))
                except RequestRefusedError as refusal:
                    response = _excuse(response, refusal)
            await super()._send_response(send, response)


def _excuse(response: ResponseTypes, refusal: RequestRefusedError) -> Response:
    """The answer that replaces a refused one, with its CORS headers so that pages can read it."""
    excuse = Response(
        encode({"detail": str(refusal)}), refusal.status, content_type="application/json"
    )
    excuse.headers["Retry-After"] = f"{math.ceil(refusal.retry_after or 0)}"
    for name, value in response.headers:
        if name.lower().startswith(("access-control-", "vary", "x-content-type")):
            excuse.headers[name] = value
    return excuse


def detail(reason: object) -> bytes:
    """An error text as JSON."""
    return encode({"detail": str(reason)})
