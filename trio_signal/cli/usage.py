"""Usage errors in one plain sentence, and the types of options."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import typer
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from trio_signal.cli.failing import printable, reason

LOCAL = "http://127.0.0.1:8000"
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Command(TyperCommand):
    """A command that reports unexpected arguments in our words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; raises usage errors."""
        ctx.allow_extra_args = True
        rest = _parse(super().parse_args, ctx, args)
        if rest:
            takes_some = any(param.param_type_name == "argument" for param in self.params)
            takes = "no further argument" if takes_some else "no argument"
            raise typer.BadParameter(f"{_path(ctx)} takes {takes}, but there is {rest[0]!r}")
        return rest


class Commands(TyperGroup):
    """A group of commands. Usage errors are one sentence, and exit with 2."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line, and end the process."""
        try:
            code = super().main(*args, **{**options, "standalone_mode": False})
            if sys.stdout is not None:  # it is, if the process began without it
                sys.stdout.flush()
        except OSError as error:  # of the output; commands report their own
            if not isinstance(error, BrokenPipeError):  # as with `| head`
                sys.stderr.write(f"trio-signal: cannot write the output: {reason(error)}\n")
            # Without this, Python would try again at exit, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 1
        except typer.Abort:
            sys.stderr.write("trio-signal: stopped\n")
            code = 1
        except TyperException as error:
            sys.stderr.write(f"trio-signal: {printable(_sentence(error))}\n")
            code = error.exit_code
        sys.exit(code)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; raises usage errors."""
        return _parse(super().parse_args, ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; raises BadParameter if there is none."""
        name = args[0]
        if not name.startswith("-") and name not in self.commands:
            typed = f"{_path(ctx)} {name}".strip()
            nearest = get_close_matches(name, self.commands, n=1)
            raise typer.BadParameter(
                f"there is no command {typed!r}; {_advice(ctx, nearest, _path(ctx))}"
            )
        return super().resolve_command(ctx, args)


def examples(*commands: str) -> str:
    """The end of a command's help: one example per line, without wrapping."""
    lines = "".join(f"\n  trio-signal {each}" for each in commands)
    return f"\b\n{'Examples' if len(commands) > 1 else 'Example'}:{lines}"


def need_command(context: typer.Context) -> None:
    """Print the help, and exit with 2, if there is no command."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


def _parse(
    parse: Callable[[Any, list[str]], list[str]], context: Any, args: list[str]
) -> list[str]:
    """Add the command to errors for which the library leaves it out."""
    try:
        return parse(context, args)
    except TyperException as error:
        if getattr(error, "ctx", None) is None:
            error.ctx = context  # type: ignore[attr-defined]
        raise


def _path(context: Any) -> str:
    """The command as it was typed, such as `user add`; empty for the program itself."""
    return str(context.command_path).partition(" ")[2]


def _advice(context: Any, nearest: Sequence[str] | None, before: str = "") -> str:
    if nearest:
        return f"did you mean {before} {nearest[0]}?".replace("  ", " ")
    return f"see trio-signal {_path(context)} --help".replace("  ", " ")


def _sentence(error: Any) -> str:
    """The library's error in our words."""
    option, param = getattr(error, "option_name", None), getattr(error, "param", None)
    if option is not None:
        return _about_option(option, error.ctx, getattr(error, "possibilities", None))
    if param is None:
        return str(error.message)
    if not error.message:  # it has none where the parameter is missing
        return f"{_path(error.ctx)} needs {_called(param)}: {_words(param)}"
    return f"{_called(param, error.ctx)} {error.message}"


def _about_option(option: str, context: Any, nearest: Sequence[str] | None) -> str:
    param = next((each for each in context.command.params if option in each.opts), None)
    if param is None:
        subject = f"{_path(context)} has" if _path(context) else "there is"
        return f"{subject} no option {option}; {_advice(context, nearest)}"
    if getattr(param, "is_flag", False):
        return f"{option} takes no value"
    return f"{option} needs a value: {_words(param)}"


def _called(param: Any, context: Any = None) -> str:
    """The argument or option; or the variable, if its value comes from there."""
    if param.param_type_name == "argument":
        return str(param.metavar or param.name.upper())
    source = context and context.get_parameter_source(param.name)
    return str(param.envvar if source and source.name == "ENVIRONMENT" else param.opts[0])


def _words(param: Any) -> str:
    """The description of a parameter, from its help."""
    words = re.split(r"\. |  \[", str(param.help or ""))[0].rstrip(".")
    return words[:1].lower() + words[1:]


# Types of options


def refuse(must: str, value: object) -> typer.BadParameter:
    """The error for a value that is not allowed."""
    return typer.BadParameter(f"must be {must}, not {value!r}")


def whole(low: int, high: int) -> Callable[[str | int], int]:
    """A parser for whole numbers from `low` to `high`."""

    def read(text: str | int) -> int:
        digits = str(text)
        number = int(digits) if digits.isascii() and digits.isdecimal() else -1
        if not low <= number <= high:
            raise refuse(f"a whole number from {low} to {high}", text)
        return number

    return read


def number(low: float, high: float) -> Callable[[str | float], float]:
    """A parser for numbers from `low` to `high`."""

    def read(text: str | float) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise refuse(f"a number from {low:g} to {high:g}", text)
        return value

    return read


def one_of(*words: str) -> Callable[[str], str]:
    """A parser for one of these words."""

    def read(text: str) -> str:
        if text not in words:
            raise refuse(f"{', '.join(words[:-1])} or {words[-1]}", text)
        return text

    return read


def duration(text: str) -> int:
    """Parse `90s`, `15m`, `1h` or `7d` to seconds."""
    digits, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not digits.isascii() or not digits.isdecimal() or not int(digits):
        raise refuse("a time such as 90s, 15m, 1h or 7d", text)
    return int(digits) * _UNITS[unit]


def server_url(text: str) -> str:
    """Parse a server's address; return it with `http` or `https`, without a trailing slash.

    `ws` and `wss` are converted. Without a scheme it is `http` for this machine, and `https` for
    others, as a token may be sent.
    """
    url = text.strip()
    try:
        if "://" not in url:
            here = _is_here(urlsplit(f"//{url}").hostname or "")
            url = f"{'http' if here else 'https'}://{url}"
        parts = urlsplit(url)
        scheme = _SCHEMES.get(parts.scheme, "")
        (parts.hostname or "").encode("idna")  # as a lookup does; raises ValueError
        is_valid = parts.hostname and parts.port != 0 and not re.search(r"\s|:$", parts.netloc)
    except ValueError:
        is_valid = False
    if not (is_valid and scheme):
        raise refuse(f"the address of a server such as {LOCAL}", text)
    return parts._replace(scheme=scheme).geturl().rstrip("/")


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
