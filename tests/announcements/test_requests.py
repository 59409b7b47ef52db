"""Bad input gets the right status and body; nothing is stored, and nobody is told."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.announcements.office import Office, open_office
from tests.conftest import serve_once

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    """One replica is enough: these calls do not reach any shared state."""
    async with serve_once() as service, open_office(service) as office:
        yield office


def body(**fields: Any) -> dict[str, Any]:
    return {"content": json.dumps(fields).encode(), "headers": JSON}


def raw(content: bytes, type_: str = "application/json") -> dict[str, Any]:
    return {"content": content, "headers": {"Content-Type": type_} if type_ else {}}


EMPTY = "Broadcast message cannot be empty"
CONTROL = "Broadcast message cannot have control characters"
TOO_LONG = "Broadcast message too long. Maximum 280 characters allowed. Current: "

MESSAGES: list[Any] = [
    pytest.param(body(), 422, EMPTY, id="no message"),
    pytest.param(body(message=""), 422, EMPTY, id="empty"),
    pytest.param(body(message=" \n\t\u3000 "), 422, EMPTY, id="blank"),
    pytest.param(body(message="x" * 281), 422, f"{TOO_LONG}281", id="281"),
    pytest.param(body(message="👋" * 281), 422, f"{TOO_LONG}281", id="281 astral"),
    pytest.param(body(message="a\0b"), 422, CONTROL, id="NUL"),
    pytest.param(body(message="a\x1b[31mb"), 422, CONTROL, id="escape"),
    pytest.param(body(message="a\x7fb"), 422, CONTROL, id="delete"),
    pytest.param(raw(b'{"message":"\\ud800"}'), 400, None, id="half a surrogate"),
    pytest.param(raw(b'{"message":"\xff"}'), 400, None, id="not UTF-8"),
    pytest.param(body(message=7), 422, None, id="number"),
    pytest.param(body(message=None), 422, None, id="null"),
    pytest.param(body(message=["x"]), 422, None, id="list"),
    pytest.param(body(message={"x": 1}), 422, None, id="object"),
    pytest.param(body(message="x", type="panic"), 422, None, id="unknown type"),
    pytest.param(body(message="x", type=""), 422, None, id="empty type"),
    pytest.param(body(message="x", type=None), 422, None, id="type is null"),
    pytest.param(body(message="x", type=1), 422, None, id="type is a number"),
]
BODIES: list[Any] = [
    pytest.param(raw(b""), 400, None, id="nothing"),
    pytest.param(raw(b"{"), 400, None, id="half"),
    pytest.param(raw(b"hello"), 400, None, id="no JSON"),
    pytest.param(raw(b"[" * 50_000), 422, None, id="deep"),
    pytest.param(raw(b"[]"), 422, None, id="an array"),
    pytest.param(raw(b'"x"'), 422, None, id="a text"),
    pytest.param(raw(b"null"), 422, None, id="null itself"),
    pytest.param(raw(b"message=x", "application/x-www-form-urlencoded"), 400, None, id="form"),
    pytest.param(body(message="x" * 70_000), 413, None, id="64 KiB"),
    pytest.param(raw(b" " * 10_000_000), 413, None, id="huge"),
]
IDS: list[Any] = [
    pytest.param(body(), 422, "Broadcast ID is required", id="no id"),
    pytest.param(body(broadcast_id=""), 422, "Broadcast ID is required", id="empty id"),
    pytest.param(body(broadcast_id=7), 422, None, id="id is a number"),
    pytest.param(body(broadcast_id=None), 422, None, id="id is null"),
    pytest.param(body(broadcast_id="nonsense"), 404, "Broadcast not found", id="unknown"),
    pytest.param(body(broadcast_id="\0"), 404, "Broadcast not found", id="NUL as id"),
    pytest.param(body(broadcast_id="x" * 10_000), 404, "Broadcast not found", id="long"),
]


@pytest.mark.parametrize(("request_", "status", "message"), [*MESSAGES, *BODIES])
async def test_invalid_announcements_are_refused(
    office: Office, request_: dict[str, Any], status: int, message: str | None
) -> None:
    async with office.attend("ann") as ann:
        await check(await office.call("POST", "", "boss", **request_), status, message)
        assert await office.active() is None
        assert (await office.stats())["broadcasts_today"] == 0
        await ann.expect_nothing()


@pytest.mark.parametrize(("request_", "status", "message"), [*IDS, *BODIES])
async def test_invalid_acknowledgements_are_refused(
    office: Office, request_: dict[str, Any], status: int, message: str | None
) -> None:
    id_ = await office.announce("Hello")
    await check(await office.call("POST", "/acknowledge", "ann", **request_), status, message)
    assert await office.active("ann") == id_


async def check(answer: tuple[int, Any], status: int, message: str | None) -> None:
    assert answer[0] == status, answer
    assert answer[1].keys() == {"status", "message"}
    assert answer[1]["status"] == "error"
    assert isinstance(answer[1]["message"], str)
    assert answer[1]["message"]
    if message is not None:
        assert answer[1]["message"] == message


@pytest.mark.parametrize(
    ("method", "name"),
    [
        *(("GET", ""), ("PUT", ""), ("DELETE", ""), ("GET", "/clear"), ("GET", "/acknowledge")),
        *(("POST", "/active"), ("POST", "/limits"), ("DELETE", "/stats")),
    ],
)
async def test_other_methods_are_refused(office: Office, method: str, name: str) -> None:
    await check(await office.call(method, name, "boss"), 405, None)


async def test_other_paths_are_not_found(office: Office) -> None:
    await check(await office.call("GET", "/nonsense", "boss"), 404, None)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "x",
            "x" * 280,
            "👋" * 280,
            "é" * 280,
            "👨‍👩‍👧‍👦",
            "'bold' \"text\"",
            "'; DROP TABLE announcements;",
        ),
        *("שלום", "a\u200bb", '{"a": "b"}', "%s %(x)s :x ?", "\\u0000"),
    ],
)
async def test_valid_texts_are_announced(office: Office, text: str) -> None:
    async with office.attend("ann") as ann:
        await office.announce(f"\n {text}\t")
        message = await ann.expect("new_broadcast")
        assert message["broadcast"]["message"] == text
        _, answer = await office.call("GET", "/active", "bob")
        assert answer["broadcast"]["message"] == text


@pytest.mark.parametrize("type_", ["", "text/plain;charset=UTF-8"])
async def test_a_body_is_read_as_json_whatever_its_content_type(office: Office, type_: str) -> None:
    """A page that posts a string sends it as plain text unless it sets the type."""
    headers = {"Content-Type": type_} if type_ else {}
    text = json.dumps({"message": "Hello"}).encode()
    _, sent = await office.call("POST", "", "boss", content=text, headers=headers)
    text = json.dumps({"broadcast_id": sent["id"], "user_id": None}).encode()
    answer = await office.call("POST", "/acknowledge", "ann", content=text, headers=headers)
    assert answer == (200, {"status": "success"})
    assert await office.active("ann") is None


async def test_a_banner_has_one_line(office: Office) -> None:
    async with office.attend("ann") as ann:
        await office.announce("one\ntwo\tthree\u2028four")
        message = await ann.expect("new_broadcast")
        assert message["broadcast"]["message"] == "one two three four"


@pytest.mark.parametrize("user_id", ["%00", "a%0Ab", "x" * 256, "%F0%9F%91%8B", "a:b*"])
@pytest.mark.parametrize("any_database", ["SQLite", "PostgreSQL"], indirect=True)
async def test_any_user_id_can_acknowledge(user_id: str, any_database: str) -> None:
    async with serve_once(database_url=any_database) as service, open_office(service) as office:
        base = f"http://{service.base}/api/creator/broadcast"
        as_user = f"?user_id={user_id}"
        answer = await office.http.post(f"{base}{as_user}", json={"message": "Hello"})
        assert answer.status_code == 200
        body = {"broadcast_id": answer.json()["id"]}
        async with office.connect(user_id) as client:
            await client.expect("connected")
            await client.expect("active_broadcast")
            answer = await office.http.post(f"{base}/acknowledge{as_user}", json=body)
            assert answer.json() == {"status": "success"}
            await client.expect("broadcast_acknowledged", acknowledged=1)
        assert (await office.http.get(f"{base}/active{as_user}")).json() == {"broadcast": None}
        assert await office.active("another") is not None
