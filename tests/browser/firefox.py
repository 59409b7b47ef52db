"""Drive the installed Firefox by WebDriver BiDi: https://www.w3.org/TR/webdriver-bidi/

Playwright only drives a Firefox build of its own; the one that people use speaks BiDi.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from tests.browser.visitors import PATIENCE

FIREFOX_NAMES = ["firefox-esr", "firefox", "/Applications/Firefox.app/Contents/MacOS/firefox"]
PREFERENCES = {
    # A camera that needs no permission, and candidates with addresses, including those of loopback.
    "media.navigator.permission.disabled": True,
    "media.navigator.streams.fake": True,
    "media.autoplay.default": 0,
    "media.peerconnection.ice.loopback": True,
    "media.peerconnection.ice.obfuscate_host_addresses": False,
    # No background requests; otherwise the first session waits for half a minute.
    "app.normandy.enabled": False,
    "app.update.enabled": False,
    "browser.startup.homepage_override.mstone": "ignore",
    "browser.startup.page": 0,
    "datareporting.policy.dataSubmissionEnabled": False,
    "extensions.update.enabled": False,
    "media.gmp-manager.updateEnabled": False,
    "messaging-system.rsexperimentloader.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.proxy.type": 0,
    "services.settings.server": "data:,#remote-settings-dummy/v1",
}


class Firefox:
    """A session with a running browser; `open_firefox` makes it."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._ids = count(1)
        #: What pages logged as errors.
        self.complaints: list[str] = []

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command and wait for its result."""
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while True:
            answer = json.loads(self._socket.recv(timeout=PATIENCE / 1000))
            if answer["type"] == "event" and answer["params"].get("level") == "error":
                self.complaints.append(answer["params"]["text"])
            if answer.get("id") == number:
                assert answer["type"] == "success", answer
                return answer["result"]

    def open(self, url: str) -> FirefoxPage:
        """Open a page in a new tab."""
        context = self.call("browsingContext.create", type="tab")["context"]
        self.call("browsingContext.navigate", context=context, url=url, wait="complete")
        return FirefoxPage(self, context)


class FirefoxPage:
    """A tab."""

    def __init__(self, firefox: Firefox, context: str) -> None:
        self._firefox = firefox
        self._context = context

    def evaluate(self, expression: str) -> Any:
        """The value of an expression, or of the promise that it is, as JSON."""
        result = self._firefox.call(
            "script.evaluate",
            expression=f"Promise.resolve({expression}).then(v => JSON.stringify(v ?? null))",
            target={"context": self._context},
            awaitPromise=True,
        )
        assert result["type"] == "success", result["exceptionDetails"]["text"]
        return json.loads(result["result"]["value"])

    def close(self) -> None:
        """Close the tab as a user does."""
        self._firefox.call("browsingContext.close", context=self._context)

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true."""
        self.evaluate(
            f"""new Promise((resolve, reject) => {{
                const look = () => ({expression}) ? resolve(true) : setTimeout(look, 50);
                look();
            }})"""
        )


@contextlib.contextmanager
def open_firefox(profile: Path) -> Iterator[Firefox]:
    """A Firefox with this folder as its profile; it ends with the block."""
    lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});\n" for k, v in PREFERENCES.items()]
    (profile / "user.js").write_text("".join(lines))
    program = next(filter(None, map(shutil.which, FIREFOX_NAMES)))
    command = [program, "--headless", "--no-remote", "--profile", str(profile)]
    process = subprocess.Popen(
        [*command, "--remote-debugging-port", "0", "about:blank"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    url = next(
        found[1]
        for line in process.stderr
        if (found := re.search(r"WebDriver BiDi listening on (ws://\S+)", line))
    )
    rest = threading.Thread(target=process.stderr.read)  # so that the pipe never fills up
    rest.start()
    try:
        with connect(f"{url}/session", max_size=None) as socket:
            firefox = Firefox(socket)
            firefox.call("session.new", capabilities={})
            firefox.call("session.subscribe", events=["log.entryAdded"])
            yield firefox
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE / 1000)
        rest.join()
        process.stderr.close()
