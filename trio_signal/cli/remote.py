"""Requests to the HTTP API of a running server."""

import ssl
from collections.abc import Iterator
from typing import TypeVar
from urllib.parse import urljoin, urlsplit

import httpx
import msgspec
from msgspec import Struct

from trio_signal.cli.failing import fail
from trio_signal.client.connection import explain_tls

T = TypeVar("T")

#: Seconds for the server to answer.
_TIMEOUT = 10.0


class _Refusal(Struct):
    message: str = ""
    detail: str = ""


def ask(url: str, token: str | None, type_: type[T], body: object = None) -> T:
    """Return the answer to a GET, or with a body to a POST. Blocks.

    Ends the command if the server refuses or cannot be reached.
    """
    return _read(url, _request(url, token, body), type_)


def ask_pages(url: str, token: str | None, type_: type[T]) -> Iterator[T]:
    """Yield the answers to a GET and to each next page of its `Link` header. Blocks.

    Ends the command like `ask`, and also if a link leads to another server, which would get the
    token.
    """
    seen = set[str]()
    while url not in seen:
        seen.add(url)
        answer = _request(url, token)
        yield _read(url, answer, type_)
        following = answer.links.get("next", {}).get("url")
        if following is None:
            return
        here, url = url, urljoin(url, following)
        if urlsplit(url)[:2] != urlsplit(here)[:2]:
            fail(f"{here} redirects to another server: {url}")


def _request(url: str, token: str | None, body: object = None) -> httpx.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    method = "GET"
    if body is not None:
        method, headers["Content-Type"] = "POST", "application/json"
    try:
        content = msgspec.json.encode(body) if body is not None else None
        return httpx.request(method, url, headers=headers, content=content, timeout=_TIMEOUT)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        fail(f"{url}: {_explain(error)}")


def _explain(error: BaseException) -> str:
    """Why there is no answer: the system's text, if the library's text says less."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return explain_tls(cause)
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    # h11's error for bytes that are not an HTTP line, such as a TLS alert (RFC 8446 section 6).
    if str(error) == "illegal request line":
        return "it does not speak http; try https"
    return str(error)


def _read(url: str, answer: httpx.Response, type_: type[T]) -> T:
    if answer.is_error:
        fail(f"{url}: {answer.status_code} {_reason(answer.content) or answer.reason_phrase}")
    try:
        return msgspec.json.decode(answer.content, type=type_)
    except msgspec.DecodeError:
        fail(f"{url} is not a trio-signal server")


def _reason(body: bytes) -> str:
    try:
        refusal = msgspec.json.decode(body, type=_Refusal)
    except msgspec.DecodeError:
        return ""
    return refusal.message or refusal.detail
