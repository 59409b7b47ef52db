"""Who sends a request, and whether the sender may do so."""

from hmac import compare_digest

import trio
from quart import request

from trio_signal.auth import Auth, find_token, read_login_token
from trio_signal.config import Settings
from trio_signal.cookies import find_user
from trio_signal.errors import AuthenticationError, HttpError, IdentityMismatchError, Reason
from trio_signal.limits import Limits, client_address, network_of
from trio_signal.messages.commands import Authenticate
from trio_signal.messages.identity import Identity
from trio_signal.metrics import Metrics
from trio_signal.names import MAX_ID
from trio_signal.pacing import cost_of_delivery

#: Methods that change nothing.
_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Callers:
    """Identifies the sender of the current request. Addresses that fail too often are refused.

    "Aborts" means: raises HttpError with that status.
    """

    def __init__(self, auth: Auth, settings: Settings, limits: Limits, metrics: Metrics) -> None:
        """Use these parts; nothing is checked yet."""
        self._auth = auth
        self._settings = settings
        self._limits = limits
        self._metrics = metrics

    async def find(self, said: str | None = None) -> Identity | None:
        """The sender's identity; None if the request names none.

        `said` is a claim found elsewhere than in the query. Aborts with 401 if the token is
        invalid, and with 403 if another site may have made a browser send its cookie. Raises
        RequestRefusedError instead for an address that failed too often.
        """
        found = find_token(request.headers.getlist, request.args)
        claimed = request.args.get("user_id") or said or None
        token = found.text if found is not None else None
        login = read_login_token(token)
        user_id = claimed or (login.sub if login is not None else "")
        if len(user_id) > MAX_ID:
            raise HttpError(400, f"An id has {MAX_ID} characters at most.")
        if found is None and claimed is None:
            return None
        if found is not None and found.from_cookie and request.method not in _READING:
            _check_origin(self._settings)
        try:
            identity = await self._auth.authenticate(Authenticate(user_id, token, claimed=claimed))
        except IdentityMismatchError as error:
            self._fail()
            raise HttpError(403, str(error)) from None
        except AuthenticationError as error:
            self._fail()
            raise _unauthorized(str(error)) from None
        return identity if identity.user_id else None

    async def require(self) -> Identity:
        """The sender's identity; aborts with 401 if the request names none."""
        identity = await self.find()
        if identity is None:
            raise _unauthorized("Authentication required")
        return identity

    async def find_entrant(self, room_id: str) -> Identity | None:
        """The sender's identity for a question about a room; None in open mode, for everybody.

        In token mode, aborts with 401 without a token, and with 403 if the token does not cover
        this room, whether the room exists or not.
        """
        if not self._settings.wants_tokens:
            return None
        caller = await self.require()
        if not caller.grants.admit(room_id):
            raise HttpError(403, "Not allowed in this room")
        return caller

    async def find_remembered(self) -> Identity | None:
        """The identity in the cookie of a handshake; None in token mode, or without a cookie.

        Requests from pages of other sites have none.
        """
        origin, host = request.headers.get("Origin"), request.headers.get("Host")
        if self._settings.wants_tokens or (
            origin is not None and not self._settings.trusts_origin(origin, host)
        ):
            return None
        user_id = find_user(request.headers.getlist)
        return await self.find(user_id) if user_id is not None else None

    def charge(self, tokens: float) -> None:
        """Charge the sender's address for what the request sends to others."""
        self._limits.charge_request(request_address(self._settings), tokens, trio.current_time())

    def charge_deliveries(self, peers: int, size: int) -> None:
        """Charge the sender's address for sending `size` bytes to `peers` peers."""
        self.charge(peers * cost_of_delivery(size))

    def _fail(self) -> None:
        """Count a failed authentication; refuse the address if it failed too often."""
        self.check_address()
        self.count_failure()

    def check_address(self) -> None:
        """Raise RequestRefusedError if the sender's address failed too often."""
        self._limits.check_failures(request_address(self._settings), trio.current_time())

    @property
    def network(self) -> str:
        """The network that limits count as the sender's address."""
        return network_of(request_address(self._settings))

    def count_failure(self) -> None:
        """Count a failed authentication of the sender."""
        self._metrics.count_refused(Reason.AUTHENTICATION)
        self._limits.count_failure(request_address(self._settings), trio.current_time())


def require_bearer(token: str) -> None:
    """Abort with 401 unless the current request has exactly this bearer token."""
    found = find_token(request.headers.getlist, {})
    given = found.text if found is not None and not found.from_cookie else ""
    if not compare_digest(given.encode(errors="replace"), token.encode()):
        raise _unauthorized("Authentication required")


def _unauthorized(detail: str) -> HttpError:
    return HttpError(401, detail, {"WWW-Authenticate": "Bearer"})


def _check_origin(settings: Settings) -> None:
    origin = request.headers.get("Origin")
    if origin is None or not settings.trusts_origin(origin, request.headers.get("Host")):
        raise HttpError(403, "Pages of this origin may not do this")


def request_address(settings: Settings) -> str:
    """The address of the sender, as reported by the trusted proxies."""
    forwarded = request.headers.getlist("X-Forwarded-For")
    return client_address(request.remote_addr or "", forwarded, settings.trusted_proxies)
