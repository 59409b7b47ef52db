"""Print the reference of the Python client into docs/clients/python.md.

    python -m tools.print_client_api

It is made from the docstrings, signatures and fields of what `trio_signal.client` exports.
"""

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
from msgspec import NODEFAULT, Struct

from tools import markers
from trio_signal import client
from trio_signal.client import media

PAGE = Path(__file__).resolve().parent.parent / "docs" / "clients" / "python.md"


def doc(thing: object) -> str:
    """A docstring as Markdown: paragraphs, and a list of the parameters."""
    text = inspect.getdoc(thing) or ""
    text = re.sub(r"\n {4,}", " ", text)
    text, *parameters = re.split(r"^:param (\w+): ", text, flags=re.MULTILINE)
    pairs = zip(parameters[::2], parameters[1::2], strict=True)
    listed = "".join(f"- `{name}`: {inline(words)}\n" for name, words in pairs)
    return f"{text.strip()}\n\n{listed}".strip()


def inline(text: str) -> str:
    """The text on one line."""
    return " ".join(text.split())


def call(name: str, function: Callable[..., Any]) -> str:
    """The call without types."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    ]
    return f"{name}{inspect.Signature(parameters)}"


def members(class_: type) -> Iterator[tuple[str, str]]:
    """The public attributes and methods of a class, as used in code, and their descriptions."""
    for name, member in vars(class_).items():
        if name.startswith("_"):
            continue
        if isinstance(member, property):
            yield name, inline(doc(member))
        else:
            awaited = "await " if inspect.iscoroutinefunction(member) else ""
            yield awaited + call(name, member), inline(doc(member))


def fields(struct: type[Struct]) -> Iterator[str]:
    """The fields of a struct, with their defaults."""
    for field in msgspec.structs.fields(struct):
        default = "" if field.default is NODEFAULT else f"={field.default!r}"
        yield f"{field.name}{default}"


def comments(struct: type[Struct]) -> dict[str, str]:
    """The comment above each field."""
    source = textwrap.dedent(inspect.getsource(struct))
    return {name: comment for comment, name in re.findall(r"#: (.*)\n +(\w+):", source)}


def reference() -> str:
    """The reference in Markdown."""
    events = get_args(client.Event)
    return "\n".join(
        (
            f"### `{call('open_client', client.open_client)}`\n\n{doc(client.open_client)}\n",
            f"### `Client`\n\n{doc(client.Client)}\n\n{table(members(client.Client))}",
            "### Events\n\n`Event` is any of these.\n",
            table((f"{e.__name__}({', '.join(fields(e))})", inline(doc(e))) for e in events),
            "### Values\n",
            table(
                (f"{value.__name__}({', '.join(fields(value))})", inline(doc(value)))
                for value in (client.Peer, client.Live)
            ),
            table(
                (name, " or ".join(f"`{value}`" for value in get_args(getattr(client, name))))
                for name in ("MediaType", "State")
            ),
            f"### `Timing`\n\n{doc(client.Timing)}\n",
            table(
                (name, comments(client.Timing)[name.partition("=")[0]])
                for name in fields(client.Timing)
            ),
            "### Media\n\nFrom `trio_signal.client.media`, with the extra `media`.\n",
            f"#### `async with {call('watch', media.watch)} as tracks`\n\n{doc(media.watch)}\n",
            f"#### `async with {call('publish', media.publish)}`\n\n{doc(media.publish)}\n",
            f"#### `Tracks`\n\n{doc(media.Tracks)}\n\n{table(members(media.Tracks))}",
            "### Exceptions\n\nAll of them are `trio_signal.errors.TrioSignalError`.\n",
            table(
                (name, inline(doc(getattr(client, name))))
                for name in ("ClosedError", "NotConnectedError", "SlowReaderError", "MediaError")
            ),
        )
    )


def table(rows: Iterator[tuple[str, str]]) -> str:
    """A table of names and descriptions."""
    lines = [f"| `{name}` | {words} |" for name, words in rows]
    return "\n".join(("| | |", "|---|---|", *lines)) + "\n"


def printed(page: str) -> str:
    """The page with the reference between its markers."""
    return markers.printed(page, "print_client_api", reference())


if __name__ == "__main__":
    PAGE.write_text(printed(PAGE.read_text()))
