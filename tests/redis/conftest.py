"""Fixtures: real redis-servers on ports of their own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.redis.server import Proxy, RedisServer, open_proxy, open_redis_server
from trio_signal.redis import Redis, open_redis


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A redis-server without password or TLS."""
    async with open_redis_server(tmp_path) as server:
        yield server


@pytest.fixture
async def redis(server: RedisServer) -> AsyncIterator[Redis]:
    """A connection to it with the default settings."""
    async with open_redis(server.url) as redis:
        yield redis


@pytest.fixture
async def proxy(server: RedisServer) -> AsyncIterator[Proxy]:
    """A proxy to it. Connection 0 is for commands, 1 for pub/sub."""
    async with open_proxy(server.port) as proxy:
        yield proxy
