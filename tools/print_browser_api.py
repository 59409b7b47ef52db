"""Print the browser client's JSDoc as types and as reference pages.

    python -m tools.print_browser_api

Writes the types of trio_signal/browser/trio-signal.js, react.js and server.js, and the references
in docs/clients/browser.md and react.md. The comments in these modules are the source.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tools import markers

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "trio_signal" / "browser" / "trio-signal.js"
TYPES = SOURCE.with_suffix(".d.ts")
PAGE = ROOT / "docs" / "clients" / "browser.md"
REACT = SOURCE.with_name("react.js")
REACT_TYPES = REACT.with_suffix(".d.ts")
SERVER = SOURCE.with_name("server.js")
SERVER_TYPES = SERVER.with_suffix(".d.ts")
REACT_PAGE = PAGE.with_name("react.md")

COMMENT = re.compile(r"^( *)/\*\*(.*?)\*/\n *([^\n]*)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"{@link ([\w.]+)}")


@dataclass
class Named:
    """A parameter or a property."""

    name: str
    type: str
    text: str
    optional: bool


@dataclass
class Entry:
    """A comment, and the code that it documents."""

    text: str
    code: str
    inside: str  # the class, or empty
    tags: list[tuple[str, str]] = field(default_factory=list)

    def all(self, tag: str) -> list[str]:
        """The texts of all `@tag`s."""
        return [rest for name, rest in self.tags if name == tag]

    def first(self, tag: str) -> str | None:
        """The text of the first `@tag`, if there is one."""
        return next(iter(self.all(tag)), None)

    @property
    def name(self) -> str:
        """The name of the function, class, method, field or type."""
        typedef = self.first("typedef")
        if typedef is not None:
            return typedef.rpartition(" ")[2]
        found = re.match(r"(?:export |class |function |this\.|async |get )*(\w+)", self.code)
        return found[1] if found else ""


def read(source: str) -> list[Entry]:
    """Entries for everything that other modules can see, in source order."""
    return [entry for entry in entries(source) if is_public(entry)]


def is_public(entry: Entry) -> bool:
    if entry.first("private") is not None:
        return False
    if entry.first("typedef") or entry.code.startswith("export "):
        return True
    return entry.inside != "" and re.match(r"(?!(?:async|get) #)\w", entry.code) is not None


def entries(source: str) -> Iterator[Entry]:
    for match in COMMENT.finditer(source):
        before = source[: match.start()]
        open_class = re.findall(r"^(?:export )?class (\w+)|^(})", before, re.MULTILINE)
        inside = open_class[-1][0] if open_class and match[1] else ""
        exported = f"export class {inside}" in before
        lines = [re.sub(r"^ *(\* ?)?", "", line) for line in match[2].splitlines()]
        text, *tagged = re.split(r"^@", "\n".join(lines), flags=re.MULTILINE)
        entry = Entry(joined(text), match[3], inside if exported else "")
        for tag in tagged:
            name, _, rest = tag.partition(" ")
            entry.tags.append((name.strip(), joined(rest)))
        yield entry


def joined(text: str) -> str:
    """Join paragraphs into one line each; indented code stays."""
    blocks = re.split(r"\n\s*\n", text.strip("\n"))
    return "\n\n".join(b if b.startswith("    ") else " ".join(b.split()) for b in blocks).strip()


def named(text: str) -> Named:
    """`{type} [name] - text`."""
    depth, end = 1, 0
    while depth:
        end += 1
        depth += {"{": 1, "}": -1}.get(text[end], 0)
    name, _, rest = text[end + 1 :].strip().partition(" - ")
    return Named(name.strip("[]"), text[1:end], rest, name.startswith("["))


def type_of(text: str) -> str:
    """The type of `@returns {type} text` or `@type {type}`."""
    return named(text).type


# The types


def types(source: str, imports: str = "") -> str:
    """The declarations of a `.d.ts` file; `imports` has what they use from another module."""
    lines = ["// Printed by python -m tools.print_browser_api.", ""]
    entries = read(source)
    if imports:
        lines += [imports, ""]
    for entry in entries:
        if not entry.inside:
            lines += [*declaration(entry, entries), ""]
    return "\n".join(lines)


def declaration(entry: Entry, entries: list[Entry]) -> list[str]:
    typedef = entry.first("typedef")
    if typedef is not None:
        kind = typedef.rpartition(" ")[0].strip()[1:-1]
        if kind != "object":
            return [*comment(entry.text), f"export type {entry.name} = {kind};"]
        members = [line for p in map(named, entry.all("property")) for line in member(p)]
        return [*comment(entry.text), f"export interface {entry.name} {{", *members, "}"]
    if entry.code.startswith("export class"):
        members = [line for e in entries if e.inside == entry.name for line in class_member(e)]
        if not any("constructor(" in line for line in members):
            members.insert(0, "  private constructor();")
        return [*comment(entry.text), f"{entry.code} ".rstrip(" {") + " {", *members, "}"]
    return [*comment(entry.text), f"export function {signature(entry)};"]


def member(value: Named) -> list[str]:
    mark = "?" if value.optional else ""
    return [*comment(value.text, "  "), f"  {value.name}{mark}: {value.type};"]


def class_member(entry: Entry) -> list[str]:
    kind = entry.first("type")
    code = signature(entry) if kind is None else f"readonly {entry.name}: {type_of(kind)}"
    return [*comment(entry.text, "  "), f"  {code};"]


def signature(entry: Entry) -> str:
    parameters = [
        f"{value.name}{'?' if value.optional else ''}: {value.type}"
        for value in map(named, entry.all("param"))
    ]
    generic = ""
    template = entry.first("template")
    if template is not None:
        value = named(template)
        generic = f"<{value.name} extends {value.type}>"
    returns = entry.first("returns")
    result = "" if returns is None else f": {type_of(returns)}"
    return f"{entry.name}{generic}({', '.join(parameters)}){result}"


def comment(text: str, indent: str = "") -> list[str]:
    return [f"{indent}/** {' '.join(words(text).split())} */"] if text else []


# The page


def page(source: str) -> str:
    """The reference, in Markdown."""
    entries = read(source)
    order = sorted(entries, key=lambda entry: entry.first("typedef") is not None)
    lines: list[str] = []
    for entry in order:
        if entry.inside:
            continue
        lines += section(entry)
        for inner in entries:
            if inner.inside == entry.name and inner.name != "constructor":
                lines += paragraph(inner)
    return "\n".join(lines)


def section(entry: Entry) -> list[str]:
    typedef = entry.first("typedef")
    heading = entry.name if typedef or "class" in entry.code else signature(entry)
    lines = [f"### `{heading}`", "", words(entry.text), ""]
    if typedef is not None and not typedef.startswith("{object}"):
        kind = typedef.rpartition(" ")[0].strip()[1:-1]
        lines += [f"One of {', '.join(f'`{one.strip()}`' for one in kind.split('|'))}.", ""]
    return lines + table(entry) + result(entry)


def paragraph(entry: Entry) -> list[str]:
    kind = entry.first("type")
    heading = f"{entry.name}: {type_of(kind)}" if kind else signature(entry)
    lines = [f"#### `{entry.inside.lower()}.{heading}`", "", words(entry.text), ""]
    return lines + table(entry) + result(entry)


def table(entry: Entry) -> list[str]:
    values = [named(text) for text in (*entry.all("property"), *entry.all("param"))]
    if not values:
        return []
    lines = ["| name | type | meaning |", "|---|---|---|"]
    for value in values:
        mark = "?" if value.optional else ""
        kind = value.type.replace("|", "\\|")
        lines.append(f"| `{value.name}{mark}` | `{kind}` | {words(value.text)} |")
    return [*lines, ""]


def result(entry: Entry) -> list[str]:
    text = entry.first("returns")
    return ["Returns: " + words(named(text).name), ""] if text and named(text).name else []


def words(text: str) -> str:
    return LINK.sub(r"`\1`", text)


def react_types() -> str:
    """The declarations of the hooks, which use the client's."""
    source = REACT.read_text()
    theirs = [entry.name for entry in read(SOURCE.read_text()) if not entry.inside]
    used = sorted(
        name for name in theirs if name[0].isupper() and re.search(rf"\b{name}\b", source)
    )
    return types(source, f"import type {{ {', '.join(used)} }} from './trio-signal.js';")


def printed(text: str, source: str) -> str:
    """The page with this module's reference between its markers."""
    return markers.printed(text, "print_browser_api", f"\n{page(source)}")


if __name__ == "__main__":
    TYPES.write_text(types(SOURCE.read_text()))
    REACT_TYPES.write_text(react_types())
    SERVER_TYPES.write_text(types(SERVER.read_text()))
    for place, module in ((PAGE, SOURCE), (REACT_PAGE, REACT)):
        place.write_text(printed(place.read_text(), module.read_text()))
