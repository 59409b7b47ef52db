"""API keys: access to the server API."""

import time
import warnings
from hmac import compare_digest

import jwt
from quart import request

from trio_signal.auth import MAX_TOKEN, Auth, find_token
from trio_signal.config import Settings
from trio_signal.errors import AuthenticationError, HttpError
from trio_signal.messages.commands import Authenticate
from trio_signal.tokens import LEEWAY
from trio_signal.web.callers import Callers

#: Longest lifetime in seconds of a JWT signed with a key.
MAX_KEY_TTL = 600


class KeyRing:
    """Checks API keys, and tokens with the grant `admin`, which allow the same."""

    def __init__(self, auth: Auth, callers: Callers, settings: Settings) -> None:
        """Use these parts; nothing is checked yet."""
        self._auth = auth
        self._callers = callers
        self._settings = settings
        self._secrets = settings.secrets_by_key

    async def require(self) -> None:
        """Return if the current request has a valid key; raises HttpError with 401 or 403.

        Addresses that fail too often are refused, unless they send a valid key.
        """
        found = find_token(request.headers.getlist, {})
        if found is None or found.from_cookie:
            raise _unauthorized("An API key is needed")
        token = found.text
        given = token.encode(errors="replace")
        if any(compare_digest(given, secret.encode()) for secret in self._secrets.values()):
            return
        try:
            if self._is_signed(token):
                return
            identity = None
            if self._settings.wants_tokens:
                identity = await self._auth.authenticate(Authenticate("", token))
        except jwt.ExpiredSignatureError:
            problem = "The token has expired"
        except (jwt.PyJWTError, AuthenticationError):
            problem = "The API key is wrong"
        else:
            if identity is not None and identity.grants.admin:
                return
            if identity is not None:
                raise HttpError(403, "The token does not grant the server API")
            problem = "The API key is wrong"
        self._callers.check_address()
        self._callers.count_failure()
        raise _unauthorized(problem)

    def _is_signed(self, token: str) -> bool:
        """Whether the token is a JWT signed with a key's secret; raises PyJWTError."""
        if len(token) > MAX_TOKEN or token.count(".") != 2:
            return False
        said = jwt.decode(token, options={"verify_signature": False})
        secret = self._secrets.get(str(said.get("iss")))
        if secret is None:
            return False
        with warnings.catch_warnings():  # the server warns of short secrets at startup
            warnings.simplefilter("ignore")
            said = jwt.decode(
                token,
                secret,
                algorithms=["HS256"],
                leeway=LEEWAY,
                options={"require": ["exp", "iss"], "verify_aud": False},
            )
        if float(said["exp"]) > time.time() + MAX_KEY_TTL + LEEWAY:
            raise jwt.InvalidTokenError("its exp is too far ahead")
        return True


def _unauthorized(text: str) -> HttpError:
    return HttpError(401, text, {"WWW-Authenticate": "Bearer"})
