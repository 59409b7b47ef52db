"""Tokens, and the users of the built-in login."""

import sys
from pathlib import Path

import msgspec
import typer
from msgspec.structs import asdict

from trio_signal.auth import mint_token
from trio_signal.cli.failing import fail, failing
from trio_signal.environment import load_settings
from trio_signal.messages.identity import Grants
from trio_signal.names import MAX_ID, clean_name
from trio_signal.users import User, hash_password, is_user_id, read_users, write_users


def make_grants(
    rooms: list[str] | None,
    no_publish: bool,
    moderator: bool,
    creator: bool,
    team_of: str | None,
    admin: bool,
) -> Grants:
    """Make grants from the options of a command."""
    return Grants(tuple(rooms or ("*",)), not no_publish, moderator, creator, team_of, admin)


def print_token(sub: str, name: str | None, grants: Grants, ttl: float) -> None:
    """Print a token that is valid for `ttl` seconds, signed with the configured secret."""
    if not 0 < len(sub) <= MAX_ID:
        raise typer.BadParameter(f"--sub must have 1 to {MAX_ID} characters, not {len(sub)}")
    with failing():
        minted = mint_token(load_settings(), sub, name=name, grants=grants, ttl=ttl)
    typer.echo(minted)


def add_user(user_id: str, name: str | None, grants: Grants) -> None:
    """Add or replace a user. Asks for the password, or reads it from standard input."""
    if not is_user_id(user_id):
        raise typer.BadParameter(
            f"USER_ID must have 1 to {MAX_ID} visible characters, not {user_id!r}"
        )
    path = _users_file()
    password = _ask_password()
    with failing():
        users = read_users(path)
        users[user_id] = User(hash_password(password), clean_name(name), grants)
        write_users(path, users)


def remove_user(user_id: str) -> None:
    """Remove a user. Existing tokens stay valid until they expire."""
    path = _users_file()
    with failing():
        users = read_users(path)
        if users.pop(user_id, None) is None:
            fail(f"there is no user {user_id!r} in {path}")
        write_users(path, users)


def list_users(as_json: bool) -> None:
    """Print the users and their grants."""
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
    """One line of the list: the user, and the grants that differ from the default."""
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
        fail("no password was given")
    return password
