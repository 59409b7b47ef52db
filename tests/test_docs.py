"""The docs match the code: tables are compared with it, examples are run.

Nothing here checks prose, so what can be a table is one.
"""

import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import dropwhile
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
import typer
from msgspec import UNSET, Struct

from tests.clients import PATIENCE, Client, Service, settle
from tests.tokens import SECRET, private_key, public_pem
from tools import api_pages, check_words, print_close_codes, print_commands, print_settings
from tools.print_settings import as_written, variable
from trio_signal.announcements import Announcements
from trio_signal.auth import OpenAuth
from trio_signal.bus.memory import MemoryBus
from trio_signal.bus.redis import open_redis_bus
from trio_signal.cli import app
from trio_signal.config import Settings
from trio_signal.dialects import DIALECTS, dialect_at
from trio_signal.doctor.checks import CHECKS
from trio_signal.environment import load_settings
from trio_signal.errors import CLOSE_CODES, ConfigError, Reason
from trio_signal.hub import Hub
from trio_signal.limits import Limits
from trio_signal.messages.events import NotResumedReason, Refusal
from trio_signal.metrics import Metrics, label_of
from trio_signal.relay.memory import MemoryNode, MemoryServer
from trio_signal.relay.parts import Limits as RelayLimits
from trio_signal.store import Store
from trio_signal.web.app import create_app
from trio_signal.web.asyncapi import public_structs
from trio_signal.web.metrics import render_metrics
from trio_signal.web.openapi import types_of

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
HTTP = (ROOT / "docs" / "http.md").read_text()
DESIGN = (ROOT / "docs" / "design.md").read_text()
PROTOCOLS = (ROOT / "docs" / "protocols" / "README.md").read_text()
SERVER_API = (ROOT / "docs" / "server" / "api.md").read_text()

QUOTED = re.compile(r"`([^`\n]+)`")
EXAMPLE = re.compile(r"^```text\n(.*?)^```", re.MULTILINE | re.DOTALL)


# Reading pages


