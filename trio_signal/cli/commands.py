"""The commands as they are typed: their options, and what may be said with them.

What does the work is imported when it is wanted. So help, the version, and what was typed wrong
are told at once.
"""

from pathlib import Path
from typing import Annotated

import typer

from trio_signal import __version__
from trio_signal.cli import webhooks
from trio_signal.cli.usage import (
    LOCAL,
    Command,
    Commands,
    duration,
    need_command,
    number,
    one_of,
    server_url,
    whole,
)

_HELP = {"help_option_names": ["--help", "-h"]}

app = typer.Typer(
    cls=Commands,
    help="WebRTC signaling and live broadcast on Trio.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    # They may show the values of local variables: a password may be among them.
    pretty_exceptions_enable=False,
    context_settings=_HELP,
)
user_app = typer.Typer(
    cls=Commands,
    help="The users of the built-in login, in TRIO_SIGNAL_USERS_FILE.",
    invoke_without_command=True,
)
db_app = typer.Typer(
    cls=Commands, help="The database of announcements.", invoke_without_command=True
)
Url = Annotated[
    str,
    typer.Option(
        parser=server_url,
        metavar="URL",
        envvar="TRIO_SIGNAL_URL",
        help="The server; ws: and wss: will do. Without a scheme it is http on this machine, "
        "and https elsewhere.",
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        help="Who you are. In the variable nobody else on the machine can read it.",
        envvar="TRIO_SIGNAL_TOKEN",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
_Name = Annotated[str | None, typer.Option(help="The name to show.")]
_Rooms = Annotated[
    list[str] | None,
    typer.Option("--room", help="Room, or glob of rooms; may be repeated. All if none."),
]
_NoPublish = Annotated[bool, typer.Option("--no-publish", help="May not go live.")]
_Moderator = Annotated[bool, typer.Option("--moderator", help="May kick others.")]
_Creator = Annotated[bool, typer.Option("--creator", help="May announce to everybody.")]
_Admin = Annotated[
    bool, typer.Option("--admin", help="May use the server API, as with an API key.")
]
_TeamOf = Annotated[
    str | None, typer.Option("--team-of", help="User id of the creator whose team it is.")
]


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
    """WebRTC signaling and live broadcast on Trio."""
    need_command(context)


@app.command(
    cls=Command,
    epilog="Example: trio-signal serve --host 0.0.0.0 --workers 4 --redis-url redis://localhost. "
    "All settings are environment variables; the README lists them.",
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
            help="Port to listen on; 0 picks one.  [PORT, 8000]",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            parser=whole(1, 256),
            metavar="NUMBER",
            help="How many replicas to run on the port.  [WEB_CONCURRENCY, 1]",
        ),
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
    share: Annotated[
        bool,
        typer.Option(
            "--share",
            help="Let phones in the local network come too: https with a certificate made now, "
            "and a QR code of the address.",
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether it would start with these settings.")
    ] = False,
) -> None:
    """Run the server until SIGTERM or SIGINT."""
    from trio_signal.cli import serve as work

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
    epilog="Example: trio-signal token --sub ann --name Ann --room 'team-*' --ttl 8h. "
    "Needs TRIO_SIGNAL_JWT_SECRET; issuer and audience are the server's.",
)
def token(
    sub: Annotated[str, typer.Option(help="The user id.", show_default=False)],
    name: _Name = None,
    room: _Rooms = None,
    no_publish: _NoPublish = False,
    moderator: _Moderator = False,
    creator: _Creator = False,
    team_of: _TeamOf = None,
    admin: _Admin = False,
    ttl: Annotated[
        int,
        typer.Option(parser=duration, metavar="TIME", help="How long it lasts: 90s, 15m, 1h, 7d."),
    ] = "1h",  # type: ignore[assignment]  # the parser's input
) -> None:
    """Print a token, signed with the configured secret."""
    from trio_signal.cli import tokens

    grants = tokens.make_grants(room, no_publish, moderator, creator, team_of, admin)
    tokens.print_token(sub, name, grants, ttl)


@app.command(
    cls=Command, epilog="Example: trio-signal announce 'Back in five minutes' --type warning"
)
def announce(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="What to say to every user.")
    ] = None,
    type_: Annotated[
        str,
        typer.Option(
            "--type",
            parser=one_of("info", "warning", "alert"),
            metavar="TYPE",
            help="How urgent it is: info, warning or alert.",
        ),
    ] = "info",
    clear: Annotated[bool, typer.Option("--clear", help="Take the last one away.")] = False,
    url: Url = LOCAL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Announce something to every user who is connected, or comes before it is cleared.

    Without a token it makes one of its own, if TRIO_SIGNAL_JWT_SECRET is set.
    """
    if clear == (text is not None):
        given = "both are given" if clear else "neither is given"
        raise typer.BadParameter(f"announce needs either TEXT or --clear, but {given}")
    from trio_signal.cli import announce as work

    work.run(text, type_, url, token, as_json)


@app.command(cls=Command, epilog="Example: trio-signal rooms --url https://signal.example.com")
def rooms(url: Url = LOCAL, token: Token = None, as_json: AsJson = False) -> None:
    """List the rooms in which somebody is."""
    from trio_signal.cli import watch

    watch.rooms(url, token, as_json)


@app.command(cls=Command, epilog="Example: trio-signal tail lobby --json | jq .type")
def tail(
    room: Annotated[str, typer.Argument(metavar="ROOM", help="The room's id.")],
    url: Url = LOCAL,
    token: Token = None,
    username: Annotated[
        str, typer.Option(help="What the others see, where the token does not say it.")
    ] = "tail",
    as_json: AsJson = False,
) -> None:
    """Join a room, and print what happens in it as it happens, until Ctrl-C.

    The others see it as a peer. What two of them send to each other goes past it.
    """
    if not room:
        raise typer.BadParameter("ROOM must have one character or more")
    from trio_signal.cli import watch

    watch.tail(url, room, token, username, as_json)


@app.command(cls=Command, epilog="Example: trio-signal bench --pairs 100 --rate 10 --seconds 30")
def bench(
    url: Url = LOCAL,
    token: Token = None,
    pairs: Annotated[
        int,
        typer.Option(
            parser=whole(1, 10_000), metavar="NUMBER", help="Rooms of two, of whom one speaks."
        ),
    ] = 20,
    rate: Annotated[
        float,
        typer.Option(
            parser=number(0.1, 1000), metavar="NUMBER", help="Messages a second of each pair."
        ),
    ] = 20.0,
    seconds: Annotated[
        float, typer.Option(parser=number(1, 3600), metavar="NUMBER", help="For how long.")
    ] = 10.0,
    size: Annotated[
        int, typer.Option(parser=whole(0, 60_000), metavar="BYTES", help="Bytes of a message.")
    ] = 2000,
    as_json: AsJson = False,
) -> None:
    """Load a running server with pairs that signal, and say what arrived, and how fast.

    Ends with 1 if a message did not arrive, or on Ctrl-C.
    A server limits connections and messages of one address.
    """
    from trio_signal.cli import load

    load.run(load.Load(url, token, pairs, rate, seconds, size), as_json)


@app.command(
    cls=Command,
    epilog="Example: trio-signal compare https://old.example.com http://127.0.0.1:8000 "
    "--record talk.jsonl, and a client that uses http://127.0.0.1:9001; later the same again: "
    "trio-signal compare http://127.0.0.1:8000 --replay talk.jsonl",
)
def compare(
    servers: Annotated[
        list[str],
        typer.Argument(
            parser=server_url,
            metavar="[OLD] NEW",
            help="The two servers; with --replay the new one.",
        ),
    ],
    record: Annotated[
        Path | None, typer.Option(help="A new file, for the conversation with the old server.")
    ] = None,
    replay: Annotated[Path | None, typer.Option(help="A file that --record wrote.")] = None,
    port: Annotated[
        int,
        typer.Option(
            parser=whole(0, 65535),
            metavar="PORT",
            help="Where clients find the old server meanwhile.",
        ),
    ] = 9001,
    idle: Annotated[
        float,
        typer.Option(
            parser=number(0.1, 86_400),
            metavar="SECONDS",
            help="The recording ends so many seconds after the last socket.",
        ),
    ] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Record clients with their old server, and see what a new one answers to the same.

    With --record it listens on 127.0.0.1 and passes everything on to OLD. Let a client use that
    address for a while; when it is gone, or on Ctrl-C, what it said is said to NEW. Printed is what
    NEW leaves out, says otherwise or adds, by message and field; ids and times aside.

    Ends with 1 if a client may notice a difference: if something is not only added.
    The file has what clients sent, tokens and all; only you can read it.
    """
    wanted = 2 if record is not None else 1
    if (record is None) is (replay is None) or len(servers) != wanted:
        raise typer.BadParameter("compare needs OLD NEW --record FILE, or NEW --replay FILE")
    *old, new = servers
    from trio_signal.cli import compare as work

    work.run(old[0] if old else None, new, record or replay or Path(), port, idle, as_json)


