"""Fixtures: a real server on a real socket, in the test's own event loop."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from tests.clients import Service
from trio_signal.config import Settings, load_settings
from trio_signal.server import open_server

Serve = Callable[..., AbstractAsyncContextManager[Service]]


def settings(**given: object) -> Settings:
    """Settings for a test: any port, and whatever is given."""
    return load_settings(**{"port": 0, "host": "127.0.0.1", **given})


@asynccontextmanager
async def serve_once(**given: object) -> AsyncIterator[Service]:
    """A server with these settings, stopped gracefully at the end."""
    async with open_server(settings(**given)) as (host, port):
        yield Service(f"{host}:{port}")


@pytest.fixture
def serve() -> Serve:
    """Starts servers with settings of one's own."""
    return serve_once


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """A server with the default settings."""
    async with serve_once() as service:
        yield service
