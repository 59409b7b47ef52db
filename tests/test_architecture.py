"""The rules that hold the package together, checked on its source.

Each rule is a function from source to the violations in it. It is first tried on small samples
that break or keep it, then run over the whole package.
"""

import ast
import sys
from collections.abc import Callable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import trio_signal

ROOT = Path(trio_signal.__file__).parent
NAME = trio_signal.__name__

#: From the bottom up: a part may import its own layer and those below. A part that is not named
#: stands below them all, like messages and errors.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset(
        {
            *(
                "participant",
                "session",
                "room",
                "local_room",
                "presence",
                "broadcasts",
                "hub",
                "private",
                "returning",
                "resuming",
                "handover",
                "draining",
                "moving",
                "stand_ins",
                "parcels",
            ),
            *("rooms", "membership", "live", "signals", "talk", "topics", "moderation", "survey"),
            *("namespace", "mailbox"),
            *("online", "announcements", "bus", "notes", "webhooks", "relay"),
        }
    ),
    frozenset({"service", "publishing"}),
    frozenset({"connection"}),
    frozenset({"listener", "web"}),
    frozenset({"server"}),
    frozenset({"client", "doctor"}),
    frozenset({"cli", "__main__"}),
)

DIALECTS_MAY_IMPORT = (
    *(f"{NAME}.messages", f"{NAME}.errors", f"{NAME}.names"),
    *(f"{NAME}.dialects", "msgspec"),
)
#: Modules of our own. The client is for other machines, where no server runs.
CLIENT_MAY_IMPORT = (
    *(f"{NAME}.client", f"{NAME}.dialects", f"{NAME}.messages", f"{NAME}.errors", f"{NAME}.names"),
)
#: Media run in a thread of their own, and nothing else needs asyncio.
ASYNCIO = ("asyncio", "aiortc", "av")
KNOW_ASYNCIO = tuple(
    f"{NAME}.client.{part}" for part in ("aio", "media", "calls", "link", "peer_connection")
)
WEBSOCKET_CLIENTS = ("trio_websocket", "wsproto")
#: The second acts as any client; the third is a client of a media server.
KNOW_WEBSOCKET_CLIENTS = (
    *(f"{NAME}.client", f"{NAME}.cli.compare"),
    f"{NAME}.relay.janus.connection",
)
HTTP_SERVERS = ("hypercorn", "quart", "quart_trio")
KNOW_HTTP = (f"{NAME}.web", f"{NAME}.listener", f"{NAME}.server", f"{NAME}.cli")
REDIS = ("redis", "hiredis", f"{NAME}.redis")
KNOW_REDIS = (
    *(f"{NAME}.redis", f"{NAME}.bus.redis", f"{NAME}.bus.announcements"),
    *(f"{NAME}.notes.redis",),
    f"{NAME}.doctor.facts",
)
SQL = ("sqlalchemy", "alembic", "psycopg", "sqlite3")
KNOW_SQL = (f"{NAME}.store",)
#: These do no I/O; nor do the dialects, whose rule is stricter still.
PURE = (
    *(f"{NAME}.messages", f"{NAME}.errors", f"{NAME}.websocket"),
    *(f"{NAME}.room", f"{NAME}.presence"),
    f"{NAME}.negotiations",
    f"{NAME}.resumption",
    f"{NAME}.mailbox",
    f"{NAME}.bus.names",
    f"{NAME}.cli.compare.talk",
)
#: What pure code does not import: I/O, tasks, clocks and randomness, which are passed in.
IMPURE = (
    *("trio", "asyncio", "threading", "multiprocessing", "subprocess", "signal"),
    *("socket", "ssl", "select", "selectors", "http.client", "urllib.request", "sqlite3"),
    *("time", "random", "secrets"),
)
#: What may have a `finally`, and why: none of these tells a room that somebody has left.
MAY_HAVE_FINALLY = {
    "bus.redis": "members that are about to be let in are noted",
    "cli.compare.recorder": "connections of a recording are counted",
    "client.client": "the context of an error is put right",
    "listener": "heads that are waited for, and refusals, are counted",
    "outbox": "the instrument is Trio's as long as the task runs",
    "readers": "each task reads from its own socket once the readers end",
    "rooms": "joins that are under way are counted",
    "rounds": "the instrument is Trio's as long as the task runs",
    "store.database": "an attempt is given up, and a database closed",
    "users": "who waits for a password to be checked",
    "web.server": "bytes of an HTTP answer are given back",
}
MAX_LINES = 450
MAX_METHODS = 25
#: Modules that may be longer, and why; each says so at its top as well.
MAY_BE_LONG = {
    "dialects.live": "a dialect is one module: all of its words, and what each means",
    "dialects.mesh": "the same",
    "dialects.room": "the same",
    "messages.events": "the vocabulary of what is told: values, and what each means",
}
CATCH_ALL = frozenset({"BaseException", "Cancelled"})


