"""Requests' bodies and answers, as typed JSON."""

from typing import TypeVar

import msgspec
from quart import Response, request
from werkzeug.exceptions import UnprocessableEntity

T = TypeVar("T")


def json_answer(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, content_type="application/json")


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
