"""Who a connection speaks for.

So far there is open mode only: everybody is who they say they are. This is the
one place where a token will be checked.
"""

import base64
import binascii

import msgspec
import trio

from trio_signal.messages import Authenticate, Identity

_PREFIX = "open."


class _LoginToken(msgspec.Struct):
    """What the tokens say that open mode's login hands out; anyone can make them."""

    sub: str
    name: str


class OpenAuth:
    """Open mode: claims are believed, and tokens need not be any."""

    async def authenticate(self, claims: Authenticate) -> Identity:
        """Who makes these claims. Will raise AuthenticationError once it can fail."""
        await trio.lowlevel.checkpoint()
        login = read_login_token(claims.token)
        username = claims.username or (login.name if login else None)
        return Identity(
            # Nobody can prove to be the same; to say the same has to do.
            subject=f"{claims.token or ''}\0{claims.username or ''}",
            user_id=claims.user_id,
            username=username or claims.guest_name,
            avatar_url=claims.avatar_url,
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
