"""Print the commands into docs/commands.md.

    python -m tools.print_commands

They are made from what `--help` shows: `trio_signal.cli.commands` and its neighbours.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from tools import markers
from trio_signal.cli import app

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"
#: The default at the end of a help text, if the library does not know it.
DEFAULT = re.compile(r"  \[(.*)\]$")
CODE = re.compile(r"(?<!\w)(--[a-z-]+|[A-Z]+_[A-Z_]+(=\S+\w)?|docs/(\w+)\.md)")


def sections() -> str:
    """The commands in Markdown, one section each."""
    return "\n".join(
        line
        for path, command in commands(typer.main.get_command(app), "trio-signal")
        for line in _section(path, command)
    )


def commands(group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """All commands of a group, with the words to type."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _section(path: str, command: Any) -> Iterator[str]:
    summary, _, rest = command.help.partition("\n\n")
    yield from (f"## {path}", "", prose(summary), "")
    for paragraph in filter(None, rest.split("\n\n")):
        yield from (prose(paragraph), "")
    yield from ("```sh", *re.findall(r"^  (.*)", command.epilog, re.MULTILINE), "```", "")
    rows = [row(param) for param in command.params]
    if rows:
        yield from ("| option | default | meaning |", "|---|---|---|", *rows, "")


def row(param: Any) -> str:
    """The row of an argument or option."""
    text, default = param.help.rstrip("."), param.default
    found = DEFAULT.search(param.help)
    if found:
        text, default = DEFAULT.sub("", param.help).rstrip("."), found[1]
    elif param.required:
        default = "required"
    elif default is None or default is False:
        default = ""
    if isinstance(default, float) and default.is_integer():
        default = int(default)
    told = [
        each if " " in each or each == "required" else f"`{each}`"
        for each in str(default).split(", ")
        if each
    ]
    told = [f"`{param.envvar}`"] * bool(param.envvar) + told
    if param.param_type_name == "argument":
        name = param.metavar
    else:
        value = "" if param.is_flag else f" {param.metavar or param.name.upper()}"
        name = f"{param.opts[0]}{value}"
    return f"| `{name}` | {', else '.join(told)}{' ' if told else ''}| {prose(text)} |"


def prose(text: str) -> str:
    """A help text as Markdown: options and variables are code, and pages are links."""
    text = " ".join(text.split())
    return CODE.sub(
        lambda found: f"[{found[3]}]({found[3]}.md)" if found[3] else f"`{found[1]}`", text
    )


def printed(page: str) -> str:
    """The page with the commands between its markers."""
    return markers.printed(page, "print_commands", sections())


if __name__ == "__main__":
    PAGE.write_text(printed(PAGE.read_text()))
