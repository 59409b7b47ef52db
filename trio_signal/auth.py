"""Who a connection speaks for."""

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple, Protocol

import msgspec
import trio

from trio_signal.messages import Authenticate, Grants, Identity

_PREFIX = "open."


class _LoginToken(msgspec.Struct):
    """What the tokens say that open mode's login hands out; anyone can make them."""

    sub: str
    name: str


#: Everybody may do what everybody may want; only to end others' connections is nobody's right.
OPEN_GRANTS = Grants(creator=True)


class FoundToken(NamedTuple):
    """A token that came with a request. Browsers send cookies also when another site asks."""

    text: str
    from_cookie: bool = False


def find_token(
    get_all: Callable[[str], Iterable[str]], query: Mapping[str, str]
) -> FoundToken | None:
    """The token of a request, by its headers (`get_all` gives those of a name) and its query.

    What was sent on purpose comes first: `Authorization: Bearer`, the subprotocols `bearer,
    TOKEN` (a browser's WebSocket can send no other header), `?token=`. Then come the cookies
    `session_id` and `session`.
    """
    for value in get_all("Authorization"):
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return FoundToken(token.strip())
    offered = [
        item.strip() for value in get_all("Sec-WebSocket-Protocol") for item in value.split(",")
    ]
    if len(offered) > 1 and offered[0] == "bearer" and offered[1]:
        return FoundToken(offered[1])
    if query.get("token"):
        return FoundToken(query["token"])
    cookies = _cookies(get_all("Cookie"))
    session = cookies.get("session_id") or cookies.get("session")
    return FoundToken(session, from_cookie=True) if session else None


def _cookies(headers: Iterable[str]) -> dict[str, str]:
    """Cookies by name. Not by http.cookies, which drops all for one that it does not like."""
    cookies: dict[str, str] = {}
    for header in headers:
        for item in header.split(";"):
            name, _, value = item.strip().partition("=")
            cookies.setdefault(name, value.strip('"'))
    return cookies


def may_enter(identity: Identity, room_id: str) -> bool:
    """Whether one of the granted globs fits this room."""
    return any(fnmatchcase(room_id, glob) for glob in identity.grants.rooms)


class Auth(Protocol):
    """How it is found out who somebody is."""

    async def authenticate(self, claims: Authenticate) -> Identity:
        """Who makes these claims; raises AuthenticationError. Blocks where a key set is asked."""
        ...


class OpenAuth:
    """Open mode: claims are believed, and tokens need not be any."""

    async def authenticate(self, claims: Authenticate) -> Identity:
        """Who makes these claims."""
        await trio.lowlevel.checkpoint()
        login = read_login_token(claims.token)
        username = claims.username or (login.name if login else None)
        return Identity(
            # Nobody can prove to be the same; to say the same has to do.
            subject=f"{claims.token or ''}\0{claims.username or ''}",
            user_id=claims.user_id,
            username=username or claims.guest_name,
            avatar_url=claims.avatar_url,
            grants=OPEN_GRANTS,
        )


def make_login_token(username: str) -> str:
    """A token of open mode, so that clients that log in first need no change."""
    body = msgspec.json.encode(_LoginToken(username, username))
    return _PREFIX + base64.urlsafe_b64encode(body).decode().rstrip("=")


def read_login_token(token: str | None) -> _LoginToken | None:
    """Whom such a token names; None for any other text."""
    if token is None or not token.startswith(_PREFIX):
        return None
    body = token[len(_PREFIX) :]
    try:
        padded = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
        return msgspec.json.decode(padded, type=_LoginToken)
    except (msgspec.DecodeError, binascii.Error, ValueError):
        return None
