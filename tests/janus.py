"""A real Janus on loopback, configured as `deploy/` has it."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import trustme
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.redis.server import free_port

SECRET = "shared with janus"
_ADMIN = "for the tests"
#: Seconds to wait until it serves, and until an expected state is reached.
START = 15.0
_PATIENCE = 10.0
#: The path of the program; None on a machine whose package system has none.
PROGRAM = shutil.which("janus")

_CONFIGURATION = Path(__file__).parents[1] / "deploy" / "janus"
_TRANSPORT = """\
general: {{ json = "compact", ws = true, ws_ip = "127.0.0.1", ws_port = {port},
    wss = true, wss_ip = "127.0.0.1", wss_port = {tls_port} }}
certificates: {{ cert_pem = "{folder}/cert.pem", cert_key = "{folder}/key.pem" }}
admin: {{ admin_ws = true, admin_ws_ip = "127.0.0.1", admin_ws_port = {admin_port} }}
"""


class Janus:
    """A Janus; once stopped, it can be started again on the same port."""

    def __init__(self, folder: Path) -> None:
        """A Janus that keeps its files in this folder."""
        self._folder = folder
        self.port, self.tls_port, self._admin_port = free_port(), free_port(), free_port()
        self.authority = trustme.CA()
        certificate = self.authority.issue_cert("localhost")
        certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
        certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
        shutil.copytree(_CONFIGURATION, folder, dirs_exist_ok=True)
        main = folder / "janus.jcfg"
        admin = f'general: {{\n    admin_secret = "{_ADMIN}"'
        main.write_text(main.read_text().replace("general: {", admin))
        ports = {"port": self.port, "tls_port": self.tls_port, "admin_port": self._admin_port}
        transport = folder / "janus.transport.websockets.jcfg"
        transport.write_text(_TRANSPORT.format(folder=folder, **ports))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For settings, without its secret."""
        return f"janus+ws://127.0.0.1:{self.port}"

    def start(self) -> None:
        assert PROGRAM is not None, "janus is not installed; see tools/system-deps"
        folder = str(self._folder)
        command = [PROGRAM, "-F", folder, "-C", f"{folder}/janus.jcfg", f"--apisecret={SECRET}"]
        command.append("--ice-enforce-list=lo")
        with (self._folder / "log").open("ab") as log:
            # If it crashes, its core stays in the folder.
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder)
        end = time.monotonic() + START
        while True:
            assert self._process.poll() is None, (self._folder / "log").read_text()
            assert time.monotonic() < end, "janus does not serve"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill it, as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Freeze it: it keeps its sockets and sends nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def handles(self) -> list[int]:
        """The handles of all sessions, from its Admin API."""
        found: list[int] = []
        with connect(
            f"ws://127.0.0.1:{self._admin_port}",
            subprotocols=[Subprotocol("janus-admin-protocol")],
        ) as websocket:

            def ask(request: str, **given: object) -> dict[str, Any]:
                request_ = {"janus": request, "transaction": "t", "admin_secret": _ADMIN, **given}
                websocket.send(msgspec.json.encode(request_).decode())
                answer: dict[str, Any] = msgspec.json.decode(websocket.recv(_PATIENCE))
                return answer

            for session in ask("list_sessions")["sessions"]:
                found += ask("list_handles", session_id=session).get("handles", [])
        return found

    def rooms(self) -> dict[int, int]:
        """How many participants each room has, from the plugin's own API."""
        with connect(
            f"ws://127.0.0.1:{self.port}", subprotocols=[Subprotocol("janus-protocol")]
        ) as websocket:

            def ask(**request: object) -> dict[str, Any]:
                request = {"transaction": "t", "apisecret": SECRET, **request}
                websocket.send(msgspec.json.encode(request).decode())
                answer: dict[str, Any] = msgspec.json.decode(websocket.recv(_PATIENCE))
                return answer

            session = ask(janus="create")["data"]["id"]
            of = {"session_id": session}
            handle = ask(janus="attach", plugin="janus.plugin.videoroom", **of)["data"]["id"]
            listed = ask(janus="message", handle_id=handle, body={"request": "list"}, **of)
            ask(janus="destroy", **of)
        return {
            room["room"]: room["num_participants"] for room in listed["plugindata"]["data"]["list"]
        }


@contextlib.contextmanager
def run_janus(folder: Path) -> Iterator[Janus]:
    """Run a Janus; it is gone at the end, frozen or not."""
    janus = Janus(folder)
    janus.start()
    try:
        yield janus
    finally:
        janus.kill()