# Reading source


def package_sources() -> dict[str, str]:
    """The source of every module of the package, by dotted name."""
    sources = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = (NAME, *path.relative_to(ROOT).with_suffix("").parts)
        sources[".".join(parts)] = path.read_text()
    return sources


def imports_of(module: str, source: str) -> Iterator[str]:
    """Absolute dotted names that `module` imports, anywhere in it.

    `from a import b` gives `a.b`: the source does not show what `b` is.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join((*base, alias.name)) for alias in node.names)


def is_within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def part_of(name: str) -> str | None:
    """`hub` for `trio_signal.hub.Hub`; None for modules that are not ours."""
    parts = name.split(".")
    return parts[1] if parts[0] == NAME and len(parts) > 1 else None


def height(part: str) -> int:
    return next((i for i, layer in enumerate(LAYERS, 1) if part in layer), 0)


# The rules about imports: what `module` imports and should not


def imports_upwards(module: str, source: str) -> list[str]:
    own = height(part_of(module) or "")
    imported = ((name, part_of(name)) for name in imports_of(module, source))
    return [name for name, part in imported if part is not None and height(part) > own]


def imports_too_much_for_a_dialect(module: str, source: str) -> list[str]:
    if not is_within(module, (f"{NAME}.dialects",)):
        return []
    return [
        name
        for name in imports_of(module, source)
        if not is_within(name, DIALECTS_MAY_IMPORT)
        and (name.split(".")[0] not in sys.stdlib_module_names or is_within(name, IMPURE))
    ]


def imports_io(module: str, source: str) -> list[str]:
    if not is_within(module, PURE):
        return []
    return [name for name in imports_of(module, source) if is_within(name, IMPURE)]


def imports_an_http_server(module: str, source: str) -> list[str]:
    if is_within(module, KNOW_HTTP):
        return []
    return [name for name in imports_of(module, source) if is_within(name, HTTP_SERVERS)]


def imports_redis(module: str, source: str) -> list[str]:
    if is_within(module, KNOW_REDIS):
        return []
    return [name for name in imports_of(module, source) if is_within(name, REDIS)]


def imports_the_server(module: str, source: str) -> list[str]:
    if not is_within(module, (f"{NAME}.client",)):
        return []
    return [
        name
        for name in imports_of(module, source)
        if is_within(name, (NAME,)) and not is_within(name, CLIENT_MAY_IMPORT)
    ]


def imports_a_websocket_client(module: str, source: str) -> list[str]:
    if is_within(module, KNOW_WEBSOCKET_CLIENTS):
        return []
    return [name for name in imports_of(module, source) if is_within(name, WEBSOCKET_CLIENTS)]


def imports_sql(module: str, source: str) -> list[str]:
    if is_within(module, KNOW_SQL):
        return []
    return [name for name in imports_of(module, source) if is_within(name, SQL)]


def imports_asyncio(module: str, source: str) -> list[str]:
    if is_within(module, KNOW_ASYNCIO):
        return []
    return [
        name for name in imports_of(module, source) if is_within(name, (*ASYNCIO, *KNOW_ASYNCIO))
    ]


ImportRule = Callable[[str, str], list[str]]

BAD_IMPORTS: list[tuple[ImportRule, str, str]] = [
    (imports_upwards, "messages", "from trio_signal.hub import Hub"),
    (imports_upwards, "messages", "from trio_signal import hub"),
    (imports_upwards, "limits", "import trio_signal.cli"),
    (imports_upwards, "hub", "from trio_signal.connection import run"),
    (imports_upwards, "hub", "from .connection import run"),
    (imports_upwards, "bus.memory", "from ..web import app"),
    (imports_upwards, "room", "def late():\n    from . import listener"),
    (imports_upwards, "connection", "if TYPE_CHECKING:\n    from trio_signal.web.app import App"),
    (imports_upwards, "web.app", "from trio_signal.cli import app"),
    (imports_too_much_for_a_dialect, "dialects.mesh", "from trio_signal.hub import Hub"),
    (imports_too_much_for_a_dialect, "dialects.mesh", "from trio_signal import websocket"),
    (imports_too_much_for_a_dialect, "dialects.mesh", "import trio"),
    (imports_too_much_for_a_dialect, "dialects.mesh", "import websockets"),
    (imports_too_much_for_a_dialect, "dialects.mesh", "from time import time"),
    (imports_too_much_for_a_dialect, "dialects.mesh", "from urllib import request"),
    (imports_too_much_for_a_dialect, "dialects.rest.rooms", "from quart import request"),
    (imports_too_much_for_a_dialect, "dialects.rest.users", "from trio_signal import notes"),
    (imports_io, "room", "import trio"),
    (imports_io, "messages", "from time import monotonic"),
    (imports_io, "websocket", "from socket import socket"),
    (imports_an_http_server, "connection", "import hypercorn.trio"),
    (imports_an_http_server, "hub", "from quart_trio import QuartTrio"),
    (imports_redis, "hub", "from redis.exceptions import RedisError"),
    (imports_redis, "presence", "import hiredis"),
    (imports_redis, "bus.memory", "from trio_signal.redis import connection"),
    (imports_upwards, "server", "from trio_signal.client import open_client"),
    (imports_the_server, "client.client", "from trio_signal.hub import Hub"),
    (imports_the_server, "client.client", "from trio_signal import presence"),
    (imports_a_websocket_client, "connection", "import trio_websocket"),
    (imports_a_websocket_client, "websocket", "from wsproto.events import Ping"),
    (imports_redis, "announcements.receipts", "from trio_signal.redis import Redis"),
    (imports_asyncio, "client.run", "import asyncio"),
    (imports_asyncio, "client.client", "from trio_signal.client import media"),
    (imports_sql, "announcements.receipts", "from sqlalchemy import select"),
    (imports_sql, "web.accounts", "import sqlite3"),
    (imports_redis, "doctor.checks", "from trio_signal.redis import open_redis"),
    (imports_upwards, "server", "from trio_signal.doctor import gather"),
]

GOOD_IMPORTS: list[tuple[ImportRule, str, str]] = [
    (imports_upwards, "hub", "from trio_signal.messages.events import Joined\nfrom . import room"),
    (imports_upwards, "cli", "from trio_signal.server import serve"),
    (imports_upwards, "web.app", "from trio_signal.listener import listen"),
    (imports_too_much_for_a_dialect, "dialects.mesh", "import msgspec, json, datetime"),
    (imports_too_much_for_a_dialect, "dialects.mesh", "from urllib.parse import parse_qs"),
    (
        imports_too_much_for_a_dialect,
        "dialects.mesh",
        "from trio_signal.messages.commands import Join",
    ),
    (imports_too_much_for_a_dialect, "dialects.mesh", "from trio_signal import errors"),
    (imports_too_much_for_a_dialect, "hub", "import trio"),
    (imports_io, "room", "from datetime import datetime"),
    (imports_io, "websocket", "from http import HTTPStatus"),
    (imports_io, "connection", "import trio"),
    (imports_an_http_server, "web.app", "from quart_trio import QuartTrio"),
    (imports_an_http_server, "listener", "import hypercorn"),
    (imports_redis, "redis.connection", "import hiredis"),
    (imports_redis, "bus.redis", "from trio_signal.redis import connection"),
    (imports_upwards, "cli.watch", "from trio_signal.client import open_client"),
    (imports_the_server, "client.client", "import trio\nfrom trio_signal.dialects import mesh"),
    (imports_the_server, "hub", "from trio_signal import presence"),
    (imports_a_websocket_client, "client.connection", "import trio_websocket"),
    (imports_redis, "bus.announcements", "from trio_signal.redis import Redis"),
    (imports_asyncio, "client.link", "from aiortc import RTCPeerConnection"),
    (imports_sql, "store.tables", "from sqlalchemy import Table"),
    (imports_redis, "doctor.facts", "from trio_signal.redis import open_redis"),
]
IMPORT_RULES = list(dict.fromkeys(rule for rule, _, _ in BAD_IMPORTS))


@pytest.mark.parametrize(("rule", "module", "source"), BAD_IMPORTS)
def test_rule_finds_forbidden_import(rule: ImportRule, module: str, source: str) -> None:
    assert rule(f"{NAME}.{module}", source)


@pytest.mark.parametrize(("rule", "module", "source"), GOOD_IMPORTS)
def test_rule_allows_permitted_import(rule: ImportRule, module: str, source: str) -> None:
    assert rule(f"{NAME}.{module}", source) == []


@pytest.mark.parametrize("rule", IMPORT_RULES)
def test_package_imports_go_downwards(rule: ImportRule) -> None:
    wrong = {module: rule(module, source) for module, source in package_sources().items()}
    assert {module: names for module, names in wrong.items() if names} == {}


# The rule about circular imports


def circle_of_imports(sources: Mapping[str, str]) -> list[str]:
    """Parts of the package that import each other in a circle, if any."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        part = part_of(module)
        if part is not None:
            imported = (part_of(name) for name in imports_of(module, source))
            graph.setdefault(part, set()).update(n for n in imported if n and n != part)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


