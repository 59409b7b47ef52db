"""Listener: serves WebSockets and HTTP on one port.

The first request head of a connection decides which of the two it is. The head is only peeked at,
so the HTTP server can read the stream from its start.
"""

import errno
import logging
import math
import re
import select
import socket
import ssl
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus
from typing import NoReturn
from urllib.parse import parse_qsl, urlsplit

import trio

from trio_signal.alarm import Alarm
from trio_signal.auth import Auth, find_token
from trio_signal.config import Settings
from trio_signal.connection import Connection, shut_down
from trio_signal.cookies import set_user
from trio_signal.dialects import Dialect, dialect_at
from trio_signal.errors import (
    AuthenticationError,
    IdTooLongError,
    Reason,
    RequestRefusedError,
)
from trio_signal.limits import Limits, client_address
from trio_signal.logs import find_request_id
from trio_signal.messages.commands import Authenticate
from trio_signal.outbox import Outbox
from trio_signal.service import Service
from trio_signal.tls import serve_tls
from trio_signal.web.gate import HOST_TEXT
from trio_signal.web.server import HttpServer
from trio_signal.websocket import Handshake, Head, is_upgrade

logger = logging.getLogger(__name__)

#: Maximum seconds for a connection's first request head, and its maximum size in bytes.
HEAD_TIMEOUT = 10.0
MAX_HEAD = 16384
#: Seconds before another look at a socket that is readable but has no new bytes.
_PAUSE = 0.5
#: Seconds in which a refused client must read its answer.
_REFUSAL_TIMEOUT = 2.0
#: Maximum refused clients that may take that long; beyond it, some lose their answer.
_MAX_REFUSALS = 500
#: Maximum heads that are read in one round of the event loop, so that peers do not wait long.
_HEADS_AT_ONCE = 8
#: Errors of `accept` that concern only the new connection (see accept(2)), or the firewall.
_NOT_OURS = {
    *(errno.ECONNABORTED, errno.ENETDOWN, errno.EPROTO, errno.ENOPROTOOPT, errno.EHOSTDOWN),
    *(errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH, errno.EPERM),
}
#: Errors of a machine without resources for another connection, and seconds to wait then.
_PASSING = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_RECOVERY = 0.1
#: Minimum seconds between two log entries about that.
_LOG_INTERVAL = 60.0
_FORWARDED = re.compile(rb"^X-Forwarded-For:(.*)$", re.IGNORECASE | re.MULTILINE)


