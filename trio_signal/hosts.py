"""Host names and origins: whether they mean this machine, and whether one is allowed."""

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Whether a host name or address certainly means this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def name_of(host: str) -> str | None:
    """The name or address in a `Host`, without the port; None if it cannot be read."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:  # as of `[`
        return None


def is_of_this_machine(name: str) -> bool:
    """Whether it is an address, or a name that browsers resolve to loopback themselves."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
    return True


def host_of(origin: str) -> str | None:
    """The host in an origin, with the port; None if it cannot be read."""
    try:
        return urlsplit(origin).netloc
    except ValueError:  # as of `http://[`
        return None


def origin_matches(origin: str, allowed: str) -> bool:
    """Whether an origin is the allowed one, or a subdomain of `https://*.` and a name."""
    scheme, _, host = allowed.partition("://*.")
    if not host:
        return origin == allowed
    return origin.startswith(f"{scheme}://") and origin.endswith(f".{host}")
