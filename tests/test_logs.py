"""The log: one line when a connection opens, one when it ends, and no secrets."""

import json
import logging

import pytest
from quart_trio import QuartTrio

from tests.clients import settle
from tests.conftest import Serve
from tests.raw import client_text, open_raw
from tests.tokens import SECRET
from trio_signal.auth import OpenAuth
from trio_signal.bus.memory import MemoryBus
from trio_signal.environment import load_settings
from trio_signal.hub import Hub
from trio_signal.limits import Limits
from trio_signal.logs import MAX_LINE, find_request_id, list_names, make_formatter
from trio_signal.metrics import Metrics
from trio_signal.web.app import create_app

REQUEST_ID = "0242ac11-0002"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    for logger in ("trio_signal.service", "trio_signal.session"):
        caplog.set_level(logging.DEBUG, logger)
    return caplog


def fields(record: logging.LogRecord, *names: str) -> dict[str, object]:
    """These fields of the line in JSON format."""
    line = make_formatter(load_settings(log_format="json")).format(record)
    assert "\n" not in line
    said = json.loads(line)
    assert isinstance(said, dict)
    return {name: said[name] for name in ("event", "user", "dialect", "request_id", *names)}


async def test_connection_logs_its_start_and_end(
    serve: Serve, log: pytest.LogCaptureFixture
) -> None:
    async with serve() as service:
        headers = [("X-Request-ID", REQUEST_ID)]
        async with service.connect("/ws/hall/ann", headers=headers) as ann:
            await ann.send("message", content="not for the log")
            await settle(ann)
            told = len(await ann.settle())
    opened, closed = log.records
    assert [record.levelname for record in log.records] == ["DEBUG", "INFO"]
    shared = {"user": "ann", "dialect": "room", "request_id": REQUEST_ID}
    assert fields(opened) == {"event": "connection opened", **shared}
    ended = fields(closed, "rooms", "received", "sent", "code", "connection", "seconds")
    assert ended.pop("connection") == fields(opened, "connection")["connection"]
    seconds = ended.pop("seconds")
    assert isinstance(seconds, float)
    assert ended == {
        "event": "connection closed",
        **shared,
        "rooms": ["hall"],
        "received": 1,
        "sent": told,
        "code": 1000,
    }
    assert "not for the log" not in "".join(map(repr, map(vars, log.records)))


async def test_unauthenticated_connection_logs_one_line(
    serve: Serve, log: pytest.LogCaptureFixture
) -> None:
    async with serve(jwt_secret=SECRET) as service, open_raw(service.base) as client:
        await client.upgrade("/ws/hall", client_text({"type": "auth_token", "token": "secret"}))
        await client.read_to_end()
    (closed,) = log.records
    said = fields(closed, "rooms", "code")
    assert (said["user"], said["rooms"], said["code"]) == (None, [], 1008)
    assert "secret" not in repr(vars(closed))


async def test_announce_client_logs_no_room(serve: Serve, log: pytest.LogCaptureFixture) -> None:
    path = "/api/creator/broadcast/ws?user_id=hal"
    async with serve() as service, service.connect(path) as hal:
        await hal.expect("connected")
    assert fields(log.records[-1], "rooms")["rooms"] == []


@pytest.mark.parametrize("form", ["console", "json"])
def test_name_cannot_begin_a_log_line(form: str) -> None:
    record = logging.makeLogRecord(
        {"msg": "connection opened", "user": "ann\nerror  all is lost\x1b[2J"}
    )
    line = make_formatter(load_settings(log_format=form)).format(record)
    assert "\n" not in line
    assert "\x1b[2J" not in line
    assert "ann" in line


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("word", ["x", "\0", '"', "🐌"])
def test_log_line_length_is_limited(form: str, word: str) -> None:
    long = word * 50_000
    record = logging.makeLogRecord(
        {"msg": "hello " + long, "level": "INFO", "user": long, "rooms": [long] * 20, "code": 1000}
    )
    line = make_formatter(load_settings(log_format=form)).format(record)
    assert len(line.encode(errors="replace")) <= MAX_LINE
    if form == "json":
        assert json.loads(line)["event"].startswith("hello ")


def test_list_of_names_is_limited() -> None:
    assert list_names(["a", "b"]) == ["a", "b"]
    assert list_names(["x" * 100]) == ["x" * 64 + "…"]
    assert list_names(["ü" * 64] * 20) == [*["ü" * 64] * 8, "…"]


async def test_request_id_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    settings = load_settings()
    app: QuartTrio = create_app(
        Hub(MemoryBus("a")), OpenAuth(), settings, Limits(settings), Metrics()
    )
    told: list[object] = []
    formatter = make_formatter(load_settings(log_format="json"))

    @app.get("/fails")
    async def fails() -> str:
        record = logging.makeLogRecord({"msg": "it fails"})
        told.append(json.loads(formatter.format(record)).get("request_id"))
        return ""

    client = app.test_client()
    await client.get("/fails", headers={"X-Request-ID": REQUEST_ID})
    await client.get("/fails", headers={"X-Request-ID": "no id\tat all"})
    await client.get("/fails")
    assert told == [REQUEST_ID, None, None]


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, None),
        ({"X-Request-ID": "a"}, "a"),
        ({"CF-Ray": "b", "traceparent": "c"}, "b"),
        ({"X-Request-ID": "", "traceparent": "c"}, "c"),
        ({"X-Request-ID": "x" * 129}, None),
        ({"X-Request-ID": "a\nb"}, None),
        ({"X-Request-ID": "é"}, None),
    ],
)
def test_request_id_is_found_in_headers(headers: dict[str, str], found: str | None) -> None:
    assert find_request_id(lambda name: [headers[name]] if name in headers else []) == found