class Listener:
    """Serves each connection in a task of its own."""

    def __init__(
        self,
        service: Service,
        http: HttpServer,
        auth: Auth,
        limits: Limits,
    ) -> None:
        """Take the parts that connections use."""
        self._service = service
        self._http = http
        self._auth = auth
        self._limits = limits
        self._settings = service.settings
        self._metrics = service.metrics
        #: Connections that have not sent a whole head yet.
        self._waiting: set[trio.CancelScope] = set()
        #: Refused clients that have not read their answer yet.
        self._refusals = 0
        self._shortages = _Shortages()
        self._turns = trio.Semaphore(_HEADS_AT_ONCE)

    async def accept(
        self,
        listening: socket.socket,
        connections: trio.Nursery,
        tls: ssl.SSLContext | None = None,
    ) -> NoReturn:
        """Serve all connections, in tasks of `connections`, until cancelled. Closes `listening`.

        With `tls`, clients must use TLS. This does not use `trio.serve_listeners`, because its
        streams cost more than the handshake, and a WebSocket does not need them.
        """
        with listening:
            listening.setblocking(False)
            serve = self.serve if tls is None else partial(self._serve_tls, tls=tls)
            while True:
                await trio.lowlevel.wait_readable(listening)
                try:
                    for _ in range(_HEADS_AT_ONCE):
                        sock, address = listening.accept()
                        connections.start_soon(serve, sock, address[0], name="connection")
                except BlockingIOError:
                    continue
                except OSError as error:
                    await self._shortages.let_pass(error)

    async def serve(self, sock: socket.socket, peer: str) -> None:
        """Serve one connection until it ends, and close it. Errors are logged, not raised.

        `peer` is its address.
        """
        try:
            with sock:
                sock.setblocking(False)
                connection = await self._open(sock, peer)
                if connection is not None:
                    await self._service.run(connection.session, connection)
        except Exception:
            logger.exception("connection failed")

    async def _serve_tls(self, sock: socket.socket, peer: str, tls: ssl.SSLContext) -> None:
        with sock:
            sock.setblocking(False)
            try:
                with ExitStack() as until_served:
                    # After the handshake, `serve` counts the connection.
                    until_served.enter_context(self._limits.visit(peer))

                    async def serve(plain: socket.socket) -> None:
                        until_served.close()
                        await self.serve(plain, peer)

                    await serve_tls(sock, tls, serve)
            except RequestRefusedError as refusal:
                self._metrics.count_refused(refusal.reason)  # no answer can be read
            except Exception:
                logger.exception("connection failed")

    def drain(self) -> None:
        """End the connections that have not sent a request yet. Does not block."""
        for scope in self._waiting:
            scope.cancel()

    async def _open(self, sock: socket.socket, peer: str) -> Connection | None:
        """Serve HTTP until a WebSocket is opened; return the WebSocket, if there is one.

        It returns before the WebSocket is served, so that nothing of the handshake stays in memory.
        """
        try:
            with self._limits.visit(peer):
                received = await self._converse(sock, peer)
            opened = None if received is None else await self._upgrade(sock, received, peer)
        except RequestRefusedError as refusal:
            self._metrics.count_refused(refusal.reason)
            opened = _answer(refusal)
        if isinstance(opened, bytes):
            await self._refuse(sock, opened)
            return None
        return opened

    async def _converse(self, sock: socket.socket, peer: str) -> bytes | None:
        """Speak HTTP until a WebSocket is requested; return what was read of that request."""
        try:
            head = _whole(_peek(sock)) or await self._wait_for_head(sock)
            if head is None:
                return None
            if len(head) > MAX_HEAD:
                raise _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, Reason.HEAD_TOO_BIG)
            if is_upgrade(head):
                return sock.recv(len(head))
        except OSError:
            return None  # the client has already gone
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        return await self._http.serve_connection(stream, peer)

    async def _wait_for_head(self, sock: socket.socket) -> bytes | None:
        with trio.move_on_after(HEAD_TIMEOUT) as scope:
            self._waiting.add(scope)
            try:
                return await peek_head(sock, self._turns)
            finally:
                self._waiting.discard(scope)
        raise _refusal(HTTPStatus.REQUEST_TIMEOUT, Reason.HEAD_TIMEOUT)

    async def _upgrade(self, sock: socket.socket, received: bytes, peer: str) -> Connection | bytes:
        """Open a WebSocket; return the answer that refuses it if it is refused.

        `received` may contain more than the request's head. Raises RequestRefusedError. Blocks only
        on a key set, for a client whose address is refused.
        """
        head, blank_line, early = received.partition(b"\r\n\r\n")
        proxies = self._settings.trusted_proxies
        forwarded = _FORWARDED.findall(head) if proxies else []
        address = client_address(peer, [value.decode("latin-1") for value in forwarded], proxies)
        # This comes first: in a flood, refusing must be cheap.
        self._limits.check(address, trio.current_time())
        handshake = Handshake(head + blank_line)
        request = handshake.request
        if request is not None:
            # Before it is counted, because any site can make its visitors' browsers try.
            self._check_host(request)
            self._check_origin(request)
        with ExitStack() as unless_opened:
            lease = self._limits.admit(address, trio.current_time())
            unless_opened.enter_context(lease)
            if request is None:
                text = "The request is not valid HTTP."
                raise _refusal(HTTPStatus.BAD_REQUEST, Reason.BAD_REQUEST, text)
            dialect = self._dialect(request)
            token = _token(request, self._settings)
            await self._check_failures(address, dialect, token)
            accepted, answer = handshake.accept(self._cookie(request, dialect))
            if not accepted:
                self._metrics.count_refused(Reason.BAD_REQUEST)
                return answer
            connection = Connection(
                sock,
                dialect,
                service=self._service,
                lease=lease,
                token=token,
                request_id=find_request_id(request.get_all),
                opening=answer,
                early=early,
            )
            unless_opened.pop_all()
        return connection

    def _dialect(self, request: Head) -> Dialect:
        """The requested dialect; raises RequestRefusedError."""
        try:
            dialect = dialect_at(request.path, self._settings.dialects)
        except IdTooLongError as error:
            raise _refusal(HTTPStatus.BAD_REQUEST, Reason.ID_TOO_LONG, str(error)) from None
        if dialect is None:
            text = "No dialect uses this path."
            raise _refusal(HTTPStatus.NOT_FOUND, Reason.UNKNOWN_PATH, text)
        return dialect

    async def _check_failures(self, address: str, dialect: Dialect, token: str | None) -> None:
        """Raise RequestRefusedError for an address that failed to authenticate too often.

        Clients with a valid token are exempt. If the token comes with the first message, it is
        checked there.
        """
        try:
            self._limits.check_failures(address, trio.current_time())
        except RequestRefusedError:
            if not dialect.asks_who and not await self._verifies(token):
                raise

    async def _verifies(self, token: str | None) -> bool:
        if token is None:
            return False
        try:
            await self._auth.authenticate(Authenticate("", token))
        except AuthenticationError:
            return False
        return True

    def _check_host(self, request: Head) -> None:
        """Raise RequestRefusedError if the `Host` is not allowed."""
        if not self._settings.allows_host(request.get_only("Host")):
            raise _refusal(HTTPStatus.MISDIRECTED_REQUEST, Reason.HOST, HOST_TEXT)

    def _check_origin(self, request: Head) -> None:
        """Raise RequestRefusedError for pages that may not connect."""
        if len(request.get_all("Origin")) > 1 or not self._settings.allows_origin(
            request.get_only("Origin"), request.get_only("Host")
        ):
            text = "Pages of this origin may not connect."
            raise _refusal(HTTPStatus.FORBIDDEN, Reason.ORIGIN, text)

    def _cookie(self, request: Head, dialect: Dialect) -> str | None:
        """The cookie that identifies the user in the dialect's HTTP calls, if there is no token.

        Pages of other sites get none, so they cannot change a browser's identity.
        """
        settings = self._settings
        if dialect.cookie_path is None or settings.wants_tokens:
            return None
        user_id = dict(parse_qsl(urlsplit(request.path).query)).get("user_id")
        origin, host = request.get_only("Origin"), request.get_only("Host")
        if not user_id or (origin is not None and not settings.trusts_origin(origin, host)):
            return None
        schemes = request.get_all("X-Forwarded-Proto") if settings.trusted_proxies else []
        return set_user(user_id, dialect.cookie_path, secure="https" in schemes)

    async def _refuse(self, sock: socket.socket, answer: bytes) -> None:
        """Send an answer, and end the connection so that the answer arrives.

        In a flood of refused clients the connection ends at once: they must not cost more than
        accepted ones.
        """
        self._refusals += 1
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            outbox = Outbox(sock, len(answer), self._service.hub.flusher, Alarm())
            outbox.put_last(answer)
            with trio.move_on_after(_REFUSAL_TIMEOUT):
                await outbox.flush()
                if self._refusals <= _MAX_REFUSALS:
                    await shut_down(sock)  # a reset for unread bytes would overtake the answer
        except OSError:
            return
        finally:
            self._refusals -= 1


