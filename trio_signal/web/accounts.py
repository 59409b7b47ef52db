"""Logging in, and what those get who are."""

from msgspec import Struct
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import NotFound

from trio_signal.auth import Auth, make_login_token
from trio_signal.config import Settings
from trio_signal.web.bodies import json_answer, read_body, read_form
from trio_signal.web.callers import require_caller


class LoginRequest(Struct):
    """The body of `POST /auth/login`."""

    username: str
    password: str


def add_accounts(app: QuartTrio, auth: Auth, settings: Settings) -> None:
    """Add the routes."""

    @app.post("/auth/login")
    async def login() -> Response:
        """Open mode: any password does."""
        if settings.wants_tokens:
            raise NotFound("There is no login here")
        if request.mimetype == "application/json":
            body = await read_body(LoginRequest)
        else:  # as OAuth 2 clients send it
            body = await read_form(LoginRequest)
        token = make_login_token(body.username)
        return json_answer(
            {
                "access_token": token,
                "token_type": "bearer",
                "token": token,
                "user": {"user_id": body.username, "username": body.username},
            }
        )

    @app.get("/auth/me")
    async def me() -> Response:
        user = await require_caller(auth, settings)
        return json_answer({"user_id": user.user_id, "username": user.username or user.user_id})
