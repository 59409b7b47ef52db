"""Reach: whether UDP from this machine reaches the addresses that a Janus offers to browsers."""

import re
import secrets
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import trio

from trio_signal.relay import Ingest, RelayError
from trio_signal.stun import connectivity_check, reach

#: Seconds for an answer from each address.
PATIENCE = 1.5
#: How many addresses are tried.
_MOST = 8
_UFRAG = re.compile(r"^a=ice-ufrag:(\S+)", re.MULTILINE)
_PASSWORD = re.compile(r"^a=ice-pwd:(\S+)", re.MULTILINE)
_CANDIDATE = re.compile(
    r"^a=candidate:\S+ 1 udp \d+ (\S+) (\d{1,5}) typ ", re.MULTILINE | re.IGNORECASE
)
#: A broadcaster of sound; it never sends any.
_OFFER = """\
v=0
o=- 1 1 IN IP4 127.0.0.1
s=-
t=0 0
m=audio 9 UDP/TLS/RTP/SAVPF 111
c=IN IP4 0.0.0.0
a=mid:0
a=sendonly
a=rtcp-mux
a=rtpmap:111 opus/48000/2
a=setup:actpass
a=fingerprint:sha-256 {fingerprint}
a=ice-ufrag:{ufrag}
a=ice-pwd:{password}
"""


class End(NamedTuple):
    """The other end of ICE."""

    ufrag: str
    password: str
    #: Hosts and ports that take UDP.
    addresses: tuple[tuple[str, int], ...]


def end_of(answer: str) -> End:
    """Read an answer; raises RelayError."""
    ufrag, password = _UFRAG.search(answer), _PASSWORD.search(answer)
    if ufrag is None or password is None:
        raise RelayError("the media server's answer has no ice-ufrag and ice-pwd")
    found = dict.fromkeys((host, int(port)) for host, port in _CANDIDATE.findall(answer))
    return End(ufrag[1], password[1], tuple(found)[:_MOST])


async def try_addresses(ingest: Ingest) -> dict[str, bool]:
    """By each address of the media server, whether it answers a connectivity check.

    Makes an offer as a broadcaster would. Raises RelayError; the caller closes the ingest.
    """
    ours = secrets.token_hex(4)
    fingerprint = secrets.token_bytes(32).hex(":").upper()
    password = secrets.token_hex(16)
    offer = _OFFER.format(fingerprint=fingerprint, ufrag=ours, password=password)
    end = end_of(await ingest.offer(offer.replace("\n", "\r\n")))
    check = partial(connectivity_check, username=f"{end.ufrag}:{ours}", password=end.password)
    found = {host: False for host, _ in end.addresses}

    async def ask(host: str, port: int) -> None:
        with suppress(OSError, UnicodeError, OverflowError):
            await reach(host, port, check)
            found[host] = True

    with trio.move_on_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for host, port in end.addresses:
                nursery.start_soon(ask, host, port)
    return found
