"""A dialect is one module and one line: the one in CONTRIBUTING.md is added while we run."""

import importlib.util
import re
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import Serve
from trio_signal.config import load_settings
from trio_signal.dialects import DIALECTS, dialect_at
from trio_signal.doctor.facts import ask_for_websocket

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


@pytest.fixture
def shout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the table as long as the test runs."""
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "shout.py").write_text(code)
    spec = importlib.util.spec_from_file_location("shout", tmp_path / "shout.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "shout", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(DIALECTS, "shout", module.ShoutDialect)


@pytest.mark.usefixtures("shout")
async def test_it_is_served_and_meets_the_others(serve: Serve) -> None:
    async with (
        serve(dialects="shout,room") as service,
        service.connect("/ws/r/ann") as ann,
        service.connect("/shout/r") as bob,
        service.connect("/shout/r") as eve,
    ):
        await ann.wait_for("user_joined")
        await ann.wait_for("user_joined")
        await bob.send("say", text="hello")
        await eve.expect("shout", text="HELLO")
        await ann.wait_for("message", content="hello")
        await ann.send("message", content="hi")
        await bob.expect("shout", text="HI")
        await bob.send_text("{")
        await bob.expect("error")
        await eve.expect("shout", text="HI")
        await eve.expect_nothing()


@pytest.mark.usefixtures("shout")
async def test_document_metrics_and_doctor_know_it(serve: Serve) -> None:
    async with serve(dialects="shout") as service, httpx.AsyncClient() as http:
        document = (await http.get(f"http://{service.base}/asyncapi.json")).json()
        channel = document["channels"]["shout"]
        assert channel["address"] == "/shout/{room_id}"
        assert set(channel["messages"]) == {"Say", "Shout", "Error"}
        async with service.connect("/shout/r") as bob:
            await bob.send("say", text="hello")
            await bob.expect_nothing()
            metrics = (await http.get(f"http://{service.base}/metrics")).text
        assert 'trio_signal_messages_in_total{dialect="shout",type="say"} 1.0' in metrics
        facts = await ask_for_websocket(
            f"http://{service.base}", load_settings(dialects="shout", host="127.0.0.1")
        )
        assert not isinstance(facts, str)
        assert facts.status == 101


@pytest.mark.parametrize("name", DIALECTS)
def test_the_address_of_each_is_the_path_where_it_is_found(name: str) -> None:
    found = dialect_at(re.sub(r"{\w+}", "x", DIALECTS[name].address), DIALECTS)
    assert type(found) is DIALECTS[name]
