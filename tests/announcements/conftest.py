"""Every setup that announcements must work in: each database, with and without Redis."""

from collections.abc import AsyncIterator

import pytest

from tests.announcements.office import Office, open_office
from tests.clients import Service
from tests.conftest import serve_once, serve_replicas
from tests.postgres import Postgres

PLACES = ["one replica", "one replica with Redis", "three replicas"]


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def any_database(request: pytest.FixtureRequest, database_url: str) -> str:
    """The URL of an empty database."""
    if request.param == "SQLite":
        return database_url
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.make_database()


@pytest.fixture(params=PLACES)
async def service(request: pytest.FixtureRequest, any_database: str) -> AsyncIterator[Service]:
    """A service with the default settings."""
    if request.param == "one replica":
        async with serve_once(database_url=any_database) as service:
            yield service
    else:
        count = 3 if request.param == "three replicas" else 1
        redis_url = request.getfixturevalue("redis_url")
        async with serve_replicas(count, redis_url, database_url=any_database) as service:
            yield service


@pytest.fixture
async def office(service: Service) -> AsyncIterator[Office]:
    async with open_office(service) as office:
        yield office
