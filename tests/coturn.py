"""A real TURN server on loopback."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.redis.server import free_port

SECRET = "shared with coturn"
#: Seconds that it may take to start.
START = 15.0

CONFIG = """\
listening-ip=127.0.0.1
relay-ip=127.0.0.1
listening-port={port}
use-auth-secret
static-auth-secret={secret}
realm=trio-signal.test
allow-loopback-peers
no-cli
no-tls
no-dtls
simple-log
log-file=stdout
pidfile={folder}/pid
userdb={folder}/users.sqlite
"""


@contextlib.contextmanager
def run_coturn(folder: Path) -> Iterator[int]:
    """Run coturn with its own configuration; yields its UDP and TCP port."""
    program = shutil.which("turnserver") or "/usr/bin/turnserver"
    port = free_port()
    config = folder / "turnserver.conf"
    config.write_text(CONFIG.format(port=port, secret=SECRET, folder=folder))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log)
    try:
        _wait_until_it_serves(process, port)
        yield port
    finally:
        process.kill()  # asked to end, it may wait minutes for its allocations
        process.wait()


def _wait_until_it_serves(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + START
    while True:
        assert process.poll() is None, "coturn ended"
        assert time.monotonic() < end, "coturn does not serve"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)


def use_turn(port: int, username: str, credential: str) -> subprocess.CompletedProcess[str]:
    """Send three messages from one relayed client to another, with coturn's own tool."""
    program = shutil.which("turnutils_uclient") or "/usr/bin/turnutils_uclient"
    command = [program, "-y", "-c", "-n", "3", "-u", username, "-w", credential, "-p", str(port)]
    return subprocess.run(
        [*command, "127.0.0.1"], capture_output=True, text=True, timeout=60, check=False
    )
