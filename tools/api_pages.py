"""The OpenAPI and AsyncAPI documents as pages of the site, made when it is built.

`tools/site_pages.py` adds them, together with the documents themselves.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from trio_signal.dialects import DIALECTS
from trio_signal.web import asyncapi, openapi
from trio_signal.web.backend import ROUTES

#: The documents by file name.
DOCUMENTS: dict[str, dict[str, Any]] = {
    "openapi.json": openapi.make_document(
        [*(route for dialect in DIALECTS.values() for route in dialect.routes()), *ROUTES]
    ),
    "asyncapi.json": asyncapi.make_document(DIALECTS),
}


def generated() -> dict[str, str]:
    """The pages and documents by path in docs/."""
    return {
        "reference/openapi.md": "\n".join(_openapi(DOCUMENTS["openapi.json"])),
        "reference/asyncapi.md": "\n".join(_asyncapi(DOCUMENTS["asyncapi.json"])),
        **{f"reference/{name}": json.dumps(made, indent=1) for name, made in DOCUMENTS.items()},
    }


def _openapi(document: Mapping[str, Any]) -> Iterator[str]:
    schemas = document["components"]["schemas"]
    yield "# HTTP API\n"
    yield "All HTTP calls, generated from the code. The document is [openapi.json](openapi.json); "
    yield "a running server has it at `/openapi.json`. [HTTP](../http.md) is the overview.\n"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            yield f"## {method.upper()} {path}\n"
            yield f"{operation['summary']}.\n"
            if any("key" in needed for needed in operation.get("security", ())):
                yield "Requires an API key.\n"
            parameters = [
                f"| `{each['name']}` | {each['in']} | {'yes' if each['required'] else 'no'} |"
                for each in operation.get("parameters", ())
            ]
            if parameters:
                yield from ("| parameter | in | required |", "|---|---|---|", *parameters, "")
            if "requestBody" in operation:
                yield f"Body: {_name(operation['requestBody'])}.\n"
            yield from ("| status | answer |", "|---|---|")
            for status, answer in sorted(operation["responses"].items()):
                yield f"| {status} | {_name(answer)} |"
            yield ""
    yield "## Types\n"
    for name, schema in sorted(schemas.items()):
        yield from _fields(f"### {name}", schema)


def _asyncapi(document: Mapping[str, Any]) -> Iterator[str]:
    schemas = document["components"]["schemas"]
    yield "# WebSocket messages\n"
    yield "All messages of all dialects, generated from the code. The document is "
    yield "[asyncapi.json](asyncapi.json); a running server has it at `/asyncapi.json`. "
    yield "[The wire protocols](../protocols/README.md) explain when each is sent.\n"
    for dialect in document["channels"]:
        for action, heading in (("receive", "to the server"), ("send", "to the client")):
            messages = document["operations"][f"{dialect}.{action}"]["messages"]
            yield f"## {dialect}: {heading}\n"
            for reference in messages:
                name = reference["$ref"].rpartition("/")[2]
                short = name.rpartition(".")[2]
                message = document["components"]["messages"].get(f"{dialect}.{short}")
                if message is None:
                    continue
                payload = message["payload"]
                schema = schemas.get(payload.get("$ref", "").rpartition("/")[2], payload)
                tag = schema.get("properties", {}).get("type", {})
                words = tag.get("enum", [short]) if isinstance(tag, dict) else [short]
                yield from _fields(f"### {', '.join(f'`{word}`' for word in words)}", schema)
                for example in message.get("examples", ()):
                    text = json.dumps(example["payload"], indent=2)
                    yield from ("```json", text, "```", "")


def _fields(heading: str, schema: Mapping[str, Any]) -> Iterator[str]:
    """A struct: its description and fields."""
    yield f"{heading}\n"
    if "description" in schema:
        yield f"{' '.join(schema['description'].split())}\n"
    rows = [
        f"| `{name}{'' if name in schema.get('required', ()) else '?'}` | {_type(field)} |"
        for name, field in schema.get("properties", {}).items()
    ]
    if rows:
        yield from ("| field | type |", "|---|---|", *rows, "")


def _name(answer: Mapping[str, Any]) -> str:
    """The types that an answer or a body has, or its description."""
    contents = [_type(each.get("schema", {})) for each in answer.get("content", {}).values()]
    return ", ".join(contents) or answer.get("description", "nothing").rstrip(".")


def _type(schema: Mapping[str, Any]) -> str:
    """The type of a schema in one or two words."""
    match schema:
        case {"$ref": str(reference)}:
            return f"`{reference.rpartition('/')[2].rpartition('.')[2]}`"
        case {"anyOf": [*several]}:
            return " or ".join(_type(each) for each in several)
        case {"enum": [*values]}:
            return " or ".join(f"`{json.dumps(value)}`" for value in values)
        case {"type": "array", "items": dict(items)}:
            return f"array of {_type(items)}"
        case {"type": str(name)}:
            return name
        case _:
            return "any JSON"


if __name__ == "__main__":
    for name, text in generated().items():
        print(name, len(text))
