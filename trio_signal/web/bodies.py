"""Requests' bodies and answers, as typed JSON; and answers that never change."""

from collections.abc import Mapping
from hashlib import sha256
from typing import TypeVar

import msgspec
from quart import Response, request
from werkzeug.exceptions import UnprocessableEntity

T = TypeVar("T")


def json_answer(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, content_type="application/json")


class Unchanging:
    """What is the same for everybody as long as the server runs: encoded once, with an `ETag`.

    Caches keep it, and ask each time whether it has changed: a new version of the server has the
    same addresses, and its pages and scripts belong together.
    """

    def __init__(
        self, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """Take the whole answer; `headers` are those beside the usual ones."""
        self._body = body
        self._content_type = content_type
        self._etag = sha256(body).hexdigest()[:32]
        self._headers = {**(headers or {}), "Cache-Control": "no-cache"}

    def answer(self) -> Response:
        """It, or 304 for a client that has it."""
        # Weakly, since a proxy that compresses changes the bytes and says so: RFC 9110, 13.1.2.
        if request.if_none_match.contains_weak(self._etag):
            answer = Response(b"", 304, self._headers)
            del answer.headers["Content-Length"], answer.headers["Content-Type"]
        else:
            answer = Response(self._body, 200, self._headers, content_type=self._content_type)
        answer.set_etag(self._etag)
        return answer


async def read_body(type_: type[T]) -> T:
    """The request's JSON; aborts with 422 if it does not fit."""
    body = await request.get_data(as_text=False)
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnprocessableEntity(str(error)) from None


async def read_form(type_: type[T]) -> T:
    """The request's form; aborts with 422 if it does not fit."""
    try:
        return msgspec.convert((await request.form).to_dict(), type_)
    except msgspec.ValidationError as error:
        raise UnprocessableEntity(str(error)) from None
