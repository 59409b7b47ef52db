"""The command line: `commands` has what can be typed, and a module each does the work."""

from trio_signal.cli.commands import app

__all__ = ["app"]
