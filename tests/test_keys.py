"""The keys that verify tokens, and key sets at a URL."""

import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.clients import PATIENCE
from tests.tokens import KeyServer, jwk, private_key, private_pem, public_pem, run_key_server
from trio_signal.keys import MAX_KEY_SET, PAUSE, REFRESH, KeySet, read_public_key, secret_key


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_public_key_has_one_algorithm(algorithm: str, tmp_path: Path) -> None:
    pem = public_pem(private_key(algorithm))
    assert read_public_key(pem).algorithm == algorithm
    file = tmp_path / "key.pem"
    file.write_text(pem)
    assert read_public_key(str(file)).material == read_public_key(pem).material


NO_KEYS: list[Callable[[], str]] = [
    lambda: "nonsense",
    lambda: "/",
    lambda: "a\0b",
    lambda: "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    lambda: private_pem(private_key("ES256")),
    lambda: public_pem(ec.generate_private_key(ec.SECP384R1())),
    lambda: public_pem(rsa.generate_private_key(65537, 1024)),
]


@pytest.mark.parametrize("make", NO_KEYS)
def test_invalid_public_key_is_refused(make: Callable[[], str]) -> None:
    text = make()
    with pytest.raises(ValueError, match=r".") as refused:
        read_public_key(text)
    assert all(line not in str(refused.value) for line in text.splitlines() if len(line) > 8)


def test_a_secret_must_be_long_and_is_not_shown() -> None:
    assert secret_key("x" * 32).algorithm == "HS256"
    assert "xxx" not in repr(secret_key("x" * 32))
    with pytest.raises(ValueError, match="32 bytes") as refused:
        secret_key("hunter2")
    assert "hunter2" not in str(refused.value)


# The key set


@asynccontextmanager
async def run_key_set(server: KeyServer) -> AsyncIterator[KeySet]:
    keys = KeySet(server.url)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keys.run)
        yield keys
        nursery.cancel_scope.cancel()


async def found(keys: KeySet, id_: str | None) -> list[str]:
    """The algorithms of the keys found."""
    with trio.fail_after(PATIENCE):
        return [key.algorithm for key in await keys.find(id_)]


@pytest.fixture
def es() -> dict[str, Any]:
    return jwk(private_key("ES256"), "es")


@pytest.fixture
def ed() -> dict[str, Any]:
    return jwk(private_key("EdDSA"), "ed")


async def test_key_is_found_by_its_id(es: dict[str, Any], ed: dict[str, Any]) -> None:
    async with run_key_server(es, ed) as server, run_key_set(server) as keys:
        assert await found(keys, "es") == ["ES256"]
        assert await found(keys, "ed") == ["EdDSA"]
        assert await found(keys, "x") == []
        assert await found(keys, None) == []
    assert server.asked == 1


async def test_single_key_needs_no_id(es: dict[str, Any]) -> None:
    async with run_key_server(es) as server, run_key_set(server) as keys:
        assert await found(keys, None) == ["ES256"]


async def test_unusable_keys_are_skipped(es: dict[str, Any]) -> None:
    others = [
        {"kty": "oct", "k": "c2VjcmV0", "kid": "oct", "alg": "HS256"},
        {"kty": "what", "kid": "what"},
        {"kid": "nothing"},
        {**es, "kid": "enc", "use": "enc"},
        {**es, "kid": "alg", "alg": "ES384"},
        {**es, "kid": "broken", "x": "!"},
        {**es, "kid": 7},
        jwk(rsa.generate_private_key(65537, 1024), "small"),
        jwk(ec.generate_private_key(ec.SECP384R1()), "P-384"),
    ]
    async with run_key_server(*others, es) as server, run_key_set(server) as keys:
        assert await found(keys, None) == ["ES256"]
        for other in others:
            assert await found(keys, str(other["kid"])) == []


