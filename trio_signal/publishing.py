"""Publishing: broadcasters that use WHIP, and are in a room without a WebSocket.

Their media go directly to a media server, which serves all viewers. Each publisher has a task in
the nursery of all connections, as sessions do, so a stopping server waits for both.
"""

import logging
import time
from collections.abc import Iterable
from contextlib import ExitStack
from hashlib import sha256
from secrets import token_urlsafe
from typing import NamedTuple
from uuid import uuid4

import msgspec
import trio
from msgspec import Raw

from trio_signal.clock import utc_now
from trio_signal.errors import CloseCode, NotPublishedError, SdpError
from trio_signal.hub import Hub
from trio_signal.limits import ConnectionLease
from trio_signal.messages.commands import Close, GoLive, Join, LeaveCause
from trio_signal.messages.events import Answer, Displaced, Event, Refusal, Refused, ServerSaid
from trio_signal.messages.identity import Identity, Member, Route
from trio_signal.participant import Participant
from trio_signal.relay import Ingest, Lost, Node, RelayError, Up
from trio_signal.relay.route import PUBLISHED
from trio_signal.sdp import (
    Credentials,
    Fragment,
    fragment_of,
    media_of,
    mids_of,
    refuses_some,
    restarted,
)

logger = logging.getLogger(__name__)

#: Seconds in which media must arrive.
ARRIVAL = 30.0

#: Its client ended the broadcast.
ENDED = Close(CloseCode.NORMAL, cause=LeaveCause.CLOSED)
_REPLACED = Close(CloseCode.REPLACED, "Replaced by a newer broadcast", LeaveCause.CLOSED)
_TAKEN = Close(CloseCode.POLICY, "Somebody else broadcasts in this room", LeaveCause.CLOSED)
_EXPIRED = Close(CloseCode.POLICY, "Token expired", LeaveCause.TOKEN_EXPIRED)
_SILENT = Close(CloseCode.POLICY, "No media arrived", LeaveCause.LOST)
_LOST = Close(CloseCode.INTERNAL_ERROR, "The media server lost the broadcast", LeaveCause.LOST)
_FAILED = Close(CloseCode.INTERNAL_ERROR, "Internal error")


