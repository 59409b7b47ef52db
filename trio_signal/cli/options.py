"""Options of several commands."""

from typing import Annotated

import typer

from trio_signal.cli.usage import server_url

Url = Annotated[
    str,
    typer.Option(
        parser=server_url,
        metavar="URL",
        envvar="TRIO_SIGNAL_URL",
        help="Address of the server. ws: and wss: also work. Without a scheme, http is used for "
        "this machine, and https for others.",
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        help="Your token. Prefer the variable: other users of this machine can read the options "
        "of a command.",
        envvar="TRIO_SIGNAL_TOKEN",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Name = Annotated[str | None, typer.Option(help="Display name.")]
Rooms = Annotated[
    list[str] | None,
    typer.Option(
        "--room",
        help="Room, or glob of rooms, to admit to; may be repeated. Without it: all rooms.",
    ),
]
NoPublish = Annotated[bool, typer.Option("--no-publish", help="Forbid broadcasting.")]
Moderator = Annotated[
    bool, typer.Option("--moderator", help="Allow kicking, banning and locking rooms.")
]
Creator = Annotated[bool, typer.Option("--creator", help="Allow announcements to all users.")]
Admin = Annotated[bool, typer.Option("--admin", help="Allow the server API, as with an API key.")]
TeamOf = Annotated[
    str | None,
    typer.Option(
        "--team-of", help="User id of the creator on whose behalf this user may announce."
    ),
]
