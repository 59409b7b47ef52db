"""Announcing through a running server's REST."""

from typing import Annotated

import msgspec
import typer

from trio_signal.auth import mint_token
from trio_signal.cli.failing import failing
from trio_signal.cli.remote import LOCAL, AsJson, Token, Url, ask
from trio_signal.config import load_settings
from trio_signal.messages.identity import AnnouncementType, Grants

_PATH = "/api/creator/broadcast"
#: Who announces, where no other token is given, and for how many seconds it may.
_OPERATOR = "operator"
_TTL = 60.0


def announce(
    text: Annotated[str | None, typer.Argument(help="What to say to every user.")] = None,
    type_: Annotated[AnnouncementType, typer.Option("--type", help="How urgent it is.")] = "info",
    clear: Annotated[bool, typer.Option("--clear", help="Take the last one away.")] = False,
    url: Url = LOCAL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Announce something to every user who is connected, or comes before it is cleared.

    Without a token it makes one of its own, if TRIO_SIGNAL_JWT_SECRET is set.
    """
    if clear == (text is not None):
        raise typer.BadParameter("either a TEXT or --clear")
    path, body = (f"{_PATH}/clear", {}) if clear else (_PATH, {"message": text, "type": type_})
    answer = ask(f"{url}{path}", token or _own_token(), dict[str, object], body)
    typer.echo(msgspec.json.encode(answer).decode() if as_json else answer["message"])


def _own_token() -> str | None:
    with failing():
        settings = load_settings()
        if settings.jwt_secret is None:
            return None
        grants = Grants(creator=True)
        return mint_token(settings, _OPERATOR, name="Operator", grants=grants, ttl=_TTL)
