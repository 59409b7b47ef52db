"""`trio-signal bench`: the command as it is typed, and what it prints."""

import json
import signal
import subprocess

import pytest
import trio

from tests.clients import PATIENCE, Service
from tests.conftest import Serve
from tests.raw import get
from tests.test_watch import read_to_end, run_command, running
from trio_signal.cli import load
from trio_signal.cli.load import Load, percentile
from trio_signal.client import StateChanged, open_client

SHORT = ("--pairs", "3", "--rate", "20", "--seconds", "1")


async def bench(service: Service, *options: str) -> subprocess.CompletedProcess[bytes]:
    return await run_command("bench", "--url", f"http://{service.base}", *options, *SHORT)


async def test_every_message_arrives(serve: Serve) -> None:
    async with serve() as service:
        result = await bench(service, "--json")
    assert (result.returncode, result.stderr) == (0, b"")
    report = json.loads(result.stdout)
    assert (report["pairs"], report["sent"], report["received"]) == (3, 60, 60)
    assert report["interruptions"] == 0
    assert 0 < report["p50"] <= report["p95"] <= report["p99"] <= report["slowest"]
    assert report["connecting"] > 0
    assert report["messages_per_second"] > 0


async def test_text_report(serve: Serve) -> None:
    async with serve() as service:
        result = await bench(service)
    assert result.returncode == 0
    lines = result.stdout.decode().splitlines()
    rows = dict(line.rsplit(maxsplit=1) for line in lines if "ms" not in line)
    assert rows["messages sent"] == rows["messages received"] == "60"


async def test_refused_clients_are_reported(serve: Serve) -> None:
    async with serve(jwt_secret="0123456789" * 4) as service:
        result = await bench(service)
    assert result.returncode == 1
    assert result.stderr.decode().startswith(f"trio-signal: http://{service.base}: ")


async def test_stopped_server_is_not_waited_for(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_LAST", 0.1)
    measured = load._Measured()
    async with trio.open_nursery() as nursery:
        going = trio.CancelScope()
        url = await nursery.start(_serve_until, serve, going)
        async with open_client(url, room="r") as speaker, open_client(url, room="r") as listener:
            going.cancel()
            async for event in speaker:
                if isinstance(event, StateChanged) and event.state == "waiting":
                    break
            asked = Load(url, None, pairs=1, rate=20, seconds=0.1, size=0)
            measured.began = trio.current_time()
            with trio.fail_after(PATIENCE):
                await load._run_pair(asked, measured, speaker, listener)
    assert (asked.total, measured.report(asked, 0).received) == (2, 0)


async def _serve_until(
    serve: Serve, going: trio.CancelScope, *, task_status: trio.TaskStatus[str]
) -> None:
    with going:
        async with serve() as service:
            task_status.started(f"http://{service.base}")
            await trio.sleep_forever()


async def test_ctrl_c_stops_the_run(serve: Serve) -> None:
    async with serve() as service:
        url = f"http://{service.base}"
        async with running("bench", "--url", url, "--pairs", "1", "--seconds", "600") as process:
            while b'"peers":2' not in await get(service.base, "/rooms"):  # noqa: ASYNC110
                await trio.sleep(0.02)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 1
            assert await read_to_end(process.stderr) == "trio-signal: stopped early\n"


@pytest.mark.parametrize(
    ("ascending", "part", "expected"),
    [
        ([], 0.5, 0),
        ([0.001], 0.5, 1),
        ([0.001], 1, 1),
        ([0.001, 0.002, 0.003, 0.004], 0.5, 2),
        ([0.001, 0.002, 0.003, 0.004], 0.99, 4),
        ([0.001, 0.002, 0.003, 0.004], 1, 4),
    ],
)
def test_percentile(ascending: list[float], part: float, expected: float) -> None:
    assert percentile(ascending, part) == expected