def test_rule_finds_circular_import() -> None:
    sources = {
        f"{NAME}.session": "from .room import Room",
        f"{NAME}.room": "def late():\n    from trio_signal.hub import Hub",
        f"{NAME}.hub": "import trio_signal.session",
    }
    assert set(circle_of_imports(sources)) == {"session", "room", "hub"}
    del sources[f"{NAME}.hub"]
    assert circle_of_imports(sources) == []


def test_package_has_no_circular_import() -> None:
    assert circle_of_imports(package_sources()) == []


# The rules about exceptions: each gives the lines that break it


def awaits_in_finally(source: str) -> list[int]:
    """Awaits that a cancelled scope would cut short, skipping what follows."""
    return [
        node.lineno
        for statement in ast.walk(ast.parse(source))
        if isinstance(statement, ast.Try | ast.TryStar)
        for last in statement.finalbody
        for node in ast.walk(last)
        if isinstance(node, ast.Await | ast.AsyncWith | ast.AsyncFor)
        or (isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp) and is_async(node))
    ]


def is_async(node: ast.ListComp | ast.SetComp | ast.DictComp) -> bool:
    return any(generator.is_async for generator in node.generators)


def catches_everything(source: str) -> list[int]:
    """`except:`, and handlers that may swallow a cancellation."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (may_catch_cancelled(node.type) and not surely_reraises(node)))
    ]


def may_catch_cancelled(caught: ast.expr) -> bool:
    names = {node.id for node in ast.walk(caught) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(caught) if isinstance(node, ast.Attribute)}
    return not names.isdisjoint(CATCH_ALL)


def surely_reraises(handler: ast.ExceptHandler) -> bool:
    """Whether it ends by re-raising what it caught, with no other way out."""
    if any(isinstance(node, ast.Return | ast.Break | ast.Continue) for node in ast.walk(handler)):
        return False
    match handler.body[-1]:
        case ast.Raise(exc=None):
            return True
        case ast.Raise(exc=ast.Name(id=name)):
            return name == handler.name
    return False


def has_finally(source: str) -> list[int]:
    """Blocks that somebody has to remember to write."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Try | ast.TryStar) and node.finalbody
    ]


