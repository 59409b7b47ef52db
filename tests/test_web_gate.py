"""Which HTTP requests are admitted, and how often, before the app sees them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NoReturn

import pytest
import trio

from tests.clients import PATIENCE, Service
from tests.conftest import Serve, one_replica
from tests.raw import Answer, RawClient, open_raw, upgrade_head
from tests.tokens import SECRET

#: A single server admits or refuses requests.
service = one_replica
EVIL = "https://evil.example"
APP = "https://app.example.com"
NAMED = {"allowed_origins": f"{APP}, https://*.example.org"}
#: What a browser adds to a request for an image or a script on another site's page.
IMAGE = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}

#: What it adds when its user follows a link on another site's page.
LINK = {
    "Sec-Fetch-Site": "cross-site",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-User": "?1",
}


def request(method: str, path: str, headers: Mapping[str, str] = {}, body: bytes = b"") -> bytes:
    fields = {"Host": "localhost", **headers}
    if body:
        fields["Content-Length"] = str(len(body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


async def ask(
    service: Service, method: str, path: str, headers: Mapping[str, str] = {}, body: bytes = b""
) -> Answer:
    """One request on its own connection."""
    async with open_raw(service.base) as client:
        await client.send(request(method, path, {"Connection": "close", **headers}, body))
        return await client.receive_answer()


async def ask_again(client: RawClient, sent: bytes) -> Answer:
    """One request on a connection that stays open."""
    await client.send(sent)
    head = await client.receive_head()
    size = int(head.headers["content-length"])
    with trio.fail_after(PATIENCE):
        while len(client.buffer) < size:
            assert await client.read_more()
    body, client.buffer = client.buffer[:size], client.buffer[size:]
    return head._replace(body=body)


async def refused(service: Service, reason: str) -> int:
    text = (await ask(service, "GET", "/metrics")).body.decode()
    label = f'trio_signal_refused_total{{reason="{reason}"}} '
    return int(float(next(x for x in text.splitlines() if x.startswith(label)).split()[-1]))


# Other sites' pages


async def test_images_on_other_sites_do_not_lock_visitors_out(serve: Serve) -> None:
    async with serve(jwt_secret=SECRET, auth_failures_per_ip=3) as service:
        for number in range(10):
            answer = await ask(service, "GET", f"/auth/me?token={number}", IMAGE)
            assert answer.status == 403
        for _ in range(5):
            answer = await ask(service, "GET", "/auth/me?token=x", {"Origin": EVIL})
            assert answer.status == 403
        assert (await ask(service, "GET", "/auth/me?token=x")).status == 401
        assert await refused(service, "origin") == 15
        assert await refused(service, "authentication") == 1


async def test_sockets_from_other_sites_do_not_use_up_the_connect_limit(serve: Serve) -> None:
    async with serve(connects_per_ip_per_minute=3) as service:
        for _ in range(5):
            async with open_raw(service.base) as client:
                await client.send(upgrade_head("/ws/r/ann", Origin=EVIL))
                assert (await client.receive_answer()).status == 403
        async with open_raw(service.base) as client:
            await client.upgrade("/ws/r/ann")


@pytest.mark.parametrize("headers", [{"Origin": EVIL}, {"Origin": "null"}, IMAGE, LINK])
async def test_other_sites_cannot_clear_announcements(
    service: Service, headers: dict[str, str]
) -> None:
    said = b'{"message": "still here"}'
    kind = {"Content-Type": "application/json"}
    assert (await ask(service, "POST", "/api/creator/broadcast", kind, said)).status == 200
    answer = await ask(service, "POST", "/api/creator/broadcast/clear", headers)
    assert answer.status == 403
    assert b"origin" in answer.body
    shown = await ask(service, "GET", "/api/creator/broadcast/active")
    assert b"still here" in shown.body


SENDERS: list[tuple[dict[str, str], dict[str, str], bool]] = [
    # (settings, headers, whether it is allowed)
    ({}, {}, True),  # not a browser
    ({}, {"Origin": "http://localhost"}, True),
    ({}, {"Sec-Fetch-Site": "same-origin"}, True),
    # A proxy has changed the host, but the browser knows the origin.
    ({}, {"Sec-Fetch-Site": "same-origin", "Origin": "https://signal.example.com"}, True),
    ({}, {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, True),  # typed by the user
    ({}, {"Sec-Fetch-Site": "same-site"}, False),
    ({}, {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, False),
    ({}, LINK, True),
    ({}, {**LINK, "Sec-Fetch-Site": "same-site"}, True),
    ({}, {**LINK, "Sec-Fetch-Dest": "iframe"}, False),
    ({}, {**LINK, "Origin": EVIL}, False),
    ({}, {"Origin": "http://localhost:3000"}, False),
    (NAMED, {"Origin": APP, "Sec-Fetch-Site": "cross-site"}, True),
    (NAMED, {"Origin": "https://a.example.org"}, True),
    (NAMED, {"Origin": EVIL}, False),
    (NAMED, IMAGE, False),
    ({"allowed_origins": "*"}, {"Origin": EVIL}, True),
    ({"allowed_origins": "*"}, IMAGE, True),
]


@pytest.mark.parametrize(("given", "headers", "may"), SENDERS)
async def test_requests_are_allowed_by_origin_and_fetch_metadata(
    serve: Serve, given: dict[str, str], headers: dict[str, str], *, may: bool
) -> None:
    async with serve(**given) as service:
        assert (await ask(service, "GET", "/rooms", headers)).status == (200 if may else 403)


async def test_two_origin_headers_are_refused(service: Service) -> None:
    twice = request("GET", "/rooms", {"Origin": "http://localhost", "Connection": "close"})
    twice = twice.replace(b"Origin:", b"Origin: http://localhost\r\nOrigin:")
    async with open_raw(service.base) as client:
        await client.send(twice)
        assert (await client.receive_answer()).status == 403


PUBLIC = [
    *("/", "/demo/call", "/demo/app.css", "/client/trio-signal.js"),
    *("/healthz", "/readyz", "/openapi.json", "/asyncapi.json"),
]


@pytest.mark.parametrize("path", PUBLIC)
async def test_public_files_may_be_loaded_by_any_site(service: Service, path: str) -> None:
    for headers in ({"Origin": EVIL}, IMAGE):
        assert (await ask(service, "GET", path, headers)).status == 200


async def test_preflight_of_another_origin_allows_nothing(
    service: Service,
) -> None:
    headers = {"Origin": EVIL, "Access-Control-Request-Method": "POST"}
    answer = await ask(service, "OPTIONS", "/rooms/r/join", headers)
    assert answer.status == 200
    assert not any(name.startswith("access-control") for name in answer.headers)


# Host names

HOSTS: list[tuple[Mapping[str, object], str, bool]] = [
    # (settings, host, whether it is accepted)
    ({}, "localhost", True),
    ({}, "LOCALHOST:8000", True),
    ({}, "127.0.0.1:8000", True),
    ({}, "[::1]:8000", True),
    ({}, "app.localhost:8000", True),
    ({}, "192.0.2.1", True),  # no attacker can make an address point here
    ({}, "evil.example", False),
    ({}, "evil.example:8000", False),
    ({}, "localhost.evil.example", False),
    ({}, "evillocalhost", False),
    ({}, "[", False),
    (NAMED, "app.example.com", True),
    (NAMED, "app.example.com:443", True),
    (NAMED, "a.example.org", True),
    (NAMED, "evil.example", False),
    ({"allowed_origins": "*"}, "anything.example", True),
    ({"trusted_proxies": 1}, "signal.example.com", True),
    ({"jwt_secret": SECRET}, "signal.example.com", True),
    ({"host": "0.0.0.0"}, "signal.example.com", True),
]


@pytest.mark.parametrize(("given", "host", "ours"), HOSTS)
async def test_open_server_on_loopback_accepts_only_its_own_names(
    serve: Serve, given: Mapping[str, object], host: str, *, ours: bool
) -> None:
    async with serve(**given) as service:
        answer = await ask(service, "GET", "/rooms", {"Host": host})
        assert answer.status in ((200, 401) if ours else (421,))
        async with open_raw(service.base.replace("0.0.0.0", "127.0.0.1")) as client:
            await client.send(upgrade_head("/ws/r", Host=host))
            answer = await client.receive_head()
            assert answer.status == (101 if ours else 421)
        if not ours:
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert await refused(service, "host") == 2
        # Load balancers may use any name.
        assert (await ask(service, "GET", "/healthz", {"Host": host})).status == 200


# Framing


@pytest.mark.parametrize(
    "head",
    [
        b"POST /rooms/r/join HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"POST /rooms/r/join HTTP/1.1\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n",
        b"POST /rooms/r/join HTTP/1.0\r\nTransfer-Encoding: chunked\r\n",
    ],
)
async def test_request_with_two_framings_is_refused(service: Service, head: bytes) -> None:
    smuggled = request("GET", "/healthz")
    async with open_raw(service.base) as client:
        await client.send(head, b"Host: localhost\r\n\r\n0\r\n\r\n", smuggled)
        answer = await client.receive_answer()
    assert answer.status == 400
    assert answer.headers["connection"] == "close"
    assert b"HTTP/1.1" not in answer.body  # no second response follows


# Rate limits

SLOW = {"http_requests_per_second": 0.1, "http_burst": 5}


@asynccontextmanager
async def exhausted(serve: Serve, **given: object) -> AsyncIterator[Service]:
    """A server whose clients at 127.0.0.1 have used up their requests."""
    async with serve(**SLOW, **given) as service:
        async with open_raw(service.base) as client:
            for _ in range(5):
                assert (await ask_again(client, request("GET", "/rooms"))).status == 200
        yield service


async def test_too_many_requests_get_429_with_retry_after(serve: Serve) -> None:
    async with exhausted(serve) as service:
        answer = await ask(service, "GET", "/rooms")
        assert answer.status == 429
        assert 1 <= int(answer.headers["retry-after"]) <= 10
        assert b"too many requests" in answer.body
        assert (await ask(service, "GET", "/openapi.json")).status == 429
        # Health checks and WebSockets are not counted.
        for path in ("/healthz", "/readyz"):
            assert (await ask(service, "GET", path)).status == 200
        async with open_raw(service.base) as client:
            await client.upgrade("/ws/r/ann")


@pytest.mark.parametrize(
    ("method", "target"), [("GET", "/healthz?x"), ("HEAD", "/readyz"), ("POST", "/healthz")]
)
async def test_health_check_that_the_app_answers_counts(
    serve: Serve, method: str, target: str
) -> None:
    """The ones that do not count cost next to nothing; these cost as much as other requests."""
    async with exhausted(serve) as service, open_raw(service.base) as client:
        await client.send(request(method, target))
        assert (await client.receive_head()).status == 429


async def test_allowed_origin_may_read_the_429_response(serve: Serve) -> None:
    async with exhausted(serve, **NAMED) as service:
        answer = await ask(service, "GET", "/rooms", {"Origin": APP})
        assert answer.status == 429
        assert answer.headers["access-control-allow-origin"] == APP
        exposed = answer.headers["access-control-expose-headers"]
        assert exposed == "ETag, Link, Location, Retry-After"
        assert answer.headers["vary"] == "Origin"


async def test_client_over_its_limit_is_not_read(serve: Serve) -> None:
    async with exhausted(serve) as service, open_raw(service.base) as client:
        more = request("GET", "/rooms") * 1000
        with trio.move_on_after(1):  # the first request is held for two seconds
            await press(client, more)
        assert await refused_rate(service) == 1


@pytest.mark.parametrize("path", ["/rooms", "/rooms/r/join"])
async def test_delayed_client_is_served_on_the_same_connection(serve: Serve, path: str) -> None:
    body = b'{"user_id": "ann"}' if path != "/rooms" else b""
    sent = request("POST" if body else "GET", path, body=body)
    given = {"http_requests_per_second": 1, "http_burst": 1}
    async with serve(**given) as service, open_raw(service.base) as client:
        assert (await ask_again(client, sent)).status == 200
        answer = await ask_again(client, sent)
        assert answer.status == 429
        assert "connection" not in answer.headers
        # It is read only after the delay, so asking at once works as well as waiting.
        assert (await ask_again(client, sent)).status == 200


async def test_refusal_before_the_end_of_a_request_closes(serve: Serve) -> None:
    async with exhausted(serve) as service, open_raw(service.base) as client:
        head = request("POST", "/rooms/r/join", {"Content-Length": "20000"})
        await client.send(head, b"x" * 100)
        answer = await client.receive_answer()
        assert (answer.status, answer.headers["connection"]) == (429, "close")


async def press(client: RawClient, sent: bytes) -> NoReturn:
    """Send it over and over, and read nothing."""
    with trio.fail_after(PATIENCE):
        while True:
            await client.stream.send_all(sent)


async def refused_rate(service: Service) -> int:
    """How many were refused; asked from another address."""
    async with open_raw(service.base, source="127.0.0.2") as client:
        await client.send(request("GET", "/metrics", {"Connection": "close"}))
        text = (await client.receive_answer()).body.decode()
    label = 'trio_signal_refused_total{reason="http_rate"} '
    return int(float(next(x for x in text.splitlines() if x.startswith(label)).split()[-1]))


async def test_clients_behind_a_proxy_have_separate_rates(serve: Serve) -> None:
    async with serve(**SLOW, trusted_proxies=1) as service, open_raw(service.base) as client:
        for address in ("192.0.2.1", "192.0.2.2"):
            sent = request("GET", "/rooms", {"X-Forwarded-For": f"10.0.0.1, {address}"})
            for _ in range(5):
                assert (await ask_again(client, sent)).status == 200
        sent = request("GET", "/rooms", {"X-Forwarded-For": "192.0.2.1"})
        assert (await ask_again(client, sent)).status == 429


async def test_pipelined_probes_above_the_rate_are_slowed_down(serve: Serve) -> None:
    """One read may hold two thousand of them."""
    given = {"http_requests_per_second": 1, "http_burst": 2}
    async with serve(**given) as service, open_raw(service.base) as client:
        await client.send(request("GET", "/healthz") * 100)
        while client.buffer.count(b"HTTP/1.1 200 ") < 2:
            assert await client.read_more()
        with trio.move_on_after(0.5):
            while await client.read_more():
                pass
        assert client.buffer.count(b"HTTP/1.1 200 ") < 20


async def test_many_chunks_above_the_rate_are_not_read(serve: Serve) -> None:
    """To find the end of ten thousand chunks would take a tenth of a second."""
    async with exhausted(serve) as service, open_raw(service.base) as client:
        head = request("POST", "/rooms/x/join", {"Transfer-Encoding": "chunked"})
        await client.send(head + b"1\r\na\r\n" * 100 + b"0\r\n\r\n")
        answer = await client.receive_answer()
        assert (answer.status, answer.headers["connection"]) == (429, "close")


async def test_pipelined_probes_are_answered_in_order(service: Service) -> None:
    async with open_raw(service.base) as client:
        await client.send(request("GET", "/healthz") * 3 + request("GET", "/readyz"))
        for body in (b'{"status":"ok"}',) * 3 + (b'{"status":"ready"}',):
            assert (await ask_again(client, b"")).body == body
        await client.send(request("HEAD", "/healthz"))
        assert (await client.receive_head()).status == 200
