"""How a connection to a Redis begins: TCP, TLS, HELLO.

All of it has one deadline. Errors that need a changed setting are told apart from temporary ones.
"""

import ssl
from collections.abc import Callable
from contextlib import ExitStack

import trio
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,  # noqa: A004
    MasterDownError,
    NoPermissionError,
    ResponseError,
)

from trio_signal.redis.address import Address
from trio_signal.redis.connection import (
    NOT_REDIS,
    Argument,
    ConfigurationError,
    Connection,
    LostError,
    NotConnectedError,
    Timing,
    is_passing,
)


async def connect(
    address: Address,
    name: str,
    timing: Timing,
    *,
    pushed: Callable[[list[bytes]], None],
    patient: bool,
    replaces: int | None = None,
    to_sentinel: bool = False,
) -> Connection:
    """Open a connection named `name` to the server, which must be a primary.

    One deadline covers everything. In a cluster, a replica is accepted, as it answers every command
    with MOVED. `replaces` is the id of an abandoned connection of this name: the server ends that
    one before anything is sent on the new one.

    Raises ConfigurationError if a setting must change, NotConnectedError if a retry may succeed.
    The caller closes the connection.
    """
    try:
        with trio.fail_after(timing.connect), ExitStack() as stack:
            transport = await _open_transport(address)
            stack.callback(transport.socket.close)
            stream: trio.abc.Stream = transport
            if address.tls is not None:
                stream = trio.SSLStream(transport, address.tls, server_hostname=address.host)
                await stream.do_handshake()
            connection = Connection(
                stream, transport.socket, timing, pushed=pushed, patient=patient
            )
            replaced = await _introduce(
                connection, address, name, to_sentinel=to_sentinel, replaces=replaces
            )
            if replaced is not None:
                await connection.greet(("CLIENT", "KILL", "ID", replaced))
            stack.pop_all()
            return connection
    except trio.TooSlowError:
        raise NotConnectedError(
            f"{address}: no answer to TCP, TLS and HELLO within {timing.connect:g} s"
        ) from None
    except trio.BrokenResourceError as error:
        raise _explain(address, error.__cause__ or error) from error
    except (OSError, LostError, *NOT_REDIS) as error:
        raise _explain(address, error) from error


async def _open_transport(address: Address) -> trio.SocketStream:
    if address.path is not None:
        return await trio.open_unix_socket(address.path)
    return await trio.open_tcp_stream(address.host, address.port)


async def _introduce(
    connection: Connection, address: Address, name: str, *, to_sentinel: bool, replaces: int | None
) -> int | None:
    """Send HELLO, choose the database, and look for the old connection, in one round trip.

    PING is needed because a server that still loads its data accepts HELLO. Returns the id of the
    connection to replace if it still exists: commands in flight on it must not run after those of
    its successor. An id is not enough to identify it, because the server may have restarted.
    """
    password = address.sentinel_password if to_sentinel else address.password
    hello: tuple[Argument, ...] = ("HELLO", 3)
    if password is not None:
        hello += ("AUTH", address.username, password)
    commands: list[tuple[Argument, ...]] = [hello, ("CLIENT", "SETNAME", name)]
    if address.db and not to_sentinel:
        commands.append(("SELECT", address.db))
    commands.append(("PING",))
    asked = [] if replaces is None else [("CLIENT", "LIST", "ID", replaces)]
    replies = await connection.greet(*commands, *asked)
    listing = replies.pop() if len(replies) > len(commands) else None
    greeting, named, *rest = (*replies, None)
    _check_greeting(address, greeting)
    if not isinstance(greeting, dict):
        raise ConfigurationError(f"{address}: this is not Redis: {greeting!r:.80}")
    connection.id = greeting.get(b"id")
    connection.mode = mode = greeting.get(b"mode", b"standalone").decode()
    if mode == "sentinel" and not to_sentinel:
        raise ConfigurationError(f"{address}: {await _name_services(connection, address)}")
    if greeting.get(b"role") in (b"replica", b"slave") and mode == "standalone":
        raise NotConnectedError(f"{address}: the server is a replica, not the primary")
    for reply in (None if isinstance(named, NoPermissionError) else named, *rest):
        if isinstance(reply, Exception):
            _check_greeting(address, reply)
    if listing is None or isinstance(listing, Exception):
        return None
    is_there = f" name={name} ".encode() in bytes(listing)
    return replaces if is_there else None


def _check_greeting(address: Address, reply: object) -> None:
    if not isinstance(reply, Exception):
        return
    if "unknown command" in str(reply):
        # Not the server's own text, which quotes the password.
        raise ConfigurationError(f"{address}: the server is older than Redis 6")
    passing = isinstance(reply, BusyLoadingError | MasterDownError | ClusterDownError)
    passing = passing or is_passing(reply)
    lasting = isinstance(reply, AuthenticationError | ResponseError) and not passing
    kind = ConfigurationError if lasting else NotConnectedError
    raise kind(f"{address}: {reply}")


async def _name_services(connection: Connection, address: Address) -> str:
    """An error text for a URL that names a Sentinel as a server."""
    masters = (await connection.greet(("SENTINEL", "MASTERS")))[0]
    names = [] if isinstance(masters, Exception) else [each[b"name"].decode() for each in masters]
    scheme = "rediss+sentinel" if address.tls else "redis+sentinel"
    urls = [f"{scheme}://{address.host}:{address.port}/{name}" for name in names or ["NAME"]]
    return f"this is a Sentinel: use {' or '.join(urls)}"


def _explain(address: Address, error: BaseException) -> ConnectionError:
    """The exception to raise for an error of the connection itself."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConfigurationError(f"{address}: certificate refused: {error.verify_message}")
    # A server that dies during the handshake shows as one of the two.
    passing = (ssl.SSLEOFError, ssl.SSLSyscallError)
    if isinstance(error, ssl.SSLError) and not isinstance(error, passing):
        return ConfigurationError(f"{address}: TLS failed: {error.reason or error}")
    if isinstance(error, NOT_REDIS):
        return ConfigurationError(f"{address}: this is not Redis: {error}")
    # Trio tries several addresses; their errors are the cause.
    cause = error.__cause__ or error
    causes = cause.exceptions if isinstance(cause, BaseExceptionGroup) else (cause,)
    return NotConnectedError(f"{address}: {', '.join(dict.fromkeys(map(str, causes)))}")
