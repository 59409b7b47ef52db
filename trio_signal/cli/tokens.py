"""Tokens, and the users of the built-in login."""

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from msgspec.structs import asdict

from trio_signal.auth import mint_token
from trio_signal.cli.failing import fail, failing
from trio_signal.config import load_settings
from trio_signal.messages.identity import Grants
from trio_signal.names import MAX_ID, clean_name
from trio_signal.users import User, hash_password, is_user_id, read_users, write_users

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
    with failing():
        minted = mint_token(load_settings(), sub, name=name, grants=grants, ttl=ttl)
    typer.echo(minted)


user_app = typer.Typer(
    help="The users of the built-in login, in TRIO_SIGNAL_USERS_FILE.", no_args_is_help=True
)


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
    with failing():
        users = read_users(path)
        users[user_id] = User(hash_password(password), clean_name(name), grants)
        write_users(path, users)


@user_app.command("remove", epilog="Example: trio-signal user remove ann")
def user_remove(user_id: Annotated[str, typer.Argument(help="The user id.")]) -> None:
    """Remove a user. Tokens that it has are good until they run out."""
    path = _users_file()
    with failing():
        users = read_users(path)
        if users.pop(user_id, None) is None:
            fail(f"there is no user {user_id!r} in {path}")
        write_users(path, users)


@user_app.command("list", epilog="Example: trio-signal user list --json")
def user_list(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the users and what they may."""
    with failing():
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
    with failing():
        path = load_settings().users_file
    if path is None:
        fail("TRIO_SIGNAL_USERS_FILE is not set")
    return path


def _ask_password() -> str:
    if sys.stdin.isatty():
        password = str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        fail("a password is needed")
    return password
