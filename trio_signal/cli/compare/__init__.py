"""`trio-signal compare`: the differences for clients that move from an old server to this one."""

import os
import sys
from operator import attrgetter
from pathlib import Path

import msgspec
import trio
import typer

from trio_signal.cli.compare.recorder import MAX_TALK, Recorder
from trio_signal.cli.compare.replay import Replay
from trio_signal.cli.compare.talk import Comparison, Difference, Record, decode_record, matters
from trio_signal.cli.failing import fail, first_of, printable, reason
from trio_signal.cli.stopping import until_stopped
from trio_signal.errors import TrioSignalError


def run(old: str | None, new: str, path: Path, port: int, idle: float, as_json: bool) -> None:
    """Record a conversation with the old server, if given, and replay it to the new one."""
    try:
        if old is not None:
            trio.run(_record, old, path, port, idle)
        found = trio.run(_replay, new, _read(path))
    except* (OSError, TrioSignalError) as errors:
        fail(reason(first_of(errors)))
    if found is None:
        fail("stopped early")
    if as_json:
        sys.stdout.write(f"{msgspec.json.encode(found).decode()}\n")
    else:
        _print(found)
    if matters(found):
        raise typer.Exit(1)


async def _record(old: str, path: Path, port: int, idle: float) -> None:
    def say_ready(url: str) -> None:
        sys.stderr.write(f"listening on {url} for {old}; Ctrl-C ends the recording\n")
        sys.stderr.flush()

    # Before the file: if the port is in use, no empty recording is left, which would be in the way.
    try:
        (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
    except OSError as error:
        raise TrioSignalError(f"cannot listen on 127.0.0.1:{port}: {reason(error)}") from None
    # Other users of this machine must not see the tokens, and an old recording is not overwritten.
    async with listener:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            async with until_stopped():
                await Recorder(old, file, idle=idle).run(listener, say_ready)


def _read(path: Path) -> list[Record]:
    with path.open("rb") as file:
        lines = file.read(MAX_TALK + 1).splitlines()
    try:
        records = [decode_record(line) for line in lines]
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise TrioSignalError(f"{path} is not a recording") from None
    if not records:
        raise TrioSignalError(f"{path} is empty: nothing was recorded")
    # A call is recorded when it is answered, but sockets may have shown its effects before.
    return sorted(records, key=attrgetter("at"))


async def _replay(url: str, records: list[Record]) -> list[Difference] | None:
    comparison, found = Comparison(), None
    async with until_stopped():
        try:
            await Replay(url, comparison).run(records)
        except* OSError as errors:
            raise TrioSignalError(f"{url}: {first_of(errors)}") from None
        found = comparison.finish()
    return found  # noqa: RET504  also reached after a cancelled block


def _print(found: list[Difference]) -> None:
    if not found:
        sys.stdout.write("No difference.\n")
    for difference in found:
        place = f"{difference.where} {difference.field}".strip()
        times = f" ({difference.times} times)" if difference.times > 1 else ""
        line = f"{difference.kind:<8} {place:<40} {difference.what}{times}"
        sys.stdout.write(f"{printable(line)}\n")
