"""The server: its parts, nested so that they stop in the right order."""

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import NamedTuple
from uuid import uuid4

import trio

from trio_signal.alarm import Alarms
from trio_signal.announcements import Announcements, open_announcements
from trio_signal.auth import open_auth
from trio_signal.backend import AsyncServerApi, ServerApi, ServerApiError, verify_webhook
from trio_signal.bus import Bus
from trio_signal.bus.memory import MemoryBus
from trio_signal.bus.redis import RedisBus, open_redis_bus
from trio_signal.config import Settings, hosted_turn_key, pause_before_draining
from trio_signal.dialects import DIALECTS
from trio_signal.errors import CloseCode, Reason
from trio_signal.hooks import SignatureError
from trio_signal.hub import Hub
from trio_signal.limits import Limits
from trio_signal.listener import Listener
from trio_signal.messages.commands import Close, LeaveCause
from trio_signal.metrics import Metrics
from trio_signal.notes import Notes
from trio_signal.notes.redis import RedisNotes
from trio_signal.notes.sql import open_sql_notes
from trio_signal.publishing import Publishers
from trio_signal.readers import Readers
from trio_signal.relay.nodes import nodes_of
from trio_signal.relay.parts import Limits as RelayLimits
from trio_signal.relay.relays import Relays
from trio_signal.rounds import Rounds
from trio_signal.service import Service
from trio_signal.sharing import ANY_IPV6, Sharing
from trio_signal.store import OutboxStore, sqlite_file
from trio_signal.supervision import supervise
from trio_signal.turn import HostedTurn
from trio_signal.web.app import create_app
from trio_signal.web.gate import Gate
from trio_signal.web.server import open_http_server
from trio_signal.web.unsent import Unsent
from trio_signal.webhooks.spool import Spool
from trio_signal.webhooks.webhooks import LocalWebhooks, SharedWebhooks

#: The first five are for a site's backend, which imports them from here.
__all__ = [
    "AsyncServerApi",
    "Server",
    "ServerApi",
    "ServerApiError",
    "SignatureError",
    "open_bus",
    "open_server",
    "open_sockets",
    "verify_webhook",
]

logger = logging.getLogger(__name__)


#: Maximum seconds to notify the other replicas of the end. If Redis is gone, the lease expires.
RETIRE_TIMEOUT = 1.0
#: Seconds to wait at the start for credentials of a hosted TURN service.
FIRST_CREDENTIALS = 2.0
#: The fraction of the drain time in which all peers are closed.
SPREAD = 0.6
#: The fraction of the drain time in which sessions are handed over to other replicas.
HANDING_OVER = 0.4
#: The maximum of the kernel, which is also Trio's default.
BACKLOG = 65535


class Server(NamedTuple):
    """A running server."""

    host: str
    port: int
    hub: Hub


@asynccontextmanager
async def open_bus(settings: Settings) -> AsyncIterator[tuple[Bus, Notes]]:
    """Open the bus that the settings ask for, and its notes."""
    replica = uuid4().hex
    if settings.redis_url is None:
        async with open_sql_notes(settings.database_url.get_secret_value()) as notes:
            yield MemoryBus(replica), notes
    else:
        async with open_redis_bus(
            settings.redis_url.get_secret_value(),
            replica,
            prefix=settings.redis_prefix,
            ca_file=str(settings.redis_ca_file) if settings.redis_ca_file else None,
            lease=settings.lease,
            observed=bool(settings.webhook_urls),
        ) as bus:
            yield bus, RedisNotes(bus.redis, settings.redis_prefix)


@asynccontextmanager
async def open_board(
    settings: Settings, bus: Bus, metrics: Metrics
) -> AsyncIterator[Announcements | None]:
    """Open the announcements, if an enabled dialect uses them."""
    if not any(DIALECTS[name].announces for name in settings.dialects):
        yield None
    else:
        url = settings.database_url.get_secret_value()
        anybody = not settings.wants_tokens
        async with open_announcements(
            url, bus.board, metrics, from_anybody=anybody
        ) as announcements:
            yield announcements


@asynccontextmanager
async def open_webhooks(
    settings: Settings, bus: Bus, metrics: Metrics
) -> AsyncIterator[LocalWebhooks | SharedWebhooks | None]:
    """Open the webhooks, if there are any; they accept events. The caller runs them."""
    if not settings.webhook_urls:
        yield None
        return
    secret = next(iter(settings.secrets_by_key.values()))
    url = settings.database_url.get_secret_value()
    with closing(OutboxStore(url)) as store:
        given = store, settings.webhook_urls, secret, metrics, bus.replica
        if isinstance(bus, RedisBus):
            yield SharedWebhooks(*given, bus.observed)
        else:
            file = sqlite_file(url)
            path = file.with_name(f"{file.name}-webhooks") if file is not None else None
            with closing(Spool(path)) as spool:
                local = LocalWebhooks(*given, spool)
                await local.prepare()
                if isinstance(bus, MemoryBus):
                    bus.observer = local.note
                    local.rooms = bus.members_by_room
                yield local


