"""The documented examples of the Python client, together with a browser."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from playwright.sync_api import Page

from tests.browser.test_client import enter_again, expect_told, expect_watching, publish
from tests.browser.visitors import PATIENCE, Server

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def running(name: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, f"examples/{name}.py", *arguments]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_browser_is_recorded_and_plays_pythons_stream(
    visit: Callable[..., Page], server: Server, tmp_path: Path
) -> None:
    path = tmp_path / "talk.mp4"
    # One recorder starts before the browser is live, the other example afterwards.
    with running("record", server.url, "examples", str(path)) as recorder:
        page = visit("/tests/client.html", sound=True)
        enter_again(page, "examples", "Ada")
        expect_told(page, "peer", "Recorder")
        publish(page)
        with running("publish", server.url, "examples"):
            expect_told(page, "stream", "Pattern")
            expect_watching(page)
        assert recorder.wait(PATIENCE / 1000) == 0
    with av.open(str(path)) as file:
        assert {stream.type for stream in file.streams} == {"audio", "video"}
        assert file.duration is not None
        assert 8 < file.duration / 1_000_000 < 12
        assert sum(1 for _ in file.decode(video=0)) > 20
