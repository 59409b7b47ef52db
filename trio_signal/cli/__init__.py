"""The commands, a module for each kind."""

from typing import Annotated

import typer

from trio_signal import __version__
from trio_signal.cli.announce import announce
from trio_signal.cli.compare import compare
from trio_signal.cli.database import db_app
from trio_signal.cli.doctor import doctor
from trio_signal.cli.load import bench
from trio_signal.cli.serve import serve
from trio_signal.cli.tokens import token, user_app
from trio_signal.cli.watch import rooms, tail

app = typer.Typer(
    help="WebRTC signaling and live broadcast on Trio.",
    no_args_is_help=True,
    add_completion=False,
    # They may show the values of local variables: a password may be among them.
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """WebRTC signaling and live broadcast on Trio."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


app.command(
    epilog="Example: trio-signal serve --host 0.0.0.0 --workers 4 --redis-url redis://localhost. "
    "All settings are environment variables; the README lists them."
)(serve)
app.command(
    epilog="Example: trio-signal token --sub ann --name Ann --room 'team-*' --ttl 8h. "
    "Needs TRIO_SIGNAL_JWT_SECRET; issuer and audience are the server's."
)(token)
app.add_typer(user_app, name="user")
app.command(epilog="Example: trio-signal announce 'Back in five minutes' --type warning")(announce)
app.command(epilog="Example: trio-signal rooms --url https://signal.example.com")(rooms)
app.command(epilog="Example: trio-signal tail lobby --json | jq .type")(tail)
app.command(epilog="Example: trio-signal bench --pairs 100 --rate 10 --seconds 30")(bench)
app.command(
    epilog="Example: trio-signal compare https://old.example.com http://127.0.0.1:8000 "
    "--record talk.jsonl, and a client that uses http://127.0.0.1:9001; later the same again: "
    "trio-signal compare http://127.0.0.1:8000 --replay talk.jsonl"
)(compare)
app.add_typer(db_app, name="db")
app.command(epilog="Example: REDIS_URL=redis://localhost trio-signal doctor --json")(doctor)
