"""A service with a media server in memory, on one replica and on three."""

from collections.abc import AsyncIterator

import pytest

from tests.relay.cast import Served, serve_relayed


@pytest.fixture(params=["one replica", "three replicas"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[Served]:
    """The service and its media server."""
    is_one = request.param == "one replica"
    url = None if is_one else request.getfixturevalue("redis_url")
    async with serve_relayed(url, stun_urls="stun:stun.example.org:3478") as (service, servers):
        yield service, servers[0]
