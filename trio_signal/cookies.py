"""The cookie by which a WebSocket's handshake tells HTTP calls whose browser it is.

In open mode only: it says no more than what anybody may write into a query. It is no token, and
nothing but the calls of its dialect reads it.
"""

from collections.abc import Callable, Iterable
from urllib.parse import quote, unquote

from trio_signal.auth import read_cookies
from trio_signal.names import MAX_ID

NAME = "trio_signal_user"


def set_user(user_id: str, path: str, *, secure: bool) -> str:
    """The value of `Set-Cookie` for calls below `path`; less than 4 KiB, for any id that we take.

    It is gone when the browser is closed: the next handshake sets it again.
    """
    flags = "; Secure" if secure else ""
    return f"{NAME}={quote(user_id, safe='')}; Path={path}; HttpOnly; SameSite=Lax{flags}"


def find_user(get_all: Callable[[str], Iterable[str]]) -> str | None:
    """The user id in a request's cookie, if there is one that we could have set."""
    user_id = unquote(read_cookies(get_all("Cookie")).get(NAME, ""))
    return user_id if 0 < len(user_id) <= MAX_ID else None