class Publisher(Participant):
    """One broadcaster. A request with its secret may change its ICE session, and end it."""

    __slots__ = (
        *("answer", "credentials", "ingest", "is_live", "is_over", "node", "offer"),
        *("offering", "refusal", "room_id", "scope", "secret"),
    )

    def __init__(
        self,
        room_id: str,
        identity: Identity,
        offer: str,
        credentials: Credentials,
        node: Node,
        lease: ConnectionLease,
    ) -> None:
        """Make a publisher that is in no room yet; its offer has been checked."""
        self.secret = token_urlsafe(24)
        super().__init__(peer_id_of(self.secret))
        self.identity = identity
        self.room_id = room_id
        self.offer = offer
        #: The credentials of its ICE session.
        self.credentials = credentials
        self.node = node
        self.ingest: Ingest = node.ingest(self.id)
        self.lease: ConnectionLease = lease
        #: The media server's answer.
        self.answer = ""
        #: Why the room refused it, if it did.
        self.refusal: Refusal | None = None
        #: Whether its media have arrived.
        self.is_live = False
        self.scope = trio.CancelScope()
        self.is_over = trio.Event()
        self.offering = trio.Lock()

    @property
    def dialect_name(self) -> str:
        """The dialect of its member in rooms."""
        return PUBLISHED

    @property
    def etag(self) -> str:
        """The ETag of its ICE session."""
        return etag_of(self.secret, self.credentials)

    def is_by(self, identity: Identity) -> bool:
        """Whether this user publishes it."""
        return self.identity is not None and self.identity.subject == identity.subject

    def hear(self, event: Event) -> None:
        """Ignore the room's events, except candidates that another replica passes on."""
        if isinstance(event, ServerSaid) and event.member.peer_id == self.id:
            self.take(msgspec.json.decode(event.data, type=Fragment))

    def tell(self, answer: Answer) -> None:
        """Keep a refusal; end if a newer broadcast has replaced this one."""
        if isinstance(answer, Refused):
            self.refusal = answer.reason
        elif isinstance(answer, Displaced):
            self.close(_REPLACED)

    def close(self, close: Close) -> None:
        """End the broadcast; later calls do nothing."""
        if self.closed_with is None:
            self.closed_with = close
            self.scope.cancel(reason=close.reason or None)

    def end(self) -> None:
        """Charge for the work that it caused."""
        self.lease.payer.spend(self.owes, trio.current_time())
        self.is_over.set()

    def take(self, fragment: Fragment) -> None:
        """Pass on the candidates of its ICE session; those of an older one are ignored."""
        if fragment.credentials != self.credentials:
            return
        mids = mids_of(self.offer)
        for candidate, mid in fragment.candidates:
            self.ingest.candidate(
                {
                    "candidate": candidate,
                    "sdpMid": mid,
                    "sdpMLineIndex": mids.index(mid) if mid in mids else 0,
                    "usernameFragment": fragment.credentials.ufrag,
                }
            )
        if fragment.complete:
            self.ingest.candidate(None)

    async def restart(self, fragment: Fragment) -> str:
        """Begin a new ICE session, and return the fragment that answers.

        Blocks on the media server. Raises RelayError; then the old session continues.
        """
        async with self.offering:
            offer = restarted(self.offer, fragment)
            try:
                answer = fragment_of(await self.ingest.offer(offer))
            except SdpError as error:
                raise RelayError(f"The media server's answer: {error}") from error
            self.offer, self.credentials = offer, fragment.credentials
        return answer


class Elsewhere(NamedTuple):
    """A publisher whose task is on another replica."""

    room_id: str
    secret: str
    member: Member

    def is_by(self, identity: Identity) -> bool:
        """Whether this user publishes it."""
        return _is_by(self.member, identity)