def section(page: str, heading: str) -> str:
    """The text between a heading and the next."""
    found = re.search(rf"(?ms)^## {re.escape(heading)}\n(.*?)(?=^##|\Z)", page)
    assert found is not None, f"there is no section {heading!r}"
    return found[1]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each table row in a text, without the header rows."""
    lines = text.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("|") and not line.startswith("|-") and not following.startswith("|-"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def words(text: str) -> list[str]:
    return QUOTED.findall(text)


def page_of(dialect: str) -> str:
    return (ROOT / "docs" / "protocols" / f"{dialect}.md").read_text()


# Settings and commands


@pytest.mark.parametrize("tool", [print_close_codes, print_commands, print_settings])
def test_generated_page_is_up_to_date(tool: Any) -> None:
    page = tool.PAGE.read_text()
    assert tool.printed(page) == page, f"run: python -m {tool.__name__}"
    with pytest.raises(ValueError, match="no markers"):
        tool.printed("# A page\n")


def test_every_setting_is_documented() -> None:
    documented = {
        words(first)[0]: "".join(words(default))
        for first, default, meaning in rows(print_settings.PAGE.read_text())
        if meaning
    }
    assert documented == {
        variable(name): as_written(field.default) for name, field in Settings.model_fields.items()
    }


OTHER_VALUES = {
    "port": "9001",
    "log_level": "debug",
    "log_format": "json",
    "host": "::1",
    "allowed_origins": "https://app.example.com",
    "dialects": "mesh",
    "database_url": "sqlite:///other.db",
    "list_rooms": "false",
    "api_keys": f"backend:{SECRET.replace(',', '')}",
    "webhook_urls": "https://www.example.com/hooks",
    "relay_urls": "janus+ws://media.example.com:8188",
    "live_listeners": "false",
    "redis_ca_file": "README.md",
    "redis_url": "redis://redis.example.com",
    "worker": "true",
    "workers": "1",
    "stun_urls": "stun:stun.example.com:3478",
    "turn_urls": "turn:turn.example.com:3478",
    "auth": "open",
    "trusted_proxies": "3",
    "jwt_secret": SECRET,
    "jwt_public_key": public_pem(private_key("EdDSA")),
    "jwks_url": "https://id.example.com/keys.json",
}
#: Other settings that a setting requires.
COMPANIONS = {
    "turn_urls": ("turn_secret", "s3cret"),
    "users_file": ("jwt_secret", SECRET),
    "webhook_urls": ("api_keys", "backend:s3cret"),
}


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
def test_every_documented_variable_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    value = OTHER_VALUES.get(name, "5000")
    monkeypatch.setenv(variable(name), value)
    if name in COMPANIONS:
        other, other_value = COMPANIONS[name]
        monkeypatch.setenv(variable(other), other_value)
    assert as_written(getattr(load_settings(), name)).removesuffix(".0") == value


@pytest.mark.parametrize("name", ["auth", "dialects", "port"])
def test_error_names_the_wrong_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable(name), "nonsense")
    with pytest.raises(ConfigError, match=rf"^{variable(name)} must .*'nonsense'"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"), [("--port", 70_000), ("--workers", 0), ("TRIO_SIGNAL_LEASE", 0)]
)
def test_error_names_the_wrong_override(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be .*, not '{value}'$"):
        load_settings(**{name.removeprefix("--").rpartition("_")[2].lower(): value})


def test_port_has_no_prefixed_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_SIGNAL_PORT", "nonsense")
    assert load_settings().port == 8000


def test_error_hides_the_wrong_jwks_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_SIGNAL_JWKS_URL", "http://ann:hunter2@example.com")
    with pytest.raises(ConfigError, match=r"^TRIO_SIGNAL_JWKS_URL must (?!.*hunter2)"):
        load_settings()


def test_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.setenv(variable(name), "")
    defaults = {name: field.default for name, field in Settings.model_fields.items()}
    assert load_settings().model_dump() == defaults


def test_every_command_and_option_is_documented() -> None:
    page = print_commands.PAGE.read_text()
    for path, command in print_commands.commands(typer.main.get_command(app), "trio-signal"):
        told = section(page, path)
        for param in command.params:
            name = param.opts[0] if param.param_type_name == "option" else param.metavar
            assert name in {word.split(" ")[0] for word in words(told)} | {*words(told)}


#: The pages whose shell blocks are checked.
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def typed(page: str) -> Iterator[list[str]]:
    """The commands in the shell blocks of a page, in order, without variables."""
    for block in SHELL.findall(page):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r" (?:\||&&?|#)(?: |$)", line):
                arguments = shlex.split(part, comments=True)
                yield list(dropwhile(lambda each: re.match("[A-Z_]+=", each), arguments))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_documented_commands_are_valid(page: Path) -> None:
    targets = re.findall(r"(?m)^([a-z][\w-]*):", (ROOT / "Makefile").read_text())
    for command in typed(page.read_text()):
        match command:
            case ["make", target, *variables]:
                assert target in targets
                assert {each.partition("=")[0] for each in variables} <= {"ARGS", "PYTHON"}
            case ["trio-signal", *arguments]:
                group = typer.main.get_command(app)
                while hasattr(group, "commands") and not arguments[0].startswith("-"):
                    group = getattr(group, "commands")[arguments.pop(0)]  # noqa: B009
                group.make_context("trio-signal", arguments, resilient_parsing=False)


def test_readme_is_short_and_has_the_benchmark_figures() -> None:
    assert len(README.splitlines()) < 150
    measured = (ROOT / "docs" / "performance.md").read_text()
    figures = [row[1:] for row in rows(section(README, "Performance"))]
    assert len(figures) == 3
    for ours, theirs in figures:
        assert f"| {ours} | {theirs} |" in measured


def test_documented_close_reasons_are_in_the_code() -> None:
    said = {
        node.value
        for path in (ROOT / "trio_signal").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    page = section(print_close_codes.PAGE.read_text(), "Reasons")
    for code, reason, _ in rows(page):
        assert int(code) in CLOSE_CODES
        assert words(reason)[0] in said


# HTTP


def test_every_http_call_is_documented() -> None:
    settings = load_settings(api_keys="backend:s3cret")
    store = Store(settings.database_url.get_secret_value())
    hub = Hub(MemoryBus("docs"), announcements=Announcements(store, None))
    web = create_app(hub, OpenAuth(), settings, Limits(settings), Metrics())
    routes = web.url_map.iter_rules()
    calls = {
        f"{method} {route.rule.replace('<path:', '{').replace('<', '{').replace('>', '}')}"
        for route in routes
        for method in route.methods or ()
        if method not in {"HEAD", "OPTIONS"}
    }
    pages = [HTTP, README, PROTOCOLS, SERVER_API, *map(page_of, DIALECTS)]
    documented = {word for page in pages for word in words(page)}
    assert calls <= documented
    known = re.compile("(GET|POST|PUT|PATCH|DELETE) /")
    assert {word for word in documented if known.match(word)} <= calls


# Messages


class Kind(NamedTuple):
    """One row of a page's table of messages."""

    types: tuple[str, ...]
    #: As written: `name?` is optional.
    fields: frozenset[str]