def test_leaving_needs_no_finally() -> None:
    with_some = {module for module, source in package_sources().items() if has_finally(source)}
    allowed = tuple(f"{NAME}.{module}" for module in MAY_HAVE_FINALLY)
    assert {module for module in with_some if not is_within(module, allowed)} == set()
    assert {name for name in allowed if not any(is_within(m, (name,)) for m in with_some)} == set()


ExceptionRule = Callable[[str], list[int]]

BAD_HANDLING: list[tuple[ExceptionRule, str]] = [
    (awaits_in_finally, "finally:\n    await stream.aclose()"),
    (awaits_in_finally, "finally:\n    if late:\n        x = [await one()]"),
    (awaits_in_finally, "finally:\n    async with lock:\n        pass"),
    (awaits_in_finally, "finally:\n    async for x in channel:\n        pass"),
    (awaits_in_finally, "finally:\n    xs = [x async for x in channel]"),
    (awaits_in_finally, "except* OSError:\n    pass\nfinally:\n    await stream.aclose()"),
    (catches_everything, "except:\n    raise"),
    (catches_everything, "except BaseException:\n    pass"),
    (catches_everything, "except BaseException as error:\n    log(error)"),
    (catches_everything, "except (OSError, BaseException):\n    pass"),
    (catches_everything, "except* BaseException:\n    pass"),
    (catches_everything, "except trio.Cancelled:\n    pass"),
    (catches_everything, "except BaseException as error:\n    raise ValueError from error"),
    (catches_everything, "except BaseException:\n    if late:\n        return\n    raise"),
    (catches_everything, "except BaseException:\n    if late:\n        raise"),
]

