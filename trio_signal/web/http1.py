"""HTTP/1 requests: which of them the app gets, and when.

This is the part of Hypercorn between a connection (`web/server.py`) and the app. It answers health
checks, and requests that are refused, without the app. What a request costs takes turns with other
clients' messages.
"""

import math
import random
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from http import HTTPStatus
from typing import Protocol
from urllib.parse import urlsplit

import h11
import trio
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import ASGIReceiveEvent, H11SendableEvent

from trio_signal.errors import RequestRefusedError
from trio_signal.rounds import Rounds
from trio_signal.web.answering import detail
from trio_signal.web.gate import Gate

_Headers = list[tuple[bytes, bytes]]

#: Statuses whose answer is JSON, because programs read it.
_OF_CALLS = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS})
#: Seconds to wait before the answer to a health check that is over the rate of its address.
_LULL = 0.1
#: Maximum seconds for which a client that asks too often is not read.
_MOST_WAIT = 2.0
#: Maximum pieces of a request's body that are skipped to find its end.
_MOST_SKIPPED = 32


class Owner(Protocol):
    """The connection of a request."""

    #: The client's network, while its request is being answered.
    address: str
    #: Whether the address stays within its rate.
    is_frugal: bool
    #: Small pieces of the request so far.
    crumbs: int
    gate: Gate | None
    rounds: Rounds

    def hand_back(self, received: bytes) -> None:
        """End without closing, at a request for a WebSocket."""

    def hold(self) -> None:
        """Read little more, and close after a while."""

    async def wait_for_turn(self, size: int) -> None:
        """Wait until so many bytes of a request may be processed."""


