"""Files that never change while the server runs: caching and security headers."""

from collections.abc import AsyncIterator

import httpx
import pytest
import trio

from tests.clients import PATIENCE
from tests.conftest import Serve

PAGES = ["/", *(f"/demo/{x}" for x in ("broadcast", "watch", "call", "announcements", "inspect"))]
UNCHANGING = [
    *PAGES,
    *("/demo/app.css", "/demo/icon.svg", "/demo/page.js", "/client/trio-signal.js"),
    *("/client/tokens.css", "/client/access.js"),
    *("/openapi.json", "/asyncapi.json"),
]


@pytest.fixture(name="http")
async def _http(serve: Serve) -> AsyncIterator[httpx.AsyncClient]:
    with trio.fail_after(PATIENCE):
        async with serve() as service, httpx.AsyncClient(base_url=f"http://{service.base}") as http:
            yield http


@pytest.mark.parametrize("path", UNCHANGING)
async def test_unchanged_file_is_304(http: httpx.AsyncClient, path: str) -> None:
    first = await http.get(path)
    assert first.status_code == 200
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for said in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        again = await http.get(path, headers={"If-None-Match": said})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
        assert "content-type" not in again.headers
    other = await http.get(path, headers={"If-None-Match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)
    head = await http.head(path)
    assert (head.status_code, head.headers["etag"]) == (200, etag)


@pytest.mark.parametrize("path", PAGES)
async def test_page_runs_only_our_scripts(http: httpx.AsyncClient, path: str) -> None:
    page = await http.get(path)
    policy = dict(
        rule.split(" ", 1) for rule in page.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert page.headers["referrer-policy"] == "same-origin"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "<style" not in page.text
    assert " style=" not in page.text
    assert page.text.count("<script") == page.text.count("<script type")


@pytest.mark.parametrize(
    "path", ["/rooms", "/healthz", "/readyz", "/nowhere", "/metrics", "/client/trio-signal.js"]
)
async def test_responses_forbid_content_type_sniffing(http: httpx.AsyncClient, path: str) -> None:
    for answer in (await http.get(path), await http.get(path, headers={"Origin": "null"})):
        assert answer.headers["x-content-type-options"] == "nosniff"
