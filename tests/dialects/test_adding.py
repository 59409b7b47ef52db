"""A dialect is one module and one line: these tests add the one in CONTRIBUTING.md."""

import importlib.util
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import httpx
import pytest

from tests import test_docs
from tests.conftest import Serve
from trio_signal.dialects import DIALECTS, dialect_at
from trio_signal.dialects.rest import Answer, Call, Operation, Route, json_answer
from trio_signal.dialects.stream import StreamDialect
from trio_signal.doctor.facts import ask_for_websocket
from trio_signal.environment import load_settings
from trio_signal.errors import CloseCode

PAGE = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()


@pytest.fixture
def shout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the dialect to the table for one test."""
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
async def test_a_new_dialect_is_served_and_works_with_others(serve: Serve) -> None:
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
async def test_a_new_dialects_http_call_is_served_and_documented(serve: Serve) -> None:
    async with serve(dialects="shout") as service, httpx.AsyncClient() as http:
        async with service.connect("/shout/r") as bob:
            await bob.expect_nothing()
            answer = await http.get(f"http://{service.base}/shout/r/volume")
            assert answer.json() == {"peers": 1}
        document = (await http.get(f"http://{service.base}/openapi.json")).json()
        described = document["paths"]["/shout/{room_id}/volume"]["get"]
        assert described["summary"] == "How loud it is"
        assert "Volume" in document["components"]["schemas"]
    async with serve(dialects="room") as service, httpx.AsyncClient() as http:
        assert (await http.get(f"http://{service.base}/shout/r/volume")).status_code == 404


@pytest.mark.usefixtures("shout")
async def test_a_new_dialect_is_known_to_asyncapi_metrics_and_doctor(serve: Serve) -> None:
    async with serve(dialects="shout") as service, httpx.AsyncClient() as http:
        document = (await http.get(f"http://{service.base}/asyncapi.json")).json()
        channel = document["channels"]["shout"]
        assert channel["address"] == "/shout/{room_id}"
        assert set(channel["messages"]) == {"Say", "Shout", "Error"}
        said = document["components"]["messages"]["shout.Say"]
        assert said["examples"] == [{"payload": {"type": "say", "text": "hello"}}]
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


SHOUT_PAGE = """
## Client to server
| `type` | fields | what for |
|---|---|---|
| `say` | `text` | the others get `shout` |

## Server to client
| `type` | fields | when |
|---|---|---|
| `shout` | `text` | somebody else said something |
| `error` | | what you sent cannot be read |
"""


@pytest.mark.usefixtures("shout")
def test_a_new_dialects_page_is_checked_against_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    page = SHOUT_PAGE
    monkeypatch.setattr(test_docs, "page_of", lambda dialect: page)
    checks = {
        "| `say` | `text` |": test_docs.test_page_documents_messages_to_the_server,
        "| `shout` | `text` |": test_docs.test_page_documents_messages_to_the_client,
    }
    for row, check in checks.items():
        page = SHOUT_PAGE
        check("shout")
        page = SHOUT_PAGE.replace(row, "| | |")
        with pytest.raises(AssertionError):
            check("shout")


async def make_id(call: Call) -> Answer:
    if call.path["key"] != "right":
        return json_answer({"error": "wrong key"}, 401)
    return Answer(f"{call.path.get('path', '')} {call.query['n']}".encode(), content_type="text/x")


class PrefixDialect(StreamDialect):
    """A dialect below any path, with routes there and clients that send binary frames."""

    name = "prefix"
    address = "/{path}/below"
    reads_binary = True

    @classmethod
    def at(cls, path: Sequence[str], query: Mapping[str, str]) -> Self | None:
        return cls() if path[-1] == "below" else None

    @classmethod
    def routes(cls) -> Sequence[Route]:
        described = Operation("An id", str, {401: dict[str, str]}, media_type="text/x")
        calls = ("GET /{key}/id", "GET /{path:path}/{key}/id")
        return [Route(call, make_id, described) for call in calls]


async def test_a_dialect_may_use_prefixes_text_answers_and_binary_frames(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(DIALECTS, "prefix", PrefixDialect)
    async with (
        serve(dialects="room,prefix") as service,
        httpx.AsyncClient(base_url=f"http://{service.base}") as http,
    ):
        for path, answer in {
            "/right/id?n=1": (200, "text/x", " 1"),
            "/a/b/right/id?n=2": (200, "text/x", "a/b 2"),
            "/wrong/id": (401, "application/json", '{"error":"wrong key"}'),
            "/rooms": (200, "application/json", "[]"),
        }.items():
            found = await http.get(path)
            assert (found.status_code, found.headers["content-type"], found.text) == answer
        paths = (await http.get("/openapi.json")).json()["paths"]
        assert paths["/{path}/{key}/id"]["get"]["responses"]["200"]["content"].keys() == {"text/x"}
        for target in ("/below", "/a/b/below"):
            async with service.connect(target) as ann:
                await ann.socket.send_message(b'{"type":"join-stream","streamId":"s"}')
                await ann.wait_for("viewer-count")
                await ann.socket.send_message(b"\xff")
                await ann.expect_close(CloseCode.INVALID_TEXT)


@pytest.mark.parametrize("name", DIALECTS)
def test_each_sample_target_leads_to_its_dialect(name: str) -> None:
    assert type(dialect_at(DIALECTS[name].sample_target(), DIALECTS)) is DIALECTS[name]
