"""The `user` commands: users of the built-in login."""

from typing import Annotated

import typer

from trio_signal.cli.options import (
    Admin,
    AsJson,
    Creator,
    Moderator,
    Name,
    NoPublish,
    Rooms,
    TeamOf,
)
from trio_signal.cli.usage import Command, Commands, examples, need_command

app = typer.Typer(
    cls=Commands,
    help="Edit the users of the built-in login, in TRIO_SIGNAL_USERS_FILE.",
    invoke_without_command=True,
)


@app.callback()
def user(context: typer.Context) -> None:
    """Edit the users of the built-in login, in TRIO_SIGNAL_USERS_FILE."""
    need_command(context)


@app.command(
    "add",
    cls=Command,
    epilog=examples("user add ann --name Ann --creator"),
)
def user_add(
    user_id: Annotated[
        str, typer.Argument(metavar="USER_ID", help="User id, which is also the login name.")
    ],
    name: Name = None,
    room: Rooms = None,
    no_publish: NoPublish = False,
    moderator: Moderator = False,
    creator: Creator = False,
    team_of: TeamOf = None,
    admin: Admin = False,
) -> None:
    """Add a user, or replace an existing one.

    The command asks for the password twice, or reads it from standard input if that is not a
    terminal.
    """
    from trio_signal.cli import tokens

    grants = tokens.make_grants(room, no_publish, moderator, creator, team_of, admin)
    tokens.add_user(user_id, name, grants)


@app.command("remove", cls=Command, epilog=examples("user remove ann"))
def user_remove(
    user_id: Annotated[str, typer.Argument(metavar="USER_ID", help="User id.")],
) -> None:
    """Remove a user.

    Existing tokens of the user stay valid until they expire.
    """
    from trio_signal.cli import tokens

    tokens.remove_user(user_id)


@app.command("list", cls=Command, epilog=examples("user list --json"))
def user_list(as_json: AsJson = False) -> None:
    """List the users and their permissions."""
    from trio_signal.cli import tokens

    tokens.list_users(as_json)
