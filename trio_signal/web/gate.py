"""Checks of a request before it reaches the app, so that refusing is cheap.

A browser sends any page's request, whatever its origin, and only withholds the answer from the
page. So requests caused by pages of other sites are refused here, before they count against their
visitor's address, and before they change anything.
"""

import re
from http import HTTPStatus

import h11
import msgspec
import trio

from trio_signal.config import Settings
from trio_signal.dialects import DIALECTS
from trio_signal.errors import Reason, RequestRefusedError
from trio_signal.hub import Hub
from trio_signal.limits import Limits, client_address, network_of
from trio_signal.metrics import Metrics

#: Health checks of platforms and load balancers, answered without the app.
PROBES = frozenset({"/healthz", "/readyz"})
#: Paths that any site may show, link to and load: the same for everybody, without side effects.
PUBLIC = ("/demo/", "/client/")
PUBLIC_FILES = PROBES | {"/", "/openapi.json", "/asyncapi.json"}

#: A browser's headers for a link that its user followed in a window, not in a frame.
_FOLLOWED = frozenset(
    {
        (b"sec-fetch-mode", b"navigate"),
        (b"sec-fetch-dest", b"document"),
        (b"sec-fetch-user", b"?1"),
    }
)

HOST_TEXT = (
    "An open server on loopback does not answer to this host name. Use localhost, "
    "or list the site in TRIO_SIGNAL_ALLOWED_ORIGINS."
)
ORIGIN_TEXT = "Pages of this origin may not make this request."


#: The answer of `/healthz`.
ALIVE = {"status": "ok"}


def readiness(hub: Hub) -> tuple[HTTPStatus, dict[str, str]]:
    """The answer of `/readyz`."""
    if hub.rooms.is_stopping:
        return HTTPStatus.SERVICE_UNAVAILABLE, {"status": "stopping"}
    reason = hub.degraded
    if reason is not None:
        return HTTPStatus.OK, {"status": "degraded", "reason": reason}
    return HTTPStatus.OK, {"status": "ready"}


def open_calls(settings: Settings) -> re.Pattern[str]:
    """The paths that any site's pages may call; none in token mode."""
    dialects = () if settings.wants_tokens else map(DIALECTS.__getitem__, settings.dialects)
    paths = (route.path for dialect in dialects for route in dialect.routes() if route.public)
    patterns = (re.sub(r"{\w+}", "[^/]+", re.sub(r"{\w+:path}", ".+", path)) for path in paths)
    return re.compile("|".join(patterns) or "(?!)")


class Gate:
    """Admits or refuses requests. WebSocket handshakes take another way, through the listener."""

    def __init__(self, hub: Hub, settings: Settings, limits: Limits, metrics: Metrics) -> None:
        """Use these parts for the checks."""
        self._hub = hub
        self._settings = settings
        self._limits = limits
        self._metrics = metrics
        self._open_calls = open_calls(settings)
        #: Whether a client above its rate may be kept waiting; not behind a proxy, whose
        #: connections carry other clients' requests too.
        self.holds = not settings.trusted_proxies

    def admit(self, request: h11.Request, peer: str) -> str:
        """Admit a request on a connection from `peer`; return the client's network.

        Does not block. Raises RequestRefusedError, and counts the refusal.
        """
        try:
            return self._check(request, peer)
        except RequestRefusedError as refusal:
            self._metrics.count_refused(refusal.reason)
            raise

    def _check(self, request: h11.Request, peer: str) -> str:
        fields = _Fields(request)
        if fields.ends_twice:
            text = "A request must not have both Content-Length and Transfer-Encoding."
            raise RequestRefusedError(HTTPStatus.BAD_REQUEST, Reason.BAD_REQUEST, text)
        address = client_address(peer, fields.forwarded, self._settings.trusted_proxies)
        if fields.path in PROBES:
            if not _is_probe(request):
                self._limits.count_request(address, trio.current_time())
            return network_of(address)
        if not self._settings.allows_host(fields.host):
            raise RequestRefusedError(HTTPStatus.MISDIRECTED_REQUEST, Reason.HOST, HOST_TEXT)
        if not (fields.is_public or self._is_open_call(fields) or self._allows_sender(fields)):
            raise RequestRefusedError(HTTPStatus.FORBIDDEN, Reason.ORIGIN, ORIGIN_TEXT)
        self._limits.count_request(address, trio.current_time())
        return network_of(address)

    def _is_open_call(self, fields: "_Fields") -> bool:
        return fields.reads and self._open_calls.fullmatch(fields.path) is not None

    def _allows_sender(self, fields: "_Fields") -> bool:
        if fields.site in ("same-origin", "none"):
            return True  # set by the browser, no page can forge it; `none`: the user
        if len(fields.origins) > 1:
            return False
        if fields.origins or "*" in self._settings.allowed_origins:
            return self._settings.allows_origin(_first(fields.origins), fields.host)
        # A program that is not a browser, or an old browser; otherwise a link, an image or the like
        # on another site.
        return fields.site is None or fields.is_followed

    def is_frugal(self, address: str) -> bool:
        """Whether an address stays within its rate with one more request; does not refuse it."""
        if not self.holds:
            return True
        try:
            self._limits.count_request(address, trio.current_time())
        except RequestRefusedError:
            return False
        return True

    def probe(self, request: h11.Request) -> tuple[HTTPStatus, bytes] | None:
        """Status and JSON for a health check; None for other requests."""
        if not _is_probe(request):
            return None
        if request.target == b"/healthz":
            return HTTPStatus.OK, msgspec.json.encode(ALIVE)
        status, answer = readiness(self._hub)
        return status, msgspec.json.encode(answer)

    def sharing(self, request: h11.Request) -> list[tuple[bytes, bytes]]:
        """CORS headers that let an allowed page read why its request was refused."""
        fields = _Fields(request)
        headers = sharing_headers(self._settings, _first(fields.origins), fields.host)
        return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


