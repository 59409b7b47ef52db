"""A test receiver of webhooks: it checks signatures, and prints the events."""

import json
import sys
from functools import partial

import h11
import trio
import typer

from trio_signal.backend import verify_webhook
from trio_signal.cli.failing import fail, failing
from trio_signal.environment import load_settings
from trio_signal.hooks import SignatureError

#: Most bytes of a webhook, and seconds for it to arrive.
_MOST = 1 << 20
_PATIENCE = 30.0


def listen(host: str, port: int, secret: str | None, *, as_json: bool) -> None:
    """Print each webhook and answer 204; 401 without a valid signature. Until SIGINT."""
    if secret is None:
        with failing():
            secrets = list(load_settings().secrets_by_key.values())
        if not secrets:
            fail("set --secret, or TRIO_SIGNAL_API_KEYS")
        secret = secrets[0]
    try:
        trio.run(_listen, host, port, partial(_tell, secret, as_json))
    except* (OSError, UnicodeError) as errors:  # the latter if the host cannot be a name
        fail(f"cannot listen on {host}:{port}: {errors.exceptions[0]}")
    except* KeyboardInterrupt:
        pass


async def _listen(host: str, port: int, tell: "partial[int]") -> None:
    listeners = await trio.open_tcp_listeners(port, host=host)
    port = listeners[0].socket.getsockname()[1]
    typer.echo(f"listening on http://{host}:{port}", err=True)
    await trio.serve_listeners(partial(_serve, tell), listeners)


async def _serve(tell: "partial[int]", stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER)
    async with stream:
        try:
            while True:
                with trio.fail_after(_PATIENCE):
                    await _answer(connection, stream, tell)
                connection.start_next_cycle()  # raises if the client closes the connection
        except (trio.BrokenResourceError, trio.TooSlowError, h11.ProtocolError):
            return


async def _answer(
    connection: h11.Connection, stream: trio.SocketStream, tell: "partial[int]"
) -> None:
    headers: dict[str, str] = {}
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some())
        elif isinstance(event, h11.Request):
            headers = {n.decode("latin-1"): v.decode("latin-1") for n, v in event.headers}
        elif isinstance(event, h11.Data) and len(body) < _MOST:
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            break
        else:
            raise trio.BrokenResourceError
    response = h11.Response(status_code=tell(headers, body), headers=[("Content-Length", "0")])
    for part in (response, h11.EndOfMessage()):
        await stream.send_all(connection.send(part) or b"")


def _tell(secret: str, as_json: bool, headers: dict[str, str], body: bytes) -> int:
    try:
        event = verify_webhook(headers, body, secret)
    except SignatureError as error:
        typer.echo(f"refused: {error}", err=True)
        return 401
    if as_json:
        typer.echo(json.dumps(json.loads(body)))
    else:
        peer = event.peer.username if event.peer else ""
        words = (event.at, event.room or "", str(event.seq), event.event, peer, event.cause or "")
        typer.echo("  ".join(filter(None, words)))
    sys.stdout.flush()
    return 204
