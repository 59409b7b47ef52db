"""The connections of a session, one after the other.

The tasks and their nurseries:

    open_client's nursery      run        one connection after the other
        a connection's nursery     receive    the server's messages become events
                                   write      the user's messages are sent
                                   beat       pings the server
                                   confirm    confirms received messages, and asks the server to
                                   renew      fetches a new token before the old one expires

The first of a connection's tasks that fails ends the connection. Only `write` sends, so a
cancelled `Client.send` has been sent completely, or not at all.
"""

import logging
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from typing import NoReturn

import trio
from msgspec import Raw, Struct

from trio_signal.client.connection import FAILURES, Connection, Received, explain
from trio_signal.client.errors import (
    ClosedError,
    NotConnectedError,
    SlowReaderError,
    is_at_once,
    is_final,
)
from trio_signal.client.resumption import Resumption
from trio_signal.client.session import Session, TokenSource, written
from trio_signal.dialects import mesh
from trio_signal.errors import CloseCode, TrioSignalError
from trio_signal.messages.identity import MediaType

logger = logging.getLogger(__name__)

#: The id of a ping; before its pong, the snapshot of the room is complete.
_FENCE = Raw(b'"entered"')
#: The server's error if another client has our id: docs/protocols/mesh.md.
_ID_IN_USE = "Client id in use"


#: Close codes after which the server keeps the session for a while: docs/protocols/mesh.md.
_RESUMABLE = (1001, 1006, 1011, 1012)
#: Seconds for the closing handshake after a failure or a cancellation.
_PARTING = 0.5


class _Lost(Struct, frozen=True):
    """How one connection ended."""

    error: TrioSignalError
    #: Whether the room had been joined.
    joined: bool
    #: How long the connection lasted, in seconds.
    lasted: float


async def run(session: Session, *, task_status: trio.TaskStatus[None]) -> None:
    """Stay in the room until the user leaves, the server refuses for good, or it is cancelled.

    Started when the room is joined. Raises only if the first connection does not get that far. At
    the end, readers and senders get the reason.
    """
    with closing(session):
        try:
            lost = await _connect(session, task_status.started)
            if not lost.joined:
                raise lost.error
            session.end(await _come_back(session, lost))
        except* SlowReaderError:
            session.end(SlowReaderError("the events were not read"))


async def _come_back(session: Session, lost: _Lost) -> TrioSignalError:
    """Reconnect until a failure is final; return that failure."""
    attempt = 0
    while not session.leaving and (
        _takes_fresh_id(session, lost.error)
        or not is_final(lost.error, new_token=callable(session.token))
    ):
        if lost.lasted >= session.timing.longest_pause:
            attempt = 0
        if lost.joined and not _waits_for_us(lost.error):
            session.resumption = None
        await session.tell_waiting(lost.error)
        if attempt or not is_at_once(lost.error):
            await trio.sleep(session.timing.pause(attempt))
        attempt += 1
        lost = await _connect(session, lambda: None)
    return lost.error


def _waits_for_us(error: TrioSignalError) -> bool:
    """Whether the server keeps our session for a while."""
    return not isinstance(error, ClosedError) or error.code in _RESUMABLE


def _takes_fresh_id(session: Session, error: TrioSignalError) -> bool:
    """Whether another client got our id while we were away, so that the server must make another.

    Only once: an id that the server makes is not in use.
    """
    taken = isinstance(error, ClosedError) and error.reason == _ID_IN_USE
    if not taken or not session.asked_id:
        return False
    session.asked_id = ""
    return True


async def _connect(session: Session, joined: Callable[[], None]) -> _Lost:
    """One connection, from begin to end."""
    start = trio.current_time()
    was_in = False

    def entered() -> None:
        nonlocal was_in
        was_in = True
        joined()

    failure: TrioSignalError
    with ExitStack() as leaving:
        try:
            token = await session.fetch_token()
            async with trio.open_nursery() as nursery:
                await _stay(session, nursery, leaving, token, entered)
        except* FAILURES as errors:
            failure = explain(errors)
        except* (trio.Cancelled, SlowReaderError):
            # Otherwise the server would wait for us to resume.
            if session.connection is not None:
                with trio.move_on_after(_PARTING, shield=True):
                    await session.connection.drop()
            raise
    session.state = "waiting"
    return _Lost(failure, was_in, trio.current_time() - start)


async def _stay(
    session: Session,
    nursery: trio.Nursery,
    leaving: ExitStack,
    token: str | None,
    joined: Callable[[], None],
) -> NoReturn:
    """Enter the room, and stay until the connection fails or the user leaves."""
    deadline = trio.current_time() + session.timing.connect
    with trio.fail_at(deadline):
        connection = await Connection.dial(session.address)
    leaving.enter_context(closing(connection))
    session.connection = connection
    with trio.fail_at(deadline):
        await connection.open(nursery, session.address, session.ssl_context)
        await _enter(session, nursery, connection, token)
    session.joined()
    joined()
    nursery.start_soon(_write, session, connection)
    nursery.start_soon(_beat, session, connection)
    nursery.start_soon(_confirm, session)
    await session.tell_all()
    await _receive(session, nursery, connection)


