"""The client's page agrees with the code."""

import ast
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.client.bots import bot, wait_for
from tests.clients import PATIENCE
from tests.conftest import Serve
from tools import print_client_api
from trio_signal import client
from trio_signal.client import Message, Timing

PAGE = print_client_api.PAGE.read_text()
PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = PYTHON.findall(PAGE)
README = (Path(__file__).resolve().parent.parent.parent / "README.md").read_text()


def main_of(code: str, base: str) -> Callable[[], Awaitable[None]]:
    """The `main` of an example, changed to use the test's server."""
    names: dict[str, Any] = {}
    exec(code.replace("127.0.0.1:8000", base).replace("trio.run(main)", ""), names)
    main: Callable[[], Awaitable[None]] = names["main"]
    return main


def test_the_reference_agrees_with_the_code() -> None:
    assert print_client_api.printed(PAGE) == PAGE, "run: python -m tools.print_client_api"


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="no markers"):
        print_client_api.printed("# The Python client\n")


@pytest.mark.parametrize("name", client.__all__)
def test_each_public_name_is_on_the_page(name: str) -> None:
    assert re.search(rf"`{name}\b", print_client_api.reference() + PAGE)
    if getattr(client, name).__class__ is type:
        assert getattr(client, name).__doc__


def test_nothing_else_is_public() -> None:
    modules = {"client", "connection", "errors", "events", "run", "session", "view", "resumption"}
    modules |= {"aio", "calls", "link", "media", "peer_connection"}
    public = {name for name in vars(client) if not name.startswith("_")}
    assert public - modules == set(client.__all__)


def test_the_figures_in_the_guide_are_the_defaults() -> None:
    guide = " ".join(PAGE.partition("## Reference")[0].split())
    timing = Timing()
    assert f"starts at {timing.first_pause:g} seconds" in guide
    assert f"up to {timing.longest_pause:g}, minus" in guide
    assert f"`Timing.slow_reader` seconds ({timing.slow_reader:g})" in guide
    assert f"every {timing.heartbeat:g} seconds" in guide
    assert f"within {timing.patience:g} more" in guide


@pytest.mark.parametrize("code", CODE)
def test_code_on_the_page_is_valid(code: str) -> None:
    compile(code, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


async def test_the_first_example_works(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    async with serve() as service, trio.open_nursery() as nursery:
        nursery.start_soon(main_of(CODE[0], service.base))
        async with bot(service.base, "bob", room="lobby") as bob:
            assert (await wait_for(bob, Message)).data == "Hello Bob"
            await bob.send("Thank you")
            with trio.fail_after(PATIENCE):
                while capsys.readouterr().out != "Bob: Thank you\n":  # noqa: ASYNC110
                    await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_the_readme_example_greets_newcomers(serve: Serve) -> None:
    (code,) = PYTHON.findall(README)
    async with serve() as service, trio.open_nursery() as nursery:
        nursery.start_soon(main_of(code, service.base))
        async with bot(service.base, "bob", room="lobby") as bob:
            assert (await wait_for(bob, Message)).data == "Hello Bob"
        nursery.cancel_scope.cancel()
