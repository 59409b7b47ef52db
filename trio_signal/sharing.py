"""Sharing with phones: https, at this machine's address in the local network.

Browsers allow camera and microphone only on https pages, and on pages of the same machine.
"""

import datetime
import io
import secrets
import socket
import ssl
from contextlib import suppress
from typing import NamedTuple

import segno

from trio_signal.errors import ConfigError
from trio_signal.tls import make_certificate, make_context

#: An address that nobody has (RFC 5737): packets for it would go to the default router.
_ELSEWHERE = ("192.0.2.1", 9)
#: The addresses that stand for all addresses of the machine: of IPv4, and of both.
ANY = "0.0.0.0"  # noqa: S104
ANY_IPV6 = "::"
_ALL = {ANY, ANY_IPV6}
#: White on black, whatever the terminal's colours: not every phone can scan an inverted code.
_CODE_LINE = "  \x1b[97;40m{}\x1b[0m\n"


class Sharing(NamedTuple):
    """How phones in the local network reach this server."""

    #: This machine's name or address in the local network.
    host: str
    #: A proposed room, so that a phone and this machine join the same call.
    room: str
    tls: ssl.SSLContext

    def invite(self, url: str, *, qr: bool) -> str:
        """The text for the terminal: a link to a call, optionally also as a QR code."""
        link = f"{url}/demo/call?room={self.room}"
        return (
            "Open this on your phone and on this computer, to bring both into one call:\n\n"
            f"  {link}\n\n{_code_of(link) if qr else ''}"
            "Each browser warns once, because no authority signed the certificate: choose\n"
            "“Advanced”, then continue. The phone must be in the same network."
        )


def open_sharing(host: str) -> Sharing:
    """Make a certificate for this machine, which listens on `host`.

    Raises ConfigError if the machine is in no network. Does not block, and leaves no files.
    """
    address = find_address() if host in _ALL else host
    now = datetime.datetime.now(datetime.UTC)
    names = dict.fromkeys((address, "localhost", "127.0.0.1", "::1", socket.gethostname()))
    room = f"call-{secrets.randbelow(9000) + 1000}"
    return Sharing(address, room, make_context(*make_certificate(names, now)))


def find_address() -> str:
    """Find this machine's address in its network; raises ConfigError if it is in none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, suppress(OSError):
        probe.connect(_ELSEWHERE)  # sends nothing
        return str(probe.getsockname()[0])
    raise ConfigError(
        "this machine has no address in a local network; if it has one, pass it with --host"
    )


def _code_of(link: str) -> str:
    drawn = io.StringIO()
    segno.make(link, error="l").terminal(drawn, border=2, compact=True)
    return "".join(map(_CODE_LINE.format, drawn.getvalue().splitlines())) + "\n"


def url_of(scheme: str, host: str, port: int) -> str:
    """The URL of a server."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
