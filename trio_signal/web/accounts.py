"""The built-in login, and the caller's identity."""

import math

from msgspec import Struct
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import NotFound, ServiceUnavailable, TooManyRequests, Unauthorized

from trio_signal.auth import make_login_token, mint_token, subject_of
from trio_signal.config import Settings
from trio_signal.errors import LoginBusyError, LoginError
from trio_signal.users import Login, User
from trio_signal.web.bodies import json_answer, read_body, read_form
from trio_signal.web.callers import Callers

#: Lifetime in seconds of a token from the built-in login.
SESSION = 12 * 3600.0
_NO_LOGIN = "The built-in login is off"
_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class LoginRequest(Struct):
    """The body of `POST /auth/login`."""

    username: str
    password: str


class AccessMode(Struct):
    """Whether clients need a token, and whether the built-in login issues them."""

    token: bool
    login: bool


def add_accounts(app: QuartTrio, callers: Callers, settings: Settings) -> None:
    """Add the routes."""
    users = Login(settings.users_file) if settings.users_file is not None else None

    def require_login() -> None:
        if settings.wants_tokens and users is None:
            raise NotFound(_NO_LOGIN)

    # The pages read this before they log in, to show the right form.
    mode = AccessMode(token=settings.wants_tokens, login=users is not None)

    @app.get("/auth/mode")
    async def access_mode() -> Response:
        return json_answer(mode)

    @app.post("/auth/login")
    @app.post("/auth/token")
    async def login() -> Response:
        if await _is_form():
            body = await read_form(LoginRequest)
        else:
            body = await read_body(LoginRequest)
        if not settings.wants_tokens:  # any password does
            return _logged_in(make_login_token(body.username), body.username, body.username)
        if users is None:
            raise NotFound(_NO_LOGIN)
        callers.check_address()
        return await _check(users, body, callers, settings)

    @app.post("/auth/refresh")
    async def refresh() -> Response:
        require_login()
        caller = await callers.require()
        if users is None:
            return _logged_in(make_login_token(caller.user_id), caller.user_id, caller.user_id)
        user = await users.find(caller.user_id)
        # A token of another issuer proves no account here, and grants may have been revoked.
        ours = caller.subject == subject_of(settings.jwt_issuer, caller.user_id)
        if user is None or not ours or caller.grants != user.grants:
            raise Unauthorized("Log in again", www_authenticate=WWWAuthenticate("bearer"))
        return _new_token(caller.user_id, user, settings)

    @app.post("/auth/logout")
    async def logout() -> Response:
        """Do nothing: tokens stay valid until they expire."""
        require_login()
        return json_answer({"message": "Logged out"})

    @app.get("/auth/me")
    async def me() -> Response:
        user = await callers.require()
        return json_answer({"user_id": user.user_id, "username": user.username or user.user_id})


async def _is_form() -> bool:
    """Whether the request's body is a form, as OAuth 2 clients send it, and not JSON.

    Many programs send JSON as a form or as plain text, because they set no content type.
    """
    body = await request.get_data(as_text=False)
    assert isinstance(body, bytes)  # noqa: S101  as it was asked for
    return request.mimetype in _FORMS and not body.lstrip().startswith(b"{")


async def _check(
    users: Login, body: LoginRequest, callers: Callers, settings: Settings
) -> Response:
    try:
        user = await users.check(body.username, body.password, callers.network)
    except LoginBusyError as error:
        wait = math.ceil(error.wait)
        raise ServiceUnavailable("Too many logins at once", retry_after=wait) from None
    except LoginError as error:
        callers.count_failure()
        if error.wait > 0:
            wait = math.ceil(error.wait)
            raise TooManyRequests("Too many failed logins", retry_after=wait) from None
        raise Unauthorized(str(error), www_authenticate=WWWAuthenticate("bearer")) from None
    return _new_token(body.username, user, settings)


def _new_token(user_id: str, user: User, settings: Settings) -> Response:
    token = mint_token(settings, user_id, name=user.name, grants=user.grants, ttl=SESSION)
    return _logged_in(token, user_id, user.name or user_id)


def _logged_in(token: str, user_id: str, username: str) -> Response:
    answer = json_answer(
        {
            "access_token": token,
            "token_type": "bearer",
            "token": token,
            "user": {"user_id": user_id, "username": username},
        }
    )
    answer.headers["Cache-Control"] = "no-store"
    return answer
