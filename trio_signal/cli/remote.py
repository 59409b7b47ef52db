"""A running server, asked through its REST."""

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
    """What the server answers: to a GET, or with a body to a POST. Blocks.

    Ends the command if it refuses, or is not there.
    """
    return _read(url, _request(url, token, body), type_)


def ask_pages(url: str, token: str | None, type_: type[T]) -> Iterator[T]:
    """What it answers to a GET, and behind each `Link` to the next page. Blocks.

    Ends the command as `ask` does, and where the link redirects to another server: that would get
    the token.
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
    """Why there is no answer: the words of the system, where those of the library say less."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return explain_tls(cause)
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    # What h11 says of bytes that begin no line, as a TLS alert (RFC 8446 section 6).
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