@app.command(cls=Command, epilog="Example: REDIS_URL=redis://localhost trio-signal doctor --json")
def doctor(
    url: Annotated[
        str | None,
        typer.Option(
            parser=server_url,
            metavar="URL",
            help="Where clients reach the server; tried too.",
            envvar="TRIO_SIGNAL_URL",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the usual mistakes in settings, Redis, database, TURN and machine; and say what to do.

    Run it with the server's environment, where the server runs. It changes nothing.
    """
    from trio_signal.cli import doctor as work

    work.run(url, as_json)


# The users of the built-in login

app.add_typer(user_app, name="user")


@user_app.callback()
def user(context: typer.Context) -> None:
    """The users of the built-in login, in TRIO_SIGNAL_USERS_FILE."""
    need_command(context)


@user_app.command(
    "add",
    cls=Command,
    epilog="Example: trio-signal user add ann --name Ann --creator. "
    "The password is asked for twice, or read from standard input if that is no terminal. "
    "A user that is there already is replaced.",
)
def user_add(
    user_id: Annotated[
        str, typer.Argument(metavar="USER_ID", help="The user id, with which one logs in.")
    ],
    name: _Name = None,
    room: _Rooms = None,
    no_publish: _NoPublish = False,
    moderator: _Moderator = False,
    creator: _Creator = False,
    team_of: _TeamOf = None,
    admin: _Admin = False,
) -> None:
    """Add a user, or replace one."""
    from trio_signal.cli import tokens

    grants = tokens.make_grants(room, no_publish, moderator, creator, team_of, admin)
    tokens.add_user(user_id, name, grants)


@user_app.command("remove", cls=Command, epilog="Example: trio-signal user remove ann")
def user_remove(
    user_id: Annotated[str, typer.Argument(metavar="USER_ID", help="The user id.")],
) -> None:
    """Remove a user. Tokens that it has are good until they run out."""
    from trio_signal.cli import tokens

    tokens.remove_user(user_id)


@user_app.command("list", cls=Command, epilog="Example: trio-signal user list --json")
def user_list(as_json: AsJson = False) -> None:
    """Print the users and what they may."""
    from trio_signal.cli import tokens

    tokens.list_users(as_json)


# The database of announcements

app.add_typer(db_app, name="db")
app.add_typer(webhooks.app, name="webhooks")


@db_app.callback()
def database(context: typer.Context) -> None:
    """The database of announcements."""
    need_command(context)


@db_app.command(
    "upgrade",
    cls=Command,
    epilog="Example: DATABASE_URL=postgresql://localhost/signal trio-signal db upgrade",
)
def db_upgrade() -> None:
    """Make the tables, or bring them up to date; a server does so too when it starts."""
    from trio_signal.cli import database

    database.run()
