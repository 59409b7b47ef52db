"""Request bodies and answers as typed JSON, and answers that never change."""

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
    """An answer that is the same for everybody while the server runs: encoded once, with an `ETag`.

    Caches keep it but revalidate it each time, because a new server version uses the same
    addresses, and its pages and scripts must match.
    """

    def __init__(
        self, body: bytes, content_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """Take the whole answer; `headers` are added to the usual ones."""
        self._body = body
        self._content_type = content_type
        self._etag = sha256(body).hexdigest()[:32]
        self._headers = {**(headers or {}), "Cache-Control": "no-cache"}

    def answer(self) -> Response:
        """The answer, or 304 if the client has it."""
        # Weak comparison, as a proxy that compresses changes the bytes and weakens the ETag: RFC
        # 9110, 13.1.2.
        if request.if_none_match.contains_weak(self._etag):
            answer = Response(b"", 304, self._headers)
            del answer.headers["Content-Length"], answer.headers["Content-Type"]
        else:
            answer = Response(self._body, 200, self._headers, content_type=self._content_type)
        answer.set_etag(self._etag)
        return answer


async def read_body(type_: type[T]) -> T:
    """Decode the request's JSON; aborts with 422 if it does not fit."""
    body = await request.get_data(as_text=False)
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnprocessableEntity(str(error)) from None


async def read_form(type_: type[T]) -> T:
    """Decode the request's form; aborts with 422 if it does not fit."""
    try:
        return msgspec.convert((await request.form).to_dict(), type_)
    except msgspec.ValidationError as error:
        raise UnprocessableEntity(str(error)) from None
