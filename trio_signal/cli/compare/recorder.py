"""A proxy before the old server: forwards everything, and records the conversation."""

import sys
from collections.abc import Callable
from typing import BinaryIO

import h11
import httpx
import msgspec
import trio
from trio_websocket import (
    ConnectionClosed,
    ConnectionRejected,
    HandshakeError,
    WebSocketConnection,
    open_websocket_url,
    wrap_server_stream,
)
from wsproto.utilities import ProtocolError

from trio_signal.cli.compare.talk import Asked, Closed, Opened, Record, Said, Side
from trio_signal.cli.failing import first_of, printable
from trio_signal.errors import TrioSignalError
from trio_signal.websocket import is_upgrade

#: Most bytes of a recording, of a message or a call's body, and of a forwarded answer.
MAX_TALK = 64 * 1024 * 1024
MAX_MESSAGE = 1024 * 1024
_MAX_ANSWER = 64 * 1024 * 1024
_MAX_HEAD = 65536
_CHUNK = 65536
#: Recorded request headers: identity and content type.
_KEPT = {"authorization", "cookie", "origin", "sec-websocket-protocol", "content-type"}
#: Headers that apply to a single hop.
_HOP = {"host", "connection", "keep-alive", "upgrade", "accept-encoding", "expect"}
_HOP |= {"transfer-encoding", "content-length"}
_UPGRADE = "sec-websocket-"