def kinds(dialect: str, heading: str) -> list[Kind]:
    return [
        Kind(tuple(words(types)), frozenset(words(fields)))
        for types, fields, _ in rows(section(page_of(dialect), heading))
        if words(types)
    ]


def module_of(dialect: str) -> ModuleType:
    return importlib.import_module(DIALECTS[dialect].__module__)


def outgoing(dialect: str) -> set[type[Struct]]:
    """A dialect's structs that are neither client messages nor used only by its HTTP calls."""
    others = {type_ for route in DIALECTS[dialect].routes() for type_ in types_of(route.operation)}
    told = {s for s in public_structs(module_of(dialect)) if tag(s) or s not in others}
    return told - {*DIALECTS[dialect].reader.structs}


def tag(struct: type[Struct]) -> str | None:
    found = struct.__struct_config__.tag
    assert found is None or isinstance(found, str)
    return found


def fields(struct: type[Struct], *, reads: bool = False) -> frozenset[str]:
    """Names on the wire, with `?` where the client or the server may leave them out."""
    config = struct.__struct_config__
    return frozenset(
        f"{field.encode_name}?"
        if (not field.required and (reads or config.omit_defaults)) or field.default is UNSET
        else field.encode_name
        for field in msgspec.structs.fields(struct)
        if field.encode_name != "type"
    )


def has_type_field(struct: type[Struct]) -> bool:
    return any(field.encode_name == "type" for field in msgspec.structs.fields(struct))


def wire_words(*nodes: ast.AST) -> set[str]:
    """The strings in the code that look like names on the wire: `viewer-count`, `user_id`."""
    return {
        node.value
        for top in nodes
        for node in ast.walk(top)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch("[a-z]+([-_][a-z]+)+", node.value)
    }


def source_of(module: ModuleType) -> ast.Module:
    assert module.__file__ is not None
    return ast.parse(Path(module.__file__).read_text())


def said_words(module: ModuleType) -> set[str]:
    """Those that are neither the tag of a struct nor the key of a dictionary."""
    calls = [node for node in ast.walk(source_of(module)) if isinstance(node, ast.Call)]
    dicts = [node for node in ast.walk(source_of(module)) if isinstance(node, ast.Dict)]
    values = [value for node in dicts for value in node.values]
    return wire_words(*calls, *values)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_page_documents_messages_to_the_server(dialect: str) -> None:
    documented = {
        type_: kind.fields for kind in kinds(dialect, "Client to server") for type_ in kind.types
    }
    assert documented == {
        tag(struct): fields(struct, reads=True) for struct in DIALECTS[dialect].reader.structs
    }


