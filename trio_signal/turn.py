"""Hosted TURN: fetches credentials from a service in advance; all clients share them.

Cloudflare's service shares no secret, but issues credentials over HTTPS. Clients never wait for
that: a task fetches credentials that are valid for twice `TRIO_SIGNAL_TURN_TTL`, and renews them
after half of their lifetime. So clients always get credentials that last for the whole TTL, and the
service can be unavailable for as long without consequences.
"""

import logging
from typing import NamedTuple

import msgspec
import trio
from msgspec import Struct

from trio_signal.cloudflare import CloudflareError, open_cloudflare, read
from trio_signal.metrics import Metrics

logger = logging.getLogger(__name__)

#: Maximum seconds for which Cloudflare's credentials are valid.
LONGEST = 172_800
#: Seconds until the next attempt after a failure: at first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
#: Seconds for an answer.
_PATIENCE = 3.0
#: Browsers block this port, but wait for it until they give up.
_BLOCKED = ":53"


class Issued(NamedTuple):
    """Credentials from the service, and its servers."""

    #: For `RTCPeerConnection`.
    servers: tuple[dict[str, object], ...]
    #: The URLs of the first server with credentials.
    urls: tuple[str, ...]
    username: str
    credential: str
    #: When they expire, by Trio's clock.
    until: float


class _Server(Struct):
    urls: list[str] | str
    username: str = ""
    credential: str = ""


class _Answer(Struct):
    iceServers: list[_Server]  # noqa: N815  the API's name


_decode = msgspec.json.Decoder(_Answer).decode


class HostedTurn:
    """The credentials of one key. The caller runs it."""

    def __init__(
        self, key_id: str, secret: str, ttl: int, metrics: Metrics, base_url: str | None = None
    ) -> None:
        """Take the key, and for how many seconds clients may use the credentials.

        `base_url` is the API's URL, if it is not Cloudflare's.
        """
        self._path = f"turn/keys/{key_id}/credentials/generate-ice-servers"
        self._secret = secret
        self._lifetime = min(2 * ttl, LONGEST)
        self._metrics = metrics
        self._base_url = base_url
        self._issued: Issued | None = None
        #: Why the last attempt failed; None if it succeeded.
        self.degraded: str | None = None
        #: Set after the first attempt.
        self.tried = trio.Event()

    @property
    def issued(self) -> Issued | None:
        """The current credentials; None if there are none that are valid."""
        issued = self._issued
        return issued if issued is not None and issued.until > trio.current_time() else None

    @property
    def seconds_left(self) -> int:
        """Seconds until they expire."""
        issued = self.issued
        return int(issued.until - trio.current_time()) if issued is not None else 0

    async def run(self) -> None:
        """Keep the credentials fresh until cancelled."""
        pause = _FIRST_PAUSE
        while True:
            if await self.refresh():
                pause = _FIRST_PAUSE
                await trio.sleep(self._lifetime / 2)
            else:
                await trio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def refresh(self) -> bool:
        """Fetch credentials once, and return whether that succeeded; if not, keep the old ones.

        Blocks for a few seconds at most.
        """
        asked = trio.current_time()
        try:
            self._issued = await self._fetch(asked)
        except CloudflareError as error:
            self._metrics.turn_credentials["failed"] += 1
            problem = f"Cloudflare's TURN service: {error}"
            if problem != self.degraded:
                logger.warning("cannot get TURN credentials: %s", error)
            self.degraded = problem
        else:
            self._metrics.turn_credentials["issued"] += 1
            if self.degraded is not None:
                logger.info("got TURN credentials again")
            self.degraded = None
        self.tried.set()
        return self.degraded is None

    async def _fetch(self, asked: float) -> Issued:
        # Credentials are fetched too rarely to keep a connection open.
        async with open_cloudflare(self._secret, self._base_url, _PATIENCE) as cloudflare:
            answer = await cloudflare.ask("POST", self._path, {"ttl": self._lifetime})
        return read_issued(answer, asked + self._lifetime)


def read_issued(answer: bytes, until: float) -> Issued:
    """Read an answer; raises CloudflareError for one without credentials."""
    given = read(_decode, answer).iceServers
    servers: list[dict[str, object]] = []
    found: Issued | None = None
    for server in given:
        listed = [server.urls] if isinstance(server.urls, str) else server.urls
        urls = tuple(url for url in listed if not url.partition("?")[0].endswith(_BLOCKED))
        if not urls:
            continue
        if not server.username or not server.credential:
            servers.append({"urls": urls})
            continue
        credentials = {"username": server.username, "credential": server.credential}
        servers.append({"urls": urls, **credentials})
        found = found or Issued((), urls, **credentials, until=until)
    if found is None:
        raise CloudflareError("gave an answer without credentials")
    return found._replace(servers=tuple(servers))
