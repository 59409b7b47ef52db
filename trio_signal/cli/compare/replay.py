"""Replays the client's side of a recorded conversation to the new server."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import NoReturn

import h11
import httpx
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    open_websocket_url,
)
from wsproto.utilities import ProtocolError

from trio_signal.cli.compare.talk import Asked, Closed, Comparison, Opened, Record, Said, parse
from trio_signal.cli.failing import first_of

#: Seconds to wait for a message that the old server had sent by then, and for one whose type has
#: differed before.
_PATIENCE = 2.0
_LESS_PATIENCE = 0.1
#: Longest pause in seconds between two actions of the client, which may have waited for minutes.
_LONGEST_PAUSE = 0.1
#: Seconds to wait for the last messages, and for the answer of a call or of a handshake.
_LAST = 0.5
_TIMEOUT = 10.0
_MAX_MESSAGE = 16 * 1024 * 1024


class _Socket:
    """A WebSocket to the new server."""

    def __init__(self) -> None:
        self.connection: WebSocketConnection | None = None
        #: The close code, or the HTTP status of a refusal.
        self.code: int | None = None
        #: Cancelled when the client closes the socket.
        self.receiving = trio.CancelScope()
        self.goodbye = (1000, "")


class Replay:
    """One replay; `comparison` receives both sides."""

    def __init__(self, url: str, comparison: Comparison) -> None:
        """`url` is that of the new server."""
        self._url = url
        self._comparison = comparison
        self._sockets: dict[int, _Socket] = {}
        #: Sockets that the old server refused.
        self._refused: set[int] = set()
        self._moved = trio.Event()
        #: Cookies of the new server, kept as a browser does.
        self._cookies: dict[str, str] = {}

    async def run(self, records: Sequence[Record]) -> None:
        """Replay everything; raises OSError if there is no server."""
        self._refused = {
            one.socket for one in records if isinstance(one, Closed) and one.code < 1000
        }
        async with trio.open_nursery() as nursery:
            last = 0.0
            for record in records:
                if not isinstance(record, Said) or record.by == "client":
                    await trio.sleep(min(max(record.at - last, 0), _LONGEST_PAUSE))
                last = record.at
                match record:
                    case Opened():
                        await self._open(record, nursery)
                    case Said(by="client"):
                        await self._say(record)
                    case Said():
                        await self._expect(record)
                    case Closed():
                        await self._close(record)
                    case Asked():
                        await self._ask(record)
            await trio.sleep(_LAST)
            nursery.cancel_scope.cancel()

    def _headers(self, recorded: dict[str, str]) -> dict[str, str]:
        headers = {
            name: self._comparison.address(value) if name in ("authorization", "cookie") else value
            for name, value in recorded.items()
        }
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        if cookies:
            headers["cookie"] = "; ".join(filter(None, (headers.get("cookie"), cookies)))
        return headers

    def _take_cookies(self, values: Iterable[str]) -> None:
        for value in values:
            name, _, rest = value.partition("=")
            self._cookies[name] = rest.partition(";")[0]

    async def _wait(self, is_so: Callable[[], bool], seconds: float) -> bool:
        with trio.move_on_after(seconds):
            while not is_so():
                await self._moved.wait()
            return True
        return False

    def _move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    # WebSockets

    async def _open(self, record: Opened, nursery: trio.Nursery) -> None:
        socket = self._sockets[record.socket] = _Socket()
        await nursery.start(self._run, socket, record)

    async def _run(
        self, socket: _Socket, record: Opened, *, task_status: trio.TaskStatus[None]
    ) -> None:
        headers = self._headers(record.headers)
        offered = headers.pop("sec-websocket-protocol", "")
        try:
            async with open_websocket_url(
                f"ws{self._url.removeprefix('http')}{self._comparison.address(record.target)}",
                extra_headers=[(n.encode(), v.encode("latin-1")) for n, v in headers.items()],
                subprotocols=[name.strip() for name in offered.split(",") if name.strip()],
                max_message_size=_MAX_MESSAGE,
                connect_timeout=_TIMEOUT,
            ) as connection:
                socket.connection = connection
                set_by = (v for n, v in connection.handshake_headers if n == b"set-cookie")
                self._take_cookies(value.decode("latin-1") for value in set_by)
                task_status.started()
                with socket.receiving:
                    await self._receive(record.socket, connection)
                await connection.aclose(*socket.goodbye)
        except* ConnectionRejected as errors:
            rejected = first_of(errors)
            assert isinstance(rejected, ConnectionRejected)  # noqa: S101
            socket.code = rejected.status_code
            if record.socket not in self._refused:
                what = f"101 became {socket.code}"
                self._comparison.note("differs", "handshake", "status", what)
            task_status.started()
        except* ConnectionClosed as errors:
            closed = first_of(errors)
            if isinstance(closed, ConnectionClosed) and closed.reason is not None:
                socket.code = closed.reason.code
        except* (
            HandshakeError,
            ProtocolError,
            h11.ProtocolError,
            trio.BrokenResourceError,
        ) as errors:
            if socket.connection is None:
                raise OSError("the server does not speak WebSocket") from errors
        socket.code = socket.code or 1006
        self._move()

    async def _receive(self, number: int, connection: WebSocketConnection) -> NoReturn:
        while True:
            text = await connection.get_message()
            if isinstance(text, str):
                self._comparison.new_says(number, text)
                self._move()

    async def _say(self, record: Said) -> None:
        text = self._comparison.client_says(record.text)
        connection = self._sockets[record.socket].connection
        if connection is not None:
            with suppress(ConnectionClosed, trio.BrokenResourceError):
                await connection.send_message(text)

    async def _expect(self, record: Said) -> None:
        """Compare a recorded message with the new server's; prefer one without differences."""
        socket, text, comparison = self._sockets[record.socket], record.text, self._comparison
        for exactly, is_usual in (
            (True, comparison.differs("differs", text) or comparison.differs("absent", text)),
            (False, comparison.differs("missing", text)),
        ):
            say = partial(comparison.old_says, record.socket, text, exactly=exactly)
            patience = _LESS_PATIENCE if is_usual or socket.code is not None else _PATIENCE
            if await self._wait(say, patience):
                return
        comparison.lacks(text)

    async def _close(self, record: Closed) -> None:
        socket = self._sockets[record.socket]
        if record.by == "client":
            if record.code not in (1005, 1006):
                socket.goodbye = record.code, record.reason
            socket.receiving.cancel()
        await self._wait(lambda: socket.code is not None, _PATIENCE)
        if record.by == "server" and socket.code != record.code:
            what = f"{record.code} became {socket.code or 'none'}"
            self._comparison.note("differs", "close", "code", what)

    # HTTP

    async def _ask(self, record: Asked) -> None:
        comparison, where = self._comparison, f"{record.method} {_path(record.target)}"
        url = f"{self._url}{comparison.address(record.target)}"
        headers = self._headers(record.headers)
        request = httpx.Request(
            record.method,
            url,
            headers=[(n.encode(), v.encode("latin-1")) for n, v in headers.items()],
            content=comparison.client_says(record.body).encode(),
            extensions={"timeout": httpx.Timeout(_TIMEOUT).as_dict()},
        )
        try:
            async with httpx.AsyncHTTPTransport() as transport:
                answer = await transport.handle_async_request(request)
                await answer.aread()
        except httpx.HTTPError as error:
            raise OSError(str(error)) from None
        self._take_cookies(answer.headers.get_list("set-cookie"))
        if answer.status_code in (404, 405) and record.status < 400:
            comparison.note("missing", where, "", "the new server does not have this call")
        elif answer.status_code != record.status:
            what = f"{record.status} became {answer.status_code}"
            comparison.note("differs", where, "status", what)
        else:
            comparison.compare(where, parse(record.answer), parse(answer.text))


def _path(target: str) -> str:
    return target.partition("?")[0]
