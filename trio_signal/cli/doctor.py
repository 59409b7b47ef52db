"""Find mistakes in a deployment."""

import os
import sys

import msgspec
import trio
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trio_signal.cli.failing import printable
from trio_signal.doctor import Finding, examine, gather, wrong_settings
from trio_signal.environment import load_settings, unknown_variables
from trio_signal.errors import ConfigError

_MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "failed": ("FAILED", "bold red")}


def run(url: str | None, as_json: bool) -> None:
    """Print the findings; ends with 1 if a check fails. Blocks for some seconds."""
    findings = _find(url)
    failed = sum(finding.level == "failed" for finding in findings)
    if as_json:
        answer = {"failed": failed, "findings": findings}
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
    else:
        Console(highlight=False).print(_table(findings), _summary(findings), sep="\n")
    raise typer.Exit(1 if failed else 0)


def _find(url: str | None) -> list[Finding]:
    try:
        settings = load_settings()
    except ConfigError as error:
        return wrong_settings(str(error), unknown_variables(os.environ))
    try:
        return examine(trio.run(gather, settings, os.environ, url))
    except* KeyboardInterrupt:  # it comes in a group
        raise typer.Abort from None


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        text = Text(printable(finding.says))
        if finding.mend:
            text.append(f"\n→ {printable(finding.mend)}", style="cyan")
        mark, style = _MARKS[finding.level]
        table.add_row(Text(mark, style=style), Text(finding.name, style="bold"), text)
    return table


def _summary(findings: list[Finding]) -> Text:
    counts = {level: sum(finding.level == level for finding in findings) for level in _MARKS}
    style = "red" if counts["failed"] else "yellow" if counts["warning"] else "green"
    return Text(
        f"\n{counts['ok']} ok, {counts['warning']} warnings, {counts['failed']} failed", style=style
    )
