"""An app at Cloudflare as a node."""

import logging
from contextlib import ExitStack

import trio

from trio_signal.cloudflare import CloudflareError, open_cloudflare
from trio_signal.config import Settings
from trio_signal.relay import DEADLINE, Ingest, Node, RelayError, Report, Viewing
from trio_signal.relay.cloudflare.app import App
from trio_signal.relay.cloudflare.keeper import Keeper
from trio_signal.relay.cloudflare.legs import CloudflareIngest, CloudflareViewing

logger = logging.getLogger(__name__)

#: Seconds between two checks of the API, while it works and while it fails.
_WELL, UNWELL = 10.0, 2.0


def open_cloudflare_node(url: str, settings: Settings) -> "CloudflareNode":
    """Make a node from `cloudflare:APP_ID`."""
    token = settings.relay_token.get_secret_value() if settings.relay_token is not None else ""
    return CloudflareNode(url.partition(":")[2], token, settings.relay_bitrate)


class CloudflareNode(Node):
    """One app at Cloudflare."""

    def __init__(self, app_id: str, token: str, bitrate: int, base_url: str | None = None) -> None:
        """Take the app's id and secret, and a broadcast's bit rate limit for video.

        `base_url` is for an API that is not Cloudflare's own.
        """
        self.name = f"cloudflare:{app_id}"
        self._app_id, self._token, self._base_url = app_id, token, base_url
        self._keeper = Keeper(self.name, bitrate)
        self._problem: str | None = "not asked yet"

    @property
    def degraded(self) -> str | None:
        """Why the node cannot be used now; None if it can."""
        return self._problem

    async def run(self) -> None:
        """Check the API regularly; until cancelled."""
        with ExitStack() as stack:
            async with (
                open_cloudflare(self._token, self._base_url, DEADLINE) as api,
                trio.open_nursery() as nursery,
            ):
                stack.callback(self._end)
                app = App(api, self._app_id)
                self._keeper.begin(app, nursery)
                await self._watch(app)

    async def probe(self) -> Report:
        """Check the API once, for the doctor, within `DEADLINE`. Raises RelayError."""
        try:
            async with open_cloudflare(self._token, self._base_url, DEADLINE) as api:
                await self._look(App(api, self._app_id), None)
        except CloudflareError as error:
            raise RelayError(str(error)) from None
        return Report("it answers")

    def ingest(self, label: str) -> Ingest:
        """Make an ingest."""
        return CloudflareIngest(self._keeper, label)

    def view(self, feed: str) -> Viewing:
        """Make a viewing of a feed."""
        return CloudflareViewing(self._keeper, feed)

    async def _watch(self, app: App) -> None:
        session: str | None = None
        while True:
            self._keeper.suspicion = trio.Event()
            problem: str | None = None
            try:
                session = await self._look(app, session)
            except CloudflareError as error:
                session, problem = None, str(error)
            if problem != self._problem:
                logger.log(
                    logging.INFO if problem is None else logging.WARNING,
                    "the media server %s: %s",
                    self.name,
                    problem or "it answers",
                )
            self._problem = problem
            if problem is not None:
                await trio.sleep(UNWELL)
            else:
                with trio.move_on_after(_WELL):
                    await self._keeper.suspicion.wait()

    async def _look(self, app: App, session: str | None) -> str:
        """Ask for the state of a session, or for a new session. Raises CloudflareError."""
        if not self._token:
            raise CloudflareError("TRIO_SIGNAL_RELAY_TOKEN is not set")
        if session is not None:
            try:
                await app.state(session)
            except CloudflareError as error:
                if error.status is None:
                    raise
            else:
                return session
        return await app.new_session()  # the old session may have expired

    def _end(self) -> None:
        self._problem = "stopped"
        self._keeper.end()
