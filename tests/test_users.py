"""The users of the built-in login: their file, their passwords, and password guessing."""

import os
from pathlib import Path
from typing import Any

import argon2
import httpx
import pytest
import trio
import trio.testing

from tests.clients import PATIENCE
from tests.conftest import Serve
from tests.test_auth import identify
from tests.tokens import SECRET, make_token
from trio_signal import users as users_module
from trio_signal.errors import ConfigError, LoginError
from trio_signal.messages.identity import Grants
from trio_signal.users import (
    FREE_FAILURES,
    LONGEST_WAIT,
    MAX_NAMES,
    Failures,
    Login,
    Turns,
    User,
    hash_password,
    is_user_id,
    read_users,
    write_users,
)

ANN = User(hash_password("correct horse"), "Ann", Grants(("a-*",), creator=True))
BOB = User(hash_password("battery staple"))
FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with two users."""
    path = tmp_path / "users.json"
    write_users(path, {"ann": ANN, "bob": BOB})
    return path


# The file


def test_written_users_are_read(path: Path) -> None:
    assert read_users(path) == {"ann": ANN, "bob": BOB}
    write_users(path, {"bob": BOB})
    assert read_users(path) == {"bob": BOB}
    assert [file.name for file in path.parent.iterdir()] == ["users.json"]


def test_users_file_is_private_to_its_owner(path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    write_users(path, {})
    assert path.stat().st_mode & 0o777 == 0o600


def test_missing_file_has_no_users(tmp_path: Path) -> None:
    assert read_users(tmp_path / "users.json") == {}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"users":[]}', '{"users":{"ann":{}}}', "[" * 9999]
)
def test_error_names_an_invalid_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "users.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"users\.json"):
        read_users(path)


def test_failed_write_keeps_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigError, match="No space left"):
        write_users(path, {})
    assert read_users(path) == {"ann": ANN, "bob": BOB}
    assert [file.name for file in path.parent.iterdir()] == ["users.json"]


def test_error_names_an_impossible_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        write_users(tmp_path / "nowhere" / "users.json", {})
    with pytest.raises(ConfigError, match="Is a directory"):
        read_users(tmp_path)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        *(("ann", True), ("ann@example.com", True), ("Ann Lee", True), ("x" * 256, True)),
        *(("", False), (" ann", False), ("a\nb", False), ("a\u202eb", False)),
        ("x" * 257, False),
    ],
)
def test_valid_user_ids(text: str, good: bool) -> None:
    assert is_user_id(text) is good


# Passwords


async def logs_in(login: Login, user_id: str, password: str) -> User | None:
    try:
        with trio.fail_after(3 * PATIENCE):
            return await login.check(user_id, password)
    except LoginError as error:
        refusal = error
    assert refusal.wait == 0
    return None


async def test_only_the_right_password_logs_in(path: Path) -> None:
    login = Login(path)
    assert await logs_in(login, "ann", "correct horse") == ANN
    assert await logs_in(login, "bob", "battery staple") == BOB
    for user_id, password in (
        ("ann", "battery staple"),
        ("ann", ""),
        ("ann", ANN.password_hash),
        ("bob", "correct horse"),
        ("nobody", "correct horse"),
        ("", ""),
        ("bob", "\ud800"),
    ):
        assert await logs_in(login, user_id, password) is None


def test_a_hash_is_argon2id_with_a_salt() -> None:
    one, two = hash_password("x"), hash_password("x")
    assert one != two
    assert one.startswith("$argon2id$")


def test_unknown_user_costs_as_much_as_a_known_one(path: Path) -> None:
    """Compares no timing: the same work is done, with the same parameters."""
    parameters = argon2.extract_parameters(ANN.password_hash)
    assert argon2.extract_parameters(users_module._NOBODY) == parameters
    worked: list[str] = []

    class Hasher(argon2.PasswordHasher):
        def verify(self, hash: str | bytes, password: str | bytes) -> Any:  # noqa: A002
            worked.append(str(hash))
            return super().verify(hash, password)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(users_module, "_hasher", Hasher.from_parameters(parameters))
        assert Login(path)._verify("nobody", "x") is None
        assert Login(path)._verify("ann", "x") is None
    assert worked == [users_module._NOBODY, ANN.password_hash]


async def test_broken_hash_refuses_every_login(path: Path) -> None:
    write_users(path, {"ann": User("correct horse"), "bob": User("")})
    login = Login(path)
    assert await logs_in(login, "ann", "correct horse") is None
    assert await logs_in(login, "bob", "") is None


async def test_changed_file_is_read_again(path: Path) -> None:
    login = Login(path)
    assert await logs_in(login, "bob", "battery staple") == BOB
    write_users(path, {"ann": ANN})
    assert await logs_in(login, "bob", "battery staple") is None
    assert await logs_in(login, "ann", "correct horse") == ANN
    await trio.Path(path).unlink()
    assert await logs_in(login, "ann", "correct horse") is None


# Guessing


def test_wait_grows_with_failures_up_to_a_limit() -> None:
    failures, now = Failures(), 100.0
    waits = []
    for _ in range(FREE_FAILURES + 20):
        assert failures.wait("ann", now) == 0
        failures.count("ann", now)
        waits.append(failures.wait("ann", now))
        now += waits[-1]
    first = FREE_FAILURES - 1
    assert waits[: first + 6] == [0.0] * first + [1.0, 2.0, 4.0, 8.0, 16.0, LONGEST_WAIT]
    assert set(waits[first + 6 :]) == {LONGEST_WAIT}
    assert failures.wait("bob", now) == 0


def test_success_resets_the_failures() -> None:
    failures = Failures()
    for _ in range(FREE_FAILURES):
        failures.count("ann", 0)
    assert failures.wait("ann", 0) == 1
    failures.forgive("ann")
    assert failures.wait("ann", 0) == 0
    failures.forgive("nobody")


def test_number_of_remembered_names_is_bounded() -> None:
    failures = Failures()
    for _ in range(FREE_FAILURES):
        failures.count("ann", 0)
    for number in range(MAX_NAMES - 1):
        failures.count(f"x{number}", 0)
    assert failures.wait("ann", 0) == 1
    failures.count("one too many", 0)
    assert failures.wait("ann", 0) == 0


def test_names_are_stored_as_digests() -> None:
    failures = Failures()
    failures.count("x" * 60_000, 0)
    failures.count("\ud800", 0)
    assert {len(key) for key in failures._names} == {32}


async def test_concurrent_guesses_are_all_counted(path: Path) -> None:
    """They are counted when they arrive, not only when they have failed."""
    login, waits = Login(path), []

    async def guess() -> None:
        try:
            await login.check("ann", "x")
        except LoginError as error:
            waits.append(error.wait)

    with trio.fail_after(3 * PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(guess)
    assert sum(wait == 0 for wait in waits) == FREE_FAILURES
    assert len(waits) == 20


async def test_number_of_waiting_logins_is_limited(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users_module, "MAX_WAITING", 1)
    login, waits = Login(path), []

    async def guess(name: str) -> None:
        try:
            await login.check(name, "x")
        except LoginError as error:
            waits.append(error.wait)

    with trio.fail_after(3 * PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(guess, f"x{number}")
    assert sum(wait == 0 for wait in waits) == 3  # two are checked at a time, and one waits


# By HTTP


def browse(base: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=f"http://{base}", timeout=3 * PATIENCE)


async def test_login_returns_a_valid_token(serve: Serve, path: Path) -> None:
    given = {"jwt_secret": SECRET, "users_file": path, "jwt_issuer": "us", "jwt_audience": "here"}
    async with serve(**given) as service, browse(service.base) as http:
        body = {"username": "ann", "password": "correct horse"}
        for sent in ({"json": body}, {"data": body}):
            answer = await http.post("/auth/login", **sent)  # type: ignore[arg-type]
            assert answer.status_code == 200
            assert answer.headers["cache-control"] == "no-store"
            logged_in = answer.json()
            token = logged_in["access_token"]
            assert logged_in == {
                "access_token": token,
                "token_type": "bearer",
                "token": token,
                "user": {"user_id": "ann", "username": "Ann"},
            }
        me = await http.get("/auth/me", headers={"Authorization": f"Bearer {token}"})
        assert me.json() == {"user_id": "ann", "username": "Ann"}
        assert (await http.get("/auth/mode")).json() == {"token": True, "login": True}
        async with service.connect(f"/ws/a-1/ann?token={token}") as ann:
            await ann.expect("room_state")
        async with service.connect(f"/ws/b/ann?token={token}") as ann:
            await ann.expect_close(4004, "Not allowed in this room")
    identity = await identify(token, jwt_secret=SECRET, jwt_issuer="us", jwt_audience="here")
    assert identity.grants == ANN.grants


async def test_username_defaults_to_the_login_name(serve: Serve, path: Path) -> None:
    async with serve(jwt_secret=SECRET, users_file=path) as service, browse(service.base) as http:
        body = {"username": "bob", "password": "battery staple"}
        logged_in = (await http.post("/auth/token", data=body)).json()
        assert logged_in["user"] == {"user_id": "bob", "username": "bob"}
        token = logged_in["access_token"]
        async with service.connect("/ws/r") as bob:
            await bob.expect("auth_required")
            await bob.send("auth_token", token=token)
            await bob.expect("auth_success", user="bob", user_id="bob")
        async with service.connect(f"/api/v1/ws/connect?token={token}") as bob:
            await bob.expect("connected", username="bob", user_id="bob")


async def test_wrong_login_is_401_and_too_many_are_429(
    serve: Serve, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_WAIT", "LONGEST_WAIT"):  # longer than a check takes on any machine
        monkeypatch.setattr(users_module, name, 60.0)
    async with (
        serve(jwt_secret=SECRET, users_file=path) as service,
        browse(service.base) as http,
    ):
        for name in ("ann", "nobody"):
            wrong = {"username": name, "password": "x"}
            for _ in range(FREE_FAILURES):
                answer = await http.post("/auth/login", json=wrong)
                assert (answer.status_code, answer.json()) == (
                    401,
                    {"detail": "Incorrect username or password"},
                )
            answer = await http.post("/auth/login", json={**wrong, "password": "correct horse"})
            assert (answer.status_code, answer.json()) == (
                429,
                {"detail": "Too many failed logins"},
            )
            assert 0 < int(answer.headers["retry-after"]) <= 60
        answer = await http.post(
            "/auth/login", json={"username": "bob", "password": "battery staple"}
        )
        assert answer.json()["user"] == {"user_id": "bob", "username": "bob"}


async def log_in(
    http: httpx.AsyncClient, name: str, password: str, address: str = "192.0.2.1"
) -> httpx.Response:
    """Log in from this address, as reported by the proxy."""
    body = {"username": name, "password": password}
    headers = {"X-Forwarded-For": address}
    return await http.post("/auth/login", json=body, headers=headers)


async def test_polling_one_user_does_not_lock_it_out_elsewhere(
    serve: Serve, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIRST_WAIT", "LONGEST_WAIT"):
        monkeypatch.setattr(users_module, name, 60.0)
    given = {"jwt_secret": SECRET, "users_file": path, "trusted_proxies": 1}
    async with serve(auth_failures_per_ip=8, **given) as service, browse(service.base) as http:
        answers = [await log_in(http, "ann", "x") for _ in range(10)]
        said = [(answer.status_code, answer.json()["detail"]) for answer in answers]
        assert said == [
            *[(401, "Incorrect username or password")] * FREE_FAILURES,
            *[(429, "Too many failed logins")] * 3,
            *[(429, "Your address failed to authenticate too often.")] * 2,
        ]
        assert (await log_in(http, "ann", "correct horse", "192.0.2.2")).status_code == 200


async def test_many_logins_of_one_user_do_not_block_others(serve: Serve, path: Path) -> None:
    given = {"jwt_secret": SECRET, "users_file": path, "trusted_proxies": 1}
    answers: list[int] = []
    async with serve(**given) as service, browse(service.base) as http:

        async def ann() -> None:
            answers.append((await log_in(http, "ann", "correct horse")).status_code)

        with trio.fail_after(3 * PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(60):
                    nursery.start_soon(ann)
                await trio.testing.wait_all_tasks_blocked()
                async with browse(service.base) as another:
                    for address in ("192.0.2.1", "192.0.2.2"):
                        answer = await log_in(another, "bob", "battery staple", address)
                        assert answer.status_code == 200
    assert answers == [200] * 60


async def test_flooding_the_queue_gets_503(
    serve: Serve, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users_module, "MAX_WAITING", 3)
    given = {"jwt_secret": SECRET, "users_file": path, "trusted_proxies": 1}
    async with serve(**given) as service, browse(service.base) as http:
        answers: list[httpx.Response] = []

        async def ann() -> None:
            answers.append(await log_in(http, "ann", "correct horse"))

        with trio.fail_after(3 * PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(ann)
                async with browse(service.base) as another:
                    answer = await log_in(another, "bob", "battery staple", "192.0.2.2")
                    assert answer.status_code == 200
    busy = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(busy) < 20
    for answer in busy:
        assert (answer.status_code, answer.json()) == (503, {"detail": "Too many logins at once"})
        assert int(answer.headers["retry-after"]) == 1


async def test_addresses_take_turns() -> None:
    turns, begun, gate = Turns(), list[str](), trio.Event()

    async def wait(address: str, name: str) -> None:
        async with turns.take(address, name):
            begun.append(address)
            await gate.wait()

    rounds = []
    async with trio.open_nursery() as nursery:
        for address, times in (("1", 5), ("2", 3), ("3", 3)):
            for number in range(times):
                nursery.start_soon(wait, address, f"{address}-{number}")
            await trio.testing.wait_all_tasks_blocked()
        while begun:
            rounds.append("".join(sorted(begun)))
            begun.clear()
            old, gate = gate, trio.Event()
            old.set()
            await trio.testing.wait_all_tasks_blocked()
    assert rounds == ["112", "123", "123", "13"]


async def test_one_name_is_checked_at_most_twice_at_a_time() -> None:
    turns, begun, gate = Turns(), list[str](), trio.Event()

    async def wait(address: str, name: str) -> None:
        async with turns.take(address, name):
            begun.append(name)
            await gate.wait()

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(wait, str(number), "ann")
        await trio.testing.wait_all_tasks_blocked()
        assert begun == ["ann", "ann"]
        nursery.start_soon(wait, "another", "bob")
        await trio.testing.wait_all_tasks_blocked()
        assert begun == ["ann", "ann", "bob"]
        nursery.cancel_scope.cancel()
    assert not turns._queues
    assert not turns._running


async def test_guessing_address_is_refused(serve: Serve, path: Path) -> None:
    """Whether it tries many names or many tokens; even if it has the right password by then."""
    given = {"jwt_secret": SECRET, "users_file": path, "auth_failures_per_ip": 4}
    right = {"username": "ann", "password": "correct horse"}
    async with serve(**given) as service, browse(service.base) as http:
        for number in range(2):
            wrong = {"username": f"x{number}", "password": "x"}
            assert (await http.post("/auth/login", json=wrong)).status_code == 401
            bad = {"Authorization": "Bearer x"}
            assert (await http.get("/auth/me", headers=bad)).status_code == 401
        for answer in (
            await http.post("/auth/login", json=right),
            await http.get("/auth/me", headers=bad),
        ):
            assert (answer.status_code, answer.json()) == (
                429,
                {"detail": "Your address failed to authenticate too often."},
            )
            assert 0 < int(answer.headers["retry-after"]) <= 300
        assert (await http.get("/auth/me")).status_code == 401  # a request without credentials
        assert (await http.get("/healthz")).status_code == 200


async def test_token_can_be_refreshed_while_its_user_exists(serve: Serve, path: Path) -> None:
    form = {"username": "ann", "password": "correct horse"}
    async with (
        serve(jwt_secret=SECRET, users_file=path) as service,
        httpx.AsyncClient(base_url=f"http://{service.base}") as http,
    ):

        async def refresh(token: str | None) -> httpx.Response:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return await http.post("/auth/refresh", headers=headers)

        first = (await http.post("/auth/token", data=form)).json()
        answer = await refresh(first["token"])
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "no-store"
        second = answer.json()
        assert (second["user"], second.keys()) == (first["user"], first.keys())
        identity = await identify(second["token"], jwt_secret=SECRET)
        assert (identity.user_id, identity.username, identity.grants) == ("ann", "Ann", ANN.grants)
        for token in (None, "x", make_token("nobody"), make_token("bob", iss="elsewhere")):
            assert (await refresh(token)).status_code == 401
        # Refreshing does not turn a narrower token into a wider one, nor one with more than is
        # granted now.
        for token in (make_token("ann", rooms=["a-1"]), make_token("ann", rooms=["*"])):
            answer = await refresh(token)
            assert (answer.status_code, answer.json()) == (401, {"detail": "Log in again"})
        write_users(path, {"ann": User(ANN.password_hash, "Ann", Grants(("a-1",))), "bob": BOB})
        assert (await refresh(second["token"])).status_code == 401
        write_users(path, {"bob": BOB})
        assert (await refresh(second["token"])).status_code == 401
        assert (await refresh(make_token("bob"))).status_code == 200
        answer = await http.post("/auth/logout")
        assert (answer.status_code, answer.json()) == (200, {"message": "Logged out"})


async def test_open_mode_accepts_any_password_and_refreshes(serve: Serve) -> None:
    async with (
        serve() as service,
        httpx.AsyncClient(base_url=f"http://{service.base}") as http,
    ):
        first = await http.post("/auth/token", data={"username": "ann", "password": "x"})
        headers = {"Authorization": f"Bearer {first.json()['token']}"}
        second = await http.post("/auth/refresh", headers=headers)
        assert second.json() == first.json()
        assert (await http.get("/auth/me", headers=headers)).json()["user_id"] == "ann"
        assert (await http.post("/auth/refresh")).status_code == 401
        assert (await http.post("/auth/logout")).json() == {"message": "Logged out"}


@pytest.mark.parametrize("type_", ["text/plain;charset=UTF-8", FORM, "", "application/JSON"])
@pytest.mark.parametrize("call", ["login", "token"])
async def test_login_reads_json_whatever_its_content_type(
    serve: Serve, call: str, type_: str
) -> None:
    """As all other calls do: `fetch` and curl send another one unless they are told."""
    async with (
        serve() as service,
        httpx.AsyncClient(base_url=f"http://{service.base}") as http,
    ):
        body = b' {"username":"ann","password":"x&password=y"}'
        headers = {"Content-Type": type_} if type_ else {}
        answer = await http.post(f"/auth/{call}", content=body, headers=headers)
        assert answer.json()["user"] == {"user_id": "ann", "username": "ann"}


@pytest.mark.parametrize("sent", [{}, {"files": {"x": b""}}], ids=["form", "multipart"])
async def test_login_reads_forms(serve: Serve, sent: dict[str, Any]) -> None:
    async with (
        serve() as service,
        httpx.AsyncClient(base_url=f"http://{service.base}") as http,
    ):
        form = {"username": "ann", "password": "x"}
        answer = await http.post("/auth/login", data=form, **sent)
        assert answer.json()["user"] == {"user_id": "ann", "username": "ann"}
        answer = await http.post("/auth/login", data={"username": "ann"}, **sent)
        assert answer.status_code == 422


async def test_no_login_without_a_users_file(serve: Serve) -> None:
    async with serve(jwt_secret=SECRET) as service, browse(service.base) as http:
        token = make_token("ann")
        headers = {"Authorization": f"Bearer {token}"}
        for call in ("token", "refresh", "logout"):
            form = {"username": "ann", "password": "x"}
            answer = await http.post(f"/auth/{call}", data=form, headers=headers)
            assert answer.status_code == 404
        answer = await http.post("/auth/login", json={"username": "ann", "password": "x"})
        assert answer.status_code == 404
        assert (await http.get("/auth/mode")).json() == {"token": True, "login": False}


async def test_broken_users_file_is_a_server_error(
    serve: Serve, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        serve(jwt_secret=SECRET, users_file=path) as service,
        browse(service.base) as http,
    ):
        await trio.Path(path).write_text('{"users": 5}')
        body = {"username": "ann", "password": "correct horse"}
        assert (await http.post("/auth/login", json=body)).status_code == 500
        assert "correct horse" not in caplog.text
        write_users(path, {"ann": ANN})
        assert (await http.post("/auth/login", json=body)).status_code == 200
