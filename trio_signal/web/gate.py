"""What is decided about a request before the app hears of it, so that to refuse is cheap.

Which pages may ask for what: a browser sends a request for any page, whatever its origin, and
keeps only the answer from it. So what another site's page causes is refused before it counts for
its visitor's address, and before it changes anything.
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

#: What platforms and load balancers ask all the time; it is answered without the app.
PROBES = frozenset({"/healthz", "/readyz"})
#: What any site may show, link to and load: it is the same for everybody, and changes nothing.
PUBLIC = ("/demo/", "/client/")
PUBLIC_FILES = PROBES | {"/", "/openapi.json", "/asyncapi.json"}

#: What a browser says of a link that its user followed, in a window and in no frame.
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


#: What `/healthz` says.
ALIVE = {"status": "ok"}


def readiness(hub: Hub) -> tuple[HTTPStatus, dict[str, str]]:
    """What `/readyz` says."""
    if hub.rooms.is_stopping:
        return HTTPStatus.SERVICE_UNAVAILABLE, {"status": "stopping"}
    reason = hub.degraded
    if reason is not None:
        return HTTPStatus.OK, {"status": "degraded", "reason": reason}
    return HTTPStatus.OK, {"status": "ready"}


def open_calls(settings: Settings) -> re.Pattern[str]:
    """The paths of calls that any site's pages may make: where tokens are wanted, of none."""
    dialects = () if settings.wants_tokens else map(DIALECTS.__getitem__, settings.dialects)
    paths = (route.path for dialect in dialects for route in dialect.routes() if route.public)
    patterns = (re.sub(r"{\w+}", "[^/]+", re.sub(r"{\w+:path}", ".+", path)) for path in paths)
    return re.compile("|".join(patterns) or "(?!)")


class Gate:
    """Lets requests in, or not; those for WebSockets pass by the listener instead."""

    def __init__(self, hub: Hub, settings: Settings, limits: Limits, metrics: Metrics) -> None:
        """Take what decides."""
        self._hub = hub
        self._settings = settings
        self._limits = limits
        self._metrics = metrics
        self._open_calls = open_calls(settings)
        #: Whether who asks too often may be kept waiting: no proxy that serves others.
        self.holds = not settings.trusted_proxies

    def admit(self, request: h11.Request, peer: str) -> str:
        """Let a request from a connection of `peer` in; the address that it is from.

        Does not block. Raises RequestRefusedError, and counts what it refuses.
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
            return True  # by the browser's word, which no page can forge; `none` is the user
        if len(fields.origins) > 1:
            return False
        if fields.origins or "*" in self._settings.allowed_origins:
            return self._settings.allows_origin(_first(fields.origins), fields.host)
        # A program that is no browser, or an old one; else a link, an image or the like, elsewhere.
        return fields.site is None or fields.is_followed

    def is_frugal(self, address: str) -> bool:
        """Whether an address keeps to its rate with one more request, though it is not refused."""
        if not self.holds:
            return True
        try:
            self._limits.count_request(address, trio.current_time())
        except RequestRefusedError:
            return False
        return True

    def probe(self, request: h11.Request) -> tuple[HTTPStatus, bytes] | None:
        """Status and JSON for who asks whether the server is alive or ready; else None."""
        if request.method != b"GET" or request.target.decode("latin-1") not in PROBES:
            return None
        if any(name in (b"content-length", b"transfer-encoding") for name, _ in request.headers):
            return None  # its end is the app's to find
        if request.target == b"/healthz":
            return HTTPStatus.OK, msgspec.json.encode(ALIVE)
        status, answer = readiness(self._hub)
        return status, msgspec.json.encode(answer)

    def sharing(self, request: h11.Request) -> list[tuple[bytes, bytes]]:
        """Headers by which an allowed page may read why its request was refused."""
        fields = _Fields(request)
        headers = sharing_headers(self._settings, _first(fields.origins), fields.host)
        return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


class _Fields:
    """What is looked at in a request."""

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
        # Who reads the one and who reads the other take the next request to begin elsewhere:
        # RFC 9112 section 6.1, which also knows no coding in HTTP/1.0.
        self.ends_twice = bool(codings and (lengths or request.http_version == b"1.0"))
        self.reads = reads = request.method in (b"GET", b"HEAD")
        public = self.path in PUBLIC_FILES or self.path.startswith(PUBLIC)
        # By OPTIONS browsers ask what a page may do; to ask is allowed.
        self.is_public = (reads and public) or request.method == b"OPTIONS"
        # A link elsewhere, which no page can follow for its visitor, nor see where it led.
        self.is_followed = reads and followed == len(_FOLLOWED)


def _first(values: list[str]) -> str | None:
    return values[0] if values else None


def sharing_headers(settings: Settings, origin: str | None, host: str | None) -> dict[str, str]:
    """The CORS headers of an answer to a page of `origin`.

    Cookies are for origins that are named: their pages are meant to act for the user that is
    logged in here. `*` names nobody.
    """
    headers = {"Vary": "Origin"}  # of every answer, or caches would give one site another's
    if origin is not None and settings.allows_origin(origin, host):
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = "ETag, Link, Location, Retry-After"
        if settings.names_origin(origin):
            headers["Access-Control-Allow-Credentials"] = "true"
    return headers