GOOD_HANDLING: list[tuple[ExceptionRule, str]] = [
    (awaits_in_finally, "finally:\n    stream.close()"),
    (awaits_in_finally, "except OSError:\n    await log()\nfinally:\n    pass"),
    (catches_everything, "except Exception:\n    pass"),
    (catches_everything, "except* OSError:\n    pass"),
    (catches_everything, "except BaseException:\n    log()\n    raise"),
    (catches_everything, "except trio.Cancelled as error:\n    log()\n    raise error"),
]
EXCEPTION_RULES = list(dict.fromkeys(rule for rule, _ in BAD_HANDLING))


def within_a_function(handling: str) -> str:
    lines = ("try:", "    await work()", *handling.splitlines())
    return "async def run():\n" + "\n".join(f"    {line}" for line in lines)


@pytest.mark.parametrize(("rule", "handling"), BAD_HANDLING)
def test_rule_finds_wrong_exception_handling(rule: ExceptionRule, handling: str) -> None:
    assert rule(within_a_function(handling))


@pytest.mark.parametrize(("rule", "handling"), GOOD_HANDLING)
def test_rule_allows_right_exception_handling(rule: ExceptionRule, handling: str) -> None:
    assert rule(within_a_function(handling)) == []


@pytest.mark.parametrize("rule", EXCEPTION_RULES)
def test_package_handles_exceptions_correctly(rule: ExceptionRule) -> None:
    wrong = {module: rule(source) for module, source in package_sources().items()}
    assert {module: lines for module, lines in wrong.items() if lines} == {}


# The rule about sizes


def too_long(source: str) -> list[str]:
    """Code too long to read from top to bottom: the module, and its classes with many methods."""
    lines = source.count("\n")
    found = [f"{lines} lines"] if lines > MAX_LINES else []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            methods = sum(isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) for n in node.body)
            if methods > MAX_METHODS:
                found.append(f"{node.name}: {methods} methods")
    return found


def test_rule_finds_long_modules_and_classes() -> None:
    def class_of(methods: int) -> str:
        bodies = [
            "    @property\n    def one(self): ...",
            "    async def two(self): ...",
            *(f"    def more{n}(self): ..." for n in range(methods - 2)),
        ]
        return "class Long:\n" + "\n".join(bodies)

    assert too_long("x = 1\n" * (MAX_LINES + 1)) == ["451 lines"]
    assert too_long(class_of(MAX_METHODS + 1)) == ["Long: 26 methods"]
    assert too_long("x = 1\n" * MAX_LINES) == too_long(class_of(MAX_METHODS)) == []


def test_package_modules_and_classes_are_short() -> None:
    long = {
        module: sizes for module, source in package_sources().items() if (sizes := too_long(source))
    }
    allowed = {f"{NAME}.{module}" for module in MAY_BE_LONG}
    assert {module: sizes for module, sizes in long.items() if module not in allowed} == {}
    assert allowed <= long.keys()  # a module that is short again must leave the list