@pytest.mark.parametrize("dialect", DIALECTS)
def test_page_documents_messages_to_the_client(dialect: str) -> None:
    module, documented = module_of(dialect), kinds(dialect, "Server to client")
    tagged = {tag(struct): fields(struct) for struct in outgoing(dialect) if tag(struct)}
    by_type = {type_: kind.fields for kind in documented for type_ in kind.types}
    assert {type_: by_type.get(str(type_)) for type_ in tagged} == tagged
    # Each of the other structs serves several types, which the code has as strings.
    others = {type_: by_type[type_] for type_ in by_type.keys() - tagged.keys()}
    assert others.keys() <= wire_words(source_of(module))
    untagged = {s for s in outgoing(dialect) if tag(s) is None and has_type_field(s)}
    assert set(others.values()) == {fields(struct) for struct in untagged}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_tables_have_every_word_that_the_dialect_sends(dialect: str) -> None:
    page = page_of(dialect)
    told = page.replace(section(page, "Client to server"), "")
    assert said_words(module_of(dialect)) <= {w for first, *_ in rows(told) for w in words(first)}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_page_documents_nested_fields(dialect: str) -> None:
    nested = {s for s in outgoing(dialect) if tag(s) is None and not has_type_field(s)}
    prose = re.sub(r"^\|.*", "", section(page_of(dialect), "Server to client"), flags=re.MULTILINE)
    assert set().union(*map(fields, nested)) <= set(words(prose))


@pytest.mark.parametrize(
    "table",
    [section(README, "Dialects"), PROTOCOLS.partition("\n## ")[0]],
    ids=["README", "protocols"],
)
def test_path_of_each_dialect_is_documented(table: str) -> None:
    told = {words(name)[0]: words(path)[0] for name, _, path, _ in rows(table)}
    found = {name: dialect_at(re.sub(r"{\w+}", "x", path), DIALECTS) for name, path in told.items()}
    assert {name: type(dialect) for name, dialect in found.items()} == DIALECTS