def _is_probe(request: h11.Request) -> bool:
    """Whether this is a health check that costs next to nothing; others go to the app."""
    if request.method != b"GET" or request.target.decode("latin-1") not in PROBES:
        return False
    # Only the app finds the end of a body.
    return not any(name in (b"content-length", b"transfer-encoding") for name, _ in request.headers)


class _Fields:
    """The fields of a request that the gate checks."""

    __slots__ = (
        *("ends_twice", "forwarded", "host", "is_followed"),
        *("is_public", "origins", "path", "reads", "site"),
    )

    def __init__(self, request: h11.Request) -> None:
        self.path = request.target.partition(b"?")[0].decode("latin-1")
        self.origins: list[str] = []
        self.forwarded: list[str] = []
        self.host = self.site = None
        lengths = codings = followed = 0
        for name, value in request.headers:
            if name == b"host":
                self.host = value.decode("latin-1")
            elif name == b"origin":
                self.origins.append(value.decode("latin-1"))
            elif name == b"sec-fetch-site":
                self.site = value.decode("latin-1").strip().lower()
            elif (name, value) in _FOLLOWED:
                followed += 1
            elif name == b"x-forwarded-for":
                self.forwarded.append(value.decode("latin-1"))
            elif name == b"content-length":
                lengths += 1
            elif name == b"transfer-encoding":
                codings += 1
        # Programs that trust one header see the next request begin elsewhere than programs that
        # trust the other: RFC 9112 section 6.1. HTTP/1.0 has no transfer codings.
        self.ends_twice = bool(codings and (lengths or request.http_version == b"1.0"))
        self.reads = reads = request.method in (b"GET", b"HEAD")
        public = self.path in PUBLIC_FILES or self.path.startswith(PUBLIC)
        # OPTIONS only asks what a page may do, which is always allowed.
        self.is_public = (reads and public) or request.method == b"OPTIONS"
        # A link on another site that the user followed: no page can do that for the user, nor see
        # the result.
        self.is_followed = reads and followed == len(_FOLLOWED)


def _first(values: list[str]) -> str | None:
    return values[0] if values else None


def sharing_headers(settings: Settings, origin: str | None, host: str | None) -> dict[str, str]:
    """The CORS headers of an answer to a page of `origin`.

    Only origins that are listed by name may use cookies: their pages act for the logged-in user.
    `*` lists nobody by name.
    """
    headers = {"Vary": "Origin"}  # on every answer, or caches would mix up sites
    if origin is not None and settings.allows_origin(origin, host):
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = "ETag, Link, Location, Retry-After"
        if settings.names_origin(origin):
            headers["Access-Control-Allow-Credentials"] = "true"
    return headers
