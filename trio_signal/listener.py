"""One port: each accepted connection becomes WebSocket or HTTP by its first head.

The head is peeked at, not read: nothing is consumed, so HTTP gets its stream
untouched and nothing need be replayed.
"""

import logging
import math
import re
import select
import socket
from http import HTTPStatus
from urllib.parse import parse_qsl, urlsplit

import trio
from websockets.datastructures import Headers
from websockets.http11 import Request

from trio_signal.auth import Auth, find_token
from trio_signal.config import Settings
from trio_signal.connection import Connection
from trio_signal.dialects import Dialect, dialect_at
from trio_signal.errors import IdTooLongError, Reason, RequestRefusedError
from trio_signal.hub import Hub
from trio_signal.limits import Limits, client_address
from trio_signal.logs import find_request_id
from trio_signal.metrics import Metrics
from trio_signal.web.server import HttpServer
from trio_signal.websocket import Handshake, is_upgrade

logger = logging.getLogger(__name__)

#: Seconds for a connection's first request head, and its bytes at most.
HEAD_TIMEOUT = 10.0
MAX_HEAD = 16384
#: Seconds after which to look again at a socket that is readable without saying more.
_PAUSE = 0.5
#: Seconds for a refused client to take its answer.
_REFUSAL_TIMEOUT = 2.0
#: How many of them may take that time; of more, some lose the answer.
_MAX_REFUSALS = 500
#: How many heads are read in one round of the loop; peers wait for no more than these.
_HEADS_AT_ONCE = 8
_FORWARDED = re.compile(rb"^X-Forwarded-For:(.*)$", re.IGNORECASE | re.MULTILINE)


