"""Print the settings into docs/settings.md.

    python -m tools.print_settings

They are made from the fields of `trio_signal.config.Settings`: the comment above a field describes
it, and a comment between empty lines is the heading of a group.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import AliasChoices, SecretStr

from tools import markers
from trio_signal.config import PREFIX, Settings

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"
PART = re.compile(
    r"^    # (?P<heading>.+)\n\n|(?P<text>(?:^    #: .*\n)+)    (?P<name>\w+): ", re.MULTILINE
)


def variable(name: str) -> str:
    """The environment variable of a field."""
    alias = Settings.model_fields[name].validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else PREFIX + name.upper()


def as_written(default: object) -> str:
    """A value as it is written in the environment."""
    match default:
        case None:
            return ""
        case SecretStr():
            return default.get_secret_value()
        case tuple():
            return ",".join(default)
        case bool():
            return str(default).lower()
        case _:
            return str(default)


def tables() -> str:
    """The settings in Markdown, a table for each group."""
    return "\n".join(_lines()).lstrip("\n") + "\n"


def _lines() -> Iterator[str]:
    for part in PART.finditer(inspect.getsource(Settings)):
        heading, text, name = part.group("heading", "text", "name")
        if heading:
            yield from (
                "",
                f"## {heading}",
                "",
                "| variable | default | meaning |",
                "|---|---|---|",
            )
        else:
            default = as_written(Settings.model_fields[name].default)
            meaning = " ".join(re.findall(r"#: (.*)", text)).rstrip(".")
            yield f"| `{variable(name)}` | {f'`{default}` ' if default else ''}| {meaning} |"


def printed(page: str) -> str:
    """The page with the settings between its markers."""
    return markers.printed(page, "print_settings", tables())


if __name__ == "__main__":
    PAGE.write_text(printed(PAGE.read_text()))
