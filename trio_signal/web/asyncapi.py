"""The AsyncAPI document: made from the dialects and their message structs."""

import re
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import msgspec
from msgspec import Struct
from quart import Response
from quart_trio import QuartTrio

from trio_signal import __version__
from trio_signal.config import Settings
from trio_signal.dialects import DIALECTS
from trio_signal.web.bodies import Unchanging
from trio_signal.web.openapi import types_of


def add_asyncapi(app: QuartTrio, settings: Settings) -> None:
    """Add the route of the document, which covers the enabled dialects."""

    @cache
    def document() -> Unchanging:
        """Made when somebody asks for it first."""
        made = msgspec.json.encode(make_document(settings.dialects))
        return Unchanging(made, "application/json")

    @app.get("/asyncapi.json")
    async def asyncapi() -> Response:
        return document().answer()


def make_document(dialects: Iterable[str]) -> dict[str, Any]:
    """Describe some dialects from the server's view: it receives commands and sends events."""
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    messages: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for dialect in dialects:
        said, told = structs_of(dialect)
        channels[dialect] = _channel(dialect, said, told)
        for action, structs in (("receive", said), ("send", told)):
            operations[f"{dialect}.{action}"] = _operation(dialect, action, structs)
            messages |= {
                f"{dialect}.{struct.__name__}": _message(struct, DIALECTS[dialect].samples)
                for struct in structs
            }
        payloads, components = msgspec.json.schema_components(
            (*said, *told),
            schema_hook=_anything,
            ref_template=f"#/components/schemas/{dialect}.{{name}}",
        )
        for struct, payload in zip((*said, *told), payloads, strict=True):
            messages[f"{dialect}.{struct.__name__}"]["payload"] = payload
        schemas |= {f"{dialect}.{name}": schema for name, schema in components.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "trio-signal",
            "version": __version__,
            "description": "The WebSocket dialects, all on one port. Each message is a text frame.",
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    }


def structs_of(dialect: str) -> tuple[Sequence[type[Struct]], Sequence[type[Struct]]]:
    """The structs that clients send in a dialect, and those that they receive.

    Messages are the public structs of the dialect's module with a tag, or with a field `type` if no
    HTTP route uses them. Other structs are parts of messages.
    """
    speaks = DIALECTS[dialect]
    said, module = speaks.reader.structs, sys.modules[speaks.__module__]
    of_http = {type_ for route in speaks.routes() for type_ in types_of(route.operation)}
    told = [
        struct
        for struct in public_structs(module)
        if struct not in said
        and (_type_of(struct) or ("type" in struct.__struct_fields__ and struct not in of_http))
    ]
    return said, told


def public_structs(module: ModuleType) -> list[type[Struct]]:
    """The structs that a module defines, without those with an underscore."""
    return [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Struct)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]


def _type_of(struct: type[Struct]) -> str:
    """The `type` of a struct's messages; empty if there are several."""
    return str(struct.__struct_config__.tag or "")


def _anything(_: type) -> dict[str, Any]:
    """The JSON Schema of `object`; an empty schema would count as missing."""
    return {"description": "Anything."}


def _channel(
    dialect: str, said: Sequence[type[Struct]], told: Sequence[type[Struct]]
) -> dict[str, Any]:
    address = DIALECTS[dialect].address
    query = {name: {"type": "string"} for name in DIALECTS[dialect].query}
    return {
        "address": address,
        "description": (DIALECTS[dialect].__doc__ or "").partition("\n")[0],
        "parameters": {name: {} for name in re.findall(r"{(\w+)}", address)},
        "messages": {
            struct.__name__: {"$ref": f"#/components/messages/{dialect}.{struct.__name__}"}
            for struct in (*said, *told)
        },
        "bindings": {
            "ws": {
                "method": "GET",
                "query": {"type": "object", "properties": query},
            }
        },
    }


def _operation(dialect: str, action: str, structs: Sequence[type[Struct]]) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{dialect}"},
        "messages": [
            {"$ref": f"#/channels/{dialect}/messages/{struct.__name__}"} for struct in structs
        ],
    }


def _message(struct: type[Struct], samples: Iterable[Struct]) -> dict[str, Any]:
    message: dict[str, Any] = {
        "name": _type_of(struct) or struct.__name__,
        "summary": (struct.__doc__ or "").partition("\n")[0],
    }
    same = (sample for sample in samples if type(sample) is struct)
    # Encode and decode, because opaque values (Raw) are not built-in types.
    examples = [{"payload": msgspec.json.decode(msgspec.json.encode(sample))} for sample in same]
    return message | {"examples": examples} if examples else message
