"""Cookies: the WebSocket handshake sets one, which identifies the user in later HTTP calls.

Only in open mode, where any client may claim any user id. The cookie is not a token, and only the
calls of its dialect read it.
"""

from collections.abc import Callable, Iterable
from urllib.parse import quote, unquote

from trio_signal.auth import read_cookies
from trio_signal.names import MAX_ID

NAME = "trio_signal_user"


def set_user(user_id: str, path: str, *, secure: bool) -> str:
    """The value of `Set-Cookie` for calls below `path`; less than 4 KiB for any valid id.

    The browser keeps it until it is closed; each handshake sets it again.
    """
    flags = "; Secure" if secure else ""
    return f"{NAME}={quote(user_id, safe='')}; Path={path}; HttpOnly; SameSite=Lax{flags}"


def find_user(get_all: Callable[[str], Iterable[str]]) -> str | None:
    """The user id in a request's cookie, if this server could have set it."""
    user_id = unquote(read_cookies(get_all("Cookie")).get(NAME, ""))
    return user_id if 0 < len(user_id) <= MAX_ID else None
