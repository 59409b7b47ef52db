"""Announcing through a running server's REST, from a shell."""

import sys
from http.client import HTTPException
from typing import Annotated, Any, NoReturn
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import msgspec
import typer

from trio_signal.messages import AnnouncementType

#: Seconds for the server to answer; it gives up itself after five.
_TIMEOUT = 10.0
_PATH = "/api/creator/broadcast"


def _check_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise typer.BadParameter(f"{url!r} is no address of a server; like http://127.0.0.1:8000")
    return url.rstrip("/")


def announce(
    text: Annotated[str | None, typer.Argument(help="What to say to every user.")] = None,
    type_: Annotated[AnnouncementType, typer.Option("--type", help="How urgent it is.")] = "info",
    clear: Annotated[bool, typer.Option("--clear", help="Take the last one away.")] = False,
    url: Annotated[
        str, typer.Option(help="The server.", envvar="TRIO_SIGNAL_URL", callback=_check_url)
    ] = "http://127.0.0.1:8000",
    token: Annotated[
        str | None,
        typer.Option(
            help="That of a creator. In the variable nobody else on the machine can read it.",
            envvar="TRIO_SIGNAL_TOKEN",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Announce something to every user who is connected, or comes before it is cleared."""
    if clear == (text is not None):
        raise typer.BadParameter("either a TEXT or --clear")
    if clear:
        answer = _post(f"{url}{_PATH}/clear", {}, token)
    else:
        answer = _post(f"{url}{_PATH}", {"message": text, "type": type_}, token)
    typer.echo(msgspec.json.encode(answer).decode() if as_json else answer["message"])


def _post(url: str, body: dict[str, Any], token: str | None) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = Request(url, msgspec.json.encode(body), headers)  # noqa: S310  it was checked
    try:
        with urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            return msgspec.json.decode(answer.read(), type=dict[str, Any])
    except HTTPError as error:
        with error:
            _fail(f"{url}: {error.code} {_reason(error.read()) or error.reason}")
    except msgspec.DecodeError:
        _fail(f"{url} does not answer as a trio-signal server does")
    except URLError as error:
        _fail(f"{url}: {error.reason}")
    except (OSError, HTTPException) as error:
        _fail(f"{url}: {error}")


def _reason(body: bytes) -> str:
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError:
        return ""
    return str(fields.get("message") or fields.get("detail") or "")


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"trio-signal: {message}\n")
    raise typer.Exit(1)
