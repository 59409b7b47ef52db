"""The OpenAPI document covers every route, and the server behaves as documented."""

import subprocess
import sys
from pathlib import Path

import httpx
import trio
from quart_trio import QuartTrio

from tests.conftest import Serve
from trio_signal.announcements import Announcements
from trio_signal.auth import OpenAuth
from trio_signal.bus.memory import MemoryBus
from trio_signal.dialects import DIALECTS
from trio_signal.environment import load_settings
from trio_signal.hub import Hub
from trio_signal.limits import Limits
from trio_signal.metrics import Metrics
from trio_signal.store import Store
from trio_signal.web.app import create_app
from trio_signal.web.backend import ROUTES
from trio_signal.web.openapi import NOT_DESCRIBED, make_document

#: The secret of an API key.
KEY = "the-secret-of-a-backend-has-48-bytes-or-more-since-HS384-wants-them"
#: Time limit, in seconds, for some hundred requests.
PATIENCE = 120.0
EXAMPLES = 8


def test_document_covers_exactly_the_routes() -> None:
    settings = load_settings(api_keys=f"backend:{KEY}")
    announcements = Announcements(Store(settings.database_url.get_secret_value()), None)
    hub = Hub(MemoryBus("docs"), announcements=announcements)
    app = create_app(hub, OpenAuth(), settings, Limits(settings), Metrics())
    routes = [route for dialect in DIALECTS.values() for route in dialect.routes()]
    described = {
        f"{method.upper()} {path}"
        for path, operations in make_document([*routes, *ROUTES])["paths"].items()
        for method in operations
    }
    assert {call for call in calls_of(app) if call.split(" ")[1] not in NOT_DESCRIBED} == described
    assert {call.split(" ")[1] for call in calls_of(app)} >= NOT_DESCRIBED


def calls_of(app: QuartTrio) -> set[str]:
    """The calls that the app answers, written as in the document."""
    return {
        f"{method} {rule.rule.replace('<path:', '{').replace('<', '{').replace('>', '}')}"
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }


async def test_disabled_dialect_has_no_routes(serve: Serve) -> None:
    async with serve(dialects="mesh,live") as service, httpx.AsyncClient() as http:
        base = f"http://{service.base}"
        document = (await http.get(f"{base}/openapi.json")).json()
        assert {"/api/rooms", "/api/v1/ws/stats", "/auth/me"} <= document["paths"].keys()
        assert not {"/users", "/api/creator/broadcast"} & document["paths"].keys()
        for path in ("/rooms/r", "/users/ann", "/api/creator/broadcast/active"):
            assert (await http.get(base + path)).status_code == 404
        # Routes shared with an enabled dialect remain.
        assert document["paths"]["/rooms"].keys() == {"get"}
        for path in ("/rooms", "/api/rooms"):
            assert (await http.get(base + path)).json() == []


async def test_document_is_complete(serve: Serve) -> None:
    async with serve() as service, httpx.AsyncClient() as http:
        document = (await http.get(f"http://{service.base}/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert schemas["BroadcastRequest"]["properties"]["message"] == {"type": "string", "default": ""}
    assert document["paths"]["/rooms/{room_id}"]["get"]["parameters"][0]["name"] == "room_id"
    text = str(document)
    assert all(f"#/components/schemas/{name}" in text for name in schemas)


async def test_server_matches_the_document(serve: Serve, tmp_path: Path) -> None:
    """Schemathesis: for any request, status, type and body match the document.

    It does not know rules for valid requests that JSON Schema cannot express, and treats a
    documented 503 as an error.
    """
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", "--no-color"),
        *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
        *("--exclude-path", "/auth/turn-credentials", "--exclude-path-regex", "^/whip/"),
        *("--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES)),
        "--generation-deterministic",
    ]
    async with serve() as service:
        with trio.fail_after(PATIENCE):
            ended = await trio.run_process(
                [*command, f"http://{service.base}/openapi.json"],
                cwd=tmp_path,
                check=False,
                capture_stdout=True,
                stderr=subprocess.STDOUT,
            )
    assert ended.returncode == 0, ended.stdout.decode()