@asynccontextmanager
async def open_server(settings: Settings, sharing: Sharing | None = None) -> AsyncIterator[Server]:
    """Serve while the block runs; yields the server, with the address that it listens on.

    With `sharing` it serves https, with the certificate of `sharing`.

    At the end of the block `/readyz` answers 503. After a pause the server stops accepting, closes
    every peer with 1001, and notifies the rooms, within `settings.drain` seconds. A cancellation
    ends everything at once. Raises OSError if the port is not available, and ConfigError if Redis
    refuses the server, or the database cannot be used.
    """
    limits, metrics = Limits(settings), Metrics()
    rounds, alarms = Rounds(), Alarms()
    readers = Readers(rounds)
    async with (
        open_bus(settings) as (bus, notes),
        open_board(settings, bus, metrics) as announcements,
        open_webhooks(settings, bus, metrics) as webhooks,
        trio.open_nursery() as background,
    ):
        hub = Hub(
            bus,
            notes,
            max_room_peers=settings.max_room_peers,
            max_viewers=settings.max_viewers,
            max_rooms=settings.max_rooms_per_connection,
            announcements=announcements,
            metrics=metrics,
            live_listeners=settings.live_listeners,
            resume_grace=settings.resume_grace,
            max_away=settings.max_connections,
            resume_bytes=settings.outbox_bytes,
            namespaces=settings.peerjs_keys,
        )
        hub.webhooks = webhooks
        relays = open_relays(hub, settings)
        if webhooks is not None:
            if announcements is not None:
                announcements.observer = webhooks.announced
            background.start_soon(supervise, "recording webhooks", webhooks.run)
        await background.start(bus.run, hub.deliver)
        await notes.write()
        for name, task in (
            ("storing notes", notes.run),
            ("storing the names of rooms", hub.keep_rooms),
            ("watching the event loop", metrics.watch_loop),
            ("the flusher", hub.flusher.run),
            ("the event loop's rounds", rounds.run),
            ("the connections' alarms", alarms.run),
            ("reading clients' messages", readers.run),
            ("reporting who is online", hub.online.run),
            ("repeating removals of peers", hub.moderation.run),
            *([("moving sessions", hub.handover.run)] if hub.handover else []),
            *([("relaying broadcasts", relays.run)] if relays is not None else []),
            ("the peerjs mailbox", hub.names.run),
        ):
            background.start_soon(supervise, name, task)
        key_id = hosted_turn_key(settings)
        if key_id is not None and settings.turn_secret is not None:
            secret = settings.turn_secret.get_secret_value()
            hub.turn = HostedTurn(key_id, secret, settings.turn_ttl, metrics)
            background.start_soon(supervise, "fetching TURN credentials", hub.turn.run)
            with trio.move_on_after(FIRST_CREDENTIALS):
                await hub.turn.tried.wait()
        publishers = Publishers(hub)
        gate = Gate(hub, settings, limits, metrics)
        unsent = Unsent(partial(metrics.count_refused, Reason.HTTP_BYTES))
        async with (
            open_auth(settings) as auth,
            open_http_server(
                create_app(hub, auth, settings, limits, metrics, sharing, publishers),
                gate,
                unsent=unsent,
                rounds=rounds,
            ) as http,
        ):
            service = Service(hub, auth, settings, metrics, rounds, alarms, readers)
            listener = Listener(service, http, auth, limits)
            async with trio.open_nursery() as connections:
                publishers.nursery = connections
                if hub.draining is not None:
                    await hub.draining.adopt()
                async with trio.open_nursery() as accepting:
                    sockets = await open_sockets(settings)
                    host, port, *_ = sockets[0].getsockname()
                    for sock in sockets:
                        accepting.start_soon(
                            listener.accept, sock, connections, sharing and sharing.tls
                        )
                    yield Server(host, port, hub)
                    # Load balancers send clients here until they check `/readyz`.
                    hub.rooms.is_stopping = True
                    if hub.draining is not None:
                        await hub.draining.begin()
                    await trio.sleep(pause_before_draining(settings))
                    accepting.cancel_scope.cancel()
                connections.cancel_scope.deadline = trio.current_time() + settings.drain
                listener.drain()
                http.drain()
                if hub.draining is not None:
                    await hub.draining.leave(settings.drain * HANDING_OVER)
                goodbye = Close(CloseCode.GOING_AWAY, "Server going away", LeaveCause.SHUTDOWN)
                await hub.close_all(goodbye, within=settings.drain * SPREAD)
        hub.online.say_goodbye()
        if hub.draining is not None:
            with trio.move_on_after(RETIRE_TIMEOUT):
                await hub.draining.settle()
            with trio.move_on_after(RETIRE_TIMEOUT):
                await hub.draining.park()
        with trio.move_on_after(RETIRE_TIMEOUT):
            await notes.write()
        with trio.move_on_after(RETIRE_TIMEOUT):
            await bus.retire()
        if webhooks is not None:
            with trio.move_on_after(RETIRE_TIMEOUT):
                await webhooks.finish()
        background.cancel_scope.cancel()


def open_relays(hub: Hub, settings: Settings) -> Relays | None:
    """Set up a hub's media servers, if there are any. The caller runs the returned object."""
    nodes = nodes_of(settings)
    limits = RelayLimits(settings.relay_from, settings.max_viewers, settings.max_relay_viewers)
    return hub.relay_through(nodes, limits) if nodes else None


async def open_sockets(settings: Settings) -> list[socket.socket]:
    """Open the listening sockets. Workers share a port, and the kernel distributes connections.

    `::` stands for all addresses, also those of IPv4; Trio would listen on those of IPv6 only.
    """
    if settings.worker or settings.host == ANY_IPV6:
        sock = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if settings.worker:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if settings.host == ANY_IPV6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((settings.host, settings.port))
        sock.listen(BACKLOG)
        sockets = [sock]
    else:
        listeners = await trio.open_tcp_listeners(settings.port, host=settings.host)
        sockets = [socket.socket(fileno=listener.socket.detach()) for listener in listeners]
    for sock in sockets:
        # Accepted sockets inherit it: small frames are sent without waiting for acknowledgements.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sockets