class PlainHTTP(H11Protocol):
    """HTTP/1; where Hypercorn would switch to WebSocket, the connection is handed back."""

    owner: Owner

    async def _check_protocol(self, event: h11.Request) -> None:
        """Do nothing: Hypercorn would switch to HTTP/2 here."""

    async def _create_stream(self, request: h11.Request) -> None:
        if _is_upgrade(request):
            self.owner.hand_back(_as_received(request) + self.connection.trailing_data[0])
            return
        self.owner.crumbs = 0
        refusal = _refusal(request)
        if refusal is not None:
            await self._refuse(request, *refusal)
        elif await self._admit(request):
            await super()._create_stream(request)
            if isinstance(self.stream, HTTPStream):
                # One read may hold ten thousand chunks, and the app takes each by itself.
                self.stream.app_put = partial(self._put_in_turn, self.stream.app_put)

    async def _put_in_turn(
        self, put: Callable[[ASGIReceiveEvent], Awaitable[None]], event: ASGIReceiveEvent
    ) -> None:
        if event["type"] == "http.request":
            await self.owner.wait_for_turn(len(event["body"]))
        await put(event)

    async def _admit(self, request: h11.Request) -> bool:
        """Whether to pass the request to the app; if not, it has been answered."""
        peer = self.client[0] if self.client else ""
        gate = self.owner.gate
        if gate is None:
            self.owner.address = peer
            return True
        try:
            self.owner.address = gate.admit(request, peer)
        except RequestRefusedError as refusal:
            headers = gate.sharing(request)
            if refusal.retry_after is None:
                await self._refuse(request, refusal.status, str(refusal), headers)
            else:
                await self._put_off(request, refusal, math.ceil(refusal.retry_after), headers)
            return False
        answer = gate.probe(request)
        if answer is None:
            return True
        self.owner.is_frugal = gate.is_frugal(self.owner.address)
        if not self.owner.is_frugal:
            # Before each answer, not before each read, which may hold many requests. Jitter:
            # requests that came together should not continue together.
            await trio.sleep(_LULL * random.uniform(0.5, 1.5))  # noqa: S311
            await self.owner.rounds.wait(overdrawn=True)
        self.connection.next_event()  # the end of the request, which has no body
        await self._answer(*answer, gate.sharing(request))
        await self.stream_send(StreamClosed(STREAM_ID))
        return False

    async def _put_off(
        self, request: h11.Request, refusal: RequestRefusedError, wait: int, headers: _Headers
    ) -> None:
        """Delay the client's next request by not reading it; a reconnect would cost more.

        Not used behind a proxy, where the next request may be another client's.
        """
        headers.append((b"retry-after", b"%d" % wait))
        if request.method == b"HEAD" or not self._is_whole():
            self.owner.hold()
            await self._refuse(request, refusal.status, str(refusal), headers)
            return
        await self._answer(refusal.status, detail(refusal), headers)
        if self.owner.gate is not None and self.owner.gate.holds:
            # Jitter: requests that came together should not continue together.
            with trio.move_on_after(min(wait, _MOST_WAIT) * random.uniform(1, 1.25)):  # noqa: S311
                await self.context.terminated.wait()
            await self.owner.rounds.wait(overdrawn=True)
        await self.stream_send(StreamClosed(STREAM_ID))

    def _is_whole(self) -> bool:
        """Whether the whole request has arrived, in few chunks; if so, it is skipped."""
        try:
            for _ in range(_MOST_SKIPPED):
                event = self.connection.next_event()
                if not isinstance(event, h11.Data):
                    return isinstance(event, h11.EndOfMessage)
        except h11.RemoteProtocolError:
            pass
        return False

    async def _answer(self, status: HTTPStatus, body: bytes, headers: _Headers) -> None:
        head = [*_plain(b"application/json", body), *headers]
        head += self.config.response_headers("h11")
        if not self.config.keep_alive_max_requests:  # the server stops
            head.append((b"connection", b"close"))
        response = h11.Response(status_code=status, headers=head)
        events = (response, h11.Data(data=body), h11.EndOfMessage())
        await self.send(RawData(b"".join(self.connection.send(event) or b"" for event in events)))

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        if isinstance(event, h11.Response) and self.connection.their_state is h11.SEND_BODY:
            # Hypercorn will close the connection, because the body is incomplete. A client that is
            # not told so may send its next request into the void.
            headers = [*event.headers, (b"connection", b"close")]
            event = h11.Response(status_code=event.status_code, headers=headers)
        await super()._send_h11_event(event)

    async def _refuse(
        self,
        request: h11.Request,
        status: HTTPStatus,
        reason: str,
        more: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        if status in _OF_CALLS:  # as the app says it
            kind, body = b"application/json", detail(reason)
        else:
            kind, body = b"text/plain; charset=utf-8", f"{reason}\n".encode()
        headers = [
            *_plain(kind, body),
            (b"connection", b"close"),
            *more,
            *self.config.response_headers("h11"),
        ]
        await self._send_h11_event(h11.Response(status_code=status, headers=headers))
        if request.method != b"HEAD":
            await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())
        await self.send(Closed())


def _plain(kind: bytes, body: bytes) -> _Headers:
    return [
        (b"content-type", kind),
        (b"content-length", b"%d" % len(body)),
        (b"x-content-type-options", b"nosniff"),
    ]


def _is_upgrade(request: h11.Request) -> bool:
    # Everything that Hypercorn could take for a WebSocket must stop here.
    return any(
        name == b"upgrade" and b"websocket" in value.lower() for name, value in request.headers
    )


def _as_received(request: h11.Request) -> bytes:
    first = b" ".join((request.method, request.target, b"HTTP/" + request.http_version))
    return b"\r\n".join((first, *map(b": ".join, request.headers.raw_items()))) + b"\r\n\r\n"


def _refusal(request: h11.Request) -> tuple[HTTPStatus, str] | None:
    if not request.http_version.startswith(b"1."):
        return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "This server supports HTTP/1 only."
    if not _path(request.target).startswith(b"/"):  # Quart would fail on it
        return HTTPStatus.BAD_REQUEST, "The request target must have a path."
    return None


def _path(target: bytes) -> bytes:
    try:
        return urlsplit(target).path
    except ValueError:
        return b""