class _Begun(trio.abc.Stream):
    """A stream with bytes that were read already."""

    def __init__(self, begin: bytes, stream: trio.SocketStream) -> None:
        self._begin, self._stream = begin, stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        begin, self._begin = self._begin, b""
        return begin or await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Recorder:
    """Records one conversation, with any number of clients, to a file."""

    def __init__(self, old: str, file: BinaryIO, *, idle: float) -> None:
        """`old` is the URL of the server. Ends `idle` seconds after the last socket was closed."""
        self._old, self._file, self._idle = old, file, idle
        self._own = ""
        self._began = trio.current_time()
        self._size = self._sockets = self._open = 0
        self._moved = trio.Event()

    async def run(self, listener: trio.SocketListener, ready: Callable[[str], None]) -> None:
        """Record until the clients have gone; raises OSError and TrioSignalError."""
        self._own = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._serve, [listener])
            ready(self._own)
            is_done = False
            while not is_done:
                quiet = self._sockets > 0 and not self._open
                with trio.move_on_after(self._idle if quiet else float("inf")) as scope:
                    await self._moved.wait()
                is_done = scope.cancelled_caught
            nursery.cancel_scope.cancel()

    def _keep(self, record: Record) -> None:
        line = msgspec.json.encode(record) + b"\n"
        self._size += len(line)
        if self._size > MAX_TALK:
            raise TrioSignalError(f"the conversation is longer than {MAX_TALK >> 20} MiB")
        self._file.write(line)
        self._file.flush()
        self._move()

    def _move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    def _now(self) -> float:
        return round(trio.current_time() - self._began, 6)

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            async with stream:
                head = b""
                while b"\r\n\r\n" not in head and len(head) < _MAX_HEAD:
                    chunk = await stream.receive_some(_CHUNK)
                    if not chunk:
                        return
                    head += chunk
                if not head.partition(b" ")[2].startswith(b"/"):
                    return  # only a path can be forwarded
                speak = self._carry if is_upgrade(head) else self._answer
                await speak(_Begun(head, stream))
        except* (trio.BrokenResourceError, ConnectionClosed, ProtocolError, h11.ProtocolError):
            pass  # the client left or failed
        except* OSError as errors:
            self._complain(first_of(errors))

    def _complain(self, error: BaseException) -> None:
        sys.stderr.write(f"trio-signal: {self._old}: {printable(str(error))}\n")

    def _split(self, raw: list[tuple[bytes, bytes]]) -> tuple[dict[str, str], dict[str, str]]:
        """Return the headers to forward, and those to record.

        The old server must see a page that uses this proxy as one of its own.
        """
        headers: dict[str, str] = {}
        for raw_name, raw_value in raw:
            name, value = raw_name.decode("ascii").lower(), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        kept = {name: value for name, value in headers.items() if name in _KEPT}
        if headers.get("origin") == self._own:
            headers["origin"] = self._old
            del kept["origin"]
        passed = {n: v for n, v in headers.items() if n not in _HOP and not n.startswith(_UPGRADE)}
        return passed, kept

    # HTTP

    async def _answer(self, stream: _Begun) -> None:
        """Forward one call; the client may connect again for the next."""
        connection = h11.Connection(h11.SERVER)
        request, body = None, b""
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(_CHUNK)))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data) and len(body) < MAX_MESSAGE:
                body += event.data
            else:
                return
        assert request is not None  # noqa: S101
        try:
            status, headers, content = await self._ask(request, body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            self._complain(error)
            status, headers, content = 502, [], b""
        headers.append((b"Content-Length", b"%d" % len(content)))
        headers.append((b"Connection", b"close"))
        data = [h11.Data(data=content)] if content and request.method != b"HEAD" else []
        for part in (h11.Response(status_code=status, headers=headers), *data, h11.EndOfMessage()):
            await stream.send_all(connection.send(part) or b"")

    async def _ask(
        self, request: h11.Request, body: bytes
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        passed, kept = self._split(list(request.headers))
        method, target = request.method.decode("ascii"), request.target.decode("ascii")
        raw = [(name.encode(), value.encode("latin-1")) for name, value in passed.items()]
        asked = httpx.Request(method, f"{self._old}{target}", headers=raw, content=body)
        began, content = self._now(), b""
        async with httpx.AsyncHTTPTransport() as transport:
            answer = await transport.handle_async_request(asked)
            async for chunk in answer.aiter_raw():
                content += chunk
                if len(content) > _MAX_ANSWER:
                    raise OSError(f"the answer to {method} {target} is too long")
        is_json = "json" in answer.headers.get("content-type", "")
        if method != "OPTIONS" and is_json and len(content) <= MAX_MESSAGE:
            said, told = body.decode(errors="replace"), content.decode(errors="replace")
            self._keep(Asked(began, method, target, kept, said, answer.status_code, told))
        headers = [(n, v) for n, v in answer.headers.raw if n.decode("ascii").lower() not in _HOP]
        return answer.status_code, headers, content

    # WebSockets

    async def _carry(self, stream: _Begun) -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            passed, kept = self._split(request.headers)
            self._sockets += 1
            number = self._sockets
            self._keep(Opened(self._now(), number, request.path, kept))
            try:
                async with open_websocket_url(
                    f"ws{self._old.removeprefix('http')}{request.path}",
                    subprotocols=list(request.proposed_subprotocols),
                    extra_headers=[(n.encode(), v.encode("latin-1")) for n, v in passed.items()],
                    max_message_size=MAX_MESSAGE,
                ) as server:
                    client = await request.accept(subprotocol=server.subprotocol)
                    await self._converse(number, client, server)
            except ConnectionRejected as rejected:
                self._keep(Closed(self._now(), number, "server", rejected.status_code))
                await request.reject(rejected.status_code, body=rejected.body)
            except (HandshakeError, OSError, h11.ProtocolError) as error:
                self._complain(error.__cause__ or error)
                self._keep(Closed(self._now(), number, "server", 502))
                await request.reject(502)
            except ConnectionClosed:
                # The client left before its handshake was answered.
                self._keep(Closed(self._now(), number, "client", 1006))
            nursery.cancel_scope.cancel()

    async def _converse(
        self, number: int, client: WebSocketConnection, server: WebSocketConnection
    ) -> None:
        is_closed = False

        async def pass_on(source: WebSocketConnection, target: WebSocketConnection) -> None:
            nonlocal is_closed
            side: Side = "client" if source is client else "server"
            try:
                while True:
                    text = await source.get_message()
                    if isinstance(text, str):
                        self._keep(Said(self._now(), number, side, text))
                    await target.send_message(text)
            except ConnectionClosed:
                if is_closed or source.closed is None:
                    return  # the other task has the reason
                is_closed = True
            code, reason = source.closed.code, source.closed.reason or ""
            self._keep(Closed(self._now(), number, side, code, reason))
            await target.aclose(1000 if code in (1005, 1006) else code, reason)
            nursery.cancel_scope.cancel()

        self._open += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pass_on, client, server)
                nursery.start_soon(pass_on, server, client)
        finally:
            self._open -= 1
            self._move()
