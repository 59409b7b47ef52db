"""The connections of a session, one after the other.

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
from collections.abc import Callable
from contextlib import closing, suppress
from typing import NoReturn

import trio
from msgspec import Raw, Struct

from trio_signal.client.connection import FAILURES, Connection, explain
from trio_signal.client.errors import (
    ClosedError,
    NotConnectedError,
    SlowReaderError,
    is_at_once,
    is_final,
)
from trio_signal.client.events import Event, StateChanged
from trio_signal.client.session import Session, TokenSource, written
from trio_signal.dialects import mesh
from trio_signal.errors import CloseCode, TrioSignalError
from trio_signal.messages.identity import MediaType

logger = logging.getLogger(__name__)

#: The id of the ping behind which the snapshot of the room is complete.
_FENCE = Raw(b'"entered"')
#: What the server says of an id of ours that is somebody else's: docs/protocols/mesh.md.
_ID_IN_USE = "Client id in use"


class _Lost(Struct, frozen=True):
    """How one connection ended."""

    error: TrioSignalError
    #: Whether it had got us into the room.
    joined: bool
    #: For how long there was one.
    lasted: float


async def run(session: Session, *, task_status: trio.TaskStatus[None]) -> None:
    """Stay in the room until the user leaves, the server says no for good, or it is cancelled.

    Started when we are in the room. Raises only if the first connection does not get there. At the
    end whoever reads or says something is told why it is over.
    """
    with closing(session):
        try:
            lost = await _connect(session, task_status.started)
            if not lost.joined:
                raise lost.error
            session.end(await _come_back(session, lost))
        except* SlowReaderError:
            session.end(SlowReaderError("nobody read the events"))


async def _come_back(session: Session, lost: _Lost) -> TrioSignalError:
    """Connect again until it is final; why it is."""
    attempt = 0
    while not session.leaving and (
        _takes_fresh_id(session, lost.error)
        or not is_final(lost.error, new_token=callable(session.token))
    ):
        if lost.lasted >= session.timing.longest_pause:
            attempt = 0
        await session.tell_waiting(lost.error)
        if attempt or not is_at_once(lost.error):
            await trio.sleep(session.timing.pause(attempt))
        attempt += 1
        lost = await _connect(session, lambda: None)
    return lost.error


def _takes_fresh_id(session: Session, error: TrioSignalError) -> bool:
    """Whether somebody else got our id while we were away, and the server shall make another.

    Only once: one that the server makes is in use nowhere.
    """
    taken = isinstance(error, ClosedError) and error.reason == _ID_IN_USE
    if not taken or not session.asked_id:
        return False
    session.asked_id = ""
    return True


async def _connect(session: Session, joined: Callable[[], None]) -> _Lost:
    """One connection, from its beginning to its end."""
    start = trio.current_time()
    was_in = False

    def entered() -> None:
        nonlocal was_in
        was_in = True
        joined()

    failure: TrioSignalError
    try:
        token = await session.fetch_token()
        async with trio.open_nursery() as nursery:
            await _stay(session, nursery, token, entered)
    except* FAILURES as errors:
        failure = explain(errors)
    session.state = "waiting"
    return _Lost(failure, was_in, trio.current_time() - start)


async def _stay(
    session: Session, nursery: trio.Nursery, token: str | None, joined: Callable[[], None]
) -> NoReturn:
    """Enter the room, and stay until the connection fails or the user leaves."""
    deadline = trio.current_time() + session.timing.connect
    with trio.fail_at(deadline):
        connection = await Connection.dial(session.address)
    with closing(connection):
        with trio.fail_at(deadline):
            await connection.open(nursery, session.address, session.ssl_context)
            events, later = await _enter(session, connection, token)
        session.joined()
        joined()
        nursery.start_soon(_write, session, connection)
        nursery.start_soon(_beat, session, connection)
        for event in events:
            await session.tell(event)
        for message in later:
            await _take(session, nursery, message)
        await _receive(session, nursery, connection)


async def _enter(
    session: Session, connection: Connection, token: str | None
) -> tuple[list[Event], list[Struct]]:
    """Say who we are, and take in who is there; the events to tell, and what came since."""
    hello = mesh.AuthToken(token, session.asked_id or None, session.asked_username)
    while not isinstance(await connection.receive(), mesh.AuthRequired):
        pass
    await connection.send(written(hello))
    # What comes before the answer is the snapshot of the room, and what happened since.
    await connection.send(written(mesh.Ping(_FENCE)))
    users: list[mesh.User] = []
    broadcasters: list[mesh.Broadcaster] = []
    later: list[Struct] = []
    while True:
        match await connection.receive():
            case mesh.AuthSuccess() as success:
                session.welcome(success)
            case mesh.UsersInRoom(users=users):
                pass
            case mesh.ActiveBroadcasts(broadcasters=broadcasters):
                pass
            case mesh.Pong():
                break
            case message:
                later.append(message)
    await _go_live_again(session, connection)
    return [StateChanged("joined"), *session.view.enter(users, broadcasters)], later


async def _go_live_again(session: Session, connection: Connection) -> None:
    """Say what the user wants us to be, which may change in between."""
    said: MediaType | None = None
    while said != session.broadcasting:
        said = session.broadcasting
        await connection.send(written(mesh.BroadcastStart(said) if said else mesh.BroadcastStop()))


async def _receive(session: Session, nursery: trio.Nursery, connection: Connection) -> NoReturn:
    while True:
        try:
            message = await connection.receive()
        except ClosedError:
            if session.leaving:
                await trio.sleep_forever()  # until the goodbye is over
            raise
        await _take(session, nursery, message)


async def _take(session: Session, nursery: trio.Nursery, message: Struct) -> None:
    if isinstance(message, mesh.TokenExpiring) and callable(session.token):
        nursery.start_soon(_renew, session, session.token)
    for event in session.view.follow(message):
        await session.tell(event)


async def _write(session: Session, connection: Connection) -> NoReturn:
    """Send what the user's tasks say; when the user leaves, say goodbye, which ends it."""
    while True:
        try:
            message = await session.outgoing.receive()
        except trio.EndOfChannel:
            break
        await connection.send(message)
    await connection.say_goodbye()
    raise ClosedError(CloseCode.NORMAL, "left")


async def _beat(session: Session, connection: Connection) -> None:
    """Find out that the server is dead: its TCP can look alive."""
    timing = session.timing
    while True:
        await trio.sleep(timing.heartbeat)
        asked = trio.current_time()
        with trio.move_on_at(asked + timing.patience):
            await _say_ourselves(session, mesh.Ping())
        await trio.sleep_until(asked + timing.patience)
        if max(connection.heard, session.stalled_until) < asked and not session.stalled:
            raise NotConnectedError("no sign of life from the server")


async def _renew(session: Session, source: TokenSource) -> None:
    """Fetch a new token, and try again if that fails; the server closes when it is too late."""
    attempt = 0
    while True:
        try:
            token = await source()
        except (OSError, NotConnectedError) as error:
            logger.warning("no new token: %s", error)
            await trio.sleep(session.timing.pause(attempt))
            attempt += 1
        else:
            await _say_ourselves(session, mesh.AuthToken(token))
            return


async def _say_ourselves(session: Session, message: Struct) -> None:
    """Behind what the user's tasks say, who may have left meanwhile."""
    with suppress(NotConnectedError):
        await session.say(message)
