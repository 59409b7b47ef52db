"""How a command fails: with one line on standard error, and with 1.

With 2, if what is wrong is what was typed or set.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer


def fail(message: str, code: int = 1) -> NoReturn:
    """End the command. Texts of others cannot do anything to a terminal."""
    sys.stderr.write(f"trio-signal: {printable(message.strip())}\n")
    raise typer.Exit(code)


@contextmanager
def failing() -> Iterator[None]:
    """What is wrong with a setting, a file or the database ends the command."""
    from trio_signal.errors import ConfigError, SettingError, StoreError

    try:
        yield
    except (ConfigError, StoreError) as error:
        fail(str(error), 2 if isinstance(error, SettingError) else 1)


def first_of(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """One error of a group, however deep it is."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def reason(error: BaseException) -> str:
    """What to say of an error: of one of the system, what it is about, and its words."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror


def printable(text: str) -> str:
    """A text without what steers a terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
