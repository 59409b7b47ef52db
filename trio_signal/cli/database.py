"""The database of announcements."""

import typer

from trio_signal.cli.failing import failing
from trio_signal.config import load_settings
from trio_signal.store import upgrade

db_app = typer.Typer(help="The database of announcements.", no_args_is_help=True)


@db_app.callback()
def database() -> None:
    """The database of announcements."""


@db_app.command(
    "upgrade",
    epilog="Example: DATABASE_URL=postgresql://localhost/signal trio-signal db upgrade",
)
def db_upgrade() -> None:
    """Make the tables, or bring them up to date; a server does so too when it starts."""
    with failing():
        changed = upgrade(load_settings().database_url.get_secret_value())
    typer.echo("The tables are upgraded." if changed else "The tables are up to date.")
