"""How a connection to a Redis begins: TCP, TLS, and who is who.

All of it has one deadline. What will not mend itself is told from what may.
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
    """Open a connection that calls itself `name` to the server, which is a primary.

    There is one deadline for all of it. One to a node of a cluster may be a replica: it says
    MOVED to whatever it is asked. `replaces` is the number of a connection of this name that was
    given up: the server ends it before anything is said on the new one.

    Raises ConfigurationError for what will not mend itself, NotConnectedError for what may.
    The caller closes it.
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
    """Say HELLO, choose the database, and ask for the connection before, in one round trip.

    PING, since a server that still loads its data greets us, and can do nothing else. The number
    of the connection that this one replaces, if it is still there: what was said on it may be under
    way, and must not be carried out after what its successor says. The number alone may be
    another's, since the server has started anew.
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
        raise NotConnectedError(f"{address}: it is a replica, and not the primary")
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
        # Not its own words: they quote the password.
        raise ConfigurationError(f"{address}: the server is older than Redis 6")
    passing = isinstance(reply, BusyLoadingError | MasterDownError | ClusterDownError)
    lasting = isinstance(reply, AuthenticationError | ResponseError) and not passing
    kind = ConfigurationError if lasting else NotConnectedError
    raise kind(f"{address}: {reply}")


async def _name_services(connection: Connection, address: Address) -> str:
    """What to say to who takes a Sentinel for a server."""
    masters = (await connection.greet(("SENTINEL", "MASTERS")))[0]
    names = [] if isinstance(masters, Exception) else [each[b"name"].decode() for each in masters]
    scheme = "rediss+sentinel" if address.tls else "redis+sentinel"
    urls = [f"{scheme}://{address.host}:{address.port}/{name}" for name in names or ["NAME"]]
    return f"this is a Sentinel: use {' or '.join(urls)}"


def _explain(address: Address, error: BaseException) -> ConnectionError:
    """What to raise for an error of the connection itself."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConfigurationError(f"{address}: certificate refused: {error.verify_message}")
    # A server that dies during the handshake shows as one of the two.
    passing = (ssl.SSLEOFError, ssl.SSLSyscallError)
    if isinstance(error, ssl.SSLError) and not isinstance(error, passing):
        return ConfigurationError(f"{address}: TLS failed: {error.reason or error}")
    if isinstance(error, NOT_REDIS):
        return ConfigurationError(f"{address}: this is not Redis: {error}")
    # Trio tries several addresses, and has what each of them said as the cause.
    cause = error.__cause__ or error
    causes = cause.exceptions if isinstance(cause, BaseExceptionGroup) else (cause,)
    return NotConnectedError(f"{address}: {', '.join(dict.fromkeys(map(str, causes)))}")
