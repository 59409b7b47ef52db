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

#: Seconds before the first try to connect again, and at most between two.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 0.25


def pauses() -> Iterator[float]:
    """How long to wait before each try: jittered, since all replicas lose Redis at once."""
    pause = FIRST_PAUSE
    while True:
        yield random.uniform(pause / 2, pause)  # noqa: S311  not for secrets
        pause = min(2 * pause, LONGEST_PAUSE)


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """One connection: the present one, and those before it."""

    connected: bool
    connects: int
    losses: int
    #: Requests that were sent, probes included.
    requests: int
    #: Those that have no answer yet.
    in_flight: int
    #: The last one measured, in seconds.
    round_trip: float | None


class Link:
    """Keeps one connection to a Redis.

    `opened` is called with each new connection, before anything is sent on it;
    `changed` after each change of `connection`, `misled` when the server turns out to be the
    wrong one. None of them may block.
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
        #: How the server numbered the last connection.
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
        """What runs the connection has failed: begin with another one. Does not block."""
        if self.connection is not None:
            self._lose(self.connection, "an internal error")

    def move(self, because: str) -> None:
        """Begin with another connection, perhaps to another server. Does not block."""
        if self.connection is not None:
            self.connection.end(because)

    def close(self) -> None:
        """End for good. What waits for an answer gets an exception."""
        self.reason = "closed"
        if self.connection is not None:
            connection, self.connection = self.connection, None
            self._changed()
            connection.close(self.reason)

    def statistics(self) -> LinkStatistics:
        """How it is doing."""
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
        """Try until it succeeds, and say so once for each new reason why it does not."""
        for pause in pauses():
            await trio.sleep(pause)
            try:
                connection = await self._connect()
            except (ConfigurationError, NotConnectedError) as error:
                if self.reason != str(error):
                    self.reason = str(error)
                    logger.error(  # noqa: TRY400  the text says it all
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
