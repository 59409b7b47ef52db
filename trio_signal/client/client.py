"""A client that stays in one room: it comes back when its connection is lost.

The tasks, and who ends them:

    open_client's nursery      run        one connection after the other
        a connection's nursery     receive    the server's messages become events
                                   write      what the user's tasks say
                                   beat       asks for a sign of life
                                   renew      a new token, when the old one is about to expire

The first of a connection's tasks that fails ends the connection. Only `write` sends, so a
cancelled `Client.send` has been sent whole, or not at all.
"""

import logging
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from types import MappingProxyType
from typing import Any, NoReturn, Self

import trio
from msgspec import Raw, Struct

from trio_signal.client.connection import FAILURES, Address, Connection, explain
from trio_signal.client.errors import (
    ClosedError,
    NotConnectedError,
    SlowReaderError,
    is_at_once,
    is_final,
)
from trio_signal.client.events import Event, Peer, State, StateChanged
from trio_signal.client.view import View
from trio_signal.dialects import mesh
from trio_signal.dialects.wire import encode
from trio_signal.errors import CloseCode, TrioSignalError
from trio_signal.messages import MediaType

logger = logging.getLogger(__name__)

TokenSource = Callable[[], Awaitable[str]]

#: The id of the ping behind which the picture of the room is complete.
_FENCE = Raw(b'"entered"')


class Timing(Struct, frozen=True):
    """How patient a client is; all in seconds."""

    #: From the first packet until we are in the room.
    connect: float = 10.0
    #: Between two questions for a sign of life.
    heartbeat: float = 10.0
    #: After such a question something must come back.
    patience: float = 10.0
    #: Before the first try to come back; doubled with each further one.
    first_pause: float = 0.5
    #: At most between two tries. A connection that lasted so long counts as a success.
    longest_pause: float = 15.0
    #: How long events wait for a reader when the queue is full.
    slow_reader: float = 10.0
    #: For the closing handshake.
    goodbye: float = 2.0

    def pause(self, attempt: int) -> float:
        """How long to wait before an attempt; random, so that a server is not stormed."""
        longest = min(self.longest_pause, self.first_pause * 2 ** min(attempt, 32))
        return random.uniform(longest / 2, longest)  # noqa: S311  not for secrets


class _Lost(Struct, frozen=True):
    """How one connection ended."""

    error: TrioSignalError
    #: Whether it had got us into the room.
    joined: bool
    #: For how long there was one.
    lasted: float