class Publishers:
    """The publishers of one replica. The caller sets `nursery` before it accepts requests."""

    def __init__(self, hub: Hub) -> None:
        """Start without publishers."""
        self.hub = hub
        self._here: dict[str, Publisher] = {}
        #: The nursery of their tasks; without it nobody can publish.
        self.nursery: trio.Nursery | None = None

    async def publish(
        self,
        room_id: str,
        identity: Identity,
        offer: str,
        credentials: Credentials,
        lease: ConnectionLease,
    ) -> Publisher:
        """Start a broadcast; the returned publisher has the answer to `offer`.

        Takes over the lease. Blocks on the media server and the directory. Raises NotPublishedError
        and RelayError.
        """
        node = self.hub.relays.choose() if self.hub.relays is not None else None
        if node is None or self.nursery is None:
            raise RelayError("No media server is available")
        if _is_taken(await self.hub.members(room_id), identity):
            raise NotPublishedError("Somebody else broadcasts in this room", Refusal.STREAM_TAKEN)
        publisher = Publisher(room_id, identity, offer, credentials, node, lease)
        await self.nursery.start(self._run, publisher)
        return publisher

    async def _run(
        self, publisher: Publisher, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """The task of a publisher, which leaves its room at the exit of a plain `with`."""
        is_in = False
        with (
            self.hub.stay(publisher),
            publisher.lease,
            publisher.ingest,
            ExitStack() as known,
        ):
            self._here[publisher.secret] = publisher
            known.callback(self._here.pop, publisher.secret)
            with publisher.scope:
                publisher.answer = await publisher.ingest.offer(publisher.offer)
                if refuses_some(publisher.answer):
                    raise NotPublishedError("The media server refuses some of the offered media")
                await self.hub.join(
                    publisher, Join(publisher.room_id, publisher.id, broadcaster=True)
                )
                is_in = publisher.room_id in publisher.memberships
                if is_in:
                    task_status.started()
                    await self._follow(publisher)
            if publisher.closed_with is None:  # the deadline is over
                publisher.close(_EXPIRED if publisher.is_live else _SILENT)
        if not is_in:
            if publisher.refusal is None:
                raise RelayError("The server is stopping")
            raise NotPublishedError("The room refused the broadcast", publisher.refusal)

    async def _follow(self, publisher: Publisher) -> None:
        """Mark it as live when its media arrive; return when they are lost."""
        now, scope, expires_at = trio.current_time(), publisher.scope, float("inf")
        if publisher.identity is not None and publisher.identity.expires is not None:
            expires_at = now + publisher.identity.expires - time.time()
        scope.deadline = min(now + ARRIVAL, expires_at)
        try:
            async for event in publisher.ingest.events:
                match event:
                    case Up():
                        scope.deadline = expires_at
                        self._go_live(publisher)
                    case Lost(reason=reason):
                        logger.warning("a media server lost a broadcast: %s", reason)
                        publisher.close(_LOST)
        except Exception:
            logger.exception("a publisher's task failed")
            publisher.close(_FAILED)

    def _go_live(self, publisher: Publisher) -> None:
        found = self.hub.rooms.find(publisher, publisher.room_id)
        if found is not None and not publisher.is_live:
            publisher.is_live = True
            command = GoLive(publisher.room_id, media_of(publisher.offer), exclusive=True)
            route = Route(publisher.node.name, publisher.ingest.feed, 1)
            self.hub.live.go(publisher, *found, command, route)
            if publisher.refusal is not None:  # another publisher was faster
                publisher.close(_TAKEN)

    async def find(self, room_id: str, secret: str) -> Publisher | Elsewhere | None:
        """The publisher with this secret, on any replica. Blocks on the directory."""
        publisher = self._here.get(secret)
        if publisher is not None:
            return publisher if publisher.room_id == room_id else None
        peer_id = peer_id_of(secret)
        members = await self.hub.members(room_id)
        found = (Elsewhere(room_id, secret, each) for each in members if each.peer_id == peer_id)
        return next(found, None)

    def hand_on(self, publisher: Elsewhere, fragment: Fragment) -> None:
        """Send candidates to the publisher's replica. Does not block."""
        data, member = Raw(msgspec.json.encode(fragment)), publisher.member
        said = ServerSaid(publisher.room_id, member, data, member, uuid4().hex, utc_now())
        self.hub.bus.send(member.replica, said)

    async def end_elsewhere(self, publisher: Elsewhere) -> None:
        """End a publisher at its replica. Blocks; raises UnconfirmedError."""
        await self.hub.moderation.remove(
            publisher.room_id, publisher.member.peer_id, "", None, cause=LeaveCause.CLOSED
        )


def peer_id_of(secret: str) -> str:
    """The public peer id of the publisher with this secret."""
    return f"{PUBLISHED}_{sha256(secret.encode()).hexdigest()[:32]}"


def etag_of(secret: str, credentials: Credentials) -> str:
    """The ETag of an ICE session, which every replica can compute from the publisher's request."""
    text = f"{secret} {credentials.ufrag} {credentials.password}"
    return sha256(text.encode()).hexdigest()[:32]


def _is_by(member: Member, identity: Identity) -> bool:
    """Whether a member is a peer of this user."""
    return member.subject.partition(" ")[2] == identity.subject


def _is_taken(members: Iterable[Member], identity: Identity) -> bool:
    """Whether somebody else has an exclusive broadcast in the room, or is about to start one.

    If identities are not verified, every other broadcaster counts as somebody else.
    """
    return any(
        (each.dialect == PUBLISHED or (each.live is not None and each.live.exclusive))
        and not (identity.verified and _is_by(each, identity))
        for each in members
    )