# Examples

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
MADE_BY_THE_SERVER = re.compile(r"client_[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Reading:
    """Compares an example with real messages; the server's ids and times differ each time."""

    def __init__(self) -> None:
        self.real: dict[str, str] = {}

    def told(self, text: str) -> str:
        """What a client of the example sends, with the ids that it really received."""
        for written, real in self.real.items():
            text = text.replace(written, real)
        return text

    def check(self, written: Any, real: Any) -> None:
        assert type(written) is type(real), (written, real)
        match written:
            case dict():
                assert written.keys() == real.keys()
                for name in written:
                    self.check(written[name], real[name])
            case list():
                assert len(written) == len(real)
                for one, other in zip(written, real, strict=True):
                    self.check(one, other)
            case str() if TIME.fullmatch(written):
                assert TIME.fullmatch(real)
            case str() if MADE_BY_THE_SERVER.fullmatch(written):
                assert MADE_BY_THE_SERVER.fullmatch(real)
                assert self.real.setdefault(written, real) == real
            case _:
                assert written == real


async def make_call(service: Service, name: str, call: str) -> Any:
    """The HTTP response to a user of this name."""
    method, path, *body = call.split(maxsplit=2)
    async with httpx.AsyncClient(base_url=f"http://{service.base}", timeout=PATIENCE) as http:
        answer = await http.request(
            method,
            path,
            params={"user_id": name},
            content=body[0] if body else b"",
            headers={"Content-Type": "application/json"},
        )
    return answer.json()


async def play(example: str, service: Service) -> None:
    """Do what the lines say; wait for every answer, and allow no unexpected ones."""
    reading, clients, answers = Reading(), dict[str, Client](), dict[str, Any]()
    async with AsyncExitStack() as stack:
        for line in example.splitlines():
            name, verb, *rest = line.split(maxsplit=2)
            match verb, rest:
                case "connects", [path]:
                    await settle(*clients.values())  # they may be at another replica
                    clients[name] = await stack.enter_async_context(service.connect(path))
                case ">", [text]:
                    await clients[name].send_text(reading.told(text))
                case "<", [text]:
                    reading.check(json.loads(text), await clients[name].receive())
                case "closed", [close]:
                    code, _, reason = close.partition(" ")
                    assert await clients.pop(name).expect_close(int(code), reason) == []
                case "leaves", []:
                    await clients.pop(name).close()
                case "calls", [call]:
                    answers[name] = await make_call(service, name, call)
                case "answer", [text]:
                    reading.check(json.loads(text), answers.pop(name))
                case _:
                    raise AssertionError(f"this line cannot be read: {line}")
        for client in clients.values():
            await client.expect_nothing()


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_documented_example_works(dialect: str, service: Service) -> None:
    (example,) = EXAMPLE.findall(page_of(dialect))
    await play(example, service)


UNLIKE = [
    pytest.param({"room_name": "hall"}, {"room_name": "lobby"}, id="another value"),
    pytest.param({"id": 1}, {"id": True}, id="another type"),
    pytest.param({}, {"id": 1}, id="a field too few"),
    pytest.param({"users": [{"id": 1}, {"id": 2}]}, {"users": [{"id": 1}]}, id="one too many"),
    pytest.param(["2026-11-20T10:46:02.174Z"], ["2026-11-20T10:46:02Z"], id="a time"),
    pytest.param(["client_" + "0" * 32], ["client_7"], id="an id"),
    pytest.param(
        ["client_" + "0" * 32] * 2, ["client_" + "1" * 32, "client_" + "2" * 32], id="ids"
    ),
]


@pytest.mark.parametrize(("written", "real"), UNLIKE)
def test_wrong_line_of_an_example_is_detected(written: Any, real: Any) -> None:
    with pytest.raises(AssertionError):
        Reading().check(written, real)


# The design


def test_modules_named_in_the_design_exist() -> None:
    named = {word for word in words(DESIGN) if re.fullmatch(r"[a-z_/]+\.py", word)}
    assert named
    assert {name for name in named if not (ROOT / "trio_signal" / name).exists()} == set()


def test_code_in_the_design_is_from_the_package() -> None:
    sources = [unindented(path.read_text()) for path in (ROOT / "trio_signal").rglob("*.py")]
    excerpts = re.findall(r"^```python\n(.*?)^```", DESIGN, re.MULTILINE | re.DOTALL)
    assert excerpts
    assert [text for text in excerpts if not any(unindented(text) in s for s in sources)] == []


def unindented(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())


# Limits and metrics


async def rendered_metrics(redis_url: str) -> str:
    """The response of `/metrics` on a replica with Redis."""
    settings = load_settings(redis_url=redis_url)
    async with open_redis_bus(redis_url, "docs") as bus:
        hub = Hub(bus)
        hub.relay_through([MemoryNode(MemoryServer("docs"))], RelayLimits(4, 50, 500))
        return render_metrics(hub, settings, Metrics()).decode()


def kinds_of_metrics(text: str) -> dict[str, str]:
    """The names and kinds in the `# TYPE` lines, without the process metrics."""
    return dict(re.findall(r"(?m)^# TYPE (trio_signal\w+) (\w+)$", text))


async def test_every_metric_is_documented(redis_url: str) -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    reasons = {words(first)[0] for first, _ in rows(section(page, "`trio_signal_refused_total`"))}
    assert reasons == {label_of(reason) for reason in (*Reason, *Refusal)}
    documented = {words(row[0])[0]: row[1:3] for row in rows(page) if "trio_signal" in row[0]}
    text = await rendered_metrics(redis_url)
    assert {name: kind for name, (kind, _) in documented.items()} == kinds_of_metrics(text)
    for name, (_, labels) in documented.items():
        samples = re.findall(rf"(?m)^{name}(?:{{(.*)}})? ", text)
        for told in filter(None, samples):
            assert {*re.findall(r'(\w+)="', told)} == {*words(labels)}
        assert not labels or "" not in samples


OPS = ROOT / "docs" / "ops"


@pytest.mark.parametrize("name", ["alerts.yml", "grafana.json"])
async def test_rules_and_dashboard_use_existing_metrics(name: str, redis_url: str) -> None:
    text = (OPS / name).read_text()
    asked = set(re.findall(r"\btrio_signal_[a-z_]+", text))
    known = kinds_of_metrics(await rendered_metrics(redis_url))
    assert asked
    assert {re.sub("_(bucket|sum|count)$", "", metric) for metric in asked} <= known.keys()
    reasons = {label_of(reason) for reason in (*Reason, *Refusal, *NotResumedReason)}
    for values in re.findall(r'reason=~?"([^"]*)"', text):
        assert set(values.split("|")) <= reasons
    for code in re.findall(r'code="(\d+)"', text):
        assert int(code) in Metrics().closed


def test_runbook_has_every_alert() -> None:
    alerts = re.findall(r"- alert: (\w+)", (OPS / "alerts.yml").read_text())
    sections = re.findall(r"(?m)^## (\w+)$", (OPS / "runbook.md").read_text())
    assert sections == alerts


def test_every_doctor_finding_is_documented() -> None:
    named = [words(first)[0] for first, *_ in rows((OPS / "doctor.md").read_text())]
    assert named == ["settings", *(check.__name__ for check in CHECKS)]


def test_dashboard_panels_do_not_overlap() -> None:
    panels = json.loads((OPS / "grafana.json").read_text())["panels"]
    places = [tuple(panel["gridPos"].values()) for panel in panels]
    assert len(set(places)) == len(places) == len({panel["id"] for panel in panels})


def test_limits_page_names_existing_settings_and_reasons() -> None:
    page = (ROOT / "docs" / "limits.md").read_text()
    reasons = {label_of(reason) for reason in (*Reason, *Refusal)}
    named = [(words(setting), words(last)) for _, setting, _, last in rows(page)]
    assert named
    for variables, labels in named:
        assert {name.lower() for name in variables} <= Settings.model_fields.keys()
        assert {*labels} <= reasons | {"trio_signal_closed_total"}


# The site


def test_every_page_is_in_the_site_navigation() -> None:
    config = (ROOT / "mkdocs.yml").read_text()
    listed = re.findall(r"(?m)^ +- (?:.*: )?(\S+\.md)$", config.partition("\nnav:")[2])
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert pages == {name for name in listed if not name.startswith("reference/")}
    assert len(listed) == len({*listed})


def test_site_has_every_documented_call_and_message() -> None:
    pages = api_pages.generated()
    for path, operations in json.loads(pages["reference/openapi.json"])["paths"].items():
        for method in operations:
            assert f"\n## {method.upper()} {path}\n" in pages["reference/openapi.md"]
    headings = re.findall("(?m)^### (.*)$", pages["reference/asyncapi.md"])
    told = {word for heading in headings for word in words(heading)}
    assert {tag(struct) for name in DIALECTS for struct in DIALECTS[name].reader.structs} <= told
    assert {tag(struct) for name in DIALECTS for struct in outgoing(name) if tag(struct)} <= told


# Words, and code on the pages


def test_pages_avoid_project_jargon(capsys: pytest.CaptureFixture[str]) -> None:
    assert check_words.main(ROOT) == 0, capsys.readouterr().out


def blocks(language: str) -> list[Any]:
    """The code blocks in this language on all pages, as test parameters."""
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [
        pytest.param(code, id=f"{page.relative_to(ROOT)}:{number}")
        for page in PAGES
        for number, code in enumerate(fence.findall(page.read_text()))
    ]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_compile_and_import(code: str) -> None:
    # An excerpt in the design may be the body of a function.
    tree = compile(code, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("trio_signal"):
            module = importlib.import_module(str(node.module))
            assert [each.name for each in node.names if not hasattr(module, each.name)] == []


@pytest.mark.parametrize("code", blocks("json"))
def test_json_blocks_are_valid(code: str) -> None:
    for document in re.split(r"\n(?={)", code.strip()):
        json.loads(document)
