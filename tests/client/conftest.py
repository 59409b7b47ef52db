"""Tests of what a client sees run with both fronts: Trio's and asyncio's.

Those that cannot are marked `of_trio`, with the reason.
"""

import inspect

import pytest

from tests.client import bots, through_asyncio
from trio_signal.client import open_client

_FRONTS = {"trio": open_client, "asyncio": through_asyncio.open_client}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "of_trio(why): this only holds for the Trio client")


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """With several replicas only one front is used, since the choice makes no difference there."""
    if "front" not in metafunc.fixturenames:
        return
    is_of_trio = metafunc.definition.get_closest_marker("of_trio")
    needs_client = inspect.iscoroutinefunction(metafunc.function)
    fronts = [*_FRONTS] if needs_client and not is_of_trio else ["trio"]
    if "service" in metafunc.fixturenames:
        pairs = [(front, "one replica") for front in fronts] + [("trio", "three replicas")]
        both = pytest.mark.parametrize(("front", "service"), pairs, indirect=True)
    else:
        both = pytest.mark.parametrize("front", fronts, indirect=True)
    metafunc.definition.add_marker(both)


@pytest.fixture
def front(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The front of the test's clients, which `bots.enter` opens."""
    name: str = request.param
    monkeypatch.setattr(bots, "front", _FRONTS[name])
    return name
