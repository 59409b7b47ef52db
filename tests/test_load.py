"""`trio-signal bench`: the command as it is typed, and what it prints."""

import json

import pytest

from tests.conftest import Serve
from tests.test_watch import invoke
from trio_signal.cli.load import percentile

SHORT = ("--pairs", "3", "--rate", "20", "--seconds", "1")


async def test_all_that_is_sent_arrives(serve: Serve) -> None:
    async with serve() as service:
        result = await invoke("bench", "--url", f"http://{service.base}", "--json", *SHORT)
    assert (result.exit_code, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert (report["pairs"], report["sent"], report["received"]) == (3, 60, 60)
    assert report["interruptions"] == 0
    assert 0 < report["p50"] <= report["p95"] <= report["p99"] <= report["slowest"]
    assert report["connecting"] > 0
    assert report["messages_per_second"] > 0


async def test_in_words(serve: Serve) -> None:
    async with serve() as service:
        result = await invoke("bench", "--url", f"http://{service.base}", *SHORT)
    assert result.exit_code == 0
    rows = dict(line.rsplit(maxsplit=1) for line in result.stdout.splitlines() if "ms" not in line)
    assert rows["messages sent"] == rows["messages received"] == "60"


async def test_where_nobody_may_enter(serve: Serve) -> None:
    async with serve(jwt_secret="0123456789" * 4) as service:
        result = await invoke("bench", "--url", f"http://{service.base}", *SHORT)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"trio-signal: http://{service.base}: ")


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
