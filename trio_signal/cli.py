"""The commands."""

import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import trio
import typer
from msgspec.structs import asdict

from trio_signal import __version__
from trio_signal.announcer import announce
from trio_signal.auth import mint_token
from trio_signal.config import Settings, is_loopback, load_settings
from trio_signal.errors import ConfigError, StoreError, WorkerError
from trio_signal.logs import configure_logging
from trio_signal.messages import Grants
from trio_signal.names import MAX_ID, clean_name
from trio_signal.server import open_server
from trio_signal.spectator import rooms, tail
from trio_signal.store import upgrade
from trio_signal.users import User, hash_password, is_user_id, read_users, write_users
from trio_signal.workers import open_workers

logger = logging.getLogger(__name__)
app = typer.Typer(
    help="WebRTC signaling and live broadcast on Trio.",
    no_args_is_help=True,
    add_completion=False,
    # They may show the values of local variables: a password may be among them.
    pretty_exceptions_enable=False,
)
app.command(epilog="Example: trio-signal rooms --url https://signal.example.com")(rooms)
app.command(epilog="Example: trio-signal tail lobby --json | jq .type")(tail)
db_app = typer.Typer(help="The database of announcements.", no_args_is_help=True)
app.add_typer(db_app, name="db")
app.command(epilog="Example: trio-signal announce 'Back in five minutes' --type warning")(announce)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """WebRTC signaling and live broadcast on Trio."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command(
    epilog="Example: trio-signal serve --host 0.0.0.0 --workers 4 --redis-url redis://localhost. "
    "All settings are environment variables; the README lists them."
)
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.  [TRIO_SIGNAL_HOST, 127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port to listen on; 0 picks one.  [PORT, 8000]")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="How many replicas to run on the port.  [WEB_CONCURRENCY, 1]"),
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(help="Redis that joins replicas into one service.  [REDIS_URL]")
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(
            help="Where announcements are kept.  [DATABASE_URL, sqlite:///trio-signal.db]"
        ),
    ] = None,
) -> None:
    """Run the server until SIGTERM or SIGINT."""
    try:
        settings = load_settings(
            host=host,
            port=port,
            workers=workers,
            redis_url=redis_url,
            database_url=database_url,
        )
    except ConfigError as error:
        _fail(str(error))
    configure_logging(settings)
    try:
        trio.run(_serve, settings)
    except* (OSError, ConfigError, WorkerError) as errors:
        _fail(f"cannot serve on {settings.host}:{settings.port}: {_first(errors)}")


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(text: str) -> int:
    """Seconds of `90s`, `15m`, `1h` or `7d`."""
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.isascii() or not number.isdecimal() or not int(number):
        raise typer.BadParameter(f"{text!r} is no time; like 90s, 15m, 1h or 7d")
    return int(number) * _UNITS[unit]


_Rooms = Annotated[
    list[str] | None,
    typer.Option("--room", help="Room, or glob of rooms; may be repeated. All if none."),
]
_NoPublish = Annotated[bool, typer.Option("--no-publish", help="May not go live.")]
_Moderator = Annotated[bool, typer.Option("--moderator", help="May kick others.")]
_Creator = Annotated[bool, typer.Option("--creator", help="May announce to everybody.")]
_TeamOf = Annotated[
    str | None, typer.Option("--team-of", help="User id of the creator whose team it is.")
]


def _grants(
    rooms: list[str] | None, no_publish: bool, moderator: bool, creator: bool, team_of: str | None
) -> Grants:
    return Grants(tuple(rooms or ("*",)), not no_publish, moderator, creator, team_of)


@app.command(
    epilog="Example: trio-signal token --sub ann --name Ann --room 'team-*' --ttl 8h. "
    "Needs TRIO_SIGNAL_JWT_SECRET; issuer and audience are the server's."
)
def token(
    sub: Annotated[str, typer.Option(help="The user id.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="The name to show.")] = None,
    room: _Rooms = None,
    no_publish: _NoPublish = False,
    moderator: _Moderator = False,
    creator: _Creator = False,
    team_of: _TeamOf = None,
    ttl: Annotated[
        int,
        typer.Option(
            parser=_duration, metavar="TIME", help="How long it lasts: 90s, 15m, 1h or 7d."
        ),
    ] = "1h",  # type: ignore[assignment]  # the parser's input
) -> None:
    """Print a token, signed with the configured secret."""
    if not 0 < len(sub) <= MAX_ID:
        raise typer.BadParameter(f"a user id has 1 to {MAX_ID} characters", param_hint="--sub")
    grants = _grants(room, no_publish, moderator, creator, team_of)
    with _failing():
        minted = mint_token(load_settings(), sub, name=name, grants=grants, ttl=ttl)
    typer.echo(minted)


user_app = typer.Typer(
    help="The users of the built-in login, in TRIO_SIGNAL_USERS_FILE.", no_args_is_help=True
)
app.add_typer(user_app, name="user")


@user_app.command(
    "add",
    epilog="Example: trio-signal user add ann --name Ann --creator. "
    "The password is asked for twice, or read from standard input if that is no terminal. "
    "A user that is there already is replaced.",
)
def user_add(
    user_id: Annotated[str, typer.Argument(help="The user id, with which one logs in.")],
    name: Annotated[str | None, typer.Option(help="The name to show.")] = None,
    room: _Rooms = None,
    no_publish: _NoPublish = False,
    moderator: _Moderator = False,
    creator: _Creator = False,
    team_of: _TeamOf = None,
) -> None:
    """Add a user, or replace one."""
    if not is_user_id(user_id):
        raise typer.BadParameter("a user id is a short text that can be read", param_hint="USER_ID")
    grants = _grants(room, no_publish, moderator, creator, team_of)
    path = _users_file()
    password = _ask_password()
    with _failing():
        users = read_users(path)
        users[user_id] = User(hash_password(password), clean_name(name), grants)
        write_users(path, users)


@user_app.command("remove", epilog="Example: trio-signal user remove ann")
def user_remove(user_id: Annotated[str, typer.Argument(help="The user id.")]) -> None:
    """Remove a user. Tokens that it has are good until they run out."""
    path = _users_file()
    with _failing():
        users = read_users(path)
        if users.pop(user_id, None) is None:
            _fail(f"there is no user {user_id!r} in {path}")
        write_users(path, users)


@user_app.command("list", epilog="Example: trio-signal user list --json")
def user_list(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the users and what they may."""
    with _failing():
        users = read_users(_users_file())
    rows = [
        {"user_id": user_id, "name": user.name, **asdict(user.grants)}
        for user_id, user in sorted(users.items())
    ]
    if as_json:
        typer.echo(msgspec.json.encode(rows).decode())
        return
    for row in rows:
        typer.echo("  ".join(_words(row)))


