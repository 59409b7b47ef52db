"""Logging in, and who one is then."""

import math

from msgspec import Struct
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import NotFound, ServiceUnavailable, TooManyRequests, Unauthorized

from trio_signal.auth import make_login_token, mint_token
from trio_signal.config import Settings
from trio_signal.errors import LoginBusyError, LoginError
from trio_signal.users import Login
from trio_signal.web.bodies import json_answer, read_body, read_form
from trio_signal.web.callers import Callers

#: Seconds that a token of the built-in login is good for.
SESSION = 12 * 3600.0


class LoginRequest(Struct):
    """The body of `POST /auth/login`."""

    username: str
    password: str


def add_accounts(app: QuartTrio, callers: Callers, settings: Settings) -> None:
    """Add the routes."""
    users = Login(settings.users_file) if settings.users_file is not None else None

    @app.post("/auth/login")
    async def login() -> Response:
        if request.mimetype == "application/json":
            body = await read_body(LoginRequest)
        else:  # as OAuth 2 clients send it
            body = await read_form(LoginRequest)
        if not settings.wants_tokens:  # any password does
            return _logged_in(make_login_token(body.username), body.username, body.username)
        if users is None:
            raise NotFound("There is no login here")
        callers.check_address()
        return await _check(users, body, callers, settings)

    @app.get("/auth/me")
    async def me() -> Response:
        user = await callers.require()
        return json_answer({"user_id": user.user_id, "username": user.username or user.user_id})


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
    token = mint_token(settings, body.username, name=user.name, grants=user.grants, ttl=SESSION)
    return _logged_in(token, body.username, user.name or body.username)


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
