"""A client that stays in one room: it reconnects when its connection is lost."""

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from types import MappingProxyType
from typing import Any, NoReturn, Self

import trio
from msgspec import Raw

from trio_signal.client.connection import Address
from trio_signal.client.events import Event, Peer, State
from trio_signal.client.run import declaration, run
from trio_signal.client.session import Session, Timing, TokenSource
from trio_signal.dialects import mesh
from trio_signal.dialects.wire import encode
from trio_signal.messages.identity import MediaType


class Client:
    """A client in one room. `open_client` makes it.

    Iterate over it for the room's events. Each event goes to one reader. The iteration ends with an
    exception: `ClosedError` if the server closed the connection for good, `NotConnectedError` if
    the server refuses the client or the block has ended, `SlowReaderError` if the events were not
    read.
    """

    def __init__(self, session: Session) -> None:
        """Use a session, which the caller runs."""
        self._session = session

    @property
    def id(self) -> str:
        """The client's id. It never changes."""
        return self._session.client_id

    @property
    def user_id(self) -> str:
        """The user id that the server gave this client."""
        return self._session.user_id

    @property
    def username(self) -> str:
        """The name that others see."""
        return self._session.username

    @property
    def state(self) -> State:
        """`joined` while the client is in the room, else `waiting`."""
        return self._session.state

    @property
    def peers(self) -> Mapping[str, Peer]:
        """The other peers in the room, by id: the latest state from the server, which includes
        events not read yet.
        """
        return MappingProxyType(self._session.view.peers)

    @property
    def live(self) -> Mapping[str, Peer]:
        """Those peers that are live."""
        return {id_: peer for id_, peer in self._session.view.peers.items() if peer.live}

    @property
    def broadcasting(self) -> MediaType | None:
        """The media type of this client's own broadcast, or None."""
        return self._session.broadcasting

    @property
    def ice_servers(self) -> tuple[Mapping[str, object], ...]:
        """STUN and TURN servers for a peer connection, as the server last listed them."""
        return self._session.ice_servers

    @property
    def session(self) -> Session:
        """The session behind the client; internal."""
        return self._session

    # Events

    def __aiter__(self) -> Self:
        """Iterate over the events."""
        return self

    async def __anext__(self) -> Event:
        """Return the next event. If cancelled, no event is lost."""
        try:
            return await self._session.events.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise self._session.why_ended() from None

    # Sending. Each of these methods waits for a connection, and until earlier messages are written.
    # If the client has ended, or ends meanwhile, it raises the reason: ClosedError,
    # NotConnectedError (also after the block) or SlowReaderError. Values that JSON cannot hold
    # raise TypeError or ValueError at once. A cancelled call has sent nothing.

    async def offer(self, offer: Any, *, to: str | None = None) -> None:
        """Send an offer, any JSON, to one peer or to all. Waits until it is written."""
        await self._session.say(mesh.Offer(_payload(offer), to))

    async def answer(self, answer: Any, *, to: str | None = None) -> None:
        """Send an answer, any JSON, to one peer or to all. Waits until it is written."""
        await self._session.say(mesh.AnswerTo(_payload(answer), to))

    async def candidate(self, candidate: Any, *, to: str | None = None) -> None:
        """Send an ICE candidate, any JSON, to one peer or to all. Waits until it is written."""
        await self._session.say(mesh.IceCandidate(_payload(candidate), to))

    async def send(self, data: Any, *, to: str | None = None) -> None:
        """Send application data, any JSON, to one peer or to all.

        Waits until it is written.
        """
        await self._session.say(mesh.Message(_payload(data), to))

    async def broadcast(self, media_type: MediaType = "video") -> None:
        """Go live, and go live again after each reconnect."""
        self._session.broadcasting = media_type
        await self._declare()

    async def stop_broadcast(self) -> None:
        """Stop being live."""
        self._session.broadcasting = None
        await self._declare()

    async def kick(self, client_id: str, reason: str | None = None) -> None:
        """End a peer's connection. Only moderators may; others get an `Error` event."""
        await self._session.say(mesh.KickPeer(client_id, reason))

    async def ping(self, id: Any) -> None:  # noqa: A002  as it is on the wire
        """Request a `Pong` with this id, any JSON. When it arrives, the server has received
        everything sent before.
        """
        await self._session.say(mesh.Ping(_payload(id)))

    async def renew(self, token: str) -> None:
        """Replace the token by a new one of the same user, for this connection and later ones.

        The answer is `TokenRenewed` or `Error`. Only if the token was given as a string.
        """
        self._session.token = token
        await self._session.say(mesh.AuthToken(token))

    async def _declare(self) -> None:
        wanted = self._session.broadcasting
        if not self._session.ended and self._session.state != "joined":
            await trio.lowlevel.checkpoint()  # sent when the room is joined
        else:
            await self._session.say(declaration(wanted))
            self._session.declared = wanted


def _payload(value: Any) -> Raw:
    try:
        return Raw(encode(value))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is not JSON: {error}") from None


@asynccontextmanager
async def open_client(
    url: str,
    *,
    room: str,
    token: str | TokenSource | None = None,
    client_id: str | None = None,
    username: str | None = None,
    ssl_context: ssl.SSLContext | None = None,
    max_events: int = 1000,
    timing: Timing | None = None,
) -> AsyncIterator[Client]:
    """Join a room, and leave it at the end of the block.

    Waits until the room is joined. There is one attempt: raises `NotConnectedError` if the server
    cannot be reached, `ClosedError` if it refuses the client, and `ValueError` if an argument is
    invalid. After that the client reconnects by itself.
    If the block is cancelled or raises, the connection is closed within half a second.

    :param url: the server's URL: `https://signal.example.com`, also `ws:` and `wss:`, also with a
        path in front of `/ws`.
    :param token: a token, or an async function that fetches one. The function is called for each
        connection, and when the token is about to expire. If it raises `OSError` or
        `NotConnectedError`, it is called again after a pause.
    :param client_id: the id by which others address this client; by default the server makes one.
    :param username: the name that others see, if the token has none.
    :param ssl_context: for `https:` and `wss:`, in place of the default context.
    :param max_events: how many events may wait to be read. While the queue is full, the client
        reads nothing from the server. If no event is taken for `timing.slow_reader` seconds, the
        client ends with `SlowReaderError`.
    """
    session = Session(
        Address.of_room(url, room),
        token=token,
        client_id=client_id,
        username=username,
        ssl_context=ssl_context,
        max_events=max_events,
        timing=timing or Timing(),
    )
    try:
        with session.events, closing(session):
            async with trio.open_nursery() as nursery:
                session.nursery = nursery
                await nursery.start(run, session)
                yield Client(session)
                await session.leave()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) != 1:
            raise
        raise_as_it_was(errors.exceptions[0])


def raise_as_it_was(error: BaseException) -> NoReturn:
    """Raise an exception that a nursery has wrapped, with its original context."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        del error, context
