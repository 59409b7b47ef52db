"""A hosted TURN service: credentials that it issues are fetched ahead, and are the same for all.

Cloudflare's, which has no secret to share: it is asked for credentials by HTTPS. Nobody who
connects waits for that. A task fetches them before they are needed, twice as long as a client may
use them, and again at half of that time: so what a client is told lasts for the whole
`TRIO_SIGNAL_TURN_TTL`, and the service may be away for as long before anybody notices.
"""

import logging
from typing import NamedTuple

import msgspec
import trio
from msgspec import Struct

from trio_signal.cloudflare import CloudflareError, open_cloudflare, read
from trio_signal.metrics import Metrics

logger = logging.getLogger(__name__)

#: Seconds that Cloudflare's credentials last at most.
LONGEST = 172_800
#: Seconds until the next attempt after one that failed: at first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
#: Seconds for an answer.
_PATIENCE = 3.0
#: A browser does not speak to this port, and waits for it until it gives up.
_BLOCKED = ":53"


class Issued(NamedTuple):
    """What the service gave."""

    #: For `RTCPeerConnection`.
    servers: tuple[dict[str, object], ...]
    #: The one with credentials, among them.
    urls: tuple[str, ...]
    username: str
    credential: str
    #: Until when they last, by the clock of Trio.
    until: float


class _Server(Struct):
    urls: list[str] | str
    username: str = ""
    credential: str = ""


class _Answer(Struct):
    iceServers: list[_Server]  # noqa: N815  the API's name


_decode = msgspec.json.Decoder(_Answer).decode


class HostedTurn:
    """The credentials of one key. Whoever made it runs it."""

    def __init__(
        self, key_id: str, secret: str, ttl: int, metrics: Metrics, base_url: str | None = None
    ) -> None:
        """Take the key, and for how many seconds clients may use what they are told.

        `base_url` is where the API is, if it is not Cloudflare's.
        """
        self._path = f"turn/keys/{key_id}/credentials/generate-ice-servers"
        self._secret = secret
        self._lifetime = min(2 * ttl, LONGEST)
        self._metrics = metrics
        self._base_url = base_url
        self._issued: Issued | None = None
        #: Why there were none at the last attempt; None if all is well.
        self.degraded: str | None = None
        #: An attempt was made.
        self.tried = trio.Event()

    @property
    def issued(self) -> Issued | None:
        """What clients may use now; None if there is nothing."""
        issued = self._issued
        return issued if issued is not None and issued.until > trio.current_time() else None

    @property
    def seconds_left(self) -> int:
        """How long that lasts."""
        issued = self.issued
        return int(issued.until - trio.current_time()) if issued is not None else 0

    async def run(self) -> None:
        """Fetch them, again and again; until cancelled."""
        pause = _FIRST_PAUSE
        while True:
            if await self.refresh():
                pause = _FIRST_PAUSE
                await trio.sleep(self._lifetime / 2)
            else:
                await trio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    async def refresh(self) -> bool:
        """Fetch them once; whether that could be done. The old ones are kept if not."""
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
        # They are fetched too seldom for a connection to be worth keeping.
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
