"""Announce through the HTTP API of a running server."""

import msgspec
import typer

from trio_signal.auth import mint_token
from trio_signal.cli.failing import failing
from trio_signal.cli.remote import ask
from trio_signal.environment import load_settings
from trio_signal.messages.identity import Grants

_PATH = "/api/creator/broadcast"
#: The user who announces if no token is given, and the lifetime in seconds of its token.
_OPERATOR = "operator"
_TTL = 60.0


def run(text: str | None, type_: str, url: str, token: str | None, as_json: bool) -> None:
    """Make an announcement, or end the active one. Blocks."""
    path, body = _PATH, {"message": text, "type": type_}
    if text is None:
        path, body = f"{_PATH}/clear", {}
    answer = ask(f"{url}{path}", token or _own_token(), dict[str, object], body)
    typer.echo(msgspec.json.encode(answer).decode() if as_json else answer["message"])


def _own_token() -> str | None:
    with failing():
        settings = load_settings()
        if settings.jwt_secret is None:
            return None
        grants = Grants(creator=True)
        return mint_token(settings, _OPERATOR, name="Operator", grants=grants, ttl=_TTL)