async def test_unknown_id_refetches_once_a_minute(
    es: dict[str, Any], ed: dict[str, Any], mock_clock: MockClock
) -> None:
    async with run_key_server(es) as server, run_key_set(server) as keys:
        assert await found(keys, "es") == ["ES256"]
        server.keys.append(ed)
        mock_clock.jump(PAUSE - 1)
        assert await found(keys, "ed") == []
        assert server.asked == 1
        mock_clock.jump(1)
        assert await found(keys, "ed") == ["EdDSA"]
        assert await found(keys, "x") == []
        assert server.asked == 2


async def test_concurrent_lookups_fetch_once(es: dict[str, Any], mock_clock: MockClock) -> None:
    async with run_key_server() as server, run_key_set(server) as keys:
        assert await found(keys, "es") == []
        mock_clock.jump(PAUSE)
        server.keys.append(es)
        server.open = trio.Event()
        answers: list[list[str]] = []

        async def ask(scope: trio.CancelScope) -> None:
            with scope:
                answers.append(await found(keys, "es"))

        async with trio.open_nursery() as nursery:
            scopes = [trio.CancelScope() for _ in range(5)]
            for scope in scopes:
                nursery.start_soon(ask, scope)
            await wait_all_tasks_blocked()
            scopes[0].cancel()  # the first to ask may be cancelled: the others still get the answer
            server.open.set()
        assert answers == [["ES256"]] * 4
        assert server.asked == 2


async def test_keys_are_fetched_again_after_a_while(
    es: dict[str, Any], ed: dict[str, Any], mock_clock: MockClock
) -> None:
    async with run_key_server(es) as server, run_key_set(server) as keys:
        assert await found(keys, "es") == ["ES256"]
        server.keys = [ed]
        mock_clock.jump(REFRESH)
        assert await found(keys, "ed") == ["EdDSA"]
        assert await found(keys, "es") == []  # withdrawn
        assert server.asked == 2


DOWN: list[dict[str, Any]] = [
    {"status": "500 Internal Server Error"},
    {"status": "302 Found"},
    {"body": b"nonsense"},
    {"body": b"[]"},
    {"body": b'{"keys":[]}'},
    {"body": b"[" * 100_000},
    {"body": json.dumps({"keys": [], "x": "x" * MAX_KEY_SET}).encode()},
]


@pytest.mark.parametrize("how", DOWN)
async def test_old_keys_are_kept_while_the_url_fails(
    es: dict[str, Any],
    how: dict[str, Any],
    mock_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    async with run_key_server(es) as server, run_key_set(server) as keys:
        assert await found(keys, "es") == ["ES256"]
        vars(server).update(how)
        for _ in range(2):
            mock_clock.jump(PAUSE)
            assert await found(keys, "x") == []
        assert await found(keys, "es") == ["ES256"]
        assert server.asked == 3
        assert len(caplog.records) == 1  # logged once
        assert server.url not in caplog.text
        vars(server).update(status="200 OK", body=None)
        mock_clock.jump(PAUSE)
        assert await found(keys, "x") == []
        assert "can be read again" in caplog.text


async def test_missing_key_set_is_fetched_later(
    es: dict[str, Any], mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_key_server(es) as server:
        with trio.socket.socket() as probe:
            await probe.bind(("127.0.0.1", 0))  # nothing listens there
            real, server.url = server.url, f"http://127.0.0.1:{probe.getsockname()[1]}"
            async with run_key_set(server) as keys:
                assert await found(keys, "es") == []
                assert "keeping the known keys: ConnectError" in caplog.text
                keys._url = real
                mock_clock.jump(PAUSE)
                assert await found(keys, "es") == ["ES256"]


async def test_unresponsive_url_times_out(
    es: dict[str, Any], mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_key_server(es) as server:
        server.open = trio.Event()
        async with run_key_set(server) as keys, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait() -> None:
                assert await found(keys, "es") == []
                assert "no answer within" in caplog.text

            while not server.asked:
                await trio.lowlevel.checkpoint()
            await wait_all_tasks_blocked()
            mock_clock.jump(5)
