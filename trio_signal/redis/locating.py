"""Finds the server to connect to: from an address, from Sentinels, or in a cluster.

A cluster is used only for its availability: all keys share one hash tag, so one node has them, and
other nodes redirect to it (MOVED). The primary may change: a client that finds itself at the wrong
server reconnects and asks again.
"""

import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

import trio
from redis.exceptions import MovedError

from trio_signal.redis.address import Address
from trio_signal.redis.connection import (
    Argument,
    ConfigurationError,
    Connection,
    NotConnectedError,
    Timing,
)
from trio_signal.redis.handshake import connect

logger = logging.getLogger(__name__)

#: Keys with the same tag are in one slot; see "hash tags" in the specification of Redis Cluster.
_TAG = re.compile(r"^[^{]*\{[^}]+\}")
#: How many redirections are followed, and how many nodes are remembered.
_HOPS, _NODES = 5, 50
#: Seconds between two attempts to subscribe at a Sentinel.
_PAUSE = 1.0
_SWITCHED = b"+switch-master"

Pushed = Callable[[list[bytes]], None]
#: A host and a port.
Place = tuple[str, int]


class Locator:
    """Connects to the server that is the right one now."""

    def __init__(self, address: Address, key: str) -> None:
        """Use the address of the URL; in a cluster, all keys are where `key` is."""
        self._address = address
        self._key = key
        #: The Sentinels; the one that named the primary last comes first.
        self._sentinels = list(address.sentinels)
        #: The primary that they named last.
        self._primary: Place | None = None
        #: Other nodes of the cluster.
        self._nodes: list[Address] = []

    @property
    def has_sentinels(self) -> bool:
        """Whether there are Sentinels to `watch`."""
        return bool(self._sentinels)

    def __str__(self) -> str:
        """The address as logs and errors show it."""
        return str(self._address)

    async def connect(
        self,
        name: str,
        timing: Timing,
        *,
        pushed: Pushed,
        patient: bool,
        replaces: int | None = None,
    ) -> Connection:
        """Open a connection to the right server; see `handshake.connect`.

        Raises ConfigurationError if a setting must change, NotConnectedError if a retry may
        succeed. The caller closes the connection.
        """
        open_at = partial(
            connect, name=name, timing=timing, pushed=pushed, patient=patient, replaces=replaces
        )
        if self._sentinels:
            sentinel, primary = await self._ask(name, timing)
            try:
                return await open_at(primary)
            except NotConnectedError:
                # This Sentinel may be out of date: next time, ask the others first.
                self._sentinels.remove(sentinel)
                self._sentinels.append(sentinel)
                raise
        reasons: list[str] = []
        for address in (self._address, *self._nodes):
            try:
                return await self._follow(address, open_at)
            except NotConnectedError as error:
                reasons.append(str(error))
        raise NotConnectedError("; ".join(dict.fromkeys(reasons)))

    async def _follow(
        self, address: Address, open_at: Callable[[Address], Awaitable[Connection]]
    ) -> Connection:
        """Connect to a server; in a cluster, to the node that has our keys."""
        for _ in range(_HOPS):
            connection = await open_at(address)
            if connection.mode != "cluster":
                return connection
            with ExitStack() as stack:
                stack.callback(connection.close)
                if not _TAG.match(self._key):
                    raise ConfigurationError(
                        f"{address}: this is a cluster, so all keys need one hash tag: "
                        "set a prefix with braces, such as {ts}:"
                    )
                slots, *_, found = await connection.ask(_SLOTS, ("EXISTS", self._key))
                self._note_nodes(address, slots)
                if not isinstance(found, Exception):
                    stack.pop_all()
                    return connection
            if not isinstance(found, MovedError):
                raise NotConnectedError(f"{address}: {found}")
            address = replace(address, host=found.host or address.host, port=found.port)
        raise NotConnectedError(f"{address}: the nodes of the cluster keep redirecting us")

    def _note_nodes(self, known: Address, slots: Any) -> None:
        if isinstance(slots, Exception):
            return
        places = {
            (host.decode(), port) for _, _, *nodes in slots for host, port, *_ in nodes if host
        }
        self._nodes = [replace(known, host=host, port=port) for host, port in sorted(places)]
        del self._nodes[_NODES:]

    async def _ask(self, name: str, timing: Timing) -> tuple[Place, Address]:
        """Ask the Sentinels for the primary; the first one that knows it decides."""
        sentinel, connection, primary = await self._open_sentinel(name, timing, pushed=_ignore)
        connection.close()
        self._primary = primary
        host, port = primary
        return sentinel, replace(self._address, host=host, port=port, sentinels=())

    @property
    def _question(self) -> tuple[str, str, str]:
        return "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._address.service

    async def _open_sentinel(
        self, name: str, timing: Timing, *commands: tuple[Argument, ...], pushed: Pushed
    ) -> tuple[Place, Connection, Place]:
        """Connect to the first Sentinel that knows the primary; return it, and what it named.

        `commands` are sent before the question. The caller closes the connection.
        """
        reasons: list[str] = []
        unknowing = 0
        for place in list(self._sentinels):
            host, port = place
            address = replace(self._address, host=host, port=port, sentinels=())
            try:
                connection = await connect(
                    address, name, timing, pushed=pushed, patient=False, to_sentinel=True
                )
                with ExitStack() as stack:
                    stack.callback(connection.close)
                    *_, reply = await connection.ask(*commands, self._question)
                    primary = _place(reply)
                    if primary is not None:
                        stack.pop_all()
                        self._sentinels.remove(place)
                        self._sentinels.insert(0, place)
                        return place, connection, primary
            except NotConnectedError as error:
                reasons.append(str(error))
            else:
                unknowing += reply is None
                reasons.append(f"{host}:{port} does not name the primary: {reply!r:.80}")
        if unknowing == len(reasons):
            raise ConfigurationError(f"{self}: the Sentinels do not know {self._address.service!r}")
        raise NotConnectedError("; ".join(reasons))

    async def watch(self, name: str, timing: Timing, switched: Callable[[], None]) -> NoReturn:
        """Call `switched` when the Sentinels name another primary; until cancelled.

        Without this, a replica that is cut off together with the old primary would stay with it.
        """

        def hear(push: list[bytes]) -> None:
            service = self._address.service.encode()
            if push[0] == b"message" and push[2].split(b" ")[0] == service:
                switched()

        while True:
            try:
                _, connection, primary = await self._open_sentinel(
                    name, timing, ("SUBSCRIBE", _SWITCHED), pushed=hear
                )
                with closing(connection):
                    # Check for a switch before the subscription.
                    if self._primary is not None and primary != self._primary:
                        switched()
                    await connection.run()
            except (ConfigurationError, NotConnectedError) as error:
                logger.debug("%s: cannot listen to the Sentinels: %s", name, error)
            await trio.sleep(_PAUSE)


#: Lists all nodes of a cluster.
_SLOTS = ("CLUSTER", "SLOTS")


def _place(reply: Any) -> Place | None:
    if not isinstance(reply, list) or len(reply) != 2:
        return None
    return reply[0].decode(), int(reply[1])


def _ignore(_: object) -> None:
    """Discard pushes: the connection subscribes to nothing."""
