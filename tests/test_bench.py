"""What `make bench` may be asked for; it is measured by hand."""

import pytest

from bench.__main__ import read_options


@pytest.mark.parametrize("part", ["--quick", "--only=relay", "--peers=node ws"])
def test_a_part_is_not_published(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        read_options(["--publish", part])
    assert "--publish replaces all tables" in capsys.readouterr().err


def test_peers_that_are_asked_for_get_all_workloads() -> None:
    options = read_options(["--peers", "node ws, fastapi"])
    assert options.peers == options.all_for == ("node ws", "fastapi")
