"""Cloudflare's API for WebRTC: an HTTPS client for its TURN service and its media server.

https://developers.cloudflare.com/realtime/ describes the API. The deadline of a request includes
its wait for a free place, and the size of answers is bounded. Requests are never repeated: most of
them create something, and one without an answer may have done so.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import httpx
import msgspec
import trio
from msgspec import Struct

T = TypeVar("T")

#: The URL of the API.
BASE_URL = "https://rtc.live.cloudflare.com/v1"
#: Maximum bytes of an answer; the longest are session descriptions.
MOST_BYTES: Final = 262_144
#: Maximum concurrent requests.
_AT_ONCE = 32
#: Seconds for httpx; the deadlines of requests are shorter.
_LONGEST = 60.0
#: Maximum characters of the API's error text that are passed on.
_MOST_SAID = 200


class CloudflareError(Exception):
    """The API refuses, or cannot be reached; the text says why, and contains no secret."""

    def __init__(self, text: str, status: int | None = None, code: str = "") -> None:
        """Take the text; `status` is None if there was no answer."""
        super().__init__(text)
        self.status = status
        #: The API's code for the error.
        self.code = code


class Problem(Struct):
    """The API's description of an error, also in an answer with status 200."""

    errorCode: str = ""  # noqa: N815  the API's names
    errorDescription: str = ""  # noqa: N815

    def said(self) -> str:
        """The API's text, in one line."""
        text = ": ".join(filter(None, (self.errorCode, self.errorDescription)))
        return "".join(each if each.isprintable() else " " for each in text[:_MOST_SAID])


_decode_problem = msgspec.json.Decoder(Problem).decode


class Cloudflare:
    """The API with one token."""

    def __init__(self, http: httpx.AsyncClient, token: str, base_url: str, patience: float) -> None:
        """Take an open client; `patience` is the maximum seconds of a request."""
        self._http = http
        self._headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
        self._base_url = base_url
        self._patience = patience
        self._limiter = trio.CapacityLimiter(_AT_ONCE)

    async def ask(
        self, method: str, path: str, body: object = None, patience: float | None = None
    ) -> bytes:
        """Send a request, and return the body of a successful answer. Raises CloudflareError."""
        patience = patience or self._patience
        headers, content = self._headers, None
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}
            content = msgspec.json.encode(body)
        try:
            with trio.fail_after(patience):
                async with (
                    self._limiter,
                    self._http.stream(
                        method, f"{self._base_url}/{path}", headers=headers, content=content
                    ) as answer,
                ):
                    text = await _read(answer)
        except trio.TooSlowError:
            raise CloudflareError(f"no answer within {patience:g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            raise CloudflareError(f"cannot be reached ({type(error).__name__})") from None
        if not answer.is_success:
            raise _refusal(answer.status_code, text)
        return text


@asynccontextmanager
async def open_cloudflare(
    token: str, base_url: str | None = None, patience: float = 2.0
) -> AsyncIterator[Cloudflare]:
    """Open the API, for as long as the block runs."""
    limits = httpx.Limits(max_connections=_AT_ONCE, keepalive_expiry=60.0)
    async with httpx.AsyncClient(timeout=_LONGEST, limits=limits) as http:
        yield Cloudflare(http, token, base_url or BASE_URL, patience)


async def _read(answer: httpx.Response) -> bytes:
    text, size = bytearray(), answer.headers.get("Content-Length", "0")
    if not size.isdecimal() or int(size) <= MOST_BYTES:
        async for chunk in answer.aiter_raw():
            text += chunk
            if len(text) > MOST_BYTES:
                break
        else:
            return bytes(text)
    raise CloudflareError(f"an answer is longer than {MOST_BYTES} bytes")


def read(decode: Callable[[bytes], T], answer: bytes) -> T:
    """Decode a successful answer; raises CloudflareError."""
    try:
        return decode(answer)
    except (msgspec.DecodeError, RecursionError) as error:
        raise CloudflareError(f"gave an answer that cannot be read: {error}", 200) from None


def _refusal(status: int, text: bytes) -> CloudflareError:
    try:
        problem = read(_decode_problem, text)
    except CloudflareError:
        problem = Problem()
    said = problem.said()
    what = "refuses the secret" if status in (401, 403) else "refuses"
    text_of = f"{what} ({status}{said and f', {said}'})"
    return CloudflareError(text_of, status, problem.errorCode)
