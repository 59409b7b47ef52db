"""The AsyncAPI document covers every dialect, and the examples on the pages match it."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs
import pytest

from tests.conftest import Serve
from tests.test_docs import EXAMPLE, page_of
from trio_signal.dialects import DIALECTS, dialect_at
from trio_signal.web.asyncapi import make_document

DOCUMENT = make_document(DIALECTS)


def found_at(pointer: str) -> Any:
    """What a reference points to; KeyError if nothing is there."""
    found: Any = DOCUMENT
    for part in pointer.removeprefix("#/").split("/"):
        found = found[part]
    return found


def references(value: object) -> Iterator[str]:
    match value:
        case {"$ref": str(pointer)}:
            yield pointer
        case dict():
            for each in value.values():
                yield from references(each)
        case list():
            for each in value:
                yield from references(each)


def test_all_references_resolve() -> None:
    found = set(references(DOCUMENT))
    assert found
    for pointer in found:
        assert found_at(pointer)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_each_dialect_has_a_channel(dialect: str) -> None:
    channel = DOCUMENT["channels"][dialect]
    names = re.findall(r"{(\w+)}", channel["address"])
    assert set(channel["parameters"]) == set(names)
    found = dialect_at(re.sub(r"{\w+}", "x", channel["address"]), DIALECTS)
    assert type(found) is DIALECTS[dialect]


def messages(dialect: str, action: str) -> list[dict[str, Any]]:
    """The messages of a direction, one for each payload."""
    named = DOCUMENT["operations"][f"{dialect}.{action}"]["messages"]
    components = {"components": DOCUMENT["components"]}
    found = [found_at(found_at(message["$ref"])["$ref"]) for message in named]
    return [message | {"payload": message["payload"] | components} for message in found]


@pytest.mark.parametrize("action", ["receive", "send"])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_samples_are_examples_in_the_document(dialect: str, action: str) -> None:
    found = [
        (message["payload"], example["payload"])
        for message in messages(dialect, action)
        for example in message.get("examples", ())
    ]
    assert found
    for schema, sample in found:
        assert jsonschema_rs.validator_for(schema).is_valid(sample), sample


def lines(dialect: str, sign: str) -> list[Any]:
    """The messages sent in one direction in the page's example, except bare texts."""
    (example,) = EXAMPLE.findall(page_of(dialect))
    said = re.findall(rf"^\w+ +{sign}  ({{.*)$", example, re.MULTILINE)
    assert said
    return [json.loads(text) for text in said]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(("sign", "action"), [(">", "receive"), ("<", "send")])
def test_page_example_matches_the_document(dialect: str, sign: str, action: str) -> None:
    """Each message matches one of its direction, and would not with a wrong `type`."""
    validators = [jsonschema_rs.validator_for(m["payload"]) for m in messages(dialect, action)]
    for message in lines(dialect, sign):
        assert any(validator.is_valid(message) for validator in validators), message
        for wrong in (message | {"type": 1}, {"type": message["type"] + "?"}):
            assert not any(validator.is_valid(wrong) for validator in validators), wrong


async def test_server_documents_enabled_dialects_only(serve: Serve) -> None:
    async with serve(dialects=("mesh",)) as service, httpx.AsyncClient() as http:
        document = (await http.get(f"http://{service.base}/asyncapi.json")).json()
    assert document == make_document(["mesh"])
    assert list(document["channels"]) == ["mesh"]
