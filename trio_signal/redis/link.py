"""A connection that is replaced whenever it is lost."""

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import trio

from trio_signal.redis.connection import (
    ConfigurationError,
    Connection,
    NotConnectedError,
    Timing,
)
from trio_signal.redis.locating import Locator

logger = logging.getLogger(__name__)

#: Seconds before the first reconnect, and at most between two.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 0.25


def pauses() -> Iterator[float]:
    """The pause before each attempt; jittered, since all replicas lose Redis at once."""
    pause = FIRST_PAUSE
    while True:
        yield random.uniform(pause / 2, pause)  # noqa: S311  not for secrets
        pause = min(2 * pause, LONGEST_PAUSE)


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """The present connection, and counters over all so far."""

    connected: bool
    connects: int
    losses: int
    #: Requests sent, including probes.
    requests: int
    #: Unanswered requests.
    in_flight: int
    #: The last round trip in seconds.
    round_trip: float | None


class Link:
    """Keeps one connection to a Redis.

    `opened` is called with each new connection, before anything is sent on it; `changed` after each
    change of `connection`; `misled` when the server turns out to be the wrong one. None of them may
    block.
    """

    def __init__(
        self,
        locator: Locator,
        name: str,
        timing: Timing,
        *,
        opened: Callable[[Connection], None],
        changed: Callable[[], None],
        pushed: Callable[[list[bytes]], None],
        patient: bool = False,
        misled: Callable[[], None] = lambda: None,
    ) -> None:
        """Make a link that has no connection yet."""
        self._locator = locator
        self._name = name
        self._timing = timing
        self._opened = opened
        self._changed = changed
        self._pushed = pushed
        self._patient = patient
        self._misled = misled
        self.connection: Connection | None = None
        #: Why there is no connection.
        self.reason = "not opened"
        #: The server's id of the last connection.
        self._last_id: int | None = None
        self._connects = 0
        self._losses = 0
        self._requests = 0

    async def open(self) -> None:
        """Connect for the first time; raises NotConnectedError or ConfigurationError."""
        try:
            self._use(await self._connect())
        except NotConnectedError as error:
            self.reason = str(error)
            raise

    async def run(self) -> None:
        """Keep a connection until cancelled."""
        while True:
            if self.connection is None:
                self._use(await self._connect_again())
            else:
                self._lose(self.connection, await self.connection.run())

    def give_up(self) -> None:
        """The task that runs the connection has failed: reconnect. Does not block."""
        if self.connection is not None:
            self._lose(self.connection, "an internal error")

    def move(self, because: str) -> None:
        """Reconnect, perhaps to another server. Does not block."""
        if self.connection is not None:
            self.connection.end(because)

    def close(self) -> None:
        """Close for good. Unanswered requests get an exception."""
        self.reason = "closed"
        if self.connection is not None:
            connection, self.connection = self.connection, None
            self._changed()
            connection.close(self.reason)

    def statistics(self) -> LinkStatistics:
        """Return the current numbers."""
        now = self.connection
        return LinkStatistics(
            connected=now is not None,
            connects=self._connects,
            losses=self._losses,
            requests=self._requests + (now.sent if now else 0),
            in_flight=now.in_flight if now else 0,
            round_trip=now.round_trip if now else None,
        )

    async def _connect(self) -> Connection:
        return await self._locator.connect(
            self._name,
            self._timing,
            pushed=self._pushed,
            patient=self._patient,
            replaces=self._last_id,
        )

    async def _connect_again(self) -> Connection:
        """Retry until connected; log each new reason for a failure once."""
        for pause in pauses():
            await trio.sleep(pause)
            try:
                connection = await self._connect()
            except (ConfigurationError, NotConnectedError) as error:
                if self.reason != str(error):
                    self.reason = str(error)
                    logger.error(  # noqa: TRY400  a traceback adds nothing
                        "%s cannot connect: %s", self._name, self.reason
                    )
            else:
                logger.info("%s connected to %s", self._name, self._locator)
                return connection
        raise AssertionError("pauses do not end")

    def _use(self, connection: Connection) -> None:
        self._connects += 1
        self._last_id = connection.id
        self.connection = connection
        self._opened(connection)
        self._changed()

    def _lose(self, connection: Connection, reason: str) -> None:
        self._losses += 1
        self._requests += connection.sent
        self.connection = None
        self.reason = f"{self._locator}: {reason}"
        logger.warning("%s lost its connection: %s", self._name, self.reason)
        self._changed()
        connection.close(self.reason)
        if connection.is_wrong:
            self._misled()
