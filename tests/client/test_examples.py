"""The examples run as they are, in processes of their own."""

import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import trio

from tests.client.bots import bot, wait_for
from tests.conftest import Serve
from trio_signal.client import WentLive

ROOT = Path(__file__).resolve().parents[2]
#: Seconds: two programs start, and each has a codec to run.
LONG = 180.0


async def test_record_broadcast(serve: Serve) -> None:
    """It watches a broadcaster that is live already, until it has its frames."""
    with trio.fail_after(LONG):
        async with serve() as service, trio.open_nursery() as nursery:
            card = [sys.executable, "-m", "tests.client.card", f"ws://{service.base}/ws/r"]
            nursery.start_soon(partial(trio.run_process, card, cwd=ROOT, check=False))
            async with bot(service.base, "bob") as bob:
                await wait_for(bob, WentLive)
            recorder = await trio.run_process(
                [
                    *(sys.executable, "examples/record_broadcast.py"),
                    *(f"http://{service.base}", "r", "--frames", "20"),
                ],
                cwd=ROOT,
                capture_stdout=True,
                stderr=subprocess.STDOUT,
            )
            nursery.cancel_scope.cancel()
    found = re.fullmatch(
        r"Card is live\n(\d+ audio frames, )?(\d+) video frames\n", recorder.stdout.decode()
    )
    assert found is not None, recorder.stdout
    assert int(found[2]) >= 20
