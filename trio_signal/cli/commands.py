"""The commands and their options.

A command's module is imported only when it runs, so help, version and usage errors appear at once.
`tools.print_commands` makes docs/commands.md from this module.
"""

import gc
from pathlib import Path
from typing import Annotated

import typer

from trio_signal import __version__
from trio_signal.cli import accounts, webhooks
from trio_signal.cli.options import (
    Admin,
    AsJson,
    Creator,
    Moderator,
    Name,
    NoPublish,
    Rooms,
    TeamOf,
    Token,
    Url,
)
from trio_signal.cli.usage import (
    LOCAL,
    Command,
    Commands,
    duration,
    examples,
    need_command,
    number,
    one_of,
    server_url,
    whole,
)

_HELP = {"help_option_names": ["--help", "-h"]}

app = typer.Typer(
    cls=Commands,
    help="WebRTC signaling and live broadcasts, on Trio.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    # These tracebacks would show local variables, and one of them may be a password.
    pretty_exceptions_enable=False,
    context_settings=_HELP,
)
db_app = typer.Typer(
    cls=Commands, help="Maintain the server's database.", invoke_without_command=True
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def main(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    """WebRTC signaling and live broadcasts, on Trio."""
    need_command(context)


@app.command(
    cls=Command,
    epilog=examples(
        "serve --host 0.0.0.0 --port 9000",
        "serve --workers 4 --redis-url redis://localhost",
        "serve --database-url postgresql://localhost/signal",
    ),
)
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.  [TRIO_SIGNAL_HOST, 127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            parser=whole(0, 65535),
            metavar="PORT",
            help="Port to listen on; 0 picks a free one.  [PORT, 8000]",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            parser=whole(1, 256),
            metavar="NUMBER",
            help="Number of replicas that share the port; more than one requires Redis.  "
            "[WEB_CONCURRENCY, 1]",
        ),
    ] = None,
    redis_url: Annotated[
        str | None,
        typer.Option(help="Redis that joins several replicas into one service.  [REDIS_URL]"),
    ] = None,
    database_url: Annotated[
        str | None,
        typer.Option(help="Database for announcements.  [DATABASE_URL, sqlite:///trio-signal.db]"),
    ] = None,
    share: Annotated[
        bool,
        typer.Option(
            "--share",
            help="Serve https in the local network, for phones: makes a certificate, and prints a "
            "QR code of the address.",
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only check whether the server would start, and exit.")
    ] = False,
) -> None:
    """Run the server until SIGTERM, SIGINT, or SIGHUP from a terminal that closes.

    It prints `listening on http://HOST:PORT` when it is ready. A worker that ends is restarted.
    Everything else is set by environment variables: see docs/settings.md.
    """
    gc.disable()  # imported objects stay; looking for garbage in them takes a sixth of the start
    from trio_signal.cli import serve as work

    # Until `_tune_gc`: a first collection now would run finalizers, and Ctrl-C would be lost there.
    gc.freeze()
    gc.enable()
    work.run(
        check=check,
        share=share,
        host=host,
        port=port,
        workers=workers,
        redis_url=redis_url,
        database_url=database_url,
    )


@app.command(
    cls=Command,
    epilog=examples("token --sub ann --name Ann --room 'team-*' --ttl 8h"),
)
def token(
    sub: Annotated[str, typer.Option(help="User id.", show_default=False)],
    name: Name = None,
    room: Rooms = None,
    no_publish: NoPublish = False,
    moderator: Moderator = False,
    creator: Creator = False,
    team_of: TeamOf = None,
    admin: Admin = False,
    ttl: Annotated[
        int,
        typer.Option(parser=duration, metavar="TIME", help="Lifetime, such as 90s, 15m, 1h or 7d."),
    ] = "1h",  # type: ignore[assignment]  # the parser's input
) -> None:
    """Print a token for a user, signed with TRIO_SIGNAL_JWT_SECRET.

    It gets the configured issuer and audience, if there are any.
    """
    from trio_signal.cli import tokens

    grants = tokens.make_grants(room, no_publish, moderator, creator, team_of, admin)
    tokens.print_token(sub, name, grants, ttl)


@app.command(
    cls=Command,
    epilog=examples("announce 'Back in five minutes' --type warning", "announce --clear"),
)
def announce(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="Text to show to every user.")
    ] = None,
    type_: Annotated[
        str,
        typer.Option(
            "--type",
            parser=one_of("info", "warning", "alert"),
            metavar="TYPE",
            help="Urgency: info, warning or alert.",
        ),
    ] = "info",
    clear: Annotated[
        bool, typer.Option("--clear", help="Remove the current announcement.")
    ] = False,
    url: Url = LOCAL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Show an announcement to every user of a running server.

    Users who connect later see it too, until it is removed. Without a token, the command makes
    one if TRIO_SIGNAL_JWT_SECRET is set.
    """
    if clear == (text is not None):
        given = "both are given" if clear else "neither is given"
        raise typer.BadParameter(f"announce needs either TEXT or --clear, but {given}")
    from trio_signal.cli import announce as work

    work.run(text, type_, url, token, as_json)


@app.command(cls=Command, epilog=examples("rooms --url https://signal.example.com"))
def rooms(url: Url = LOCAL, token: Token = None, as_json: AsJson = False) -> None:
    """List the rooms of a running server.

    Prints the id of each room and its number of peers.
    """
    from trio_signal.cli import watch

    watch.rooms(url, token, as_json)


@app.command(cls=Command, epilog=examples("tail lobby --json | jq .type"))
def tail(
    room: Annotated[str, typer.Argument(metavar="ROOM", help="Id of the room.")],
    url: Url = LOCAL,
    token: Token = None,
    username: Annotated[
        str, typer.Option(help="Name that the others see, if the token has none.")
    ] = "tail",
    as_json: AsJson = False,
) -> None:
    """Join a room and print its events until Ctrl-C.

    The others see it as a peer. It does not see messages between two other peers.
    """
    if not room:
        raise typer.BadParameter("ROOM must have one character or more")
    from trio_signal.cli import watch

    watch.tail(url, room, token, username, as_json)


@app.command(cls=Command, epilog=examples("bench --pairs 100 --rate 10 --seconds 30"))
def bench(
    url: Url = LOCAL,
    token: Token = None,
    pairs: Annotated[
        int,
        typer.Option(
            parser=whole(1, 10_000),
            metavar="NUMBER",
            help="Number of rooms with two peers, of which one sends.",
        ),
    ] = 20,
    rate: Annotated[
        float,
        typer.Option(
            parser=number(0.1, 1000), metavar="NUMBER", help="Messages a second in each room."
        ),
    ] = 20.0,
    seconds: Annotated[
        float, typer.Option(parser=number(1, 3600), metavar="NUMBER", help="Duration in seconds.")
    ] = 10.0,
    size: Annotated[
        int,
        typer.Option(
            parser=whole(0, 60_000), metavar="BYTES", help="Size of each message in bytes."
        ),
    ] = 2000,
    as_json: AsJson = False,
) -> None:
    """Measure a running server under load.

    Pairs of peers send each other messages. Prints how many arrived, and how long they took. Exits
    with 1 if a message did not arrive, or on Ctrl-C. The server's limits for one address apply.
    """
    from trio_signal.cli import load

    load.run(load.Load(url, token, pairs, rate, seconds, size), as_json)


@app.command(
    cls=Command,
    epilog=examples(
        "compare https://old.example.com http://127.0.0.1:8000 --record talk.jsonl",
        "compare http://127.0.0.1:8000 --replay talk.jsonl",
    ),
)
def compare(
    servers: Annotated[
        list[str],
        typer.Argument(
            parser=server_url,
            metavar="[OLD] NEW",
            help="The two servers; with --replay only the new one.",
        ),
    ],
    record: Annotated[
        Path | None, typer.Option(help="New file for the conversation with the old server.")
    ] = None,
    replay: Annotated[Path | None, typer.Option(help="File that --record wrote.")] = None,
    port: Annotated[
        int,
        typer.Option(
            parser=whole(0, 65535),
            metavar="PORT",
            help="Port to which clients connect while recording.",
        ),
    ] = 9001,
    idle: Annotated[
        float,
        typer.Option(
            parser=number(0.1, 86_400),
            metavar="SECONDS",
            help="Seconds without a client after which the recording ends.",
        ),
    ] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Compare how an old and a new server answer.

    With --record it listens on 127.0.0.1 and forwards everything to OLD. Let a client use that
    address for a while. When it has disconnected, or on Ctrl-C, its messages are sent to NEW. The
    output lists what NEW leaves out, answers differently or adds, by message and field, without
    ids and times. With --replay the messages come from an earlier recording.

    Exits with 1 if a client may notice a difference, that is, if anything but additions differ.
    The file contains everything that clients sent, including tokens. Only you can read it.
    """
    wanted = 2 if record is not None else 1
    if (record is None) is (replay is None) or len(servers) != wanted:
        raise typer.BadParameter("compare needs OLD NEW --record FILE, or NEW --replay FILE")
    *old, new = servers
    from trio_signal.cli import compare as work

    work.run(old[0] if old else None, new, record or replay or Path(), port, idle, as_json)


@app.command(
    cls=Command, epilog=examples("doctor", "doctor --url https://signal.example.com --json")
)
def doctor(
    url: Annotated[
        str | None,
        typer.Option(
            parser=server_url,
            metavar="URL",
            help="Address at which clients reach the server; it is tested too.",
            envvar="TRIO_SIGNAL_URL",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find common mistakes, and say how to fix them.

    It checks settings, Redis, database, TURN, clock and machine. Run it on the server's machine,
    with the server's environment. It changes nothing. Exits with 1 if a check fails.
    """
    from trio_signal.cli import doctor as work

    work.run(url, as_json)


# The database

app.add_typer(accounts.app, name="user")
app.add_typer(db_app, name="db")
app.add_typer(webhooks.app, name="webhooks")


@db_app.callback()
def database(context: typer.Context) -> None:
    """Maintain the server's database."""
    need_command(context)


@db_app.command(
    "upgrade",
    cls=Command,
    epilog=examples("db upgrade"),
)
def db_upgrade() -> None:
    """Create or migrate the tables.

    The database is that of DATABASE_URL. A server also does this when it starts.
    """
    from trio_signal.cli import database

    database.run()