class Client:
    """A place in one room. Made by `open_client`.

    Iterate over it for the room's events. Each event goes to one reader; the iteration ends with
    the exception that says why: `ClosedError` when the server closed for good, `NotConnectedError`
    when it refuses us now, `SlowReaderError` when nobody read.
    """

    def __init__(
        self,
        address: Address,
        *,
        token: str | TokenSource | None,
        client_id: str | None,
        username: str | None,
        ssl_context: ssl.SSLContext | None,
        max_events: int,
        timing: Timing,
    ) -> None:
        """Make a client that is not connected."""
        self._address = address
        self._token = token
        self._client_id = client_id
        self._asked_username = username
        self._ssl_context = ssl_context
        self._timing = timing
        self._view = View()
        self._user_id = ""
        self._username = username or ""
        self._ice_servers: tuple[Mapping[str, object], ...] = ()
        self._broadcasting: MediaType | None = None
        self._state: State = "waiting"
        self._told = ""
        self._event_sender, self._events = trio.open_memory_channel[Event](max_events)
        # Without a buffer: what is sent has a connection that is about to write it.
        self._outgoing, self._writer = trio.open_memory_channel[Struct](0)
        #: Whether an event waits for a slow reader, since nothing is read from the server then;
        #: and when the last one did.
        self._stalled = False
        self._stalled_until = 0.0
        self._leaving = False
        self._goodbye = trio.Event()
        self._end: Callable[[], TrioSignalError] | None = None

    @property
    def id(self) -> str:
        """Under which others reach us; it stays the same."""
        return self._client_id or ""

    @property
    def user_id(self) -> str:
        """Who the server says that we are."""
        return self._user_id

    @property
    def username(self) -> str:
        """What others see as our name."""
        return self._username

    @property
    def state(self) -> State:
        """Whether we are in the room now."""
        return self._state

    @property
    def peers(self) -> Mapping[str, Peer]:
        """The others in the room, by id, as the server said last. Events may lag behind."""
        return MappingProxyType(self._view.peers)

    @property
    def live(self) -> Mapping[str, Peer]:
        """Those of them that are live."""
        return {id_: peer for id_, peer in self._view.peers.items() if peer.live}

    @property
    def broadcasting(self) -> MediaType | None:
        """As what we want to be live ourselves."""
        return self._broadcasting

    @property
    def ice_servers(self) -> tuple[Mapping[str, object], ...]:
        """For a peer connection: what the server told when we joined last."""
        return self._ice_servers

    # Events

    def __aiter__(self) -> Self:
        """Iterate over the events."""
        return self

    async def __anext__(self) -> Event:
        """The next event. Cancelled, it has taken none."""
        try:
            return await self._events.receive()
        except trio.EndOfChannel:
            raise self._why() from None

    # What the user wants to say. Each of these waits for a connection, and until the one before
    # is written; raises what ended the client, if anything did. Cancelled, it has said nothing.

    async def offer(self, offer: Any, *, to: str | None = None) -> None:
        """Send an offer, any JSON, to one peer or to all. Waits until it is on its way."""
        await self._say(mesh.Offer(Raw(encode(offer)), to))

    async def answer(self, answer: Any, *, to: str | None = None) -> None:
        """Send an answer, any JSON, to one peer or to all. Waits until it is on its way."""
        await self._say(mesh.AnswerTo(Raw(encode(answer)), to))

    async def candidate(self, candidate: Any, *, to: str | None = None) -> None:
        """Send an ICE candidate, any JSON, to one peer or to all. Waits until it is on its way."""
        await self._say(mesh.IceCandidate(Raw(encode(candidate)), to))

    async def send(self, data: Any, *, to: str | None = None) -> None:
        """Send data of the application, any JSON, to one peer or to all.

        Waits until it is on its way.
        """
        await self._say(mesh.Message(Raw(encode(data)), to))

    async def broadcast(self, media_type: MediaType = "video") -> None:
        """Be live from now on, also after each reconnect; it is said now if we are in the room."""
        self._broadcasting = media_type
        await self._say_if_joined(mesh.BroadcastStart(media_type))

    async def stop_broadcast(self) -> None:
        """Be live no longer; it is said now if we are in the room."""
        self._broadcasting = None
        await self._say_if_joined(mesh.BroadcastStop())

    async def kick(self, client_id: str, reason: str | None = None) -> None:
        """End a peer's connection; for moderators, others get an `Error` event."""
        await self._say(mesh.KickPeer(client_id, reason))

    async def ping(self, id: Any) -> None:  # noqa: A002  as it is on the wire
        """Ask for a `Pong` with this id, any JSON: the server got all that was sent before."""
        await self._say(mesh.Ping(Raw(encode(id))))

    async def renew(self, token: str) -> None:
        """Go on with a new token of the same user, for the present connection and for later ones.

        `TokenRenewed` comes back, or an `Error`. Only for a token that was given as a string.
        """
        self._token = token
        await self._say(mesh.AuthToken(token))

    async def _say_if_joined(self, message: Struct) -> None:
        if self._end is None and self._state != "joined":
            await trio.lowlevel.checkpoint()  # said on joining
        else:
            await self._say(message)

    async def _say(self, message: Struct) -> None:
        try:
            await self._outgoing.send(message)
        except trio.BrokenResourceError:
            raise self._why() from None

    def _why(self) -> TrioSignalError:
        """A fresh exception that says why it is over."""
        return self._end() if self._end else NotConnectedError("the client was closed")

    # The life of a client

    async def _run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Stay in the room until cancelled, or until the server has said no for good.

        Raises only if the first connection does not get into the room.
        """
        with self._event_sender, self._writer:  # whoever waits for them is told
            try:
                lost = await self._visit(task_status.started)
                if not lost.joined:
                    raise lost.error
                await self._come_back(lost)
            except* SlowReaderError:
                self._end = partial(SlowReaderError, "nobody read the events")
        self._goodbye.set()

    async def _come_back(self, lost: _Lost) -> None:
        """Connect again until it is final."""
        attempt = 0
        while not self._leaving and not is_final(lost.error, new_token=callable(self._token)):
            if lost.lasted >= self._timing.longest_pause:
                attempt = 0
            await self._tell_waiting(lost.error)
            if attempt or not is_at_once(lost.error):
                await trio.sleep(self._timing.pause(attempt))
            attempt += 1
            lost = await self._visit(lambda: None)
        self._end = partial(_again, lost.error)

    async def _tell_waiting(self, error: TrioSignalError) -> None:
        """Once for each new reason."""
        if self._told != str(error):
            self._told = str(error)
            match error:
                case ClosedError(code=code, reason=reason):
                    await self._tell(StateChanged("waiting", reason, code))
                case _:
                    await self._tell(StateChanged("waiting", str(error)))

    async def _visit(self, joined: Callable[[], None]) -> _Lost:
        """One connection, from its beginning to its end."""
        start = trio.current_time()
        was_in = False

        def entered() -> None:
            nonlocal was_in
            was_in = True
            joined()

        failure: TrioSignalError
        try:
            token = await self._fetch_token()
            async with trio.open_nursery() as nursery:
                await self._stay(nursery, token, entered)
        except* FAILURES as errors:
            failure = explain(errors)
        self._state = "waiting"
        return _Lost(failure, was_in, trio.current_time() - start)

    async def _fetch_token(self) -> str | None:
        if callable(self._token):
            return await self._token()
        return self._token

    async def _stay(
        self, nursery: trio.Nursery, token: str | None, joined: Callable[[], None]
    ) -> NoReturn:
        """Enter the room, and stay until the connection fails or the user leaves."""
        deadline = trio.current_time() + self._timing.connect
        with trio.fail_at(deadline):
            connection = await Connection.dial(self._address)
        with closing(connection):
            with trio.fail_at(deadline):
                await connection.open(nursery, self._address, self._ssl_context)
                events, later = await self._enter(connection, token)
            self._state, self._told = "joined", ""
            joined()
            nursery.start_soon(self._write, connection)
            nursery.start_soon(self._beat, connection)
            for event in events:
                await self._tell(event)
            for message in later:
                await self._take(nursery, message)
            await self._receive(nursery, connection)

    async def _enter(
        self, connection: Connection, token: str | None
    ) -> tuple[list[Event], list[Struct]]:
        """Say who we are, and take in who is there; the events to tell, and what came since."""
        hello = mesh.AuthToken(token, self._client_id, self._asked_username)
        while not isinstance(await connection.receive(), mesh.AuthRequired):
            pass
        await connection.send(hello)
        # What comes before the answer is the picture of the room, and what happened since.
        await connection.send(mesh.Ping(_FENCE))
        users: list[mesh.User] = []
        broadcasters: list[mesh.Broadcaster] = []
        later: list[Struct] = []
        while True:
            match await connection.receive():
                case mesh.AuthSuccess() as success:
                    self._welcome(success)
                case mesh.UsersInRoom(users=users):
                    pass
                case mesh.ActiveBroadcasts(broadcasters=broadcasters):
                    pass
                case mesh.Pong():
                    break
                case message:
                    later.append(message)
        await self._go_live_again(connection)
        return [StateChanged("joined"), *self._view.enter(users, broadcasters)], later

    async def _go_live_again(self, connection: Connection) -> None:
        """Say what the user wants us to be, which may change in between."""
        said: MediaType | None = None
        while said != self._broadcasting:
            said = self._broadcasting
            await connection.send(mesh.BroadcastStart(said) if said else mesh.BroadcastStop())

    def _welcome(self, success: mesh.AuthSuccess) -> None:
        self._client_id = success.client_id
        self._user_id = success.user_id
        self._username = success.user
        self._ice_servers = tuple(success.ice_servers)

    async def _receive(self, nursery: trio.Nursery, connection: Connection) -> NoReturn:
        while True:
            try:
                message = await connection.receive()
            except ClosedError:
                if self._leaving:
                    await trio.sleep_forever()  # until the goodbye is over
                raise
            await self._take(nursery, message)

    async def _take(self, nursery: trio.Nursery, message: Struct) -> None:
        if isinstance(message, mesh.TokenExpiring) and callable(self._token):
            nursery.start_soon(self._renew, self._token)
        for event in self._view.follow(message):
            await self._tell(event)

    async def _tell(self, event: Event) -> None:
        """Put an event into the queue; while that is full, nothing is read from the server."""
        try:
            self._event_sender.send_nowait(event)
        except trio.WouldBlock:
            self._stalled = True
            with trio.move_on_after(self._timing.slow_reader) as patience:
                await self._event_sender.send(event)
            self._stalled, self._stalled_until = False, trio.current_time()
            if patience.cancelled_caught:
                raise SlowReaderError from None

    async def _write(self, connection: Connection) -> NoReturn:
        """Send what the user's tasks say; when the user leaves, say goodbye, which ends it."""
        while True:
            try:
                message = await self._writer.receive()
            except trio.EndOfChannel:
                break
            await connection.send(message)
        await connection.say_goodbye()
        raise ClosedError(CloseCode.NORMAL, "left")

    async def _beat(self, connection: Connection) -> None:
        """A dead server's TCP can look alive."""
        while True:
            await trio.sleep(self._timing.heartbeat)
            asked = trio.current_time()
            with trio.move_on_at(asked + self._timing.patience):
                await self._say_ourselves(mesh.Ping())
            await trio.sleep_until(asked + self._timing.patience)
            if max(connection.heard, self._stalled_until) < asked and not self._stalled:
                raise NotConnectedError("no sign of life from the server")

    async def _renew(self, source: TokenSource) -> None:
        """Fetch a new token, and try again if that fails; the server closes when it is too late."""
        attempt = 0
        while True:
            try:
                token = await source()
            except (OSError, NotConnectedError) as error:
                logger.warning("no new token: %s", error)
                await trio.sleep(self._timing.pause(attempt))
                attempt += 1
            else:
                await self._say_ourselves(mesh.AuthToken(token))
                return

    async def _say_ourselves(self, message: Struct) -> None:
        """Behind what the user's tasks say, who may have left meanwhile."""
        with suppress(trio.ClosedResourceError):
            await self._outgoing.send(message)

    async def _leave(self) -> None:
        """Say goodbye, behind all that was said."""
        self._leaving = True
        self._outgoing.close()
        if self._state == "joined":
            with trio.move_on_after(self._timing.goodbye):
                await self._goodbye.wait()


def _again(error: TrioSignalError) -> TrioSignalError:
    """The same, without the way that it took."""
    match error:
        case ClosedError(code=code, reason=reason):
            return ClosedError(code, reason)
        case NotConnectedError(reason=reason, status=status):
            return NotConnectedError(reason, status)
        case _:
            return error


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
    reached, and `ClosedError` if it does not let us in. Later the client comes back by itself.
    If the block is cancelled or raises, the connection is closed without a goodbye.

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
    client = Client(
        Address.of_room(url, room),
        token=token,
        client_id=client_id,
        username=username,
        ssl_context=ssl_context,
        max_events=max_events,
        timing=timing or Timing(),
    )
    try:
        with client._events, client._event_sender, client._outgoing, client._writer:
            async with trio.open_nursery() as nursery:
                await nursery.start(client._run)
                yield client
                await client._leave()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) != 1:
            raise
        _raise_as_it_was(errors.exceptions[0])


def _raise_as_it_was(error: BaseException) -> NoReturn:
    """The block's own exception, which the nursery has wrapped, with the context that it had."""
    context = error.__context__
    try:
        raise error
    finally:
        error.__context__ = context
        del error, context
