"""The address of a Redis and how to log in, parsed from a URL."""

import logging
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from redis.connection import parse_url

logger = logging.getLogger(__name__)

DEFAULT_PORT = 6379
#: The allowed options of a URL. Others are an error: a misspelt `ssl_ca_certs` would otherwise go
#: unnoticed.
TLS_OPTIONS = frozenset(
    {"ssl_ca_certs", "ssl_cert_reqs", "ssl_check_hostname", "ssl_certfile", "ssl_keyfile"}
)
OPTIONS = TLS_OPTIONS | {"db", "sentinel_password"}
#: Valkey speaks the same protocol.
_SCHEMES = {"valkey": "redis", "valkeys": "rediss"}
_SENTINEL_PORT = 26379


@dataclass(frozen=True, slots=True)
class Address:
    """Where a Redis is, and our credentials. `str()` shows no password."""

    host: str
    port: int
    path: str | None
    username: str
    password: str | None = field(repr=False)
    db: int
    tls: ssl.SSLContext | None
    #: The Sentinels to ask for the primary of `service`; host and port are then unused.
    sentinels: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        """The address as logs and errors show it."""
        if self.sentinels:
            hosts = ",".join(f"{host}:{port}" for host, port in self.sentinels)
            scheme = "rediss+sentinel" if self.tls else "redis+sentinel"
            return f"{scheme}://{hosts}/{self.service}/{self.db}"
        if self.path is not None:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.db}"


def parse_address(url: str, *, ca_file: str | None = None) -> Address:
    """Parse a URL, and load its certificates.

    The scheme is `redis`, `rediss`, `valkey`, `valkeys`, `unix`, `redis+sentinel` or
    `rediss+sentinel`; the last two name Sentinels and a service. `ca_file` is the CA that must have
    signed the server's certificate, unless the URL names one. Raises ValueError, which never quotes
    the URL, and OSError if a certificate file cannot be read.
    """
    url, sentinels, service = _take_out_sentinels(url)
    given = _parse(url)
    unknown = given.keys() - OPTIONS - {"host", "port", "path", "username", "password", "tls"}
    if unknown:
        raise ValueError(f"unknown option in the Redis URL: {', '.join(sorted(unknown))}")
    tls = given.pop("tls")
    if not tls and given.keys() & TLS_OPTIONS:
        raise ValueError("ssl_ options in the Redis URL need rediss://")
    address = Address(
        host=given.get("host", "localhost"),
        port=given.get("port", DEFAULT_PORT),
        path=given.get("path"),
        username=given.get("username", "default"),
        password=given.get("password"),
        db=given.get("db", 0),
        tls=_tls_context(given, ca_file) if tls else None,
        sentinels=sentinels,
        service=service,
        sentinel_password=given.get("sentinel_password"),
    )
    if address.tls is not None and not address.tls.check_hostname:
        logger.warning(
            "the certificate of %s is NOT fully verified, because its URL says so: "
            "anybody in between can read and change the data",
            address,
        )
    return address


def _take_out_sentinels(url: str) -> tuple[str, tuple[tuple[str, int], ...], str]:
    """Split a URL into the rest, its Sentinels and its service."""
    scheme, separator, rest = url.partition("+sentinel://")
    if not separator:
        scheme, separator, rest = url.partition("://")
        return f"{_SCHEMES.get(scheme, scheme)}{separator}{rest}", (), ""
    place, question_mark, options = rest.partition("?")
    before, _, place = place.rpartition("@")
    hosts, _, path = place.partition("/")
    service, _, db = path.partition("/")
    try:
        sentinels = tuple(map(_host_and_port, hosts.split(",")))
    except ValueError:
        sentinels = ()
    if not sentinels or not service:
        raise _MISSHAPEN
    credentials = f"{before}@" if before else ""
    return f"{scheme}://{credentials}sentinel/{db}{question_mark}{options}", sentinels, service


def _host_and_port(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(text)
    return parts.hostname, parts.port or _SENTINEL_PORT


_MISSHAPEN = ValueError(
    "the Redis URL must look like redis[s]://[[user]:password@]host[:port][/db][?options], "
    "redis[s]+sentinel://[[user]:password@]host[:port][,host[:port]...]/service[/db] "
    "or unix:///path; percent-encode what is special in a password"
)


def _parse(url: str) -> dict[str, Any]:
    try:
        given: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        parts = urlsplit(url)
        if parts.scheme != "unix" and parts.path.strip("/"):
            given.setdefault("db", int(parts.path.strip("/")))
    except ValueError:
        # Not chained: the original error quotes a password with a bare `/` as "the port".
        raise _MISSHAPEN from None
    given.pop("connection_class", None)
    return {**given, "tls": parts.scheme == "rediss"}


def _tls_context(given: dict[str, Any], ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=given.get("ssl_ca_certs", ca_file))
    checks = given.get("ssl_cert_reqs", "required")
    if checks not in ("required", "none"):
        raise ValueError("ssl_cert_reqs in the Redis URL must be `required` or `none`")
    context.check_hostname = checks == "required" and given.get("ssl_check_hostname", True)
    if checks == "none":
        context.verify_mode = ssl.CERT_NONE
    if "ssl_certfile" in given:
        context.load_cert_chain(given["ssl_certfile"], given.get("ssl_keyfile"))
    return context
