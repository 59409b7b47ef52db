"""A client that stays in one room: it comes back when its connection is lost."""

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
    """A place in one room. Made by `open_client`.

    Iterate over it for the room's events. Each event goes to one reader; the iteration ends with
    the exception that says why: `ClosedError` when the server closed for good, `NotConnectedError`
    when it refuses us now, or after the block, `SlowReaderError` when nobody read.
    """

    def __init__(self, session: Session) -> None:
        """Take the session; whoever made it runs it."""
        self._session = session

    @property
    def id(self) -> str:
        """Under which others reach us; it stays the same."""
        return self._session.client_id

    @property
    def user_id(self) -> str:
        """Who the server says that we are."""
        return self._session.user_id

    @property
    def username(self) -> str:
        """What others see as our name."""
        return self._session.username

    @property
    def state(self) -> State:
        """Whether we are in the room now."""
        return self._session.state

    @property
    def peers(self) -> Mapping[str, Peer]:
        """The others in the room, by id, as the server said last. Events may lag behind."""
        return MappingProxyType(self._session.view.peers)

    @property
    def live(self) -> Mapping[str, Peer]:
        """Those of them that are live."""
        return {id_: peer for id_, peer in self._session.view.peers.items() if peer.live}

    @property
    def broadcasting(self) -> MediaType | None:
        """As what we want to be live ourselves."""
        return self._session.broadcasting

    @property
    def ice_servers(self) -> tuple[Mapping[str, object], ...]:
        """For a peer connection: what the server told when we joined last."""
        return self._session.ice_servers

    @property
    def session(self) -> Session:
        """What runs it; for this package."""
        return self._session

    # Events

    def __aiter__(self) -> Self:
        """Iterate over the events."""
        return self

    async def __anext__(self) -> Event:
        """The next event. Cancelled, it has taken none."""
        try:
            return await self._session.events.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError):
            raise self._session.why_ended() from None

    # What the user wants to say. Each of these waits for a connection, and until the one before
    # is written. If the client has ended, or ends meanwhile, it raises why: ClosedError,
    # NotConnectedError (also after the block) or SlowReaderError. What JSON cannot hold raises
    # TypeError or ValueError at once. Cancelled, it has said nothing.

    async def offer(self, offer: Any, *, to: str | None = None) -> None:
        """Send an offer, any JSON, to one peer or to all. Waits until it is on its way."""
        await self._session.say(mesh.Offer(_payload(offer), to))

    async def answer(self, answer: Any, *, to: str | None = None) -> None:
        """Send an answer, any JSON, to one peer or to all. Waits until it is on its way."""
        await self._session.say(mesh.AnswerTo(_payload(answer), to))

    async def candidate(self, candidate: Any, *, to: str | None = None) -> None:
        """Send an ICE candidate, any JSON, to one peer or to all. Waits until it is on its way."""
        await self._session.say(mesh.IceCandidate(_payload(candidate), to))

    async def send(self, data: Any, *, to: str | None = None) -> None:
        """Send data of the application, any JSON, to one peer or to all.

        Waits until it is on its way.
        """
        await self._session.say(mesh.Message(_payload(data), to))

    async def broadcast(self, media_type: MediaType = "video") -> None:
        """Be live from now on, also after each reconnect; it is said now if we are in the room."""
        self._session.broadcasting = media_type
        await self._declare()

    async def stop_broadcast(self) -> None:
        """Be live no longer; it is said now if we are in the room."""
        self._session.broadcasting = None
        await self._declare()

    async def kick(self, client_id: str, reason: str | None = None) -> None:
        """End a peer's connection; for moderators, others get an `Error` event."""
        await self._session.say(mesh.KickPeer(client_id, reason))

    async def ping(self, id: Any) -> None:  # noqa: A002  as it is on the wire
        """Ask for a `Pong` with this id, any JSON: the server got all that was sent before."""
        await self._session.say(mesh.Ping(_payload(id)))

    async def renew(self, token: str) -> None:
        """Go on with a new token of the same user, for the present connection and for later ones.

        `TokenRenewed` comes back, or an `Error`. Only for a token that was given as a string.
        """
        self._session.token = token
        await self._session.say(mesh.AuthToken(token))

    async def _declare(self) -> None:
        wanted = self._session.broadcasting
        if not self._session.ended and self._session.state != "joined":
            await trio.lowlevel.checkpoint()  # said on joining
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
    """Enter a room, and leave it at the end of the block.

    Waits until we are in. That is tried once: raises `NotConnectedError` if the server cannot be
    reached, `ClosedError` if it does not let us in, and `ValueError` if what was given cannot be
    sent, or is no URL. Later the client comes back by itself.
    If the block is cancelled or raises, it says goodbye in passing, for half a second at most.

    :param url: the server: `https://signal.example.com`, also `ws:` and `wss:`, also with a path
        in front of `/ws`.
    :param token: who we are; or an async function that fetches one, which is called for each
        connection and when the server says that the token expires. It may raise `OSError` or
        `NotConnectedError`, and is then called again after a while.
    :param client_id: under which others reach us; the server makes one if it is not given.
    :param username: what others see, where the token does not say it.
    :param ssl_context: for `https:` and `wss:`, in place of the default one.
    :param max_events: how many events may wait for the reader. While so many do, nothing is read
        from the server; if the reader takes none for `timing.slow_reader` seconds, the client ends
        with `SlowReaderError`.
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
    """Raise an exception that a nursery has wrapped, with the context that it had."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        del error, context
