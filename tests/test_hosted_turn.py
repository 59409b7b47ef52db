"""TURN credentials issued by Cloudflare: fetched ahead, kept while the service is away."""

import itertools
import logging
import re
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests.clients import PATIENCE
from tests.cloudflare import ISSUED, KEY, SECRET, Api, Asked, Reply, open_api
from tests.conftest import Serve, settings
from tests.test_metrics import read_metrics
from tests.tokens import SECRET as JWT_SECRET
from tests.tokens import make_token
from trio_signal import cloudflare
from trio_signal.cloudflare import CloudflareError
from trio_signal.config import hosted_turn_key
from trio_signal.errors import SettingError
from trio_signal.metrics import Metrics
from trio_signal.turn import LONGEST, HostedTurn, read_issued

GIVEN = {"turn_urls": f"cloudflare:{KEY}", "turn_secret": SECRET}
STUN = {"urls": ["stun:stun.cloudflare.com:3478"]}
#: Without the port that browsers refuse.
URLS = [
    "turn:turn.cloudflare.com:3478?transport=udp",
    "turns:turn.cloudflare.com:443?transport=tcp",
]
TURN = {"urls": URLS, "username": "bc91", "credential": "ebd7"}


@pytest.fixture
async def api(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    async with open_api() as api:
        api.answer = api.issue
        monkeypatch.setattr(cloudflare, "BASE_URL", api.url)
        yield api


async def test_clients_get_issued_credentials(serve: Serve, api: Api) -> None:
    async with (
        serve(jwt_secret=JWT_SECRET, stun_urls="stun:s.example.com", **GIVEN) as service,
        httpx.AsyncClient(base_url=f"http://{service.base}") as http,
    ):
        async with service.connect("/ws/r") as ann:
            await ann.expect("auth_required")
            await ann.send("auth_token", token=make_token("ann"))
            given = (await ann.expect("auth_success"))["ice_servers"]
        assert given == [{"urls": ["stun:s.example.com"]}, STUN, TURN]
        http.headers["Authorization"] = f"Bearer {make_token('ann')}"
        servers = (await http.get("/ice-servers")).json()
        assert servers["iceServers"] == given
        credentials = (await http.get("/auth/turn-credentials")).json()
        assert 172_700 < servers["ttl"] <= credentials.pop("ttl") <= LONGEST
        assert credentials == TURN
        assert (await http.get("/readyz")).json() == {"status": "ready"}
        metrics = await read_metrics(service)
    assert metrics["trio_signal_turn_credentials_seconds"] > 172_000
    # Only the server asked, and each replica once.
    replicas = len(service.bases)
    assert len(api.asked) == replicas
    assert [asked.body for asked in api.asked] == [{"ttl": LONGEST}] * replicas


async def test_clients_do_not_wait_for_a_silent_service(serve: Serve, api: Api) -> None:
    async def say_nothing(asked: Asked) -> Reply:
        await trio.sleep_forever()
        raise AssertionError(asked)

    api.answer = say_nothing
    async with (
        serve(**GIVEN) as service,
        httpx.AsyncClient(base_url=f"http://{service.base}") as http,
    ):
        with trio.fail_after(PATIENCE):
            async with service.connect("/ws/r") as ann:
                await ann.expect("auth_required")
                await ann.send("auth_token", clientId="ann")
                assert (await ann.expect("auth_success"))["ice_servers"] == []
        assert (await http.get("/ice-servers")).json()["iceServers"] == []
        assert (await http.get("/auth/turn-credentials?user_id=ann")).status_code == 503


async def test_credentials_are_kept_until_they_expire(
    api: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(trio, "current_time", lambda: clock[0])
    metrics = Metrics()
    turn = HostedTurn(KEY, SECRET, 600, metrics, api.url)
    assert (turn.issued, turn.degraded) == (None, None)
    assert await turn.refresh()
    assert api.asked[-1].body == {"ttl": 1200}
    assert turn.seconds_left == 1200
    first = turn.issued

    async def fail(asked: Asked) -> Reply:
        await trio.lowlevel.checkpoint()
        return 503, {"errorCode": "temporarily_unavailable_error", "errorDescription": "Later"}

    api.answer = fail
    for clock[0] in (1600.0, 1610.0):
        assert not await turn.refresh()
        assert turn.issued == first
    assert turn.degraded == (
        "Cloudflare's TURN service: refuses (503, temporarily_unavailable_error: Later)"
    )
    assert caplog.text.count("cannot get TURN credentials") == 1
    clock[0] = 2201.0
    assert turn.issued is None
    assert turn.seconds_left == 0
    api.answer = api.issue
    assert await turn.refresh()
    assert turn.seconds_left == 1200
    assert metrics.turn_credentials == {"issued": 2, "failed": 2}


async def test_credentials_are_renewed_at_half_their_lifetime(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = HostedTurn(KEY, SECRET, 600, Metrics())
    attempts: list[float] = []
    began = trio.current_time()

    async def refresh() -> bool:
        await trio.lowlevel.checkpoint()
        attempts.append(trio.current_time() - began)
        if len(attempts) == 11:
            scope.cancel()
        return len(attempts) > 8

    monkeypatch.setattr(turn, "refresh", refresh)
    with trio.CancelScope() as scope:
        await turn.run()
    pauses = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 600, 600])


BAD: list[tuple[Reply | bytes, str]] = [
    ((401, {"errorCode": "unauthorized"}), r"refuses the secret \(401, unauthorized\)"),
    ((404, None), r"refuses \(404\)"),
    ((500, {"errorDescription": "a\nb" + "x" * 500}), r"refuses \(500, a b" + "x" * 197 + r"\)"),
    ((302, None), r"refuses \(302\)"),
    (b"<html>", "an answer that cannot be read"),
    (b'{"iceServers": [{"urls": 5}]}', "an answer that cannot be read"),
    (b'{"new": ' + b"[" * 100_000, "an answer that cannot be read"),
    (b'{"iceServers": []}', "an answer without credentials"),
    (msgspec.json.encode({"iceServers": ISSUED["iceServers"][:1]}), "without credentials"),
    (b" " * 300_000, "an answer is longer than 262144 bytes"),
]


@pytest.mark.parametrize(("reply", "problem"), BAD)
async def test_unusable_answer_changes_nothing(
    reply: Reply | bytes, problem: str, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trio_signal")
    turn = HostedTurn(KEY, SECRET, 600, Metrics(), api.url)

    async def fault(asked: Asked) -> Reply | bytes | None:
        await trio.lowlevel.checkpoint()
        return reply

    api.fault = fault
    assert not await turn.refresh()
    assert turn.issued is None
    assert re.search(problem, turn.degraded or "")
    assert SECRET not in caplog.text + (turn.degraded or "")


async def test_unreachable_service_is_reported(api: Api) -> None:
    turn = HostedTurn(KEY, SECRET, 600, Metrics(), "http://127.0.0.1:1/v1")
    assert not await turn.refresh()
    assert turn.degraded == "Cloudflare's TURN service: cannot be reached (ConnectError)"


def test_urls_may_be_a_single_string() -> None:
    given = b'{"iceServers": [{"urls": "turn:t", "username": "u", "credential": "c"}]}'
    issued = read_issued(given, 5.0)
    assert (issued.urls, issued.username, issued.credential, issued.until) == (
        ("turn:t",),
        "u",
        "c",
        5.0,
    )
    with pytest.raises(CloudflareError):
        read_issued(b"", 5.0)


@pytest.mark.parametrize("urls", ["cloudflare:", "cloudflare:a/b", f"cloudflare:{KEY},turn:t"])
def test_setting_takes_exactly_one_key(urls: str) -> None:
    with pytest.raises(SettingError, match=r"TRIO_SIGNAL_TURN_URLS.*cloudflare:KEY_ID"):
        settings(turn_urls=urls, turn_secret=SECRET)


def test_key_is_read_from_the_setting() -> None:
    assert hosted_turn_key(settings(**GIVEN)) == KEY
    assert hosted_turn_key(settings(turn_urls="turn:t", turn_secret="x")) is None