def _words(row: dict[str, object]) -> list[str]:
    """One line of the list: who it is, and what differs from what everybody may."""
    defaults = asdict(Grants())
    words = [str(row["user_id"]), *([f"({row['name']})"] if row["name"] else [])]
    for grant, usual in defaults.items():
        value = row[grant]
        if value != usual:
            text = ",".join(value) if isinstance(value, tuple) else str(value)
            words.append(f"{grant}={text.lower() if isinstance(value, bool) else text}")
    return words


def _users_file() -> Path:
    with _failing():
        path = load_settings().users_file
    if path is None:
        _fail("TRIO_SIGNAL_USERS_FILE is not set")
    return path


def _ask_password() -> str:
    if sys.stdin.isatty():
        password = str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        _fail("a password is needed")
    return password


@contextmanager
def _failing() -> Iterator[None]:
    """What is wrong with a setting, a file or the database ends the command with one line."""
    try:
        yield
    except (ConfigError, StoreError) as error:
        _fail(str(error))


@db_app.command(
    "upgrade",
    epilog="Example: DATABASE_URL=postgresql://localhost/signal trio-signal db upgrade",
)
def db_upgrade() -> None:
    """Make the tables, or bring them up to date; a server does so too when it starts."""
    with _failing():
        changed = upgrade(load_settings().database_url.get_secret_value())
    typer.echo("The tables are upgraded." if changed else "The tables are up to date.")


async def _serve(settings: Settings) -> None:
    """Serve, and print where, until a signal comes; or until the parent goes, as a worker.

    A second SIGINT does not wait for what is on its way.
    """
    hurry = trio.Event()
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            server = (
                open_workers(settings, hurry) if settings.workers > 1 else open_server(settings)
            )
            async with server as (host, port, *_):
                _tune_gc()
                _warn_if_open(settings)
                typer.echo(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}")
                interrupts = await _until_stopped(signals, settings)
                nursery.start_soon(_until_interrupted, signals, 2 - interrupts, hurry, nursery)
            nursery.cancel_scope.cancel()


async def _until_stopped(signals: AsyncIterator[int], settings: Settings) -> int:
    """Wait for a signal; whether it is SIGINT, as a number."""
    number = 0
    async with trio.open_nursery() as reasons:
        if settings.worker:
            reasons.start_soon(_until_parent_goes, reasons.cancel_scope)
        number = await anext(signals)
        logger.info("%s: stopping", signal.Signals(number).name)
        reasons.cancel_scope.cancel()
    return int(number == signal.SIGINT)


async def _until_interrupted(
    signals: AsyncIterator[int], times: int, hurry: trio.Event, nursery: trio.Nursery
) -> None:
    """Stop at once when so many more SIGINTs have come; another SIGTERM changes nothing."""
    while times:
        times -= await anext(signals) == signal.SIGINT
    logger.warning("interrupted again: stopping at once")
    hurry.set()
    nursery.cancel_scope.cancel()


def _tune_gc() -> None:
    """Collect less often: nearly all that is made here is freed by its reference count.

    What was imported stays, so it need not be looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)


async def _until_parent_goes(scope: trio.CancelScope) -> None:
    """A worker's standard input is a pipe that ends with its parent."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as pipe:
        async for _ in pipe:
            pass
    scope.cancel()


def _warn_if_open(settings: Settings) -> None:
    if not settings.wants_tokens and not is_loopback(settings.host):
        logger.warning(
            "open mode beyond loopback: anybody who reaches %s may be anybody here",
            settings.host,
        )


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _fail(message: str) -> NoReturn:
    sys.stderr.write(f"trio-signal: {message}\n")
    raise typer.Exit(1)
