"""The database of announcements."""

import typer

from trio_signal.cli.failing import failing
from trio_signal.environment import load_settings
from trio_signal.store import upgrade


def run() -> None:
    """Create or upgrade the tables. Blocks."""
    with failing():
        changed = upgrade(load_settings().database_url.get_secret_value())
    typer.echo(
        "The tables are now up to date." if changed else "The tables were already up to date."
    )
