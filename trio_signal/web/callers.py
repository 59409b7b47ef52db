"""Whose request this is, and whether it may be made."""

from quart import request
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import Forbidden, Unauthorized

from trio_signal.auth import Auth, find_token, may_enter, read_login_token
from trio_signal.config import Settings
from trio_signal.errors import AuthenticationError, IdentityMismatchError
from trio_signal.messages import Authenticate, Identity


async def find_caller(auth: Auth, settings: Settings) -> Identity | None:
    """Who sends the current request; None if it does not say.

    Aborts with 401 if the token is not valid, and with 403 where another site may have made a
    browser send its cookie.
    """
    found = find_token(request.headers.getlist, request.args)
    claimed = request.args.get("user_id") or None
    if found is None and claimed is None:
        return None
    if found is not None and found.from_cookie and request.method == "POST":
        _check_origin(settings)
    token = found.text if found is not None else None
    login = read_login_token(token)
    user_id = claimed or (login.sub if login is not None else "")
    try:
        identity = await auth.authenticate(Authenticate(user_id, token, claimed=claimed))
    except IdentityMismatchError as error:
        raise Forbidden(str(error)) from None
    except AuthenticationError as error:
        raise _unauthorized(str(error)) from None
    return identity if identity.user_id else None


async def require_caller(auth: Auth, settings: Settings) -> Identity:
    """Who sends the current request; aborts with 401 if nobody does."""
    identity = await find_caller(auth, settings)
    if identity is None:
        raise _unauthorized("Authentication required")
    return identity


async def find_entrant(auth: Auth, settings: Settings, room_id: str) -> Identity | None:
    """Who asks about a room; None in open mode, where anybody may.

    In token mode it aborts with 401 if nobody does, and with 403 if the token is not for this
    room, whether there is one or not.
    """
    if not settings.wants_tokens:
        return None
    caller = await require_caller(auth, settings)
    if not may_enter(caller, room_id):
        raise Forbidden("Not allowed in this room")
    return caller


def _unauthorized(detail: str) -> Unauthorized:
    return Unauthorized(detail, www_authenticate=WWWAuthenticate("bearer"))


def _check_origin(settings: Settings) -> None:
    origin = request.headers.get("Origin")
    if origin is None or not settings.trusts_origin(origin, request.headers.get("Host")):
        raise Forbidden("Pages of this origin may not do this")
