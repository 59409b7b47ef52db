"""Pages that can only reach each other through a TURN server, with our credentials."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.test_broadcast import broadcast, expect_watching, watch
from tests.browser.visitors import Server, Visitors
from tests.coturn import SECRET, run_coturn

#: Runs before the page's own scripts: all peer connections use relay candidates only.
RELAY_ONLY = """
window.connections = [];
window.RTCPeerConnection = class extends RTCPeerConnection {
  constructor(configuration) {
    super({ ...configuration, iceTransportPolicy: 'relay' });
    connections.push(this);
  }
};
"""
#: The type of the local candidate that each connection uses.
LOCAL_CANDIDATES = """
Promise.all(connections.map(async (connection) => {
  const stats = await connection.getStats();
  for (const { type, selectedCandidatePairId: id } of stats.values()) {
    if (type === 'transport' && id) return stats.get(stats.get(id).localCandidateId).candidateType;
  }
  return null;
}))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with run_coturn(Path(tmp_path_factory.mktemp("coturn"))) as port:
        server = Server(
            environment={
                "TRIO_SIGNAL_TURN_URLS": f"turn:127.0.0.1:{port}?transport=udp",
                "TRIO_SIGNAL_TURN_SECRET": SECRET,
            }
        )
        server.start()
        yield server
        assert server.stop() == 0


def test_a_viewer_sees_the_broadcaster_through_the_relay(
    visitors: Visitors, browser: Browser
) -> None:
    def visit(path: str) -> Page:
        page = visitors.page(browser)
        page.add_init_script(RELAY_ONLY)
        page.goto(path)
        return page

    ada = broadcast(visit, "relay")
    bob = watch(visit, "relay", "live")
    expect_watching(bob)
    for page in (ada, bob):
        assert page.evaluate(LOCAL_CANDIDATES) == ["relay"]
