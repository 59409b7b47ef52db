"""The commands."""

import ipaddress
import logging
import os
import signal
import sys
from typing import Annotated, NoReturn

import trio
import typer

from trio_signal import __version__
from trio_signal.announcer import announce
from trio_signal.config import Settings, load_settings
from trio_signal.errors import ConfigError, StoreError, WorkerError
from trio_signal.logs import configure_logging
from trio_signal.server import open_server
from trio_signal.store import upgrade
from trio_signal.workers import open_workers

logger = logging.getLogger(__name__)
app = typer.Typer(
    help="WebRTC signaling and live broadcast on Trio.",
    no_args_is_help=True,
    add_completion=False,
)
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


@db_app.command(
    "upgrade",
    epilog="Example: DATABASE_URL=postgresql://localhost/signal trio-signal db upgrade",
)
def db_upgrade() -> None:
    """Make the tables, or bring them up to date; a server does so too when it starts."""
    try:
        changed = upgrade(load_settings().database_url.get_secret_value())
    except (ConfigError, StoreError) as error:
        _fail(str(error))
    typer.echo("The tables are upgraded." if changed else "The tables are up to date.")


async def _serve(settings: Settings) -> None:
    """Serve, and print where, until a signal comes; or until the parent goes, as a worker."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        server = open_workers(settings) if settings.workers > 1 else open_server(settings)
        async with server as (host, port, *_):
            _warn_if_open(settings)
            typer.echo(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}")
            async with trio.open_nursery() as reasons:
                if settings.worker:
                    reasons.start_soon(_until_parent_goes, reasons.cancel_scope)
                number = await anext(aiter(signals))
                logger.info("%s: stopping", signal.Signals(number).name)
                reasons.cancel_scope.cancel()


async def _until_parent_goes(scope: trio.CancelScope) -> None:
    """A worker's standard input is a pipe that ends with its parent."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as pipe:
        async for _ in pipe:
            pass
    scope.cancel()


def _warn_if_open(settings: Settings) -> None:
    try:
        local = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        local = settings.host == "localhost"
    if not local:
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