class Listener:
    """Serves accepted streams; `trio.serve_tcp` runs `serve` for each."""

    def __init__(
        self,
        hub: Hub,
        http: HttpServer,
        auth: Auth,
        settings: Settings,
        *,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        """Take what the connections need."""
        self._hub = hub
        self._http = http
        self._auth = auth
        self._settings = settings
        self._limits = limits
        self._metrics = metrics
        #: Connections that have not sent a whole head yet.
        self._waiting: set[trio.CancelScope] = set()
        #: Refused clients that have not taken their answer yet.
        self._refusals = 0
        self._turns = trio.Semaphore(_HEADS_AT_ONCE)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection until it is over, and close it; raises nothing of its own."""
        try:
            async with stream:
                await self._serve(stream)
        except trio.BrokenResourceError:
            return  # it was gone before it was anybody
        except Exception:
            logger.exception("connection failed")

    def drain(self) -> None:
        """Give up on connections that have asked for nothing yet. Does not block."""
        for scope in self._waiting:
            scope.cancel()

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            peer, *_ = stream.socket.getpeername()
        except OSError:
            return  # it was gone before it was looked at
        try:
            with self._limits.visit(peer):
                received = await self._converse(stream)
            if received is not None:
                await self._upgrade(stream, received, peer)
        except RequestRefusedError as refusal:
            self._metrics.count_refused(refusal.reason)
            await self._refuse(stream, _answer(refusal))

    async def _converse(self, stream: trio.SocketStream) -> bytes | None:
        """Speak HTTP up to a request for a WebSocket; what was read of that, if one came."""
        with trio.move_on_after(HEAD_TIMEOUT) as scope:
            self._waiting.add(scope)
            try:
                head = await peek_head(stream, self._turns)
            finally:
                self._waiting.discard(scope)
        if scope.cancelled_caught:
            raise _refusal(HTTPStatus.REQUEST_TIMEOUT, Reason.HEAD_TIMEOUT)
        if head is None:
            return None
        if len(head) > MAX_HEAD:
            raise _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, Reason.HEAD_TOO_BIG)
        if is_upgrade(head):
            return bytes(await stream.receive_some(len(head)))
        return await self._http.serve_connection(stream)

    async def _upgrade(self, stream: trio.SocketStream, received: bytes, peer: str) -> None:
        """Open a WebSocket; `received` may go on after the request's head."""
        head, blank_line, early = received.partition(b"\r\n\r\n")
        forwarded = [value.decode("latin-1") for value in _FORWARDED.findall(head)]
        address = client_address(peer, forwarded, self._settings.trusted_proxies)
        # First of all: in a flood, to refuse has to be cheap.
        with self._limits.admit(address, trio.current_time()) as place:
            handshake = Handshake(head + blank_line)
            request = handshake.request
            if request is None:
                text = "The request cannot be read."
                raise _refusal(HTTPStatus.BAD_REQUEST, Reason.BAD_REQUEST, text)
            dialect = self._dialect(request)
            self._check_origin(request)
            accepted, answer = handshake.accept()
            if not accepted:
                self._metrics.count_refused(Reason.BAD_REQUEST)
                await self._refuse(stream, answer)
                return
            with trio.move_on_after(HEAD_TIMEOUT) as scope:
                await stream.send_all(answer)
            if scope.cancelled_caught:
                return
            # From here on without Trio's layers: a delivery is one call of send.
            with socket.socket(fileno=stream.socket.detach()) as sock:
                sock.setblocking(False)
                connection = Connection(
                    sock,
                    dialect,
                    hub=self._hub,
                    auth=self._auth,
                    settings=self._settings,
                    place=place,
                    metrics=self._metrics,
                    token=_token(request, self._settings),
                    request_id=find_request_id(request.headers.get_all),
                )
                await connection.run(early)

    def _dialect(self, request: Request) -> Dialect:
        """The dialect that is asked for; raises RequestRefusedError."""
        try:
            dialect = dialect_at(request.path, self._settings.dialects)
        except IdTooLongError as error:
            raise _refusal(HTTPStatus.BAD_REQUEST, Reason.ID_TOO_LONG, str(error)) from None
        if dialect is None:
            text = "Nothing is spoken at this path."
            raise _refusal(HTTPStatus.NOT_FOUND, Reason.UNKNOWN_PATH, text)
        return dialect

    def _check_origin(self, request: Request) -> None:
        """Raise RequestRefusedError for pages that may not connect."""
        headers = request.headers
        if len(headers.get_all("Origin")) > 1 or not self._settings.allows_origin(
            _only(headers, "Origin"), _only(headers, "Host")
        ):
            text = "Pages of this origin may not connect."
            raise _refusal(HTTPStatus.FORBIDDEN, Reason.ORIGIN, text)

    async def _refuse(self, stream: trio.SocketStream, answer: bytes) -> None:
        """Send an answer and end the connection, so that the answer arrives.

        In a flood of those, it ends at once: they may not cost more than those who are let in.
        """
        self._refusals += 1
        try:
            with trio.move_on_after(_REFUSAL_TIMEOUT):
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
                await stream.send_all(answer)
                await stream.send_eof()
                if self._refusals <= _MAX_REFUSALS:
                    async for _ in stream:  # a reset for unread bytes would overtake the answer
                        pass
        except (OSError, trio.BrokenResourceError):
            return
        finally:
            self._refusals -= 1


async def peek_head(stream: trio.SocketStream, turns: trio.Semaphore) -> bytes | None:
    """The first request head, which stays unread; None if the client left first.

    More than `MAX_HEAD` bytes come back if the head does not end by then. Those that come at the
    same moment take turns.
    """
    sock = stream.socket
    head = b""
    try:
        while True:
            await trio.lowlevel.wait_readable(sock)
            async with turns:
                peeked = await sock.recv(MAX_HEAD + 1, socket.MSG_PEEK)
            end = peeked.find(b"\r\n\r\n")
            if 0 <= end <= MAX_HEAD - 4:
                # Not before the next read is complete would anything wake us again.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
                return peeked[: end + 4]
            if len(peeked) > MAX_HEAD:
                return peeked
            if len(peeked) == len(head):
                if not peeked or _has_ended(sock.fileno()):
                    return None
                # Woken for nothing, and so it would go on: a peek stops before urgent data.
                await trio.sleep(_PAUSE)
            head = peeked
            # Sleep until there is more, or the end: what is there would wake us at once.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(head) + 1)
    except OSError:
        return None


def _has_ended(fileno: int) -> bool:
    """Whether the client will send no more; behind unread bytes, recv does not tell."""
    poll = select.poll()
    poll.register(fileno, getattr(select, "POLLRDHUP", 0))
    return bool(poll.poll(0))


def _token(request: Request, settings: Settings) -> str | None:
    query = dict(parse_qsl(urlsplit(request.path).query))
    found = find_token(request.headers.get_all, query)
    if found is None:
        return None
    origin, host = _only(request.headers, "Origin"), _only(request.headers, "Host")
    if found.from_cookie and origin is not None and not settings.trusts_origin(origin, host):
        return None
    return found.text


def _only(headers: Headers, name: str) -> str | None:
    """The value of a header that came once."""
    values = headers.get_all(name)
    return values[0] if len(values) == 1 else None


def _refusal(status: HTTPStatus, reason: Reason, text: str | None = None) -> RequestRefusedError:
    return RequestRefusedError(status, reason, text or f"{status.phrase}.")


def _answer(refusal: RequestRefusedError) -> bytes:
    """The whole response; the texts are ours, and ASCII."""
    status, body = refusal.status, f"{refusal}\n"
    wait = refusal.retry_after
    retry_after = f"Retry-After: {math.ceil(wait)}\r\n" if wait is not None else ""
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"{retry_after}"
        "Connection: close\r\n\r\n"
        f"{body}"
    ).encode("ascii")
