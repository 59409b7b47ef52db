"""Reading and writing JSON, the same for every dialect."""

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from trio_signal.names import MAX_ID

encode = msgspec.json.Encoder().encode

_QUOTE = ord('"')

#: The type of a text whose own type is unknown, or that cannot be decoded.
OTHER = "other"

#: What the server restores for clients after a restart: nothing, their broadcasts, or these and
#: their rooms.
Resumes = Literal["nothing", "broadcasts", "rooms"]

Id = Annotated[str, Meta(max_length=MAX_ID)]


class UnreadableError(Exception):
    """A text that is not a message of the dialect.

    `problem` says what is wrong: `json`, not a JSON object; `type`, its `type` is missing or
    unknown; `fields`, the type is known and other fields do not fit.
    """

    def __init__(
        self, problem: Literal["json", "type", "fields"], type_: str | None, detail: str
    ) -> None:
        super().__init__(detail)
        self.problem = problem
        self.type = type_


class _Envelope(Struct):
    type: str


class Reader:
    """Decodes a text as one of several structs, by its `type`."""

    def __init__(self, structs: Sequence[type[Struct]]) -> None:
        """Use these tagged structs."""
        self.structs = tuple(structs)
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(reduce(or_, structs))
        #: The `type` of each struct.
        self.names = {struct: str(struct.__struct_config__.tag) for struct in structs}

    def read(self, text: bytes) -> Any:
        """Decode a text; raises UnreadableError."""
        try:
            return self._decoder.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._explain(text, error) from None

    def _explain(self, text: bytes, error: Exception) -> UnreadableError:
        """Decode again, more slowly, to find out what is wrong."""
        if not isinstance(error, msgspec.ValidationError):
            return UnreadableError("json", None, str(error))
        if not text.lstrip().startswith(b"{"):
            return UnreadableError("json", None, str(error))
        try:
            type_ = msgspec.json.decode(text, type=_Envelope).type
        except msgspec.ValidationError:
            return UnreadableError("type", None, str(error))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as broken:
            return UnreadableError("json", None, str(broken))
        problem: Literal["type", "fields"] = "fields" if type_ in self.names.values() else "type"
        return UnreadableError(problem, type_, str(error))


def text_of(data: Raw) -> str:
    """A JSON value for people: a string as it is, anything else as JSON."""
    value = msgspec.json.decode(data)
    return value if isinstance(value, str) else bytes(data).decode()


def type_of(text: bytes) -> bytes:
    """The type of one of our own texts, where it comes first. A bare text is its own type."""
    return text[9 : text.find(_QUOTE, 9)] or text  # after `{"type":"`
