"""The command line: `commands` defines the commands; one module each does the work."""

from trio_signal.cli.commands import app

__all__ = ["app"]
