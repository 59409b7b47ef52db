"""How a command fails: with one line on standard error, and exit code 1."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from trio_signal.errors import ConfigError, StoreError


def fail(message: str) -> NoReturn:
    """End the command. Texts of others cannot do anything to a terminal."""
    sys.stderr.write(f"trio-signal: {printable(message.strip())}\n")
    raise typer.Exit(1)


@contextmanager
def failing() -> Iterator[None]:
    """What is wrong with a setting, a file or the database ends the command."""
    try:
        yield
    except (ConfigError, StoreError) as error:
        fail(str(error))


def first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """One error of a group, however deep it is."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def printable(text: str) -> str:
    """A text without what steers a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
