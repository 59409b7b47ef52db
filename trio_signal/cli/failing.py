"""How a command fails: with one line on standard error, and exit code 1.

Usage and settings errors exit with 2.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command. Control characters in the message are removed."""
    sys.stderr.write(f"trio-signal: {printable(message.strip())}\n")
    raise typer.Exit(code)


@contextmanager
def failing() -> Iterator[None]:
    """End the command if a setting, a file or the database is wrong."""
    from trio_signal.errors import ConfigError, SettingError, StoreError

    try:
        yield
    except (ConfigError, StoreError) as error:
        fail(str(error), 2 if isinstance(error, SettingError) else 1)


def first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group, at any depth."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def reason(error: BaseException) -> str:
    """The text of an error; for errors of the system, the object and the system's text."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def printable(text: str) -> str:
    """A text without control characters."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
