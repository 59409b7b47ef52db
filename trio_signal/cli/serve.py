"""Running the server."""

import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable

import trio
import typer

from trio_signal.auth import open_auth
from trio_signal.cli.failing import fail, failing, first_of, reason
from trio_signal.config import MIN_API_KEY, Settings, short_api_keys
from trio_signal.doctor.facts import look_at_port
from trio_signal.environment import load_settings, unknown_variables
from trio_signal.errors import ConfigError, SettingError, WorkerError
from trio_signal.hosts import is_loopback
from trio_signal.logs import configure_logging
from trio_signal.server import open_bus, open_server, open_sockets
from trio_signal.sharing import ANY, Sharing, open_sharing, url_of
from trio_signal.store import Store
from trio_signal.workers import open_workers

logger = logging.getLogger(__name__)


def run(*, check: bool, share: bool, **options: object) -> None:
    """Run the server, or only check whether it would start. Blocks until a signal."""
    with failing():
        settings = load_settings(**options)
        if share and settings.workers > 1:
            raise SettingError(f"--share works with one worker, not {settings.workers}")
        if share and "host" not in settings.model_fields_set:
            settings = settings.model_copy(update={"host": ANY})
    configure_logging(settings)
    if not settings.worker:
        _warn_of_unknown(os.environ)
    try:
        if check:
            trio.run(_check, settings)
        else:
            trio.run(_serve, settings, open_sharing(settings.host) if share else None)
    except* SettingError as errors:
        fail(str(first_of(errors)), 2)
    except* (OSError, UnicodeError, ConfigError, WorkerError) as errors:
        # UnicodeError if the host cannot be looked up, as 127.0..1.
        fail(f"cannot serve on {settings.host}:{settings.port}: {reason(first_of(errors))}")


def _warn_of_unknown(environment: Iterable[str]) -> None:
    for variable, nearest in unknown_variables(environment).items():
        advice = f"did you mean {nearest}?" if nearest else "docs/settings.md lists all"
        logger.warning("%s is not a setting, ignoring it; %s", variable, advice)


async def _check(settings: Settings) -> None:
    """Try everything that may fail at the start, without becoming a replica; raises its errors."""
    Store(settings.database_url.get_secret_value()).close()
    async with open_bus(settings) as (bus, _), open_auth(settings):
        if bus.board is not None and not bus.board.reachable:
            typer.echo("Redis does not answer. The server would start, and keep trying.")
        if await look_at_port(settings) == "ours":
            typer.echo("Another server already uses this address.")
        else:
            for sock in await open_sockets(settings):
                sock.close()
    _warn_of_admission(settings)
    where = url_of("http", settings.host, settings.port)
    typer.echo(f"The server would start on {where}")


async def _serve(settings: Settings, sharing: Sharing | None) -> None:
    """Serve, and print the address, until a signal comes; a worker also ends with its parent.

    A second SIGINT skips the wait for open connections, and for a server that still starts.
    """
    hurry, stop, workers = trio.Event(), trio.Event(), trio.CancelScope()
    # The old handler returns after the block; a late SIGTERM must not change the exit code.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A closed terminal stops the server, unless it was started with nohup.
    hangs_up = signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    hangup = [signal.SIGHUP] if hangs_up else []
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, *hangup) as signals:
        async with trio.open_nursery() as nursery:
            server = (
                open_workers(settings, hurry)
                if settings.workers > 1
                else open_server(settings, sharing)
            )
            # Cancelling workers stops them gracefully, also if one of them never becomes ready.
            end = workers.cancel if settings.workers > 1 else stop.set
            nursery.start_soon(_heed, signals, settings, end, hurry, nursery)
            with workers:
                async with server as (host, port, *_):
                    _tune_gc()
                    _warn_of_admission(settings)
                    _say_where(host, port, sharing)
                    await stop.wait()
            nursery.cancel_scope.cancel()


def _say_where(host: str, port: int, sharing: Sharing | None) -> None:
    if sharing is None:
        typer.echo(f"listening on {url_of('http', host, port)}")
    else:
        url = url_of("https", sharing.host, port)
        typer.echo(f"listening on {url}\n\n{sharing.invite(url, qr=sys.stdout.isatty())}")


async def _heed(
    signals: AsyncIterator[int],
    settings: Settings,
    end: Callable[[], object],
    hurry: trio.Event,
    nursery: trio.Nursery,
) -> None:
    """Call `end` at the first signal; stop at once at the second SIGINT."""
    interrupts = await _until_stopped(signals, settings)
    end()
    await _until_interrupted(signals, 2 - interrupts, hurry, nursery)


async def _until_stopped(signals: AsyncIterator[int], settings: Settings) -> int:
    """Wait for a signal; return whether it is SIGINT, as a number."""
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
    """Stop at once after `times` more SIGINTs; another SIGTERM changes nothing."""
    while times:
        times -= await anext(signals) == signal.SIGINT
    logger.warning("interrupted again: stopping at once")
    hurry.set()
    nursery.cancel_scope.cancel()


def _tune_gc() -> None:
    """Collect garbage less often: reference counts free nearly all objects.

    Imported objects stay, so the collector need not visit them again.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def _until_parent_goes(scope: trio.CancelScope) -> None:
    """End with the parent: a worker's standard input is a pipe from it."""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as pipe:
        async for _ in pipe:
            pass
    scope.cancel()


def _warn_of_admission(settings: Settings) -> None:
    if not settings.wants_tokens and not is_loopback(settings.host):
        logger.warning(
            "open mode beyond loopback: anybody who reaches %s can impersonate anybody",
            settings.host,
        )
    for key_id in short_api_keys(settings):
        logger.warning(
            "the secret of API key %s is shorter than %d bytes; try: openssl rand -hex 32",
            ascii(key_id),
            MIN_API_KEY,
        )
