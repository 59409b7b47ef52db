"""The options of `make bench`; the measurement itself is started by hand."""

import pytest

from bench.__main__ import read_options
from bench.report import ABSOLUTE, BY_CPU, FIGURES, ratios
from bench.report import TARGETS as RATIOS
from bench.servers import TARGETS
from bench.workloads import workloads


@pytest.mark.parametrize("part", ["--quick", "--only=relay", "--peers=node ws"])
def test_partial_results_cannot_be_published(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_options(["--publish", part])
    assert "--publish replaces all tables" in capsys.readouterr().err


def test_selected_peers_get_all_workloads() -> None:
    options = read_options(["--peers", "node ws, fastapi"])
    assert options.peers == options.all_for == ("node ws", "fastapi")


def test_lost_message_misses_the_target() -> None:
    def drops(arrived: int) -> dict[str, object]:
        phase = {"due": 1000, "arrived": arrived, "seconds": 10.0, "server_cpu": 1.0}
        return {"runs": {"drops": {"trio-signal": [[{}, phase]]}}}

    assert [ratio.verdict for ratio in ratios(drops(1000))] == ["reached"]
    assert [ratio.verdict for ratio in ratios(drops(999))] == ["missed"]


def test_every_workload_has_a_figure_and_a_server() -> None:
    for workload in workloads(quick=False).values():
        assert any(figure.workload == workload.name for figure in FIGURES)
        assert any(target.returning or not workload.returns for target in TARGETS)
    by_name = {figure.name for figure in FIGURES}
    assert by_name >= {*BY_CPU, *BY_CPU.values(), *(name for name, *_ in (*RATIOS, *ABSOLUTE))}
