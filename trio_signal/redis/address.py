"""Where a Redis is, and how to get in: a URL taken apart."""

import logging
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from redis.connection import parse_url

logger = logging.getLogger(__name__)

DEFAULT_PORT = 6379
#: What may stand behind the `?` of a URL. Another name is an error, not ignored:
#: a misspelt `ssl_ca_certs` would otherwise go unnoticed.
TLS_OPTIONS = frozenset(
    {"ssl_ca_certs", "ssl_cert_reqs", "ssl_check_hostname", "ssl_certfile", "ssl_keyfile"}
)
OPTIONS = TLS_OPTIONS | {"db"}


@dataclass(frozen=True, slots=True)
class Address:
    """A Redis, and who we are to it. Its text holds no password."""

    host: str
    port: int
    path: str | None
    username: str
    password: str | None = field(repr=False)
    db: int
    tls: ssl.SSLContext | None

    def __str__(self) -> str:
        """What a log or an error says of it."""
        if self.path is not None:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.tls else 'redis'}://{host}:{self.port}/{self.db}"


def parse_address(url: str, *, ca_file: str | None = None) -> Address:
    """Take a `redis://`, `rediss://` or `unix://` URL apart, and read its certificates.

    `ca_file` is the CA that must have signed the server's certificate, unless
    the URL names one. Raises ValueError, which never quotes the URL, and OSError
    if a file of certificates cannot be read.
    """
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
    )
    if address.tls is not None and not address.tls.check_hostname:
        logger.warning(
            "the certificate of %s is NOT fully checked, as its URL demands: "
            "whoever is between can read and change everything",
            address,
        )
    return address


def _parse(url: str) -> dict[str, Any]:
    try:
        given: dict[str, Any] = parse_url(url)  # type: ignore[no-untyped-call]
        parts = urlsplit(url)
        if parts.scheme != "unix" and parts.path.strip("/"):
            given.setdefault("db", int(parts.path.strip("/")))
    except ValueError:
        # Not chained: a password with a bare `/` in it is quoted as "the port".
        raise ValueError(
            "the Redis URL is not like redis[s]://[[user]:password@]host[:port][/db][?options] "
            "or unix:///path; percent-encode what is special in a password"
        ) from None
    given.pop("connection_class", None)
    return {**given, "tls": parts.scheme == "rediss"}


def _tls_context(given: dict[str, Any], ca_file: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=given.get("ssl_ca_certs", ca_file))
    checks = given.get("ssl_cert_reqs", "required")
    if checks not in ("required", "none"):
        raise ValueError("ssl_cert_reqs in the Redis URL is `required` or `none`")
    context.check_hostname = checks == "required" and given.get("ssl_check_hostname", True)
    if checks == "none":
        context.verify_mode = ssl.CERT_NONE
    if "ssl_certfile" in given:
        context.load_cert_chain(given["ssl_certfile"], given.get("ssl_keyfile"))
    return context