async def _enter(
    session: Session, nursery: trio.Nursery, connection: Connection, token: str | None
) -> None:
    """Authenticate, and process the members of the room or the missed messages."""
    old = session.resumption
    hello = mesh.AuthToken(
        token,
        session.asked_id or None,
        session.asked_username,
        resume=True,
        session=old.id if old else None,
        received=old.received if old else 0,
    )
    while not isinstance((await connection.receive()).message, mesh.AuthRequired):
        pass
    await connection.send(written(hello))
    # Messages before the pong are the snapshot of the room, and events since.
    await connection.send(written(mesh.Ping(_FENCE)))
    came: list[Received] = []
    new: Resumption | None = None
    while not isinstance((received := await connection.receive()).message, mesh.Pong):
        match received.message:
            case mesh.Resumed() as resumed if old is not None:
                await _resume(session, nursery, connection, old.lacking(resumed.received))
                return
            case mesh.AuthSuccess(session=offered) as success:
                session.welcome(success)
                new = Resumption(offered.id) if isinstance(offered, mesh.SessionOffer) else None
            case _:
                came.append(received)
    session.enter(new, came)
    for received in came:
        _take(session, nursery, received)
    await _go_live_again(session, connection)


async def _resume(
    session: Session, nursery: trio.Nursery, connection: Connection, lacking: list[str]
) -> None:
    """Repeat messages that have not arrived, and process those we have missed."""
    session.tell_joined()
    for text in lacking:
        await connection.send(text)
    while not isinstance((received := await connection.receive()).message, mesh.Pong):
        _take(session, nursery, received)
    await _go_live_again(session, connection)


async def _go_live_again(session: Session, connection: Connection) -> None:
    """Send the desired broadcast state, which may change meanwhile."""
    while session.declared != session.broadcasting:
        session.declared = session.broadcasting
        text = written(declaration(session.declared))
        session.keep(text)
        await connection.send(text)


def declaration(wanted: MediaType | None) -> mesh.BroadcastStart | mesh.BroadcastStop:
    """The message that says that we are live, or that we are not."""
    return mesh.BroadcastStart(wanted) if wanted else mesh.BroadcastStop()


async def _receive(session: Session, nursery: trio.Nursery, connection: Connection) -> NoReturn:
    while True:
        try:
            received = await connection.receive()
        except ClosedError:
            if session.leaving:
                await trio.sleep_forever()  # until the closing handshake is done
            raise
        _take(session, nursery, received)
        await session.tell_all()


def _take(session: Session, nursery: trio.Nursery, received: Received) -> None:
    if isinstance(received.message, mesh.TokenExpiring) and callable(session.token):
        nursery.start_soon(_renew, session, session.token)
    session.take(*received)


async def _write(session: Session, connection: Connection) -> NoReturn:
    """Send the user's messages; when the user leaves, close the connection."""
    while True:
        try:
            text, counted = await session.outgoing.receive()
        except trio.EndOfChannel:
            break
        if counted:
            session.keep(text)
        await connection.send(text)
    await connection.say_goodbye()
    raise ClosedError(CloseCode.NORMAL, "left")


async def _beat(session: Session, connection: Connection) -> None:
    """Detect a dead server, whose TCP connection may look alive."""
    timing = session.timing
    while True:
        await trio.sleep(timing.heartbeat)
        asked = trio.current_time()
        with trio.move_on_at(asked + timing.patience):
            await _say_ourselves(session, session.ping())
        await trio.sleep_until(asked + timing.patience)
        if max(connection.heard, session.stalled_until) < asked and not session.stalled:
            raise NotConnectedError("no sign of life from the server")


async def _confirm(session: Session) -> None:
    """Confirm and ask for confirmations, before either side has to keep too much."""
    while True:
        await session.ask_now.wait()
        session.ask_now = trio.Event()
        await _say_ourselves(session, session.ping())


async def _renew(session: Session, source: TokenSource) -> None:
    """Fetch a new token, and retry if that fails; the server closes the connection if too late."""
    attempt = 0
    while True:
        try:
            token = await source()
        except (OSError, NotConnectedError) as error:
            logger.warning("cannot get a new token: %s", error)
            await trio.sleep(session.timing.pause(attempt))
            attempt += 1
        else:
            await _say_ourselves(session, mesh.AuthToken(token))
            return


async def _say_ourselves(session: Session, message: Struct) -> None:
    """Send a message of our own after the user's; the user may have left meanwhile."""
    with suppress(NotConnectedError):
        await session.say(message)