class _Shortages:
    """Logs, at most once a minute, that the machine lacks resources for another connection."""

    def __init__(self) -> None:
        self._log_at = float("-inf")
        self._count = 0

    async def let_pass(self, error: OSError) -> None:
        """Handle an error of `accept` that concerns one connection, or is temporary."""
        if error.errno in _NOT_OURS:
            await trio.lowlevel.checkpoint()
        elif error.errno in _PASSING:
            self._note(error, trio.current_time())
            await trio.sleep(_RECOVERY)
        else:
            raise error

    def _note(self, error: OSError, now: float) -> None:
        self._count += 1
        if now >= self._log_at:
            extra = {"times": self._count}
            logger.error(
                "cannot accept connections: %s; retrying every %s s", error, _RECOVERY, extra=extra
            )
            self._log_at, self._count = now + _LOG_INTERVAL, 0


def _peek(sock: socket.socket) -> bytes:
    """Peek at the available bytes."""
    try:
        return sock.recv(MAX_HEAD + 1, socket.MSG_PEEK)
    except BlockingIOError:
        return b""


def _whole(begin: bytes) -> bytes | None:
    """The head that these bytes begin with, or all of them if too long; None if incomplete."""
    end = begin.find(b"\r\n\r\n")
    if 0 <= end <= MAX_HEAD - 4:
        return begin[: end + 4]
    return begin if len(begin) > MAX_HEAD else None


async def peek_head(sock: socket.socket, turns: trio.Semaphore) -> bytes | None:
    """Peek at the first request head, which stays unread; None if the client left first.

    Returns more than `MAX_HEAD` bytes if the head does not end before. Heads that arrive at the
    same moment take turns. Raises OSError.
    """
    before = b""
    while True:
        await trio.lowlevel.wait_readable(sock)
        async with turns:
            peeked = _peek(sock)
        head = _whole(peeked)
        if head is not None:
            # Nothing would wake us again before the next read completes.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
            return head
        if len(peeked) == len(before):
            if not peeked or _has_ended(sock.fileno()):
                return None
            # Woken without new bytes, which would repeat: a peek stops before urgent data.
            await trio.sleep(_PAUSE)
        before = peeked
        # Sleep until there are more bytes, or the end: those already there would wake us at once.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(before) + 1)


def _has_ended(fileno: int) -> bool:
    """Whether the client has ended its stream; `recv` does not show that while bytes are unread."""
    poll = select.poll()
    poll.register(fileno, getattr(select, "POLLRDHUP", 0))
    return bool(poll.poll(0))


def _token(request: Head, settings: Settings) -> str | None:
    query = dict(parse_qsl(urlsplit(request.path).query))
    found = find_token(request.get_all, query)
    if found is None:
        return None
    origin, host = request.get_only("Origin"), request.get_only("Host")
    if found.from_cookie and origin is not None and not settings.trusts_origin(origin, host):
        return None
    return found.text


def _refusal(status: HTTPStatus, reason: Reason, text: str | None = None) -> RequestRefusedError:
    return RequestRefusedError(status, reason, text or f"{status.phrase}.")


def _answer(refusal: RequestRefusedError) -> bytes:
    """The whole response; its texts are ASCII."""
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
